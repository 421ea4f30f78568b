//! The thread that owns consensus and the log's file. Its writes are synchronous: what waits
//! meanwhile shares the next sync.

use super::guarded;
use super::leader_thread::{Inbox, Message};
use super::metrics::Metrics;
use crate::consensus::{Action, Consensus, Event};
use crate::leader;
use crate::storage::{LogStore, LogWrite, StorageError};
use anyhow::Context as _;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Raft's clock.
const TICK: Duration = Duration::from_millis(100);
/// A full disk is tried again this often.
const RETRY: Duration = Duration::from_millis(500);
/// Free space is looked at this often.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);
/// With less than this, and room for two snapshots, no new jobs are taken: what runs needs the log
/// to grow, and a snapshot is written whole beside the one that it replaces …
const LOW_SPACE_BYTES: u64 = 8 << 20;
/// … until there is this much more again, so that the answer does not flicker.
const SPACE_MARGIN_BYTES: u64 = 4 << 20;
/// Writes that wait share a transaction up to this size; one that is larger is alone.
const TRANSACTION_BYTES: usize = 8 << 20;
/// Events that wait for the thread. The leader has at most [`leader::IN_FLIGHT`] proposals out and
/// gives one answer to each batch of entries, so this is never full.
const QUEUE: usize = 8_192;

/// Sends events to the thread.
#[derive(Debug, Clone)]
pub(super) struct RaftSender(SyncSender<Event>);

impl RaftSender {
    pub(super) fn send(&self, event: Event) {
        match self.0.try_send(event) {
            Ok(()) => {}
            // The thread has ended; the process is about to.
            Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                panic!("more than {QUEUE} events wait for the raft thread")
            }
        }
    }
}

/// The running thread.
#[derive(Debug)]
pub(super) struct RaftThread {
    sender: RaftSender,
    thread: JoinHandle<()>,
}

impl RaftThread {
    pub(super) fn sender(&self) -> RaftSender {
        self.sender.clone()
    }

    /// Waits for its end, which comes when all senders are gone.
    pub(super) fn join(self) {
        drop(self.sender);
        if self.thread.join().is_err() {
            tracing::error!("the raft thread panicked");
        }
    }
}

/// What the thread works with.
pub(super) struct RaftParts<S> {
    pub consensus: Consensus,
    pub store: S,
    pub folder: PathBuf,
    pub inbox: Inbox,
    pub metrics: Arc<Metrics>,
    /// Size of the state in the stored snapshot.
    pub snapshot_bytes: u64,
}

impl<S: LogStore + 'static> RaftParts<S> {
    /// Starts the thread.
    pub(super) fn start(self, failed: mpsc::Sender<anyhow::Error>) -> anyhow::Result<RaftThread> {
        let (sender, events) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("evoring-raft".to_owned())
            .spawn(move || {
                // RAFT-4: a panic inside Raft ends the process.
                guarded("raft", &failed, || RaftWorker::new(self).run(&events));
            })
            .context("starting the raft thread")?;
        Ok(RaftThread {
            sender: RaftSender(sender),
            thread,
        })
    }
}

struct RaftWorker<S> {
    parts: RaftParts<S>,
    /// Writes in order: what came during the last sync, and all while the disk is full.
    waiting: VecDeque<(u64, LogWrite)>,
    /// While the store fails: when to try again; never, if it cannot help.
    retry_at: Option<Option<Instant>>,
    /// When to look at the free space again.
    space_at: Instant,
    is_low: bool,
}

impl<S: LogStore> RaftWorker<S> {
    fn new(parts: RaftParts<S>) -> Self {
        Self {
            parts,
            waiting: VecDeque::new(),
            retry_at: None,
            space_at: Instant::now(),
            is_low: false,
        }
    }

    fn run(mut self, events: &Receiver<Event>) -> anyhow::Result<()> {
        let mut next_tick = Instant::now() + TICK;
        self.take(Event::Campaign)?;
        loop {
            let timeout = next_tick.saturating_duration_since(Instant::now());
            match events.recv_timeout(timeout) {
                Ok(event) => {
                    self.take(event)?;
                    // What came during the last sync is taken before the next one.
                    while let Ok(event) = events.try_recv() {
                        self.take(event)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    next_tick += TICK;
                    self.take(Event::Tick)?;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.write_all()?;
            self.look_at_space()?;
        }
    }

    /// Says when free space becomes low, and when it is enough again.
    fn look_at_space(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        if now < self.space_at {
            return Ok(());
        }
        self.space_at = now + SPACE_INTERVAL;
        let Ok(device) = rustix::fs::statvfs(&self.parts.folder) else {
            return Ok(());
        };
        let free_bytes = device.f_bavail.saturating_mul(device.f_frsize);
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

    /// Feeds one event and hands out what follows, but for writes, which wait.
    fn take(&mut self, event: Event) -> anyhow::Result<()> {
        if let Event::Snapshot { data, .. } = &event {
            self.parts.snapshot_bytes = data.len() as u64;
        }
        for action in self.parts.consensus.handle(event) {
            match action {
                Action::Persist { token, write } => self.waiting.push_back((token, write)),
                Action::Send(message) => {
                    // A group of one has nobody to send to.
                    tracing::error!(to = message.to, "a message to a voter that does not exist");
                }
                Action::Apply(entries) => self.tell(leader::Event::Committed(entries))?,
                Action::Elected { term } => self.tell(leader::Event::Elected { term })?,
                Action::SteppedDown => self.tell(leader::Event::SteppedDown)?,
                Action::Refused { token, reason } => {
                    self.tell(leader::Event::Refused { token, reason })?
                }
            }
        }
        Ok(())
    }

    fn tell(&self, event: leader::Event) -> anyhow::Result<()> {
        self.parts
            .inbox
            .send_blocking(Message::Event(event))
            .context("the leader thread has ended")
    }

    fn write_all(&mut self) -> anyhow::Result<()> {
        if !self.may_write()? {
            return Ok(());
        }
        while self.join_waiting()
            && let Some((token, write)) = self.waiting.front()
        {
            let token = *token;
            let started = Instant::now();
            match self.parts.store.write(write) {
                Ok(()) => {
                    self.parts.metrics.log_write(started.elapsed());
                    self.waiting.pop_front();
                    self.take(Event::Persisted { token })?;
                }
                Err(error) => return self.fail(error),
            }
        }
        Ok(())
    }

    /// Joins the writes at the front of the queue into one, under the token of the last: that it
    /// is durable says so of those before it. Whether any write waits.
    fn join_waiting(&mut self) -> bool {
        let Some((mut token, mut joined)) = self.waiting.pop_front() else {
            return false;
        };
        let mut bytes = joined.bytes();
        while let Some((next, write)) = self.waiting.pop_front() {
            bytes += write.bytes();
            if bytes > TRANSACTION_BYTES || !joined.takes(&write) {
                self.waiting.push_front((next, write));
                break;
            }
            joined.join(write);
            token = next;
        }
        self.waiting.push_front((token, joined));
        true
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
        if let Some((_, write)) = self.waiting.front()
            && let Err(error) = self.parts.store.write(write)
        {
            self.fail(error)?;
            return Ok(false);
        }
        self.retry_at = None;
        if let Some((token, _)) = self.waiting.pop_front() {
            self.take(Event::Persisted { token })?;
        }
        tracing::info!("the log takes writes again");
        self.tell(leader::Event::Store(Ok(())))?;
        Ok(true)
    }

    fn fail(&mut self, error: StorageError) -> anyhow::Result<()> {
        match error {
            StorageError::Corrupt { .. } | StorageError::NotContiguous { .. } => {
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
    use super::*;
    use crate::consensus::{NodeConfig, first_write};
    use crate::storage::MemoryStore;

    /// A worker that leads, and what the leader thread would be told.
    fn worker() -> (RaftWorker<MemoryStore>, mpsc::Receiver<Message>) {
        let mut store = MemoryStore::new();
        store.write(&first_write(1, Vec::new())).unwrap();
        let config = NodeConfig { id: 1, boot: 1 };
        let (inbox, told) = mpsc::channel(1_024);
        let mut worker = RaftWorker::new(RaftParts {
            consensus: Consensus::new(config, store.load().unwrap()).unwrap(),
            store,
            folder: PathBuf::from("/"),
            inbox: Inbox::new(inbox),
            metrics: Arc::new(Metrics::new().unwrap()),
            snapshot_bytes: 0,
        });
        worker.take(Event::Campaign).unwrap();
        worker.write_all().unwrap();
        (worker, told)
    }

    fn proposal(token: u64, bytes: usize) -> Event {
        let data = vec![token as u8; bytes];
        Event::Propose { token, data }
    }

    fn committed(told: &mut mpsc::Receiver<Message>) -> Vec<u64> {
        let mut tokens = Vec::new();
        while let Ok(message) = told.try_recv() {
            if let Message::Event(leader::Event::Committed(entries)) = message {
                tokens.extend(entries.iter().filter_map(|entry| entry.proposal));
            }
        }
        tokens
    }

    // Claim: proposals that wait share one synced transaction, each is committed once and in
    // order, and all of them are in the store.
    // Method: a hundred proposals before one write; count the store's transactions.
    #[test]
    fn waiting_proposals_share_a_sync() {
        let (mut worker, mut told) = worker();
        let before = worker.parts.store.writes();
        let tokens: Vec<u64> = (1..=100).collect();
        for token in &tokens {
            worker.take(proposal(*token, 100)).unwrap();
        }
        assert!(committed(&mut told).is_empty(), "nothing is durable yet");
        worker.write_all().unwrap();
        assert_eq!(worker.parts.store.writes() - before, 1);
        assert_eq!(committed(&mut told), tokens);
        let stored = worker.parts.store.load().unwrap();
        let proposed = stored.entries.iter().filter(|entry| !entry.data.is_empty());
        assert_eq!(proposed.count(), tokens.len());
    }

    // Claim: a transaction is bounded, and a snapshot among the writes keeps its place.
    // Method: proposals of two transactions' size; then proposals around a snapshot.
    #[test]
    fn transactions_are_bounded() {
        let (mut worker, mut told) = worker();
        let before = worker.parts.store.writes();
        for token in 1..=4 {
            worker.take(proposal(token, TRANSACTION_BYTES / 2)).unwrap();
        }
        worker.write_all().unwrap();
        assert_eq!(worker.parts.store.writes() - before, 2);
        assert_eq!(committed(&mut told), [1, 2, 3, 4]);
        let index = worker.parts.store.load().unwrap().last_index();
        worker.take(Event::Applied { index }).unwrap();
        worker.take(proposal(5, 10)).unwrap();
        let data = vec![1; 1_000];
        worker.take(Event::Snapshot { index, data }).unwrap();
        worker.take(proposal(6, 10)).unwrap();
        worker.write_all().unwrap();
        assert_eq!(committed(&mut told), [5, 6]);
        let stored = worker.parts.store.load().unwrap();
        assert_eq!((stored.snapshot_index(), stored.entries.len()), (index, 2));
        assert_eq!(worker.parts.snapshot_bytes, 1_000);
    }

    // Claim: writes that a full disk held up are written once there is space, joined or not.
    // Method: fail the store, propose, heal it, write.
    #[test]
    fn a_full_disk_delays() {
        let (mut worker, mut told) = worker();
        worker.parts.store.set_fault(crate::storage::Fault::Full);
        for token in 1..=3 {
            worker.take(proposal(token, 10)).unwrap();
            worker.write_all().unwrap();
        }
        assert!(committed(&mut told).is_empty());
        worker.parts.store.set_fault(crate::storage::Fault::None);
        worker.retry_at = Some(Some(Instant::now()));
        worker.write_all().unwrap();
        assert_eq!(committed(&mut told), [1, 2, 3]);
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
