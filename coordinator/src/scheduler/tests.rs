//! Scenarios with a simulated clock: the real leader and scheduler, made-up workers.

mod failures;

use super::{GRACE_MS, LOST_MS};
use crate::leader::sim::{Sim, Spec, name};
use crate::made_up::JOB;
use evoring_protocol::client::JobStatus;
use evoring_protocol::event::EventKind;
use evoring_protocol::work::{FailureCause, WorkError};
use evoring_protocol::worker::WorkerCommand;
use evoring_protocol::{JobId, RosterNumber, WorkerId};
use std::collections::BTreeSet;

fn with_ranks(ranks: &str) -> String {
    format!("{JOB}\n[train]\nranks = \"{ranks}\"\nshards = 4\n")
}

fn failing(message: &str, cause: FailureCause) -> WorkError {
    let message = message.to_owned();
    WorkError { message, cause }
}

/// What a rank says that lost a peer.
fn peer_is_gone() -> WorkError {
    failing("a peer is gone", FailureCause::Lost)
}

fn slow_training() -> Spec {
    Spec {
        training_ms: 16_000,
        ..Spec::default()
    }
}

/// Rosters that were committed: number, members, step to resume from.
fn rosters(sim: &Sim, stage: &str) -> Vec<(RosterNumber, BTreeSet<WorkerId>, u64)> {
    let roster = |(_, kind): &(u64, EventKind)| match kind {
        EventKind::RosterCommitted {
            stage: of,
            roster,
            members,
            resume_step,
            ..
        } if of == stage => Some((
            *roster,
            members.iter().map(|(worker, _)| worker.clone()).collect(),
            *resume_step,
        )),
        _ => None,
    };
    sim.events.iter().filter_map(roster).collect()
}

fn lost(sim: &Sim) -> Vec<(u64, u32, u32)> {
    let lost = |(time, kind): &(u64, EventKind)| match kind {
        EventKind::WorkerLost {
            held_items,
            held_ranks,
            ..
        } => Some((*time, *held_items, *held_ranks)),
        _ => None,
    };
    sim.events.iter().filter_map(lost).collect()
}

fn names<const N: usize>(texts: [&str; N]) -> BTreeSet<WorkerId> {
    texts.into_iter().map(name).collect()
}

fn finish(sim: &mut Sim, job: JobId) {
    sim.until("the job ends", 200_000, |sim| sim.ended(job));
    assert_eq!(
        sim.view(job).status,
        JobStatus::Finished,
        "{:?}",
        sim.view(job).error
    );
}

// Claim: a worker that falls silent is lost after 2 s, its items are run again elsewhere, and what
// it delivers late does no harm.
// Method: mute one of two workers in the search; later let it speak again.
#[test]
fn silent_worker() {
    let mut sim = Sim::new();
    sim.worker("w0", Spec::default());
    sim.worker(
        "w1",
        Spec {
            item_ms: 40,
            ..Spec::default()
        },
    );
    let job = sim.submit(JOB);
    sim.until("search", 60_000, |sim| {
        sim.is_in(job, "search") && sim.view(job).slots == 2
    });
    let began = sim.now.mono_ms;
    sim.mute("w1", true);
    sim.until("the loss", 4_000, |sim| !lost(sim).is_empty());
    let (time, items, ranks) = lost(&sim)[0];
    assert!(
        (LOST_MS - 500..=LOST_MS + 100).contains(&(time - began)),
        "{}",
        time - began
    );
    assert!(items > 0 && ranks == 0);
    sim.until("the retry", 100, |sim| {
        sim.count(|kind| matches!(kind, EventKind::ItemsRetried { .. })) == 1
    });
    sim.advance(500);
    sim.mute("w1", false);
    finish(&mut sim, job);
    assert!(sim.view(job).retries >= u64::from(items));
}

// Claim: a gang that loses a member goes on with the survivor from the last checkpoint, and takes
// the member back at the next one.
// Method: kill one of two workers after the first checkpoint; bring it back.
#[test]
fn gang_shrinks_and_grows() {
    let mut sim = Sim::new();
    sim.worker("w0", slow_training());
    sim.worker("w1", slow_training());
    let job = sim.submit(JOB);
    sim.until("a checkpoint", 10_000, |sim| {
        sim.count(|kind| matches!(kind, EventKind::Checkpointed { .. })) == 1
    });
    sim.advance(100);
    sim.kill("w1", false);
    sim.until("a new roster", 4_000, |sim| {
        rosters(sim, "train").len() == 2
    });
    assert_eq!(lost(&sim)[0].2, 1, "the loss must name the rank");
    sim.worker("w1", slow_training());
    sim.until("the end of training", 30_000, |sim| {
        sim.view(job).stage != "train"
    });
    let expected = [
        (RosterNumber(1), names(["w0", "w1"]), 0),
        (RosterNumber(2), names(["w0"]), 25),
        (RosterNumber(3), names(["w0", "w1"]), 50),
    ];
    assert_eq!(rosters(&sim, "train"), expected);
    assert_eq!(sim.view(job).retries, 1, "growing is not a failure");
    let stops = sim
        .commands
        .iter()
        .filter(|(_, command)| matches!(command, WorkerCommand::StopRank { .. }))
        .count();
    assert_eq!(
        stops, 2,
        "the survivor is stopped when the gang shrinks and when it grows"
    );
    finish(&mut sim, job);
}

// Claim: when a survivor reports the loss of a peer before the peer's worker counts as lost, the
// gang is not formed with the dead one again; and it is formed at once when that one is back.
// Method: kill a worker silently, let the survivor's rank fail; bring it back, or do not.
#[test]
fn survivor_reports_first() {
    for comes_back in [true, false] {
        let mut sim = Sim::new();
        sim.worker("w0", slow_training());
        sim.worker("w1", slow_training());
        let job = sim.submit(JOB);
        sim.until("train", 10_000, |sim| sim.is_in(job, "train"));
        sim.kill("w1", false);
        sim.advance(50);
        sim.rank_fails("w0", peer_is_gone());
        let broken = |kind: &EventKind| matches!(kind, EventKind::RosterBroken { .. });
        sim.until("the end of the roster", 600, |sim| sim.count(broken) == 1);
        sim.advance(100);
        assert_eq!(rosters(&sim, "train").len(), 1);
        assert!(lost(&sim).is_empty());
        if comes_back {
            sim.worker("w1", slow_training());
        }
        sim.until("a new roster", 3_000, |sim| {
            rosters(sim, "train").len() == 2
        });
        let members = if comes_back {
            names(["w0", "w1"])
        } else {
            names(["w0"])
        };
        assert_eq!(rosters(&sim, "train")[1].1, members);
        sim.until("search", 60_000, |sim| sim.view(job).stage == "search");
        assert_eq!(rosters(&sim, "train").len(), 2);
        assert_eq!(sim.view(job).retries, 1);
    }
}

// Claim: an executor that dies costs its rank or items, not its agent.
// Method: kill the executor in training and in search.
#[test]
fn executor_dies() {
    let mut sim = Sim::new();
    sim.worker("w0", Spec::default());
    sim.worker("w1", Spec::default());
    let job = sim.submit(JOB);
    for stage in ["train", "search"] {
        sim.until(stage, 60_000, |sim| {
            sim.is_in(job, stage) && sim.view(job).slots == 2
        });
        sim.executor_dies("w1", 0);
    }
    finish(&mut sim, job);
    let exits: Vec<(u32, u32)> = sim
        .events
        .iter()
        .filter_map(|(_, kind)| match kind {
            EventKind::ExecutorExited {
                held_items,
                held_ranks,
                ..
            } => Some((*held_items, *held_ranks)),
            _ => None,
        })
        .collect();
    assert!(
        exits[0] == (0, 1) && exits[1].0 > 0 && exits[1].1 == 0,
        "{exits:?}"
    );
    assert_eq!(
        sim.count(|kind| matches!(kind, EventKind::WorkerLost { .. })),
        0
    );
    assert_eq!(rosters(&sim, "train")[1].0, RosterNumber(2));
}

// Claim: after a restart of the coordinator a gang whose members all come back goes on as it was;
// one whose member stays away is formed anew only after the grace.
// Method: restart in training, once with all workers, once with one gone.
#[test]
fn grace_after_restart() {
    let mut sim = Sim::new();
    sim.worker("w0", slow_training());
    sim.worker("w1", slow_training());
    let job = sim.submit(JOB);
    sim.until("train", 10_000, |sim| sim.is_in(job, "train"));
    sim.restart();
    sim.advance(100);
    assert!(!sim.leader.scheduler().unwrap().is_in_grace());
    assert_eq!(sim.view(job).slots, 2);
    assert_eq!(rosters(&sim, "train").len(), 1);
    sim.kill("w1", false);
    sim.restart();
    let began = sim.now.mono_ms;
    sim.advance(GRACE_MS - 200);
    assert!(sim.leader.scheduler().unwrap().is_in_grace());
    assert!(
        sim.explain(job)[0].contains("1 of 2 are back"),
        "{:?}",
        sim.explain(job)
    );
    assert_eq!(rosters(&sim, "train").len(), 1);
    sim.until("a new roster", 1_000, |sim| {
        rosters(sim, "train").len() == 2
    });
    assert!(sim.now.mono_ms - began >= GRACE_MS - 100);
    assert_eq!(rosters(&sim, "train")[1].1, names(["w0"]));
    finish(&mut sim, job);
}

// Claim: a gang starts with all its slots or not at all, and only on one host; `explain` says
// what is missing, and so does a refused submission.
// Method: 4 ranks; 2 slots, then 4 on two hosts, then 4 on one.
#[test]
fn all_or_nothing() {
    let mut sim = Sim::new();
    sim.worker(
        "w0",
        Spec {
            slots: 2,
            ..Spec::default()
        },
    );
    let text = with_ranks("4..4");
    let refused = sim.try_submit(&text, true).unwrap_err();
    assert!(
        refused.message.contains("needs 4 slots, 2 present"),
        "{}",
        refused.message
    );
    let job = sim.submit(&text);
    sim.advance(5_000);
    assert_eq!(sim.view(job).status, JobStatus::Queued);
    let explained = |sim: &Sim, text: &str| {
        let sentences = sim.explain(job);
        assert!(
            sentences.iter().any(|sentence| sentence.contains(text)),
            "{sentences:?}"
        );
    };
    explained(&sim, "needs 4 slots, 2 present");
    sim.worker(
        "w1",
        Spec {
            slots: 2,
            host: "h2",
            ..Spec::default()
        },
    );
    sim.advance(5_000);
    assert_eq!(sim.view(job).status, JobStatus::Queued);
    explained(&sim, "needs 4 slots, 2 present on one host (4 in all)");
    sim.worker(
        "w2",
        Spec {
            slots: 2,
            host: "h2",
            ..Spec::default()
        },
    );
    sim.until("train", 3_000, |sim| sim.is_in(job, "train"));
    explained(&sim, "runs roster 1 on w1/0, w1/1, w2/0, w2/1");
    finish(&mut sim, job);
}

// Claim: a gang at the head of the queue gets its slots although a map could use them for ever.
// Method: a long search on both slots; a second job whose gang needs both.
#[test]
fn maps_make_room_for_gangs() {
    let mut sim = Sim::new();
    sim.worker(
        "w0",
        Spec {
            slots: 2,
            item_ms: 150,
            ..Spec::default()
        },
    );
    let searching = sim.submit(JOB);
    sim.until("search", 60_000, |sim| sim.is_in(searching, "search"));
    let training = sim.submit(&with_ranks("2..2"));
    sim.until("the gang", 2_000, |sim| sim.is_in(training, "train"));
    assert_eq!(sim.view(training).slots, 2);
    assert!(!sim.ended(searching));
    finish(&mut sim, searching);
    finish(&mut sim, training);
}

// Claim: gangs of one job that wait together run side by side.
// Method: two slots; in fine-tuning there are several gangs of 1 to 4 ranks.
#[test]
fn gangs_side_by_side() {
    let mut sim = Sim::new();
    sim.worker(
        "w0",
        Spec {
            slots: 2,
            ..Spec::default()
        },
    );
    let job = sim.submit(JOB);
    sim.until("finetune", 120_000, |sim| sim.is_in(job, "finetune"));
    sim.advance(100);
    let sentences = sim.explain(job);
    let running = sentences
        .iter()
        .filter(|sentence| sentence.contains("runs roster"))
        .count();
    assert_eq!(running, 2, "{sentences:?}");
    finish(&mut sim, job);
}

// Claim: a slow tail is run a second time, the first result counts, the other run is stopped, and
// nothing counts as retried.
// Method: a worker that takes 20 s an item beside one that takes 10 ms.
#[test]
fn slow_tail() {
    let mut sim = Sim::new();
    sim.worker(
        "w0",
        Spec {
            training_ms: 100,
            ..Spec::default()
        },
    );
    sim.worker(
        "w1",
        Spec {
            item_ms: 20_000,
            training_ms: 100,
            ..Spec::default()
        },
    );
    let job = sim.submit(JOB);
    sim.until("the job ends", 100_000, |sim| sim.ended(job));
    assert_eq!(sim.view(job).status, JobStatus::Finished);
    assert_eq!(sim.view(job).retries, 0);
    let stopped = |(worker, command): &&(WorkerId, WorkerCommand)| {
        *worker == name("w1") && matches!(command, WorkerCommand::StopLease { .. })
    };
    assert!(sim.commands.iter().filter(stopped).count() > 0);
}

// Claim: a job stays within the numerics class of its first worker, and `explain` names those
// that are not used.
// Method: add a worker of another class; let the first one go.
#[test]
fn one_numerics_class() {
    let mut sim = Sim::new();
    sim.worker("w0", Spec::default());
    let job = sim.submit(JOB);
    sim.until("train", 10_000, |sim| sim.is_in(job, "train"));
    sim.worker(
        "other",
        Spec {
            class: "gpu",
            slots: 4,
            ..Spec::default()
        },
    );
    sim.until("search", 60_000, |sim| sim.is_in(job, "search"));
    let sentences = sim.explain(job);
    assert!(
        sentences
            .iter()
            .any(|s| s.contains("other (gpu)") && s.contains("class cpu")),
        "{sentences:?}"
    );
    sim.kill("w0", true);
    sim.advance(10_000);
    assert!(!sim.ended(job));
    sim.worker("w0", Spec::default());
    finish(&mut sim, job);
    let used_other = |(_, kind): &(u64, EventKind)| match kind {
        EventKind::LeaseGranted { worker, .. } => *worker == name("other"),
        EventKind::RosterCommitted { members, .. } => {
            members.iter().any(|(worker, _)| *worker == name("other"))
        }
        _ => false,
    };
    assert!(!sim.events.iter().any(used_other));
}

// Claim: a gang's job begins in a class that has a host large enough.
// Method: one slot of one class, two of another; the gang needs two.
#[test]
fn class_that_fits() {
    let mut sim = Sim::new();
    sim.worker(
        "small",
        Spec {
            class: "a",
            ..Spec::default()
        },
    );
    sim.advance(50);
    let job = sim.submit(&with_ranks("2..2"));
    sim.advance(2_000);
    assert_eq!(sim.view(job).status, JobStatus::Queued);
    sim.worker(
        "large",
        Spec {
            class: "b",
            slots: 2,
            ..Spec::default()
        },
    );
    finish(&mut sim, job);
}

// Claim: a cancelled job stops what runs for it, and others go on.
// Method: cancel in training and in search.
#[test]
fn cancel() {
    for stage in ["train", "search"] {
        let mut sim = Sim::new();
        sim.worker(
            "w0",
            Spec {
                slots: 2,
                ..Spec::default()
            },
        );
        let job = sim.submit(JOB);
        sim.until(stage, 60_000, |sim| sim.is_in(job, stage));
        sim.commands.clear();
        let ticket = crate::leader::Ticket(999);
        sim.feed(crate::leader::Event::Write {
            ticket,
            command: crate::state::Command::Cancel { job },
        });
        sim.advance(50);
        assert_eq!(sim.replies[&ticket], Ok(crate::state::Outcome::Done));
        assert_eq!(
            (sim.view(job).status, sim.view(job).slots),
            (JobStatus::Cancelled, 0)
        );
        let stops = |(_, command): &&(WorkerId, WorkerCommand)| {
            matches!(
                command,
                WorkerCommand::StopLease { .. } | WorkerCommand::StopRank { .. }
            )
        };
        assert!(sim.commands.iter().filter(stops).count() >= 1, "{stage}");
        let next = sim.submit(&JOB.replace("seed = 7", "seed = 8"));
        finish(&mut sim, next);
    }
}

// Claim: leases get larger than one item when items are short, and never hold all of a map.
// Method: 1 ms items on two slots; look at the sizes of leases in the search.
#[test]
fn batches() {
    let mut sim = Sim::new();
    sim.worker(
        "w0",
        Spec {
            slots: 2,
            item_ms: 1,
            training_ms: 100,
            ..Spec::default()
        },
    );
    let job = sim.submit(JOB);
    finish(&mut sim, job);
    let sizes: Vec<usize> = sim
        .events
        .iter()
        .filter_map(|(_, kind)| match kind {
            EventKind::LeaseGranted { stage, items, .. } if stage == "search" => Some(items.len()),
            _ => None,
        })
        .collect();
    assert!(sizes.iter().any(|items| *items >= 4), "{sizes:?}");
    assert!(sizes.iter().all(|items| *items <= 64), "{sizes:?}");
}

// Claim: a second job of the same content costs no evaluations: its results are in the cache.
// Method: run the same job twice in one cluster.
#[test]
fn cache_across_jobs() {
    let mut sim = Sim::new();
    sim.worker(
        "w0",
        Spec {
            training_ms: 100,
            ..Spec::default()
        },
    );
    let first = sim.submit(JOB);
    finish(&mut sim, first);
    let second = sim.submit(JOB);
    finish(&mut sim, second);
    let (first, second) = (sim.view(first), sim.view(second));
    // What measures time is measured again.
    assert!(
        second.evaluated < first.evaluated / 5,
        "{} of {}",
        second.evaluated,
        first.evaluated
    );
    assert_eq!(
        first.evaluated + first.cache_hits,
        second.evaluated + second.cache_hits
    );
    assert_eq!(first.summary.is_some(), second.summary.is_some());
}
