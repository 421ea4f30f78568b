//! A map: independent items, each computed until it has one result.

use super::cache::{FitnessCache, KeyPrefix};
use super::command::ItemReport;
use evoring_protocol::bounded::{bytes, pieces};
use evoring_protocol::numerics::NumericsClass;
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use evoring_protocol::work::{FailureCause, Kernel, WorkError};
use evoring_protocol::{Attempt, Digest, ItemIndex, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where an item stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemState {
    /// It has no result.
    Open(Tries),
    /// It equals an earlier item of the map and gets that one's result.
    Same(ItemIndex),
    /// Its one result.
    Done(
        #[serde(serialize_with = "bytes::serialize")]
        #[serde(deserialize_with = "bytes::at_most::<_, { usize::MAX }>")]
        Vec<u8>,
    ),
}

/// How often an open item was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// Its current attempt.
    pub attempt: Attempt,
    /// Earlier attempts that failed; all others were lost.
    pub failures: u32,
}

/// A map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapState {
    /// What to run.
    pub kernel: Kernel,
    /// What the items share.
    #[serde(serialize_with = "bytes::serialize")]
    #[serde(deserialize_with = "bytes::at_most::<_, { usize::MAX }>")]
    pub payload: Vec<u8>,
    /// Blobs that they read.
    pub inputs: Vec<Digest>,
    /// The items.
    #[serde(serialize_with = "pieces::serialize")]
    #[serde(deserialize_with = "pieces::at_most::<_, { usize::MAX }, { usize::MAX }>")]
    pub items: Vec<Vec<u8>>,
    /// Where each stands.
    pub states: Vec<ItemState>,
    /// Items without a result, equal ones not counted.
    pub open: u32,
    /// Items that were computed for this map.
    pub evaluated: u32,
    /// Items answered from the cache or from an equal item.
    pub cache_hits: u32,
}

/// What reports changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Changes {
    /// Items that got their result.
    pub recorded: Vec<ItemIndex>,
    /// Items that wait for another attempt, with its number.
    pub retried: Vec<(ItemIndex, Attempt)>,
    /// Why the first of them failed.
    pub reason: String,
    /// The map failed for good.
    pub failed: Option<WorkError>,
}

/// What a report means for an open item.
enum Verdict<'a> {
    Result(&'a Vec<u8>),
    Again(Tries, &'a str),
    Failed(String),
    /// A failure of an attempt that was given up before.
    Stale,
}

fn judge(report: &ItemReport, tries: Tries) -> Verdict<'_> {
    let ItemReport { index, outcome, .. } = report;
    match outcome {
        Ok(result) if result.len() <= limits::RESULT_BYTES => Verdict::Result(result),
        Ok(result) => Verdict::Failed(format!(
            "item {index}: a result of {} bytes, at most {} are allowed",
            result.len(),
            limits::RESULT_BYTES
        )),
        Err(error) if !error.cause.can_retry() => {
            Verdict::Failed(format!("item {index}: {}", error.message))
        }
        Err(_) if report.attempt != tries.attempt => Verdict::Stale,
        Err(error) => {
            let next = tries.after(error.cause);
            let lost = next.attempt.0 - 1 - next.failures;
            let (count, limit, what) = match error.cause {
                FailureCause::Lost => (lost, limits::LOSSES, "was lost"),
                FailureCause::Failed | FailureCause::Final => {
                    (next.failures, limits::FAILURES, "failed")
                }
            };
            if count < limit {
                Verdict::Again(next, &error.message)
            } else {
                Verdict::Failed(format!(
                    "item {index} {what} {count} times; the last time: {}",
                    error.message
                ))
            }
        }
    }
}

impl Tries {
    /// Before the first attempt.
    const NONE: Self = Self {
        attempt: Attempt(1),
        failures: 0,
    };

    /// With one more attempt that gave no result.
    fn after(self, cause: FailureCause) -> Self {
        Self {
            attempt: Attempt(self.attempt.0 + 1),
            failures: self.failures + u32::from(cause != FailureCause::Lost),
        }
    }
}

impl MapState {
    /// A map with nothing computed.
    pub(super) fn new(
        kernel: Kernel,
        payload: Vec<u8>,
        inputs: Vec<Digest>,
        items: Vec<Vec<u8>>,
    ) -> Self {
        let mut first: BTreeMap<&[u8], ItemIndex> = BTreeMap::new();
        let mut states = Vec::with_capacity(items.len());
        for (item, index) in items.iter().zip(0u32..) {
            states.push(match first.get(item.as_slice()) {
                Some(&earlier) if kernel.is_cacheable() => ItemState::Same(earlier),
                _ => {
                    first.insert(item, ItemIndex(index));
                    ItemState::Open(Tries::NONE)
                }
            });
        }
        let same = states
            .iter()
            .filter(|state| matches!(state, ItemState::Same(_)))
            .count() as u32;
        let open = states.len() as u32 - same;
        Self {
            kernel,
            payload,
            inputs,
            items,
            states,
            open,
            evaluated: 0,
            cache_hits: same,
        }
    }

    fn prefix(&self, class: &NumericsClass) -> KeyPrefix {
        KeyPrefix::new(self.kernel, &self.payload, &self.inputs, class)
    }

    /// Answers what the cache knows.
    pub(super) fn answer_from(&mut self, cache: &FitnessCache, class: &NumericsClass) {
        if !self.kernel.is_cacheable() {
            return;
        }
        let prefix = self.prefix(class);
        for (item, state) in self.items.iter().zip(&mut self.states) {
            if let ItemState::Open(_) = state
                && let Some(result) = cache.result(&prefix.key(item))
            {
                *state = ItemState::Done(result.clone());
                self.open -= 1;
                self.cache_hits += 1;
            }
        }
    }

    /// Takes reports; results go to the cache as well.
    pub(super) fn record(
        &mut self,
        reports: &[ItemReport],
        cache: &mut FitnessCache,
        class: Option<&NumericsClass>,
    ) -> Changes {
        let prefix = class
            .filter(|_| self.kernel.is_cacheable())
            .map(|class| self.prefix(class));
        let mut changes = Changes::default();
        for report in reports {
            let position = report.index.0 as usize;
            let Some(state) = self.states.get_mut(position) else {
                continue;
            };
            #[cfg(evoring_plants)]
            if matches!(state, ItemState::Done(_)) && is_planted(Plant::ResultCountsTwice) {
                changes.recorded.push(report.index);
            }
            let ItemState::Open(tries) = *state else {
                continue;
            };
            match judge(report, tries) {
                Verdict::Result(result) => {
                    if let (Some(prefix), Some(item)) = (&prefix, self.items.get(position)) {
                        cache.insert(prefix.key(item), result.clone());
                    }
                    *state = ItemState::Done(result.clone());
                    self.open -= 1;
                    self.evaluated += 1;
                    changes.recorded.push(report.index);
                }
                Verdict::Again(next, reason) => {
                    *state = ItemState::Open(next);
                    changes.retried.push((report.index, next.attempt));
                    if changes.reason.is_empty() {
                        reason.clone_into(&mut changes.reason);
                    }
                }
                Verdict::Failed(message) => {
                    changes.failed.get_or_insert(WorkError {
                        message,
                        cause: FailureCause::Final,
                    });
                }
                Verdict::Stale => {}
            }
        }
        changes
    }

    /// Current attempt of an item, while it has no result.
    pub fn attempt(&self, index: ItemIndex) -> Option<Attempt> {
        self.tries(index).map(|tries| tries.attempt)
    }

    /// How often an item was tried, while it has no result.
    pub fn tries(&self, index: ItemIndex) -> Option<Tries> {
        match self.states.get(index.0 as usize) {
            Some(ItemState::Open(tries)) => Some(*tries),
            _ => None,
        }
    }

    /// Items without a result, in order.
    pub fn open_items(&self) -> impl Iterator<Item = ItemIndex> + '_ {
        let is_open = |(state, index): (&ItemState, u32)| {
            matches!(state, ItemState::Open(_)).then_some(ItemIndex(index))
        };
        self.states.iter().zip(0u32..).filter_map(is_open)
    }

    /// All results in order, once none is open.
    pub(super) fn results(&self) -> Option<Vec<Vec<u8>>> {
        self.states
            .iter()
            .map(|state| match state {
                ItemState::Done(result) => Some(result.clone()),
                ItemState::Same(earlier) => match self.states.get(earlier.0 as usize) {
                    Some(ItemState::Done(result)) => Some(result.clone()),
                    _ => None,
                },
                ItemState::Open(_) => None,
            })
            .collect()
    }
}
