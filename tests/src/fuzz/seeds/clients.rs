//! Messages between client and coordinator, and a stream of them.

use super::Seed;
use super::events::{all_events, summary};
use super::parts::{bodies, class, leader, progress, worker};
use super::peers::health;
use evoring_coordinator::state::NEWEST_RECORDS;
use evoring_protocol::client::{
    ClientReply, ClientRequest, ClusterView, CoordinatorView, EventsPlace, JobStatus, JobView,
    LogLine, MemberRole, MemberView, WorkerView,
};
use evoring_protocol::codec;
use evoring_protocol::peer::GroupId;
use evoring_protocol::{Digest, ErrorCode, JobId, RemoteError, RequestKey, SubmissionKey};

fn submit() -> ClientRequest {
    ClientRequest::Submit {
        key: SubmissionKey([0xee; 16]),
        file: "job.toml".to_owned(),
        text: "name = \"a\"\n".to_owned(),
        refuse_unless_fits: true,
    }
}

pub fn client_requests() -> Vec<Seed> {
    bodies([
        ("submit", submit()),
        (
            "logs",
            ClientRequest::Logs {
                job: JobId(300),
                follow: true,
            },
        ),
        (
            "events",
            ClientRequest::Events {
                from: 1 << 40,
                follow: false,
                of: Some(EventsPlace {
                    coordinator: "c1".to_owned(),
                    after: 300,
                }),
            },
        ),
        (
            "blob",
            ClientRequest::Blob {
                digest: Digest([0xdd; 32]),
            },
        ),
        (
            "label",
            ClientRequest::Label {
                job: JobId(300),
                key: "team".to_owned(),
                value: "vision".to_owned(),
            },
        ),
        (
            "label-once",
            ClientRequest::LabelOnce {
                job: JobId(300),
                key: "team".to_owned(),
                value: "vision".to_owned(),
                request: RequestKey([0xee; 16]),
            },
        ),
        ("cluster", ClientRequest::Cluster),
        (
            "add",
            ClientRequest::AddMember {
                name: "c3".to_owned(),
                address: "127.0.0.1:7002".to_owned(),
            },
        ),
        ("remove", ClientRequest::RemoveMember { id: 3 }),
        ("transfer", ClientRequest::TransferLeadership),
    ])
}

fn cluster() -> ClusterView {
    ClusterView {
        answered_by: "c1".to_owned(),
        group: GroupId([0xbb; 16]).to_string(),
        version: NEWEST_RECORDS,
        term: 4,
        leader: Some(1),
        commit: 300,
        members: vec![MemberView {
            id: 1,
            name: "c1".to_owned(),
            address: "127.0.0.1:7000".to_owned(),
            role: MemberRole::Leader,
            matched: Some(300),
            health: Some(health()),
            heard_ms: Some(250),
            problem: None,
        }],
    }
}

fn job_view() -> JobView {
    JobView {
        job: JobId(7),
        name: "small".to_owned(),
        kind: "evolve.prune".to_owned(),
        status: JobStatus::Running,
        stage: "search".to_owned(),
        stages: vec!["train".to_owned(), "search".to_owned()],
        submitted_ms: 1,
        started_ms: Some(2),
        ended_ms: None,
        error: None,
        slots: 4,
        items: (1, 2),
        evaluated: 3,
        cache_hits: 4,
        retries: 5,
        training: Some(("full".to_owned(), progress())),
        generation: Some(summary()),
        summary: Some("{}".to_owned()),
        artifacts: vec![("result.json".to_owned(), Digest([1; 32]))],
        labels: vec![("team".to_owned(), "vision".to_owned())],
    }
}

fn worker_view() -> WorkerView {
    WorkerView {
        worker: worker(),
        connected: true,
        process: 1,
        executors: vec![2, 3],
        host: "host".to_owned(),
        slots: 2,
        busy: 1,
        numerics: class().0,
        metrics: Some("127.0.0.1:9000".to_owned()),
    }
}

fn coordinator_view() -> CoordinatorView {
    CoordinatorView {
        build: "0.1.0".to_owned(),
        process: 1,
        term: 2,
        applied: 3,
        read_only: Some("disk full".to_owned()),
        metrics: None,
    }
}

pub fn client_replies() -> Vec<Seed> {
    let line = LogLine {
        time_ms: 1,
        worker: Some(worker()),
        text: "line".to_owned(),
    };
    bodies([
        ("jobs", ClientReply::Jobs(vec![job_view()])),
        (
            "explanation",
            ClientReply::Explanation(vec!["a".to_owned(), "b".to_owned()]),
        ),
        ("lines", ClientReply::LogLines(vec![line])),
        (
            "events",
            ClientReply::Events {
                coordinator: "c1".to_owned(),
                events: all_events(),
            },
        ),
        ("workers", ClientReply::Workers(vec![worker_view()])),
        ("chunk", ClientReply::BlobChunk(vec![1, 2, 3])),
        ("status", ClientReply::Status(coordinator_view())),
        (
            "error",
            ClientReply::Error(RemoteError::new(ErrorCode::Busy, "later")),
        ),
        (
            "elsewhere",
            ClientReply::NotLeader {
                leader: Some(leader()),
            },
        ),
        ("cluster", ClientReply::Cluster(Box::new(cluster()))),
        ("added", ClientReply::MemberAdded { id: 3 }),
    ])
}

pub fn frames() -> Vec<Seed> {
    let mut stream = Vec::new();
    for request in [
        submit(),
        ClientRequest::Jobs,
        ClientRequest::Show { job: JobId(7) },
    ] {
        codec::write_frame(&mut stream, &request).expect("a seed fits into a frame");
    }
    vec![("three", stream)]
}
