//! What applied entries mean for the soft state.

use super::gangs::GangWork;
use super::maps::MapWork;
use super::{Context, Scheduler};
use crate::state::{Body, Effect};
use evoring_protocol::worker::WorkerCommand;
use evoring_protocol::{DemandId, ItemIndex, JobId, Term};
use std::collections::BTreeSet;

impl Scheduler {
    pub(super) fn applied(&mut self, context: Context<'_>, effect: &Effect) {
        if !matches!(
            effect,
            Effect::ItemsRecorded { .. } | Effect::ItemsRetried { .. } | Effect::Event(_)
        ) {
            self.gangs_changed = true;
        }
        match effect {
            Effect::DemandStarted { job, demand } => self.demand_started(context, *job, *demand),
            Effect::DemandEnded { job, demand } => self.demand_ended(*job, *demand),
            Effect::ItemsRecorded { job, demand, items } => {
                self.items_recorded(*job, *demand, items)
            }
            Effect::ItemsRetried { job, demand, items } => {
                if let Some(map) = self.maps.get_mut(&(*job, *demand)) {
                    for &item in items {
                        if !map.holders.contains_key(&item) {
                            map.put_back(item, context.now.mono_ms);
                        }
                    }
                }
            }
            Effect::ClassAssigned { job } => self.class_assigned(context, *job),
            Effect::RosterCommitted { job, demand } => self.start_roster(context, *job, *demand),
            Effect::RosterBroken { job, demand } => {
                self.stop_ranks(*job, *demand);
                self.wait_again(context, *job, *demand);
            }
            Effect::Checkpointed { job, demand } => self.grow(context, *job, *demand),
            Effect::JobEnded { job } => {
                let of_job = (*job, DemandId(0))..=(*job, DemandId(u32::MAX));
                let maps = self.maps.range(of_job.clone()).map(|(key, _)| key.1);
                let demands: BTreeSet<DemandId> = maps
                    .chain(self.gangs.range(of_job).map(|(key, _)| key.1))
                    .collect();
                for demand in demands {
                    self.demand_ended(*job, demand);
                }
                self.classes_proposed.remove(job);
                self.item_times.retain(|(of, _), _| of != job);
            }
            Effect::Event(_) | Effect::StoreBlob(_) => {}
        }
    }

    pub(super) fn demand_started(&mut self, context: Context<'_>, job: JobId, demand: DemandId) {
        match context.state.demand(job, demand).map(|state| &state.body) {
            Some(Body::Map(map)) => {
                let item_ms = self.item_times.get(&(job, map.kernel)).copied();
                let work = MapWork::new(map.kernel, map.open_items().collect(), item_ms);
                self.maps.insert((job, demand), work);
            }
            Some(Body::Gang(gang)) => {
                let mut work = GangWork::waiting(context.now.mono_ms);
                // Of an earlier leader.
                if let Some(roster) = &gang.roster {
                    work.note(roster);
                }
                self.gangs.insert((job, demand), work);
            }
            // It ended within the same entry.
            None => {}
        }
    }

    fn demand_ended(&mut self, job: JobId, demand: DemandId) {
        let leases: Vec<(Term, u64)> = self
            .leases
            .iter()
            .filter(|(_, lease)| (lease.job, lease.demand) == (job, demand))
            .map(|(&key, _)| key)
            .collect();
        for key in leases {
            self.stop_lease(key);
        }
        self.maps.remove(&(job, demand));
        if self.gangs.contains_key(&(job, demand)) {
            self.stop_ranks(job, demand);
            self.gangs.remove(&(job, demand));
        }
    }

    /// Tells a holder that its items have their results.
    fn stop_lease(&mut self, key: (Term, u64)) {
        let Some(running) = self.drop_lease(key) else {
            return;
        };
        if let Some(connection) = self.workers.connection(&running.worker) {
            self.send(
                connection,
                WorkerCommand::StopLease {
                    term: key.0,
                    number: key.1,
                },
            );
        }
    }

    fn items_recorded(&mut self, job: JobId, demand: DemandId, items: &[ItemIndex]) {
        let Some(map) = self.maps.get_mut(&(job, demand)) else {
            return;
        };
        let mut done = BTreeSet::new();
        for item in items {
            map.reported.remove(item);
            map.take_out(*item);
            map.failed.remove(item);
            for key in map.holders.remove(item).unwrap_or_default() {
                if let Some(running) = self.leases.get_mut(&key) {
                    running.open.remove(item);
                    if running.open.is_empty() {
                        done.insert(key);
                    }
                }
            }
        }
        for key in done {
            self.stop_lease(key);
        }
    }

    /// With its class a job's maps may have been answered by the cache, in part.
    fn class_assigned(&mut self, context: Context<'_>, job: JobId) {
        let of_job = (job, DemandId(0))..=(job, DemandId(u32::MAX));
        for (key, work) in self.maps.range_mut(of_job) {
            if let Some(map) = context
                .state
                .demand(key.0, key.1)
                .and_then(|demand| demand.map())
            {
                work.pending.retain(|&item| map.attempt(item).is_some());
            }
        }
    }
}
