//! Messages between an agent and its executors, over the executor's inherited socket (file
//! descriptor 3). File descriptor 4 is the lifeline: its end of file means that the agent is gone.

use crate::bounded::at_most;
use crate::limits::{INPUTS, LEASE_ITEMS};
use crate::numerics::NumericsClass;
use crate::work::{Assignment, ItemOutcome, TrainingProgress, WorkError};
use crate::{ItemIndex, Rank, Step};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// From agent to executor; one piece of work at a time, named by `task`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ExecutorCommand {
    /// Run items one after the other.
    RunItems {
        /// Number of this piece of work.
        task: u64,
        /// What to run.
        assignment: Assignment,
        /// Files of `assignment.inputs`, in order; at most [`INPUTS`].
        #[serde(deserialize_with = "at_most::<_, _, INPUTS>")]
        inputs: Vec<PathBuf>,
        /// The items, at most [`LEASE_ITEMS`].
        #[serde(deserialize_with = "at_most::<_, _, LEASE_ITEMS>")]
        items: Vec<(ItemIndex, Vec<u8>)>,
    },
    /// Run one rank of a gang.
    RunRank {
        /// Number of this piece of work.
        task: u64,
        /// What to run.
        assignment: Assignment,
        /// Files of `assignment.inputs`, in order; at most [`INPUTS`].
        #[serde(deserialize_with = "at_most::<_, _, INPUTS>")]
        inputs: Vec<PathBuf>,
        /// This member.
        rank: Rank,
        /// Number of members.
        world_size: u32,
        /// Names the meeting point; known to the members only.
        secret: [u8; 32],
        /// Where to go on, with the checkpoint's file.
        resume: Option<(Step, PathBuf)>,
    },
    /// Stop the piece of work as soon as possible; a report of its end still follows.
    Stop {
        /// Which.
        task: u64,
    },
}

/// From executor to agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ExecutorReport {
    /// First message: libtorch is loaded.
    Ready {
        /// Class of this executor.
        numerics: NumericsClass,
    },
    /// Outcomes of some items.
    Items {
        /// Which piece of work.
        task: u64,
        /// What became of them, at most [`LEASE_ITEMS`].
        #[serde(deserialize_with = "at_most::<_, _, LEASE_ITEMS>")]
        outcomes: Vec<ItemOutcome>,
    },
    /// All items of the piece of work have been reported (or it was stopped).
    ItemsDone {
        /// Which piece of work.
        task: u64,
    },
    /// Where the training stands.
    Progress {
        /// Which piece of work.
        task: u64,
        /// Where.
        progress: TrainingProgress,
    },
    /// A checkpoint lies in `path`, to be moved into the blob store.
    Checkpoint {
        /// Which piece of work.
        task: u64,
        /// Completed steps.
        step: Step,
        /// A file in the executor's folder.
        path: PathBuf,
    },
    /// The rank is complete. Files named in `blobs` belong into the blob store; their digests
    /// are already part of `result`.
    RankFinished {
        /// Which piece of work.
        task: u64,
        /// At most [`crate::limits::RESULT_BYTES`].
        result: Vec<u8>,
        /// Files to store (rank 0 only; the other ranks computed the same bytes), at most [`INPUTS`].
        #[serde(deserialize_with = "at_most::<_, _, INPUTS>")]
        blobs: Vec<PathBuf>,
    },
    /// The rank stopped without a result.
    RankFailed {
        /// Which piece of work.
        task: u64,
        /// Why.
        error: WorkError,
    },
    /// A kernel panicked: its error follows, and then this process ends. What else is open of the
    /// piece of work is not to blame, and nothing more is to be sent here.
    Panicked {
        /// Which piece of work.
        task: u64,
    },
    /// A line for `evoring logs`.
    Log {
        /// Which piece of work.
        task: u64,
        /// The line.
        line: String,
    },
}
