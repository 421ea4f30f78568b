//! Entries of the log, and states that they lead to.

use super::Seed;
use super::parts::{checkpoint, class, work_error, worker};
use crate::fuzz::driver::JOB;
use evoring_coordinator::state::{
    Admission, Batch, Command, ItemReport, NEWEST_RECORDS, State, Submission,
};
use evoring_jobs::spec;
use evoring_protocol::peer::GroupId;
use evoring_protocol::work::{FailureCause, Member};
use evoring_protocol::{
    Attempt, DemandId, Digest, ItemIndex, JobId, Rank, RequestKey, RosterNumber, SlotIndex,
    SubmissionKey,
};

const JOB_ID: JobId = JobId(1);

fn commands() -> Vec<Command> {
    [job_begins(), work_is_done(), group_changes()].concat()
}

fn job_begins() -> Vec<Command> {
    let spec = spec::parse("job.toml", JOB).expect("the job is valid");
    let submission = Submission {
        key: SubmissionKey([0xee; 16]),
        name: spec.name,
        kind: spec.kind,
        min_ranks: spec.min_ranks,
        driver: spec.driver,
    };
    let admission = Admission {
        host: "host".to_owned(),
        slots: 2,
        numerics: class(),
    };
    vec![
        Command::SetLeaseKey { key: [0x11; 32] },
        Command::AdmitWorker {
            worker: worker(),
            admission,
        },
        Command::Submit(Box::new(submission)),
        Command::AssignClass {
            job: JOB_ID,
            class: class(),
        },
    ]
}

fn work_is_done() -> Vec<Command> {
    let (job, demand, number) = (JOB_ID, DemandId(1), RosterNumber(1));
    let report = |index, outcome| ItemReport {
        index: ItemIndex(index),
        attempt: Attempt(1),
        outcome,
    };
    vec![
        Command::CommitRoster {
            job,
            demand,
            number,
            members: vec![Member {
                worker: worker(),
                slot: SlotIndex(0),
            }],
            secret: [0x55; 32],
        },
        Command::Checkpoint {
            job,
            demand,
            number,
            checkpoint: checkpoint(),
        },
        Command::Record {
            job,
            demand,
            outcomes: vec![report(0, Ok(vec![1])), report(1, Err(work_error()))],
        },
        Command::RankFailed {
            job,
            demand,
            number,
            rank: Rank(0),
            error: work_error(),
        },
        Command::RankFinished {
            job,
            demand,
            number,
            rank: Rank(0),
            result: vec![1, 2],
        },
        Command::BreakRoster {
            job,
            demand,
            number,
            reason: "w-1 is lost".to_owned(),
            cause: Some(FailureCause::Lost),
        },
        Command::BlobStored {
            digest: Digest([0xdd; 32]),
        },
    ]
}

/// The end of the job, and what is about the coordinators.
fn group_changes() -> Vec<Command> {
    let job = JOB_ID;
    vec![
        Command::Cancel { job },
        Command::AddMember {
            name: "c2".to_owned(),
            address: "127.0.0.1:7001".to_owned(),
        },
        Command::MemberJoined { id: 2 },
        Command::RaiseVersion {
            version: NEWEST_RECORDS,
        },
        Command::Label {
            job,
            key: "team".to_owned(),
            value: "vision".to_owned(),
        },
        Command::LabelOnce {
            job,
            key: "team".to_owned(),
            value: "vision".to_owned(),
            request: RequestKey([0xee; 16]),
        },
        Command::RemoveMember { id: 2 },
    ]
}

pub fn batches() -> Vec<Seed> {
    let batch = |commands| {
        Batch {
            time_ms: 1_800_000_000_000,
            commands,
        }
        .encode(NEWEST_RECORDS)
    };
    let [first, second] = [5, 0].map(|from| batch(commands().split_off(from)));
    vec![("late", first), ("all", second)]
}

pub fn states() -> Vec<Seed> {
    let group = GroupId([0xbb; 16]);
    let mut state = State::of_new_group(group, "c1".to_owned(), "127.0.0.1:7000".to_owned());
    let empty = state.encode();
    let mut commands = commands();
    commands.pop();
    let group = commands.split_off(commands.len() - 4);
    for (index, command) in (1..).zip(commands.into_iter().take(6).chain(group)) {
        let batch = Batch {
            time_ms: 1_800_000_000_000,
            commands: vec![command],
        };
        let entry = batch.encode(NEWEST_RECORDS);
        state.apply(index, &entry).expect("a seed applies");
    }
    vec![("empty", empty), ("gang", state.encode())]
}
