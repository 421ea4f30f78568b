//! What clients ask without changing anything.

use super::Leader;
use crate::scheduler::Now;
use evoring_protocol::client::{CoordinatorView, JobView, WorkerView};
use evoring_protocol::version::build_id;
use evoring_protocol::{Digest, ErrorCode, JobId, RemoteError};

/// Jobs in one list, the newest ones; a reply has a limit.
const LISTED_JOBS: usize = 4_000;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// All jobs, without summaries and artifacts.
    Jobs,
    /// One job.
    Job(JobId),
    /// Why a job waits.
    Explain(JobId),
    /// All workers.
    Workers,
    /// The coordinator.
    Status,
    /// A blob that the blob store may not have yet.
    PendingBlob(Digest),
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// All jobs.
    Jobs(Vec<JobView>),
    /// One job.
    Job(Box<JobView>),
    /// Sentences.
    Explanation(Vec<String>),
    /// All workers.
    Workers(Vec<WorkerView>),
    /// The coordinator.
    Status(CoordinatorView),
    /// The blob, if it is pending.
    PendingBlob(Option<Vec<u8>>),
}

impl Leader {
    /// Answers a question from what is applied.
    ///
    /// # Errors
    /// [`ErrorCode::NotReady`] before this node is in office, [`ErrorCode::NotFound`] for an
    /// unknown job.
    pub fn answer(&self, question: Question, now: Now) -> Result<Answer, RemoteError> {
        if question == Question::Status {
            return Ok(Answer::Status(self.status()));
        }
        let Some(scheduler) = self.scheduler() else {
            let message = "the coordinator is taking office; ask again".to_owned();
            return Err(RemoteError::new(ErrorCode::NotReady, message));
        };
        let unknown = |job: JobId| {
            RemoteError::new(
                ErrorCode::NotFound,
                format!("no job {job}; `evoring jobs` lists them"),
            )
        };
        Ok(match question {
            Question::Jobs => {
                let ids: Vec<JobId> = self
                    .state()
                    .jobs()
                    .keys()
                    .rev()
                    .take(LISTED_JOBS)
                    .copied()
                    .collect();
                let view = |&id: &JobId| {
                    let mut view = scheduler.job(id, self.state())?;
                    view.summary = None;
                    view.artifacts.clear();
                    view.error = view.error.map(|error| error.chars().take(200).collect());
                    Some(view)
                };
                Answer::Jobs(ids.iter().rev().filter_map(view).collect())
            }
            Question::Job(id) => Answer::Job(Box::new(
                scheduler.job(id, self.state()).ok_or_else(|| unknown(id))?,
            )),
            Question::Explain(id) => {
                if !self.state().jobs().contains_key(&id) {
                    return Err(unknown(id));
                }
                Answer::Explanation(scheduler.explain(id, self.state(), now))
            }
            Question::Workers => Answer::Workers(scheduler.worker_views()),
            Question::Status => Answer::Status(self.status()),
            Question::PendingBlob(digest) => {
                Answer::PendingBlob(self.state().blobs().get(&digest).cloned())
            }
        })
    }

    fn status(&self) -> CoordinatorView {
        CoordinatorView {
            build: build_id(),
            process: self.config.process,
            term: self.term(),
            applied: self.state().applied(),
            read_only: self.read_only().map(str::to_owned),
            metrics: None,
        }
    }
}
