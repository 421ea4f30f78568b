//! What failed is not tried again at once, nor where it failed (`SCHED-7`).

use super::maps::MapWork;
use super::{Scheduler, Use};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::{ItemIndex, WorkerId};

/// What failed once waits this long; twice as long after each further failure.
const DELAY_MS: u64 = 100;

/// How long work waits that has failed this many times before.
pub(super) fn delay_ms(failures: u32) -> u64 {
    DELAY_MS << failures.min(16)
}

/// An item that failed and has no result yet.
#[derive(Debug, Default)]
pub(super) struct FailedItem {
    /// Monotonic time before which no slot gets it.
    pub not_before_ms: u64,
    /// Where it failed.
    pub workers: Vec<WorkerId>,
}

impl MapWork {
    /// An item that no slot runs waits for one, after its delay if it failed.
    pub(super) fn put_back(&mut self, item: ItemIndex, now_ms: u64) {
        match self.failed.get(&item) {
            Some(failed) if failed.not_before_ms > now_ms => {
                self.delayed.insert((failed.not_before_ms, item));
            }
            _ => {
                self.pending.insert(item);
            }
        }
    }

    /// An item does not wait any more.
    pub(super) fn take_out(&mut self, item: ItemIndex) {
        self.pending.remove(&item);
        if let Some(failed) = self.failed.get(&item) {
            self.delayed.remove(&(failed.not_before_ms, item));
        }
    }

    /// Number of items that wait.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len() + self.delayed.len()
    }

    /// Ends delays whose time is over.
    pub(super) fn end_delays(&mut self, now_ms: u64) {
        while let Some(&(until_ms, item)) = self.delayed.first()
            && until_ms <= now_ms
        {
            self.delayed.pop_first();
            self.pending.insert(item);
        }
    }

    /// An item failed on a worker, after so many failures before.
    pub(super) fn item_failed(
        &mut self,
        item: ItemIndex,
        worker: &WorkerId,
        failures: u32,
        now_ms: u64,
    ) {
        let failed = self.failed.entry(item).or_default();
        let was_delayed = self.delayed.remove(&(failed.not_before_ms, item));
        failed.not_before_ms = now_ms + delay_ms(failures);
        if was_delayed {
            self.delayed.insert((failed.not_before_ms, item));
        }
        if !failed.workers.contains(worker) {
            failed.workers.push(worker.clone());
        }
    }
}

impl Scheduler {
    /// Whether an item that failed on this worker waits for another one.
    pub(super) fn keeps_away(
        &self,
        map: &MapWork,
        item: ItemIndex,
        worker: &WorkerId,
        class: &NumericsClass,
    ) -> bool {
        map.failed.get(&item).is_some_and(|failed| {
            failed.workers.contains(worker) && self.another_could(class, &failed.workers)
        })
    }

    /// Whether a worker that is none of these runs items now or soon: not one that gangs hold, they
    /// may run for hours.
    fn another_could(&self, class: &NumericsClass, workers: &[WorkerId]) -> bool {
        let is_held = |does: &Use| matches!(does, Use::Rank(_) | Use::Promised(..));
        self.workers.connected().any(|(name, worker)| {
            worker.numerics == *class
                && worker.failures.quarantined_until_ms.is_none()
                && !workers.contains(name)
                && worker.slots.iter().any(|slot| !is_held(&slot.does))
        })
    }
}
