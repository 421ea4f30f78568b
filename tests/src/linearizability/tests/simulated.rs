//! Longer histories of a simulated register or job, right or changed in one answer.

use super::*;
use crate::linearizability::{JobInput, JobModel, JobOutput, JobStatus};
use crate::random::SplitMix;
use proptest::prelude::*;

/// How large a history is and how often it goes wrong.
#[derive(Debug, Clone, Copy)]
struct Size {
    clients: u64,
    operations: usize,
    /// One in how many operations is not answered.
    unanswered: u64,
}

/// A call that takes effect at `effect`, if ever.
struct Call<I> {
    client: u64,
    input: I,
    called: u64,
    answered: u64,
    is_answered: bool,
    effect: Option<u64>,
}

fn calls<I>(random: &mut SplitMix, size: Size, input: impl Fn(&mut SplitMix) -> I) -> Vec<Call<I>> {
    let mut free: Vec<u64> = (0..size.clients).map(|_| random.below(100)).collect();
    let mut calls = Vec::with_capacity(size.operations);
    for _ in 0..size.operations {
        let earliest = (0..free.len()).min_by_key(|&client| free[client]);
        let client = earliest.expect("a client");
        let called = free[client];
        let answered = called + 20 + random.below(200);
        let is_answered = random.below(size.unanswered) != 0;
        let effect = match (is_answered, random.below(4)) {
            (true, _) => Some(called + random.below(answered - called + 1)),
            (false, 0) => None,
            (false, _) => Some(called + random.below(4000)),
        };
        free[client] = answered + 1 + random.below(10);
        calls.push(Call {
            client: client as u64,
            input: input(random),
            called,
            answered,
            is_answered,
            effect,
        });
    }
    calls
}

/// Adds what `apply` answers, each call at its instant, to `history`.
fn execute<I: Copy, O>(
    history: &mut History<u64, I, O>,
    key: u64,
    calls: &[Call<I>],
    mut apply: impl FnMut(I) -> O,
) {
    let mut order: Vec<usize> = (0..calls.len()).collect();
    order.sort_by_key(|&index| calls[index].effect);
    let mut outputs: Vec<Option<O>> = calls.iter().map(|_| None).collect();
    for index in order {
        if calls[index].effect.is_some() {
            outputs[index] = Some(apply(calls[index].input));
        }
    }
    for (call, output) in calls.iter().zip(outputs) {
        let handle = history.invoke(call.client, key, call.input, call.called);
        match output {
            Some(output) if call.is_answered => history.complete(handle, output, call.answered),
            _ => history.unknown(handle),
        }
    }
}

fn add_register(
    history: &mut HistoryOf<Register>,
    key: u64,
    random: &mut SplitMix,
    size: Size,
    values: u64,
) {
    let calls = calls(random, size, |random| match random.below(4) {
        0 => RegisterInput::Write(random.below(values)),
        1 => RegisterInput::Cas(random.below(values), random.below(values)),
        _ => RegisterInput::Read,
    });
    let mut state = 0;
    execute(history, key, &calls, |input| match input {
        RegisterInput::Write(value) => {
            state = value;
            RegisterOutput::Written
        }
        RegisterInput::Read => RegisterOutput::Read(state),
        RegisterInput::Cas(from, to) => {
            let is_set = from == state;
            if is_set {
                state = to;
            }
            RegisterOutput::Cas(is_set)
        }
    });
}

fn add_job(history: &mut HistoryOf<JobModel>, key: u64, random: &mut SplitMix, size: Size) {
    let calls = calls(random, size, |random| match random.below(12) {
        0..4 => JobInput::Submit,
        4 => JobInput::Cancel,
        _ => JobInput::Show,
    });
    let job = key + 1;
    let mut status = JobStatus::Absent;
    execute(history, key, &calls, |input| {
        if status == JobStatus::Active && random.below(40) == 0 {
            status = [JobStatus::Finished, JobStatus::Failed][random.below(2) as usize];
        }
        match (input, status) {
            (JobInput::Submit, _) => {
                let already_known = status != JobStatus::Absent;
                if !already_known {
                    status = JobStatus::Active;
                }
                JobOutput::Submitted { job, already_known }
            }
            (JobInput::Cancel, JobStatus::Active | JobStatus::Cancelled) => {
                status = JobStatus::Cancelled;
                JobOutput::Cancelled
            }
            (JobInput::Cancel, _) => JobOutput::CancelRefused,
            (JobInput::Show, _) => JobOutput::Shown(status),
        }
    });
}

/// A model that claims of no operation that it only looks.
struct Plain<M>(M);

impl<M: Model> Model for Plain<M> {
    type State = M::State;
    type Input = M::Input;
    type Output = M::Output;

    fn initial(&self) -> M::State {
        self.0.initial()
    }

    fn step(&self, state: &M::State, input: &M::Input, output: &M::Output) -> Option<M::State> {
        self.0.step(state, input, output)
    }

    fn step_unknown(&self, state: &M::State, input: &M::Input) -> Option<M::State> {
        self.0.step_unknown(state, input)
    }
}

/// Claim: histories as they come, some thousand operations on many keys with sixteen clients
/// each, are judged in a few steps for each operation, and unanswered operations do not change
/// that; one wrong answer among them is found.
/// Method: registers and jobs, simulated; then a read of a value that nobody wrote, and a job that
/// vanishes.
#[test]
fn large_histories_are_judged() {
    for unanswered in [u64::MAX, 100, 20] {
        let mut random = SplitMix(7);
        let size = Size {
            clients: 16,
            operations: 300,
            unanswered,
        };
        let mut registers = HistoryOf::<Register>::new();
        let mut jobs = HistoryOf::<JobModel>::new();
        for key in 0..20 {
            add_register(&mut registers, key, &mut random, size, 5);
            add_job(&mut jobs, key, &mut random, size);
        }
        let (register, job) = (Register, JobModel::default());
        assert_eq!(check(&registers, &register, STEPS), Verdict::Linearizable);
        assert_eq!(check(&jobs, &job, STEPS), Verdict::Linearizable);

        let read = registers.invoke(99, 13, RegisterInput::Read, 500);
        registers.complete(read, RegisterOutput::Read(77), 501);
        let verdict = check(&registers, &register, STEPS);
        assert!(
            matches!(verdict, Verdict::NotLinearizable { key: 13, .. }),
            "{verdict}"
        );
        let show = jobs.invoke(99, 13, JobInput::Show, 1_000_000);
        jobs.complete(show, JobOutput::Shown(JobStatus::Absent), 1_000_001);
        let verdict = check(&jobs, &job, STEPS);
        assert!(
            matches!(verdict, Verdict::NotLinearizable { key: 13, .. }),
            "{verdict}"
        );
    }
}

const STATUSES: [JobStatus; 5] = [
    JobStatus::Absent,
    JobStatus::Active,
    JobStatus::Cancelled,
    JobStatus::Finished,
    JobStatus::Failed,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Claim: simulated histories are right, and placing observations early changes no verdict.
    /// Method: histories of forty operations of four clients, and the same with a read more whose
    /// answer may be wrong, judged with and without.
    #[test]
    fn observations_may_go_early(
        seed: u64,
        time in 0..1500u64,
        value in 0..3u64,
        status in prop::sample::select(STATUSES.to_vec()),
    ) {
        let mut random = SplitMix(seed);
        let size = Size { clients: 4, operations: 40, unanswered: 10 };
        let mut registers = HistoryOf::<Register>::new();
        add_register(&mut registers, KEY, &mut random, size, 3);
        prop_assert_eq!(check(&registers, &Register, STEPS), Verdict::Linearizable);
        let read = registers.invoke(99, KEY, RegisterInput::Read, time);
        registers.complete(read, RegisterOutput::Read(value), time + 1);
        let early = check(&registers, &Register, STEPS).is_linearizable();
        prop_assert_eq!(check(&registers, &Plain(Register), STEPS).is_linearizable(), early);

        let model = JobModel::default();
        let mut jobs = HistoryOf::<JobModel>::new();
        add_job(&mut jobs, KEY, &mut random, size);
        prop_assert_eq!(check(&jobs, &model, STEPS), Verdict::Linearizable);
        let show = jobs.invoke(99, KEY, JobInput::Show, time);
        jobs.complete(show, JobOutput::Shown(status), time + 1);
        let early = check(&jobs, &model, STEPS).is_linearizable();
        prop_assert_eq!(check(&jobs, &Plain(model), STEPS).is_linearizable(), early);
    }
}
