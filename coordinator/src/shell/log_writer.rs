//! The thread that owns the log's file. It writes and syncs what consensus wants durable; what comes
//! during one sync shares the next. Raft's own thread never waits for the disk: a leader whose disk
//! stalls still says that it lives, and hands over.

use super::guarded;
use super::leader_thread::Inbox;
use super::metrics::Metrics;
use super::raft_thread::{Input, RaftSender};
use crate::consensus::Event;
use crate::leader;
use crate::storage::{LogStore, LogWrite, StorageError, WriteQueue};
use anyhow::Context as _;
use raft::eraftpb;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A full disk is tried again this often.
const RETRY: Duration = Duration::from_millis(500);
/// Free space is looked at this often.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);
/// With less than this, and room for two snapshots, no new jobs are taken: what runs needs the log
/// to grow, and a snapshot is written whole beside the one that it replaces …
const LOW_SPACE_BYTES: u64 = 8 << 20;
/// … until there is this much more again, so that the answer does not flicker.
const SPACE_MARGIN_BYTES: u64 = 4 << 20;
/// With this much the store need not prepare for a full device.
const PLENTY_BYTES: u64 = 1 << 30;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Job {
    /// Write, sync, and report this token.
    Write(u64, Box<LogWrite>),
    /// Read the newest snapshot, for this message to another coordinator.
    ReadSnapshot(Box<eraftpb::Message>),
}

/// The running thread.
#[derive(Debug)]
pub(super) struct LogWriter {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

/// What the thread works with.
pub(super) struct LogParts<S> {
    pub store: S,
    pub folder: PathBuf,
    pub inbox: Inbox,
    pub metrics: Arc<Metrics>,
    /// Size of the state in the stored snapshot.
    pub snapshot_bytes: u64,
}

impl<S: LogStore + 'static> LogParts<S> {
    /// Starts the thread, which reports to `raft`.
    pub(super) fn start(
        self,
        raft: RaftSender,
        failed: mpsc::Sender<anyhow::Error>,
    ) -> anyhow::Result<LogWriter> {
        let (jobs, inbox) = channel();
        let thread = std::thread::Builder::new()
            .name("evoring-log".to_owned())
            .spawn(move || {
                guarded("log", &failed, || Worker::new(self, raft).run(&inbox));
            })
            .context("starting the log's thread")?;
        Ok(LogWriter { jobs, thread })
    }
}

impl LogWriter {
    pub(super) fn send(&self, job: Job) {
        // The thread has ended only if the process is about to.
        let _ = self.jobs.send(job);
    }

    /// Ends it after what it was told, and waits.
    pub(super) fn join(self) {
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::error!("the log's thread panicked");
        }
    }
}

struct Worker<S> {
    parts: LogParts<S>,
    raft: RaftSender,
    /// Writes in order: what came during the last sync, and all while the disk is full.
    waiting: WriteQueue,
    /// While the store fails: when to try again; never, if it cannot help.
    retry_at: Option<Option<Instant>>,
    /// When to look at the free space again.
    space_at: Instant,
    is_low: bool,
}

impl<S: LogStore> Worker<S> {
    fn new(parts: LogParts<S>, raft: RaftSender) -> Self {
        Self {
            parts,
            raft,
            waiting: WriteQueue::default(),
            retry_at: None,
            space_at: Instant::now(),
            is_low: false,
        }
    }

    fn run(mut self, jobs: &Receiver<Job>) -> anyhow::Result<()> {
        loop {
            match jobs.recv_timeout(SPACE_INTERVAL) {
                Ok(job) => {
                    self.take(job)?;
                    // What came during the last sync is taken before the next one.
                    while let Ok(job) = jobs.try_recv() {
                        self.take(job)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.write_all()?;
            self.look_at_space()?;
        }
    }

    fn take(&mut self, job: Job) -> anyhow::Result<()> {
        match job {
            Job::Write(token, write) => {
                if let Some(snapshot) = &write.snapshot {
                    self.parts.snapshot_bytes = snapshot.data.len() as u64;
                }
                self.waiting.push(token, *write);
            }
            Job::ReadSnapshot(message) => match self.parts.store.snapshot() {
                Ok(record) => self.raft.send(Input::Snapshot { message, record }),
                Err(error @ StorageError::Corrupt { .. }) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(%error, "the snapshot for another coordinator cannot be read");
                    let record = None;
                    self.raft.send(Input::Snapshot { message, record });
                }
            },
        }
        Ok(())
    }

    fn tell(&self, event: leader::Event) -> anyhow::Result<()> {
        self.parts
            .inbox
            .send_first(event)
            .context("the leader thread has ended")
    }

    fn persisted(&self, token: u64) {
        self.raft.send(Input::Core(Event::Persisted { token }));
    }

    /// Says when free space becomes low, and when it is enough again.
    fn look_at_space(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        if now < self.space_at {
            return Ok(());
        }
        self.space_at = now + SPACE_INTERVAL;
        let log = self.parts.folder.join(crate::storage::LOG_FILE);
        if let Ok(file) = std::fs::metadata(log) {
            self.parts.metrics.log_bytes(file.len());
        }
        let Ok(device) = rustix::fs::statvfs(&self.parts.folder) else {
            return Ok(());
        };
        let free_bytes = device.f_bavail.saturating_mul(device.f_frsize);
        self.parts.metrics.note_free_bytes(free_bytes);
        self.parts.store.expect_space(free_bytes >= PLENTY_BYTES);
        let (low, enough) = space_limits(self.parts.snapshot_bytes);
        let is_low = free_bytes < if self.is_low { enough } else { low };
        if is_low == self.is_low {
            return Ok(());
        }
        self.is_low = is_low;
        let reason = is_low.then(|| {
            format!(
                "{}: {} KiB free, new jobs need {} KiB; free some and it goes on by itself",
                self.parts.folder.display(),
                free_bytes >> 10,
                enough >> 10
            )
        });
        match &reason {
            Some(reason) => tracing::error!(reason, "space is low"),
            None => tracing::info!(free_bytes, "there is space again"),
        }
        self.tell(leader::Event::Space(reason))
    }

    fn write_all(&mut self) -> anyhow::Result<()> {
        if !self.may_write()? {
            return Ok(());
        }
        while let Some((token, write)) = self.waiting.join() {
            let token = *token;
            let is_snapshot = write.snapshot.is_some();
            let started = Instant::now();
            match self.parts.store.write(write) {
                Ok(()) => {
                    let took = started.elapsed();
                    match is_snapshot {
                        true => self.parts.metrics.snapshot_write(took),
                        false => self.parts.metrics.log_write(took),
                    }
                    self.waiting.pop();
                    self.persisted(token);
                }
                Err(error) => return self.fail(error),
            }
        }
        Ok(())
    }

    /// Whether the store takes writes, trying to open it again where that can help.
    fn may_write(&mut self) -> anyhow::Result<bool> {
        let Some(retry_at) = self.retry_at else {
            return Ok(true);
        };
        let Some(retry_at) = retry_at else {
            return Ok(false);
        };
        if Instant::now() < retry_at {
            return Ok(false);
        }
        if let Err(error) = self.parts.store.reopen() {
            self.fail(error)?;
            return Ok(false);
        }
        // The write that failed is still the first in the queue.
        if let Some((_, write)) = self.waiting.first()
            && let Err(error) = self.parts.store.write(write)
        {
            self.fail(error)?;
            return Ok(false);
        }
        self.retry_at = None;
        if let Some((token, _)) = self.waiting.pop() {
            self.persisted(token);
        }
        tracing::info!("the log takes writes again");
        self.tell(leader::Event::Store(Ok(())))?;
        Ok(true)
    }

    fn fail(&mut self, error: StorageError) -> anyhow::Result<()> {
        match error {
            StorageError::Corrupt { .. }
            | StorageError::NotContiguous { .. }
            | StorageError::Misused(_) => {
                return Err(error.into());
            }
            _ => {}
        }
        if self.retry_at.is_none() {
            tracing::error!(%error, "the log takes no writes");
        }
        self.retry_at = Some(error.can_retry().then(|| Instant::now() + RETRY));
        self.tell(leader::Event::Store(Err(error.to_string())))
    }
}

/// Free bytes below which space is low, and above which it is enough again.
fn space_limits(snapshot_bytes: u64) -> (u64, u64) {
    let low = LOW_SPACE_BYTES.saturating_add(snapshot_bytes.saturating_mul(2));
    (low, low.saturating_add(SPACE_MARGIN_BYTES))
}

#[cfg(test)]
mod tests {
    use super::super::raft_thread::input_channel;
    use super::*;
    use crate::storage::{MemoryStore, SnapshotRecord, TRANSACTION_BYTES};
    use raft::eraftpb::{Entry, HardState};

    /// A worker, and the inputs that it gives to Raft.
    struct Bench {
        worker: Worker<MemoryStore>,
        inputs: Receiver<Input>,
        last: u64,
    }

    fn bench() -> Bench {
        let mut store = MemoryStore::new();
        store
            .write(&crate::consensus::first_write(1, Vec::new()))
            .unwrap();
        let (inbox, _) = mpsc::channel(1);
        let (raft, inputs) = input_channel();
        let parts = LogParts {
            store,
            folder: PathBuf::from("/"),
            inbox: Inbox::new(inbox),
            metrics: Arc::new(Metrics::new().unwrap()),
            snapshot_bytes: 0,
        };
        Bench {
            worker: Worker::new(parts, raft),
            inputs,
            last: 1,
        }
    }

    impl Bench {
        /// A write of one entry, under its index as token.
        fn write(&mut self, bytes: usize) -> u64 {
            self.last += 1;
            let entry = Entry {
                index: self.last,
                term: 1,
                data: vec![1; bytes],
                ..Entry::default()
            };
            let write = LogWrite {
                entries: vec![entry],
                ..LogWrite::default()
            };
            let job = Job::Write(self.last, write.into());
            self.worker.take(job).unwrap();
            self.last
        }

        fn persisted(&self) -> Vec<u64> {
            let mut tokens = Vec::new();
            while let Ok(input) = self.inputs.try_recv() {
                if let Input::Core(Event::Persisted { token }) = input {
                    tokens.push(token);
                }
            }
            tokens
        }
    }

    // Claim: writes that wait share one synced transaction, and the last one's report covers them.
    // Method: a hundred writes of an entry; count the store's transactions.
    #[test]
    fn waiting_writes_share_a_sync() {
        let mut bench = bench();
        let before = bench.worker.parts.store.writes();
        let last = (0..100).map(|_| bench.write(100)).last().unwrap();
        assert!(bench.persisted().is_empty(), "nothing is durable yet");
        bench.worker.write_all().unwrap();
        assert_eq!(bench.worker.parts.store.writes() - before, 1);
        assert_eq!(bench.persisted(), [last]);
        let stored = bench.worker.parts.store.load().unwrap();
        assert_eq!(stored.entries.len(), 100);
    }

    // Claim: a transaction is bounded, and a snapshot among the writes keeps its place.
    // Method: writes of two transactions' size; then writes around a snapshot.
    #[test]
    fn transactions_are_bounded() {
        let mut bench = bench();
        let before = bench.worker.parts.store.writes();
        for _ in 0..4 {
            bench.write(TRANSACTION_BYTES / 2);
        }
        bench.worker.write_all().unwrap();
        assert_eq!(bench.worker.parts.store.writes() - before, 2);
        assert_eq!(bench.persisted(), [3, 5]);
        let index = bench.last;
        bench.write(10);
        let snapshot = SnapshotRecord {
            index,
            term: 1,
            membership: Default::default(),
            data: vec![1; 1_000],
        };
        let hard_state = HardState {
            term: 1,
            vote: 1,
            commit: index,
        };
        let write = LogWrite {
            snapshot: Some(snapshot),
            hard_state: Some(hard_state),
            ..LogWrite::default()
        };
        let job = Job::Write(100, write.into());
        bench.worker.take(job).unwrap();
        bench.write(10);
        bench.worker.write_all().unwrap();
        assert_eq!(bench.persisted(), [6, 100, 7]);
        let stored = bench.worker.parts.store.load().unwrap();
        assert_eq!((stored.snapshot_index(), stored.entries.len()), (index, 2));
        assert_eq!(bench.worker.parts.snapshot_bytes, 1_000);
    }

    // Claim: writes that a full disk held up are written once there is space, joined or not.
    // Method: fail the store, write, heal it, write.
    #[test]
    fn a_full_disk_delays() {
        let mut bench = bench();
        bench
            .worker
            .parts
            .store
            .set_fault(crate::storage::Fault::Full);
        for _ in 0..3 {
            bench.write(10);
            bench.worker.write_all().unwrap();
        }
        assert!(bench.persisted().is_empty());
        bench
            .worker
            .parts
            .store
            .set_fault(crate::storage::Fault::None);
        bench.worker.retry_at = Some(Some(Instant::now()));
        bench.worker.write_all().unwrap();
        assert_eq!(bench.persisted().last(), Some(&bench.last));
    }

    // Claim: after one failed sync nothing is written until the process starts again, although the store
    // would take it: what was written and not synced may be lost, and is never taken for durable.
    // Method: fail a sync, put a store that works in its place, write.
    #[test]
    fn a_failed_sync_ends_all_writes() {
        let mut bench = bench();
        let works = bench.worker.parts.store.clone();
        let store = &mut bench.worker.parts.store;
        store.set_fault(crate::storage::Fault::Sync);
        bench.write(10);
        bench.worker.write_all().unwrap();
        assert_eq!(bench.worker.retry_at, Some(None));
        let before = works.writes();
        bench.worker.parts.store = works;
        for _ in 0..3 {
            bench.write(10);
            bench.worker.write_all().unwrap();
        }
        assert!(bench.persisted().is_empty());
        assert_eq!(bench.worker.parts.store.writes(), before);
        assert_eq!(bench.worker.retry_at, Some(None));
    }

    // Claim: space is low while a snapshot of the last one's size might not fit beside it.
    // Method: a state of the size of a long search, and none.
    #[test]
    fn space_follows_the_snapshot() {
        let (low, enough) = space_limits(100 << 20);
        assert!(low >= (200 << 20) && enough > low);
        assert_eq!(space_limits(0).0, LOW_SPACE_BYTES);
        assert!(space_limits(u64::MAX).0 > 0);
    }
}
