//! Messages between agent and coordinator.

use super::Seed;
use super::parts::{
    assignment, bodies, checkpoint, class, held, leader, lease, outcomes, progress, worker,
};
use evoring_protocol::work::{Member, Roster};
use evoring_protocol::worker::{Hello, Ran, RankEvent, WorkerCommand, WorkerReport};
use evoring_protocol::{ErrorCode, JobId, RemoteError, RosterNumber, SlotIndex, Term};

pub fn worker_reports() -> Vec<Seed> {
    let hello = Hello {
        build: "0.1.0".to_owned(),
        worker: worker(),
        incarnation: u64::MAX,
        process: 4_321,
        host: "host".to_owned(),
        slots: 4,
        numerics: class(),
        metrics: Some(([127, 0, 0, 1], 9_000).into()),
        leases: vec![lease()],
        ranks: vec![held()],
    };
    bodies([
        ("hello", WorkerReport::Hello(hello)),
        (
            "heartbeat",
            WorkerReport::Heartbeat {
                executors: vec![1, 2],
            },
        ),
        (
            "results",
            WorkerReport::Results {
                sequence: 9,
                lease: lease(),
                outcomes: outcomes(),
            },
        ),
        (
            "rank",
            WorkerReport::Rank {
                sequence: 9,
                held: held(),
                event: RankEvent::Checkpointed(checkpoint()),
            },
        ),
        (
            "progress",
            WorkerReport::Progress {
                held: held(),
                progress: progress(),
            },
        ),
        (
            "exited",
            WorkerReport::ExecutorExited {
                slot: SlotIndex(1),
                process: 2,
                status: "signal 9".to_owned(),
                last_lines: "killed\n".to_owned(),
                ran: Some(Ran::Rank(held())),
            },
        ),
        (
            "log",
            WorkerReport::Log {
                job: JobId(1),
                lines: vec!["a".to_owned(), "b".to_owned()],
            },
        ),
    ])
}

pub fn worker_commands() -> Vec<Seed> {
    let roster = Roster {
        number: RosterNumber(3),
        members: vec![Member {
            worker: worker(),
            slot: SlotIndex(0),
        }],
        secret: [0x55; 32],
        resume: Some(checkpoint()),
    };
    bodies([
        (
            "welcome",
            WorkerCommand::Welcome {
                term: Term(4),
                heartbeat_ms: 500,
                blobs: "file:///blobs".to_owned(),
                leases_to_keep: vec![(Term(4), 5)],
                ranks_to_keep: vec![held()],
            },
        ),
        (
            "refuse",
            WorkerCommand::Refuse(RemoteError::new(ErrorCode::VersionMismatch, "build")),
        ),
        (
            "grant",
            WorkerCommand::Grant {
                lease: lease(),
                assignment: assignment(),
                items: vec![vec![1], vec![2, 3]],
            },
        ),
        (
            "start",
            WorkerCommand::StartRank {
                held: held(),
                roster,
                assignment: assignment(),
            },
        ),
        (
            "stop",
            WorkerCommand::StopLease {
                term: Term(4),
                number: 5,
            },
        ),
        (
            "elsewhere",
            WorkerCommand::NotLeader {
                leader: Some(leader()),
            },
        ),
    ])
}
