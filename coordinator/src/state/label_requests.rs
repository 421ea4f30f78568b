//! Which requests have labelled jobs: a client that gets no answer sends its request to another
//! coordinator, and the first copy may come to life again after others have labelled the job.

use evoring_protocol::limits::LABEL_REQUESTS;
use evoring_protocol::{JobId, RequestKey};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// The latest requests of each job, at most [`LABEL_REQUESTS`], the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct LabelRequests(BTreeMap<JobId, VecDeque<RequestKey>>);

impl LabelRequests {
    /// Notes a request; gives whether it is the first copy.
    pub(super) fn is_first(&mut self, job: JobId, request: RequestKey) -> bool {
        let latest = self.0.entry(job).or_default();
        if latest.contains(&request) {
            return false;
        }
        if latest.len() >= LABEL_REQUESTS {
            latest.pop_front();
        }
        latest.push_back(request);
        true
    }

    /// The job is not kept any more.
    pub(super) fn forget(&mut self, job: JobId) {
        self.0.remove(&job);
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
