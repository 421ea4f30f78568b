//! Clients that ask at the same time, and a record of what they asked and were answered.
//!
//! Each is the client that commands are: it finds the leader by itself and asks again where an answer
//! was lost, within one operation.

use crate::linearizability::{
    Handle, History, JobInput, JobOutput, JobStatus, LabelInput, LabelOutput,
};
use crate::random::SplitMix;
use evoring::client::{Access, Client};
use evoring::exit::{Exit, Failure};
use evoring_protocol::client::{self, ClientReply, ClientRequest, JobView};
use evoring_protocol::{ErrorCode, JobId, RequestKey, SubmissionKey};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A client that hears nothing for so long gives up its request: whether it was carried out is then
/// unknown.
const PATIENCE: Duration = Duration::from_secs(5);
/// Submission keys that clients share at a time.
const KEYS: usize = 4;
/// Operations on one key before another takes its place, so that the checker's work stays small and
/// jobs are seen in every state.
const OPERATIONS_OF_KEY: usize = 24;
/// Names of labels.
const LABELS: [&str; 2] = ["stage", "note"];

/// Jobs by the position of their submission key.
pub type JobHistory = History<usize, JobInput, JobOutput>;
/// Labels by the job's number and their name.
pub type LabelHistory = History<(u64, &'static str), LabelInput, LabelOutput>;

/// What all clients recorded.
#[derive(Debug, Default)]
pub struct Record {
    /// Of jobs.
    pub jobs: JobHistory,
    /// Of their labels.
    pub labels: LabelHistory,
    /// Operations that were answered.
    pub answered: usize,
    /// Operations whose answer was never seen.
    pub unknown: usize,
    /// The job of each submission key that was answered.
    numbers: Vec<Option<JobId>>,
}

/// Clients of one cluster, and the job file that they submit.
#[derive(Debug)]
pub struct Clients {
    access: Access,
    text: String,
    began: Instant,
    stop: AtomicBool,
    /// Requests that label a job.
    labelled: AtomicU64,
    record: Mutex<Record>,
}

/// What one client does next.
#[derive(Debug, Clone)]
enum Operation {
    Job(JobInput, Option<JobId>),
    Label(LabelInput, JobId, &'static str),
}

impl Clients {
    /// Clients of the cluster of `file`.
    ///
    /// # Panics
    /// If the file is not one.
    pub fn new(file: &Path, text: &str) -> Self {
        Self {
            access: Access::from_file(file).expect("a cluster file"),
            text: text.to_owned(),
            began: Instant::now(),
            stop: AtomicBool::new(false),
            labelled: AtomicU64::new(0),
            record: Mutex::default(),
        }
    }

    /// How many operations were answered.
    pub fn answered(&self) -> usize {
        self.record().answered
    }

    /// Lets every client end after its operation.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// What was recorded.
    pub fn into_record(self) -> Record {
        self.record
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one request after the other, as client `number`, until [stopped](Clients::stop).
    ///
    /// # Panics
    /// If an answer is not one to what was asked.
    pub async fn ask_on(&self, number: u64) {
        let mut client = Client::new(self.access.clone(), PATIENCE);
        let mut random = SplitMix(number);
        let mut operations = 0usize;
        while !self.stop.load(Ordering::Relaxed) {
            operations += 1;
            // Clients go on to the next keys together, more or less.
            let key = operations / OPERATIONS_OF_KEY * KEYS + random.below(KEYS as u64) as usize;
            let operation = self.choose(&mut random, key, number, operations);
            match operation {
                Operation::Job(input, job) => self.job(&mut client, number, key, input, job).await,
                Operation::Label(input, job, label) => {
                    self.label(&mut client, number, input, job, label).await;
                }
            }
        }
        client.close().await;
    }

    fn choose(
        &self,
        random: &mut SplitMix,
        key: usize,
        client: u64,
        operation: usize,
    ) -> Operation {
        let job = self.record().numbers.get(key).copied().flatten();
        let label = LABELS[random.below(LABELS.len() as u64) as usize];
        match (job, random.below(20)) {
            (None, _) | (_, 0..2) => Operation::Job(JobInput::Submit, job),
            (Some(_), 2) => Operation::Job(JobInput::Cancel, job),
            (Some(_), 3..8) => Operation::Job(JobInput::Show, job),
            (Some(job), 8..13) => {
                let value = format!("{client}.{operation}");
                Operation::Label(LabelInput::Put(value), job, label)
            }
            (Some(job), _) => Operation::Label(LabelInput::Read, job, label),
        }
    }

    async fn job(
        &self,
        client: &mut Client,
        number: u64,
        key: usize,
        input: JobInput,
        job: Option<JobId>,
    ) {
        let request = match (input, job) {
            (JobInput::Cancel, Some(job)) => ClientRequest::Cancel { job },
            (JobInput::Show, Some(job)) => ClientRequest::Show { job },
            _ => self.submission(key),
        };
        let called = self.now();
        let handle = self.record().jobs.invoke(number, key, input, called);
        let answer = client.ask(&request).await;
        let answered = self.now();
        let mut record = self.record();
        let output = match answer {
            Ok(ClientReply::Submitted { job, already_known }) => {
                if record.numbers.len() <= key {
                    record.numbers.resize(key + 1, None);
                }
                record.numbers[key] = Some(job);
                let job = job.0;
                Some(JobOutput::Submitted { job, already_known })
            }
            Ok(ClientReply::Done) => Some(JobOutput::Cancelled),
            Ok(ClientReply::Job(view)) => Some(JobOutput::Shown(status(view.status))),
            Ok(other) => panic!("{other:?} to {request:?}"),
            Err(failure) => refusal(&failure, input),
        };
        match output {
            Some(output) => record.jobs.complete(handle, output, answered),
            None => record.jobs.unknown(handle),
        }
        record.count(output.is_some());
    }

    async fn label(
        &self,
        client: &mut Client,
        number: u64,
        input: LabelInput,
        job: JobId,
        label: &'static str,
    ) {
        let request = match &input {
            LabelInput::Read => ClientRequest::Show { job },
            LabelInput::Put(value) => ClientRequest::LabelOnce {
                job,
                key: label.to_owned(),
                value: value.clone(),
                request: self.request_key(),
            },
        };
        let called = self.now();
        let handle: Handle = self
            .record()
            .labels
            .invoke(number, (job.0, label), input, called);
        let answer = client.ask(&request).await;
        let answered = self.now();
        let output = match answer {
            Ok(ClientReply::Done) => Some(LabelOutput::Put),
            Ok(ClientReply::Job(view)) => Some(LabelOutput::Read(value(&view, label))),
            Ok(other) => panic!("{other:?} to {request:?}"),
            Err(failure) if is_for_now(&failure) => None,
            Err(failure) => panic!("{request:?}: {failure}"),
        };
        let mut record = self.record();
        record.count(output.is_some());
        match output {
            Some(output) => record.labels.complete(handle, output, answered),
            None => record.labels.unknown(handle),
        }
    }

    fn submission(&self, key: usize) -> ClientRequest {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(key as u64).to_be_bytes());
        ClientRequest::Submit {
            key: SubmissionKey(bytes),
            file: "job.toml".to_owned(),
            text: self.text.clone(),
            refuse_unless_fits: false,
        }
    }

    fn request_key(&self) -> RequestKey {
        let number = self.labelled.fetch_add(1, Ordering::Relaxed);
        RequestKey(u128::from(number).to_le_bytes())
    }

    /// Nanoseconds since the beginning.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a short test")
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn count(&mut self, is_answered: bool) {
        match is_answered {
            true => self.answered += 1,
            false => self.unknown += 1,
        }
    }
}

/// What a failure says of the job; `None` if nothing.
fn refusal(failure: &Failure, input: JobInput) -> Option<JobOutput> {
    match (failure.exit, input) {
        _ if is_for_now(failure) => None,
        (Exit::Refused, JobInput::Cancel) => Some(JobOutput::CancelRefused),
        (Exit::Refused, JobInput::Show) if failure.message.contains(ErrorCode::NotFound.name()) => {
            Some(JobOutput::Shown(JobStatus::Absent))
        }
        _ => panic!("{input:?}: {failure}"),
    }
}

/// Whether another attempt might have succeeded; what became of the earlier ones is then unknown.
fn is_for_now(failure: &Failure) -> bool {
    let is = |code: ErrorCode| failure.message.contains(code.name());
    failure.exit == Exit::Unreachable || is(ErrorCode::NotReady) || is(ErrorCode::Busy)
}

fn status(status: client::JobStatus) -> JobStatus {
    match status {
        client::JobStatus::Queued | client::JobStatus::Running => JobStatus::Active,
        client::JobStatus::Finished => JobStatus::Finished,
        client::JobStatus::Failed => JobStatus::Failed,
        client::JobStatus::Cancelled => JobStatus::Cancelled,
    }
}

fn value(view: &JobView, label: &str) -> Option<String> {
    let mut labels = view.labels.iter();
    labels
        .find(|(name, _)| name == label)
        .map(|(_, value)| value.clone())
}
