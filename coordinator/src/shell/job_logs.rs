//! Log lines of jobs, in memory: not replicated, bounded. Lines of workers are gone with the
//! process; the coordinator's own come from its events.

use super::{pages, wall_clock_ms};
use evoring_protocol::client::LogLine;
use evoring_protocol::event::{Event, EventKind};
use evoring_protocol::{JobId, WorkerId, limits};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Jobs whose lines are kept; the oldest job's go first.
const JOBS: usize = 256;

#[derive(Debug, Default)]
struct Lines {
    /// Number of the first line that is kept.
    first: u64,
    lines: VecDeque<LogLine>,
}

/// What the coordinator itself has to say in a job's log.
pub(super) fn line_of(event: &EventKind) -> Option<(JobId, String)> {
    Some(match event {
        EventKind::StageStarted { job, stage } => (*job, format!("stage {stage} begins")),
        EventKind::StageFinished { job, stage } => (*job, format!("stage {stage} is complete")),
        EventKind::RosterCommitted {
            job,
            demand,
            roster,
            members,
            resume_step,
            ..
        } => {
            let members: Vec<String> = members
                .iter()
                .map(|(worker, slot)| format!("{worker}/{slot}"))
                .collect();
            let members = members.join(", ");
            (
                *job,
                format!("gang {demand}: roster {roster} from step {resume_step} on {members}"),
            )
        }
        EventKind::RosterBroken {
            job,
            demand,
            roster,
            reason,
            ..
        } => (
            *job,
            format!("gang {demand}: roster {roster} is void: {reason}"),
        ),
        EventKind::ItemsRetried {
            job,
            demand,
            items,
            reason,
            ..
        } => (
            *job,
            format!(
                "map {demand}: {} items are run again: {reason}",
                items.len()
            ),
        ),
        EventKind::JobFinished { job } => (*job, "finished".to_owned()),
        EventKind::JobFailed { job, error } => (*job, format!("failed: {error}")),
        EventKind::JobCancelled { job } => (*job, "cancelled".to_owned()),
        _ => return None,
    })
}

/// A handle on all logs.
#[derive(Debug, Clone)]
pub(super) struct JobLogs {
    jobs: Arc<Mutex<BTreeMap<JobId, Lines>>>,
    changed: watch::Sender<()>,
}

impl Default for JobLogs {
    fn default() -> Self {
        Self {
            jobs: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl JobLogs {
    /// Takes up what the event file knows of earlier processes.
    pub(super) fn take_up(&self, events: &[Event]) {
        for event in events {
            if let Some((job, text)) = line_of(&event.kind) {
                self.append_at(event.time_ms, job, None, vec![text]);
            }
        }
    }

    /// Appends lines.
    pub(super) fn append(&self, job: JobId, worker: Option<WorkerId>, lines: Vec<String>) {
        self.append_at(wall_clock_ms(), job, worker, lines);
    }

    fn append_at(&self, time_ms: u64, job: JobId, worker: Option<WorkerId>, lines: Vec<String>) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let log = jobs.entry(job).or_default();
        for text in lines {
            let worker = worker.clone();
            log.lines.push_back(LogLine {
                time_ms,
                worker,
                text,
            });
            if log.lines.len() > limits::JOB_LOG_LINES {
                log.lines.pop_front();
                log.first += 1;
            }
        }
        while jobs.len() > JOBS {
            jobs.pop_first();
        }
        drop(jobs);
        self.changed.send_replace(());
    }

    /// A page of a job's lines from number `from` on, and the number after them.
    pub(super) fn page(&self, job: JobId, from: u64) -> (Vec<LogLine>, u64) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(log) = jobs.get(&job) else {
            return (Vec::new(), from);
        };
        let from = from.max(log.first);
        let skip = usize::try_from(from - log.first).unwrap_or(usize::MAX);
        let lines = pages::page(log.lines.iter().skip(skip));
        let next = from + lines.len() as u64;
        (lines, next)
    }

    /// Changes after each append.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}
