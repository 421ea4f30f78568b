//! Jobs and workers as people see them.

use super::{Scheduler, Use};
use crate::state::{Job, Phase, State};
use evoring_protocol::JobId;
use evoring_protocol::client::{JobStatus, JobView, WorkerView};
use evoring_protocol::work::TrainingProgress;

/// The state's part of a job's view.
pub fn job_view(id: JobId, job: &Job) -> JobView {
    let (status, error, summary) = match &job.phase {
        Phase::Active(_) if job.started_ms.is_none() => (JobStatus::Queued, None, None),
        Phase::Active(_) => (JobStatus::Running, None, None),
        Phase::Finished { summary } => (JobStatus::Finished, None, Some(summary.clone())),
        Phase::Failed { error } => (JobStatus::Failed, Some(error.clone()), None),
        Phase::Cancelled => (JobStatus::Cancelled, None, None),
    };
    let maps = || {
        job.work()
            .into_iter()
            .flat_map(|work| work.demands.values())
            .filter_map(|demand| demand.map())
    };
    let total: u64 = maps().map(|map| map.items.len() as u64).sum();
    let open: u64 = maps().map(|map| u64::from(map.open)).sum();
    JobView {
        job: id,
        name: job.name.clone(),
        kind: job.kind.clone(),
        status,
        stage: job.stage.clone(),
        stages: job.stages.clone(),
        submitted_ms: job.submitted_ms,
        started_ms: job.started_ms,
        ended_ms: job.ended_ms,
        error,
        slots: 0,
        items: (total.saturating_sub(open), total),
        evaluated: job.evaluated,
        cache_hits: job.cache_hits,
        retries: job.retries,
        training: None,
        generation: job.generation.clone(),
        summary,
        artifacts: job.artifacts.clone(),
        labels: job
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    }
}

impl Scheduler {
    /// A job with what the scheduler knows of it; `None` for an unknown one.
    pub fn job(&self, id: JobId, state: &State) -> Option<JobView> {
        let mut view = job_view(id, state.jobs().get(&id)?);
        view.slots = self.slots_of(id);
        view.training = self.training(id, state);
        Some(view)
    }

    fn slots_of(&self, id: JobId) -> u32 {
        let computes_for = |does: &Use| match does {
            Use::Lease(term, number) => self
                .leases
                .get(&(*term, *number))
                .is_some_and(|lease| lease.job == id),
            Use::Rank(held) => held.job == id,
            _ => false,
        };
        self.workers
            .connected()
            .flat_map(|(_, worker)| &worker.slots)
            .filter(|slot| computes_for(&slot.does))
            .count() as u32
    }

    fn training(&self, id: JobId, state: &State) -> Option<(String, TrainingProgress)> {
        let work = state.jobs().get(&id)?.work()?;
        work.demands.iter().find_map(|(&demand, wanted)| {
            wanted.gang()?.roster.as_ref()?;
            let progress = self.gangs.get(&(id, demand))?.progress.clone()?;
            Some((wanted.title.clone(), progress))
        })
    }

    /// All workers seen by this leader, by name.
    pub fn worker_views(&self) -> Vec<WorkerView> {
        self.workers
            .iter()
            .map(|(name, worker)| WorkerView {
                worker: name.clone(),
                connected: worker.connection.is_some(),
                process: worker.process,
                executors: worker.slots.iter().map(|slot| slot.executor).collect(),
                host: worker.host.clone(),
                slots: worker.slots.len() as u32,
                busy: worker
                    .slots
                    .iter()
                    .filter(|slot| matches!(slot.does, Use::Lease(..) | Use::Rank(_)))
                    .count() as u32,
                numerics: worker.numerics.0.clone(),
                metrics: worker.metrics.map(|address| address.to_string()),
            })
            .collect()
    }
}
