//! Planted bugs: whether the simulator bites. Only a build with `--cfg evoring_plants` has them.

use super::invariants::Violation;
use super::{Report, Setup, run};
use evoring_protocol::plants::{Plant, plant};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a hunt went.
#[derive(Debug, Clone)]
pub struct Hunt {
    /// The bug.
    pub plant: Plant,
    /// The seed that found it, and what it found.
    pub found: Option<(u64, Violation)>,
    /// How long it took.
    pub took: Duration,
}

/// What is the same for all hunts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Seeds for each bug, from 1 on.
    pub most_seeds: u64,
    /// Of each seed.
    pub setup: Setup,
    /// Threads.
    pub threads: usize,
}

/// Plants the bug of this number for the rest of this process.
///
/// # Errors
/// If there is none of this number.
pub fn plant_number(number: u64) -> Result<Plant, String> {
    let found = usize::try_from(number).ok().and_then(Plant::of);
    let found = found.ok_or_else(|| {
        let last = Plant::ALL.len();
        format!("there is no planted bug {number}; they have the numbers 1 to {last}")
    })?;
    plant(Some(found));
    Ok(found)
}

/// Looks for one bug after the other, and tells of each.
pub fn hunt_all(bugs: &[Plant], limits: Limits, mut tell: impl FnMut(&Hunt)) -> Vec<Hunt> {
    // What a seed says without any bug says nothing about one.
    let mut innocent = BTreeMap::new();
    let hunts = bugs.iter().map(|&plant| {
        let hunt = hunt(plant, limits, &mut innocent);
        tell(&hunt);
        hunt
    });
    let hunts = hunts.collect();
    plant(None);
    hunts
}

fn hunt(bug: Plant, limits: Limits, innocent: &mut BTreeMap<u64, bool>) -> Hunt {
    let began = Instant::now();
    let mut first = 1;
    let mut found = None;
    while found.is_none() && first <= limits.most_seeds {
        let Some((seed, violation)) = first_violation(bug, first, limits) else {
            break;
        };
        first = seed + 1;
        plant(None);
        let is_innocent = *innocent
            .entry(seed)
            .or_insert_with(|| run(seed, limits.setup).violation.is_none());
        found = is_innocent.then_some((seed, violation));
    }
    Hunt {
        plant: bug,
        found,
        took: began.elapsed(),
    }
}

/// The lowest seed from `first` on that violates something, whichever thread comes to it.
fn first_violation(bug: Plant, first: u64, limits: Limits) -> Option<(u64, Violation)> {
    plant(Some(bug));
    let next = AtomicU64::new(first);
    let lowest: Mutex<Option<(u64, Violation)>> = Mutex::new(None);
    let known = || lowest.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let is_over = known().as_ref().is_some_and(|(found, _)| *found < seed);
        if seed > limits.most_seeds || is_over {
            return;
        }
        let Report { violation, .. } = run(seed, limits.setup);
        let Some(violation) = violation else { continue };
        let mut lowest = known();
        if lowest.as_ref().is_none_or(|(found, _)| seed < *found) {
            *lowest = Some((seed, violation));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..limits.threads {
            scope.spawn(work);
        }
    });
    lowest.into_inner().unwrap_or_else(PoisonError::into_inner)
}
