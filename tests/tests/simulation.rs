//! Claims about the simulator itself. That no seed violates an invariant is the business of
//! `make simulate`, which runs many of them, optimized.

use evoring_tests::simulation::{Setup, complaint, run};

const SETUP: Setup = Setup {
    minutes: 3,
    is_told: false,
    disks_lie: false,
    plant: None,
};

/// Of both stores; 20 with the loss of power and damage.
const SEEDS: [u64; 6] = [1, 2, 3, 4, 10, 20];

/// Claim: a few seeds hold, with faults among them.
/// Method: three simulated minutes each, unoptimized.
#[test]
fn a_few_seeds_hold() {
    let mut faults = 0;
    for seed in SEEDS {
        let report = run(seed, SETUP);
        assert_eq!(report.violation, None, "seed {seed}");
        assert_eq!(report.simulated_ms, 180_000);
        faults += report.faults;
    }
    assert!(faults > 0);
}

/// Claim: a seed decides everything.
/// Method: run one of each store twice; another does something else.
#[test]
fn a_seed_decides_everything() {
    for seed in [7, 30] {
        let report = run(seed, SETUP);
        assert_eq!(run(seed, SETUP), report);
        assert_ne!(run(seed + 1, SETUP).trace, report.trace);
    }
}

/// Claim: what breaks a promise is found, and told with the command that shows it again.
/// Method: disks that confirm what they have not written, and a loss of power.
#[test]
fn lying_disks_are_found_out() {
    let setup = Setup {
        disks_lie: true,
        ..SETUP
    };
    let report = run(10, setup);
    let violation = report.violation.expect("nothing was noticed");
    let complaint = complaint(report.seed, &violation.to_string(), setup);
    assert!(
        complaint.ends_with("evoring-simulate -- --lying-disks --seeds 1 --start 10 --minutes 3"),
        "{complaint}"
    );
}

/// Claim: the command that runs a seed again is that of the build and the settings that it ran with.
/// Method: each kind.
#[test]
fn commands_run_again() {
    let again = |setup| complaint(4, "bad", setup);
    assert!(again(SETUP).ends_with("again: make simulate SEEDS=1 START=4 MINUTES=3"));
    let plant = Some(7);
    let planted = again(Setup { plant, ..SETUP });
    assert!(
        planted.ends_with("--plant 7 --seeds 1 --start 4 --minutes 3"),
        "{planted}"
    );
}
