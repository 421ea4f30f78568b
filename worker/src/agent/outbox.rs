//! Reports that wait for their acknowledgement (`AGENT-1`).

use evoring_protocol::limits::{LEASE_ITEMS, RESULT_BYTES, WORKER_REPORT_BYTES};
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use evoring_protocol::work::ItemOutcome;
use evoring_protocol::worker::WorkerReport;
use std::collections::BTreeMap;
use std::collections::btree_map::Values;
use std::ops::Bound;

/// Reports that may be on their way at once. The queue to the session has room for more, so that
/// none is dropped on the way; the next ones follow as acknowledgements come.
pub const WINDOW: usize = 1024;
/// Bytes of outcomes in one report; a lease and the frame's overhead need room beside them.
const OUTCOME_BYTES: usize = WORKER_REPORT_BYTES / 4;
/// Each outcome counts as [`RESULT_BYTES`] at least, so that no report has more of them than are taken.
const _: () = assert!(OUTCOME_BYTES / RESULT_BYTES <= LEASE_ITEMS);

/// Kept reports, by sequence number.
#[derive(Debug)]
pub struct Outbox {
    reports: BTreeMap<u64, WorkerReport>,
    next: u64,
    /// Highest number that was sent on this connection.
    sent: u64,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            reports: BTreeMap::new(),
            next: 1,
            sent: 0,
        }
    }
}

impl Outbox {
    /// Keeps the report that `make` builds around its number.
    pub fn keep(&mut self, make: impl FnOnce(u64) -> WorkerReport) {
        self.reports.insert(self.next, make(self.next));
        self.next += 1;
    }

    /// The report is durable.
    pub fn acknowledge(&mut self, sequence: u64) {
        self.reports.remove(&sequence);
    }

    /// A new connection: everything that is kept is to be sent again.
    pub fn rewind(&mut self) {
        #[cfg(evoring_plants)]
        if is_planted(Plant::OutboxNotSentAgain) {
            return;
        }
        self.sent = 0;
    }

    /// The next report to send, unless too many are on their way.
    pub fn next_due(&mut self) -> Option<WorkerReport> {
        if self.reports.range(..=self.sent).take(WINDOW).count() >= WINDOW {
            return None;
        }
        let (&sequence, report) = self
            .reports
            .range((Bound::Excluded(self.sent), Bound::Unbounded))
            .next()?;
        self.sent = sequence;
        Some(report.clone())
    }

    /// All kept reports, the oldest first.
    pub fn reports(&self) -> Values<'_, u64, WorkerReport> {
        self.reports.values()
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.reports.len()
    }
}

/// Cuts outcomes so that each part fits into one report.
pub fn in_reports(outcomes: Vec<ItemOutcome>) -> Vec<Vec<ItemOutcome>> {
    let mut parts: Vec<Vec<ItemOutcome>> = Vec::new();
    let mut filled = usize::MAX;
    for outcome in outcomes {
        let bytes = match &outcome.result {
            Ok(result) => result.len().max(RESULT_BYTES),
            Err(error) => error.message.len() + RESULT_BYTES,
        };
        if filled.saturating_add(bytes) > OUTCOME_BYTES {
            parts.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(part) = parts.last_mut() {
            part.push(outcome);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_protocol::codec::{self, HEADER_BYTES};
    use evoring_protocol::work::{FailureCause, Lease, WorkError};
    use evoring_protocol::{DemandId, ItemIndex, JobId, SlotIndex, Term, WorkerId};

    fn lease() -> Lease {
        Lease {
            job: JobId(1),
            demand: DemandId(1),
            items: Vec::new(),
            worker: WorkerId::new("w").unwrap(),
            slot: SlotIndex(0),
            term: Term(1),
            number: 1,
            expiry_ms: 0,
            mac: [0; 32],
        }
    }

    fn log(sequence: u64) -> WorkerReport {
        WorkerReport::Log {
            job: JobId(sequence),
            lines: Vec::new(),
        }
    }

    fn due(outbox: &mut Outbox) -> Vec<u64> {
        let number = |report| match report {
            WorkerReport::Log { job, .. } => job.0,
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(|| outbox.next_due())
            .map(number)
            .collect()
    }

    /// Claim: at most [`WINDOW`] reports are on their way, each acknowledgement lets one follow, in
    /// order, and a new connection begins with the oldest. Method: more reports than the window.
    #[test]
    fn the_window_moves_with_acknowledgements() {
        let mut outbox = Outbox::default();
        let window = WINDOW as u64;
        (0..window + 2).for_each(|_| outbox.keep(log));
        assert_eq!(due(&mut outbox), (1..=window).collect::<Vec<u64>>());
        outbox.acknowledge(5);
        assert_eq!(due(&mut outbox), [window + 1]);
        outbox.rewind();
        let again: Vec<u64> = (1..=window + 1).filter(|sequence| *sequence != 5).collect();
        assert_eq!(due(&mut outbox), again);
        assert_eq!(outbox.len(), WINDOW + 1);
    }

    /// Claim: a lease of the most items, all failed with the longest text, still fits into frames,
    /// and nothing is lost or reordered. Method: the encoder's own limit decides.
    #[test]
    fn outcomes_fit_into_frames() {
        let error = WorkError {
            message: "x".repeat(evoring_protocol::limits::TEXT_BYTES),
            cause: FailureCause::Failed,
        };
        let all: Vec<ItemOutcome> = (0..LEASE_ITEMS as u32)
            .map(|index| ItemOutcome {
                index: ItemIndex(index),
                result: Err(error.clone()),
            })
            .collect();
        let parts = in_reports(all.clone());
        assert_eq!(parts.concat(), all);
        let bytes = |part: &Vec<ItemOutcome>| {
            part.iter()
                .map(|o| {
                    o.result
                        .as_ref()
                        .map_or_else(|e| e.message.len() + 8, Vec::len)
                })
                .sum::<usize>()
        };
        assert!(
            parts
                .iter()
                .all(|part| !part.is_empty() && bytes(part) < WORKER_REPORT_BYTES / 2)
        );
        assert!(in_reports(Vec::new()).is_empty());
    }

    /// Claim: no report has more outcomes than the coordinator takes of one, however small they are.
    /// Method: three leases' worth of empty results; the parts are decoded as the coordinator does.
    #[test]
    fn outcomes_are_few_enough() {
        let outcome = |index| ItemOutcome {
            index: ItemIndex(index),
            result: Ok(Vec::new()),
        };
        let all: Vec<ItemOutcome> = (0..3 * LEASE_ITEMS as u32).map(outcome).collect();
        let parts = in_reports(all.clone());
        assert_eq!(parts.concat(), all);
        for outcomes in parts {
            assert!((1..=LEASE_ITEMS).contains(&outcomes.len()));
            let report = WorkerReport::Results {
                sequence: 1,
                lease: lease(),
                outcomes,
            };
            let frame = codec::encode(&report).unwrap();
            let again = codec::decode_body::<WorkerReport>(&frame[HEADER_BYTES..]);
            assert_eq!(again, Ok(report));
        }
    }
}
