//! Runs items of a map.

use crate::outbox::Outbox;
use crate::panic;
use evoring_kernels::evaluator::{Evaluator, Items};
use evoring_protocol::ItemIndex;
use evoring_protocol::executor::ExecutorReport;
use evoring_protocol::limits::RESULT_BYTES;
use evoring_protocol::work::{Assignment, FailureCause, ItemOutcome, WorkError};
use evoring_worker::text::bounded;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Items to run one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// Number of this piece of work.
    pub task: u64,
    /// What to run.
    pub assignment: &'a Assignment,
    /// Files of the inputs.
    pub inputs: &'a [PathBuf],
    /// The items.
    pub items: &'a [(ItemIndex, Vec<u8>)],
}

/// Runs and reports the items; the message of a panic, which is the outcome of its item.
pub fn run(
    piece: Piece<'_>,
    evaluator: &mut Evaluator,
    outbox: &Outbox,
    stop: &AtomicBool,
) -> Result<(), String> {
    let Piece {
        task,
        assignment,
        inputs,
        items,
    } = piece;
    let (kernel, payload, digests) = (assignment.kernel, &assignment.payload, &assignment.inputs);
    let work = Items {
        kernel,
        payload,
        inputs,
        digests,
        items,
    };
    let mut ended = 0;
    let mut report = |outcome: ItemOutcome| {
        ended += 1;
        outbox.outcome(task, fitting(outcome, piece));
    };
    let result =
        panic::catch(|| evaluator.run_items(work, &mut report, &|| stop.load(Ordering::Acquire)));
    match &result {
        Ok(()) => outbox.report(ExecutorReport::ItemsDone { task }),
        // Items behind it stay open: this process ends, and the agent gives them back.
        Err(message) => {
            outbox.report(ExecutorReport::Panicked { task });
            if let Some((index, _)) = items.get(ended) {
                let message = format!(
                    "{}: item {index} of job {}: panic: {message}",
                    kernel.name(),
                    assignment.job
                );
                let error = bounded(WorkError {
                    message,
                    cause: FailureCause::Failed,
                });
                outbox.outcome(
                    task,
                    ItemOutcome {
                        index: *index,
                        result: Err(error),
                    },
                );
            }
        }
    }
    result
}

/// The outcome with a result or an error of an allowed size.
fn fitting(outcome: ItemOutcome, piece: Piece<'_>) -> ItemOutcome {
    let ItemOutcome { index, result } = outcome;
    let result = match result {
        Ok(bytes) if bytes.len() > RESULT_BYTES => {
            let name = piece.assignment.kernel.name();
            let message = format!(
                "{name}: item {index}: a result of {} bytes, at most {RESULT_BYTES}",
                bytes.len()
            );
            Err(WorkError {
                message,
                cause: FailureCause::Final,
            })
        }
        result => result.map_err(bounded),
    };
    ItemOutcome { index, result }
}
