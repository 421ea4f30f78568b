//! Work as it travels from the coordinator through an agent to an executor.

use crate::bounded::{Holds, at_most, bytes, result_bytes};
use crate::limits::{EXECUTOR_FRAME_BYTES, GANG_RANKS, INPUTS, LEASE_ITEMS};
use crate::{
    Attempt, DemandId, Digest, ItemIndex, JobId, Rank, RosterNumber, SlotIndex, Step, Term,
    WorkerId,
};
use serde::{Deserialize, Serialize};

/// How something is computed; the executor holds one implementation of each. The number is part
/// of the fitness cache's key: raise it when a kernel's values change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kernel {
    /// Supervised data-parallel training of a network (gang).
    TrainClassify,
    /// Order of a layer's filters by L1 norm (map).
    PruneRank,
    /// Correct answers of a pruned network on a part of the data (map).
    PruneEvaluate,
    /// Correct answers and time per image of a network on the test part (map).
    EvaluateClassify,
}

impl Kernel {
    /// Name and version, as shown and as hashed.
    pub fn name(self) -> &'static str {
        match self {
            Self::TrainClassify => "train.classify/1",
            Self::PruneRank => "prune.rank/1",
            Self::PruneEvaluate => "prune.evaluate/1",
            Self::EvaluateClassify => "evaluate.classify/1",
        }
    }

    /// Whether equal inputs give equal results, so that a result may be answered from the cache.
    /// [`Kernel::EvaluateClassify`] measures time.
    pub fn is_cacheable(self) -> bool {
        matches!(self, Self::PruneRank | Self::PruneEvaluate)
    }
}

/// What the items of a map, or the ranks of a gang, have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The job.
    pub job: JobId,
    /// The demand within the job.
    pub demand: DemandId,
    /// Stage of the job, for people ("train", "search").
    pub stage: String,
    /// What to run.
    pub kernel: Kernel,
    /// The kernel's arguments, encoded by `evoring-jobs`.
    #[serde(serialize_with = "bytes::serialize")]
    #[serde(deserialize_with = "bytes::at_most::<_, EXECUTOR_FRAME_BYTES>")]
    pub payload: Vec<u8>,
    /// Blobs that the kernel reads, at most [`INPUTS`].
    #[serde(deserialize_with = "at_most::<_, _, INPUTS>")]
    pub inputs: Vec<Digest>,
}

/// One item inside a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasedItem {
    /// Position in the map.
    pub index: ItemIndex,
    /// Which run of it this is.
    pub attempt: Attempt,
}

/// Right of one slot to run a batch of items until `expiry_ms`; delivery after that is still
/// welcome. `mac` covers all other fields, so any later leader can check it without a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// The map.
    pub demand: DemandId,
    /// The items, at most [`LEASE_ITEMS`].
    #[serde(deserialize_with = "at_most::<_, _, LEASE_ITEMS>")]
    pub items: Vec<LeasedItem>,
    /// Holder.
    pub worker: WorkerId,
    /// Holder's slot.
    pub slot: SlotIndex,
    /// Term in which it was granted.
    pub term: Term,
    /// Number of the lease within its term; (term, number) names it.
    pub number: u64,
    /// When the items may be granted to others, by the wall clock of the leader that granted it, in
    /// milliseconds since 1970; that leader moves it on, in its memory, with each report.
    pub expiry_ms: u64,
    /// HMAC-SHA-256 over the fields above.
    pub mac: [u8; 32],
}

impl Holds for Lease {
    fn held(&self) -> usize {
        self.items.len()
    }
}

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemOutcome {
    /// Position in the map.
    pub index: ItemIndex,
    /// Result of at most [`crate::limits::RESULT_BYTES`], or why there is none. A longer one fails its
    /// item, not the whole message.
    #[serde(serialize_with = "result_bytes::serialize")]
    #[serde(deserialize_with = "result_bytes::at_most::<_, _, EXECUTOR_FRAME_BYTES>")]
    pub result: Result<Vec<u8>, WorkError>,
}

/// Why work gave no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WorkError {
    /// What failed, where (file, offset, field), expected and got.
    pub message: String,
    /// What is to blame, and with it whether another attempt may succeed.
    pub cause: FailureCause,
}

/// What is to blame for work that gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FailureCause {
    /// A process or a connection was lost; the work itself is not to blame.
    Lost,
    /// The work itself failed; another attempt may succeed (a full disk, no memory).
    Failed,
    /// The work itself failed, and no attempt can succeed (a broken data file).
    Final,
}

impl FailureCause {
    /// Whether another attempt may succeed.
    pub fn can_retry(self) -> bool {
        self != Self::Final
    }
}

/// One member of a roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The worker.
    pub worker: WorkerId,
    /// Its slot.
    pub slot: SlotIndex,
}

/// The committed list of who a gang is; `members[rank]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Number; any older one is void.
    pub number: RosterNumber,
    /// Members by rank, at most [`GANG_RANKS`].
    #[serde(deserialize_with = "at_most::<_, _, { GANG_RANKS as usize }>")]
    pub members: Vec<Member>,
    /// Names the gang's meeting point and lets its members know each other.
    pub secret: [u8; 32],
    /// Where to go on; absent = from the beginning.
    pub resume: Option<Checkpoint>,
}

/// Saved training state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Completed steps that it holds.
    pub step: Step,
    /// The blob.
    pub digest: Digest,
}

/// A rank that an agent runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldRank {
    /// The job.
    pub job: JobId,
    /// The gang.
    pub demand: DemandId,
    /// Its roster.
    pub roster: RosterNumber,
    /// The rank.
    pub rank: Rank,
    /// Where it runs.
    pub slot: SlotIndex,
}

/// Where a training stands; soft, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingProgress {
    /// Completed steps.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Mean loss over the last reported steps.
    pub loss: f64,
}
