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
/// Bytes of one job's lines that are kept.
const JOB_BYTES: usize = 4 << 20;
/// Bytes of all jobs' lines that are kept.
const ALL_BYTES: usize = 128 << 20;
/// What a line takes besides its text.
const LINE_BYTES: usize = 64;

#[derive(Debug, Default)]
struct Lines {
    /// Number of the first line that is kept.
    first: u64,
    lines: VecDeque<LogLine>,
    bytes: usize,
}

impl Lines {
    fn clear(&mut self) {
        self.first += self.lines.len() as u64;
        self.lines = VecDeque::new();
        self.bytes = 0;
    }

    fn push(&mut self, line: LogLine) {
        self.bytes += LINE_BYTES + line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > limits::JOB_LOG_LINES || self.bytes > JOB_BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= LINE_BYTES + oldest.text.len();
            self.first += 1;
        }
    }
}

/// Lines by job.
#[derive(Debug, Default)]
struct Logs {
    jobs: BTreeMap<JobId, Lines>,
    bytes: usize,
}

impl Logs {
    fn push(&mut self, job: JobId, lines: impl Iterator<Item = LogLine>) {
        let log = self.jobs.entry(job).or_default();
        self.bytes -= log.bytes;
        lines.for_each(|line| log.push(line));
        self.bytes += log.bytes;
        while self.jobs.len() > JOBS {
            let Some((_, oldest)) = self.jobs.pop_first() else {
                return;
            };
            self.bytes -= oldest.bytes;
        }
        // The oldest jobs lose their lines, and keep their numbers: whoever follows one goes on.
        let mut oldest = self.jobs.values_mut();
        while self.bytes > ALL_BYTES {
            let Some(log) = oldest.next() else {
                return;
            };
            self.bytes -= log.bytes;
            log.clear();
        }
    }
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
    logs: Arc<Mutex<Logs>>,
    changed: watch::Sender<()>,
}

impl Default for JobLogs {
    fn default() -> Self {
        Self {
            logs: Arc::default(),
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
        let lines = lines.into_iter().map(|text| LogLine {
            time_ms,
            worker: worker.clone(),
            text,
        });
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.push(job, lines);
        drop(logs);
        self.changed.send_replace(());
    }

    /// A page of a job's lines from number `from` on, and the number after them.
    pub(super) fn page(&self, job: JobId, from: u64) -> (Vec<LogLine>, u64) {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(log) = logs.jobs.get(&job) else {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(logs: &mut Logs, job: u64, lines: usize, bytes: usize) {
        let line = |_| LogLine {
            time_ms: 1,
            worker: None,
            text: "x".repeat(bytes),
        };
        logs.push(JobId(job), (0..lines).map(line));
    }

    // Claim: whatever workers say, the lines of a job and of all jobs take a bounded number of bytes, the
    // newest are kept, and their numbers go on.
    // Method: long lines for one job, then for more jobs than there is room for.
    #[test]
    fn bytes_are_bounded() {
        let mut logs = Logs::default();
        let text = 4 << 10;
        let most = JOB_BYTES / (text + LINE_BYTES);
        fill(&mut logs, 1, most + 7, text);
        let log = &logs.jobs[&JobId(1)];
        assert_eq!((log.first, log.lines.len()), (7, most));
        let jobs = 2 * (ALL_BYTES / JOB_BYTES) as u64;
        for job in 2..=jobs {
            fill(&mut logs, job, most, text);
            assert!(logs.bytes <= ALL_BYTES);
        }
        let oldest = &logs.jobs[&JobId(1)];
        assert_eq!((oldest.first, oldest.lines.len()), (most as u64 + 7, 0));
        assert_eq!(logs.jobs[&JobId(jobs)].lines.len(), most);
        fill(&mut logs, 1, 1, text);
        assert_eq!(logs.jobs[&JobId(1)].first, most as u64 + 7);
        let counted: usize = logs.jobs.values().map(|log| log.bytes).sum();
        assert_eq!(counted, logs.bytes);
    }
}
