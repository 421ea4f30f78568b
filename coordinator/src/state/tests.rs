//! Commands in, effects out; whole jobs are in `leader/tests.rs`.

use super::*;
use crate::made_up::{JOB, compute, trained};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::{Checkpoint, Member, WorkError};
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
        .encode();
        self.entries.push(entry.clone());
        self.state.apply(self.entries.len() as u64, &entry).unwrap()
    }

    fn one(&mut self, command: Command) -> Applied {
        self.apply(vec![command])
    }
}

const JOB_1: JobId = JobId(1);
const GANG: DemandId = DemandId(1);

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

fn void(number: u32, is_failure: bool) -> Command {
    let reason = "lost".to_owned();
    Command::BreakRoster {
        job: JOB_1,
        demand: GANG,
        number: RosterNumber(number),
        reason,
        is_failure,
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
    assert!(log.one(void(3, true)).effects.is_empty());
    log.one(finished(1, 0, b"half of it"));
    assert_eq!(log.one(void(1, true)).effects.len(), 2);
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
// the count anew, and growing does not count.
// Method: break rosters, with and without checkpoints in between.
#[test]
fn gang_gives_up() {
    let mut log = Log::default();
    log.one(submission(1));
    let mut number = 0;
    let mut broken = |log: &mut Log, is_failure: bool| {
        number += 1;
        log.one(roster(number, &["a"]));
        log.one(checkpoint(
            number,
            if number <= 3 { u64::from(number) } else { 3 },
        ));
        log.one(void(number, is_failure));
        log.state.jobs()[&JOB_1].work().is_some()
    };
    for _ in 0..3 {
        assert!(broken(&mut log, true));
    }
    for _ in 0..20 {
        assert!(broken(&mut log, false));
    }
    for _ in 1..limits::ATTEMPTS - 1 {
        assert!(broken(&mut log, true));
    }
    assert!(!broken(&mut log, true));
    let Phase::Failed { error } = &log.state.jobs()[&JOB_1].phase else {
        panic!()
    };
    assert!(
        error.contains("without a new checkpoint") && error.contains("lost"),
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
            can_retry: true,
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
    assert_eq!(
        applied.effects[0],
        Effect::ItemsRecorded {
            job: JOB_1,
            demand,
            items: vec![ItemIndex(0)]
        }
    );
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
    .encode();
    assert!(Batch::decode(&entry).is_ok());
    let mut longer = entry.clone();
    longer.push(0);
    let mut newer = entry.clone();
    newer[0] += 1;
    for (wrong, reason) in [
        (&longer[..], "1 bytes left over"),
        (&newer[..], "version 2, expected 1"),
        (&entry[..2], "entry of 2 bytes"),
    ] {
        let error = Batch::decode(wrong).unwrap_err().to_string();
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
        (&newer[..], "version 2, expected 1"),
        (&other[..], "not a state of Evoring"),
        (&bytes[..3], "too short"),
        (&bytes[..bytes.len() - 1], "snapshot of"),
    ] {
        let error = State::decode(wrong).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
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
                .encode(),
            )
            .unwrap();
        assert_eq!(state.time_ms(), expected);
    }
}

fn any_error() -> impl Strategy<Value = WorkError> {
    any::<bool>().prop_map(|can_retry| WorkError {
        message: "made up".to_owned(),
        can_retry,
    })
}

/// Any command at all, aimed at the jobs that may exist.
fn any_command() -> impl Strategy<Value = Command> {
    let job = || (1u64..4).prop_map(JobId);
    let demand = || (1u32..4).prop_map(DemandId);
    let number = || (0u32..4).prop_map(RosterNumber);
    let rank = || (0u32..3).prop_map(Rank);
    let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
    let outcome = (
        0u32..20,
        1u32..4,
        prop_oneof![bytes().prop_map(Ok), any_error().prop_map(Err)],
    )
        .prop_map(|(index, attempt, outcome)| ItemReport {
            index: ItemIndex(index),
            attempt: Attempt(attempt),
            outcome,
        });
    prop_oneof![
        (0u8..4).prop_map(submission),
        job().prop_map(|job| Command::Cancel { job }),
        any::<[u8; 32]>().prop_map(|key| Command::SetLeaseKey { key }),
        (job(), "[ab]").prop_map(|(job, class)| Command::AssignClass {
            job,
            class: NumericsClass(class)
        }),
        (job(), demand(), proptest::collection::vec(outcome, 0..6)).prop_map(
            |(job, demand, outcomes)| Command::Record {
                job,
                demand,
                outcomes
            }
        ),
        (job(), demand(), number(), 0usize..6).prop_map(|(job, demand, number, count)| {
            Command::CommitRoster {
                job,
                demand,
                number,
                members: vec![member("a"); count],
                secret: [1; 32],
            }
        }),
        (job(), demand(), number(), any::<bool>()).prop_map(|(job, demand, number, is_failure)| {
            Command::BreakRoster {
                job,
                demand,
                number,
                reason: "made up".to_owned(),
                is_failure,
            }
        }),
        (job(), demand(), number(), rank(), any_error()).prop_map(
            |(job, demand, number, rank, error)| {
                Command::RankFailed {
                    job,
                    demand,
                    number,
                    rank,
                    error,
                }
            }
        ),
        (
            job(),
            demand(),
            number(),
            rank(),
            prop_oneof![bytes(), Just(trained(b""))]
        )
            .prop_map(
                |(job, demand, number, rank, result)| Command::RankFinished {
                    job,
                    demand,
                    number,
                    rank,
                    result
                }
            ),
        (job(), demand(), number(), 0u64..9).prop_map(|(job, demand, number, step)| {
            Command::Checkpoint {
                job,
                demand,
                number,
                checkpoint: Checkpoint {
                    step: Step(step),
                    digest: Digest::of(b"made up"),
                },
            }
        }),
        Just(Command::BlobStored {
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
        let _ = Batch::decode(&bytes);
        let _ = State::decode(&bytes);
        let mut entry = Batch { time_ms: 1, commands: vec![submission(1)] }.encode();
        let position = place.index(entry.len());
        entry[position] = value;
        let _ = Batch::decode(&entry);
    }
}
