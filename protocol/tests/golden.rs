//! The bytes of frames, pinned. Processes of one cluster may come from different binaries of the
//! same version: when a test here fails, the change of a message changed the wire. Raise
//! `PROTOCOL_VERSION` (or `FRAME_VERSION`), then pin the bytes that the failure prints.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use evoring_protocol::client::{
    ClientReply, ClientRequest, ClusterView, LeaderHint, MemberRole, MemberView,
};
use evoring_protocol::codec::{FRAME_VERSION, Message, encode, read_frame};
use evoring_protocol::event::{Event, EventKind};
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::peer::{GroupId, PeerHealth, PeerHello, PeerMessage, PeerRefusal, PeerReply};
use evoring_protocol::version::PROTOCOL_VERSION;
use evoring_protocol::work::*;
use evoring_protocol::worker::{Hello, Ran, RankEvent, WorkerCommand, WorkerReport};
use evoring_protocol::*;
use std::fmt::Debug;
use std::io::Cursor;

/// The versions that the bytes below belong to.
#[test]
fn versions() {
    assert_eq!((FRAME_VERSION, PROTOCOL_VERSION), (3, 4));
}

/// Claim: `message` has these bytes, and they mean it.
/// Method: encode and compare; decode the pinned bytes and compare.
fn pinned<M: Message + PartialEq + Debug>(message: &M, hexadecimal: &str) {
    let expected: String = hexadecimal.split_whitespace().collect();
    let frame = encode(message).unwrap();
    let got: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(got, expected, "{message:?}");
    assert_eq!(
        read_frame::<M>(&mut Cursor::new(frame)).unwrap().as_ref(),
        Some(message)
    );
}

fn worker() -> WorkerId {
    WorkerId::new("w-1").unwrap()
}

fn lease() -> Lease {
    Lease {
        job: JobId(300),
        demand: DemandId(2),
        items: vec![LeasedItem {
            index: ItemIndex(7),
            attempt: Attempt(1),
        }],
        worker: worker(),
        slot: SlotIndex(3),
        term: Term(4),
        number: 5,
        expiry_ms: 1_800_000_000_000,
        mac: [0xaa; 32],
    }
}

fn assignment() -> Assignment {
    Assignment {
        job: JobId(300),
        demand: DemandId(2),
        stage: "search".to_owned(),
        kernel: Kernel::PruneEvaluate,
        payload: vec![1, 2, 3],
        inputs: vec![Digest([0xdd; 32])],
    }
}

fn held() -> HeldRank {
    HeldRank {
        job: JobId(1),
        demand: DemandId(2),
        roster: RosterNumber(3),
        rank: Rank(4),
        slot: SlotIndex(5),
    }
}

#[test]
fn worker_reports() {
    let hello = Hello {
        build: "0.1.0+protocol.1".to_owned(),
        worker: worker(),
        incarnation: u64::MAX,
        process: 1234,
        host: "h".to_owned(),
        slots: 2,
        numerics: NumericsClass("cpu".to_owned()),
        metrics: Some("127.0.0.1:9000".parse().unwrap()),
        leases: vec![lease()],
        ranks: vec![held()],
    };
    pinned(
        &WorkerReport::Hello(hello),
        "6b000000 01 03 \
         0010302e312e302b70726f746f636f6c2e3103772d31ffffffffffffffffff01 \
         d2090168020363707501007f000001a84601ac020201070103772d3103040580 \
         a0f1c2b134aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \
         aaaaaaaaaa010102030405",
    );
    pinned(
        &WorkerReport::Heartbeat {
            executors: vec![0, 70000],
        },
        "06000000 01 03 010200f0a204",
    );
    let outcomes = vec![
        ItemOutcome {
            index: ItemIndex(7),
            result: Ok(vec![9, 8]),
        },
        ItemOutcome {
            index: ItemIndex(8),
            result: Err(WorkError {
                message: "no".to_owned(),
                cause: FailureCause::Failed,
            }),
        },
    ];
    pinned(
        &WorkerReport::Results {
            sequence: 6,
            lease: lease(),
            outcomes,
        },
        "41000000 01 03 \
         0206ac020201070103772d3103040580a0f1c2b134aaaaaaaaaaaaaaaaaaaaaa \
         aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0207000209080801026e6f \
         01",
    );
    let exited = WorkerReport::ExecutorExited {
        slot: SlotIndex(5),
        process: 1234,
        status: "x".to_owned(),
        last_lines: String::new(),
        ran: Some(Ran::Lease {
            term: Term(4),
            number: 5,
        }),
    };
    pinned(&exited, "0b000000 01 03 0505d209017800 01000405");
}

#[test]
fn rank_reports() {
    let finished = RankEvent::Finished { result: vec![1] };
    pinned(
        &WorkerReport::Rank {
            sequence: 7,
            held: held(),
            event: finished,
        },
        "0a000000 01 03 03070102030405020101",
    );
    let progress = TrainingProgress {
        step: 10,
        steps: 20,
        loss: 0.5,
    };
    pinned(
        &WorkerReport::Progress {
            held: held(),
            progress,
        },
        "10000000 01 03 0401020304050a14000000000000e03f",
    );
    pinned(
        &WorkerReport::Log {
            job: JobId(1),
            lines: vec!["ä".to_owned()],
        },
        "06000000 01 03 06010102c3a4",
    );
}

#[test]
fn worker_commands() {
    let grant = WorkerCommand::Grant {
        lease: lease(),
        assignment: assignment(),
        items: vec![vec![0xff]],
    };
    pinned(
        &grant,
        "67000000 02 03 \
         02ac020201070103772d3103040580a0f1c2b134aaaaaaaaaaaaaaaaaaaaaaaa \
         aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac0202067365617263680203 \
         01020301dddddddddddddddddddddddddddddddddddddddddddddddddddddddd \
         dddddddd0101ff",
    );
    let roster = Roster {
        number: RosterNumber(3),
        members: vec![Member {
            worker: worker(),
            slot: SlotIndex(5),
        }],
        secret: [0x55; 32],
        resume: Some(Checkpoint {
            step: Step(100),
            digest: Digest([0xdd; 32]),
        }),
    };
    pinned(
        &WorkerCommand::StartRank {
            held: held(),
            roster,
            assignment: assignment(),
        },
        "7f000000 02 03 \
         030102030405030103772d310555555555555555555555555555555555555555 \
         555555555555555555555555550164dddddddddddddddddddddddddddddddddd \
         ddddddddddddddddddddddddddddddac020206736561726368020301020301dd \
         dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
    );
    pinned(
        &WorkerCommand::Acknowledge { sequence: 128 },
        "03000000 02 03 068001",
    );
    pinned(
        &WorkerCommand::Refuse(RemoteError::new(ErrorCode::VersionMismatch, "old")),
        "06000000 02 03 0103036f6c64",
    );
}

#[test]
fn clients() {
    let submit = ClientRequest::Submit {
        key: SubmissionKey([0x11; 16]),
        file: "a.toml".to_owned(),
        text: "kind = \"x\"".to_owned(),
        refuse_unless_fits: true,
    };
    pinned(
        &submit,
        "24000000 03 03 \
         001111111111111111111111111111111106612e746f6d6c0a6b696e64203d20 \
         22782201",
    );
    pinned(&ClientRequest::Status, "01000000 03 03 0a");
    let event = Event {
        number: 1,
        time_ms: 2,
        entry: Some(9),
        kind: EventKind::JobCancelled { job: JobId(3) },
    };
    pinned(
        &ClientReply::Events {
            coordinator: "c".to_owned(),
            events: vec![event],
        },
        "0a000000 04 03 0601630101020109 1203",
    );
    pinned(
        &ClientReply::BlobChunk(vec![1, 2]),
        "04000000 04 03 09020102",
    );
    pinned(
        &ClientReply::Error(RemoteError::new(ErrorCode::Internal, "x")),
        "04000000 04 03 0b070178",
    );
}

#[test]
fn executors() {
    let run = ExecutorCommand::RunItems {
        task: 1,
        assignment: assignment(),
        inputs: vec!["/in".into()],
        items: vec![(ItemIndex(0), vec![5])],
    };
    pinned(
        &run,
        "3b000000 05 03 \
         0001ac020206736561726368020301020301dddddddddddddddddddddddddddd \
         dddddddddddddddddddddddddddddddddddd01032f696e01000105",
    );
    pinned(&ExecutorCommand::Stop { task: 2 }, "02000000 05 03 0202");
    pinned(
        &ExecutorReport::Ready {
            numerics: NumericsClass("cpu".to_owned()),
        },
        "05000000 06 03 0003637075",
    );
    let error = WorkError {
        message: "no".to_owned(),
        cause: FailureCause::Final,
    };
    pinned(
        &ExecutorReport::RankFailed { task: 3, error },
        "06000000 06 03 0603026e6f02",
    );
}

fn health() -> PeerHealth {
    PeerHealth {
        build: "b".to_owned(),
        version: 3,
        process: 1234,
        applied: 300,
        log_bytes: 4096,
        free_bytes: Some(4096),
        trouble: Some("full".to_owned()),
    }
}

#[test]
fn groups() {
    let label = ClientRequest::Label {
        job: JobId(300),
        key: "k".to_owned(),
        value: "v".to_owned(),
    };
    pinned(&label, "07000000 03 03 0bac02016b0176");
    pinned(&ClientRequest::Cluster, "01000000 03 03 0c");
    let add = ClientRequest::AddMember {
        name: "c2".to_owned(),
        address: "h:1".to_owned(),
    };
    pinned(&add, "08000000 03 03 0d02633203683a31");
    pinned(
        &ClientRequest::RemoveMember { id: 300 },
        "03000000 03 03 0eac02",
    );
    pinned(&ClientRequest::TransferLeadership, "01000000 03 03 0f");
    let once = ClientRequest::LabelOnce {
        job: JobId(300),
        key: "k".to_owned(),
        value: "v".to_owned(),
        request: RequestKey([0x22; 16]),
    };
    pinned(
        &once,
        "17000000 03 03 10ac02016b017622222222222222222222222222222222",
    );
    let leader = Some(LeaderHint {
        name: "c2".to_owned(),
        address: "h:1".to_owned(),
    });
    pinned(
        &ClientReply::NotLeader {
            leader: leader.clone(),
        },
        "09000000 04 03 0c0102633203683a31",
    );
    let member = MemberView {
        id: 2,
        name: "c2".to_owned(),
        address: "h:1".to_owned(),
        role: MemberRole::Learner,
        matched: Some(9),
        health: Some(health()),
        heard_ms: Some(7),
        problem: None,
    };
    let view = ClusterView {
        answered_by: "c1".to_owned(),
        group: "g".to_owned(),
        version: 3,
        term: 4,
        leader: Some(1),
        commit: 5,
        members: vec![member],
    };
    pinned(
        &ClientReply::Cluster(Box::new(view)),
        "2d000000 04 03 \
         0d02633101670304010105010202633203683a3102010901016203d209ac0280 \
         20018020010466756c6c010700",
    );
    pinned(
        &ClientReply::MemberAdded { id: 300 },
        "03000000 04 03 0eac02",
    );
    pinned(
        &WorkerCommand::NotLeader { leader },
        "09000000 02 03 070102633203683a31",
    );
}

#[test]
fn peers() {
    let hello = PeerHello {
        group: GroupId([0x22; 16]),
        from: 1,
        to: 2,
        address: "h:1".to_owned(),
    };
    pinned(
        &PeerMessage::Hello(hello.clone()),
        "17000000 07 03 0022222222222222222222222222222222010203683a31",
    );
    pinned(
        &PeerMessage::Join(hello),
        "17000000 07 03 0122222222222222222222222222222222010203683a31",
    );
    pinned(
        &PeerMessage::Raft(vec![vec![1, 2], Vec::new()]),
        "06000000 07 03 020202010200",
    );
    pinned(
        &PeerMessage::Health(health()),
        "13000000 07 03 03016203d209ac028020018020010466756c6c",
    );
    let start = PeerMessage::SnapshotStart {
        message: vec![1],
        bytes: 300,
        digest: Digest([0xdd; 32]),
    };
    pinned(
        &start,
        "25000000 07 03 \
         040101ac02dddddddddddddddddddddddddddddddddddddddddddddddddddddd \
         dddddddddd",
    );
    pinned(
        &PeerMessage::SnapshotChunk(vec![9]),
        "03000000 07 03 050109",
    );
    pinned(&PeerReply::Welcome, "01000000 08 03 00");
    let refused = PeerReply::Refused {
        refusal: PeerRefusal::WrongId,
        message: "no".to_owned(),
    };
    pinned(&refused, "05000000 08 03 0101026e6f");
    pinned(&PeerReply::SnapshotTaken, "01000000 08 03 02");
}
