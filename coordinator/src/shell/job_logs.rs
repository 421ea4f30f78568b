//! Log lines of jobs, in memory: not replicated, bounded, gone with the process.

use evoring_protocol::client::LogLine;
use evoring_protocol::{JobId, WorkerId, limits};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;

/// Jobs whose lines are kept; the oldest job's go first.
const JOBS: usize = 256;

#[derive(Debug, Default)]
struct Lines {
    /// Number of the first line that is kept.
    first: u64,
    lines: VecDeque<LogLine>,
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
    /// Appends lines.
    pub(super) fn append(&self, job: JobId, worker: Option<WorkerId>, lines: Vec<String>) {
        let time = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let log = jobs.entry(job).or_default();
        for text in lines {
            log.lines.push_back(LogLine {
                time_ms,
                worker: worker.clone(),
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

    /// At most `count` lines of a job from number `from` on, and the number after them.
    pub(super) fn lines(&self, job: JobId, from: u64, count: usize) -> (Vec<LogLine>, u64) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(log) = jobs.get(&job) else {
            return (Vec::new(), from);
        };
        let from = from.max(log.first);
        let skip = usize::try_from(from - log.first).unwrap_or(usize::MAX);
        let lines: Vec<LogLine> = log.lines.iter().skip(skip).take(count).cloned().collect();
        let next = from + lines.len() as u64;
        (lines, next)
    }

    /// Changes after each append.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}
