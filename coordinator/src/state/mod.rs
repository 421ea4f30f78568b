//! The replicated state: what every coordinator agrees on.
//!
//! [`State::apply`] is a pure function of the state and a log entry: no clock, no randomness, no
//! IO, no hash maps. Time comes with the entries.
//!
//! - `STATE-1`: applying the same entries, or a snapshot and the entries after it, gives the same
//!   [`State::hash`] and the same encoding.
//! - `STATE-2`: each item of a map gets exactly one result; later ones change nothing.
//! - `STATE-3`: a driver takes its step on a copy; an error or a panic fails its job, at the same
//!   index everywhere, and touches nothing else.
//! - `STATE-4`: a driver's blob stays here until the blob store has it.
//! - `STATE-5`: one submission key makes one job, for as long as the job is kept.
//! - `STATE-6`: a gang has at most one roster; its numbers only grow.
//! - `STATE-7`: of the copies of one request that labels a job, only the first has an effect, as long as
//!   fewer than [`evoring_protocol::limits::LABEL_REQUESTS`] others labelled that job in between.

mod cache;
mod command;
mod effect;
mod encoding;
mod gang;
mod gangs;
mod items;
mod job;
mod label_requests;
mod map;
mod members;
mod step;

pub use cache::{CACHE_ENTRIES, FitnessCache};
pub use command::{Admission, Batch, BatchEncoder, BatchError, Command, ItemReport, Submission};
pub use effect::{Applied, Effect, Outcome};
pub use encoding::StateError;
pub use gang::GangState;
pub use job::{Body, DemandState, Job, Phase, Work};
pub use map::{ItemState, MapState, Tries};
pub use members::{Member, NEWEST_RECORDS, OLDEST_RECORDS};

use label_requests::LabelRequests;

use evoring_jobs::driver::{Driver, DriverEvent};
use evoring_protocol::bounded::map_to_bytes;
use evoring_protocol::event::EventKind;
use evoring_protocol::limits::{LABEL_BYTES, LABEL_KEY_BYTES, LABELS};
use evoring_protocol::peer::GroupId;
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use evoring_protocol::{DemandId, Digest, ErrorCode, JobId, RequestKey, SubmissionKey, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Jobs that are kept, ended ones included, at 8 KiB for an ended job under 1 GB; the oldest ended
/// ones are forgotten.
pub const JOBS: usize = 100_000;
/// Jobs that may be active at once.
pub const ACTIVE_JOBS: usize = 1_000;
/// Workers that are remembered.
pub const WORKERS: usize = 100_000;

/// What every coordinator agrees on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    applied: u64,
    hash: Digest,
    time_ms: u64,
    lease_key: Option<[u8; 32]>,
    next_job: u64,
    jobs: BTreeMap<JobId, Job>,
    /// Those of them that are not ended.
    active: BTreeSet<JobId>,
    submissions: BTreeMap<SubmissionKey, JobId>,
    workers: BTreeMap<WorkerId, Admission>,
    cache: FitnessCache,
    /// Blobs that drivers wrote and the blob store does not have yet (`STATE-4`).
    #[serde(serialize_with = "map_to_bytes::serialize")]
    #[serde(deserialize_with = "map_to_bytes::at_most::<_, _, { usize::MAX }>")]
    blobs: BTreeMap<Digest, Vec<u8>>,
    group: GroupId,
    members: BTreeMap<u64, Member>,
    next_member: u64,
    /// Version of the records in force (`GROUP-2`).
    version: u16,
    /// Since version 4; it follows the rest (`encoding`).
    #[serde(skip)]
    label_requests: LabelRequests,
    /// Newest version that this process reads; not replicated.
    #[serde(skip, default = "newest_records")]
    reads: u16,
}

fn newest_records() -> u16 {
    NEWEST_RECORDS
}

impl Default for State {
    fn default() -> Self {
        Self {
            applied: 0,
            hash: Digest([0; 32]),
            time_ms: 0,
            lease_key: None,
            next_job: 1,
            jobs: BTreeMap::new(),
            active: BTreeSet::new(),
            submissions: BTreeMap::new(),
            workers: BTreeMap::new(),
            cache: FitnessCache::default(),
            blobs: BTreeMap::new(),
            group: GroupId([0; 16]),
            members: BTreeMap::new(),
            next_member: 1,
            version: NEWEST_RECORDS,
            label_requests: LabelRequests::default(),
            reads: NEWEST_RECORDS,
        }
    }
}

impl State {
    /// Says that the log begins after `index`; for the very first state, which no entry made.
    pub fn begin_after(&mut self, index: u64) {
        self.applied = self.applied.max(index);
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Running hash over all entries ever applied.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// Replicated time, milliseconds since 1970; never goes back.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Key of lease MACs, once set.
    pub fn lease_key(&self) -> Option<&[u8; 32]> {
        self.lease_key.as_ref()
    }

    /// All jobs.
    pub fn jobs(&self) -> &BTreeMap<JobId, Job> {
        &self.jobs
    }

    /// Jobs that are not ended.
    pub fn active_jobs(&self) -> impl Iterator<Item = (JobId, &Job, &Work)> {
        self.active.iter().filter_map(|&id| {
            let job = self.jobs.get(&id)?;
            job.work().map(|work| (id, job, work))
        })
    }

    /// One demand of an active job.
    pub fn demand(&self, job: JobId, demand: DemandId) -> Option<&DemandState> {
        self.jobs.get(&job)?.work()?.demands.get(&demand)
    }

    /// Job of a submission.
    pub fn submission(&self, key: &SubmissionKey) -> Option<JobId> {
        self.submissions.get(key).copied()
    }

    /// Admitted workers.
    pub fn workers(&self) -> &BTreeMap<WorkerId, Admission> {
        &self.workers
    }

    /// The fitness cache.
    pub fn cache(&self) -> &FitnessCache {
        &self.cache
    }

    /// Blobs that wait for the blob store.
    pub fn blobs(&self) -> &BTreeMap<Digest, Vec<u8>> {
        &self.blobs
    }

    /// Makes this process behave like a build that reads records up to `version` only: for groups
    /// that shall be able to go back to that build.
    pub fn hold_version(&mut self, version: u16) {
        self.reads = version.clamp(OLDEST_RECORDS, NEWEST_RECORDS);
        if self.applied <= 1 {
            self.version = self.version.min(self.reads);
        }
    }

    /// Newest version of the records that this process reads.
    pub fn reads(&self) -> u16 {
        self.reads
    }

    /// Applies one committed entry; an empty one is Raft's own.
    ///
    /// # Errors
    /// [`BatchError`] if the entry is not one of this build's: nothing is changed then, and this
    /// coordinator must not go on.
    pub fn apply(&mut self, index: u64, entry: &[u8]) -> Result<Applied, BatchError> {
        let batch = match entry {
            [] => Batch {
                time_ms: 0,
                commands: Vec::new(),
            },
            _ => Batch::decode(entry, self.reads)?,
        };
        self.applied = index;
        self.hash = chain(self.hash, index, entry);
        self.time_ms = self.time_ms.max(batch.time_ms);
        #[cfg(evoring_plants)]
        if is_planted(Plant::TimeGoesBack) && !entry.is_empty() {
            self.time_ms = batch.time_ms;
        } else if is_planted(Plant::ClockInApply) {
            self.time_ms = evoring_protocol::plants::machine_clock();
        }
        let mut applied = Applied::default();
        for command in batch.commands {
            let outcome = self.command(index, command, &mut applied.effects);
            applied.outcomes.push(outcome);
        }
        Ok(applied)
    }

    fn command(&mut self, index: u64, command: Command, effects: &mut Vec<Effect>) -> Outcome {
        match command {
            Command::SetLeaseKey { key } => {
                self.lease_key.get_or_insert(key);
            }
            Command::Submit(submission) => return self.submit(index, *submission, effects),
            Command::Cancel { job } => return self.cancel(job, effects),
            Command::AdmitWorker { worker, admission } => {
                if self.workers.len() < WORKERS || self.workers.contains_key(&worker) {
                    self.workers.insert(worker, admission);
                }
            }
            Command::AssignClass { job, class } => self.assign_class(index, job, class, effects),
            Command::Record {
                job,
                demand,
                outcomes,
            } => self.record(index, job, demand, &outcomes, effects),
            Command::BlobStored { digest } => {
                self.blobs.remove(&digest);
            }
            Command::Label { job, key, value } => return self.label(job, key, value, None),
            Command::LabelOnce {
                job,
                key,
                value,
                request,
            } => return self.label(job, key, value, Some(request)),
            Command::AddMember { name, address } => return self.add_member(name, address),
            Command::RemoveMember { id } => return self.remove_member(id),
            Command::MemberJoined { id } => self.member_joined(id),
            Command::RaiseVersion { version } => self.raise_version(version),
            of_gang @ (Command::CommitRoster { .. }
            | Command::BreakRoster { .. }
            | Command::RankFailed { .. }
            | Command::RankFinished { .. }
            | Command::Checkpoint { .. }) => self.gang_command(index, of_gang, effects),
        }
        Outcome::Done
    }

    fn submit(&mut self, index: u64, submission: Submission, effects: &mut Vec<Effect>) -> Outcome {
        let Submission {
            key,
            name,
            kind,
            driver,
            ..
        } = submission;
        #[cfg(evoring_plants)]
        if is_planted(Plant::KeyIgnored) {
            self.submissions.remove(&key);
        }
        if let Some(&job) = self.submissions.get(&key) {
            return Outcome::Submitted {
                job,
                already_known: true,
            };
        }
        let active = self.active.len();
        if active >= ACTIVE_JOBS {
            let message = format!(
                "the cluster has {active} active jobs, at most {ACTIVE_JOBS} are allowed; wait for one or cancel one"
            );
            return Outcome::Refused {
                code: ErrorCode::Busy,
                message,
            };
        }
        self.forget_oldest();
        let id = JobId(self.next_job);
        self.next_job += 1;
        self.submissions.insert(key, id);
        effects.push(Effect::Event(EventKind::JobSubmitted {
            job: id,
            name: name.clone(),
            kind: kind.clone(),
        }));
        let job = Job {
            name,
            kind,
            key,
            submitted_ms: self.time_ms,
            started_ms: None,
            ended_ms: None,
            stages: driver.stages(),
            stage: String::new(),
            phase: Phase::Active(Box::new(Work {
                driver,
                demands: BTreeMap::new(),
            })),
            generation: None,
            numerics: None,
            evaluated: 0,
            cache_hits: 0,
            retries: 0,
            artifacts: Vec::new(),
            labels: BTreeMap::new(),
        };
        self.jobs.insert(id, job);
        self.active.insert(id);
        self.step(index, id, DriverEvent::Start, effects);
        Outcome::Submitted {
            job: id,
            already_known: false,
        }
    }

    /// Makes room for one more job: the ended jobs with the lowest numbers go, and their keys.
    fn forget_oldest(&mut self) {
        while self.jobs.len() >= JOBS {
            let ended = |(_, job): &(&JobId, &Job)| job.work().is_none();
            let Some((&id, _)) = self.jobs.iter().find(ended) else {
                return;
            };
            if let Some(job) = self.jobs.remove(&id) {
                self.submissions.remove(&job.key);
                self.label_requests.forget(id);
            }
        }
    }

    fn cancel(&mut self, id: JobId, effects: &mut Vec<Effect>) -> Outcome {
        match self.jobs.get(&id) {
            None => {
                return Outcome::Refused {
                    code: ErrorCode::NotFound,
                    message: format!("no job {id}; `evoring jobs` lists them"),
                };
            }
            // Asked again, by somebody who may not have heard the answer.
            Some(job) if job.phase == Phase::Cancelled => return Outcome::Done,
            Some(job) if job.work().is_none() => {
                let message = format!("job {id} has already ended");
                return Outcome::Refused {
                    code: ErrorCode::Invalid,
                    message,
                };
            }
            Some(_) => {}
        }
        self.end(id, Phase::Cancelled, effects);
        Outcome::Done
    }

    fn label(
        &mut self,
        id: JobId,
        key: String,
        value: String,
        request: Option<RequestKey>,
    ) -> Outcome {
        let refused = |code, message| Outcome::Refused { code, message };
        let Some(job) = self.jobs.get_mut(&id) else {
            let message = format!("no job {id}; `evoring jobs` lists them");
            return refused(ErrorCode::NotFound, message);
        };
        if key.is_empty() || key.len() > LABEL_KEY_BYTES || value.len() > LABEL_BYTES {
            let message = format!(
                "a label's name has 1 to {LABEL_KEY_BYTES} bytes, its value at most {LABEL_BYTES}; got {} and {}",
                key.len(),
                value.len()
            );
            return refused(ErrorCode::Invalid, message);
        }
        if job.labels.len() >= LABELS && !job.labels.contains_key(&key) {
            let message = format!("job {id} has {LABELS} labels, more are not kept");
            return refused(ErrorCode::Busy, message);
        }
        let is_first = request.is_none_or(|request| self.label_requests.is_first(id, request));
        #[cfg(evoring_plants)]
        let is_first = is_first || is_planted(Plant::LabelsAgain);
        if is_first {
            job.labels.insert(key, value);
        }
        Outcome::Done
    }

    /// Ends a job: it shrinks to what people look at later.
    fn end(&mut self, id: JobId, phase: Phase, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let event = match &phase {
            Phase::Active(_) => return,
            Phase::Finished { .. } => EventKind::JobFinished { job: id },
            Phase::Failed { error } => EventKind::JobFailed {
                job: id,
                error: error.clone(),
            },
            Phase::Cancelled => EventKind::JobCancelled { job: id },
        };
        job.phase = phase;
        self.active.remove(&id);
        job.ended_ms = Some(self.time_ms);
        effects.push(Effect::JobEnded { job: id });
        effects.push(Effect::Event(event));
    }
}

fn chain(previous: Digest, index: u64, entry: &[u8]) -> Digest {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    hash.update(previous.0);
    hash.update(index.to_le_bytes());
    hash.update(entry);
    Digest(hash.finalize().into())
}

#[cfg(test)]
mod tests;
