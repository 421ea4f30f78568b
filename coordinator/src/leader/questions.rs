//! What clients ask without changing anything.

use super::{Action, Denial, Leader, Ticket};
use crate::scheduler::Now;
use evoring_protocol::client::{ClusterView, CoordinatorView, JobView, WorkerView};
use evoring_protocol::limits::LISTED_JOBS;
use evoring_protocol::version::build_id;
use evoring_protocol::{Digest, ErrorCode, JobId, RemoteError};
use std::collections::BTreeMap;

/// Questions that wait.
#[derive(Debug, Default)]
pub(super) struct Reads {
    last_token: u64,
    /// Those whose index is not known yet.
    asked: BTreeMap<u64, (Ticket, Question)>,
    /// Those whose index is not applied yet.
    ready: Vec<(u64, (Ticket, Question))>,
}

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
    /// The group, as this coordinator knows it.
    Cluster,
    /// Whether this coordinator leads and answers.
    Leadership,
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
    /// The group.
    Cluster(Box<ClusterView>),
    /// It leads.
    Leads,
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
        let scheduler = || {
            self.scheduler().ok_or_else(|| {
                let message = "the coordinator is taking office; ask again".to_owned();
                RemoteError::new(ErrorCode::NotReady, message)
            })
        };
        let unknown = |job: JobId| {
            RemoteError::new(
                ErrorCode::NotFound,
                format!("no job {job}; `evoring jobs` lists them"),
            )
        };
        Ok(match question {
            Question::Status => Answer::Status(self.status()),
            Question::Cluster => Answer::Cluster(Box::new(self.cluster(now))),
            Question::Jobs => {
                let scheduler = scheduler()?;
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
            Question::Job(id) => {
                let view = scheduler()?.job(id, self.state());
                Answer::Job(Box::new(view.ok_or_else(|| unknown(id))?))
            }
            Question::Explain(id) => {
                let scheduler = scheduler()?;
                if !self.state().jobs().contains_key(&id) {
                    return Err(unknown(id));
                }
                Answer::Explanation(scheduler.explain(id, self.state(), now))
            }
            Question::Workers => Answer::Workers(scheduler()?.worker_views()),
            Question::Leadership => {
                scheduler()?;
                Answer::Leads
            }
            Question::PendingBlob(digest) => {
                scheduler()?;
                Answer::PendingBlob(self.state().blobs().get(&digest).cloned())
            }
        })
    }

    /// Takes a client's question. What a leader says must be true now, not only when it last heard
    /// from the others (`LEAD-4`); about itself any coordinator answers.
    pub(super) fn ask(&mut self, ticket: Ticket, question: Question, now: Now) {
        if matches!(question, Question::Status | Question::Cluster) {
            let answer = self.answer(question, now).map_err(Denial::from);
            self.out.push(Action::Answer { ticket, answer });
        } else if self.is_elsewhere() {
            let answer = Err(Denial::NotLeader(self.leader_hint()));
            self.out.push(Action::Answer { ticket, answer });
        } else {
            self.reads.last_token += 1;
            let token = self.reads.last_token;
            self.reads.asked.insert(token, (ticket, question));
            self.out.push(Action::Read { token });
        }
    }

    pub(super) fn read_ready(&mut self, token: u64, index: u64, now: Now) {
        if let Some(asked) = self.reads.asked.remove(&token) {
            self.reads.ready.push((index, asked));
        }
        self.answer_reads(now);
    }

    pub(super) fn read_failed(&mut self, token: u64) {
        if let Some((ticket, _)) = self.reads.asked.remove(&token) {
            let answer = Err(Denial::NotLeader(self.leader_hint()));
            self.out.push(Action::Answer { ticket, answer });
        }
    }

    /// Nobody answers what waits for an index any more.
    pub(super) fn abandon_reads(&mut self) {
        for (_, (ticket, _)) in std::mem::take(&mut self.reads.ready) {
            let answer = Err(Denial::NotLeader(self.leader_hint()));
            self.out.push(Action::Answer { ticket, answer });
        }
    }

    /// Answers what waited for an index that is applied.
    pub(super) fn answer_reads(&mut self, now: Now) {
        let applied = self.state().applied();
        let ready = std::mem::take(&mut self.reads.ready);
        for (index, (ticket, question)) in ready {
            if index > applied {
                self.reads.ready.push((index, (ticket, question)));
                continue;
            }
            let answer = self.answer(question, now).map_err(Denial::from);
            self.out.push(Action::Answer { ticket, answer });
        }
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
