//! The network: who reaches whom, how late, and what is lost, doubled or overtaken.

use super::counters::{Counters, Sometimes};
use super::dice::Dice;
use std::collections::BTreeMap;

/// A machine: coordinators, then agents, then clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub u32);

impl Place {
    pub(super) fn host(index: usize) -> Self {
        Self(index as u32)
    }

    pub(super) fn agent(index: usize) -> Self {
        Self(1_000 + index as u32)
    }

    pub(super) fn client(index: usize) -> Self {
        Self(2_000 + index as u32)
    }
}

/// How the network behaves; rates in millionths of messages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    pub loss: u64,
    pub doubling: u64,
    /// Messages that come so late that others overtake them.
    pub slowness: u64,
    pub latency_us: u64,
    pub jitter_us: u64,
}

impl Weather {
    pub(super) const CALM: Self = Self {
        loss: 0,
        doubling: 0,
        slowness: 0,
        latency_us: 200,
        jitter_us: 300,
    };
}

/// The network.
#[derive(Debug)]
pub(super) struct Network {
    pub weather: Weather,
    /// Directed paths that are cut, by how many faults.
    cuts: BTreeMap<(Place, Place), u32>,
}

impl Network {
    pub(super) fn new() -> Self {
        Self {
            weather: Weather::CALM,
            cuts: BTreeMap::new(),
        }
    }

    pub(super) fn cut(&mut self, from: Place, to: Place) {
        *self.cuts.entry((from, to)).or_default() += 1;
    }

    pub(super) fn mend(&mut self, from: Place, to: Place) {
        if let Some(count) = self.cuts.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                self.cuts.remove(&(from, to));
            }
        }
    }

    pub(super) fn mend_all(&mut self) {
        self.cuts.clear();
        self.weather = Weather::CALM;
    }

    pub(super) fn is_cut(&self, from: Place, to: Place) -> bool {
        !self.cuts.is_empty() && self.cuts.contains_key(&(from, to))
    }

    /// Time that a message takes on a path that works.
    pub(super) fn delay(&self, dice: &mut Dice) -> u64 {
        self.weather.latency_us + dice.below(self.weather.jitter_us + 1)
    }

    /// After what times a datagram arrives: never, once or twice.
    pub(super) fn route(
        &self,
        from: Place,
        to: Place,
        dice: &mut Dice,
        counters: &mut Counters,
    ) -> [Option<u64>; 2] {
        let weather = self.weather;
        if self.is_cut(from, to) || dice.chance(weather.loss) {
            counters.hit(Sometimes::MessageLost);
            return [None, None];
        }
        let mut delay = self.delay(dice);
        if dice.chance(weather.slowness) {
            counters.hit(Sometimes::MessageOvertaken);
            delay += dice.below(400_000);
        }
        let twin = dice.chance(weather.doubling).then(|| {
            counters.hit(Sometimes::MessageDoubled);
            delay + dice.below(100_000)
        });
        [Some(delay), twin]
    }
}
