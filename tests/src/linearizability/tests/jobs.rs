//! Jobs, by hand.

use super::*;
use crate::linearizability::{JobInput, JobModel, JobOutput, JobStatus};

type Line = (JobInput, Option<JobOutput>, u64, u64);

/// One after the other, two instants each.
fn in_turn(operations: &[(JobInput, Option<JobOutput>)]) -> HistoryOf<JobModel> {
    let lines = operations.iter().zip(0u64..);
    history::<JobModel>(
        lines.map(|(&(input, output), turn)| (input, output, 2 * turn, 2 * turn + 1)),
    )
}

fn submitted(job: u64, already_known: bool) -> (JobInput, Option<JobOutput>) {
    let output = JobOutput::Submitted { job, already_known };
    (JobInput::Submit, Some(output))
}

fn shown(status: JobStatus) -> (JobInput, Option<JobOutput>) {
    (JobInput::Show, Some(JobOutput::Shown(status)))
}

const CANCELLED: (JobInput, Option<JobOutput>) = (JobInput::Cancel, Some(JobOutput::Cancelled));
const REFUSED: (JobInput, Option<JobOutput>) = (JobInput::Cancel, Some(JobOutput::CancelRefused));

#[track_caller]
fn accepted(operations: &[(JobInput, Option<JobOutput>)]) {
    let verdict = check(&in_turn(operations), &JobModel::default(), STEPS);
    assert_eq!(verdict, Verdict::Linearizable, "{verdict}");
}

/// Asserts that exactly the last operation is one too many.
#[track_caller]
fn refused_at_last(operations: &[(JobInput, Option<JobOutput>)]) {
    let verdict = check(&in_turn(operations), &JobModel::default(), STEPS);
    let last = operations.len() as u64 - 1;
    let Verdict::NotLinearizable { stuck, .. } = &verdict else {
        panic!("expected a refusal, got: {verdict}");
    };
    assert_eq!(stuck.len(), 1, "{verdict}");
    assert_eq!(client(&stuck[0]), last, "{verdict}");
}

/// Claim: the lives that a job may have are accepted.
/// Method: cancelled, and cancelled again by somebody who did not hear; finished and failed by
/// itself, seen by a show, or first by a refused cancel.
#[test]
fn lives_of_jobs() {
    accepted(&[
        shown(JobStatus::Absent),
        REFUSED,
        submitted(7, false),
        submitted(7, true),
        shown(JobStatus::Active),
        CANCELLED,
        CANCELLED,
        submitted(7, true),
        shown(JobStatus::Cancelled),
    ]);
    for end in [JobStatus::Finished, JobStatus::Failed] {
        accepted(&[submitted(7, false), shown(end), REFUSED, shown(end)]);
        accepted(&[submitted(7, false), REFUSED, submitted(7, true), shown(end)]);
    }
}

/// Claim: one key means one job, whatever becomes of it.
/// Method: another number, a second first submission, both after a cancellation; two that overlap
/// and both made a job.
#[test]
fn two_jobs_for_one_key_are_refused() {
    refused_at_last(&[submitted(7, false), submitted(8, true)]);
    refused_at_last(&[submitted(7, false), submitted(7, false)]);
    refused_at_last(&[
        submitted(7, false),
        CANCELLED,
        submitted(7, true),
        submitted(8, false),
    ]);
    let make = |job| -> Line {
        let (input, output) = submitted(job, false);
        (input, output, 0, 10 + job)
    };
    let both = history::<JobModel>([make(7), make(8)]);
    refused(&check(&both, &JobModel::default(), STEPS), &[0], &[1]);
}

/// Claim: a job that ended does not come back, nor end in another way.
/// Method: after cancelled, finished, failed, and ended by itself unseen: all that would say so.
#[test]
fn jobs_do_not_come_back_to_life() {
    let ends = [
        (CANCELLED, Some(JobStatus::Cancelled)),
        (shown(JobStatus::Finished), Some(JobStatus::Finished)),
        (shown(JobStatus::Failed), Some(JobStatus::Failed)),
        (REFUSED, None),
    ];
    for (end, status) in ends {
        let start = [submitted(7, false), end];
        let with = |next| [start.as_slice(), &[next]].concat();
        refused_at_last(&with(shown(JobStatus::Active)));
        refused_at_last(&with(shown(JobStatus::Absent)));
        refused_at_last(&with(submitted(7, false)));
        let is_cancelled = status == Some(JobStatus::Cancelled);
        refused_at_last(&with(if is_cancelled { REFUSED } else { CANCELLED }));
        for other in [JobStatus::Cancelled, JobStatus::Finished, JobStatus::Failed] {
            match status {
                Some(status) if status != other => refused_at_last(&with(shown(other))),
                None if other == JobStatus::Cancelled => refused_at_last(&with(shown(other))),
                _ => accepted(&with(shown(other))),
            }
        }
    }
}

/// Claim: there is no job that nobody submitted.
/// Method: each answer that speaks of one, before any submission and after one that failed.
#[test]
fn phantom_jobs_are_refused() {
    refused_at_last(&[shown(JobStatus::Active)]);
    refused_at_last(&[shown(JobStatus::Finished)]);
    refused_at_last(&[CANCELLED]);
    refused_at_last(&[submitted(7, true)]);
    let mut history = HistoryOf::<JobModel>::new();
    let submit = history.invoke(1, KEY, JobInput::Submit, 0);
    history.failed(submit);
    let show = history.invoke(2, KEY, JobInput::Show, 1);
    history.complete(show, JobOutput::Shown(JobStatus::Active), 2);
    refused(&check(&history, &JobModel::default(), STEPS), &[], &[2]);
}

/// Claim: an acknowledged job is not lost.
/// Method: absent after the answer; absent before it, though asked later, is right.
#[test]
fn lost_jobs_are_refused() {
    refused_at_last(&[submitted(7, false), shown(JobStatus::Absent)]);
    let (input, output) = submitted(7, false);
    let (show, absent) = shown(JobStatus::Absent);
    let early = history::<JobModel>([(input, output, 0, 10), (show, absent, 3, 5)]);
    assert!(check(&early, &JobModel::default(), STEPS).is_linearizable());
}

/// Claim: submissions and cancellations that timed out may take effect late, once, or never.
/// Method: a job that appears, and one that is cancelled, long after nobody waits; the number
/// that is told first holds; one that took effect does not take effect again.
#[test]
fn unanswered_operations_take_effect_late() {
    let submit = (JobInput::Submit, None);
    let cancel = (JobInput::Cancel, None);
    let active = shown(JobStatus::Active);
    let cancelled = shown(JobStatus::Cancelled);
    accepted(&[submit, shown(JobStatus::Absent), shown(JobStatus::Absent)]);
    accepted(&[submit, shown(JobStatus::Absent), active, submitted(7, true)]);
    accepted(&[submit, shown(JobStatus::Absent), submitted(7, false)]);
    refused_at_last(&[submit, active, submitted(7, false)]);
    refused_at_last(&[submit, submitted(7, true), submitted(8, true)]);
    accepted(&[submitted(7, false), cancel, active, cancelled]);
    accepted(&[
        submitted(7, false),
        cancel,
        active,
        shown(JobStatus::Finished),
    ]);
    refused_at_last(&[submitted(7, false), cancel, cancelled, active]);
    // Called before the submission, and executed after it.
    accepted(&[cancel, submitted(7, false), active, cancelled]);
    refused_at_last(&[submitted(7, false), active, cancelled]);
}

/// Claim: where clients send again within one operation, the first answer may be that the job is
/// known; nothing else is allowed thereby.
/// Method: the same histories with and without.
#[test]
fn clients_that_send_again() {
    let model = JobModel {
        clients_resend: true,
    };
    let known = [submitted(7, true), submitted(7, true)];
    assert!(check(&in_turn(&known), &model, STEPS).is_linearizable());
    refused_at_last(&known[..1]);
    let made = [submitted(7, true), submitted(7, false)];
    refused(&check(&in_turn(&made), &model, STEPS), &[0], &[1]);
    let other = [submitted(7, true), submitted(8, true)];
    refused(&check(&in_turn(&other), &model, STEPS), &[0], &[1]);
}
