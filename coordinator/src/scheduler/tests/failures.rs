//! What fails, is lost, or is taken up by the next leader.

use super::*;
use crate::leader::sim::exited;
use crate::scheduler::Use;
use crate::scheduler::maps::Running;
use evoring_protocol::work::{Checkpoint, HeldRank, ItemOutcome};
use evoring_protocol::worker::{Ran, RankEvent, WorkerReport};
use evoring_protocol::{Digest, SlotIndex, Step, Term, limits};

/// The one lease that a scheduler knows.
fn only_lease(sim: &Sim) -> &Running {
    let leases = &sim.leader.scheduler().unwrap().leases;
    assert_eq!(leases.len(), 1, "{leases:?}");
    leases.values().next().unwrap()
}

/// Two ranks train on w0 and w1; what the second one holds.
fn in_training(ranks: &str) -> (Sim, JobId, HeldRank) {
    let mut sim = Sim::new();
    sim.worker("w0", slow_training());
    sim.worker("w1", slow_training());
    let job = sim.submit(&with_ranks(ranks));
    sim.until("train", 10_000, |sim| sim.is_in(job, "train"));
    let held = sim
        .commands
        .iter()
        .find_map(|(worker, command)| match command {
            WorkerCommand::StartRank { held, .. } if *worker == name("w1") => Some(held.clone()),
            _ => None,
        });
    (sim, job, held.unwrap())
}

fn in_search(spec: Spec) -> (Sim, JobId) {
    let mut sim = Sim::new();
    sim.worker("w0", spec);
    let job = sim.submit(JOB);
    sim.until("search", 60_000, |sim| sim.is_in(job, "search"));
    (sim, job)
}

// Claim: the end of an executor costs what that executor ran and nothing else: not what its slot is
// booked for by the time the leader hears of it.
// Method: while a slot runs a lease, and while a roster is promised it, an executor of that slot
// ends that ran nothing, or something from long ago.
#[test]
fn an_exit_costs_what_ran() {
    let long_ago = Some(Ran::Lease {
        term: Term(0),
        number: 7,
    });
    for ran in [None, long_ago] {
        let mut sim = Sim::new();
        sim.commit_ms = 50;
        sim.worker("w0", Spec::default());
        sim.advance(200);
        let job = sim.submit(JOB);
        let is_promised = |sim: &Sim| {
            let mut workers = sim.leader.scheduler().unwrap().workers();
            workers.any(|(_, worker)| matches!(worker.slots[0].does, Use::Promised(..)))
        };
        sim.until("a promise", 5_000, is_promised);
        sim.say("w0", exited(0, ran.clone()));
        sim.until("search", 60_000, |sim| sim.is_in(job, "search"));
        sim.advance(5);
        sim.say("w0", exited(0, ran));
        finish(&mut sim, job);
        assert_eq!(sim.view(job).retries, 0);
        assert_eq!(rosters(&sim, "train").len(), 1);
        let costs = |kind: &EventKind| matches!(kind, EventKind::ExecutorExited { held_items, held_ranks, .. } if held_items + held_ranks > 0);
        assert_eq!(sim.count(costs), 0);
    }
}

// Claim (SCHED-5): a voided gang's member is told to stop also while its executor is being started
// again: the agent may keep the rank for the next one.
// Method: an executor dies in training; look at what its worker is told.
#[test]
fn a_restarting_member_is_stopped() {
    let mut sim = Sim::new();
    sim.worker("w0", slow_training());
    sim.worker("w1", slow_training());
    let job = sim.submit(JOB);
    sim.until("train", 10_000, |sim| sim.is_in(job, "train"));
    let ran = sim.running("w1", 0);
    sim.say("w1", exited(0, ran));
    sim.until("a new roster", 3_000, |sim| {
        rosters(sim, "train").len() == 2
    });
    for worker in ["w0", "w1"] {
        let stops = |(to, command): &&(WorkerId, WorkerCommand)| {
            *to == name(worker) && matches!(command, WorkerCommand::StopRank { .. })
        };
        assert_eq!(sim.commands.iter().filter(stops).count(), 1, "{worker}");
    }
    finish(&mut sim, job);
}

// Claim (SCHED-7): a worker on which everything fails ends no job while another one works; it is
// left alone for a while, `explain` says so, and nobody learns how long an item takes from it.
// Method: a worker that fails at once beside one that takes 20 ms.
#[test]
fn a_bad_worker_ends_no_job() {
    let mut sim = Sim::new();
    sim.worker(
        "w1",
        Spec {
            item_ms: 20,
            training_ms: 100,
            ..Spec::default()
        },
    );
    let job = sim.submit(&with_ranks("1..1"));
    sim.until("search", 60_000, |sim| sim.is_in(job, "search"));
    sim.worker(
        "w0",
        Spec {
            item_ms: 1,
            item_error: Some(failing("no space left on the device", FailureCause::Failed)),
            ..Spec::default()
        },
    );
    let is_explained = |sim: &Sim| {
        let sentences = sim.explain(job);
        sentences
            .iter()
            .any(|text| text.contains("not used for a while") && text.contains("w0"))
    };
    sim.until("the quarantine", 60_000, is_explained);
    let times = &sim.leader.scheduler().unwrap().item_times;
    assert!(times.values().all(|item_ms| *item_ms >= 19.0), "{times:?}");
    finish(&mut sim, job);
    let again = |kind: &EventKind| matches!(kind, EventKind::ItemsRetried { items, .. } if items.iter().any(|(_, attempt)| attempt.0 > 2));
    assert_eq!(sim.count(again), 0, "what failed there went there again");
}

// Claim: an item on which every executor dies ends its job after few deaths, each a longer while
// after the last one; the items behind it in its leases are not counted as failed.
// Method: kill the executor whenever it comes to one item.
#[test]
fn a_poison_item_is_bounded() {
    let (mut sim, job) = in_search(Spec {
        item_ms: 50,
        ..Spec::default()
    });
    let poison = sim.item("w0", 0);
    let mut deaths = Vec::new();
    while !sim.ended(job) {
        deaths.push(sim.now.mono_ms);
        sim.executor_dies("w0", 0);
        sim.advance(10);
        sim.until("the item or the end", 60_000, |sim| {
            sim.ended(job) || sim.item("w0", 0) == poison
        });
    }
    let error = sim.view(job).error.unwrap();
    assert!(
        error.contains("failed 4 times") && error.contains("executor"),
        "{error}"
    );
    assert_eq!(deaths.len() as u32, limits::FAILURES, "{deaths:?}");
    let waits = deaths.windows(2).map(|pair| pair[1] - pair[0]);
    for (wait_ms, least_ms) in waits.zip([200, 400, 800]) {
        assert!(wait_ms >= least_ms, "{deaths:?}");
    }
}

// Claim: what is lost with workers is not held against the work.
// Method: restart the only worker in the same map many more times than work may fail.
#[test]
fn losses_are_not_failures() {
    let (mut sim, job) = in_search(Spec {
        item_ms: 10_000,
        ..Spec::default()
    });
    for _ in 0..3 * limits::FAILURES {
        sim.kill("w0", true);
        sim.advance(50);
        sim.worker(
            "w0",
            Spec {
                item_ms: 10_000,
                ..Spec::default()
            },
        );
        sim.until("a lease", 3_000, |sim| sim.running("w0", 0).is_some());
    }
    assert!(sim.view(job).retries >= u64::from(3 * limits::FAILURES));
    sim.worker("w1", Spec::default());
    finish(&mut sim, job);
}

// Claim: a member whose rank has its result may go, whoever leads: its gang goes on.
// Method: one rank ends early; its worker stays away, or comes back empty, after a restart of the
// coordinator.
#[test]
fn a_finished_rank_may_go() {
    for comes_back in [true, false] {
        let mut sim = Sim::new();
        sim.worker("w0", slow_training());
        sim.worker(
            "w1",
            Spec {
                training_ms: 400,
                ..Spec::default()
            },
        );
        let job = sim.submit(&with_ranks("2..2"));
        sim.until("train", 10_000, |sim| sim.is_in(job, "train"));
        sim.until("the end of one rank", 2_000, |sim| sim.view(job).slots == 1);
        sim.advance(100);
        sim.kill("w1", true);
        sim.restart();
        if comes_back {
            sim.worker("w1", Spec::default());
        }
        sim.until("search", 60_000, |sim| sim.view(job).stage == "search");
        assert_eq!(
            sim.count(|kind| matches!(kind, EventKind::RosterBroken { .. })),
            0
        );
    }
}

// Claim (SCHED-2): after a reconnect a slot counts as busy with what it runs, not with a lease that
// only has results on their way.
// Method: break the connection while an entry with results is slow to commit.
#[test]
fn a_busy_slot_stays_busy() {
    let (mut sim, job) = in_search(Spec {
        item_ms: 300,
        ..Spec::default()
    });
    sim.commit_ms = 1_000;
    let first = sim.running("w0", 0);
    sim.until("the next lease", 20_000, |sim| {
        sim.running("w0", 0).is_some() && sim.running("w0", 0) != first
    });
    sim.reconnect("w0");
    let Some(Ran::Lease { term, number }) = sim.running("w0", 0) else {
        panic!()
    };
    let does = |sim: &Sim| {
        let workers = &sim.leader.scheduler().unwrap().workers;
        workers
            .slot(&name("w0"), SlotIndex(0))
            .unwrap()
            .does
            .clone()
    };
    assert_eq!(does(&sim), Use::Lease(term, number));
    sim.commit_ms = 3;
    finish(&mut sim, job);
}

// Claim: a new leader does not take the rest of an item for the whole of it, and gives what it takes
// up time to be delivered, whatever its clock says.
// Method: restart in the middle of an item, with a clock that has jumped by a day.
#[test]
fn leases_that_are_taken_up() {
    let (mut sim, job) = in_search(Spec {
        item_ms: 1_000,
        ..Spec::default()
    });
    sim.advance(900);
    sim.now.wall_ms += 86_400_000;
    sim.restart();
    sim.advance(20);
    assert!(only_lease(&sim).expires_ms >= sim.now.mono_ms + 59_000);
    let computed = sim.computed;
    sim.until("a result", 2_000, |sim| sim.computed > computed);
    let times = &sim.leader.scheduler().unwrap().item_times;
    assert!(times.is_empty(), "{times:?}");
    finish(&mut sim, job);
}

// Claim: a lease gets more time with each report, so that progress alone keeps it; and more than
// the usual bound where single items are known to take long.
// Method: a lease of items of 40 s that were thought to be short; then a lease of items of 50 s.
#[test]
fn leases_are_extended() {
    let (mut sim, job) = in_search(Spec {
        item_ms: 1,
        ..Spec::default()
    });
    sim.advance(20);
    sim.kill("w0", true);
    let slow = |item_ms| Spec {
        item_ms,
        ..Spec::default()
    };
    sim.worker("w0", slow(40_000));
    sim.until("a lease", 5_000, |sim| sim.running("w0", 0).is_some());
    let (computed, lease) = (sim.computed, sim.running("w0", 0));
    assert!(only_lease(&sim).open.len() > 1);
    sim.until("a result", 60_000, |sim| sim.computed > computed);
    assert_eq!(sim.running("w0", 0), lease);
    assert!(only_lease(&sim).expires_ms >= sim.now.mono_ms + 60_000);
    sim.worker("w1", Spec::default());
    finish(&mut sim, job);

    let (mut sim, _) = in_search(slow(50_000));
    let computed = sim.computed;
    sim.until("a result", 60_000, |sim| sim.computed > computed);
    sim.advance(10);
    assert!(only_lease(&sim).expires_ms >= sim.now.mono_ms + 990_000);
}

// Claim: a slow lease whose second run is lost is run a second time again.
// Method: kill the worker with the copy as soon as it has it.
#[test]
fn a_lost_copy_is_replaced() {
    let mut sim = Sim::new();
    let slow = Spec {
        item_ms: 100_000,
        training_ms: 100,
        ..Spec::default()
    };
    sim.worker(
        "w0",
        Spec {
            training_ms: 100,
            ..Spec::default()
        },
    );
    sim.worker("w1", slow);
    let job = sim.submit(JOB);
    let copies = |sim: &Sim| {
        sim.count(|kind| matches!(kind, EventKind::LeaseGranted { is_copy: true, worker, .. } if *worker == name("w0")))
    };
    for expected in 1..=3 {
        sim.until("a copy", 60_000, |sim| copies(sim) == expected);
        assert!(!sim.ended(job));
        sim.kill("w0", true);
        sim.worker("w0", Spec::default());
    }
    finish(&mut sim, job);
}

// Claim: workers that the cluster knows and that do not come back after a restart are told as lost.
// Method: restart with one of two workers gone.
#[test]
fn absent_workers_are_told() {
    let mut sim = Sim::new();
    sim.worker("w0", Spec::default());
    sim.worker("w1", Spec::default());
    sim.advance(100);
    sim.kill("w1", false);
    sim.restart();
    sim.advance(GRACE_MS + 100);
    let told: Vec<_> = sim
        .events
        .iter()
        .filter_map(|(_, kind)| match kind {
            EventKind::WorkerLost { worker, reason, .. } => Some((worker.clone(), reason.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0 == name("w1") && told[0].1.contains("did not come back"));
}

// Claim: more outcomes than a lease has items are refused.
// Method: an agent that reports one item twice at once.
#[test]
fn too_many_outcomes() {
    let (mut sim, _) = in_search(Spec {
        item_ms: 10_000,
        ..Spec::default()
    });
    let granted = sim
        .commands
        .iter()
        .rev()
        .find_map(|(_, command)| match command {
            WorkerCommand::Grant { lease, .. } => Some(lease.clone()),
            _ => None,
        });
    let lease = granted.unwrap();
    let outcome = ItemOutcome {
        index: lease.items[0].index,
        result: Ok(vec![1]),
    };
    let report = WorkerReport::Results {
        sequence: 1,
        outcomes: vec![outcome; lease.items.len() + 1],
        lease,
    };
    sim.say("w0", report);
    assert!(!sim.workers[&name("w0")].is_connected());
    let refused = |kind: &EventKind| matches!(kind, EventKind::WorkerLost { reason, .. } if reason.contains("at most"));
    assert_eq!(sim.count(refused), 1);
}

// Claim: a rank that lost a peer, heard before the peer itself, does not hide why the peer ended: a
// broken file fails the job at once, with its reason and without another attempt.
// Method: one rank reports the loss; a moment later the other one reports its error.
#[test]
fn the_peer_that_knows_why_is_heard() {
    for late_ms in [0, 100, 300] {
        let (mut sim, job, _) = in_training("2..2");
        sim.rank_fails("w0", peer_is_gone());
        sim.advance(late_ms);
        sim.rank_fails("w1", failing("a file is broken", FailureCause::Final));
        sim.until("the end", 1_000, |sim| sim.ended(job));
        let view = sim.view(job);
        assert!(view.error.unwrap().contains("rank 1: a file is broken"));
        assert_eq!(view.retries, 0);
        let broken = |kind: &EventKind| matches!(kind, EventKind::RosterBroken { .. });
        assert_eq!(sim.count(broken), 0);
    }
}

// Claim: a loss that nobody explains ends the roster, also when the leader that was told of it is
// gone by then.
// Method: one rank of two reports a loss, the other one stays silent and alive; with and without a
// restart of the coordinator in between.
#[test]
fn an_unexplained_loss_ends_the_roster() {
    for restarts in [false, true] {
        let (mut sim, job, _) = in_training("2..2");
        sim.rank_fails("w0", peer_is_gone());
        sim.advance(100);
        if restarts {
            sim.restart();
        }
        sim.until("a new roster", GRACE_MS + 2_000, |sim| {
            rosters(sim, "train").len() == 2
        });
        finish(&mut sim, job);
        assert_eq!(sim.view(job).retries, 1);
    }
}

// Claim: what a peer knows counts after its roster's end too, whether this leader ended it or one
// that took over a roster committed before its time.
// Method: as above; once the roster is broken and the next one runs, the silent peer's error comes.
#[test]
fn a_late_reason_counts() {
    for restarts in [false, true] {
        let (mut sim, job, held) = in_training("2..2");
        sim.rank_fails("w0", peer_is_gone());
        if restarts {
            sim.restart();
        }
        sim.until("a new roster", GRACE_MS + 2_000, |sim| {
            rosters(sim, "train").len() == 2
        });
        let error = failing("a file is broken", FailureCause::Final);
        let report = WorkerReport::Rank {
            sequence: 1_000,
            held,
            event: RankEvent::Failed(error),
        };
        sim.say("w1", report);
        sim.until("the end", 1_000, |sim| sim.ended(job));
        assert!(
            sim.view(job)
                .error
                .unwrap()
                .contains("rank 1: a file is broken")
        );
    }
}

// Claim: while a roster is suspected, its members' slots are nobody else's (SCHED-5): the next ones
// to get them are the gang's own ranks.
// Method: a rank of two reports a loss while a search and a younger gang wait for slots.
#[test]
fn a_suspected_roster_keeps_its_slots() {
    let (mut sim, job, _) = in_training("2..2");
    sim.submit(JOB);
    sim.submit(&with_ranks("1..1"));
    sim.advance(100);
    sim.rank_fails("w0", peer_is_gone());
    let is_own =
        |kind: &EventKind| matches!(kind, EventKind::RosterCommitted { job: j, .. } if *j == job);
    sim.until("its next roster", 2_000, |sim| sim.count(is_own) == 2);
    let is_of_others = |kind: &EventKind| match kind {
        EventKind::LeaseGranted { .. } => true,
        EventKind::RosterCommitted { job: j, .. } => *j != job,
        _ => false,
    };
    assert_eq!(sim.count(is_of_others), 0);
    assert_eq!(sim.view(job).retries, 1);
}

// Claim: a roster that lost a member does not end as one that grows: the loss is counted.
// Method: a rank of two, of at most three, reports a loss; a third worker comes, and a checkpoint of
// a moment ago is applied.
#[test]
fn a_suspected_roster_does_not_grow() {
    for is_suspected in [true, false] {
        let (mut sim, job, held) = in_training("2..3");
        sim.until("progress", 10_000, |sim| sim.view(job).training.is_some());
        if is_suspected {
            sim.rank_fails("w0", peer_is_gone());
        }
        sim.worker("w2", slow_training());
        sim.advance(50);
        let checkpoint = Checkpoint {
            step: Step(1),
            digest: Digest::of(b"weights"),
        };
        let report = WorkerReport::Rank {
            sequence: 1_000,
            held,
            event: RankEvent::Checkpointed(checkpoint),
        };
        sim.say("w1", report);
        sim.advance(50);
        let grown = |kind: &EventKind| matches!(kind, EventKind::RosterBroken { reason, .. } if reason.contains("grows"));
        assert_eq!(sim.count(grown), usize::from(!is_suspected));
        finish(&mut sim, job);
        assert_eq!(sim.view(job).retries, u64::from(is_suspected));
    }
}

// Claim: the end of an executor counts once against its worker, although its agent reports the exit
// and the items; and a copy that ends so costs nothing while the other run goes on.
// Method: kill the executor of the only holder, then that of the holder of a copy.
#[test]
fn an_exit_counts_once() {
    let (mut sim, _) = in_search(Spec {
        item_ms: 10_000,
        ..Spec::default()
    });
    sim.executor_dies("w0", 0);
    sim.advance(10);
    let in_row = |sim: &Sim, text: &str| {
        let mut workers = sim.leader.scheduler().unwrap().workers();
        let (_, worker) = workers.find(|(worker, _)| **worker == name(text)).unwrap();
        worker.failures.in_row
    };
    assert_eq!(in_row(&sim, "w0"), 1);

    let mut sim = Sim::new();
    let brief = |item_ms| Spec {
        item_ms,
        training_ms: 100,
        ..Spec::default()
    };
    sim.worker("w0", brief(20));
    sim.worker("w1", brief(100_000));
    let job = sim.submit(JOB);
    let is_copied = |sim: &Sim| {
        sim.count(|kind| matches!(kind, EventKind::LeaseGranted { is_copy: true, .. })) == 1
    };
    sim.until("a copy", 60_000, is_copied);
    sim.until("its start", 100, |sim| sim.running("w0", 0).is_some());
    sim.executor_dies("w0", 0);
    sim.advance(10);
    assert_eq!(in_row(&sim, "w0"), 1);
    assert_eq!(sim.view(job).retries, 0, "the other run goes on");
    finish(&mut sim, job);
}

// Claim: a worker cannot end a gang of which it was never a member.
// Method: while two workers train, a third one reports the final failure of a rank of theirs, of
// their roster and of others.
#[test]
fn strangers_end_no_gang() {
    let (mut sim, job, held) = in_training("2..2");
    sim.worker("w2", slow_training());
    sim.advance(200);
    for roster in 0..3 {
        let held = HeldRank {
            roster: RosterNumber(roster),
            ..held.clone()
        };
        let event = RankEvent::Failed(failing("forged", FailureCause::Final));
        let report = WorkerReport::Rank {
            sequence: u64::from(roster) + 1,
            held,
            event,
        };
        sim.say("w2", report);
    }
    finish(&mut sim, job);
    assert_eq!(rosters(&sim, "train").len(), 1);
}
