//! Drivers: what a job runs next.
//!
//! A driver lives in the replicated state. Each step takes one event, changes the driver and
//! returns actions; it is a pure function, takes at most 10 ms, and uses only + − × ÷ √,
//! `total_cmp` and `libm`. The caller works on a copy, so an error leaves no half-made step.

use evoring_protocol::event::GenerationSummary;
use evoring_protocol::work::{Kernel, WorkError};
use evoring_protocol::{DemandId, Digest};
use serde::{Deserialize, Serialize};

/// What a driver hears.
#[derive(Debug, Clone, PartialEq)]
pub enum DriverEvent {
    /// The job was accepted; comes once, first.
    Start,
    /// A gang ended with this result.
    GangFinished {
        /// The demand.
        demand: DemandId,
        /// The kernel's result, at most [`evoring_protocol::limits::RESULT_BYTES`].
        result: Vec<u8>,
    },
    /// Every item of a map has a result.
    MapFinished {
        /// The demand.
        demand: DemandId,
        /// Results in the order of the items.
        results: Vec<Vec<u8>>,
        /// Items that were computed for this map.
        evaluated: u32,
        /// Items answered from the cache or from an equal item of the same map.
        cache_hits: u32,
    },
    /// A demand failed for good (an error that no retry mends, or too many attempts).
    DemandFailed {
        /// The demand.
        demand: DemandId,
        /// Why.
        error: WorkError,
    },
}

/// Work that a driver wants done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Demand {
    /// `min..=max` ranks that run together or not at all.
    Gang {
        /// Fewest ranks.
        min: u32,
        /// Most ranks.
        max: u32,
        /// What to run.
        kernel: Kernel,
        /// Its arguments.
        payload: Vec<u8>,
        /// Blobs that it reads.
        inputs: Vec<Digest>,
    },
    /// Independent items.
    Map {
        /// What to run.
        kernel: Kernel,
        /// The arguments that all items share.
        payload: Vec<u8>,
        /// The items; equal items are computed once.
        items: Vec<Vec<u8>>,
        /// Blobs that they read.
        inputs: Vec<Digest>,
    },
}

/// What a driver wants.
#[derive(Debug, Clone, PartialEq)]
pub enum DriverAction {
    /// Run this. The driver numbers its demands from 1; `stage` is one of [`Driver::stages`].
    Run {
        /// Number of the demand.
        demand: DemandId,
        /// Stage it belongs to.
        stage: String,
        /// What to show people while it runs ("fine-tuning the compressed net").
        title: String,
        /// The work.
        what: Demand,
    },
    /// A stage began.
    StageStarted(String),
    /// A stage ended.
    StageFinished(String),
    /// A generation was evaluated.
    Generation(GenerationSummary),
    /// Write a blob and list it among the job's artifacts under this name.
    Store {
        /// Name, unique within the job.
        name: String,
        /// At most [`evoring_protocol::limits::DRIVER_BLOB_BYTES`].
        bytes: Vec<u8>,
    },
    /// List a blob that a kernel wrote among the job's artifacts.
    Artifact {
        /// Name, unique within the job.
        name: String,
        /// The blob.
        digest: Digest,
    },
    /// The job has its result; comes once, last.
    Finish {
        /// JSON text of at most [`evoring_protocol::limits::SUMMARY_BYTES`].
        summary: String,
    },
    /// The job has failed; comes once, last.
    Fail {
        /// What failed, where, and what to do.
        error: String,
    },
}

/// A step that could not be taken: a defect, or results that do not fit the demand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("driver {driver}: {message}")]
pub struct DriverError {
    /// Name and version of the driver.
    pub driver: &'static str,
    /// What did not fit.
    pub message: String,
}

/// A job's pure state machine.
pub trait Driver {
    /// Stages in order, for people.
    fn stages(&self) -> Vec<String>;
    /// Takes one step.
    fn on(&mut self, event: &DriverEvent) -> Result<Vec<DriverAction>, DriverError>;
}

/// Every driver and version that this build can run; a job keeps the one it began with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum JobDriver {
    /// `evolve.prune`, first version.
    PruneV1(Box<crate::prune::PruneDriver>),
}

impl JobDriver {
    /// Version of the replicated records that brought it: a group takes it from then on.
    pub fn since(&self) -> u16 {
        match self {
            Self::PruneV1(_) => 2,
        }
    }
}

impl Driver for JobDriver {
    fn stages(&self) -> Vec<String> {
        match self {
            Self::PruneV1(driver) => driver.stages(),
        }
    }

    fn on(&mut self, event: &DriverEvent) -> Result<Vec<DriverAction>, DriverError> {
        match self {
            Self::PruneV1(driver) => driver.on(event),
        }
    }
}
