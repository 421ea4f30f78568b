//! The thread that owns state and scheduler.

use super::blobs::Blobs;
use super::event_file::EventFile;
use super::job_logs::{JobLogs, line_of};
use super::metrics::Metrics;
use super::raft_thread::{Input, RaftSender};
use super::{Reply, guarded};
use crate::consensus;
use crate::leader::{Action, Answer, Denial, Event, Leader, Question, Ticket};
use crate::scheduler::{ConnectionId, Now};
use crate::state::{Command, Member, Outcome, Submission};
use anyhow::Context as _;
use evoring_protocol::peer::PeerHealth;
use evoring_protocol::version::build_id;
use evoring_protocol::worker::{WorkerCommand, WorkerReport};
use evoring_protocol::{ErrorCode, RemoteError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Something for the leader.
    Event(Event),
    /// A worker's connection began; commands go into its queue.
    Connected {
        connection: ConnectionId,
        link: WorkerLink,
    },
    /// A question.
    Ask {
        question: Question,
        reply: Reply<Result<Answer, Denial>>,
    },
    /// A job.
    Submit {
        submission: Box<Submission>,
        refuse_unless_fits: bool,
        reply: Reply<Result<Outcome, Denial>>,
    },
    /// Something else to write.
    Write {
        command: Command,
        reply: Reply<Result<Outcome, Denial>>,
    },
    /// Somebody else shall lead.
    HandOver,
    /// The process ends.
    Stop,
}

/// The outgoing side of a worker's connection. Dropping it ends the connection.
#[derive(Debug)]
pub(super) struct WorkerLink {
    /// Commands that wait for the network.
    pub commands: mpsc::Sender<WorkerCommand>,
    /// Takes the reason when the connection shall end.
    pub close: tokio::sync::oneshot::Sender<String>,
}

/// What consensus and the log say that waits for the thread; consensus keeps what comes beyond that.
const FIRST: usize = 1_024;

/// Sends messages to the thread.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    sender: mpsc::Sender<Message>,
    /// For consensus and the log. Free places of the other queue go to those who wait for one, so
    /// that what the group decided would come after thousands of clients.
    first: mpsc::Sender<Event>,
    /// The other end, until the thread takes it.
    first_events: Arc<Mutex<Option<mpsc::Receiver<Event>>>>,
    next_connection: Arc<AtomicU64>,
}

impl Inbox {
    pub(super) fn new(sender: mpsc::Sender<Message>) -> Self {
        let (first, first_events) = mpsc::channel(FIRST);
        Self {
            sender,
            first,
            first_events: Arc::new(Mutex::new(Some(first_events))),
            next_connection: Arc::new(AtomicU64::new(1)),
        }
    }

    /// What comes before all messages: for the thread, once.
    pub(super) fn first_events(&self) -> anyhow::Result<mpsc::Receiver<Event>> {
        let mut events = self
            .first_events
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        events
            .take()
            .context("two threads want to be the leader thread")
    }

    /// A name for a new connection.
    pub(super) fn connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits for room; false if the thread has ended.
    pub(super) async fn send(&self, message: Message) -> bool {
        self.sender.send(message).await.is_ok()
    }

    /// Sends if there is room; false if there is none.
    pub(super) fn offer(&self, message: Message) -> bool {
        self.sender.try_send(message).is_ok()
    }

    /// Sends before all messages, if there is room; gives the event back if there is none.
    pub(super) fn try_first(&self, event: Event) -> anyhow::Result<Option<Box<Event>>> {
        match self.first.try_send(event) {
            Ok(()) => Ok(None),
            Err(mpsc::error::TrySendError::Full(event)) => Ok(Some(Box::new(event))),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                anyhow::bail!("the leader thread has ended")
            }
        }
    }

    /// Sends before all messages; waits for room, on a thread of its own.
    pub(super) fn send_first(&self, event: Event) -> Result<(), mpsc::error::SendError<()>> {
        self.first
            .blocking_send(event)
            .map_err(|_| mpsc::error::SendError(()))
    }

    /// Asks a question.
    pub(super) async fn ask(&self, question: Question) -> Result<Answer, Denial> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.send(Message::Ask { question, reply }).await;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Submits a job and waits until it is durable.
    pub(super) async fn submit(
        &self,
        submission: Box<Submission>,
        refuse_unless_fits: bool,
    ) -> Result<Outcome, Denial> {
        let (reply, outcome) = tokio::sync::oneshot::channel();
        self.send(Message::Submit {
            submission,
            refuse_unless_fits,
            reply,
        })
        .await;
        outcome.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Writes something and waits until that is durable.
    pub(super) async fn write(&self, command: Command) -> Result<Outcome, Denial> {
        let (reply, outcome) = tokio::sync::oneshot::channel();
        self.send(Message::Write { command, reply }).await;
        outcome.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Tells the thread to end, after what it has been told before.
    pub(super) fn stop(&self) {
        let sender = self.sender.clone();
        tokio::spawn(async move { sender.send(Message::Stop).await });
    }
}

fn stopping() -> Denial {
    let message = "the coordinator stops; ask again when it is back";
    RemoteError::new(ErrorCode::NotReady, message).into()
}

/// What connections need to know of the leader thread's state at any time.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// This coordinator was elected, and is in office or takes it.
    pub is_elected: bool,
    /// This coordinator is in office.
    pub leads: bool,
    /// Members, as of what is applied.
    pub members: BTreeMap<u64, Member>,
    /// Lowest id that was never given.
    pub next_member: u64,
    /// Nodes of the membership in force; empty before it is known.
    pub nodes: BTreeSet<u64>,
}

impl Standing {
    fn of(leader: &Leader) -> Self {
        let state = leader.state();
        Self {
            is_elected: leader.is_elected(),
            leads: leader.scheduler().is_some(),
            members: state.members().clone(),
            next_member: state.next_member(),
            nodes: leader.nodes(),
        }
    }

    /// Whether the member of this id was removed, and has left the membership in force: its vote may
    /// be needed until then.
    pub(super) fn has_left(&self, id: u64) -> bool {
        let is_known = !self.nodes.is_empty() && id < self.next_member;
        is_known && !self.members.contains_key(&id) && !self.nodes.contains(&id)
    }
}

/// What the thread works with.
pub(super) struct LeaderThread {
    pub leader: Leader,
    pub messages: mpsc::Receiver<Message>,
    pub raft: RaftSender,
    pub events: EventFile,
    pub logs: JobLogs,
    pub blobs: Blobs,
    pub inbox: Inbox,
    pub metrics: Arc<Metrics>,
    pub runtime: tokio::runtime::Handle,
    pub standing: watch::Sender<Arc<Standing>>,
}

/// The running thread.
pub(super) struct RunningLeader(std::thread::JoinHandle<()>);

impl RunningLeader {
    /// Waits for its end.
    pub(super) fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the leader thread panicked");
        }
    }
}

impl LeaderThread {
    /// Starts the thread.
    pub(super) fn start(
        self,
        failed: mpsc::Sender<anyhow::Error>,
    ) -> anyhow::Result<RunningLeader> {
        let thread = std::thread::Builder::new()
            .name("evoring-leader".to_owned())
            .spawn(move || {
                // A panic in a core ends the process: half-made decisions must not go on.
                guarded("leader", &failed, || Worker::new(self)?.run());
            });
        Ok(RunningLeader(thread.context("starting the leader thread")?))
    }
}

/// What is taken together before anything follows from it: so many messages of `MESSAGE_COST` …
const COST_AT_ONCE: usize = 4_096;
/// … fewer if they hold much, each outcome or [`COMMAND_BYTES`] of entries costing 1: the next tick
/// waits for all of them.
const MESSAGE_COST: usize = 8;
/// About as many bytes as the outcome of an item has in an entry.
const COMMAND_BYTES: usize = 64;

struct Worker {
    parts: LeaderThread,
    /// What consensus and the log say.
    first: mpsc::Receiver<Event>,
    started: Instant,
    links: BTreeMap<ConnectionId, WorkerLink>,
    tickets: BTreeMap<Ticket, Reply<Result<Outcome, Denial>>>,
    questions: BTreeMap<Ticket, Reply<Result<Answer, Denial>>>,
    last_ticket: u64,
    /// When the others are told next how this process is.
    next_health_ms: u64,
}

/// What came.
enum Received {
    First(Event),
    Message(Message),
}

/// What is taken together.
#[derive(Default)]
struct Round {
    events: Vec<Event>,
    cost: usize,
    /// Somebody else shall lead, once the events are taken.
    hands_over: bool,
    /// The process ends, once the events are taken.
    ends: bool,
}

impl Round {
    fn add(&mut self, event: Event) {
        let held = match &event {
            Event::Committed(entries) => {
                entries.iter().map(|entry| entry.data.len()).sum::<usize>() / COMMAND_BYTES
            }
            Event::Report {
                report: WorkerReport::Results { outcomes, .. },
                ..
            } => outcomes.len(),
            _ => 0,
        };
        self.cost += MESSAGE_COST + held;
        self.events.push(event);
    }

    fn is_full(&self) -> bool {
        self.cost >= COST_AT_ONCE || self.hands_over || self.ends
    }
}

/// The others are told this often how this process is.
const HEALTH_MS: u64 = 500;
/// Requests whose clients went away are looked for when there are this many more.
const SWEEP: u64 = 256;

impl Worker {
    fn new(parts: LeaderThread) -> anyhow::Result<Self> {
        Ok(Self {
            first: parts.inbox.first_events()?,
            parts,
            started: Instant::now(),
            links: BTreeMap::new(),
            tickets: BTreeMap::new(),
            questions: BTreeMap::new(),
            last_ticket: 0,
            next_health_ms: 0,
        })
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            mono_ms: millis(self.started.elapsed()),
            wall_ms: millis(wall),
        }
    }

    fn run(mut self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        while self.turn(&runtime)? {}
        Ok(())
    }

    /// Waits for something to do, and does all that waits by then; false if the process ends.
    fn turn(&mut self, runtime: &tokio::runtime::Runtime) -> anyhow::Result<bool> {
        if self.parts.leader.is_tick_due(self.now()) {
            // However many messages wait.
            self.feed(vec![Event::Tick])?;
        }
        let deadline_ms = self.parts.leader.deadline_ms();
        let wait = Duration::from_millis(deadline_ms.saturating_sub(self.now().mono_ms));
        let mut round = Round::default();
        let (first, messages) = (&mut self.first, &mut self.parts.messages);
        let received = async {
            tokio::select! {
                biased;
                Some(event) = first.recv() => Received::First(event),
                message = messages.recv() => Received::Message(message.unwrap_or(Message::Stop)),
            }
        };
        match runtime.block_on(async { timeout(wait, received).await }) {
            Ok(Received::First(event)) => round.add(event),
            Ok(Received::Message(message)) => self.take(message, &mut round),
            Err(_) => round.add(Event::Tick),
        }
        self.take_waiting(&mut round);
        self.feed(round.events)?;
        if round.hands_over {
            self.tell_raft(consensus::Event::HandOver);
        }
        self.publish()?;
        Ok(!round.ends)
    }

    /// Takes what else waits: what consensus and the log say comes first.
    fn take_waiting(&mut self, round: &mut Round) {
        while !round.is_full() {
            if let Ok(event) = self.first.try_recv() {
                round.add(event);
            } else if let Ok(message) = self.parts.messages.try_recv() {
                self.take(message, round);
            } else {
                return;
            }
        }
    }

    fn take(&mut self, message: Message, round: &mut Round) {
        match message {
            Message::Event(event) => round.add(event),
            Message::Connected { connection, link } => {
                self.links.insert(connection, link);
            }
            Message::Ask { question, reply } => {
                let ticket = self.next_ticket();
                self.questions.insert(ticket, reply);
                round.add(Event::Ask { ticket, question });
            }
            Message::Submit {
                submission,
                refuse_unless_fits,
                reply,
            } => {
                let ticket = self.ticket(reply);
                round.add(Event::Submit {
                    ticket,
                    submission,
                    refuse_unless_fits,
                });
            }
            Message::Write { command, reply } => {
                let ticket = self.ticket(reply);
                round.add(Event::Write { ticket, command });
            }
            Message::HandOver => round.hands_over = true,
            Message::Stop => round.ends = true,
        }
    }

    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        if self.last_ticket.is_multiple_of(SWEEP) {
            // Clients that went away before their answer leave nothing behind.
            self.tickets.retain(|_, reply| !reply.is_closed());
            self.questions.retain(|_, reply| !reply.is_closed());
        }
        Ticket(self.last_ticket)
    }

    fn ticket(&mut self, reply: Reply<Result<Outcome, Denial>>) -> Ticket {
        let ticket = self.next_ticket();
        self.tickets.insert(ticket, reply);
        ticket
    }

    /// Tells metrics, connections and the other coordinators how this one stands.
    fn publish(&mut self) -> anyhow::Result<()> {
        let leader = &self.parts.leader;
        self.parts.metrics.observe(leader);
        let known = self.parts.standing.borrow().clone();
        let state = leader.state();
        if known.is_elected != leader.is_elected()
            || known.leads != leader.scheduler().is_some()
            || known.next_member != state.next_member()
            || known.members != *state.members()
            || known.nodes != leader.nodes()
        {
            let standing = Arc::new(Standing::of(leader));
            self.parts.standing.send_replace(standing);
        }
        let now_ms = self.now().mono_ms;
        if now_ms >= self.next_health_ms {
            self.next_health_ms = now_ms + HEALTH_MS;
            let health = PeerHealth {
                build: build_id(),
                version: state.reads(),
                process: std::process::id(),
                applied: state.applied(),
                log_bytes: self.parts.metrics.log_size(),
                free_bytes: self.parts.metrics.free_bytes(),
                trouble: leader.read_only().map(str::to_owned),
            };
            self.parts.raft.send(Input::Health(health.clone()));
            let id = leader.id();
            // What this process is like is shown like that of the others.
            self.feed(vec![Event::Health { id, health }])?;
        }
        Ok(())
    }

    /// Feeds events that came together, and does what follows.
    fn feed(&mut self, events: Vec<Event>) -> anyhow::Result<()> {
        let mut ended = Vec::new();
        let mut committed = Vec::new();
        for event in &events {
            match event {
                Event::Disconnected { connection, .. } => ended.push(*connection),
                Event::Committed(entries) => {
                    committed.extend(entries.iter().filter_map(|entry| entry.proposal));
                }
                _ => {}
            }
        }
        let now = self.now();
        for action in self.parts.leader.handle_all(events, now)? {
            self.act(action);
        }
        for token in committed {
            self.parts.metrics.committed(token);
        }
        for connection in ended {
            self.links.remove(&connection);
        }
        Ok(())
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Propose { token, data } => {
                self.parts.metrics.proposed(token);
                self.tell_raft(consensus::Event::Propose { token, data });
            }
            Action::Applied(index) => self.tell_raft(consensus::Event::Applied { index }),
            Action::Snapshot { index, data } => {
                self.tell_raft(consensus::Event::Snapshot { index, data });
            }
            Action::Read { token } => self.tell_raft(consensus::Event::Read { token }),
            Action::HandOver { to } => {
                tracing::warn!(to, "gives way to a member whose disk is not full");
                self.tell_raft(consensus::Event::HandOverTo { id: to });
            }
            Action::Members(members) => self.parts.raft.send(Input::Members(members)),
            Action::Answer { ticket, answer } => {
                if let Some(reply) = self.questions.remove(&ticket) {
                    // The asker may have gone away.
                    let _ = reply.send(answer);
                }
            }
            Action::Send {
                connection,
                command,
            } => self.send(connection, command),
            Action::Close { connection, reason } => self.close(connection, reason),
            Action::Reply { ticket, outcome } => {
                if let Some(reply) = self.tickets.remove(&ticket) {
                    // The client may have gone away.
                    let _ = reply.send(outcome);
                }
            }
            Action::Event { index, kind } => {
                if self.parts.events.append(index, kind.clone()) {
                    if let Some((job, line)) = line_of(&kind) {
                        self.parts.logs.append(job, None, vec![line]);
                    }
                    self.parts.metrics.event(&kind);
                }
            }
            Action::Log { job, worker, lines } => {
                if self.parts.leader.state().jobs().contains_key(&job) {
                    self.parts.logs.append(job, Some(worker), lines);
                }
            }
            Action::StoreBlob { digest, bytes } => {
                let (blobs, inbox) = (self.parts.blobs.clone(), self.parts.inbox.clone());
                self.parts.runtime.spawn(async move {
                    if blobs.put_until_stored(digest, bytes).await {
                        inbox.send(Message::Event(Event::BlobStored(digest))).await;
                    }
                });
            }
        }
    }

    fn tell_raft(&self, event: consensus::Event) {
        self.parts.raft.send(Input::Core(event));
    }

    fn send(&mut self, connection: ConnectionId, command: WorkerCommand) {
        let Some(link) = self.links.get(&connection) else {
            return;
        };
        if link.commands.try_send(command).is_err() {
            self.close(
                connection,
                "the agent does not read what it is told; connect again".to_owned(),
            );
        }
    }

    fn close(&mut self, connection: ConnectionId, reason: String) {
        if let Some(link) = self.links.remove(&connection) {
            // The connection may have ended by itself.
            let _ = link.close.send(reason);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
