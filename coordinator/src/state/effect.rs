//! What applying a command leads to.

use evoring_protocol::event::EventKind;
use evoring_protocol::{DemandId, Digest, ErrorCode, ItemIndex, JobId};

/// Result of applying one entry.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// One for each command, in order.
    pub outcomes: Vec<Outcome>,
    /// In order.
    pub effects: Vec<Effect>,
}

/// What became of a command, for whoever asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out, or had been before.
    Done,
    /// A job was accepted, now or by an earlier submission with the same key.
    Submitted {
        /// The job.
        job: JobId,
        /// Whether it was known.
        already_known: bool,
    },
    /// A member of the group was added, now or before.
    MemberAdded {
        /// Its id.
        id: u64,
    },
    /// It was not carried out.
    Refused {
        /// The kind.
        code: ErrorCode,
        /// Why.
        message: String,
    },
}

/// What others must know or do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// For the event file.
    Event(EventKind),
    /// A demand wants work.
    DemandStarted {
        /// The job.
        job: JobId,
        /// The demand.
        demand: DemandId,
    },
    /// A demand wants no more work.
    DemandEnded {
        /// The job.
        job: JobId,
        /// The demand.
        demand: DemandId,
    },
    /// Items have their results.
    ItemsRecorded {
        /// The job.
        job: JobId,
        /// The map.
        demand: DemandId,
        /// Which.
        items: Vec<ItemIndex>,
    },
    /// Items wait for another attempt.
    ItemsRetried {
        /// The job.
        job: JobId,
        /// The map.
        demand: DemandId,
        /// Which.
        items: Vec<ItemIndex>,
    },
    /// The class of a job is known; its maps may be granted.
    ClassAssigned {
        /// The job.
        job: JobId,
    },
    /// A gang may start with its roster.
    RosterCommitted {
        /// The job.
        job: JobId,
        /// The gang.
        demand: DemandId,
    },
    /// A gang's roster is void.
    RosterBroken {
        /// The job.
        job: JobId,
        /// The gang.
        demand: DemandId,
    },
    /// A gang's checkpoint is committed.
    Checkpointed {
        /// The job.
        job: JobId,
        /// The gang.
        demand: DemandId,
    },
    /// A job ended; all its demands with it.
    JobEnded {
        /// The job.
        job: JobId,
    },
    /// Write a pending blob to the blob store, then propose [`super::Command::BlobStored`].
    StoreBlob(Digest),
}
