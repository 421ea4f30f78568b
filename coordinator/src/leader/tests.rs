//! Whole jobs in the simulated cluster.

use super::sim::{Sim, Spec, name};
use super::*;
use crate::made_up::JOB;
use crate::state::Batch;
use crate::state::Outcome;
use evoring_protocol::JobId;
use evoring_protocol::client::JobStatus;
use evoring_protocol::limits;
use evoring_protocol::work::{FailureCause, WorkError};
use evoring_protocol::worker::WorkerReport;
use proptest::prelude::*;

/// What must be equal however a job was computed.
fn essence(sim: &Sim, job: JobId) -> (Vec<(String, Digest)>, u64, u64, Option<String>) {
    let view = sim.view(job);
    assert_eq!(view.status, JobStatus::Finished, "{:?}", view.error);
    (
        view.artifacts,
        view.evaluated,
        view.cache_hits,
        view.summary,
    )
}

fn calm(workers: u32) -> (Sim, JobId) {
    let mut sim = Sim::new();
    for number in 0..workers {
        sim.worker(&format!("w{number}"), Spec::default());
    }
    let job = sim.submit(JOB);
    sim.until("the job ends", 120_000, |sim| sim.ended(job));
    (sim, job)
}

/// STATE-1: replaying the log, from the start and from a snapshot in its middle, gives the same.
fn check_replay(sim: &Sim, cut: usize) {
    let state = sim.leader.state();
    let mut replayed = State::default();
    let mut from_snapshot = None;
    for (position, (index, data)) in sim
        .log
        .iter()
        .enumerate()
        .take_while(|(_, (index, _))| *index <= state.applied())
    {
        if position == cut {
            let bytes = replayed.encode();
            let decoded = State::decode(&bytes).unwrap();
            assert_eq!(decoded, replayed);
            assert_eq!(decoded.encode(), bytes);
            from_snapshot = Some(decoded);
        }
        let applied = replayed.apply(*index, data).unwrap();
        if let Some(other) = &mut from_snapshot {
            assert_eq!(other.apply(*index, data).unwrap(), applied);
        }
    }
    for replay in [Some(replayed), from_snapshot].into_iter().flatten() {
        assert_eq!(replay.hash(), state.hash());
        assert_eq!(replay.full_hash(), state.full_hash());
    }
}

// Claim: the number of workers changes nothing but the time.
// Method: the same job with 1, 2 and 4 workers; nothing is computed twice.
#[test]
fn any_number_of_workers() {
    let (one, job) = calm(1);
    let expected = essence(&one, job);
    let times: Vec<u64> = [1, 2, 4]
        .map(|workers| {
            let (sim, job) = calm(workers);
            assert_eq!(essence(&sim, job), expected);
            assert_eq!(sim.computed, expected.1);
            assert_eq!(sim.view(job).retries, 0);
            check_replay(&sim, 40);
            sim.now.mono_ms
        })
        .to_vec();
    assert!(times[1] < times[0] && times[2] <= times[1], "{times:?}");
}

// Claim: blobs of a driver leave the state once they are stored, and all of them are stored.
// Method: a whole job; compare artifacts with what was stored.
#[test]
fn blobs_are_stored() {
    let (mut sim, job) = calm(1);
    sim.advance(100);
    assert!(sim.leader.state().blobs().is_empty());
    let stored = sim
        .view(job)
        .artifacts
        .iter()
        .filter(|(_, digest)| sim.blobs.contains_key(digest))
        .count();
    assert!(stored > 5, "{stored}");
}

// Claim: a leader that dies between apply and store loses no blob.
// Method: restart with blobs still pending in the state; they are stored again.
#[test]
fn pending_blobs_survive() {
    let (mut sim, job) = calm(1);
    // The log up to before the confirmations, as after a crash at that moment.
    let confirms = |data: &[u8]| {
        !data.is_empty()
            && Batch::decode(data, crate::state::NEWEST_RECORDS)
                .unwrap()
                .commands
                .iter()
                .any(|command| matches!(command, Command::BlobStored { .. }))
    };
    sim.log.retain(|(_, data)| !confirms(data));
    sim.blobs.clear();
    sim.restart();
    let artifacts = sim.view(job).artifacts;
    assert!(
        artifacts
            .iter()
            .filter(|(_, digest)| sim.blobs.contains_key(digest))
            .count()
            > 5
    );
}

// Claim: a coordinator killed in any stage goes on: same result, workers keep what they hold,
// nothing that was acknowledged is computed again.
// Method: restart in each stage; compare with an undisturbed job.
#[test]
fn restarted_in_every_stage() {
    let (undisturbed, job) = calm(2);
    let expected = essence(&undisturbed, job);
    let mut sim = Sim::new();
    sim.worker("w0", Spec::default());
    sim.worker("w1", Spec::default());
    let job = sim.submit(JOB);
    for stage in ["train", "search", "finetune", "evaluate"] {
        sim.until(stage, 120_000, |sim| sim.is_in(job, stage));
        sim.advance(15);
        sim.restart();
        let joined = sim
            .events
            .iter()
            .rev()
            .take(12)
            .filter_map(|(_, kind)| match kind {
                EventKind::WorkerJoined {
                    held_items,
                    held_ranks,
                    ..
                } => Some(held_items + held_ranks),
                _ => None,
            });
        assert!(joined.sum::<u32>() > 0, "{stage}: nobody held anything");
    }
    sim.until("the job ends", 120_000, |sim| sim.ended(job));
    assert_eq!(essence(&sim, job), expected);
    assert_eq!(sim.computed, expected.1, "computed twice");
    assert_eq!(sim.view(job).retries, 0);
    let broke = |kind: &EventKind| matches!(kind, EventKind::RosterBroken { reason, .. } if !reason.contains("grows"));
    let broken: Vec<_> = sim.events.iter().filter(|(_, kind)| broke(kind)).collect();
    assert!(broken.is_empty(), "{broken:?}");
    check_replay(&sim, 60);
}

// Claim: a store that is full refuses writes with the reason, loses nothing that was acknowledged,
// takes what workers deliver when there is space again, and says both in events.
// Method: fill it in the middle of the search, submit, cancel, free it.
#[test]
fn full_disk() {
    let (undisturbed, job) = calm(1);
    let expected = essence(&undisturbed, job);
    let mut sim = Sim::new();
    sim.worker("w0", Spec::default());
    let job = sim.submit(JOB);
    sim.until("search", 60_000, |sim| sim.is_in(job, "search"));
    sim.is_full = true;
    sim.feed(Event::Store(Err("no space left on the device".to_owned())));
    let applied = sim.leader.state().applied();
    let refused = sim.try_submit(JOB, false).unwrap_err();
    assert_eq!(refused.code, ErrorCode::ReadOnly);
    assert!(
        refused.message.contains("no space left"),
        "{}",
        refused.message
    );
    let granted = |sim: &Sim| sim.count(|kind| matches!(kind, EventKind::LeaseGranted { .. }));
    let before = granted(&sim);
    sim.advance(5_000);
    assert_eq!(
        granted(&sim),
        before,
        "granted although results cannot be recorded"
    );
    assert_eq!(sim.leader.state().applied(), applied);
    assert!(sim.explain(job)[0].contains("takes no writes"));
    sim.is_full = false;
    sim.feed(Event::Store(Ok(())));
    sim.until("the job ends", 120_000, |sim| sim.ended(job));
    assert_eq!(essence(&sim, job), expected);
    assert_eq!(sim.computed, expected.1, "computed twice");
    assert_eq!(
        sim.count(|kind| matches!(kind, EventKind::CoordinatorReadOnly { .. })),
        1
    );
    assert_eq!(
        sim.count(|kind| matches!(kind, EventKind::CoordinatorWritable)),
        1
    );
}

// Claim: while space is low running jobs go on and can be cancelled, and new ones are refused.
// Method: report low space in the search; submit, cancel, report space.
#[test]
fn low_space() {
    let mut sim = Sim::new();
    sim.worker("w0", Spec::default());
    let (first, second) = (sim.submit(JOB), sim.submit(JOB));
    sim.until("search", 60_000, |sim| sim.is_in(first, "search"));
    sim.feed(Event::Space(Some("100 KiB free".to_owned())));
    let refused = sim.try_submit(JOB, false).unwrap_err();
    assert_eq!(refused.code, ErrorCode::ReadOnly);
    assert!(
        refused.message.contains("100 KiB free"),
        "{}",
        refused.message
    );
    let ticket = Ticket(999);
    let command = Command::Cancel { job: second };
    sim.feed(Event::Write { ticket, command });
    sim.until("the job ends", 120_000, |sim| sim.ended(first));
    assert_eq!(sim.replies[&ticket], Ok(Outcome::Done));
    assert_eq!(sim.view(first).status, JobStatus::Finished);
    sim.feed(Event::Space(None));
    assert!(sim.try_submit(JOB, false).is_ok());
    assert_eq!(
        sim.count(|kind| matches!(kind, EventKind::CoordinatorReadOnly { .. })),
        1
    );
    assert_eq!(
        sim.count(|kind| matches!(kind, EventKind::CoordinatorWritable)),
        1
    );
}

// Claim: a submission key makes one job, whatever is repeated, restarts included.
// Method: the same key twice, and after a restart.
#[test]
fn one_key_one_job() {
    let mut sim = Sim::new();
    let spec = evoring_jobs::spec::parse("job.toml", JOB).unwrap();
    let submission = Submission {
        key: evoring_protocol::SubmissionKey([9; 16]),
        name: spec.name,
        kind: spec.kind,
        min_ranks: spec.min_ranks,
        driver: spec.driver,
    };
    let mut outcomes = Vec::new();
    for number in 100..103 {
        let ticket = Ticket(number);
        let submission = Box::new(submission.clone());
        sim.feed(Event::Submit {
            ticket,
            submission,
            refuse_unless_fits: false,
        });
        sim.advance(50);
        outcomes.push(sim.replies[&ticket].clone().unwrap());
        if number == 101 {
            sim.restart();
        }
    }
    let known = |already_known| Outcome::Submitted {
        job: JobId(1),
        already_known,
    };
    assert_eq!(outcomes, [known(false), known(true), known(true)]);
    assert_eq!(sim.leader.state().jobs().len(), 1);
}

// Claim: results that come within 5 ms share an entry, so many slots do not mean many syncs.
// Method: 16 slots whose items all take the same time; compare entries with results.
#[test]
fn results_share_entries() {
    let mut sim = Sim::new();
    sim.worker(
        "w0",
        Spec {
            slots: 16,
            training_ms: 100,
            ..Spec::default()
        },
    );
    let job = sim.submit(JOB);
    sim.until("the job ends", 60_000, |sim| sim.ended(job));
    let records = |data: &[u8]| match data {
        [] => 0,
        _ => {
            let commands = Batch::decode(data, crate::state::NEWEST_RECORDS)
                .unwrap()
                .commands;
            commands
                .iter()
                .filter(|command| matches!(command, Command::Record { .. }))
                .count()
        }
    };
    let counts: Vec<usize> = sim
        .log
        .iter()
        .map(|(_, data)| records(data))
        .filter(|count| *count > 0)
        .collect();
    let (entries, results) = (counts.len(), counts.iter().sum::<usize>());
    assert!(
        results > 3 * entries,
        "{results} reports in {entries} entries"
    );
}

// Claim: an item that fails for good fails its job with the reason; one that may be retried is
// tried a declared number of times.
// Method: workers whose items all fail, in both ways.
#[test]
fn failing_items() {
    for cause in [FailureCause::Final, FailureCause::Failed] {
        let mut sim = Sim::new();
        let error = WorkError {
            message: "train-labels: offset 8: expected 60000".to_owned(),
            cause,
        };
        sim.worker(
            "w0",
            Spec {
                item_error: Some(error),
                training_ms: 100,
                ..Spec::default()
            },
        );
        let job = sim.submit(JOB);
        sim.until("the job ends", 60_000, |sim| sim.ended(job));
        let view = sim.view(job);
        assert_eq!(view.status, JobStatus::Failed);
        assert!(
            view.error
                .as_ref()
                .unwrap()
                .contains("train-labels: offset 8"),
            "{:?}",
            view.error
        );
        if cause.can_retry() {
            assert!(
                view.retries >= u64::from(limits::FAILURES) - 1,
                "{}",
                view.retries
            );
        } else {
            assert_eq!(view.retries, 0);
        }
        assert_eq!(sim.view(job).slots, 0);
    }
}

// Claim: ranks that disagree on a result fail the job loudly.
// Method: a worker whose ranks other than 0 give other bytes.
#[test]
fn disagreeing_ranks() {
    let mut sim = Sim::new();
    sim.worker(
        "w0",
        Spec {
            slots: 2,
            disagrees: true,
            training_ms: 100,
            ..Spec::default()
        },
    );
    let job = sim.submit(JOB);
    sim.until("the job ends", 60_000, |sim| sim.ended(job));
    let error = sim.view(job).error.unwrap();
    assert!(
        error.contains("disagree")
            && error.contains("ranks 0 gave")
            && error.contains("ranks 1 gave"),
        "{error}"
    );
}

// Claim: a driver that cannot take a step fails its job and nothing else.
// Method: two jobs; one rank's result is bytes that no driver understands.
#[test]
fn driver_error_fails_one_job() {
    let mut sim = Sim::new();
    let (bad, good) = (sim.submit(JOB), sim.submit(JOB));
    let number = evoring_protocol::RosterNumber(1);
    let demand = evoring_protocol::DemandId(1);
    let members = vec![evoring_protocol::work::Member {
        worker: name("w9"),
        slot: evoring_protocol::SlotIndex(0),
    }];
    let commands = vec![
        Command::CommitRoster {
            job: bad,
            demand,
            number,
            members,
            secret: [1; 32],
        },
        Command::RankFinished {
            job: bad,
            demand,
            number,
            rank: evoring_protocol::Rank(0),
            result: vec![255; 9],
        },
    ];
    let mut state = sim.leader.state().clone();
    let index = state.applied() + 1;
    let applied = state
        .apply(
            index,
            &Batch {
                time_ms: 5,
                commands,
            }
            .encode(crate::state::NEWEST_RECORDS),
        )
        .unwrap();
    let failed = |effect: &Effect| matches!(effect, Effect::Event(EventKind::JobFailed { job, error }) if *job == bad && error.contains(&format!("at index {index}")));
    assert!(applied.effects.iter().any(failed), "{:?}", applied.effects);
    assert!(state.jobs()[&bad].work().is_none());
    assert!(state.jobs()[&good].work().is_some());
}

// Claim: a snapshot is taken in time and is the state.
// Method: run jobs until there are enough entries; decode it and replay the rest.
#[test]
fn snapshots_come() {
    let mut sim = Sim::new();
    sim.worker(
        "w0",
        Spec {
            item_ms: 1,
            training_ms: 20,
            ..Spec::default()
        },
    );
    for _ in 0..200 {
        if !sim.snapshots.is_empty() {
            break;
        }
        let job = sim.submit(&JOB.replace("seed = 7", &format!("seed = {}", sim.now.mono_ms)));
        sim.until("the job ends", 60_000, |sim| sim.ended(job));
    }
    let (index, data) = sim.snapshots.first().unwrap().clone();
    let mut state = State::decode(&data).unwrap();
    assert_eq!(state.applied(), index);
    let applied = sim.leader.state().applied();
    for (index, data) in sim
        .log
        .iter()
        .filter(|(other, _)| *other > index && *other <= applied)
    {
        state.apply(*index, data).unwrap();
    }
    assert_eq!(state.full_hash(), sim.leader.state().full_hash());
}

// Claim: an executor that dies while nothing arrives from its worker leaves no item behind that
// nobody runs.
// Method: the only worker is lost in the search, its executor dies, and it comes back with nothing
// but failures of an attempt that was given up.
#[test]
fn executor_dies_unheard() {
    let mut sim = Sim::new();
    let spec = Spec {
        item_ms: 4_000,
        ..Spec::default()
    };
    sim.worker("w0", spec);
    let job = sim.submit(JOB);
    sim.until("search", 60_000, |sim| sim.is_in(job, "search"));
    sim.mute("w0", true);
    sim.advance(2_500);
    sim.executor_dies("w0", 0);
    sim.mute("w0", false);
    sim.advance(100);
    sim.worker("w1", Spec::default());
    sim.until("the job ends", 120_000, |sim| sim.ended(job));
    assert_eq!(sim.view(job).status, JobStatus::Finished);
}

// Claim: the time of the next tick does not move while other events come, and a tick that comes
// late, because this process stood still, loses no worker.
// Method: reports at every moment; then three seconds without anything, and the tick first.
#[test]
fn ticks_come_in_time() {
    let mut sim = Sim::new();
    sim.worker("w0", Spec::default());
    sim.advance(100);
    sim.feed(Event::Tick);
    let due_ms = sim.leader.deadline_ms();
    while sim.now.mono_ms < due_ms {
        assert!(!sim.leader.is_tick_due(sim.now));
        sim.say("w0", WorkerReport::Heartbeat { executors: vec![1] });
        assert!(sim.leader.deadline_ms() <= due_ms);
        sim.now.mono_ms += 1;
    }
    assert!(sim.leader.is_tick_due(sim.now));
    sim.now.mono_ms += 3_000;
    sim.feed(Event::Tick);
    assert!(sim.leader.deadline_ms() > sim.now.mono_ms);
    sim.advance(1_000);
    assert_eq!(
        sim.count(|kind| matches!(kind, EventKind::WorkerLost { .. })),
        0
    );
}

/// Something that goes wrong.
#[derive(Debug, Clone)]
enum Fault {
    KillWorker(u8, bool),
    KillExecutor(u8),
    Mute(u8, u64),
    /// Its executor dies while nothing arrives from it.
    MuteAndKillExecutor(u8, u64),
    Restart,
    SlowDisk(u64),
}

fn any_fault() -> impl Strategy<Value = (u64, Fault)> {
    let fault = prop_oneof![
        3 => (0u8..3, any::<bool>()).prop_map(|(worker, noticed)| Fault::KillWorker(worker, noticed)),
        3 => (0u8..3).prop_map(Fault::KillExecutor),
        2 => ((0u8..3), 100u64..6_000).prop_map(|(worker, ms)| Fault::Mute(worker, ms)),
        2 => ((0u8..3), 100u64..6_000).prop_map(|(worker, ms)| Fault::MuteAndKillExecutor(worker, ms)),
        2 => Just(Fault::Restart),
        1 => (1u64..400).prop_map(Fault::SlowDisk),
    ];
    (1u64..2_500, fault)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    // Claim: whatever dies, falls silent or starts again, and whenever: the job ends with the same
    // result, and replaying the log gives the same state.
    // Method: random faults at random times on three workers, then calm; compare with a calm run.
    #[test]
    fn any_faults(faults in proptest::collection::vec(any_fault(), 1..7), cut in 1usize..200) {
        let (undisturbed, job) = calm(1);
        let expected = essence(&undisturbed, job);
        let mut sim = Sim::new();
        let spec = Spec { item_ms: 20, ..Spec::default() };
        for number in 0..3 {
            sim.worker(&format!("w{number}"), spec.clone());
        }
        let job = sim.submit(JOB);
        let mut deaths = 0;
        for (wait_ms, fault) in faults {
            sim.advance(wait_ms);
            if matches!(fault, Fault::KillExecutor(_) | Fault::MuteAndKillExecutor(..)) {
                deaths += 1;
                // More of them may end a job that is unlucky enough to be hit in one place.
                if deaths >= limits::FAILURES {
                    continue;
                }
            }
            match fault {
                Fault::KillWorker(number, is_noticed) => {
                    sim.kill(&format!("w{number}"), is_noticed);
                    sim.advance(300);
                    sim.worker(&format!("w{number}"), spec.clone());
                }
                Fault::KillExecutor(number) => sim.executor_dies(&format!("w{number}"), 0),
                Fault::MuteAndKillExecutor(number, ms) => {
                    sim.mute(&format!("w{number}"), true);
                    sim.advance(ms);
                    sim.executor_dies(&format!("w{number}"), 0);
                    sim.mute(&format!("w{number}"), false);
                }
                Fault::Mute(number, ms) => {
                    sim.mute(&format!("w{number}"), true);
                    sim.advance(ms);
                    sim.mute(&format!("w{number}"), false);
                }
                Fault::Restart => sim.restart(),
                Fault::SlowDisk(ms) => sim.commit_ms = ms,
            }
        }
        sim.commit_ms = 3;
        sim.until("the job ends", 300_000, |sim| sim.ended(job));
        let found = essence(&sim, job);
        prop_assert_eq!(&found.0, &expected.0);
        prop_assert_eq!((found.1, found.2), (expected.1, expected.2));
        check_replay(&sim, cut);
    }
}
