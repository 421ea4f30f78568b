//! Evidence from made-up events.

use super::*;
use evoring_protocol::{Attempt, Digest, RosterNumber, SlotIndex};

const JOB: JobId = JobId(1);
const DEMAND: DemandId = DemandId(3);
const STAGE: &str = "search";

fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).expect("a valid name")
}

/// Struck after event `seen`; [`events`] numbers them from 1, which is the stage's start.
fn struck(name: &str, seen: u64) -> Struck {
    Struck {
        worker: worker(name),
        agent: 10,
        executor: 11,
        seen,
    }
}

fn start() -> EventKind {
    EventKind::CoordinatorStarted {
        process: 1,
        term: 1,
    }
}

fn granted(name: &str, items: &[u32], is_copy: bool) -> EventKind {
    EventKind::LeaseGranted {
        job: JOB,
        demand: DEMAND,
        stage: STAGE.to_owned(),
        worker: worker(name),
        slot: SlotIndex(0),
        items: items
            .iter()
            .map(|index| (ItemIndex(*index), Attempt(1)))
            .collect(),
        is_copy,
    }
}

fn recorded(items: &[u32]) -> EventKind {
    EventKind::ItemsRecorded {
        job: JOB,
        demand: DEMAND,
        stage: STAGE.to_owned(),
        items: items.iter().map(|index| ItemIndex(*index)).collect(),
    }
}

fn committed(roster: u32, members: &[&str]) -> EventKind {
    let member = |name: &&str| (worker(name), SlotIndex(0));
    EventKind::RosterCommitted {
        job: JOB,
        demand: DEMAND,
        stage: STAGE.to_owned(),
        roster: RosterNumber(roster),
        members: members.iter().map(member).collect(),
        resume_step: 0,
    }
}

fn broken(roster: u32, reason: &str) -> EventKind {
    EventKind::RosterBroken {
        job: JOB,
        demand: DEMAND,
        stage: STAGE.to_owned(),
        roster: RosterNumber(roster),
        reason: reason.to_owned(),
    }
}

/// The agent's end.
fn lost(name: &str, held_items: u32) -> EventKind {
    EventKind::WorkerLost {
        worker: worker(name),
        held_items,
        held_ranks: 0,
        reason: "silent".to_owned(),
    }
}

/// An agent's session begins.
fn joined(name: &str, process: u32) -> EventKind {
    EventKind::WorkerJoined {
        worker: worker(name),
        process,
        slots: 1,
        held_items: 0,
        held_ranks: 0,
    }
}

/// The end of an executor.
fn exited(name: &str, process: u32, held_items: u32, held_ranks: u32) -> EventKind {
    EventKind::ExecutorExited {
        worker: worker(name),
        slot: SlotIndex(0),
        process,
        held_items,
        held_ranks,
        status: "signal: 9".to_owned(),
    }
}

fn checkpointed(demand: DemandId) -> EventKind {
    EventKind::Checkpointed {
        job: JOB,
        demand,
        step: 10,
        digest: Digest([0; 32]),
    }
}

/// The stage's events: its start, then `kinds`.
fn events(kinds: Vec<EventKind>) -> Vec<Event> {
    let stage = STAGE.to_owned();
    let begin = EventKind::StageStarted { job: JOB, stage };
    let numbered = std::iter::once(begin).chain(kinds).zip(1..);
    numbered
        .map(|(kind, number)| Event {
            number,
            time_ms: 0,
            entry: None,
            kind,
        })
        .collect()
}

// Claim: a coordinator's death counts only if something was granted and had no result, or a
// gang went on. Method: the same stage with and without it.
#[test]
fn coordinator_must_hold_work() {
    let counts = |kinds| kill_counts(&events(kinds), STAGE, Victim::Coordinator, &[]);
    assert!(counts(vec![
        granted("w1", &[0, 1], false),
        recorded(&[0]),
        start()
    ]));
    assert!(!counts(vec![
        granted("w1", &[0], false),
        recorded(&[0]),
        start()
    ]));
    assert!(!counts(vec![start(), granted("w1", &[0], false)]));
    assert!(counts(vec![
        committed(1, &["w1"]),
        start(),
        checkpointed(DEMAND)
    ]));
    assert!(!counts(vec![
        committed(1, &["w1"]),
        start(),
        checkpointed(DemandId(9))
    ]));
    assert!(!counts(vec![
        committed(1, &["w1"]),
        checkpointed(DEMAND),
        start()
    ]));
}

// Claim: an agent that died with its coordinator counts if it alone held an item, and the item
// must be granted again, not merely copied. Method: two workers, one of them dead.
#[test]
fn orphans_are_granted_again() {
    let (dead, victim) = ([struck("w1", 3)], Victim::AgentAndCoordinator);
    let before = |more: Vec<EventKind>| {
        let mut kinds = vec![granted("w1", &[0], false), granted("w2", &[1], false)];
        kinds.extend(more);
        events(kinds)
    };
    let counts = |more| kill_counts(&before(more), STAGE, victim, &dead);
    assert!(counts(vec![start()]));
    assert!(!counts(vec![recorded(&[0]), start()]));
    assert!(!counts(vec![granted("w2", &[0], true), start()]));
    let again = |more| was_tried_again(&before(more), STAGE, victim, &dead);
    assert!(again(vec![start(), granted("w2", &[0], false)]));
    assert!(!again(vec![start(), granted("w2", &[0], true)]));
    assert!(!again(vec![start(), granted("w1", &[1], false)]));
}

// Claim: an executor's death counts for the process and the worker that were killed alone. Method:
// the same event with another process, and with another worker.
#[test]
fn executor_is_the_one_that_was_killed() {
    let counts = |kind| {
        let (events, dead) = (events(vec![kind]), [struck("w1", 1)]);
        kill_counts(&events, STAGE, Victim::Executor, &dead)
    };
    assert!(counts(exited("w1", 11, 1, 0)));
    assert!(!counts(exited("w1", 11, 0, 0)));
    assert!(!counts(exited("w1", 12, 1, 0)));
    assert!(!counts(exited("w2", 11, 1, 0)));
}

// Claim: an agent's death counts for the worker that was struck, from that moment on, and what it
// held must be run again. Method: the same events with another worker, with nothing held, before.
#[test]
fn agent_is_the_one_that_was_killed() {
    let dead = |seen| [struck("w1", seen)];
    let search = |kind| events(vec![granted("w1", &[0], false), kind]);
    let counts = |kind, seen| kill_counts(&search(kind), STAGE, Victim::Agent, &dead(seen));
    assert!(counts(lost("w1", 1), 2));
    assert!(!counts(lost("w1", 0), 2));
    assert!(!counts(lost("w2", 1), 2));
    assert!(!counts(lost("w1", 1), 3), "lost before it was struck");
    let retried = |stage: &str| EventKind::ItemsRetried {
        job: JOB,
        demand: DEMAND,
        stage: stage.to_owned(),
        items: vec![(ItemIndex(0), Attempt(2))],
        reason: "lost".to_owned(),
    };
    let again = |kind| was_tried_again(&search(kind), STAGE, Victim::Agent, &dead(2));
    assert!(again(retried(STAGE)));
    assert!(!again(retried("finetune")));
    assert!(!again(granted("w2", &[0], true)));
}

/// Verdicts on the death of `dead`, struck after event `seen`: whether it counts, and whether what it
/// held was run again.
fn verdicts(victim: Victim, dead: &str, seen: u64, kinds: &[EventKind]) -> (bool, bool) {
    let (events, dead) = (events(kinds.to_vec()), [struck(dead, seen)]);
    (
        kill_counts(&events, STAGE, victim, &dead),
        was_tried_again(&events, STAGE, victim, &dead),
    )
}

// Claim: an agent held a rank only if it was a member of the roster that stood when it was struck,
// whoever notices the loss first, and that roster broke. Method: a gang of two and a third worker;
// the same events with another worker struck, another roster broken, and without one of the events.
#[test]
fn agent_must_be_a_member_of_the_roster_that_breaks() {
    let verdicts = |dead, seen, kinds: &[EventKind]| verdicts(Victim::Agent, dead, seen, kinds);
    let gang = || committed(1, &["w1", "w2"]);
    let break_first = [
        gang(),
        broken(1, "rank 1: lost its peer"),
        lost("w1", 0),
        committed(2, &["w2"]),
    ];
    assert_eq!(verdicts("w1", 2, &break_first), (true, true));
    let loss_first = [
        gang(),
        lost("w1", 0),
        broken(1, "worker w1 is lost"),
        committed(2, &["w2"]),
    ];
    assert_eq!(verdicts("w1", 2, &loss_first), (true, true));
    let not_formed_again = (true, false);
    assert_eq!(verdicts("w1", 2, &loss_first[..3]), not_formed_again);
    let refused = (false, false);
    assert_eq!(
        verdicts("w1", 2, &loss_first[..2]),
        refused,
        "nothing broke"
    );
    assert_eq!(verdicts("w1", 4, &break_first), refused, "broken before");
    assert_eq!(verdicts("w1", 1, &break_first), refused, "no roster yet");
    // Another worker was struck than the one the gang lost.
    let with_third = |third: EventKind| [gang(), third, broken(1, "worker w1 is lost")];
    assert_eq!(verdicts("w3", 2, &with_third(lost("w3", 0))), refused);
    let (counts, _) = verdicts("w2", 2, &loss_first);
    assert!(!counts, "a member, but not the one that died");
    // It was a member of an earlier roster alone.
    let left = [
        gang(),
        broken(1, "the gang grows"),
        committed(2, &["w2", "w3"]),
        lost("w1", 0),
        broken(2, "rank 0 failed"),
        committed(3, &["w2"]),
    ];
    assert_eq!(verdicts("w1", 4, &left), refused);
}

// Claim: a death counts for the strike before it, not for an earlier one at the same worker. Method:
// w1 is struck where w2 dies, and dies when w2 is struck.
#[test]
fn strikes_are_told_apart() {
    let kinds = vec![
        committed(1, &["w1", "w2"]),
        lost("w2", 0),
        broken(1, "worker w2 is lost"),
        committed(2, &["w1", "w2"]),
        lost("w1", 0),
        broken(2, "worker w1 is lost"),
        committed(3, &["w1", "w2"]),
    ];
    let events = events(kinds);
    let counts = |dead: [Struck; 2]| kill_counts(&events, STAGE, Victim::Agent, &dead);
    assert!(!counts([struck("w1", 2), struck("w2", 5)]));
    assert!(counts([struck("w2", 2), struck("w1", 5)]));
}

// Claim: a gang that grows has lost nobody. Method: a death of a member whose roster ends because
// others join.
#[test]
fn growth_is_no_loss() {
    let reason = "the gang grows from 1 to 2 ranks at its checkpoint of step 10";
    let grown = [
        committed(1, &["w1"]),
        lost("w1", 0),
        broken(1, reason),
        committed(2, &["w1", "w2"]),
    ];
    assert_eq!(verdicts(Victim::Agent, "w1", 2, &grown), (false, false));
}

// Claim: an executor held a rank only if its agent says so and its worker was a member of the roster
// that broke. Method: a report without a rank, and one of a worker that is no member.
#[test]
fn executor_must_have_had_a_rank_of_the_roster_that_breaks() {
    let verdicts = |dead, exit: EventKind| {
        let gang = committed(1, &["w1", "w2"]);
        let kinds = [gang, exit, broken(1, "died"), committed(2, &["w1", "w2"])];
        verdicts(Victim::Executor, dead, 2, &kinds)
    };
    assert_eq!(verdicts("w1", exited("w1", 11, 0, 1)), (true, true));
    assert!(!verdicts("w1", exited("w1", 11, 0, 0)).0);
    assert!(!verdicts("w1", exited("w2", 11, 0, 1)).0);
    assert_eq!(verdicts("w3", exited("w3", 11, 0, 1)), (false, false));
}

// Claim: an agent that died with its coordinator held a rank only if it was a member of the last
// roster before the next coordinator took office, that one broke, and it did not come back. Method:
// the same events with another worker struck, with a roster of others in between, broken before, and
// with sessions of a new and of the same process.
#[test]
fn agent_that_died_with_its_coordinator_must_be_a_member() {
    let victim = Victim::AgentAndCoordinator;
    let verdicts = |dead, kinds: &[EventKind]| verdicts(victim, dead, 2, kinds);
    let gang = || committed(1, &["w1", "w2"]);
    let after = || [broken(1, "worker w1 is lost"), committed(2, &["w2"])];
    let [end, next] = after();
    let whole = [gang(), start(), end.clone(), next.clone()];
    let refused = (false, false);
    assert_eq!(verdicts("w1", &whole), (true, true));
    assert_eq!(verdicts("w3", &whole), refused);
    assert_eq!(verdicts("w1", &whole[..3]), (true, false));
    assert_eq!(verdicts("w1", &whole[..2]), refused);
    let with = |join| [gang(), start(), join, end.clone(), next.clone()];
    assert_eq!(verdicts("w1", &with(joined("w1", 12))), (true, true));
    let (counts, _) = verdicts("w2", &with(joined("w2", 10)));
    assert!(!counts, "a member, but not the one that died");
    let without_start = [gang(), end.clone(), next.clone()];
    assert_eq!(verdicts("w1", &without_start), refused);
    let too_early = [gang(), end, start(), next];
    assert_eq!(verdicts("w1", &too_early), refused);
    let replaced = [
        gang(),
        broken(1, "rank 0 failed"),
        committed(2, &["w2", "w3"]),
        start(),
        broken(2, "rank 0 failed"),
        committed(3, &["w2"]),
    ];
    assert_eq!(verdicts("w1", &replaced), refused);
    assert_eq!(verdicts("w3", &replaced), (true, true));
}

// Claim: an office is lost at work only to another process, within the stage, while work was held.
// Method: two starts around a grant; without the grant, with its result, in another order, with the
// same process again, and with a third process in between.
#[test]
fn office_is_lost_to_another_process() {
    let office = |process| EventKind::CoordinatorStarted { process, term: 1 };
    let lost = |kinds: Vec<EventKind>| {
        let first = std::iter::once(office(1));
        let events = events(first.chain(kinds).collect());
        lost_office_at_work(&events, STAGE, 1)
    };
    let grant = || granted("w1", &[0], false);
    assert!(lost(vec![grant(), office(2)]));
    assert!(!lost(vec![grant()]));
    assert!(!lost(vec![office(2), grant()]));
    assert!(!lost(vec![grant(), recorded(&[0]), office(2)]));
    assert!(!lost(vec![grant(), office(1)]));
    assert!(!lost(vec![office(3), grant(), office(2)]));
    let end = EventKind::StageFinished {
        job: JOB,
        stage: STAGE.to_owned(),
    };
    assert!(!lost(vec![grant(), end, office(2)]));
}

// Claim: a grant after a result is found. Method: the same item before and after its result.
#[test]
#[should_panic(expected = "granted again with a result")]
fn repetition_is_found() {
    let grant = || granted("w1", &[0], false);
    assert_nothing_recorded_is_repeated(&events(vec![grant(), recorded(&[0]), grant()]));
}
