//! 9: clients see one copy that does one thing at a time; no read is stale.

use super::super::clients::Request;
use super::{Checked, Violation};
use crate::linearizability::{
    Handle, History as Operations, JobInput, JobModel, JobOutput, JobStatus, LabelInput,
    LabelModel, LabelOutput, Verdict, check,
};
use evoring_coordinator::state::Outcome;
use evoring_protocol::JobId;
use evoring_protocol::client::{self, JobView};
use std::collections::BTreeMap;

const NAME: &str = "history";
/// Attempts to place an operation; a few for each suffice.
const STEPS: u64 = 2_000_000;

/// What clients asked and were told.
#[derive(Default)]
pub(in super::super) struct History {
    jobs: Operations<u64, JobInput, JobOutput>,
    labels: Operations<JobId, LabelInput, LabelOutput>,
    open: BTreeMap<usize, Open>,
    asked: usize,
}

#[derive(Default)]
struct Open {
    job: Option<Handle>,
    label: Option<Handle>,
}

impl History {
    /// A client asks; gives the operation's name.
    pub(in super::super) fn asks(&mut self, client: usize, request: &Request, now: u64) -> usize {
        self.asked += 1;
        let client = client as u64;
        let mut open = Open::default();
        match request {
            Request::Submit { key } => {
                open.job = Some(self.jobs.invoke(client, *key, JobInput::Submit, now));
            }
            Request::Cancel { key, .. } => {
                open.job = Some(self.jobs.invoke(client, *key, JobInput::Cancel, now));
            }
            Request::Label { job, value } => {
                let input = LabelInput::Put(value.to_string());
                open.label = Some(self.labels.invoke(client, *job, input, now));
            }
            Request::Show { job, key } => {
                open.job = Some(self.jobs.invoke(client, *key, JobInput::Show, now));
                open.label = Some(self.labels.invoke(client, *job, LabelInput::Read, now));
            }
            Request::AddMember { .. } | Request::RemoveMember { .. } => {}
        }
        self.open.insert(self.asked, open);
        self.asked
    }

    pub(in super::super) fn unknown(&mut self, operation: usize) {
        self.open.remove(&operation);
    }

    /// It was certainly not done.
    pub(in super::super) fn failed(&mut self, operation: usize) {
        let open = self.open.remove(&operation).unwrap_or_default();
        if let Some(handle) = open.job {
            self.jobs.failed(handle);
        }
        if let Some(handle) = open.label {
            self.labels.failed(handle);
        }
    }

    pub(in super::super) fn done(
        &mut self,
        operation: usize,
        outcome: &Outcome,
        now: u64,
    ) -> Checked {
        let open = self.open.remove(&operation).unwrap_or_default();
        if let Some(handle) = open.job {
            let output = match outcome {
                Outcome::Submitted { job, already_known } => JobOutput::Submitted {
                    job: job.0,
                    already_known: *already_known,
                },
                Outcome::Done => JobOutput::Cancelled,
                Outcome::Refused { .. } => JobOutput::CancelRefused,
                Outcome::MemberAdded { .. } => {
                    let what = "a job's request was answered with a member".to_owned();
                    return Err(Violation::new(NAME, what));
                }
            };
            self.jobs.complete(handle, output, now);
        }
        if let Some(handle) = open.label {
            match outcome {
                Outcome::Done => self.labels.complete(handle, LabelOutput::Put, now),
                other => {
                    let what = format!("a label was answered with {other:?}");
                    return Err(Violation::new(NAME, what));
                }
            }
        }
        Ok(())
    }

    pub(in super::super) fn shown(
        &mut self,
        operation: usize,
        view: &JobView,
        label: &str,
        now: u64,
    ) -> Checked {
        let open = self.open.remove(&operation).unwrap_or_default();
        let status = match view.status {
            client::JobStatus::Queued | client::JobStatus::Running => JobStatus::Active,
            client::JobStatus::Finished => JobStatus::Finished,
            client::JobStatus::Failed => JobStatus::Failed,
            client::JobStatus::Cancelled => JobStatus::Cancelled,
        };
        if let Some(handle) = open.job {
            self.jobs.complete(handle, JobOutput::Shown(status), now);
        }
        if let Some(handle) = open.label {
            let value = view.labels.iter().find(|(name, _)| name == label);
            let value = value.map(|(_, value)| value.clone());
            self.labels.complete(handle, LabelOutput::Read(value), now);
        }
        Ok(())
    }

    /// At the end: whether there is an order that explains everything.
    pub(in super::super) fn explained(&self) -> Checked {
        let model = JobModel {
            clients_resend: false,
        };
        judged(check(&self.jobs, &model, STEPS))?;
        judged(check(&self.labels, &LabelModel, STEPS))
    }
}

fn judged<K: std::fmt::Debug>(verdict: Verdict<K>) -> Checked {
    match verdict {
        Verdict::Linearizable => Ok(()),
        // A run that cannot be judged proves nothing.
        verdict => Err(Violation::new(NAME, verdict.to_string())),
    }
}
