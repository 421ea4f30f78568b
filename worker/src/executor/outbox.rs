//! Writes reports in a thread of its own; outcomes of items that are ready within a moment of each
//! other share one frame.

use anyhow::Context as _;
use evoring_protocol::codec::write_frame;
use evoring_protocol::executor::ExecutorReport;
use evoring_protocol::limits::{EXECUTOR_FRAME_BYTES, LEASE_ITEMS, TEXT_BYTES};
use evoring_protocol::work::ItemOutcome;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest time that an outcome waits for others.
const BATCH_TIME: Duration = Duration::from_millis(50);
/// Most outcomes of one frame: each may hold an error text.
const BATCH_OUTCOMES: usize = EXECUTOR_FRAME_BYTES / (2 * TEXT_BYTES);
/// No frame has more of them than are taken.
const _: () = assert!(BATCH_OUTCOMES <= LEASE_ITEMS);
/// Reports that wait for the writer; then the kernels wait.
const WAITING_REPORTS: usize = 1024;

/// Where reports go. If the agent is gone they go nowhere: the process is about to end.
#[derive(Debug, Clone)]
pub struct Outbox {
    sender: SyncSender<Entry>,
}

#[derive(Debug)]
enum Entry {
    Outcome(u64, ItemOutcome),
    Report(ExecutorReport),
}

impl Outbox {
    /// Sends a report, behind all that was sent before.
    pub fn report(&self, report: ExecutorReport) {
        let _ = self.sender.send(Entry::Report(report));
    }

    /// Sends the outcome of one item, at latest after [`BATCH_TIME`].
    pub fn outcome(&self, task: u64, outcome: ItemOutcome) {
        let _ = self.sender.send(Entry::Outcome(task, outcome));
    }
}

/// Starts the writer; it ends when all outboxes are dropped or the agent is gone.
pub fn open(socket: UnixStream) -> anyhow::Result<(Outbox, JoinHandle<()>)> {
    let (sender, receiver) = sync_channel(WAITING_REPORTS);
    let thread = std::thread::Builder::new().name("outbox".to_owned());
    let writer = thread
        .spawn(move || write(socket, &receiver))
        .context("start the thread that writes reports")?;
    Ok((Outbox { sender }, writer))
}

fn write(mut socket: UnixStream, receiver: &Receiver<Entry>) {
    while let Ok(entry) = receiver.recv() {
        for report in gather(entry, receiver) {
            if let Err(error) = write_frame(&mut socket, &report) {
                eprintln!("executor: no report reaches the agent any more: {error}");
                return;
            }
        }
    }
}

/// One report, or the outcomes of one piece of work that come within [`BATCH_TIME`] and what
/// came after them.
fn gather(entry: Entry, receiver: &Receiver<Entry>) -> Vec<ExecutorReport> {
    let (task, outcome) = match entry {
        Entry::Report(report) => return vec![report],
        Entry::Outcome(task, outcome) => (task, outcome),
    };
    let (begin, mut outcomes) = (Instant::now(), vec![outcome]);
    while outcomes.len() < BATCH_OUTCOMES {
        match receiver.recv_timeout(BATCH_TIME.saturating_sub(begin.elapsed())) {
            Ok(Entry::Outcome(next, outcome)) if next == task => outcomes.push(outcome),
            Ok(entry) => {
                let mut reports = vec![ExecutorReport::Items { task, outcomes }];
                reports.extend(gather(entry, receiver));
                return reports;
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    vec![ExecutorReport::Items { task, outcomes }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_protocol::ItemIndex;
    use evoring_protocol::codec::read_frame;

    /// Claim: reports keep their order; outcomes of one piece of work share frames, those of two do
    /// not; nothing is lost when the outbox is dropped.
    #[test]
    fn outcomes_share_frames_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (outbox, writer) = open(ours).unwrap();
        let outcome = |index| ItemOutcome {
            index: ItemIndex(index),
            result: Ok(vec![1]),
        };
        for (task, index) in [(1, 0), (1, 1), (2, 2)] {
            outbox.outcome(task, outcome(index));
        }
        outbox.report(ExecutorReport::ItemsDone { task: 2 });
        outbox.outcome(3, outcome(3));
        drop(outbox);
        writer.join().unwrap();
        let mut items = Vec::new();
        while let Some(report) = read_frame::<ExecutorReport>(&mut theirs).unwrap() {
            match report {
                ExecutorReport::Items { task, outcomes } => {
                    items.extend(outcomes.iter().map(|outcome| (task, outcome.index.0)))
                }
                ExecutorReport::ItemsDone { task } => items.push((task, u32::MAX)),
                other => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!(items, [(1, 0), (1, 1), (2, 2), (2, u32::MAX), (3, 3)]);
    }
}
