//! Reports to the coordinator: bounded, and kept as long as they must be.

use super::{Core, Slot};
use crate::agent::outbox::in_reports;
use crate::agent::work::{Action, Counter, Work};
use crate::text::bounded;
use evoring_protocol::limits::RESULT_BYTES;
use evoring_protocol::work::{FailureCause, HeldRank, ItemOutcome, Lease, WorkError};
use evoring_protocol::worker::{RankEvent, WorkerReport};

/// A result of an allowed size, or the error in its place.
pub(super) fn fitting(result: Vec<u8>) -> Result<Vec<u8>, WorkError> {
    if result.len() <= RESULT_BYTES {
        return Ok(result);
    }
    Err(WorkError {
        message: format!("a result of {} bytes, at most {RESULT_BYTES}", result.len()),
        cause: FailureCause::Final,
    })
}

impl Core {
    pub(super) fn heartbeat_now(&mut self) {
        let process = |slot: &Slot| if slot.is_ready { slot.process } else { 0 };
        let executors = self.slots.iter().map(process).collect();
        self.send_soft(WorkerReport::Heartbeat { executors });
    }

    /// Reports all that is open of a piece of work as failed.
    pub(super) fn fail(&mut self, work: Work, error: WorkError) {
        match work {
            Work::Items { lease, pending, .. } => {
                let outcome = |index| ItemOutcome {
                    index,
                    result: Err(error.clone()),
                };
                self.results(lease, pending.into_iter().map(outcome).collect());
            }
            Work::Rank { held, .. } => {
                self.actions.push(Action::Count(Counter::RankFailed));
                self.rank_event(held, RankEvent::Failed(bounded(error)));
            }
        }
    }

    pub(super) fn results(&mut self, lease: Lease, outcomes: Vec<ItemOutcome>) {
        if outcomes.is_empty() {
            return;
        }
        let failed = outcomes
            .iter()
            .filter(|outcome| outcome.result.is_err())
            .count() as u64;
        self.actions.push(Action::Count(Counter::ItemsDone(
            outcomes.len() as u64 - failed,
        )));
        if failed > 0 {
            self.actions
                .push(Action::Count(Counter::ItemsFailed(failed)));
        }
        let outcomes = outcomes.into_iter().map(|outcome| ItemOutcome {
            result: outcome.result.and_then(fitting).map_err(bounded),
            ..outcome
        });
        for outcomes in in_reports(outcomes.collect()) {
            let lease = lease.clone();
            self.send_kept(|sequence| WorkerReport::Results {
                sequence,
                lease,
                outcomes,
            });
        }
    }

    pub(super) fn rank_event(&mut self, held: HeldRank, event: RankEvent) {
        self.send_kept(|sequence| WorkerReport::Rank {
            sequence,
            held,
            event,
        });
    }

    /// Keeps a report until it is acknowledged (`AGENT-1`).
    fn send_kept(&mut self, report: impl FnOnce(u64) -> WorkerReport) {
        self.outbox.keep(report);
        self.send_due();
    }

    pub(super) fn send_due(&mut self) {
        while self.is_welcome
            && let Some(report) = self.outbox.next_due()
        {
            self.send(report);
        }
    }

    /// Sends on the newest session (`AGENT-5`).
    pub(super) fn send(&mut self, report: WorkerReport) {
        let session = self.session;
        self.actions.push(Action::Send { session, report });
    }

    /// Sends a report that may be lost.
    pub(super) fn send_soft(&mut self, report: WorkerReport) {
        if self.is_welcome {
            self.send(report);
        }
    }
}
