//! Messages between agent and executor.

use super::Seed;
use super::parts::{assignment, bodies, class, outcomes, progress, work_error};
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::{ItemIndex, Rank, Step};

pub fn executor_commands() -> Vec<Seed> {
    bodies([
        (
            "items",
            ExecutorCommand::RunItems {
                task: 1,
                assignment: assignment(),
                inputs: vec!["/cache/a".into()],
                items: vec![(ItemIndex(7), vec![1]), (ItemIndex(8), vec![2, 3])],
            },
        ),
        (
            "rank",
            ExecutorCommand::RunRank {
                task: 1,
                assignment: assignment(),
                inputs: vec!["/cache/a".into()],
                rank: Rank(1),
                world_size: 2,
                secret: [0x55; 32],
                resume: Some((Step(1_000), "/cache/b".into())),
            },
        ),
        ("stop", ExecutorCommand::Stop { task: 1 }),
    ])
}

pub fn executor_reports() -> Vec<Seed> {
    bodies([
        ("ready", ExecutorReport::Ready { numerics: class() }),
        (
            "items",
            ExecutorReport::Items {
                task: 1,
                outcomes: outcomes(),
            },
        ),
        (
            "progress",
            ExecutorReport::Progress {
                task: 1,
                progress: progress(),
            },
        ),
        (
            "checkpoint",
            ExecutorReport::Checkpoint {
                task: 1,
                step: Step(9),
                path: "/c".into(),
            },
        ),
        (
            "finished",
            ExecutorReport::RankFinished {
                task: 1,
                result: vec![1],
                blobs: vec!["/b".into()],
            },
        ),
        (
            "failed",
            ExecutorReport::RankFailed {
                task: 1,
                error: work_error(),
            },
        ),
        (
            "log",
            ExecutorReport::Log {
                task: 1,
                line: "line".to_owned(),
            },
        ),
    ])
}
