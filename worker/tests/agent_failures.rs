//! Claims about the agent's decisions when things go wrong out of step: stops that overtake
//! hand-overs, executors that die after they were ready, orders that come twice or too late.
//!
//! Method: events and times in, actions out; no process, socket or clock.
#![expect(clippy::unwrap_used, reason = "tests")]

use evoring_protocol::codec::encode;
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::{
    Assignment, FailureCause, HeldRank, ItemOutcome, Kernel, Lease, LeasedItem, Roster, WorkError,
};
use evoring_protocol::worker::{RankEvent, WorkerCommand, WorkerReport};
use evoring_protocol::{
    Attempt, DemandId, ItemIndex, JobId, Rank, RosterNumber, SlotIndex, Term, WorkerId,
};
use evoring_worker::agent::core::Core;
use evoring_worker::agent::work::{Action, Event, Profile, Purpose};
use std::time::Duration;

const SLOT: SlotIndex = SlotIndex(0);
const START: Duration = Duration::ZERO;

/// An agent with one slot, whose first executor is process 7, in a session.
fn core() -> Core {
    let worker = WorkerId::new("w1").unwrap();
    let profile = Profile {
        worker,
        incarnation: 1,
        process: 2,
        host: "h".into(),
        slots: 1,
        metrics: None,
    };
    let mut core = Core::new(profile);
    core.handle(Event::Tick, START);
    make_ready(&mut core, 7);
    core.handle(Event::Connected { session: 1 }, START);
    core.handle(welcome(vec![]), START);
    core
}

fn make_ready(core: &mut Core, process: u32) -> Vec<Action> {
    core.handle(
        Event::ExecutorStarted {
            slot: SLOT,
            process,
        },
        START,
    );
    let numerics = NumericsClass("cpu".into());
    core.handle(report(ExecutorReport::Ready { numerics }), START)
}

fn report(report: ExecutorReport) -> Event {
    Event::Report { slot: SLOT, report }
}

fn welcome(leases_to_keep: Vec<(Term, u64)>) -> Event {
    let (blobs, ranks_to_keep) = ("file:///tmp/x".into(), vec![]);
    Event::Command(WorkerCommand::Welcome {
        term: Term(1),
        heartbeat_ms: 500,
        blobs,
        leases_to_keep,
        ranks_to_keep,
    })
}

fn assignment() -> Assignment {
    let (job, demand, stage) = (JobId(1), DemandId(1), "search".into());
    Assignment {
        job,
        demand,
        stage,
        kernel: Kernel::PruneEvaluate,
        payload: vec![],
        inputs: vec![],
    }
}

fn grant(number: u64, items: u32) -> Event {
    let item = |index| LeasedItem {
        index: ItemIndex(index),
        attempt: Attempt(1),
    };
    let lease = Lease {
        job: JobId(1),
        demand: DemandId(1),
        items: (0..items).map(item).collect(),
        worker: WorkerId::new("w1").unwrap(),
        slot: SLOT,
        term: Term(1),
        number,
        expiry_ms: 1_000,
        mac: [0; 32],
    };
    Event::Command(WorkerCommand::Grant {
        lease,
        assignment: assignment(),
        items: vec![vec![]; items as usize],
    })
}

fn held(roster: u32) -> HeldRank {
    HeldRank {
        job: JobId(1),
        demand: DemandId(2),
        roster: RosterNumber(roster),
        rank: Rank(0),
        slot: SLOT,
    }
}

fn start_rank(roster: u32) -> Event {
    let held = held(roster);
    let roster = Roster {
        number: held.roster,
        members: vec![],
        secret: [0; 32],
        resume: None,
    };
    Event::Command(WorkerCommand::StartRank {
        held,
        roster,
        assignment: assignment(),
    })
}

fn dies(process: u32) -> Event {
    let (status, last_lines) = ("signal: 9 (SIGKILL)".into(), String::new());
    Event::ExecutorExited {
        slot: SLOT,
        process,
        status,
        last_lines,
    }
}

fn prepared(process: u32, task: u64) -> Event {
    let command = ExecutorCommand::RunItems {
        task,
        assignment: assignment(),
        inputs: vec![],
        items: vec![],
    };
    Event::Prepared {
        slot: SLOT,
        process,
        command: Box::new(command),
    }
}

fn run_of(actions: &[Action]) -> Option<u64> {
    actions.iter().find_map(|action| match action {
        Action::Run { task, .. } => Some(*task),
        _ => None,
    })
}

fn is_delivery(action: &Action) -> bool {
    matches!(action, Action::Deliver { .. })
}

fn outcomes(actions: &[Action]) -> Vec<ItemOutcome> {
    let outcomes = |action: &Action| match action {
        Action::Send {
            report: WorkerReport::Results { outcomes, .. },
            ..
        } => outcomes.clone(),
        _ => Vec::new(),
    };
    actions.iter().flat_map(outcomes).collect()
}

/// Claim: a panic is its item's alone: the items behind it in the lease are lost, not failed, and
/// the dying executor gets nothing more.
/// Method: an executor panics in the second of three items and dies, a second lease waiting.
#[test]
fn a_panic_is_its_items_alone() {
    let mut core = core();
    let task = run_of(&core.handle(grant(1, 3), START)).unwrap();
    core.handle(prepared(7, task), START);
    core.handle(grant(2, 1), START);
    let outcome = |index, result| ItemOutcome {
        index: ItemIndex(index),
        result,
    };
    let panicked = WorkError {
        message: "panic: index out of bounds".into(),
        cause: FailureCause::Failed,
    };
    let told = [
        ExecutorReport::Items {
            task,
            outcomes: vec![outcome(0, Ok(vec![1]))],
        },
        ExecutorReport::Panicked { task },
        ExecutorReport::Items {
            task,
            outcomes: vec![outcome(1, Err(panicked))],
        },
    ];
    for each in told {
        let actions = core.handle(report(each), START);
        assert_eq!(run_of(&actions), None);
    }
    let actions = core.handle(dies(7), START);
    // The coordinator would blame the first open item of what an executor ran at its end.
    let is_blamed = |action: &Action| {
        matches!(
            action,
            Action::Send {
                report: WorkerReport::ExecutorExited { ran: Some(_), .. },
                ..
            }
        )
    };
    assert!(!actions.iter().any(is_blamed), "{actions:?}");
    let lost = outcomes(&actions);
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(lost[0].index, ItemIndex(2));
    assert_eq!(
        lost[0].result.as_ref().unwrap_err().cause,
        FailureCause::Lost
    );
    assert_eq!(run_of(&make_ready(&mut core, 8)), Some(task + 1));

    // One that is killed before it tells with what dies like any other.
    let task = task + 1;
    core.handle(prepared(8, task), START);
    core.handle(report(ExecutorReport::Panicked { task }), START);
    let lost = outcomes(&core.handle(dies(8), START));
    assert_eq!(
        lost[0].result.as_ref().unwrap_err().cause,
        FailureCause::Failed
    );
    core.handle(grant(4, 1), START);
    assert_eq!(run_of(&make_ready(&mut core, 8)), Some(task + 1));

    // The same for a rank, whose end frees its slot while the executor is dying.
    let task = task + 1;
    core.handle(prepared(8, task), START);
    core.handle(report(ExecutorReport::ItemsDone { task }), START);
    let task = run_of(&core.handle(start_rank(1), START)).unwrap();
    core.handle(grant(3, 1), START);
    core.handle(report(ExecutorReport::Panicked { task }), START);
    let error = WorkError {
        message: "panic: out of memory".into(),
        cause: FailureCause::Failed,
    };
    let actions = core.handle(report(ExecutorReport::RankFailed { task, error }), START);
    assert_eq!(run_of(&actions), None);
    // One that hangs at its end is killed.
    let is_killed = |core: &mut Core, ms| {
        let actions = core.handle(Event::Tick, Duration::from_millis(ms));
        actions.contains(&Action::Kill { slot: SLOT })
    };
    assert!(!is_killed(&mut core, 1_900) && is_killed(&mut core, 2_100));
    assert_eq!(outcomes(&core.handle(dies(8), START)), []);
    assert_eq!(run_of(&make_ready(&mut core, 9)), Some(task + 1));
}

/// Claim: an executor that becomes ready each time may die as often as it likes: its work, or a
/// person, kills it, and the agent goes on.
#[test]
fn an_executor_that_was_ready_may_die_often() {
    let mut core = core();
    for process in 7..27 {
        let actions = core.handle(dies(process), START);
        assert!(
            !actions
                .iter()
                .any(|action| matches!(action, Action::Exit { .. })),
            "{actions:?}"
        );
        assert!(
            actions.contains(&Action::Start {
                slot: SLOT,
                wait: Duration::ZERO
            }),
            "{actions:?}"
        );
        make_ready(&mut core, process + 1);
    }
}

/// Claim: an executor that does not stop is killed after two seconds, not before, and not again at
/// every tick; the work it was told to stop is not reported as failed, and the next work runs.
#[test]
fn a_deaf_executor_is_killed_and_its_slot_goes_on() {
    let mut core = core();
    let task = run_of(&core.handle(grant(1, 1), START)).unwrap();
    core.handle(prepared(7, task), START);
    let stop = Event::Command(WorkerCommand::StopLease {
        term: Term(1),
        number: 1,
    });
    assert!(
        core.handle(stop, START)
            .contains(&Action::Stop { slot: SLOT, task })
    );
    core.handle(grant(2, 1), START);
    let kills = |core: &mut Core, ms: u64| {
        let actions = core.handle(Event::Tick, Duration::from_millis(ms));
        actions
            .into_iter()
            .filter(|action| matches!(action, Action::Kill { .. }))
            .count()
    };
    assert_eq!(kills(&mut core, 1_900), 0);
    assert_eq!(kills(&mut core, 2_100), 1);
    assert_eq!(kills(&mut core, 2_150), 0);
    let actions = core.handle(dies(7), Duration::from_millis(2_200));
    assert_eq!(outcomes(&actions), []);
    assert_eq!(run_of(&make_ready(&mut core, 8)), Some(task + 1));
}

/// Claim: work that is stopped while its inputs are fetched never reaches the executor, which is
/// not killed for it, and the slot takes the next piece at once.
#[test]
fn a_stop_overtakes_the_hand_over() {
    let mut core = core();
    let task = run_of(&core.handle(grant(1, 1), START)).unwrap();
    core.handle(grant(2, 1), START);
    let stop = Event::Command(WorkerCommand::StopLease {
        term: Term(1),
        number: 1,
    });
    let actions = core.handle(stop, START);
    assert_eq!(run_of(&actions), Some(task + 1));
    assert!(core.has_task(task + 1) && !core.has_task(task));
    assert_eq!(core.handle(prepared(7, task), START), []);
    let later = core.handle(Event::Tick, Duration::from_secs(10));
    let is_kill = |action: &Action| matches!(action, Action::Kill { .. });
    assert!(!later.iter().any(is_kill), "{later:?}");
    assert!(
        core.handle(prepared(7, task + 1), START)
            .iter()
            .any(is_delivery)
    );
}

/// Claim: a command that was prepared for an executor that has died is not given to the next one.
#[test]
fn a_hand_over_to_the_dead_is_dropped() {
    let mut core = core();
    let task = run_of(&core.handle(grant(1, 2), START)).unwrap();
    let actions = core.handle(dies(7), START);
    assert_eq!(
        outcomes(&actions).len(),
        2,
        "both items are given back: {actions:?}"
    );
    make_ready(&mut core, 8);
    let actions = core.handle(prepared(7, task), START);
    assert!(!actions.iter().any(is_delivery), "{actions:?}");
}

/// Claim: work that waits for its slot can be stopped; it never runs and is not reported.
#[test]
fn waiting_work_can_be_stopped() {
    let mut core = core();
    let task = run_of(&core.handle(grant(1, 1), START)).unwrap();
    core.handle(grant(2, 1), START);
    let actions = core.handle(
        Event::Command(WorkerCommand::StopLease {
            term: Term(1),
            number: 2,
        }),
        START,
    );
    assert_eq!(actions, []);
    let done = core.handle(report(ExecutorReport::ItemsDone { task }), START);
    assert_eq!(run_of(&done), None);
}

/// Claim: a lease granted twice runs once, and an outcome reported twice is passed on once.
#[test]
fn what_comes_twice_counts_once() {
    let mut core = core();
    let task = run_of(&core.handle(grant(1, 1), START)).unwrap();
    assert_eq!(core.handle(grant(1, 1), START), []);
    let twice = || {
        let outcomes = vec![ItemOutcome {
            index: ItemIndex(0),
            result: Ok(vec![1]),
        }];
        report(ExecutorReport::Items { task, outcomes })
    };
    assert_eq!(outcomes(&core.handle(twice(), START)).len(), 1);
    assert_eq!(outcomes(&core.handle(twice(), START)).len(), 0);
    let done = core.handle(report(ExecutorReport::ItemsDone { task }), START);
    assert_eq!(run_of(&done), None);
    assert_eq!(outcomes(&done), [], "nothing was left out");
}

/// Claim: a rank of a newer roster stops the older one, also if its stop was lost; what the older
/// one then says is not passed on, and the newer one starts.
#[test]
fn a_newer_roster_voids_the_older() {
    let mut core = core();
    let task = run_of(&core.handle(start_rank(1), START)).unwrap();
    core.handle(prepared(7, task), START);
    let actions = core.handle(start_rank(2), START);
    assert!(
        actions.contains(&Action::Stop { slot: SLOT, task }),
        "{actions:?}"
    );
    let finished = ExecutorReport::RankFinished {
        task,
        result: vec![1],
        blobs: vec![],
    };
    let actions = core.handle(report(finished), START);
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Store { .. })),
        "{actions:?}"
    );
    assert_eq!(run_of(&actions), Some(task + 1));
}

/// Claim: a lease that the coordinator wants kept after a reconnect runs on.
#[test]
fn a_kept_lease_runs_on() {
    let mut core = core();
    let task = run_of(&core.handle(grant(1, 1), START)).unwrap();
    core.handle(Event::Disconnected, START);
    core.handle(Event::Connected { session: 2 }, START);
    let actions = core.handle(welcome(vec![(Term(1), 1)]), START);
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Stop { .. })),
        "{actions:?}"
    );
    assert!(
        core.handle(prepared(7, task), START)
            .iter()
            .any(is_delivery)
    );
}

/// Claim: a result whose files cannot be stored is a failure that allows another attempt; a
/// checkpoint that cannot be stored only costs itself.
#[test]
fn what_cannot_be_stored_is_not_promised() {
    let mut core = core();
    let task = run_of(&core.handle(start_rank(1), START)).unwrap();
    let full = || {
        Err(WorkError {
            message: "no space left on device".to_owned(),
            cause: FailureCause::Failed,
        })
    };
    let purpose = Purpose::Checkpoint(evoring_protocol::Step(10));
    let actions = core.handle(
        Event::Stored {
            held: held(1),
            purpose,
            outcome: full(),
        },
        START,
    );
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Send { .. })),
        "{actions:?}"
    );
    let finished = ExecutorReport::RankFinished {
        task,
        result: vec![1],
        blobs: vec!["weights".into()],
    };
    core.handle(report(finished), START);
    let purpose = Purpose::Result(vec![1]);
    let actions = core.handle(
        Event::Stored {
            held: held(1),
            purpose,
            outcome: full(),
        },
        START,
    );
    let is_failure = |action: &Action| matches!(action, Action::Send { report: WorkerReport::Rank { event: RankEvent::Failed(error), .. }, .. } if error.cause.can_retry());
    assert!(actions.iter().any(is_failure), "{actions:?}");
}

fn assert_fits(actions: &[Action]) -> usize {
    let reports = actions.iter().filter_map(|action| match action {
        Action::Send { report, .. } => Some(report),
        _ => None,
    });
    reports
        .inspect(|report| drop(encode(*report).unwrap()))
        .count()
}

/// Claim: whatever an executor says, what the coordinator is told of it fits into frames
/// (`AGENT-6`), and nothing is left out. Method: texts and results of the size of an executor's
/// frame; the encoder's own limit decides.
#[test]
fn every_report_fits_into_a_frame() {
    let long = || "é".repeat(3 << 20);
    let error = || WorkError {
        message: long(),
        cause: FailureCause::Failed,
    };
    let mut core = core();
    let task = run_of(&core.handle(grant(1, 1_000), START)).unwrap();
    core.handle(prepared(7, task), START);
    let line = ExecutorReport::Log { task, line: long() };
    assert_eq!(assert_fits(&core.handle(report(line), START)), 1);
    let result = |index: u32| match index {
        0 => Err(error()),
        1 => Ok(vec![0; 5 << 20]),
        _ => Ok(vec![0; 256]),
    };
    let some = (0..300).map(|index| ItemOutcome {
        index: ItemIndex(index),
        result: result(index),
    });
    let items = ExecutorReport::Items {
        task,
        outcomes: some.collect(),
    };
    let actions = core.handle(report(items), START);
    assert!(assert_fits(&actions) > 0);
    let told = outcomes(&actions);
    assert_eq!(told.len(), 300);
    let oversized = told[1].result.as_ref().unwrap_err();
    assert_eq!(oversized.cause, FailureCause::Final);
    let exit = Event::ExecutorExited {
        slot: SLOT,
        process: 7,
        status: long(),
        last_lines: long(),
    };
    let actions = core.handle(exit, START);
    assert!(assert_fits(&actions) > 1);
    assert_eq!(outcomes(&actions).len(), 700);
    make_ready(&mut core, 8);
    let task = run_of(&core.handle(start_rank(1), START)).unwrap();
    let failed = ExecutorReport::RankFailed {
        task,
        error: error(),
    };
    assert_eq!(assert_fits(&core.handle(report(failed), START)), 1);
}

/// Claim: a hello fits into a frame however much waits for delivery, and names what runs before
/// what is only to be delivered. Method: many full leases without a coordinator.
#[test]
fn a_hello_of_many_leases_fits() {
    let mut core = core();
    core.handle(Event::Disconnected, START);
    for number in 1..=200 {
        let task = run_of(&core.handle(grant(number, 4_096), START)).unwrap();
        let outcomes = (0..4_096).map(|index| ItemOutcome {
            index: ItemIndex(index),
            result: Ok(vec![1]),
        });
        let outcomes = outcomes.collect();
        core.handle(report(ExecutorReport::Items { task, outcomes }), START);
        core.handle(report(ExecutorReport::ItemsDone { task }), START);
    }
    core.handle(grant(201, 4_096), START);
    let actions = core.handle(Event::Connected { session: 2 }, START);
    assert_eq!(assert_fits(&actions), 1);
    let hello = actions.iter().find_map(|action| match action {
        Action::Send {
            report: WorkerReport::Hello(hello),
            ..
        } => Some(hello),
        _ => None,
    });
    let leases = &hello.unwrap().leases;
    assert_eq!(leases[0].number, 201);
    assert!(leases.len() > 30 && leases.len() < 201, "{}", leases.len());
}
