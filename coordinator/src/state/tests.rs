//! Commands in, effects out; whole jobs are in `leader/tests.rs`.

use super::*;
use crate::made_up::{JOB, compute, trained};
use evoring_protocol::limits::LABEL_REQUESTS;
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::{Checkpoint, FailureCause, Member, WorkError};
use evoring_protocol::{Attempt, ItemIndex, Rank, RosterNumber, SlotIndex, Step, limits};
use proptest::prelude::*;

fn submission(number: u8) -> Command {
    let spec = evoring_jobs::spec::parse("job.toml", JOB).unwrap();
    Command::Submit(Box::new(Submission {
        key: SubmissionKey([number; 16]),
        name: spec.name,
        kind: spec.kind,
        min_ranks: spec.min_ranks,
        driver: spec.driver,
    }))
}

/// A state that one applies commands to, one entry each.
#[derive(Default)]
struct Log {
    state: State,
    entries: Vec<Vec<u8>>,
}

impl Log {
    fn apply(&mut self, commands: Vec<Command>) -> Applied {
        let entry = Batch {
            time_ms: 1_000 + self.entries.len() as u64,
            commands,
        }
        .encode(self.state.version());
        self.entries.push(entry.clone());
        self.state.apply(self.entries.len() as u64, &entry).unwrap()
    }

    fn one(&mut self, command: Command) -> Applied {
        self.apply(vec![command])
    }
}

const JOB_1: JobId = JobId(1);
const GANG: DemandId = DemandId(1);
const LOST: Option<FailureCause> = Some(FailureCause::Lost);
const FAILED: Option<FailureCause> = Some(FailureCause::Failed);

fn member(worker: &str) -> Member {
    Member {
        worker: WorkerId::new(worker).unwrap(),
        slot: SlotIndex(0),
    }
}

fn roster(number: u32, workers: &[&str]) -> Command {
    Command::CommitRoster {
        job: JOB_1,
        demand: GANG,
        number: RosterNumber(number),
        members: workers.iter().map(|worker| member(worker)).collect(),
        secret: [number as u8; 32],
    }
}

fn checkpoint(number: u32, step: u64) -> Command {
    let checkpoint = Checkpoint {
        step: Step(step),
        digest: Digest::of(&step.to_le_bytes()),
    };
    Command::Checkpoint {
        job: JOB_1,
        demand: GANG,
        number: RosterNumber(number),
        checkpoint,
    }
}

fn void(number: u32, cause: Option<FailureCause>) -> Command {
    let reason = "lost".to_owned();
    Command::BreakRoster {
        job: JOB_1,
        demand: GANG,
        number: RosterNumber(number),
        reason,
        cause,
    }
}

fn finished(number: u32, rank: u32, result: &[u8]) -> Command {
    Command::RankFinished {
        job: JOB_1,
        demand: GANG,
        number: RosterNumber(number),
        rank: Rank(rank),
        result: result.to_vec(),
    }
}

fn gang(log: &Log) -> &GangState {
    log.state.demand(JOB_1, GANG).unwrap().gang().unwrap()
}

// Claim (STATE-6): rosters follow one another; checkpoints only go forward and belong to the
// current roster; the next roster resumes from the newest.
// Method: commands in and out of order.
#[test]
fn rosters_and_checkpoints() {
    let mut log = Log::default();
    log.one(submission(1));
    assert!(
        log.one(roster(2, &["a"])).effects.is_empty(),
        "number 2 before 1"
    );
    assert!(
        log.one(roster(1, &["a", "b", "c", "d", "e"]))
            .effects
            .is_empty(),
        "more members than max"
    );
    assert_eq!(log.one(roster(1, &["a", "b"])).effects.len(), 2);
    assert!(
        log.one(roster(2, &["c"])).effects.is_empty(),
        "a second roster beside the first"
    );
    log.one(checkpoint(1, 50));
    assert!(log.one(checkpoint(1, 50)).effects.is_empty());
    assert!(log.one(checkpoint(1, 20)).effects.is_empty());
    assert!(log.one(checkpoint(2, 70)).effects.is_empty());
    assert!(log.one(void(3, LOST)).effects.is_empty());
    log.one(finished(1, 0, b"half of it"));
    assert_eq!(log.one(void(1, LOST)).effects.len(), 2);
    assert!(
        log.one(checkpoint(1, 60)).effects.is_empty(),
        "a voided roster's checkpoint"
    );
    assert!(
        log.one(finished(1, 1, b"half of it")).effects.is_empty(),
        "a voided roster's result"
    );
    log.one(roster(2, &["b"]));
    let current = gang(&log).roster.clone().unwrap();
    assert_eq!(
        (current.number, current.resume.unwrap().step),
        (RosterNumber(2), Step(50))
    );
    assert_eq!(log.state.jobs()[&JOB_1].retries, 1);
}

// Claim: a gang is given up after a declared number of failures without progress; progress starts
// the count anew; neither growing nor what was lost counts.
// Method: break rosters, with and without checkpoints in between.
#[test]
fn gang_gives_up() {
    let mut log = Log::default();
    log.one(submission(1));
    let mut number = 0;
    let mut broken = |log: &mut Log, cause: Option<FailureCause>| {
        number += 1;
        log.one(roster(number, &["a"]));
        log.one(checkpoint(
            number,
            if number <= 3 { u64::from(number) } else { 3 },
        ));
        log.one(void(number, cause));
        log.state.jobs()[&JOB_1].work().is_some()
    };
    for _ in 0..3 {
        assert!(broken(&mut log, FAILED));
    }
    for _ in 0..20 {
        assert!(broken(&mut log, None));
        assert!(broken(&mut log, LOST));
    }
    for _ in 1..limits::FAILURES - 1 {
        assert!(broken(&mut log, FAILED));
    }
    assert!(!broken(&mut log, FAILED));
    let Phase::Failed { error } = &log.state.jobs()[&JOB_1].phase else {
        panic!()
    };
    assert!(
        error.contains("without a new checkpoint") && error.contains("lost"),
        "{error}"
    );
}

// Claim: a gang whose work fails is given up although its peers always speak first and say that they
// lost it; each roster counts once.
// Method: rosters of which one rank is lost, and then another one failed, twice said.
#[test]
fn peers_speak_first() {
    let mut log = Log::default();
    log.one(submission(1));
    let failed = |number, rank, cause| Command::RankFailed {
        job: JOB_1,
        demand: GANG,
        number: RosterNumber(number),
        rank: Rank(rank),
        error: WorkError {
            message: "made up".to_owned(),
            cause,
        },
    };
    for number in 1..=limits::FAILURES {
        assert!(log.state.jobs()[&JOB_1].work().is_some(), "{number}");
        log.one(roster(number, &["a", "b"]));
        log.one(failed(number, 1, FailureCause::Lost));
        for _ in 0..2 {
            log.one(failed(number, 0, FailureCause::Failed));
        }
    }
    let Phase::Failed { error } = &log.state.jobs()[&JOB_1].phase else {
        panic!()
    };
    assert!(
        error.contains("failed 4 times") && error.contains("rank 0: made up"),
        "{error}"
    );
}

/// A job whose training is done and whose first map is open, with its class.
fn at_first_map() -> (Log, DemandId) {
    let mut log = Log::default();
    log.one(submission(1));
    log.one(roster(1, &["a"]));
    let payload = gang(&log).payload.clone();
    log.one(finished(1, 0, &trained(&payload)));
    log.one(Command::AssignClass {
        job: JOB_1,
        class: NumericsClass("cpu".to_owned()),
    });
    let demands = &log.state.jobs()[&JOB_1].work().unwrap().demands;
    let (&demand, state) = demands.iter().next().unwrap();
    assert!(state.map().is_some());
    (log, demand)
}

fn record(
    demand: DemandId,
    item: u32,
    attempt: u32,
    outcome: Result<Vec<u8>, WorkError>,
) -> Command {
    let report = ItemReport {
        index: ItemIndex(item),
        attempt: Attempt(attempt),
        outcome,
    };
    Command::Record {
        job: JOB_1,
        demand,
        outcomes: vec![report],
    }
}

fn result_of(log: &Log, demand: DemandId, item: u32) -> Vec<u8> {
    let map = log.state.demand(JOB_1, demand).unwrap().map().unwrap();
    compute(map.kernel, &map.payload, &map.items[item as usize])
}

// Claim (STATE-2): the first result of an item counts; failures of attempts that were given up,
// unknown items and unknown demands change nothing.
// Method: record each, and compare the encoded state.
#[test]
fn first_result_counts() {
    let (mut log, demand) = at_first_map();
    let lost = || {
        Err(WorkError {
            message: "lost".to_owned(),
            cause: FailureCause::Failed,
        })
    };
    let applied = log.one(record(demand, 0, 1, lost()));
    assert!(applied.effects.contains(&Effect::ItemsRetried {
        job: JOB_1,
        demand,
        items: vec![ItemIndex(0)]
    }));
    assert!(
        log.one(record(demand, 0, 1, lost())).effects.is_empty(),
        "attempt 1 was given up"
    );
    let result = result_of(&log, demand, 0);
    // Late, from the attempt that was given up: still the first result.
    let applied = log.one(record(demand, 0, 1, Ok(result.clone())));
    assert!(applied.effects.contains(&Effect::ItemsRecorded {
        job: JOB_1,
        demand,
        items: vec![ItemIndex(0)]
    }));
    let jobs = log.state.jobs().clone();
    for nothing in [
        record(demand, 0, 2, Ok(vec![9])),
        record(demand, 0, 2, lost()),
        record(demand, 4_000, 1, Ok(result.clone())),
        record(DemandId(77), 0, 1, Ok(result)),
    ] {
        assert!(log.one(nothing).effects.is_empty());
    }
    assert_eq!(log.state.jobs(), &jobs);
}

// Claim: failures and losses of an item have bounds of their own: few failures end its job, as many
// losses do not, and even losses end it at last.
// Method: attempts in order, all lost, or all lost but some that failed.
#[test]
fn failures_and_losses() {
    let give_up = |causes: &mut dyn Iterator<Item = FailureCause>| {
        let (mut log, demand) = at_first_map();
        for (cause, attempt) in causes.zip(1..) {
            let message = "made up".to_owned();
            log.one(record(
                demand,
                0,
                attempt,
                Err(WorkError { message, cause }),
            ));
            if let Phase::Failed { error } = &log.state.jobs()[&JOB_1].phase {
                return (attempt, error.clone());
            }
        }
        panic!("the job never fails");
    };
    let mixed = (0..).map(|number| match number % 3 {
        0 => FailureCause::Failed,
        _ => FailureCause::Lost,
    });
    let (attempts, error) = give_up(&mut { mixed });
    assert_eq!(attempts, 3 * (limits::FAILURES - 1) + 1);
    assert!(
        error.contains("failed 4 times") && error.contains("made up"),
        "{error}"
    );
    let (attempts, error) = give_up(&mut std::iter::repeat(FailureCause::Lost));
    assert_eq!(attempts, limits::LOSSES);
    assert!(error.contains("was lost 1000 times"), "{error}");
}

// Claim: cancelling is idempotent, for whoever did not hear the first answer; a job that ended
// otherwise is not cancelled any more.
// Method: cancel twice, and cancel a job that failed.
#[test]
fn cancelling_again_changes_nothing() {
    let mut log = Log::default();
    log.one(submission(0));
    log.one(submission(1));
    let cancel = |job| Command::Cancel { job };
    assert_eq!(log.one(cancel(JOB_1)).outcomes, [Outcome::Done]);
    let again = log.one(cancel(JOB_1));
    assert_eq!(again.outcomes, [Outcome::Done]);
    assert!(again.effects.is_empty(), "{:?}", again.effects);
    let failed = Phase::Failed {
        error: "made up".to_owned(),
    };
    log.state.jobs.get_mut(&JobId(2)).unwrap().phase = failed;
    let refused = log.one(cancel(JobId(2)));
    assert!(matches!(
        refused.outcomes[..],
        [Outcome::Refused {
            code: ErrorCode::Invalid,
            ..
        }]
    ));
}

// Claim: a cluster that has run many jobs takes more: the oldest ended ones go, with their keys;
// what is active stays.
// Method: a state that holds as many jobs as allowed, the first one active.
#[test]
fn oldest_jobs_are_forgotten() {
    let mut log = Log::default();
    for number in 0..3 {
        log.one(submission(number));
    }
    for job in [JobId(2), JobId(3)] {
        log.one(Command::Cancel { job });
    }
    let ended = log.state.jobs[&JobId(3)].clone();
    for number in 4..=JOBS as u64 {
        log.state.jobs.insert(JobId(number), ended.clone());
    }
    log.state.next_job = JOBS as u64 + 1;
    let new = JobId(JOBS as u64 + 1);
    let submitted = |already_known| Outcome::Submitted {
        job: new,
        already_known,
    };
    assert_eq!(log.one(submission(9)).outcomes, [submitted(false)]);
    let jobs = &log.state.jobs;
    assert!(jobs.len() == JOBS && jobs.contains_key(&JOB_1) && !jobs.contains_key(&JobId(2)));
    assert_eq!(log.state.submission(&SubmissionKey([1; 16])), None);
    assert_eq!(log.state.submission(&SubmissionKey([0; 16])), Some(JOB_1));
    assert_eq!(log.one(submission(9)).outcomes, [submitted(true)]);
}

// Claim: a result that is larger than allowed fails its job with the sizes.
// Method: one byte more than the limit.
#[test]
fn oversized_result() {
    let (mut log, demand) = at_first_map();
    log.one(record(demand, 0, 1, Ok(vec![0; limits::RESULT_BYTES + 1])));
    let Phase::Failed { error } = &log.state.jobs()[&JOB_1].phase else {
        panic!()
    };
    assert!(error.contains("257") && error.contains("256"), "{error}");
}

// Claim (STATE-3): a panicking driver fails its job at the entry's index; the state is unharmed.
// Method: a driver that panics, on a copy of which the step is taken.
#[test]
fn panics_are_errors() {
    #[derive(Clone)]
    struct Panics(u32);
    impl Driver for Panics {
        fn stages(&self) -> Vec<String> {
            Vec::new()
        }
        fn on(
            &mut self,
            _: &DriverEvent,
        ) -> Result<Vec<evoring_jobs::driver::DriverAction>, evoring_jobs::driver::DriverError>
        {
            self.0 += 1;
            panic!("index {} out of range", self.0)
        }
    }
    let mut driver = Panics(1);
    let error = super::step::guarded(&mut driver, &DriverEvent::Start).unwrap_err();
    assert_eq!(error, "the driver panicked: index 2 out of range");
    assert_eq!(driver.0, 1);
}

// Claim: bytes that are no entry, or no state, are refused with the reason.
// Method: empty, wrong version, cut off, bytes left over.
#[test]
fn malformed_bytes() {
    let entry = Batch {
        time_ms: 1,
        commands: vec![Command::Cancel { job: JobId(1) }],
    }
    .encode(NEWEST_RECORDS);
    assert!(Batch::decode(&entry, NEWEST_RECORDS).is_ok());
    let mut longer = entry.clone();
    longer.push(0);
    let mut newer = entry.clone();
    newer[0] += 1;
    for (wrong, reason) in [
        (&longer[..], "1 bytes left over"),
        (&newer[..], "version 5, expected 2 to 4"),
        (&entry[..2], "entry of 2 bytes"),
    ] {
        let error = Batch::decode(wrong, NEWEST_RECORDS)
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(State::default().apply(1, &longer).is_err());

    let state = at_first_map().0.state;
    let bytes = state.encode();
    assert_eq!(State::decode(&bytes).unwrap(), state);
    let mut longer = bytes.clone();
    longer.push(0);
    let mut newer = bytes.clone();
    newer[4] += 1;
    let mut other = bytes.clone();
    other[0] = b'X';
    for (wrong, reason) in [
        (&longer[..], "left over"),
        (&newer[..], "version 5, expected 3 to 4"),
        (&other[..], "not a state of Evoring"),
        (&bytes[..3], "too short"),
        (&bytes[..bytes.len() - 1], "snapshot of"),
    ] {
        let error = State::decode(wrong).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

// Claim: a member that is not taken in is told why: too many, or too long.
// Method: one with a long address; members up to the limit, and one more.
#[test]
fn members_that_are_refused() {
    let mut log = Log::default();
    let mut add = |name: String, address: String| {
        let applied = log.one(Command::AddMember { name, address });
        match &applied.outcomes[0] {
            Outcome::Refused { message, .. } => Some(message.clone()),
            _ => None,
        }
    };
    let long = add("c".into(), "a".repeat(limits::TEXT_BYTES));
    assert!(long.unwrap().contains("4097 bytes, at most 4096"));
    for number in 0..limits::MEMBERS {
        assert_eq!(add(format!("c{number}"), "a:1".into()), None);
    }
    let many = add("c".into(), "a:1".into());
    assert!(many.unwrap().contains("9 members, at most 9"));
}

// Claim: time never goes back, whatever a leader's clock says.
// Method: an entry with an older time.
#[test]
fn time_is_monotonic() {
    let mut state = State::default();
    for (index, (time_ms, expected)) in [(500, 500), (300, 500), (900, 900)].into_iter().enumerate()
    {
        state
            .apply(
                index as u64 + 1,
                &Batch {
                    time_ms,
                    commands: Vec::new(),
                }
                .encode(NEWEST_RECORDS),
            )
            .unwrap();
        assert_eq!(state.time_ms(), expected);
    }
}

fn any_error() -> impl Strategy<Value = WorkError> {
    prop_oneof![
        2 => Just(FailureCause::Lost),
        2 => Just(FailureCause::Failed),
        1 => Just(FailureCause::Final)
    ]
    .prop_map(|cause| WorkError {
        message: "made up".to_owned(),
        cause,
    })
}

fn any_job() -> impl Strategy<Value = JobId> {
    (1u64..4).prop_map(JobId)
}

fn any_demand() -> impl Strategy<Value = DemandId> {
    (1u32..4).prop_map(DemandId)
}

fn any_result() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

/// Any command about a gang.
fn any_gang_command() -> impl Strategy<Value = Command> {
    let number = (0u32..4).prop_map(RosterNumber);
    let result = prop_oneof![any_result(), Just(trained(b""))];
    let causes = prop_oneof![Just(None), any_error().prop_map(|error| Some(error.cause))];
    let other = (0u32..3, 0usize..6, 0u64..9, causes, any_error(), result);
    let what = (0u8..5, any_job(), any_demand(), number, other);
    what.prop_map(|(kind, job, demand, number, other)| {
        let (rank, members, step, cause, error, result) = other;
        let rank = Rank(rank);
        match kind {
            0 => Command::CommitRoster {
                job,
                demand,
                number,
                members: vec![member("a"); members],
                secret: [1; 32],
            },
            1 => Command::BreakRoster {
                job,
                demand,
                number,
                reason: "made up".to_owned(),
                cause,
            },
            2 => Command::RankFailed {
                job,
                demand,
                number,
                rank,
                error,
            },
            3 => Command::RankFinished {
                job,
                demand,
                number,
                rank,
                result,
            },
            _ => Command::Checkpoint {
                job,
                demand,
                number,
                checkpoint: Checkpoint {
                    step: Step(step),
                    digest: Digest::of(b"made up"),
                },
            },
        }
    })
}

/// Any command at all, aimed at the jobs that may exist.
fn any_command() -> impl Strategy<Value = Command> {
    let outcome = (
        0u32..20,
        1u32..4,
        prop_oneof![any_result().prop_map(Ok), any_error().prop_map(Err)],
    )
        .prop_map(|(index, attempt, outcome)| ItemReport {
            index: ItemIndex(index),
            attempt: Attempt(attempt),
            outcome,
        });
    let outcomes = proptest::collection::vec(outcome, 0..6);
    prop_oneof![
        5 => any_gang_command(),
        1 => (0u8..4).prop_map(submission),
        1 => any_job().prop_map(|job| Command::Cancel { job }),
        1 => any::<[u8; 32]>().prop_map(|key| Command::SetLeaseKey { key }),
        1 => (any_job(), "[ab]").prop_map(|(job, class)| Command::AssignClass {
            job,
            class: NumericsClass(class)
        }),
        1 => (any_job(), any_demand(), outcomes).prop_map(|(job, demand, outcomes)| {
            Command::Record {
                job,
                demand,
                outcomes,
            }
        }),
        1 => Just(Command::BlobStored {
            digest: Digest::of(b"made up")
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    // Claim (STATE-1): no sequence of commands panics; applying it twice, or a snapshot and the
    // rest, gives the same state, hash and effects.
    // Method: random commands in random batches.
    #[test]
    fn any_commands(
        batches in proptest::collection::vec(proptest::collection::vec(any_command(), 1..4), 1..30),
        cut in 0usize..30,
    ) {
        let mut log = Log::default();
        log.apply(vec![submission(0), submission(1)]);
        let mut effects = vec![];
        for batch in batches {
            let commands = batch.len();
            let applied = log.apply(batch);
            prop_assert_eq!(applied.outcomes.len(), commands);
            effects.push(applied);
        }
        let mut replayed = State::default();
        for (entry, index) in log.entries.iter().zip(1..) {
            if index as usize == cut {
                let bytes = replayed.encode();
                replayed = State::decode(&bytes).unwrap();
                prop_assert_eq!(replayed.encode(), bytes);
            }
            let applied = replayed.apply(index, entry).unwrap();
            if index > 1 {
                prop_assert_eq!(&applied, &effects[index as usize - 2]);
            }
        }
        prop_assert_eq!(replayed.hash(), log.state.hash());
        prop_assert_eq!(replayed.full_hash(), log.state.full_hash());
    }

    // Claim: no bytes make the decoders panic.
    // Method: random bytes, and random damage to a real entry and a real state.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), place in any::<prop::sample::Index>(), value in any::<u8>()) {
        let _ = Batch::decode(&bytes, NEWEST_RECORDS);
        let _ = State::decode(&bytes);
        let mut entry = Batch { time_ms: 1, commands: vec![submission(1)] }.encode(NEWEST_RECORDS);
        let position = place.index(entry.len());
        entry[position] = value;
        let _ = Batch::decode(&entry, NEWEST_RECORDS);
    }
}

fn labelled(value: &str, request: u8) -> Command {
    Command::LabelOnce {
        job: JOB_1,
        key: "note".to_owned(),
        value: value.to_owned(),
        request: RequestKey([request; 16]),
    }
}

// Claim: a copy of a request that labels a job changes nothing when it comes after another request, and
// what is remembered of requests is bounded.
// Method: two requests and the first once more; then as many others as are remembered, and it again.
#[test]
fn late_copies_of_labels() {
    let mut log = Log::default();
    log.one(submission(1));
    let label = |log: &Log| log.state.jobs()[&JOB_1].labels["note"].clone();
    for (value, request) in [("old", 1), ("new", 2), ("old", 1)] {
        let applied = log.one(labelled(value, request));
        assert_eq!(applied.outcomes, [Outcome::Done]);
    }
    assert_eq!(label(&log), "new");
    for request in 0..LABEL_REQUESTS {
        log.one(labelled("other", 100 + request as u8));
    }
    log.one(labelled("old", 1));
    assert_eq!(label(&log), "old");
}

// Claim: a state is written as every member can read it: without the keys of requests while an older
// version of the records is in force, with them afterwards; and a state has one encoding.
// Method: states of both versions, there and back; each with the other's version in front.
#[test]
fn two_encodings() {
    for (version, encoding) in [(3, 3), (4, 4)] {
        let mut log = Log::default();
        log.state.hold_version(version);
        log.one(submission(1));
        log.one(labelled("value", 1).as_of(version));
        assert_eq!(log.state.jobs()[&JOB_1].labels["note"], "value");
        let bytes = log.state.encode();
        assert_eq!(bytes[4..6], u16::to_le_bytes(encoding));
        let mut decoded = State::decode(&bytes).unwrap();
        decoded.hold_version(version);
        assert_eq!(decoded, log.state);
        for other in (2..=5).filter(|other| *other != encoding) {
            let mut wrong = bytes.clone();
            wrong[4..6].copy_from_slice(&u16::to_le_bytes(other));
            assert!(State::decode(&wrong).is_err(), "{other} for {encoding}");
        }
    }
}
