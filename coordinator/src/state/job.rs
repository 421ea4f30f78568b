//! A job in the replicated state.

use super::gang::GangState;
use super::map::MapState;
use evoring_jobs::driver::JobDriver;
use evoring_protocol::event::GenerationSummary;
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::Assignment;
use evoring_protocol::{DemandId, Digest, JobId, SubmissionKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A job. When it ends it shrinks to what people look at later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Name for people.
    pub name: String,
    /// Kind, as in the job file.
    pub kind: String,
    /// The key of its submission.
    pub key: SubmissionKey,
    /// Replicated time of submission.
    pub submitted_ms: u64,
    /// Replicated time of the first work.
    pub started_ms: Option<u64>,
    /// Replicated time of the end.
    pub ended_ms: Option<u64>,
    /// How it ended, or its work.
    pub phase: Phase,
    /// All stages in order.
    pub stages: Vec<String>,
    /// The stage that runs, or ran last.
    pub stage: String,
    /// The latest generation.
    pub generation: Option<GenerationSummary>,
    /// Class of all its work, fixed before the first.
    pub numerics: Option<NumericsClass>,
    /// Items computed.
    pub evaluated: u64,
    /// Items answered from the cache or from an equal item.
    pub cache_hits: u64,
    /// Items and gangs that were run again.
    pub retries: u64,
    /// Blobs by name, in the order of their making.
    pub artifacts: Vec<(String, Digest)>,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
}

/// Whether a job goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// It does.
    Active(Box<Work>),
    /// It has its result.
    Finished {
        /// JSON text.
        summary: String,
    },
    /// It failed.
    Failed {
        /// Why.
        error: String,
    },
    /// Its owner stopped it.
    Cancelled,
}

/// What an active job has to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Says what runs next.
    pub driver: JobDriver,
    /// What runs now.
    pub demands: BTreeMap<DemandId, DemandState>,
}

/// A demand that is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemandState {
    /// Stage of the job.
    pub stage: String,
    /// What people read while it runs.
    pub title: String,
    /// Index of the entry that started it: its age.
    pub since: u64,
    /// The work.
    pub body: Body,
}

/// The work of a demand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Ranks together.
    Gang(GangState),
    /// Items apart.
    Map(MapState),
}

impl Job {
    /// Its work, while it is active.
    pub fn work(&self) -> Option<&Work> {
        match &self.phase {
            Phase::Active(work) => Some(work),
            _ => None,
        }
    }

    pub(super) fn work_mut(&mut self) -> Option<&mut Work> {
        match &mut self.phase {
            Phase::Active(work) => Some(work),
            _ => None,
        }
    }
}

impl DemandState {
    /// What all its items or ranks are told.
    pub fn assignment(&self, job: JobId, demand: DemandId) -> Assignment {
        let (kernel, payload, inputs) = match &self.body {
            Body::Gang(gang) => (gang.kernel, &gang.payload, &gang.inputs),
            Body::Map(map) => (map.kernel, &map.payload, &map.inputs),
        };
        Assignment {
            job,
            demand,
            stage: self.stage.clone(),
            kernel,
            payload: payload.clone(),
            inputs: inputs.clone(),
        }
    }

    /// The gang, if it is one.
    pub fn gang(&self) -> Option<&GangState> {
        match &self.body {
            Body::Gang(gang) => Some(gang),
            Body::Map(_) => None,
        }
    }

    pub(super) fn gang_mut(&mut self) -> Option<&mut GangState> {
        match &mut self.body {
            Body::Gang(gang) => Some(gang),
            Body::Map(_) => None,
        }
    }

    /// The map, if it is one.
    pub fn map(&self) -> Option<&MapState> {
        match &self.body {
            Body::Map(map) => Some(map),
            Body::Gang(_) => None,
        }
    }

    pub(super) fn map_mut(&mut self) -> Option<&mut MapState> {
        match &mut self.body {
            Body::Map(map) => Some(map),
            Body::Gang(_) => None,
        }
    }
}
