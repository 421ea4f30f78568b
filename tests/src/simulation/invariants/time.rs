//! Replicated time does not go back.

use super::{Checked, Violation};
use evoring_coordinator::state::State;

/// The latest time that was seen.
pub(in super::super) struct Time(u64);

impl Time {
    pub(super) fn since(first: &State) -> Self {
        Self(first.time_ms())
    }

    /// Entries were applied for the first time.
    pub(super) fn passed(&mut self, state: &State) -> Checked {
        let before = std::mem::replace(&mut self.0, state.time_ms());
        if self.0 < before {
            let what = format!("replicated time went back to {} from {before}", self.0);
            return Err(Violation::new("time", what));
        }
        Ok(())
    }
}
