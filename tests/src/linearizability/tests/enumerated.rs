//! Small histories, judged by trying everything.

use super::*;
use crate::linearizability::{JobInput, JobModel, JobOutput, JobStatus};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;
use std::collections::BTreeSet;

/// What was asked and answered, the time of the call and, if there was an answer, its time.
type Line<I, O> = (I, Option<O>, u64, u64);

/// What one copy could do next, written without [`Model`]: all states that may follow.
type Next<S, I, O> = fn(S, &I, Option<&O>) -> Vec<S>;

/// How many more answered operations some right order holds, with any unanswered ones between.
fn most_placed<S: Copy, I, O>(
    lines: &[Line<I, O>],
    placed: u32,
    state: S,
    next: Next<S, I, O>,
) -> usize {
    let left = lines.iter().enumerate();
    let left = left.filter(|(index, _)| placed & (1 << index) == 0);
    let answers = left.clone().filter(|(_, line)| line.1.is_some());
    let count = answers.clone().count();
    let mut most = 0;
    for (index, (input, output, called, _)) in left {
        let is_late = answers
            .clone()
            .any(|(_, (_, _, _, answered))| answered < called);
        if is_late || most == count {
            continue;
        }
        for state in next(state, input, output.as_ref()) {
            let more = most_placed(lines, placed | 1 << index, state, next);
            most = most.max(usize::from(output.is_some()) + more);
        }
    }
    most
}

fn register_next(state: u64, input: &RegisterInput, output: Option<&RegisterOutput>) -> Vec<u64> {
    let (after, answer) = match *input {
        RegisterInput::Write(value) => (value, RegisterOutput::Written),
        RegisterInput::Read => (state, RegisterOutput::Read(state)),
        RegisterInput::Cas(from, to) if from == state => (to, RegisterOutput::Cas(true)),
        RegisterInput::Cas(..) => (state, RegisterOutput::Cas(false)),
    };
    let is_right = output.is_none_or(|output| *output == answer);
    is_right.then_some(after).into_iter().collect()
}

/// A key's job, if there is one, and its status, which is never absent.
type Job = Option<(u64, JobStatus)>;

/// Jobs that histories speak of.
const JOBS: [u64; 2] = [1, 2];

fn job_next(state: Job, input: &JobInput, output: Option<&JobOutput>) -> Vec<Job> {
    let mut states = vec![state];
    if let Some((job, JobStatus::Active)) = state {
        // It may end by itself just before.
        states.extend([JobStatus::Finished, JobStatus::Failed].map(|end| Some((job, end))));
    }
    let mut after = Vec::new();
    for state in states {
        let answers: Vec<(Job, JobOutput)> = match (*input, state) {
            (JobInput::Submit, None) => {
                let made = |job| {
                    let already_known = false;
                    let output = JobOutput::Submitted { job, already_known };
                    (Some((job, JobStatus::Active)), output)
                };
                JOBS.map(made).to_vec()
            }
            (JobInput::Submit, Some((job, _))) => {
                let already_known = true;
                vec![(state, JobOutput::Submitted { job, already_known })]
            }
            (JobInput::Cancel, Some((job, JobStatus::Active | JobStatus::Cancelled))) => {
                vec![(Some((job, JobStatus::Cancelled)), JobOutput::Cancelled)]
            }
            (JobInput::Cancel, _) => vec![(state, JobOutput::CancelRefused)],
            (JobInput::Show, None) => vec![(state, JobOutput::Shown(JobStatus::Absent))],
            (JobInput::Show, Some((_, status))) => vec![(state, JobOutput::Shown(status))],
        };
        let right = answers
            .into_iter()
            .filter(|(_, answer)| output.is_none_or(|output| output == answer));
        after.extend(right.map(|(state, _)| state));
    }
    after
}

fn any_register() -> impl Strategy<Value = (RegisterInput, RegisterOutput)> {
    let value = || 0..3u64;
    prop_oneof![
        value().prop_map(|value| (RegisterInput::Write(value), RegisterOutput::Written)),
        value().prop_map(|value| (RegisterInput::Read, RegisterOutput::Read(value))),
        (value(), value(), any::<bool>()).prop_map(|(from, to, is_set)| (
            RegisterInput::Cas(from, to),
            RegisterOutput::Cas(is_set)
        )),
    ]
}

fn any_job() -> impl Strategy<Value = (JobInput, JobOutput)> {
    let status = prop::sample::select(vec![
        JobStatus::Absent,
        JobStatus::Active,
        JobStatus::Active,
        JobStatus::Cancelled,
        JobStatus::Finished,
        JobStatus::Failed,
    ]);
    let submit = |(job, already_known)| {
        let output = JobOutput::Submitted { job, already_known };
        (JobInput::Submit, output)
    };
    // The second job is rare, as everything about it is wrong beside the first.
    let job = prop::sample::select(vec![JOBS[0], JOBS[0], JOBS[0], JOBS[1]]);
    let cancel = prop::sample::select(vec![JobOutput::Cancelled, JobOutput::CancelRefused]);
    prop_oneof![
        (job, any::<bool>()).prop_map(submit),
        cancel.prop_map(|output| (JobInput::Cancel, output)),
        status.prop_map(|status| (JobInput::Show, JobOutput::Shown(status))),
    ]
}

/// Up to six operations within a dozen instants, every fourth without an answer.
fn any_lines<I, O, S>(operation: impl Fn() -> S) -> impl Strategy<Value = Vec<Line<I, O>>>
where
    I: std::fmt::Debug,
    O: std::fmt::Debug,
    S: Strategy<Value = (I, O)>,
{
    let line = (operation(), prop::bool::weighted(0.75), 0..12u64, 0..8u64);
    let line = line.prop_map(|((input, output), is_answered, called, took)| {
        let output = is_answered.then_some(output);
        (input, output, called, called + took)
    });
    prop::collection::vec(line, 1..=6)
}

/// Compares the checker with [`most_placed`]; both verdicts must be common.
fn agree<M, S>(
    model: &M,
    lines: impl Strategy<Value = Vec<Line<M::Input, M::Output>>>,
    initial: S,
    next: Next<S, M::Input, M::Output>,
) where
    M: Model<Input: Clone, Output: Clone>,
    S: Copy,
{
    const CASES: u32 = 6000;
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    });
    let (right, wrong) = (Cell::new(0u32), Cell::new(0u32));
    let result = runner.run(&lines, |lines| {
        let answered = lines.iter().filter(|line| line.1.is_some()).count();
        let most = most_placed(&lines, 0, initial, next);
        let count = if most == answered { &right } else { &wrong };
        count.set(count.get() + 1);
        let verdict = check(&history::<M>(lines.clone()), model, STEPS);
        prop_assert_eq!(verdict.is_linearizable(), most == answered, "{}", verdict);
        if let Verdict::NotLinearizable { prefix, stuck, .. } = &verdict {
            let is_answered = |line: &&String| lines[client(line) as usize].1.is_some();
            let placed = prefix.iter().filter(is_answered).count();
            prop_assert_eq!(placed, most, "{}", verdict);
            prop_assert!(!stuck.is_empty());
            let names: BTreeSet<u64> = prefix
                .iter()
                .chain(stuck)
                .map(|line| client(line))
                .collect();
            prop_assert_eq!(names.len(), prefix.len() + stuck.len(), "{}", verdict);
        } else {
            prop_assert_eq!(&verdict, &Verdict::Linearizable);
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let rarer = right.get().min(wrong.get());
    assert!(
        rarer >= CASES / 10,
        "{} right, {} wrong",
        right.get(),
        wrong.get()
    );
}

/// Claim: the checker finds an order of a register's operations exactly if there is one, and if
/// not, the longest part of one.
/// Method: thousands of small histories against plain enumeration.
#[test]
fn registers_agree_with_enumeration() {
    agree(&Register, any_lines(any_register), 0, register_next);
}

/// Claim: the same of jobs, so what [`JobModel`] keeps is exactly what may be true.
/// Method: enumeration knows a job's status and lets it end whenever it likes.
#[test]
fn jobs_agree_with_enumeration() {
    agree(&JobModel::default(), any_lines(any_job), None, job_next);
}
