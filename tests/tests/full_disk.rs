//! Claim: while the coordinator's disk is full, new work is refused with the reason, and nothing
//! that was acknowledged is lost, not even if the coordinator dies meanwhile; with space again the
//! job goes on by itself.
//!
//! Method: a real job on two workers, the coordinator's folder on a small file system of its own.
//! That is filled while the search runs, the coordinator is killed and started again on the full
//! disk, and the space is freed. No item with a recorded result may be granted again. What the
//! coordinator says to others meanwhile is tested in `coordinator/tests/full_disk.rs`.

use evoring_protocol::event::EventKind;
use evoring_tests::cluster::{Cluster, alone, kill};
use evoring_tests::evidence::{assert_nothing_recorded_is_repeated, is_work};
use evoring_tests::job::PruneJob;
use std::fs::File;
use std::io::Write;

/// Room for the log of a job of this size, and for little more.
const DISK_BYTES: u64 = 32 << 20;

/// Writes until there is no space at all.
fn fill(file: &mut File) {
    let chunk = vec![1u8; 64 << 10];
    let mut size = chunk.len();
    while size > 0 {
        match file.write(&chunk[..size]) {
            Ok(written) if written > 0 => {}
            _ => size /= 2,
        }
    }
}

#[test]
fn full_disk_loses_nothing() {
    let _alone = alone();
    let cluster = Cluster::start_on_small_disk(2, DISK_BYTES);
    let job = cluster.submit(
        &PruneJob {
            generations: 6,
            ..PruneJob::default()
        }
        .text(),
    );
    cluster.wait_for("results of the search", || {
        let events = cluster.events()?;
        let is_recorded = |kind: &EventKind| matches!(kind, EventKind::ItemsRecorded { stage, .. } if stage == "search");
        let is_running = events.iter().any(|e| is_work(e, "search"));
        (is_running && events.iter().any(|e| is_recorded(&e.kind))).then_some(())
    });
    let filler = cluster.coordinator_folder().join("filler");
    fill(&mut File::create_new(&filler).expect("the coordinator's file system"));

    let refusal = || {
        cluster.wait_for("a refusal", || {
            let output = cluster.try_submit(&PruneJob::default().text());
            (output.status.code() == Some(4)).then_some(output)
        })
    };
    let said = String::from_utf8_lossy(&refusal().stderr).into_owned();
    assert!(
        said.contains("only reads") && said.contains("free"),
        "{said}"
    );
    let before = cluster.job(job).expect("reads are answered");
    assert_eq!(before["status"], "running", "{before}");

    let process = cluster.coordinator_process().expect("a coordinator");
    kill(process.into());
    cluster.wait_for("another coordinator", || {
        (cluster.coordinator_process()? != process).then_some(())
    });
    refusal();
    let after = cluster.wait_for("the job", || cluster.job(job));
    assert!(
        after["evaluated"].as_u64() >= before["evaluated"].as_u64(),
        "lost results: {before} {after}"
    );

    std::fs::remove_file(&filler).expect("the filler");
    let view = cluster.wait_for_end(job);
    assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
    let events = cluster.wait_for("events", || cluster.events());
    let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let full = |kind: &EventKind| matches!(kind, EventKind::CoordinatorReadOnly { .. });
    assert!(events.iter().any(|event| full(&event.kind)));
    assert_nothing_recorded_is_repeated(&events);
    let again = cluster.try_submit(&PruneJob::default().text());
    assert!(again.status.success(), "new work is taken again");
}
