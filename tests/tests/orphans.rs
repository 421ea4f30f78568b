//! Claim: a cluster outlives its `evoring` in no case: killed with SIGKILL in the middle of work, it
//! leaves no coordinator, agent or executor behind.
//!
//! Method: `evoring run` with a job that trains on every worker; every process of the cluster has the
//! cluster's folder in its command line, and `/proc` is looked through until none is left. The same
//! for children that do nothing is tested in `cli/tests`.

use evoring_tests::binaries;
use evoring_tests::cluster::{alone, run_at, wait_for};
use evoring_tests::evidence::is_work;
use evoring_tests::job::PruneJob;
use evoring_tests::process::{Process, living_with};
use rustix::process::Signal;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Far more than the end of a pipe takes to be read, far less than the job.
const BOUND: Duration = Duration::from_secs(10);
/// Workers of one slot.
const WORKERS: usize = 2;

#[test]
fn a_killed_run_leaves_no_process() {
    let _alone = alone();
    let scratch = tempfile::TempDir::new().expect("a temporary folder");
    let folder = scratch.path().join("cluster");
    let job = scratch.path().join("job.toml");
    let long = PruneJob {
        epochs: 1_000,
        ranks: "2",
        ..PruneJob::default()
    };
    std::fs::write(&job, long.text()).expect("the job file is written");
    let mut command = Command::new(binaries::binary("evoring"));
    command
        .args(["run", "job.toml", "--workers", &WORKERS.to_string()])
        .arg("--dir")
        .arg(&folder)
        .current_dir(scratch.path())
        .env("XDG_STATE_HOME", scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut run = Process::spawn(&mut command);
    wait_for(|| {
        let output = run_at(&folder.join("cluster.json"), &["events", "--json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut events = text.lines().filter_map(|l| serde_json::from_str(l).ok());
        events.any(|event| is_work(&event, "train")).then_some(())
    })
    .expect("work in stage train");
    let before = living_with(&folder);
    for (program, count) in [
        ("evoring-coordinator", 1),
        ("evoring-worker", WORKERS),
        ("evoring-executor", WORKERS),
    ] {
        let found = before.iter().filter(|(_, line)| line.contains(program));
        assert_eq!(found.count(), count, "{program}: {before:?}");
    }

    run.signal(Signal::KILL);
    assert_eq!(run.wait().code(), None, "it was killed");
    let killed = Instant::now();
    let left = || living_with(&folder);
    wait_for(|| (left().is_empty() || killed.elapsed() > BOUND).then_some(()));
    assert_eq!(
        left(),
        [],
        "alive {BOUND:?} after the end of their `evoring`"
    );
}
