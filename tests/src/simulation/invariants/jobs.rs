//! 3: an acknowledged job exists for ever, in one state; one key is one job, and its end is final.

use super::super::counters::{Counters, Sometimes};
use super::super::made_up::submission_key;
use super::{Checked, Violation};
use evoring_coordinator::state::{Phase, State};
use evoring_protocol::JobId;
use std::collections::BTreeMap;

const NAME: &str = "jobs";

/// Jobs that clients were told of, and how they ended.
#[derive(Debug, Default)]
pub(in super::super) struct Jobs {
    acknowledged: BTreeMap<u64, JobId>,
    ended: BTreeMap<JobId, &'static str>,
}

fn end_of(phase: &Phase) -> Option<&'static str> {
    match phase {
        Phase::Active(_) => None,
        Phase::Finished { .. } => Some("finished"),
        Phase::Failed { .. } => Some("failed"),
        Phase::Cancelled => Some("cancelled"),
    }
}

impl Jobs {
    pub(in super::super) fn acknowledged(&mut self, key: u64, job: JobId) -> Checked {
        let known = *self.acknowledged.entry(key).or_insert(job);
        if known == job {
            return Ok(());
        }
        let what = format!("key {key} is job {known}, and now job {job}");
        Err(Violation::new(NAME, what))
    }

    /// The committed state has changed.
    pub(super) fn changed(&mut self, state: &State, counters: &mut Counters) -> Checked {
        for (key, job) in &self.acknowledged {
            let found = state.submission(&submission_key(*key));
            if found != Some(*job) || !state.jobs().contains_key(job) {
                let what = format!("key {key} was acknowledged as job {job}; it is {found:?} now");
                return Err(Violation::new(NAME, what));
            }
        }
        for (id, job) in state.jobs() {
            let end = end_of(&job.phase);
            match (self.ended.get(id), end) {
                (None, Some(end)) => {
                    self.ended.insert(*id, end);
                    if end == "finished" {
                        counters.hit(Sometimes::JobFinished);
                    }
                }
                (Some(known), end) if Some(*known) != end => {
                    let what = format!("job {id} had {known}, now it is {end:?}");
                    return Err(Violation::new(NAME, what));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
