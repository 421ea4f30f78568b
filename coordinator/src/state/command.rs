//! What the log holds: batches of commands.

use super::members::{NEWEST_RECORDS, OLDEST_RECORDS};
use evoring_jobs::driver::JobDriver;
use evoring_protocol::bounded::{bytes, result_bytes};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::{Checkpoint, FailureCause, Member, WorkError};
use evoring_protocol::{
    Attempt, DemandId, Digest, ItemIndex, JobId, Rank, RequestKey, RosterNumber, SubmissionKey,
    WorkerId,
};
use serde::{Deserialize, Serialize};

/// One log entry: commands that share a sync.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Wall clock of the leader, milliseconds since 1970; replicated time is the largest so far.
    pub time_ms: u64,
    /// In the order in which they are applied.
    pub commands: Vec<Command>,
}

/// One change of the replicated state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Sets the key of lease MACs, once in a cluster's life.
    SetLeaseKey {
        /// From the first leader's randomness.
        key: [u8; 32],
    },
    /// Accepts a job.
    Submit(Box<Submission>),
    /// Ends a job without a result.
    Cancel {
        /// Which.
        job: JobId,
    },
    /// Admits a worker, or notes that it changed.
    AdmitWorker {
        /// Its name.
        worker: WorkerId,
        /// What it is.
        admission: Admission,
    },
    /// Fixes the numerics class of a job, before its first work.
    AssignClass {
        /// Which job.
        job: JobId,
        /// The class.
        class: NumericsClass,
    },
    /// What became of items of a map: results, and attempts that failed or were lost.
    Record {
        /// The job.
        job: JobId,
        /// The map.
        demand: DemandId,
        /// Each item at most once.
        outcomes: Vec<ItemReport>,
    },
    /// Makes a gang's next roster.
    CommitRoster {
        /// The job.
        job: JobId,
        /// The gang.
        demand: DemandId,
        /// One more than the gang's last roster.
        number: RosterNumber,
        /// Members by rank.
        members: Vec<Member>,
        /// From the leader's randomness.
        secret: [u8; 32],
    },
    /// Voids a gang's roster.
    BreakRoster {
        /// The job.
        job: JobId,
        /// The gang.
        demand: DemandId,
        /// Which.
        number: RosterNumber,
        /// Why.
        reason: String,
        /// What is to blame; absent for a change for the better.
        cause: Option<FailureCause>,
    },
    /// A rank stopped without a result.
    RankFailed {
        /// The job.
        job: JobId,
        /// The gang.
        demand: DemandId,
        /// Its roster.
        number: RosterNumber,
        /// The rank.
        rank: Rank,
        /// Why.
        error: WorkError,
    },
    /// A rank has its result.
    RankFinished {
        /// The job.
        job: JobId,
        /// The gang.
        demand: DemandId,
        /// Its roster.
        number: RosterNumber,
        /// The rank.
        rank: Rank,
        /// The result.
        #[serde(serialize_with = "bytes::serialize")]
        #[serde(deserialize_with = "bytes::at_most::<_, { usize::MAX }>")]
        result: Vec<u8>,
    },
    /// A gang's checkpoint is in the blob store.
    Checkpoint {
        /// The job.
        job: JobId,
        /// The gang.
        demand: DemandId,
        /// Its roster.
        number: RosterNumber,
        /// The checkpoint.
        checkpoint: Checkpoint,
    },
    /// A driver's blob is in the blob store.
    BlobStored {
        /// Which.
        digest: Digest,
    },
    /// Adds a coordinator to the group, or notes its new address.
    AddMember {
        /// Name in its certificate.
        name: String,
        /// `HOST:PORT`.
        address: String,
    },
    /// Removes a coordinator from the group.
    RemoveMember {
        /// Which.
        id: u64,
    },
    /// A coordinator's process has taken its id for good.
    MemberJoined {
        /// Which.
        id: u64,
    },
    /// Every member reads records of this version.
    RaiseVersion {
        /// The version.
        version: u16,
    },
    /// Attaches a label to a job, as [`Command::LabelOnce`] but for its copies. Since version 3.
    Label {
        /// The job.
        job: JobId,
        /// The label's name.
        key: String,
        /// Its value.
        value: String,
    },
    /// Attaches a label to a job, unless a copy of the request has done that. Since version 4.
    LabelOnce {
        /// The job.
        job: JobId,
        /// The label's name.
        key: String,
        /// Its value.
        value: String,
        /// The request.
        request: RequestKey,
    },
}

impl Command {
    /// Version of the records that brought it.
    pub fn since(&self) -> u16 {
        match self {
            // A driver that older builds do not have must not be in a log that they read.
            Self::Submit(submission) => submission.driver.since(),
            Self::Label { .. } => 3,
            Self::LabelOnce { .. } => 4,
            _ => OLDEST_RECORDS,
        }
    }

    /// What comes closest to it while records of `version` are in force.
    pub fn as_of(self, version: u16) -> Self {
        match self {
            Self::LabelOnce {
                job, key, value, ..
            } if version < 4 => Self::Label { job, key, value },
            command => command,
        }
    }
}

/// A validated job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// Makes repeating it harmless.
    pub key: SubmissionKey,
    /// Name for people.
    pub name: String,
    /// Kind, as in the job file.
    pub kind: String,
    /// Fewest slots that its gangs need at once.
    pub min_ranks: u32,
    /// Its driver, before the first event.
    pub driver: JobDriver,
}

/// What the cluster remembers of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Host, as the worker says.
    pub host: String,
    /// Slots.
    pub slots: u32,
    /// Class of its executors.
    pub numerics: NumericsClass,
}

/// What became of one attempt of one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemReport {
    /// The item.
    pub index: ItemIndex,
    /// The attempt; a result is welcome from any, a failure only from the current one.
    pub attempt: Attempt,
    /// Result, or why there is none.
    #[serde(serialize_with = "result_bytes::serialize")]
    #[serde(deserialize_with = "result_bytes::at_most::<_, _, { usize::MAX }>")]
    pub outcome: Result<Vec<u8>, WorkError>,
}

/// An entry that is not a batch of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("log entry of {bytes} bytes: {reason}; it was written by another build of Evoring")]
pub struct BatchError {
    /// Size of the entry.
    pub bytes: usize,
    /// What does not fit.
    pub reason: String,
}

/// Encodes an entry command by command, so that its size is known while it grows.
#[derive(Debug, Default)]
pub struct BatchEncoder {
    commands: Vec<u8>,
    count: usize,
}

impl BatchEncoder {
    /// Adds a command, unless the entry has one already and would have more than `limit` bytes of
    /// commands with it; gives whether it did.
    pub fn add(&mut self, command: &Command, limit: usize) -> bool {
        let before = self.commands.len();
        let buffer = std::mem::take(&mut self.commands);
        // Writing plain data into a growing vector cannot fail.
        self.commands = postcard::to_extend(command, buffer)
            .unwrap_or_else(|e| panic!("a command does not encode: {e}"));
        if self.count > 0 && self.commands.len() > limit {
            self.commands.truncate(before);
            return false;
        }
        self.count += 1;
        true
    }

    /// The entry of the version in force; the same bytes as [`Batch::encode`] gives.
    pub fn finish(self, time_ms: u64, version: u16) -> Vec<u8> {
        let mut entry = Vec::with_capacity(self.commands.len() + 16);
        // Versions stay below 256.
        entry.push(version as u8);
        let head = (time_ms, self.count);
        let mut entry = postcard::to_extend(&head, entry)
            .unwrap_or_else(|e| panic!("two numbers do not encode: {e}"));
        entry.extend_from_slice(&self.commands);
        entry
    }
}

impl Batch {
    /// Encodes it as a log entry of the version in force; its first byte is the version.
    pub fn encode(&self, version: u16) -> Vec<u8> {
        // Writing plain data into a growing vector cannot fail, and versions stay below 256.
        postcard::to_extend(self, vec![version as u8]).unwrap_or_else(|e| {
            panic!(
                "a batch of {} commands does not encode: {e}",
                self.commands.len()
            )
        })
    }

    /// Decodes a log entry of a version up to `newest`; bytes left over are an error.
    pub fn decode(entry: &[u8], newest: u16) -> Result<Self, BatchError> {
        let error = |reason: String| BatchError {
            bytes: entry.len(),
            reason,
        };
        let Some((&version, body)) = entry.split_first() else {
            return Err(error("it is empty".to_owned()));
        };
        let newest = newest.min(NEWEST_RECORDS);
        if !(OLDEST_RECORDS..=newest).contains(&u16::from(version)) {
            return Err(error(format!(
                "version {version}, expected {OLDEST_RECORDS} to {newest}"
            )));
        }
        match postcard::take_from_bytes::<Self>(body) {
            Ok((batch, [])) => match batch.commands.iter().find(|c| c.since() > version.into()) {
                None => Ok(batch),
                Some(command) => Err(error(format!(
                    "a record of version {} in an entry of version {version}",
                    command.since()
                ))),
            },
            Ok((_, rest)) => Err(error(format!("{} bytes left over", rest.len()))),
            Err(e) => Err(error(e.to_string())),
        }
    }
}
