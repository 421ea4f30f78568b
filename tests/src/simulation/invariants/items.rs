//! 4: each item of a map gets its result once; what comes later changes nothing, and nothing with a
//! result is handed out again.

use super::super::counters::{Counters, Sometimes};
use super::super::trace::of_bytes;
use super::{Checked, Violation};
use evoring_coordinator::state::{Applied, Command, Effect, ItemState, State};
use evoring_protocol::worker::WorkerCommand;
use evoring_protocol::{DemandId, ItemIndex, JobId};
use std::collections::BTreeMap;

const NAME: &str = "items";

type Item = (JobId, DemandId, ItemIndex);

/// Results, as they were first.
#[derive(Debug, Default)]
pub(in super::super) struct Items {
    recorded: BTreeMap<Item, Option<u64>>,
}

fn result(state: &State, (job, demand, item): Item) -> Option<u64> {
    let map = state.demand(job, demand)?.map()?;
    match map.states.get(item.0 as usize)? {
        ItemState::Done(result) => Some(of_bytes(result)),
        _ => None,
    }
}

impl Items {
    /// An entry was applied for the first time; `state` is after it.
    pub(super) fn applied(
        &mut self,
        commands: &[Command],
        applied: &Applied,
        state: &State,
        counters: &mut Counters,
    ) -> Checked {
        for command in commands {
            let Command::Record {
                job,
                demand,
                outcomes,
            } = command
            else {
                continue;
            };
            for report in outcomes {
                // The scheduler's own words: the log has no other sign of it.
                if matches!(&report.outcome, Err(error) if error.message.contains("expired after"))
                {
                    counters.hit(Sometimes::LeaseExpired);
                }
                let item = (*job, *demand, report.index);
                let Some(known) = self.recorded.get(&item) else {
                    continue;
                };
                counters.hit(Sometimes::DuplicateReport);
                let now = result(state, item);
                if known.is_some() && now.is_some() && *known != now {
                    let what = format!("item {item:?} has another result than at first");
                    return Err(Violation::new(NAME, what));
                }
            }
        }
        for effect in &applied.effects {
            if matches!(effect, Effect::ItemsRetried { .. }) {
                counters.hit(Sometimes::ItemRetried);
            }
            let Effect::ItemsRecorded { job, demand, items } = effect else {
                continue;
            };
            for index in items {
                let item = (*job, *demand, *index);
                let now = result(state, item);
                if self.recorded.insert(item, now).is_some() {
                    let what = format!("item {item:?} was recorded twice");
                    return Err(Violation::new(NAME, what));
                }
            }
        }
        Ok(())
    }

    /// A coordinator with this state hands something out.
    pub(super) fn commands(&self, command: &WorkerCommand, state: &State) -> Checked {
        let WorkerCommand::Grant { lease, .. } = command else {
            return Ok(());
        };
        for item in &lease.items {
            let known = self.recorded.get(&(lease.job, lease.demand, item.index));
            let open = state
                .demand(lease.job, lease.demand)
                .and_then(|demand| demand.map()?.attempt(item.index));
            if known.is_some() && open.is_none() {
                let what = format!(
                    "item {} of job {} is granted in term {} although it has its result",
                    item.index, lease.job, lease.term
                );
                return Err(Violation::new(NAME, what));
            }
        }
        Ok(())
    }
}
