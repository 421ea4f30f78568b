//! What `evoring events` shows: changes of state, machine-readable, without prose.

use crate::{Attempt, DemandId, Digest, ItemIndex, JobId, RosterNumber, SlotIndex, WorkerId};
use serde::{Deserialize, Serialize};

/// One event. `number` grows by one and survives a restart of the coordinator; each coordinator of
/// a group has its own numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the coordinator's event file, from 1.
    pub number: u64,
    /// Wall clock of the coordinator, milliseconds since 1970.
    pub time_ms: u64,
    /// Index of the log entry that made it happen: every coordinator has these events. Others are
    /// only in the file of the one that led then.
    pub entry: Option<u64>,
    /// What happened.
    pub kind: EventKind,
}

/// Progress of one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationSummary {
    /// From 0.
    pub generation: u32,
    /// Generations in all, generation 0 included.
    pub generations: u32,
    /// Highest fitness.
    pub best_fitness: f64,
    /// Mean fitness.
    pub mean_fitness: f64,
    /// Parameters of the best individual.
    pub best_parameters: u64,
    /// Accuracy of the best individual on the fitness images, 0 to 1.
    pub best_accuracy: f64,
    /// Evaluations computed so far.
    pub evaluated: u64,
    /// Evaluations answered from the cache so far.
    pub cache_hits: u64,
}

/// Kinds of events. In JSON, `kind` holds one field, named after the kind, with what belongs to it
/// (see `docs/formats.md`).
#[expect(
    missing_docs,
    reason = "fields are ids, counts and texts named as they read; units are in their names"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A coordinator process took office.
    CoordinatorStarted { process: u32, term: u64 },
    /// The coordinator's disk is full or failed; only reads are answered.
    CoordinatorReadOnly { reason: String },
    /// The coordinator accepts writes again.
    CoordinatorWritable,
    /// A worker's session began.
    WorkerJoined {
        worker: WorkerId,
        process: u32,
        slots: u32,
        held_items: u32,
        held_ranks: u32,
    },
    /// A worker's session ended or fell silent; what it held at that moment.
    WorkerLost {
        worker: WorkerId,
        held_items: u32,
        held_ranks: u32,
        reason: String,
    },
    /// An executor died.
    ExecutorExited {
        worker: WorkerId,
        slot: SlotIndex,
        process: u32,
        held_items: u32,
        held_ranks: u32,
        status: String,
    },
    /// Heartbeats named an executor's process for the first time.
    ExecutorStarted {
        worker: WorkerId,
        slot: SlotIndex,
        process: u32,
    },
    /// A job was accepted.
    JobSubmitted {
        job: JobId,
        name: String,
        kind: String,
    },
    /// A stage of a job began.
    StageStarted { job: JobId, stage: String },
    /// A stage of a job ended.
    StageFinished { job: JobId, stage: String },
    /// A lease was granted. An item without a result is granted again after a restart of the
    /// coordinator, unless a worker says that it still holds it; `is_copy` marks a second run of
    /// slow items.
    LeaseGranted {
        job: JobId,
        demand: DemandId,
        stage: String,
        worker: WorkerId,
        slot: SlotIndex,
        items: Vec<(ItemIndex, Attempt)>,
        is_copy: bool,
    },
    /// Items are run again.
    ItemsRetried {
        job: JobId,
        demand: DemandId,
        stage: String,
        items: Vec<(ItemIndex, Attempt)>,
        reason: String,
    },
    /// A gang's roster was committed.
    RosterCommitted {
        job: JobId,
        demand: DemandId,
        stage: String,
        roster: RosterNumber,
        members: Vec<(WorkerId, SlotIndex)>,
        resume_step: u64,
    },
    /// A gang lost a member or failed; it runs again with the next roster.
    RosterBroken {
        job: JobId,
        demand: DemandId,
        stage: String,
        roster: RosterNumber,
        reason: String,
    },
    /// A checkpoint is durable.
    Checkpointed {
        job: JobId,
        demand: DemandId,
        step: u64,
        digest: Digest,
    },
    /// A generation was evaluated.
    GenerationFinished {
        job: JobId,
        summary: GenerationSummary,
    },
    /// A job ended.
    JobFinished { job: JobId },
    /// A job ended without a result.
    JobFailed { job: JobId, error: String },
    /// A job was cancelled.
    JobCancelled { job: JobId },
    /// Items got their one result, durably: they are never run again.
    ItemsRecorded {
        job: JobId,
        demand: DemandId,
        stage: String,
        items: Vec<ItemIndex>,
    },
}
