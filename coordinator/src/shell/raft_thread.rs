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
/// With less than this no new jobs are taken: what runs needs room for its log and snapshots …
const LOW_SPACE_BYTES: u64 = 8 << 20;
/// … until there is this much again, so that the answer does not flicker.
const ENOUGH_SPACE_BYTES: u64 = 12 << 20;
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
    /// Writes in order; more than one only while the disk is full.
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
        let limit = if self.is_low {
            ENOUGH_SPACE_BYTES
        } else {
            LOW_SPACE_BYTES
        };
        let is_low = free_bytes < limit;
        if is_low == self.is_low {
            return Ok(());
        }
        self.is_low = is_low;
        let reason = is_low.then(|| {
            format!(
                "{}: {} KiB free, new jobs need {} KiB; free some and it goes on by itself",
                self.parts.folder.display(),
                free_bytes >> 10,
                ENOUGH_SPACE_BYTES >> 10
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
        while let Some((token, write)) = self.waiting.front() {
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
