//! Claims about the agent's decisions (`AGENT-1` to `AGENT-5`).
//!
//! Method: events and times in, actions out; no process, socket or clock.

#![expect(clippy::unwrap_used, reason = "tests")]

use evoring_protocol::codec::{self, HEADER_BYTES};
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::limits::{HELLO_ITEMS, LEASE_ITEMS};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::{
    Assignment, FailureCause, HeldRank, ItemOutcome, Kernel, Lease, LeasedItem, Roster, WorkError,
};
use evoring_protocol::worker::{Ran, RankEvent, WorkerCommand, WorkerReport};
use evoring_protocol::{
    Attempt, DemandId, Digest, ErrorCode, ItemIndex, JobId, Rank, RemoteError, RosterNumber,
    SlotIndex, Step, Term, WorkerId,
};
use evoring_worker::agent::core::Core;
use evoring_worker::agent::work::{Action, Event, Profile, Purpose};
use std::path::PathBuf;
use std::time::Duration;

const SLOT: SlotIndex = SlotIndex(0);

fn worker() -> WorkerId {
    WorkerId::new("w1").unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An agent with one slot whose executor has process id 7 and is ready.
fn ready_core() -> Core {
    let profile = Profile {
        worker: worker(),
        incarnation: 1,
        process: 2,
        host: "h".into(),
        slots: 1,
        metrics: None,
    };
    let mut core = Core::new(profile);
    assert!(
        core.handle(Event::Tick, seconds(0))
            .contains(&Action::Start {
                slot: SLOT,
                wait: Duration::ZERO
            })
    );
    assert!(
        !core.can_connect(),
        "an agent without an executor has no numerics class to tell"
    );
    start_executor(&mut core, 7);
    core
}

fn start_executor(core: &mut Core, process: u32) -> Vec<Action> {
    core.handle(
        Event::ExecutorStarted {
            slot: SLOT,
            process,
        },
        seconds(0),
    );
    let numerics = NumericsClass("cpu".into());
    core.handle(
        Event::Report {
            slot: SLOT,
            report: ExecutorReport::Ready { numerics },
        },
        seconds(0),
    )
}

fn welcome(leases_to_keep: Vec<(Term, u64)>, ranks_to_keep: Vec<HeldRank>) -> Event {
    Event::Command(WorkerCommand::Welcome {
        term: Term(1),
        heartbeat_ms: 500,
        blobs: "file:///tmp/x".into(),
        leases_to_keep,
        ranks_to_keep,
    })
}

fn connected_core() -> Core {
    let mut core = ready_core();
    core.handle(Event::Connected { session: 1 }, seconds(0));
    core.handle(welcome(vec![], vec![]), seconds(0));
    core
}

fn assignment() -> Assignment {
    Assignment {
        job: JobId(1),
        demand: DemandId(1),
        stage: "search".into(),
        kernel: Kernel::PruneEvaluate,
        payload: vec![],
        inputs: vec![],
    }
}

fn lease(number: u64, items: u32) -> Lease {
    let item = |index| LeasedItem {
        index: ItemIndex(index),
        attempt: Attempt(1),
    };
    Lease {
        job: JobId(1),
        demand: DemandId(1),
        items: (0..items).map(item).collect(),
        worker: worker(),
        slot: SLOT,
        term: Term(1),
        number,
        expiry_ms: 1_000,
        mac: [0; 32],
    }
}

fn grant(number: u64, items: u32) -> Event {
    let lease = lease(number, items);
    Event::Command(WorkerCommand::Grant {
        lease,
        assignment: assignment(),
        items: vec![vec![]; items as usize],
    })
}

fn held() -> HeldRank {
    HeldRank {
        job: JobId(1),
        demand: DemandId(2),
        roster: RosterNumber(1),
        rank: Rank(0),
        slot: SLOT,
    }
}

fn start_rank() -> Event {
    let roster = Roster {
        number: RosterNumber(1),
        members: vec![],
        secret: [0; 32],
        resume: None,
    };
    Event::Command(WorkerCommand::StartRank {
        held: held(),
        roster,
        assignment: assignment(),
    })
}

fn run_of(actions: &[Action]) -> Option<u64> {
    actions.iter().find_map(|action| match action {
        Action::Run { task, .. } => Some(*task),
        _ => None,
    })
}

fn sent(actions: &[Action]) -> Vec<&WorkerReport> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Send { report, .. } => Some(report),
            _ => None,
        })
        .collect()
}

/// The inputs are there: the executor is given the work.
fn hand_over(core: &mut Core, task: u64) {
    let command = ExecutorCommand::RunItems {
        task,
        assignment: assignment(),
        inputs: vec![],
        items: vec![],
    };
    let event = Event::Prepared {
        slot: SLOT,
        process: 7,
        command: Box::new(command),
    };
    let actions = core.handle(event, seconds(0));
    let is_delivery = |action: &Action| matches!(action, Action::Deliver { .. });
    assert!(actions.iter().any(is_delivery), "{actions:?}");
}

fn outcomes(task: u64, indices: &[u32]) -> Event {
    let outcome = |index: &u32| ItemOutcome {
        index: ItemIndex(*index),
        result: Ok(vec![1]),
    };
    Event::Report {
        slot: SLOT,
        report: ExecutorReport::Items {
            task,
            outcomes: indices.iter().map(outcome).collect(),
        },
    }
}

/// AGENT-1: a result without an acknowledgement is sent again, with the same number, on the next
/// connection; an acknowledged one is not.
#[test]
fn results_wait_for_their_acknowledgement() {
    let mut core = connected_core();
    let task = run_of(&core.handle(grant(1, 2), seconds(0))).unwrap();
    let first = core.handle(outcomes(task, &[0]), seconds(0));
    let [WorkerReport::Results { sequence: 1, .. }] = sent(&first)[..] else {
        panic!("{first:?}")
    };
    core.handle(Event::Disconnected, seconds(1));
    let second = core.handle(outcomes(task, &[1]), seconds(1));
    assert!(sent(&second).is_empty(), "nothing can be sent: {second:?}");
    core.handle(Event::Connected { session: 2 }, seconds(2));
    let again = core.handle(welcome(vec![(Term(1), 1)], vec![]), seconds(2));
    let numbers: Vec<u64> = sent(&again)
        .into_iter()
        .filter_map(|report| match report {
            WorkerReport::Results { sequence, .. } => Some(*sequence),
            _ => None,
        })
        .collect();
    assert_eq!(numbers, [1, 2]);
    core.handle(
        Event::Command(WorkerCommand::Acknowledge { sequence: 1 }),
        seconds(2),
    );
    core.handle(
        Event::Command(WorkerCommand::Acknowledge { sequence: 2 }),
        seconds(2),
    );
    assert_eq!(core.outbox_len(), 0);
}

/// AGENT-1: the hello lists leases that run and leases whose results are on their way.
#[test]
fn the_hello_lists_what_is_held() {
    let mut core = connected_core();
    let task = run_of(&core.handle(grant(1, 1), seconds(0))).unwrap();
    core.handle(outcomes(task, &[0]), seconds(0));
    core.handle(
        Event::Report {
            slot: SLOT,
            report: ExecutorReport::ItemsDone { task },
        },
        seconds(0),
    );
    core.handle(start_rank(), seconds(0));
    core.handle(Event::Disconnected, seconds(1));
    let actions = core.handle(Event::Connected { session: 2 }, seconds(1));
    let [WorkerReport::Hello(hello)] = sent(&actions)[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(hello.leases, [lease(1, 1)]);
    assert_eq!(hello.ranks, [held()]);
}

/// AGENT-2: a second lease waits until the first is done.
#[test]
fn a_slot_runs_one_piece_at_a_time() {
    let mut core = connected_core();
    let task = run_of(&core.handle(grant(1, 1), seconds(0))).unwrap();
    assert_eq!(run_of(&core.handle(grant(2, 1), seconds(0))), None);
    core.handle(outcomes(task, &[0]), seconds(0));
    let done = core.handle(
        Event::Report {
            slot: SLOT,
            report: ExecutorReport::ItemsDone { task },
        },
        seconds(0),
    );
    assert_eq!(run_of(&done), Some(task + 1));
}

fn exit() -> Event {
    Event::ExecutorExited {
        slot: SLOT,
        process: 7,
        status: "signal: 9".into(),
        last_lines: String::new(),
    }
}

fn causes(actions: &[Action]) -> Vec<(u32, FailureCause)> {
    let cause = |outcome: &ItemOutcome| {
        let error = outcome.result.as_ref().unwrap_err();
        (outcome.index.0, error.cause)
    };
    let reports = sent(actions).into_iter();
    let outcomes = reports.filter_map(|report| match report {
        WorkerReport::Results { outcomes, .. } => Some(outcomes),
        _ => None,
    });
    outcomes.flatten().map(cause).collect()
}

fn ran(actions: &[Action]) -> Option<Ran> {
    let mut reports = sent(actions).into_iter();
    let ran = reports.find_map(|report| match report {
        WorkerReport::ExecutorExited {
            process: 7, ran, ..
        } => Some(ran.clone()),
        _ => None,
    });
    ran.expect("the coordinator is told")
}

/// AGENT-3: when an executor dies, the item that it was computing is reported as failed, those
/// behind it in the lease as lost, finished ones not at all; the coordinator hears what it ran,
/// and the executor is started again at once.
#[test]
fn a_dead_executors_items_may_be_tried_again() {
    let mut core = connected_core();
    let mut grant = grant(1, 4);
    // The order of the lease counts, not that of the indices.
    if let Event::Command(WorkerCommand::Grant { lease, .. }) = &mut grant {
        lease.items.reverse();
    }
    let task = run_of(&core.handle(grant, seconds(0))).unwrap();
    hand_over(&mut core, task);
    core.handle(outcomes(task, &[3]), seconds(0));
    let actions = core.handle(exit(), seconds(1));
    let expected = [
        (2, FailureCause::Failed),
        (1, FailureCause::Lost),
        (0, FailureCause::Lost),
    ];
    assert_eq!(causes(&actions), expected);
    let lease = Ran::Lease {
        term: Term(1),
        number: 1,
    };
    assert_eq!(ran(&actions), Some(lease));
    assert!(actions.contains(&Action::Start {
        slot: SLOT,
        wait: Duration::ZERO
    }));
}

/// AGENT-3: an executor that dies before it was given its work has not failed at it.
#[test]
fn work_that_was_not_handed_over_is_lost() {
    let mut core = connected_core();
    core.handle(grant(1, 2), seconds(0));
    let actions = core.handle(exit(), seconds(1));
    let expected = [(0, FailureCause::Lost), (1, FailureCause::Lost)];
    assert_eq!(causes(&actions), expected);
    assert_eq!(ran(&actions), None);
}

/// AGENT-3: a rank whose executor dies has failed; one that was not handed over is lost.
#[test]
fn a_dead_executors_rank_is_named() {
    for (is_handed_over, expected) in [(true, FailureCause::Failed), (false, FailureCause::Lost)] {
        let mut core = connected_core();
        let task = run_of(&core.handle(start_rank(), seconds(0))).unwrap();
        if is_handed_over {
            hand_over(&mut core, task);
        }
        let actions = core.handle(exit(), seconds(1));
        let cause = sent(&actions).into_iter().find_map(|report| match report {
            WorkerReport::Rank {
                event: RankEvent::Failed(error),
                ..
            } => Some(error.cause),
            _ => None,
        });
        assert_eq!(cause, Some(expected));
        assert_eq!(ran(&actions), is_handed_over.then(|| Ran::Rank(held())));
    }
}

/// AGENT-5: a report carries the number of the session that stood when it was made, also a hello
/// that comes too late: only the newest session's is its first report.
#[test]
fn reports_carry_their_session() {
    let mut core = ready_core();
    let sessions = |actions: &[Action]| -> Vec<u64> {
        let session = |action: &Action| match action {
            Action::Send { session, .. } => Some(*session),
            _ => None,
        };
        actions.iter().filter_map(session).collect()
    };
    let first = core.handle(Event::Connected { session: 1 }, seconds(0));
    assert_eq!(sessions(&first), [1]);
    // That session ends before its hello is read.
    core.handle(Event::Disconnected, seconds(0));
    let second = core.handle(Event::Connected { session: 2 }, seconds(0));
    let [WorkerReport::Hello(_)] = sent(&second)[..] else {
        panic!("{second:?}")
    };
    assert_eq!(sessions(&second), [2]);
    let welcomed = core.handle(welcome(vec![], vec![]), seconds(0));
    assert!(!sent(&welcomed).is_empty());
    assert!(sessions(&welcomed).iter().all(|session| *session == 2));
}

/// AGENT-3: five deaths within a minute, never ready in between, end the agent with the last lines;
/// five in five minutes do not. A library that the loader does not find ends it at once, with what
/// to do.
#[test]
fn an_executor_that_cannot_live_ends_the_agent() {
    let die = |core: &mut Core, at: u64, last_lines: &str| {
        let exit = Event::ExecutorExited {
            slot: SLOT,
            process: 0,
            status: "exit status: 127".into(),
            last_lines: last_lines.to_owned(),
        };
        let actions = core.handle(exit, seconds(at));
        actions.into_iter().find_map(|action| match action {
            Action::Exit {
                message,
                is_hopeless,
            } => Some((message, is_hopeless)),
            _ => None,
        })
    };
    let illegal = "illegal instruction";
    let mut core = ready_core();
    assert!((0..4).all(|at| die(&mut core, at, illegal).is_none()));
    let (message, is_hopeless) = die(&mut core, 5, illegal).unwrap();
    assert!(message.contains(illegal) && !is_hopeless, "{message}");
    let mut core = ready_core();
    assert!((0..5).all(|minute| die(&mut core, 60 * minute, illegal).is_none()));
    let loader = "evoring-executor: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file: No such file or directory";
    let (message, is_hopeless) = die(&mut ready_core(), 0, loader).unwrap();
    assert!(is_hopeless);
    assert!(
        message.contains("libtorch_cpu.so") && message.contains("make setup"),
        "{message}"
    );
}

/// AGENT-4: a rank finishes without a coordinator; its file is stored first, and the result is
/// delivered on the next connection.
#[test]
fn a_rank_finishes_while_nobody_answers() {
    let mut core = connected_core();
    let task = run_of(&core.handle(start_rank(), seconds(0))).unwrap();
    core.handle(Event::Disconnected, seconds(1));
    let blobs = vec![PathBuf::from("weights")];
    let report = ExecutorReport::RankFinished {
        task,
        result: vec![9],
        blobs: blobs.clone(),
    };
    let actions = core.handle(Event::Report { slot: SLOT, report }, seconds(2));
    let purpose = Purpose::Result(vec![9]);
    assert!(actions.contains(&Action::Store {
        held: held(),
        purpose: purpose.clone(),
        files: blobs
    }));
    core.handle(
        Event::Stored {
            held: held(),
            purpose,
            outcome: Ok(Some(Digest::of(b"w"))),
        },
        seconds(3),
    );
    core.handle(Event::Connected { session: 2 }, seconds(4));
    let actions = core.handle(welcome(vec![], vec![held()]), seconds(4));
    let finished = sent(&actions).into_iter().any(
        |report| matches!(report, WorkerReport::Rank { event: RankEvent::Finished { result }, .. } if *result == [9]),
    );
    assert!(finished, "{actions:?}");
}

/// AGENT-4: a coordinator that does not lead changes nothing but the connection: work goes on, and is
/// delivered to the one that does.
#[test]
fn work_goes_on_while_the_leader_is_looked_for() {
    let mut core = connected_core();
    let task = run_of(&core.handle(grant(1, 1), seconds(0))).unwrap();
    core.handle(Event::Disconnected, seconds(1));
    core.handle(Event::Connected { session: 2 }, seconds(1));
    let not_leader = Event::Command(WorkerCommand::NotLeader { leader: None });
    assert_eq!(core.handle(not_leader, seconds(1)), []);
    let computed = core.handle(outcomes(task, &[0]), seconds(1));
    assert!(sent(&computed).is_empty(), "{computed:?}");
    core.handle(Event::Disconnected, seconds(1));
    let hello = core.handle(Event::Connected { session: 3 }, seconds(2));
    let [WorkerReport::Hello(hello)] = sent(&hello)[..] else {
        panic!("{hello:?}")
    };
    assert_eq!(hello.leases, [lease(1, 1)]);
    let delivered = core.handle(welcome(vec![(Term(1), 1)], vec![]), seconds(2));
    let is_result = |report: &&WorkerReport| matches!(report, WorkerReport::Results { .. });
    assert_eq!(sent(&delivered).into_iter().filter(is_result).count(), 1);
}

/// A checkpoint is reported only once its file is in the blob store.
#[test]
fn a_checkpoint_is_stored_before_it_is_reported() {
    let mut core = connected_core();
    let task = run_of(&core.handle(start_rank(), seconds(0))).unwrap();
    let report = ExecutorReport::Checkpoint {
        task,
        step: Step(50),
        path: "c".into(),
    };
    let actions = core.handle(Event::Report { slot: SLOT, report }, seconds(1));
    assert!(sent(&actions).is_empty(), "{actions:?}");
    let stored = Event::Stored {
        held: held(),
        purpose: Purpose::Checkpoint(Step(50)),
        outcome: Ok(Some(Digest::of(b"c"))),
    };
    let actions = core.handle(stored, seconds(1));
    let is_checkpoint = |r: &WorkerReport| matches!(r, WorkerReport::Rank { event: RankEvent::Checkpointed(c), .. } if c.step == Step(50));
    assert!(sent(&actions).into_iter().any(is_checkpoint), "{actions:?}");
}

/// What a welcome does not list is stopped; an executor that does not obey is killed, and what it
/// says about stopped work is not passed on.
#[test]
fn unwanted_work_is_stopped() {
    let mut core = connected_core();
    let task = run_of(&core.handle(start_rank(), seconds(0))).unwrap();
    hand_over(&mut core, task);
    core.handle(Event::Disconnected, seconds(1));
    core.handle(Event::Connected { session: 2 }, seconds(2));
    let actions = core.handle(welcome(vec![], vec![]), seconds(2));
    assert!(actions.contains(&Action::Stop { slot: SLOT, task }));
    let actions = core.handle(Event::Tick, seconds(5));
    assert!(actions.contains(&Action::Kill { slot: SLOT }));
    let error = WorkError {
        message: "stopped".into(),
        cause: FailureCause::Lost,
    };
    let actions = core.handle(
        Event::Report {
            slot: SLOT,
            report: ExecutorReport::RankFailed { task, error },
        },
        seconds(5),
    );
    assert!(
        !sent(&actions)
            .into_iter()
            .any(|r| matches!(r, WorkerReport::Rank { .. })),
        "{actions:?}"
    );
}

/// A refusal that no repetition mends ends the agent with the coordinator's sentence; another one
/// does not.
#[test]
fn a_refused_agent_says_why() {
    let refuse = |code| {
        Event::Command(WorkerCommand::Refuse(RemoteError::new(
            code,
            "run the same build",
        )))
    };
    let actions = connected_core().handle(refuse(ErrorCode::VersionMismatch), seconds(0));
    assert!(
        actions
            .iter()
            .any(|a| matches!(a, Action::Exit { message, is_hopeless: true } if message.contains("run the same build")))
    );
    let actions = connected_core().handle(refuse(ErrorCode::NotReady), seconds(0));
    assert!(!actions.iter().any(|a| matches!(a, Action::Exit { .. })));
}

/// AGENT-6: whatever a worker holds, the coordinator can read its hello; what does not fit is told.
/// Method: results of more leases of the most items than a hello may have, as a slot refuses most of them.
#[test]
fn a_hello_lists_no_more_than_is_taken() {
    let mut core = connected_core();
    let leases = HELLO_ITEMS / LEASE_ITEMS + 2;
    for number in 1..=leases {
        core.handle(grant(number as u64, LEASE_ITEMS as u32), seconds(0));
    }
    let actions = core.handle(Event::Connected { session: 2 }, seconds(1));
    let [report @ WorkerReport::Hello(hello)] = sent(&actions)[..] else {
        panic!("one hello")
    };
    let items: usize = hello.leases.iter().map(|lease| lease.items.len()).sum();
    assert!(hello.leases.len() < leases && items > HELLO_ITEMS / 2);
    let frame = codec::encode(report).unwrap();
    let again = codec::decode_body::<WorkerReport>(&frame[HEADER_BYTES..]);
    assert_eq!(again.as_ref(), Ok(report));
    let is_told = |action: &Action| matches!(action, Action::Log(line) if line.contains("leases"));
    assert!(actions.iter().any(is_told));
}
