//! The one source of chance.

use crate::random::SplitMix;

/// Draws numbers that follow from its seed.
#[derive(Debug, Clone)]
pub(super) struct Dice(SplitMix);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Self(SplitMix(seed ^ 0x5eed_0fe0_0b1a_5e00));
        dice.next();
        dice
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0.number()
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// A number from `first` to `last`.
    pub(super) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// True with this chance in a million.
    pub(super) fn chance(&mut self, millionths: u64) -> bool {
        millionths > 0 && self.below(1_000_000) < millionths
    }

    /// One of some things, of which there is at least one.
    pub(super) fn pick<T: Copy>(&mut self, things: &[T]) -> Option<T> {
        let index = self.below(things.len() as u64) as usize;
        things.get(index).copied()
    }

    /// A time after which the next of events comes that come every `mean` on average.
    pub(super) fn wait(&mut self, mean: u64) -> u64 {
        let share = (self.below(1 << 24) + 1) as f64 / (1u64 << 24) as f64;
        // Bounded at seven means, so that no seed waits for ever.
        ((-share.ln()).min(7.0) * mean as f64) as u64 + 1
    }
}
