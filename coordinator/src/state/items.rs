//! Commands about items of maps.

use super::{DemandState, Effect, ItemReport, Job, State};
use evoring_jobs::driver::DriverEvent;
use evoring_protocol::event::EventKind;
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::WorkError;
use evoring_protocol::{DemandId, JobId};

impl State {
    /// Fixes the class of a job; the cache may then answer items of its maps.
    pub(super) fn assign_class(
        &mut self,
        index: u64,
        id: JobId,
        class: NumericsClass,
        effects: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if job.numerics.is_some() || job.work().is_none() {
            return;
        }
        job.numerics = Some(class.clone());
        job.started_ms.get_or_insert(self.time_ms);
        let mut complete = Vec::new();
        if let Some(work) = job.work_mut() {
            for (&demand, state) in &mut work.demands {
                if let Some(map) = state.map_mut() {
                    map.answer_from(&self.cache, &class);
                    if map.open == 0 {
                        complete.push(demand);
                    }
                }
            }
        }
        effects.push(Effect::ClassAssigned { job: id });
        for demand in complete {
            self.finish_map(index, id, demand, effects);
        }
    }

    /// Takes results, and attempts that failed.
    pub(super) fn record(
        &mut self,
        index: u64,
        id: JobId,
        demand: DemandId,
        reports: &[ItemReport],
        effects: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let class = job.numerics.clone();
        let Some(state) = job
            .work_mut()
            .and_then(|work| work.demands.get_mut(&demand))
        else {
            return;
        };
        let stage = state.stage.clone();
        let Some(map) = state.map_mut() else { return };
        let changes = map.record(reports, &mut self.cache, class.as_ref());
        let is_complete = map.open == 0;
        job.evaluated += changes.recorded.len() as u64;
        job.retries += changes.retried.len() as u64;
        if !changes.recorded.is_empty() {
            effects.push(Effect::Event(EventKind::ItemsRecorded {
                job: id,
                demand,
                stage: stage.clone(),
                items: changes.recorded.clone(),
            }));
            effects.push(Effect::ItemsRecorded {
                job: id,
                demand,
                items: changes.recorded,
            });
        }
        if let Some(error) = changes.failed {
            self.fail_demand(index, id, demand, error, effects);
            return;
        }
        if !changes.retried.is_empty() {
            let items = changes.retried.iter().map(|&(item, _)| item).collect();
            effects.push(Effect::Event(EventKind::ItemsRetried {
                job: id,
                demand,
                stage,
                items: changes.retried,
                reason: changes.reason,
            }));
            effects.push(Effect::ItemsRetried {
                job: id,
                demand,
                items,
            });
        }
        if is_complete {
            self.finish_map(index, id, demand, effects);
        }
    }

    /// Tells the driver of a map whose items all have results.
    fn finish_map(&mut self, index: u64, id: JobId, demand: DemandId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let Some(work) = job.work_mut() else { return };
        let Some(map) = work.demands.get(&demand).and_then(DemandState::map) else {
            return;
        };
        let Some(results) = map.results() else { return };
        let (evaluated, cache_hits) = (map.evaluated, map.cache_hits);
        work.demands.remove(&demand);
        job.cache_hits += u64::from(cache_hits);
        effects.push(Effect::DemandEnded { job: id, demand });
        self.step(
            index,
            id,
            DriverEvent::MapFinished {
                demand,
                results,
                evaluated,
                cache_hits,
            },
            effects,
        );
    }

    /// Tells the driver of a demand that failed for good.
    pub(super) fn fail_demand(
        &mut self,
        index: u64,
        id: JobId,
        demand: DemandId,
        error: WorkError,
        effects: &mut Vec<Effect>,
    ) {
        let Some(work) = self.jobs.get_mut(&id).and_then(Job::work_mut) else {
            return;
        };
        if work.demands.remove(&demand).is_some() {
            effects.push(Effect::DemandEnded { job: id, demand });
            self.step(
                index,
                id,
                DriverEvent::DemandFailed { demand, error },
                effects,
            );
        }
    }
}
