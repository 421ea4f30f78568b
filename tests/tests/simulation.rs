//! Claims about the simulator itself. That no seed violates an invariant is the business of
//! `make simulate`, which runs many of them, optimized.

use evoring_tests::simulation::{Setup, complaint, run};

const SETUP: Setup = Setup {
    minutes: 1,
    is_told: false,
    disks_lie: false,
};

/// Claim: a few seeds hold, with faults among them.
/// Method: one simulated minute each, unoptimized.
#[test]
fn a_few_seeds_hold() {
    let mut faults = 0;
    for seed in 1..=6 {
        let report = run(seed, SETUP);
        assert_eq!(report.violation, None, "seed {seed}");
        assert_eq!(report.simulated_ms, 60_000);
        faults += report.faults;
    }
    assert!(faults > 0);
}

/// Claim: a seed decides everything.
/// Method: run one twice; another does something else.
#[test]
fn a_seed_decides_everything() {
    let report = run(7, SETUP);
    assert_eq!(run(7, SETUP), report);
    assert_ne!(run(8, SETUP).trace, report.trace);
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
        complaint.ends_with("again: make simulate SEEDS=1 START=10 MINUTES=1"),
        "{complaint}"
    );
}
