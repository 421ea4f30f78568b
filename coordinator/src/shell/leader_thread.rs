//! The thread that owns state and scheduler.

use super::blobs::Blobs;
use super::event_file::EventFile;
use super::job_logs::{JobLogs, line_of};
use super::metrics::Metrics;
use super::raft_thread::RaftSender;
use super::{Reply, guarded};
use crate::consensus;
use crate::leader::{Action, Answer, Event, Leader, Question, Ticket};
use crate::scheduler::{ConnectionId, Now};
use crate::state::{Outcome, Submission};
use anyhow::Context as _;
use evoring_protocol::worker::WorkerCommand;
use evoring_protocol::{ErrorCode, JobId, RemoteError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
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
        reply: Reply<Result<Answer, RemoteError>>,
    },
    /// A job.
    Submit {
        submission: Box<Submission>,
        refuse_unless_fits: bool,
        reply: Reply<Result<Outcome, RemoteError>>,
    },
    /// A cancellation.
    Cancel {
        job: JobId,
        reply: Reply<Result<Outcome, RemoteError>>,
    },
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

/// Sends messages to the thread.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    sender: mpsc::Sender<Message>,
    next_connection: Arc<AtomicU64>,
}

impl Inbox {
    pub(super) fn new(sender: mpsc::Sender<Message>) -> Self {
        Self {
            sender,
            next_connection: Arc::new(AtomicU64::new(1)),
        }
    }

    /// A name for a new connection.
    pub(super) fn connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits for room; false if the thread has ended.
    pub(super) async fn send(&self, message: Message) -> bool {
        self.sender.send(message).await.is_ok()
    }

    /// Waits for room, on a thread of its own.
    pub(super) fn send_blocking(&self, message: Message) -> Result<(), mpsc::error::SendError<()>> {
        self.sender
            .blocking_send(message)
            .map_err(|_| mpsc::error::SendError(()))
    }

    /// Asks a question.
    pub(super) async fn ask(&self, question: Question) -> Result<Answer, RemoteError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.send(Message::Ask { question, reply }).await;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Submits a job and waits until it is durable.
    pub(super) async fn submit(
        &self,
        submission: Box<Submission>,
        refuse_unless_fits: bool,
    ) -> Result<Outcome, RemoteError> {
        let (reply, outcome) = tokio::sync::oneshot::channel();
        self.send(Message::Submit {
            submission,
            refuse_unless_fits,
            reply,
        })
        .await;
        outcome.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Cancels a job and waits until that is durable.
    pub(super) async fn cancel(&self, job: JobId) -> Result<Outcome, RemoteError> {
        let (reply, outcome) = tokio::sync::oneshot::channel();
        self.send(Message::Cancel { job, reply }).await;
        outcome.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Tells the thread to end, after what it has been told before.
    pub(super) fn stop(&self) {
        let sender = self.sender.clone();
        tokio::spawn(async move { sender.send(Message::Stop).await });
    }
}

fn stopping() -> RemoteError {
    RemoteError::new(
        ErrorCode::NotReady,
        "the coordinator stops; ask again when it is back",
    )
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
                guarded("leader", &failed, || Worker::new(self).run());
            });
        Ok(RunningLeader(thread.context("starting the leader thread")?))
    }
}

struct Worker {
    parts: LeaderThread,
    started: Instant,
    links: BTreeMap<ConnectionId, WorkerLink>,
    tickets: BTreeMap<Ticket, Reply<Result<Outcome, RemoteError>>>,
    last_ticket: u64,
}

impl Worker {
    fn new(parts: LeaderThread) -> Self {
        Self {
            parts,
            started: Instant::now(),
            links: BTreeMap::new(),
            tickets: BTreeMap::new(),
            last_ticket: 0,
        }
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
        loop {
            if self.parts.leader.is_tick_due(self.now()) {
                // However many messages wait.
                self.feed(Event::Tick)?;
            }
            let deadline_ms = self.parts.leader.deadline_ms();
            let wait = Duration::from_millis(deadline_ms.saturating_sub(self.now().mono_ms));
            let messages = &mut self.parts.messages;
            match runtime.block_on(async { timeout(wait, messages.recv()).await }) {
                Ok(None | Some(Message::Stop)) => return Ok(()),
                Ok(Some(message)) => self.take(message)?,
                Err(_) => self.feed(Event::Tick)?,
            }
            let leader = &self.parts.leader;
            self.parts.metrics.observe(leader, self.started.elapsed());
        }
    }

    fn take(&mut self, message: Message) -> anyhow::Result<()> {
        match message {
            Message::Event(event) => self.feed(event),
            Message::Connected { connection, link } => {
                self.links.insert(connection, link);
                Ok(())
            }
            Message::Ask { question, reply } => {
                // The asker may have gone away.
                let _ = reply.send(self.parts.leader.answer(question, self.now()));
                Ok(())
            }
            Message::Submit {
                submission,
                refuse_unless_fits,
                reply,
            } => {
                let ticket = self.ticket(reply);
                self.feed(Event::Submit {
                    ticket,
                    submission,
                    refuse_unless_fits,
                })
            }
            Message::Cancel { job, reply } => {
                let ticket = self.ticket(reply);
                self.feed(Event::Cancel { ticket, job })
            }
            Message::Stop => Ok(()),
        }
    }

    fn ticket(&mut self, reply: Reply<Result<Outcome, RemoteError>>) -> Ticket {
        // Clients that went away before their answer leave nothing behind.
        self.tickets.retain(|_, reply| !reply.is_closed());
        self.last_ticket += 1;
        self.tickets.insert(Ticket(self.last_ticket), reply);
        Ticket(self.last_ticket)
    }

    fn feed(&mut self, event: Event) -> anyhow::Result<()> {
        let ended = match &event {
            Event::Disconnected { connection, .. } => Some(*connection),
            _ => None,
        };
        let now = self.now();
        for action in self.parts.leader.handle(event, now)? {
            self.act(action);
        }
        if let Some(connection) = ended {
            self.links.remove(&connection);
        }
        Ok(())
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Propose { token, data } => self
                .parts
                .raft
                .send(consensus::Event::Propose { token, data }),
            Action::Applied(index) => self.parts.raft.send(consensus::Event::Applied { index }),
            Action::Snapshot { index, data } => self
                .parts
                .raft
                .send(consensus::Event::Snapshot { index, data }),
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
                    blobs.put_until_stored(digest, bytes).await;
                    inbox.send(Message::Event(Event::BlobStored(digest))).await;
                });
            }
        }
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
