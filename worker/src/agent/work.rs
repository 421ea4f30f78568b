//! What a slot runs, and the events and actions of the core.

use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::{Assignment, HeldRank, Lease, Roster, WorkError};
use evoring_protocol::worker::{Ran, WorkerCommand, WorkerReport};
use evoring_protocol::{ItemIndex, JobId, SlotIndex, Step};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// A piece of work for one slot.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Items of a lease.
    Items {
        /// The right to run them.
        lease: Lease,
        /// What to run.
        assignment: Assignment,
        /// The items, in the order of the lease.
        items: Vec<Vec<u8>>,
        /// Those without an outcome yet.
        pending: BTreeSet<ItemIndex>,
    },
    /// A rank of a gang.
    Rank {
        /// Which.
        held: HeldRank,
        /// The gang.
        roster: Roster,
        /// What to run.
        assignment: Assignment,
    },
}

impl Work {
    /// Its name for the coordinator.
    pub fn ran(&self) -> Ran {
        match self {
            Self::Items { lease, .. } => Ran::Lease {
                term: lease.term,
                number: lease.number,
            },
            Self::Rank { held, .. } => Ran::Rank(held.clone()),
        }
    }

    /// Whose it is.
    pub fn job(&self) -> JobId {
        match self {
            Self::Items { lease, .. } => lease.job,
            Self::Rank { held, .. } => held.job,
        }
    }
}

/// Work that an executor has, or whose inputs are fetched for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    /// Its number.
    pub task: u64,
    /// What.
    pub work: Work,
    /// Whether the executor was given it.
    pub is_delivered: bool,
    /// The executor told that it panicked; with what, it tells next.
    pub has_panicked: bool,
    /// It told that too.
    pub has_told_panic: bool,
    /// When it was told to stop.
    pub stopping_since: Option<Duration>,
}

/// What the core hears. Times are those of the agent's own monotonic clock.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A connection to the coordinator stands.
    Connected {
        /// Number of the session on it; grows.
        session: u64,
    },
    /// It is gone.
    Disconnected,
    /// The coordinator said something.
    Command(WorkerCommand),
    /// An executor's process was started.
    ExecutorStarted {
        /// Its slot.
        slot: SlotIndex,
        /// Its process id.
        process: u32,
    },
    /// An executor said something.
    Report {
        /// Its slot.
        slot: SlotIndex,
        /// What.
        report: ExecutorReport,
    },
    /// An executor's process ended or could not be started.
    ExecutorExited {
        /// Its slot.
        slot: SlotIndex,
        /// Its process id, 0 if it never started.
        process: u32,
        /// Exit status or signal.
        status: String,
        /// Last lines of its standard error.
        last_lines: String,
    },
    /// The pause before an executor's restart is over.
    RestartDue {
        /// Its slot.
        slot: SlotIndex,
    },
    /// All inputs of a piece of work are in local files.
    Prepared {
        /// The slot.
        slot: SlotIndex,
        /// The executor's process that it is meant for.
        process: u32,
        /// What to send to it.
        command: Box<ExecutorCommand>,
    },
    /// Work could not be handed to its executor: an input cannot be fetched.
    NotPrepared {
        /// Which.
        task: u64,
        /// Why.
        error: WorkError,
    },
    /// Files are in the blob store, or cannot be put there.
    Stored {
        /// Whose.
        held: HeldRank,
        /// What they are.
        purpose: Purpose,
        /// Digest of the first file, or why it is not stored.
        outcome: Result<Option<evoring_protocol::Digest>, WorkError>,
    },
    /// Time passes.
    Tick,
}

/// What stored files are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A checkpoint after this step.
    Checkpoint(Step),
    /// The files of a rank's result.
    Result(Vec<u8>),
}

/// What the core wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send to the coordinator.
    Send {
        /// On this session; on no other.
        session: u64,
        /// What.
        report: WorkerReport,
    },
    /// Use this blob store from now on.
    UseBlobs(String),
    /// Start the slot's executor after a pause.
    Start {
        /// The slot.
        slot: SlotIndex,
        /// The pause.
        wait: Duration,
    },
    /// Fetch the inputs, then hand the work to the slot's executor.
    Run {
        /// The slot.
        slot: SlotIndex,
        /// The executor's process; another one must not get it.
        process: u32,
        /// Number of the work.
        task: u64,
        /// The work.
        work: Box<Work>,
    },
    /// Send a prepared command to the slot's executor, if it still is that process.
    Deliver {
        /// The slot.
        slot: SlotIndex,
        /// The executor's process.
        process: u32,
        /// The command.
        command: Box<ExecutorCommand>,
    },
    /// Tell the executor to stop a piece of work.
    Stop {
        /// The slot.
        slot: SlotIndex,
        /// Number of the work.
        task: u64,
    },
    /// Kill the executor.
    Kill {
        /// The slot.
        slot: SlotIndex,
    },
    /// Move files into the blob store and answer with [`Event::Stored`].
    Store {
        /// Whose.
        held: HeldRank,
        /// What they are.
        purpose: Purpose,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// Count for the metrics.
    Count(Counter),
    /// A line for the agent's own log.
    Log(String),
    /// End the agent with an error.
    Exit {
        /// What failed, and what to do.
        message: String,
        /// Whether it would fail again if it were started again.
        is_hopeless: bool,
    },
}

/// What metrics count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Items with a result.
    ItemsDone(u64),
    /// Items with an error.
    ItemsFailed(u64),
    /// Ranks with a result.
    RankDone,
    /// Ranks that failed.
    RankFailed,
    /// Executors that died.
    ExecutorDied,
}

/// Who the agent is.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Name, as in the certificate.
    pub worker: evoring_protocol::WorkerId,
    /// Random number of this process.
    pub incarnation: u64,
    /// Process id.
    pub process: u32,
    /// The same for agents that can share memory.
    pub host: String,
    /// Number of slots.
    pub slots: u32,
    /// Where metrics are served.
    pub metrics: Option<std::net::SocketAddr>,
}

/// The class of the executors once one is ready.
pub type Class = Option<NumericsClass>;
