//! The simulator: the real cores (consensus, replicated state, scheduler, drivers, the agent's core)
//! on a simulated clock, network and disks. One seed decides everything.
//!
//! Each run has a phase in which things fail, at rates that the seed draws, and a calm one in which
//! all must end well. [`invariants`] are checked at every event; [`Counters`] say what happened at
//! all. [`run`] runs one seed; the program `evoring-simulate` many of them.
//!
//! What is real, and what is a model: `process` glues consensus and leader as the coordinator's shell
//! does, `agents` the agent's core; `executors` compute made-up results (`made_up`); logs lie on
//! simulated disks, those of some seeds in the real store, those of the others in a quick one;
//! `network`, `links` and `peers` are what the transport does; `clients`, `faults` and `outages` are
//! people and nature.

mod agents;
mod clients;
mod counters;
mod dice;
mod executors;
mod faults;
mod hosts;
pub mod invariants;
mod links;
mod made_up;
mod network;
mod outages;
mod peers;
mod plan;
#[cfg(evoring_plants)]
pub mod plants;
mod process;
mod rogue;
mod trace;
mod world;

pub use counters::{Counters, Sometimes};
pub use invariants::Violation;

use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// What became of one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// A hash over all that happened.
    pub trace: u64,
    /// Events.
    pub events: u64,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Faults: what was killed, cut off, stalled, damaged; messages that were lost or late do not
    /// count.
    pub faults: u64,
    /// What happened how often.
    pub counters: Counters,
    /// What must not have happened, and did.
    pub violation: Option<Violation>,
}

/// What is the same for all seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Simulated time of each seed.
    pub minutes: u64,
    /// Prints everything that happens.
    pub is_told: bool,
    /// All disks say that they have written what they have not: no group survives that, so that the
    /// simulator must find it out.
    pub disks_lie: bool,
    /// Number of the planted bug of this process, for the command that runs a seed again.
    pub plant: Option<u64>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            minutes: 10,
            is_told: false,
            disks_lie: false,
            plant: None,
        }
    }
}

/// Runs one seed.
pub fn run(seed: u64, setup: Setup) -> Report {
    let mut world = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let world = world.insert(World::new(seed, setup)?);
        world.run()
    }));
    let violation = match outcome {
        Ok(outcome) => outcome.err(),
        Err(panic) => Some(Violation {
            invariant: "panic",
            what: panic_text(panic.as_ref()),
        }),
    };
    let mut report = Report {
        seed,
        trace: 0,
        events: 0,
        simulated_ms: 0,
        faults: 0,
        counters: Counters::default(),
        violation,
    };
    if let Some(world) = world {
        report.trace = world.watch.trace.hash();
        report.events = world.watch.trace.events();
        report.simulated_ms = world.now / world::MS;
        report.faults = world.faults.count;
        report.counters = world.watch.counters.clone();
    }
    report
}

/// Whether a seed is run twice, and must do the same: one of each hundred, another one in each, so that
/// all kinds are.
pub fn runs_twice(seed: u64) -> bool {
    seed % 100 == crate::random::mix(seed / 100) % 100
}

/// What is wrong with a seed, and the one command that runs it again.
pub fn complaint(seed: u64, what: &str, setup: Setup) -> String {
    let minutes = setup.minutes;
    let program = "cargo run --release -p evoring-tests --bin evoring-simulate --";
    let again = match (setup.plant, setup.disks_lie) {
        (None, false) => format!("make simulate SEEDS=1 START={seed} MINUTES={minutes}"),
        (None, true) => {
            format!("{program} --lying-disks --seeds 1 --start {seed} --minutes {minutes}")
        }
        (Some(plant), _) => format!(
            "target/plants/release/evoring-simulate --plant {plant} --seeds 1 --start {seed} --minutes {minutes}"
        ),
    };
    format!("seed {seed}: {what}\n  again: {again}")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
