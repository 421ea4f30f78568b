//! How many requests are worked on at once.
//!
//! Each class has a bound of its own: whoever may only look cannot keep jobs from being submitted,
//! and streams that follow something for hours cannot keep short questions from being answered.

use evoring_protocol::client::ClientRequest;
use evoring_protocol::{ErrorCode, RemoteError};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests of one class that are worked on at once. Each may hold a reply of a few MiB.
const REQUESTS: usize = 512;

/// The classes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Changes something; small replies.
    Write,
    /// One reply.
    Question,
    /// One reply, which waits for no other coordinator: for people who ask why questions wait.
    Diagnosis,
    /// Many replies, as fast as the client reads them.
    Stream,
}

impl Class {
    fn of(request: &ClientRequest) -> Self {
        match request {
            ClientRequest::Submit { .. }
            | ClientRequest::Cancel { .. }
            | ClientRequest::Label { .. }
            | ClientRequest::LabelOnce { .. }
            | ClientRequest::AddMember { .. }
            | ClientRequest::RemoveMember { .. }
            | ClientRequest::TransferLeadership => Self::Write,
            ClientRequest::Jobs
            | ClientRequest::Show { .. }
            | ClientRequest::Explain { .. }
            | ClientRequest::Workers => Self::Question,
            ClientRequest::Status | ClientRequest::Cluster => Self::Diagnosis,
            ClientRequest::Logs { .. }
            | ClientRequest::Events { .. }
            | ClientRequest::Follow { .. }
            | ClientRequest::Blob { .. } => Self::Stream,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Write => "submissions and cancellations",
            Self::Question => "questions",
            Self::Diagnosis => "questions about the group",
            Self::Stream => "streams",
        }
    }
}

/// The bounds.
#[derive(Debug)]
pub(super) struct Gates {
    writes: Arc<Semaphore>,
    questions: Arc<Semaphore>,
    diagnoses: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Default for Gates {
    fn default() -> Self {
        let gate = || Arc::new(Semaphore::new(REQUESTS));
        Self {
            writes: gate(),
            questions: gate(),
            diagnoses: gate(),
            streams: gate(),
        }
    }
}

impl Gates {
    /// The right to work on a request until the permit is dropped.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`] if there are too many of its class.
    pub(super) fn enter(
        &self,
        request: &ClientRequest,
    ) -> Result<OwnedSemaphorePermit, RemoteError> {
        let class = Class::of(request);
        let gate = match class {
            Class::Write => &self.writes,
            Class::Question => &self.questions,
            Class::Diagnosis => &self.diagnoses,
            Class::Stream => &self.streams,
        };
        Arc::clone(gate).try_acquire_owned().map_err(|_| {
            let message = format!(
                "the coordinator works on {REQUESTS} {} already; ask again",
                class.name()
            );
            RemoteError::new(ErrorCode::Busy, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_protocol::JobId;

    // Claim: any number of followers leaves room for submissions and questions, and the other way round,
    // and whatever waits for a majority leaves room for asking why; beyond the bound the client is told to
    // ask again.
    // Method: take all permits of one class, then ask for each of the others.
    #[test]
    fn classes_do_not_block_each_other() {
        let job = JobId(1);
        let follow = ClientRequest::Follow { job };
        let cancel = ClientRequest::Cancel { job };
        let show = ClientRequest::Show { job };
        let all = [&follow, &cancel, &show, &ClientRequest::Cluster];
        for full in all {
            let gates = Gates::default();
            let held: Vec<_> = (0..REQUESTS).map(|_| gates.enter(full).unwrap()).collect();
            for request in all {
                assert_eq!(gates.enter(request).is_ok(), request != full, "{full:?}");
            }
            let error = gates.enter(full).unwrap_err();
            assert!(error.code == ErrorCode::Busy && error.code.can_retry());
            drop(held);
            assert!(gates.enter(full).is_ok());
        }
    }
}
