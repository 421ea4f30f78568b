//! What a leader is told, and what it wants done.

use super::group::GroupReport;
use super::questions::{Answer, Question};
use crate::consensus::{Committed, Refusal};
use crate::scheduler::ConnectionId;
use crate::state::{BatchError, Command, Member, Outcome, StateError, Submission};
use evoring_protocol::client::LeaderHint;
use evoring_protocol::event::EventKind;
use evoring_protocol::peer::PeerHealth;
use evoring_protocol::worker::{Hello, WorkerCommand, WorkerReport};
use evoring_protocol::{Digest, JobId, RemoteError, WorkerId};
use std::collections::BTreeMap;

/// Names a client's request that waits for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What happens to a leader.
#[derive(Debug)]
pub enum Event {
    /// Entries are committed.
    Committed(Vec<Committed>),
    /// This node leads.
    Elected {
        /// Since this term.
        term: u64,
    },
    /// It leads no more.
    SteppedDown,
    /// A proposal is not in the log.
    Refused {
        /// Which.
        token: u64,
        /// Why.
        reason: Refusal,
    },
    /// The whole state, from another leader.
    Installed {
        /// Last index that it contains.
        index: u64,
        /// Term of that index.
        term: u64,
        /// The encoded state.
        data: Vec<u8>,
    },
    /// Who leads, if that is known.
    Leader(Option<u64>),
    /// A read may be answered from this index on.
    ReadReady {
        /// Which.
        token: u64,
        /// What must be applied.
        index: u64,
    },
    /// This node cannot answer a read.
    ReadFailed {
        /// Which.
        token: u64,
    },
    /// A new member waits for a snapshot of this index or a later one.
    SnapshotWanted {
        /// The index.
        index: u64,
    },
    /// How the group stands, from consensus.
    Group(Box<GroupReport>),
    /// What a member told of itself.
    Health {
        /// Which.
        id: u64,
        /// What.
        health: PeerHealth,
    },
    /// Why a member cannot be talked to; or it can.
    Contact {
        /// Which.
        id: u64,
        /// Why not.
        problem: Option<String>,
    },
    /// A member's process has taken its id.
    Joined {
        /// Which.
        id: u64,
    },
    /// The store takes no writes, for this reason; or takes them again.
    Store(Result<(), String>),
    /// Space is so low, for this reason, that no new jobs can be taken; or it is not.
    Space(Option<String>),
    /// A worker said hello.
    Hello {
        /// On this connection.
        connection: ConnectionId,
        /// What.
        hello: Hello,
    },
    /// A worker said something else.
    Report {
        /// On this connection.
        connection: ConnectionId,
        /// What.
        report: WorkerReport,
    },
    /// A worker's connection ended.
    Disconnected {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: String,
    },
    /// A client submits a job.
    Submit {
        /// To be answered.
        ticket: Ticket,
        /// The job.
        submission: Box<Submission>,
        /// Refuse it if its gangs need more slots than there are.
        refuse_unless_fits: bool,
    },
    /// A client wants something written.
    Write {
        /// To be answered.
        ticket: Ticket,
        /// What.
        command: Command,
    },
    /// A client asks something.
    Ask {
        /// To be answered.
        ticket: Ticket,
        /// What.
        question: Question,
    },
    /// The blob store has a driver's blob.
    BlobStored(Digest),
    /// Time passes.
    Tick,
}

/// What a leader wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Propose an entry.
    Propose {
        /// Names the proposal.
        token: u64,
        /// The entry.
        data: Vec<u8>,
    },
    /// Entries up to here are applied.
    Applied(u64),
    /// The encoded state at this index.
    Snapshot {
        /// Last index that it contains.
        index: u64,
        /// The state.
        data: Vec<u8>,
    },
    /// Say something to a worker.
    Send {
        /// On this connection.
        connection: ConnectionId,
        /// What.
        command: WorkerCommand,
    },
    /// End a worker's connection.
    Close {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: String,
    },
    /// Tell a client what became of its request.
    Reply {
        /// Whom.
        ticket: Ticket,
        /// What.
        outcome: Result<Outcome, Denial>,
    },
    /// Answer a client's question.
    Answer {
        /// Whom.
        ticket: Ticket,
        /// What.
        answer: Result<Answer, Denial>,
    },
    /// Find out what is committed by now.
    Read {
        /// Names the read.
        token: u64,
    },
    /// Another member shall lead.
    HandOver {
        /// Which.
        to: u64,
    },
    /// The group shall have these members.
    Members(BTreeMap<u64, Member>),
    /// Append to the event file; events of entries that it already holds are skipped.
    Event {
        /// Index of the entry, for events that every replay of the log gives again.
        index: Option<u64>,
        /// What happened.
        kind: EventKind,
    },
    /// Append to a job's log.
    Log {
        /// The job.
        job: JobId,
        /// Who says it.
        worker: WorkerId,
        /// What.
        lines: Vec<String>,
    },
    /// Write a blob to the blob store.
    StoreBlob {
        /// Its name.
        digest: Digest,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

/// Why a client is not served here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// For this reason.
    Error(RemoteError),
    /// Another coordinator leads.
    NotLeader(Option<LeaderHint>),
}

impl From<RemoteError> for Denial {
    fn from(error: RemoteError) -> Self {
        Self::Error(error)
    }
}

/// What this build cannot apply: the coordinator must stop.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An entry.
    #[error("entry {index} of the log cannot be applied: {source}")]
    Entry {
        /// Its index.
        index: u64,
        /// Why.
        source: BatchError,
    },
    /// A snapshot from another leader.
    #[error("the leader's snapshot at index {index} cannot be taken: {source}")]
    Snapshot {
        /// Its index.
        index: u64,
        /// Why.
        source: StateError,
    },
}

/// What a leader knows about itself, fixed at its start.
#[derive(Debug, Clone)]
pub struct LeaderConfig {
    /// Process id, for people and tests.
    pub process: u32,
    /// URL of the blob store, for agents.
    pub blobs: String,
    /// Its number in the group.
    pub id: u64,
    /// Name in its certificate.
    pub name: String,
    /// Where it listens, as others reach it.
    pub address: String,
    /// Whether somebody named that address; otherwise it is the listener's, which others may know by a
    /// name, or behind a translation.
    pub is_advertised: bool,
}

#[cfg(test)]
impl LeaderConfig {
    /// The first of its group.
    pub(crate) fn of_test(name: &str, address: &str) -> Self {
        Self {
            process: 1,
            blobs: "file:///blobs".to_owned(),
            id: 1,
            name: name.to_owned(),
            address: address.to_owned(),
            is_advertised: true,
        }
    }
}
