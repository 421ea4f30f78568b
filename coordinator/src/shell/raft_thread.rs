//! The thread that owns consensus. It never waits for the disk, the network or the leader thread:
//! whoever waits is given up for dead by the others.

use super::guarded;
use super::leader_thread::Inbox;
use super::log_writer::{Job, LogWriter};
use super::metrics::Metrics;
use super::peers::{Complaints, Links, Outgoing};
use crate::consensus::{Action, Consensus, Event, Goal, Rejection, StopReason, TICK_MS};
use crate::leader::{self, GroupReport};
use crate::scheduler::{HEARTBEAT_MS, LOST_MS};
use crate::state::Member;
use crate::storage::SnapshotRecord;
use anyhow::Context as _;
use evoring_protocol::peer::PeerHealth;
use prost::Message as _;
use raft::eraftpb::{self, ConfState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Raft's clock.
const TICK: Duration = Duration::from_millis(TICK_MS);
/// Ticks that are made up for after a pause; more would only call an election that is not needed.
const LATE_TICKS: u32 = 4;
/// A process that did not run for so long must not take its own silence for that of its workers, which
/// are given up after [`LOST_MS`] without the sign of life that they send every [`HEARTBEAT_MS`].
const PAUSE: Duration = Duration::from_millis(LOST_MS - 2 * HEARTBEAT_MS);
/// The leader thread is told how the group stands this often, and whenever membership or leader change.
const REPORT_TICKS: u64 = 10;
/// Inputs that wait for the thread, besides those from other coordinators. The leader thread has at
/// most [`leader::IN_FLIGHT`] proposals out and gives one answer to each batch of entries; questions
/// are bounded by the gates of clients; so this is never full.
const QUEUE: usize = 16_384;
/// Inputs that are taken together before anything follows from them.
const INPUTS_AT_ONCE: usize = 256;
/// Messages from other coordinators that wait; more are dropped, as a network may.
const PEER_MESSAGES: usize = 4_096;
/// Bytes of those messages.
const PEER_BYTES: usize = 64 << 20;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Input {
    /// An event for consensus.
    Core(Event),
    /// A message of another coordinator, and its size.
    Peer {
        /// Who, as its connection says.
        from: u64,
        /// What.
        message: Box<eraftpb::Message>,
        /// Its size.
        bytes: usize,
    },
    /// Where another coordinator says that it listens.
    Address {
        /// Who.
        id: u64,
        /// Name in its certificate.
        name: String,
        /// `HOST:PORT`.
        address: String,
    },
    /// The members as of what is applied.
    Members(BTreeMap<u64, Member>),
    /// How this process is, for the others.
    Health(PeerHealth),
    /// The newest stored snapshot, for this message.
    Snapshot {
        /// To another coordinator.
        message: Box<eraftpb::Message>,
        /// What is stored, if it could be read.
        record: Option<SnapshotRecord>,
    },
    /// Another coordinator says that this one was removed.
    Removed,
    /// The process ends.
    Stop,
}

/// Sends inputs to the thread.
#[derive(Debug, Clone)]
pub(super) struct RaftSender {
    sender: SyncSender<Input>,
    waiting: Arc<Waiting>,
}

/// What came from other coordinators and waits.
#[derive(Debug, Default)]
struct Waiting {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// A channel to a thread that is yet to be started.
pub(super) fn input_channel() -> (RaftSender, Receiver<Input>) {
    let (sender, inputs) = sync_channel(QUEUE + PEER_MESSAGES);
    let waiting = Arc::default();
    (RaftSender { sender, waiting }, inputs)
}

impl RaftSender {
    pub(super) fn send(&self, input: Input) {
        match self.sender.try_send(input) {
            Ok(()) => {}
            // The thread has ended; the process is about to.
            Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                panic!("more than {QUEUE} inputs wait for the raft thread")
            }
        }
    }

    /// Hands over where another coordinator says that it listens, unless too many messages wait: it
    /// says so whenever it connects.
    pub(super) fn address(&self, id: u64, name: String, address: String) {
        let messages = self.waiting.messages.fetch_add(1, Ordering::Relaxed);
        if messages >= PEER_MESSAGES {
            return self.taken(0);
        }
        self.send(Input::Address { id, name, address });
    }

    /// Hands a message of another coordinator over, unless too many wait.
    pub(super) fn peer(&self, from: u64, message: eraftpb::Message, bytes: usize) {
        let waiting = &self.waiting;
        let messages = waiting.messages.fetch_add(1, Ordering::Relaxed);
        let all = waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        // A snapshot is alone larger than that; it comes once in a long while.
        let is_snapshot = message.snapshot.is_some();
        if messages >= PEER_MESSAGES || (all + bytes > PEER_BYTES && !is_snapshot) {
            self.taken(bytes);
            tracing::debug!(
                from,
                "a message of another coordinator is dropped: too many wait"
            );
            return;
        }
        let message = Box::new(message);
        self.send(Input::Peer {
            from,
            message,
            bytes,
        });
    }

    fn taken(&self, bytes: usize) {
        self.waiting.messages.fetch_sub(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The running thread.
#[derive(Debug)]
pub(super) struct RaftThread {
    sender: RaftSender,
    thread: JoinHandle<()>,
}

impl RaftThread {
    /// Ends it, after what it has been told before, and waits.
    pub(super) fn join(self) {
        self.sender.send(Input::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the raft thread panicked");
        }
    }
}

/// What the thread works with.
pub(super) struct RaftParts {
    pub consensus: Consensus,
    pub log: LogWriter,
    pub links: Links,
    pub inbox: Inbox,
    pub metrics: Arc<Metrics>,
    pub members: BTreeMap<u64, Member>,
    /// Try to lead at once: the group of one.
    pub campaigns: bool,
}

impl RaftParts {
    /// Starts the thread.
    pub(super) fn start(
        self,
        sender: RaftSender,
        inputs: Receiver<Input>,
        failed: mpsc::Sender<anyhow::Error>,
    ) -> anyhow::Result<RaftThread> {
        let waiting = Arc::clone(&sender.waiting);
        let thread = std::thread::Builder::new()
            .name("evoring-raft".to_owned())
            .spawn(move || {
                // RAFT-4: a panic inside Raft ends the process.
                guarded("raft", &failed, || Worker::new(self, waiting).run(&inputs));
            })
            .context("starting the raft thread")?;
        Ok(RaftThread { sender, thread })
    }
}

struct Worker {
    parts: RaftParts,
    waiting: Arc<Waiting>,
    /// What the leader thread is told as soon as it has room.
    told: VecDeque<leader::Event>,
    /// Coordinators to which a message was dropped; consensus is to ask them anew what they have.
    lost: BTreeSet<u64>,
    complaints: Complaints,
    ticks: u64,
    /// The durable membership that the leader thread was told last.
    reported: ConfState,
}

impl Worker {
    fn new(parts: RaftParts, waiting: Arc<Waiting>) -> Self {
        Self {
            parts,
            waiting,
            told: VecDeque::new(),
            lost: BTreeSet::new(),
            complaints: Complaints::default(),
            ticks: 0,
            reported: ConfState::default(),
        }
    }

    fn run(mut self, inputs: &Receiver<Input>) -> anyhow::Result<()> {
        let mut next_tick = Instant::now() + TICK;
        let mut last_seen = Instant::now();
        let members = self.parts.members.clone();
        self.take(Input::Members(members))?;
        self.report();
        if self.parts.campaigns {
            self.feed(Event::Campaign)?;
        }
        loop {
            let timeout = next_tick.saturating_duration_since(Instant::now());
            let received = inputs.recv_timeout(timeout);
            // First: the leader thread may already want what follows from workers that seem lost.
            let paused = std::mem::replace(&mut last_seen, Instant::now()).elapsed();
            if paused > PAUSE {
                tracing::warn!(?paused, "this process did not run for a while");
                self.feed(Event::Paused)?;
            }
            match received {
                Ok(Input::Stop) => break,
                Ok(input) => {
                    if !self.take_all(input, inputs)? {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            if now >= next_tick {
                self.tick()?;
                // A process that was stopped for a while does not hurry through what it missed.
                next_tick =
                    (next_tick + TICK).max(now.checked_sub(TICK * LATE_TICKS).unwrap_or(now));
            }
            self.tell_waiting()?;
        }
        self.parts.log.join();
        Ok(())
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        self.ticks += 1;
        self.feed(Event::Tick)?;
        if self.ticks.is_multiple_of(REPORT_TICKS) {
            self.report();
        }
        Ok(())
    }

    /// Tells the leader thread how the group stands.
    fn report(&mut self) {
        let consensus = &self.parts.consensus;
        self.parts.metrics.term(consensus.term());
        let report = GroupReport {
            term: consensus.term(),
            commit: consensus.committed(),
            last: consensus.last_index(),
            membership: consensus.membership().clone(),
            applied: consensus.applied_membership().clone(),
            progress: consensus.progress(),
        };
        self.reported = report.membership.clone();
        self.tell(leader::Event::Group(Box::new(report)));
    }

    /// Takes an input and those that wait behind it; false if the process ends.
    fn take_all(&mut self, first: Input, inputs: &Receiver<Input>) -> anyhow::Result<bool> {
        let mut events = Vec::new();
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(input) = next {
            taken += 1;
            match input {
                Input::Stop => return Ok(false),
                Input::Core(event) => events.push(event),
                Input::Peer {
                    from,
                    message,
                    bytes,
                } => {
                    self.waiting.messages.fetch_sub(1, Ordering::Relaxed);
                    self.waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
                    events.push(Event::Receive { from, message });
                }
                other => {
                    self.feed_all(std::mem::take(&mut events))?;
                    self.take(other)?;
                }
            }
            next = (taken < INPUTS_AT_ONCE)
                .then(|| inputs.try_recv().ok())
                .flatten();
        }
        self.feed_all(events)?;
        Ok(true)
    }

    fn take(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Core(_) | Input::Peer { .. } | Input::Stop => Ok(()),
            Input::Address { id, name, address } => {
                self.waiting.messages.fetch_sub(1, Ordering::Relaxed);
                self.parts.links.hint(id, name, address);
                Ok(())
            }
            Input::Members(members) => {
                let goals = members.iter().map(|(&id, member)| {
                    let may_vote = member.has_joined;
                    (id, Goal { may_vote })
                });
                let goals = goals.collect();
                self.parts.links.set_members(&members);
                self.parts.members = members;
                self.feed(Event::Members(goals))
            }
            Input::Health(health) => {
                self.parts.links.set_health(&health);
                Ok(())
            }
            Input::Snapshot { message, record } => self.send_snapshot(*message, record),
            Input::Removed => Err(StopReason::Removed.into()),
        }
    }

    fn feed(&mut self, event: Event) -> anyhow::Result<()> {
        self.feed_all(vec![event])
    }

    /// Feeds events and hands out what follows.
    fn feed_all(&mut self, events: Vec<Event>) -> anyhow::Result<()> {
        let actions = self.parts.consensus.handle_all(events);
        self.act(actions)?;
        if self.reported != *self.parts.consensus.membership() {
            self.report();
        }
        let lost = std::mem::take(&mut self.lost);
        if lost.is_empty() {
            return Ok(());
        }
        let unreachable = lost.into_iter().map(|id| Event::Unreachable { id });
        let actions = self.parts.consensus.handle_all(unreachable);
        self.act(actions)?;
        // To be unreachable once is enough.
        self.lost.clear();
        Ok(())
    }

    fn act(&mut self, actions: Vec<Action>) -> anyhow::Result<()> {
        for action in actions {
            match action {
                Action::Persist { token, write } => {
                    self.parts.log.send(Job::Write(token, Box::new(write)));
                }
                Action::Send(message) => self.send(&message),
                Action::SendSnapshot(message) => {
                    self.parts.log.send(Job::ReadSnapshot(message));
                }
                Action::WantSnapshot { index } => {
                    self.tell(leader::Event::SnapshotWanted { index });
                }
                Action::Apply(entries) => self.tell(leader::Event::Committed(entries)),
                Action::Install { index, term, data } => {
                    tracing::info!(
                        index,
                        term,
                        bytes = data.len(),
                        "took the leader's snapshot"
                    );
                    self.tell(leader::Event::Installed { index, term, data });
                }
                Action::ReadReady { token, index } => {
                    self.tell(leader::Event::ReadReady { token, index });
                }
                Action::ReadFailed { token } => self.tell(leader::Event::ReadFailed { token }),
                Action::Membership(membership) => {
                    tracing::info!(?membership, "the group's membership");
                    let members = &self.parts.members;
                    let nodes = GroupReport::nodes_of(&membership);
                    self.parts
                        .links
                        .retain(|id| members.contains_key(&id) || nodes.contains(&id));
                    // At once: who is told that it has left, and what people wait for, must not
                    // follow from a membership of which the one in question was no part yet.
                    self.report();
                }
                Action::Leader(leader) => {
                    let term = self.parts.consensus.term();
                    tracing::info!(?leader, term, "leader");
                    self.parts.metrics.leader_changed();
                    self.tell(leader::Event::Leader(leader));
                    self.report();
                }
                Action::Rejected(rejection) => self.rejected(&rejection),
                Action::Stop(reason) => return Err(reason.into()),
                Action::Elected { term } => self.tell(leader::Event::Elected { term }),
                Action::SteppedDown => self.tell(leader::Event::SteppedDown),
                Action::Refused { token, reason } => {
                    self.tell(leader::Event::Refused { token, reason });
                }
            }
        }
        Ok(())
    }

    fn rejected(&mut self, rejection: &Rejection) {
        self.parts.metrics.rejected();
        let from = rejection.sender().unwrap_or(0);
        let Some(unsaid) = self.complaints.may_complain(from, Instant::now()) else {
            return;
        };
        let member = self.parts.members.get(&from);
        let name = member.map_or("not a known member", |member| &member.name);
        tracing::warn!(
            from,
            name,
            %rejection,
            unsaid,
            "a message of another coordinator is not taken: does it run the same build as this one?"
        );
    }

    fn send(&mut self, message: &eraftpb::Message) {
        let to = message.to;
        let is_sent = self
            .parts
            .links
            .send(to, Outgoing::Raft(message.encode_to_vec()));
        if !is_sent {
            tracing::debug!(to, "a message to another coordinator is dropped");
            self.lost.insert(to);
        }
    }

    fn send_snapshot(
        &mut self,
        mut message: eraftpb::Message,
        record: Option<SnapshotRecord>,
    ) -> anyhow::Result<()> {
        let to = message.to;
        let is_sent = record.is_some_and(|record| {
            message.snapshot = Some(eraftpb::Snapshot {
                data: Vec::new(),
                metadata: Some(eraftpb::SnapshotMetadata {
                    conf_state: Some(record.membership),
                    index: record.index,
                    term: record.term,
                }),
            });
            let message = message.encode_to_vec();
            let state = record.data;
            self.parts
                .links
                .send(to, Outgoing::Snapshot { message, state })
        });
        match is_sent {
            true => Ok(()),
            false => self.feed(Event::SnapshotSent { to, arrived: false }),
        }
    }

    fn tell(&mut self, event: leader::Event) {
        self.told.push_back(event);
    }

    /// Hands over what the leader thread has room for.
    fn tell_waiting(&mut self) -> anyhow::Result<()> {
        while let Some(event) = self.told.pop_front() {
            match self.parts.inbox.try_first(event)? {
                None => {}
                Some(event) => {
                    self.told.push_front(*event);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
