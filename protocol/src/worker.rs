//! Messages between agent and coordinator, on one stream for as long as the agent lives.
//!
//! The agent speaks first ([`WorkerReport::Hello`]); nothing is granted to its slots before.
//! Reports with a `sequence` are kept by the agent until [`WorkerCommand::Acknowledge`] says
//! that they are durable, and are sent again on the next connection.

use crate::bounded::{at_most, at_most_held};
use crate::client::LeaderHint;
use crate::limits::{
    HELLO_ITEMS, HELLO_LEASES, HELLO_RANKS, LEASE_ITEMS, REPORT_LINES, WORKER_SLOTS,
};
use crate::numerics::NumericsClass;
use crate::work::{
    Assignment, Checkpoint, HeldRank, ItemOutcome, Lease, Roster, TrainingProgress, WorkError,
};
use crate::{JobId, RemoteError, SlotIndex, Term, WorkerId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// An agent gives up an attempt to connect to a coordinator after this.
pub const CONNECT_MS: u64 = 2_000;
/// Head start of one coordinator before the next one is tried beside it: longer than a handshake takes
/// on one continent, and short enough that two dead ones cost half a second.
pub const HEAD_START_MS: u64 = 250;
/// An agent gives up a round of attempts at five coordinators after this.
pub const ROUND_MS: u64 = CONNECT_MS + 4 * HEAD_START_MS;
/// Longest pause of an agent between two rounds of attempts at all coordinators.
pub const RECONNECT_MS: u64 = 1_000;

/// Introduction of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::version::build_id`] of the agent.
    pub build: String,
    /// Name; must equal the certificate's.
    pub worker: WorkerId,
    /// Random number of this agent process; a new one means that its executors are new too.
    pub incarnation: u64,
    /// Process id of the agent, for people and tests.
    pub process: u32,
    /// The same for agents that can share memory.
    pub host: String,
    /// Number of slots.
    pub slots: u32,
    /// Class of the executors.
    pub numerics: NumericsClass,
    /// Where the agent serves its metrics.
    pub metrics: Option<SocketAddr>,
    /// Leases that still run or wait for delivery, at most [`HELLO_LEASES`], of at most [`HELLO_ITEMS`]
    /// together.
    #[serde(deserialize_with = "at_most_held::<_, _, HELLO_LEASES, HELLO_ITEMS>")]
    pub leases: Vec<Lease>,
    /// Ranks that still run, at most [`HELLO_RANKS`].
    #[serde(deserialize_with = "at_most::<_, _, HELLO_RANKS>")]
    pub ranks: Vec<HeldRank>,
}

/// From agent to coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum WorkerReport {
    /// First message of a connection.
    Hello(Hello),
    /// Sign of life, at the interval that the welcome names.
    Heartbeat {
        /// Process ids of the executors by slot, at most [`WORKER_SLOTS`]; 0 = starting again.
        #[serde(deserialize_with = "at_most::<_, _, { WORKER_SLOTS as usize }>")]
        executors: Vec<u32>,
    },
    /// Outcomes of some or all items of a lease.
    Results {
        /// To be acknowledged.
        sequence: u64,
        /// The lease.
        lease: Lease,
        /// What became of the items, at most [`LEASE_ITEMS`].
        #[serde(deserialize_with = "at_most::<_, _, LEASE_ITEMS>")]
        outcomes: Vec<ItemOutcome>,
    },
    /// Something happened to a rank.
    Rank {
        /// To be acknowledged.
        sequence: u64,
        /// Whose.
        held: HeldRank,
        /// What.
        event: RankEvent,
    },
    /// Where a rank's training stands; may be lost.
    Progress {
        /// Whose.
        held: HeldRank,
        /// Where.
        progress: TrainingProgress,
    },
    /// An executor ended; the agent starts it again.
    ExecutorExited {
        /// Its slot.
        slot: SlotIndex,
        /// Its process id.
        process: u32,
        /// Exit status or signal.
        status: String,
        /// Last lines of its standard error.
        last_lines: String,
        /// What it was running.
        ran: Option<Ran>,
    },
    /// Lines for `evoring logs`; may be lost.
    Log {
        /// The job.
        job: JobId,
        /// The lines, at most [`REPORT_LINES`].
        #[serde(deserialize_with = "at_most::<_, _, REPORT_LINES>")]
        lines: Vec<String>,
    },
}

/// What an executor was running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ran {
    /// Items of the lease of this name.
    Lease {
        /// Its term.
        term: Term,
        /// Its number.
        number: u64,
    },
    /// A rank.
    Rank(HeldRank),
}

/// What happens to a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RankEvent {
    /// The executor runs it.
    Started,
    /// A checkpoint is in the blob store (rank 0 only).
    Checkpointed(Checkpoint),
    /// The training is complete; all ranks report the same result.
    Finished {
        /// At most [`crate::limits::RESULT_BYTES`].
        result: Vec<u8>,
    },
    /// The rank stopped without a result: its executor died, a peer was lost, or the work failed.
    Failed(WorkError),
}

/// From coordinator to agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum WorkerCommand {
    /// Answer to the hello.
    Welcome {
        /// Term of the leader.
        term: Term,
        /// Heartbeats are expected this often.
        heartbeat_ms: u64,
        /// URL of the blob store (`file:///…`).
        blobs: String,
        /// Leases of the hello whose items still wait for a result; all others may be dropped.
        #[serde(deserialize_with = "at_most::<_, _, HELLO_LEASES>")]
        leases_to_keep: Vec<(Term, u64)>,
        /// Ranks of the hello that are still wanted; all others must stop.
        #[serde(deserialize_with = "at_most::<_, _, HELLO_RANKS>")]
        ranks_to_keep: Vec<HeldRank>,
    },
    /// The coordinator will not talk to this agent.
    Refuse(RemoteError),
    /// Run a batch of items on the lease's slot.
    Grant {
        /// The right to do so.
        lease: Lease,
        /// What to run.
        assignment: Assignment,
        /// The items, in the order of the lease, at most [`LEASE_ITEMS`].
        #[serde(deserialize_with = "at_most::<_, _, LEASE_ITEMS>")]
        items: Vec<Vec<u8>>,
    },
    /// Run a rank.
    StartRank {
        /// Which, and where.
        held: HeldRank,
        /// The gang.
        roster: Roster,
        /// What to run.
        assignment: Assignment,
    },
    /// Stop a rank (its roster is void, or the job ended).
    StopRank {
        /// Which.
        held: HeldRank,
    },
    /// Stop a lease (its job ended, or others finished its items).
    StopLease {
        /// Term of the lease.
        term: Term,
        /// Its number.
        number: u64,
    },
    /// The report is durable.
    Acknowledge {
        /// Its number.
        sequence: u64,
    },
    /// This coordinator does not lead: connect to that one, or to another if none is known.
    NotLeader {
        /// Who leads.
        leader: Option<LeaderHint>,
    },
}
