//! The connection that this coordinator made to one other.

use super::super::leader_thread::Message;
use super::super::raft_thread::Input;
use super::Common;
use super::queue::{Queue, Waiting, queue};
use crate::consensus;
use crate::leader;
use evoring_protocol::Digest;
use evoring_protocol::limits::BLOB_CHUNK_BYTES;
use evoring_protocol::peer::{
    PeerHealth, PeerHello, PeerMessage, PeerRefusal, PeerReply, RAFT_MESSAGES,
};
use evoring_protocol::transport::{Connection, Role, Sender, TransportError, look_up};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// An attempt to connect takes at most this long.
const CONNECT: Duration = Duration::from_secs(1);
/// The other side answers a hello within this time.
const ANSWER: Duration = Duration::from_secs(2);
/// Pauses between attempts double up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// What this process is like is told this often.
const HEALTH: Duration = Duration::from_millis(500);
/// Bytes of Raft's messages in one frame.
const FRAME_BYTES: usize = 1 << 20;
/// A snapshot that takes longer has not arrived.
const SNAPSHOT: Duration = Duration::from_secs(300);

/// What goes to another coordinator.
#[derive(Debug)]
pub(in super::super) enum Outgoing {
    /// An encoded message of Raft.
    Raft(Vec<u8>),
    /// A snapshot: Raft's message and the state.
    Snapshot {
        /// Encoded, without the state.
        message: Vec<u8>,
        /// The state.
        state: Vec<u8>,
    },
}

/// A link; dropping it ends it.
#[derive(Debug)]
pub(super) struct Link {
    queue: Queue,
    name: String,
    address: String,
    has_joined: bool,
    /// Where the member says that it listens.
    heard: watch::Sender<Option<String>>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(super) fn start(
        common: Common,
        to: u64,
        name: String,
        address: String,
        has_joined: bool,
        health: watch::Receiver<Option<PeerHealth>>,
    ) -> Self {
        let (queue, outgoing) = queue();
        let (heard, heard_by_task) = watch::channel(None);
        let runtime = common.runtime.clone();
        let task = Task {
            common,
            to,
            name: name.clone(),
            address: address.clone(),
            has_joined,
            outgoing,
            health,
            heard: heard_by_task,
            tries_heard: false,
            told: None,
            untold: None,
        };
        Self {
            queue,
            name,
            address,
            has_joined,
            heard,
            task: runtime.spawn(task.run()).abort_handle(),
        }
    }

    pub(super) fn is_to(&self, name: &str, address: &str, has_joined: bool) -> bool {
        self.name == name && self.address == address && self.has_joined == has_joined
    }

    /// Notes where a coordinator of this certificate says that it listens.
    pub(super) fn heard(&self, name: &str, address: String) {
        if self.name == name {
            let heard = (address != self.address).then_some(address);
            self.heard.send_if_modified(|known| {
                let is_new = *known != heard;
                *known = heard;
                is_new
            });
        }
    }

    pub(super) fn send(&self, outgoing: Outgoing) -> bool {
        self.queue.send(outgoing)
    }
}

struct Task {
    common: Common,
    to: u64,
    name: String,
    address: String,
    has_joined: bool,
    outgoing: Waiting,
    health: watch::Receiver<Option<PeerHealth>>,
    /// Where the member says that it listens, if that is not `address`.
    heard: watch::Receiver<Option<String>>,
    /// Whether that is tried next (`PEER-3`).
    tries_heard: bool,
    /// What the leader thread was told last of the way to this coordinator: there is a problem, or none
    /// any more. Nothing yet by this link, but maybe by one that it replaced.
    told: Option<Option<String>>,
    /// What it is yet to be told: it had no room.
    untold: Option<Option<String>>,
}

/// Why a connection came to nothing.
enum Failure {
    Transport(TransportError),
    Refused(PeerRefusal, String),
    Other(String),
}

impl Failure {
    /// No address of `place` could be connected to.
    fn nowhere(place: &str, failures: &[TransportError]) -> Self {
        let failures: Vec<String> = failures.iter().map(ToString::to_string).collect();
        Self::Other(match failures.as_slice() {
            [] => format!("address {place} is not known"),
            failures => failures.join("; "),
        })
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl Task {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let place = self.place();
            match self.connect(&place).await {
                Ok((connection, sender)) => {
                    pause = FIRST_PAUSE;
                    self.told(None);
                    if place != self.address {
                        let (name, known) = (&self.name, &self.address);
                        tracing::warn!(
                            to = self.to,
                            address = place,
                            known,
                            "a coordinator is not where the group knows it: `evoring cluster add {name} {place}` tells it"
                        );
                    }
                    let error = self.talk(&connection, sender).await;
                    tracing::info!(to = self.to, address = place, %error, "lost a coordinator");
                    self.lost();
                }
                Err(failure) => {
                    let problem = match failure {
                        Failure::Refused(PeerRefusal::Removed, _) => {
                            self.common.raft.send(Input::Removed);
                            return;
                        }
                        Failure::Refused(_, message) | Failure::Other(message) => message,
                        Failure::Transport(error) => error.to_string(),
                    };
                    // Of two places that do not answer, people read about the one that they gave.
                    if place == self.address || self.told.is_none() {
                        self.told(Some(problem));
                    }
                    self.tries_heard = !self.tries_heard;
                }
            }
            // What waits for a coordinator that is away is out of date when it is back.
            while let Some(outgoing) = self.outgoing.try_recv() {
                self.dropped(&outgoing);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = self.heard.changed() => self.tries_heard = true,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Where the member is looked for next.
    fn place(&mut self) -> String {
        let heard = self.heard.borrow_and_update().clone();
        let heard = heard.filter(|_| self.tries_heard);
        heard.unwrap_or_else(|| self.address.clone())
    }

    fn lost(&self) {
        let id = self.to;
        let event = consensus::Event::Unreachable { id };
        self.common.raft.send(Input::Core(event));
    }

    fn dropped(&self, outgoing: &Outgoing) {
        if matches!(outgoing, Outgoing::Snapshot { .. }) {
            self.snapshot_sent(false);
        }
    }

    fn snapshot_sent(&self, arrived: bool) {
        let to = self.to;
        let event = consensus::Event::SnapshotSent { to, arrived };
        self.common.raft.send(Input::Core(event));
    }

    /// Tells the leader thread, for people, when something changes.
    fn told(&mut self, problem: Option<String>) {
        if self.told.as_ref() != Some(&problem) {
            if let Some(problem) = &problem {
                tracing::warn!(to = self.to, address = %self.address, problem, "no way to a coordinator");
            }
            self.told = Some(problem.clone());
            self.untold = Some(problem);
        }
        self.tell();
    }

    /// Tells what is untold, if there is room: Raft's messages do not wait for clients and workers.
    fn tell(&mut self) {
        if let Some(problem) = &self.untold {
            let (id, problem) = (self.to, problem.clone());
            let event = leader::Event::Contact { id, problem };
            if self.common.inbox.offer(Message::Event(event)) {
                self.untold = None;
            }
        }
    }

    /// A connection on which the other side has welcomed this one.
    async fn connect(&self, place: &str) -> Result<(Connection, Sender), Failure> {
        // A coordinator that is behind may not know that the member has joined: an id that it gave to
        // a process without one could be that of a lost disk (`GROUP-1`).
        if !self.has_joined && !self.common.standing.borrow().leads {
            let message = "is yet to be taken in by the leader";
            return Err(Failure::Other(message.to_owned()));
        }
        let failed = |error| Failure::Other(format!("address {place}: {error}"));
        let addresses = look_up(place).await.map_err(failed)?;
        let connector = &self.common.connector;
        let connection = connector
            .connect_first(CONNECT, &addresses, Role::Coordinator)
            .await
            .map_err(|failures| Failure::nowhere(place, &failures))?;
        if connection.peer().name != self.name {
            let got = connection.peer().name.clone();
            connection.close("another coordinator was expected here");
            return Err(Failure::Other(format!(
                "at {place} is coordinator {got}, expected {}",
                self.name
            )));
        }
        let (mut sender, mut receiver) = connection.open().await?;
        let hello = PeerHello {
            group: self.common.group,
            from: self.common.id,
            to: self.to,
            address: self.common.address.clone(),
        };
        let first = match self.has_joined {
            true => PeerMessage::Hello(hello),
            false => PeerMessage::Join(hello),
        };
        sender.send(&first).await?;
        let reply = tokio::time::timeout(ANSWER, receiver.receive::<PeerReply>()).await;
        match reply {
            Ok(Ok(Some(PeerReply::Welcome))) => {}
            Ok(Ok(Some(PeerReply::Refused { refusal, message }))) => {
                return Err(Failure::Refused(refusal, message));
            }
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(_)) | Err(_) => return Err(Failure::Other("no answer to the hello".to_owned())),
        }
        if !self.has_joined {
            let event = leader::Event::Joined { id: self.to };
            let inbox = self.common.inbox.clone();
            // It must arrive, but nothing here waits for it.
            tokio::spawn(async move { inbox.send(Message::Event(event)).await });
        }
        Ok((connection, sender))
    }

    /// Sends what comes until the connection is lost.
    async fn talk(&mut self, connection: &Connection, sender: Sender) -> TransportError {
        let (frames, writer) = sender.into_queue::<PeerMessage>(4);
        let mut health = tokio::time::interval(HEALTH);
        loop {
            let frame = tokio::select! {
                biased;
                error = connection.closed() => return error,
                () = frames.closed() => break,
                _ = health.tick() => {
                    self.tell();
                    let health = self.health.borrow().clone();
                    match health {
                        Some(health) => PeerMessage::Health(health),
                        None => continue,
                    }
                }
                outgoing = self.outgoing.recv() => match outgoing {
                    Some(Outgoing::Raft(message)) => self.raft_frame(connection, message),
                    Some(Outgoing::Snapshot { message, state }) => {
                        self.start_snapshot(connection, message, state);
                        continue;
                    }
                    None => std::future::pending().await,
                },
            };
            // The writer waits for the network; so does this, and the queue behind it overflows.
            if frames.send(frame).await.is_err() {
                break;
            }
        }
        drop(frames);
        match writer.await {
            Ok(Err(error)) => error,
            _ => connection.closed().await,
        }
    }

    /// A frame with this message and those that wait behind it.
    fn raft_frame(&mut self, connection: &Connection, first: Vec<u8>) -> PeerMessage {
        let mut bytes = first.len();
        let mut messages = vec![first];
        while messages.len() < RAFT_MESSAGES && bytes < FRAME_BYTES {
            match self.outgoing.try_recv() {
                Some(Outgoing::Raft(message)) => {
                    bytes += message.len();
                    messages.push(message);
                }
                Some(Outgoing::Snapshot { message, state }) => {
                    self.start_snapshot(connection, message, state);
                }
                None => break,
            }
        }
        PeerMessage::Raft(messages)
    }

    /// Sends a snapshot on a stream of its own.
    fn start_snapshot(&self, connection: &Connection, message: Vec<u8>, state: Vec<u8>) {
        let (connection, raft, to) = (connection.clone(), self.common.raft.clone(), self.to);
        self.common.runtime.spawn(async move {
            let bytes = state.len();
            let sent = tokio::time::timeout(SNAPSHOT, send_snapshot(&connection, message, state));
            let arrived = match sent.await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::warn!(to, bytes, error, "a snapshot did not arrive");
                    false
                }
                Err(_) => {
                    tracing::warn!(to, bytes, "a snapshot took longer than {SNAPSHOT:?}");
                    false
                }
            };
            raft.send(Input::Core(consensus::Event::SnapshotSent { to, arrived }));
        });
    }
}

async fn send_snapshot(
    connection: &Connection,
    message: Vec<u8>,
    state: Vec<u8>,
) -> Result<(), String> {
    let opened = connection.open().await.map_err(|error| error.to_string())?;
    let (mut sender, mut receiver) = opened;
    // Whoever refuses reads no further, and says why.
    let sent = send_pieces(&mut sender, message, &state).await;
    sender.finish();
    match (receiver.receive::<PeerReply>().await, sent) {
        (Ok(Some(PeerReply::SnapshotTaken)), _) => Ok(()),
        (Ok(Some(PeerReply::Refused { message, .. })), _) => Err(message),
        (_, Err(error)) | (Err(error), Ok(())) => Err(error.to_string()),
        (Ok(other), Ok(())) => Err(format!("expected an answer, got {other:?}")),
    }
}

async fn send_pieces(
    sender: &mut Sender,
    message: Vec<u8>,
    state: &[u8],
) -> Result<(), TransportError> {
    let start = PeerMessage::SnapshotStart {
        message,
        bytes: state.len() as u64,
        digest: Digest::of(state),
    };
    sender.send(&start).await?;
    for piece in state.chunks(BLOB_CHUNK_BYTES) {
        let piece = PeerMessage::SnapshotChunk(piece.to_vec());
        sender.send(&piece).await?;
    }
    Ok(())
}
