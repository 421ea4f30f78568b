//! 6: an executor is given nothing while it runs something.

use super::super::executors::Order;
use super::{Checked, Violation};
use evoring_protocol::{SlotIndex, WorkerId};

/// A worker's executor is given work.
pub(in super::super) fn given(
    worker: &WorkerId,
    slot: SlotIndex,
    running: Option<&Order>,
    order: &Order,
) -> Checked {
    let Some(running) = running else {
        return Ok(());
    };
    let what = format!(
        "slot {slot} of {worker} was given task {} while it runs task {}",
        order.task(),
        running.task()
    );
    Err(Violation::new("slots", what))
}
