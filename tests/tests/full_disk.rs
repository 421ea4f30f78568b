//! Claim: while the coordinator's disk is full, new work is refused with the disk as the reason, and
//! nothing that was acknowledged is lost, neither if the coordinator dies meanwhile nor if it dies
//! after there is space again; the job then goes on by itself.
//!
//! Method: a real job on two workers and one that waits, the coordinator's folder on a small file
//! system of its own. That is filled while the search runs, the coordinator is killed and started
//! again on the full disk, the space is freed, and the coordinator is killed once more. No item with
//! a recorded result may be granted again. What the coordinator says to others meanwhile is tested in
//! `coordinator/tests/full_disk.rs`. A machine that lets nobody mount a file system is told as one
//! where this was not run.

use evoring_protocol::event::{Event, EventKind};
use evoring_protocol::{DemandId, ItemIndex, JobId};
use evoring_tests::cluster::{Cluster, alone, kill};
use evoring_tests::evidence::{assert_nothing_recorded_is_repeated, is_work};
use evoring_tests::job::PruneJob;
use evoring_tests::namespace::not_run;
use serde_json::Value;
use std::collections::BTreeSet;
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

/// A job that nothing is computed for: it needs more slots than there are.
fn waiting() -> String {
    let job = PruneJob {
        ranks: "4",
        ..PruneJob::default()
    };
    job.text()
}

/// What `submit` says while the coordinator only reads. Until it has noticed, it accepts: those jobs
/// are added to `accepted`.
fn refusal(cluster: &Cluster, accepted: &mut Vec<u64>) -> String {
    cluster.wait_for("a refusal", || {
        let output = cluster.try_submit(&waiting());
        match output.status.code() {
            Some(4) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
            Some(0) => {
                let reply: Value = serde_json::from_slice(&output.stdout).expect("JSON");
                accepted.extend(reply["job"].as_u64());
                None
            }
            _ => None,
        }
    })
}

/// Kills the coordinator and waits for the next one.
fn kill_coordinator(cluster: &Cluster) {
    let process = cluster.coordinator_process().expect("a coordinator");
    kill(process.into());
    cluster.wait_for("another coordinator", || {
        (cluster.coordinator_process()? != process).then_some(())
    });
}

/// Items that have their one result.
fn recorded(events: &[Event]) -> BTreeSet<(JobId, DemandId, ItemIndex)> {
    let mut found = BTreeSet::new();
    for event in events {
        if let EventKind::ItemsRecorded {
            job, demand, items, ..
        } = &event.kind
        {
            found.extend(items.iter().map(|index| (*job, *demand, *index)));
        }
    }
    found
}

/// Numbers of all jobs.
fn jobs(cluster: &Cluster) -> Vec<u64> {
    let views = cluster.wait_for("the jobs", || cluster.json(&["jobs"]));
    let views = views.as_array().expect("a list of jobs");
    let mut numbers: Vec<u64> = views
        .iter()
        .filter_map(|view| view["job"].as_u64())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Whether the search has results and goes on.
fn is_searched(events: &[Event]) -> bool {
    let is_recorded = |kind: &EventKind| matches!(kind, EventKind::ItemsRecorded { stage, .. } if stage == "search");
    events.iter().any(|e| is_work(e, "search")) && events.iter().any(|e| is_recorded(&e.kind))
}

#[test]
fn full_disk_loses_nothing() {
    let _alone = alone();
    let cluster = match Cluster::start_on_small_disk(1, 2, DISK_BYTES) {
        Ok(cluster) => cluster,
        Err(reason) => return not_run("full_disk_loses_nothing", &reason),
    };
    let running = PruneJob {
        generations: 6,
        ..PruneJob::default()
    };
    let job = cluster.submit(&running.text());
    let queued = cluster.submit(&waiting());
    let mut accepted = vec![job, queued];
    cluster.wait_for("results of the search", || {
        is_searched(&cluster.events()?).then_some(())
    });
    let filler = cluster.folder_of("coordinator").join("filler");
    fill(&mut File::create_new(&filler).expect("the coordinator's file system"));

    let said = refusal(&cluster, &mut accepted);
    let disk = cluster.folder().join("coordinator").display().to_string();
    for part in ["read_only", "only reads", &disk, "free some"] {
        assert!(said.contains(part), "no {part:?}: {said}");
    }
    let before = cluster.job(job).expect("reads are answered");
    assert_eq!(before["status"], "running", "{before}");
    let events = cluster.events().expect("reads are answered");
    // Asked of the coordinator that says so: what it cannot write down ends with it.
    let full = |kind: &EventKind| matches!(kind, EventKind::CoordinatorReadOnly { reason } if reason.contains(&disk));
    assert!(events.iter().any(|event| full(&event.kind)));
    let done = recorded(&events);
    let assert_kept = |accepted: &[u64], when: &str| {
        let view = cluster.wait_for("the job", || cluster.job(job));
        assert!(
            view["evaluated"].as_u64() >= before["evaluated"].as_u64(),
            "{when}: lost evaluations: {before} {view}"
        );
        let events = cluster.wait_for("events", || cluster.events());
        let lost: Vec<_> = done.difference(&recorded(&events)).copied().collect();
        assert!(lost.is_empty(), "{when}: lost results: {lost:?}");
        assert_eq!(jobs(&cluster), accepted, "{when}: the accepted jobs");
        for waits in &accepted[1..] {
            let view = cluster.wait_for("a job that waits", || cluster.job(*waits));
            assert_eq!(view["status"], "queued", "{when}: {view}");
        }
    };

    kill_coordinator(&cluster);
    let said = refusal(&cluster, &mut accepted);
    assert!(said.contains(&disk), "{said}");
    assert_kept(&accepted, "started again on the full disk");

    std::fs::remove_file(&filler).expect("the filler");
    kill_coordinator(&cluster);
    assert_kept(&accepted, "started again with space");
    let view = cluster.wait_for_end(job);
    assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
    let events = cluster.wait_for("events", || cluster.events());
    let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_nothing_recorded_is_repeated(&events);
    cluster.repeatable_bytes(job);
    accepted.push(cluster.submit(&waiting()));
    assert_eq!(jobs(&cluster), accepted);
}

/// Claim: where the leader's disk is full, another coordinator takes over, and the group goes on writing;
/// why the one does not is told, and it follows again once there is space.
/// Method: the first of three coordinators on a small file system leads; that is filled while the search
/// runs, a job is submitted at once, and the disk is emptied when another leader has accepted one more.
#[test]
fn full_disk_of_a_leader_stops_nobody() {
    let _alone = alone();
    let cluster = match Cluster::start_on_small_disk(3, 2, DISK_BYTES) {
        Ok(cluster) => cluster,
        Err(reason) => return not_run("full_disk_of_a_leader_stops_nobody", &reason),
    };
    let full = cluster.coordinators()[0].clone();
    cluster.wait_for("the office of the first coordinator", || {
        if cluster.leader().name == full {
            return Some(());
        }
        cluster.run(&["cluster", "transfer"]);
        None
    });
    let job = cluster.submit(&PruneJob::default().text());
    cluster.wait_for("results of the search", || {
        is_searched(&cluster.merged_events()).then_some(())
    });
    let filler = cluster.folder_of(&full).join("filler");
    fill(&mut File::create_new(&filler).expect("the coordinator's file system"));
    // Whoever leads just now: the command finds one that can write by itself.
    let mut accepted = vec![job, cluster.submit(&waiting())];
    cluster.wait_for("another leader, and what ails the last one", || {
        let view = cluster.status()?;
        let members = view["members"].as_array()?;
        let ailing = members.iter().find(|member| member["name"] == *full)?;
        let trouble = ailing["trouble"].as_str()?;
        (ailing["role"] == "voter" && trouble.contains("free")).then_some(())
    });
    accepted.push(cluster.submit(&waiting()));
    let view = cluster.wait_for_end(job);
    assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
    std::fs::remove_file(&filler).expect("the filler");
    cluster.wait_for_group();
    accepted.push(cluster.submit(&waiting()));
    assert_eq!(jobs(&cluster), accepted);
    assert_nothing_recorded_is_repeated(&cluster.merged_events());
}
