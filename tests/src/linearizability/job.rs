//! A job, by the key it was submitted with.

use super::Model;

/// What one submission key leads to: no job, then one job with one number, which is active until
/// it is cancelled or ends by itself, and stays so.
///
/// Jobs are numbered once for all keys; that no two keys get one number is not looked at here,
/// since keys are checked one by one. Nor are jobs ever forgotten: a history must end before the
/// coordinator makes room for new ones.
#[derive(Debug, Clone, Copy, Default)]
pub struct JobModel {
    /// Whether a client that lost an answer may send the same request again within the same
    /// operation, so that the first answer it sees may be that the job is already known.
    pub clients_resend: bool,
}

/// What is asked of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobInput {
    /// Submits a job.
    Submit,
    /// Cancels the key's job.
    Cancel,
    /// Shows the key's job.
    Show,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobOutput {
    /// The key has this job.
    Submitted {
        /// Its number.
        job: u64,
        /// Whether an earlier submission made it.
        already_known: bool,
    },
    /// The job is cancelled, now or before.
    Cancelled,
    /// There is nothing to cancel: no job, or one that ended by itself.
    CancelRefused,
    /// What the job is doing.
    Shown(JobStatus),
}

/// Status of a job, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobStatus {
    /// There is none.
    Absent,
    /// It waits or runs.
    Active,
    /// It was cancelled.
    Cancelled,
    /// It ended with a result.
    Finished,
    /// It ended without one.
    Failed,
}

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobState {
    /// The job's number, once it was answered.
    pub job: Option<u64>,
    /// What the job is doing.
    pub phase: Phase,
}

/// What is known of what a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// There is none.
    Absent,
    /// It was active when it was last heard of; it may have ended by itself.
    Active,
    /// It ended by itself, nobody saw how.
    Ended,
    /// It finished.
    Finished,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl JobModel {
    fn submitted(&self, state: JobState, job: u64, already_known: bool) -> Option<JobState> {
        let phase = match state.phase {
            Phase::Absent if already_known && !self.clients_resend => return None,
            Phase::Absent => Phase::Active,
            _ if !already_known => return None,
            phase => phase,
        };
        let is_same = state.job.is_none_or(|known| known == job);
        let job = Some(job);
        is_same.then_some(JobState { job, phase })
    }
}

fn cancelled(phase: Phase) -> Option<Phase> {
    match phase {
        Phase::Active | Phase::Cancelled => Some(Phase::Cancelled),
        Phase::Absent | Phase::Ended | Phase::Finished | Phase::Failed => None,
    }
}

fn cancel_refused(phase: Phase) -> Option<Phase> {
    match phase {
        Phase::Active => Some(Phase::Ended),
        Phase::Absent | Phase::Ended | Phase::Finished | Phase::Failed => Some(phase),
        Phase::Cancelled => None,
    }
}

fn shown(phase: Phase, status: JobStatus) -> Option<Phase> {
    match (status, phase) {
        (JobStatus::Absent, Phase::Absent)
        | (JobStatus::Active, Phase::Active)
        | (JobStatus::Cancelled, Phase::Cancelled) => Some(phase),
        (JobStatus::Finished, Phase::Active | Phase::Ended | Phase::Finished) => {
            Some(Phase::Finished)
        }
        (JobStatus::Failed, Phase::Active | Phase::Ended | Phase::Failed) => Some(Phase::Failed),
        _ => None,
    }
}

impl Model for JobModel {
    type State = JobState;
    type Input = JobInput;
    type Output = JobOutput;

    fn initial(&self) -> JobState {
        JobState {
            job: None,
            phase: Phase::Absent,
        }
    }

    fn step(&self, state: &JobState, input: &JobInput, output: &JobOutput) -> Option<JobState> {
        let phase = match (input, *output) {
            (JobInput::Submit, JobOutput::Submitted { job, already_known }) => {
                return self.submitted(*state, job, already_known);
            }
            (JobInput::Cancel, JobOutput::Cancelled) => cancelled(state.phase)?,
            (JobInput::Cancel, JobOutput::CancelRefused) => cancel_refused(state.phase)?,
            (JobInput::Show, JobOutput::Shown(status)) => shown(state.phase, status)?,
            _ => return None,
        };
        Some(JobState { phase, ..*state })
    }

    fn step_unknown(&self, state: &JobState, input: &JobInput) -> Option<JobState> {
        let phase = match (input, state.phase) {
            (JobInput::Submit, Phase::Absent) => Phase::Active,
            (JobInput::Cancel, Phase::Active) => Phase::Cancelled,
            _ => return None,
        };
        Some(JobState { phase, ..*state })
    }

    /// Of everything: a job's phase and number never go back, so what changes nothing now can
    /// later only rule something out.
    fn is_observation(&self, _: &JobInput, _: &JobOutput) -> bool {
        true
    }
}
