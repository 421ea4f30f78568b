//! Whatever is said arrives as it was said: every variant of every message.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use evoring_protocol::client::*;
use evoring_protocol::codec::{Message, encode, read_frame, write_frame};
use evoring_protocol::event::{Event, EventKind, GenerationSummary};
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::peer::{GroupId, PeerHealth, PeerHello, PeerMessage, PeerRefusal, PeerReply};
use evoring_protocol::work::*;
use evoring_protocol::worker::{Hello, Ran, RankEvent, WorkerCommand, WorkerReport};
use evoring_protocol::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::fmt::Debug;
use std::io::Cursor;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Any value of a type, put together from its fields' strategies.
macro_rules! build {
    ($($path:ident)::+ { $($field:ident: $strategy:expr),* $(,)? }) => {
        ($($strategy,)*).prop_map(|($($field,)*)| $($path)::+ { $($field),* }).boxed()
    };
}

fn text() -> impl Strategy<Value = String> {
    ".{0,20}"
}
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}
fn path() -> impl Strategy<Value = PathBuf> {
    text().prop_map(PathBuf::from)
}
fn worker() -> impl Strategy<Value = WorkerId> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|name| WorkerId::new(&name).unwrap())
}
fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}
fn number() -> impl Strategy<Value = f64> {
    // Equality is compared, so no NaN; infinities are fine.
    prop_oneof![
        any::<f64>().prop_filter("not a number", |x| !x.is_nan()),
        Just(f64::INFINITY)
    ]
}
fn job() -> impl Strategy<Value = JobId> {
    any::<u64>().prop_map(JobId)
}
fn demand() -> impl Strategy<Value = DemandId> {
    any::<u32>().prop_map(DemandId)
}
fn slot() -> impl Strategy<Value = SlotIndex> {
    any::<u32>().prop_map(SlotIndex)
}
fn term() -> impl Strategy<Value = Term> {
    any::<u64>().prop_map(Term)
}
fn item_index() -> impl Strategy<Value = ItemIndex> {
    any::<u32>().prop_map(ItemIndex)
}
fn attempt() -> impl Strategy<Value = Attempt> {
    any::<u32>().prop_map(Attempt)
}
fn rank() -> impl Strategy<Value = Rank> {
    any::<u32>().prop_map(Rank)
}
fn roster_number() -> impl Strategy<Value = RosterNumber> {
    any::<u32>().prop_map(RosterNumber)
}
fn step() -> impl Strategy<Value = Step> {
    any::<u64>().prop_map(Step)
}
fn numerics() -> impl Strategy<Value = NumericsClass> {
    text().prop_map(NumericsClass)
}
fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}
fn work_error() -> BoxedStrategy<WorkError> {
    build!(WorkError {
        message: text(),
        cause: prop_oneof![
            Just(FailureCause::Lost),
            Just(FailureCause::Failed),
            Just(FailureCause::Final)
        ]
    })
}
fn outcome() -> BoxedStrategy<ItemOutcome> {
    build!(ItemOutcome {
        index: item_index(),
        result: prop_oneof![bytes().prop_map(Ok), work_error().prop_map(Err)],
    })
}
fn assignment() -> BoxedStrategy<Assignment> {
    build!(Assignment {
        job: job(),
        demand: demand(),
        stage: text(),
        kernel: prop_oneof![
            Just(Kernel::TrainClassify),
            Just(Kernel::PruneRank),
            Just(Kernel::PruneEvaluate),
            Just(Kernel::EvaluateClassify),
        ],
        payload: bytes(),
        inputs: vec(digest(), 0..3),
    })
}
fn lease() -> BoxedStrategy<Lease> {
    build!(Lease {
        job: job(),
        demand: demand(),
        items: vec(
            build!(LeasedItem {
                index: item_index(),
                attempt: attempt()
            }),
            0..5
        ),
        worker: worker(),
        slot: slot(),
        term: term(),
        number: any::<u64>(),
        expiry_ms: any::<u64>(),
        mac: any::<[u8; 32]>(),
    })
}
fn checkpoint() -> BoxedStrategy<Checkpoint> {
    build!(Checkpoint {
        step: step(),
        digest: digest()
    })
}
fn held() -> BoxedStrategy<HeldRank> {
    build!(HeldRank {
        job: job(),
        demand: demand(),
        roster: roster_number(),
        rank: rank(),
        slot: slot()
    })
}
fn roster() -> BoxedStrategy<Roster> {
    build!(Roster {
        number: roster_number(),
        members: vec(
            build!(Member {
                worker: worker(),
                slot: slot()
            }),
            0..4
        ),
        secret: any::<[u8; 32]>(),
        resume: option::of(checkpoint()),
    })
}
fn progress() -> BoxedStrategy<TrainingProgress> {
    build!(TrainingProgress {
        step: any::<u64>(),
        steps: any::<u64>(),
        loss: number()
    })
}
fn remote_error() -> BoxedStrategy<RemoteError> {
    build!(RemoteError {
        code: prop_oneof![
            Just(ErrorCode::Invalid),
            Just(ErrorCode::ReadOnly),
            Just(ErrorCode::Internal)
        ],
        message: text(),
    })
}

fn hint() -> BoxedStrategy<LeaderHint> {
    build!(LeaderHint {
        name: text(),
        address: text()
    })
}
fn health() -> BoxedStrategy<PeerHealth> {
    build!(PeerHealth {
        build: text(),
        version: any::<u16>(),
        process: any::<u32>(),
        applied: any::<u64>(),
        log_bytes: any::<u64>(),
        free_bytes: option::of(any::<u64>()),
        trouble: option::of(text()),
    })
}

fn worker_report() -> impl Strategy<Value = WorkerReport> {
    let hello = build!(Hello {
        build: text(),
        worker: worker(),
        incarnation: any::<u64>(),
        process: any::<u32>(),
        host: text(),
        slots: any::<u32>(),
        numerics: numerics(),
        metrics: option::of(address()),
        leases: vec(lease(), 0..3),
        ranks: vec(held(), 0..3),
    });
    let ran = prop_oneof![
        build!(Ran::Lease {
            term: term(),
            number: any::<u64>()
        }),
        held().prop_map(Ran::Rank),
    ];
    let rank_event = prop_oneof![
        Just(RankEvent::Started),
        checkpoint().prop_map(RankEvent::Checkpointed),
        build!(RankEvent::Finished { result: bytes() }),
        work_error().prop_map(RankEvent::Failed),
    ];
    prop_oneof![
        hello.prop_map(WorkerReport::Hello),
        build!(WorkerReport::Heartbeat {
            executors: vec(any::<u32>(), 0..9)
        }),
        build!(WorkerReport::Results {
            sequence: any::<u64>(),
            lease: lease(),
            outcomes: vec(outcome(), 0..5)
        }),
        build!(WorkerReport::Rank {
            sequence: any::<u64>(),
            held: held(),
            event: rank_event
        }),
        build!(WorkerReport::Progress {
            held: held(),
            progress: progress()
        }),
        build!(WorkerReport::ExecutorExited {
            slot: slot(),
            process: any::<u32>(),
            status: text(),
            last_lines: text(),
            ran: option::of(ran)
        }),
        build!(WorkerReport::Log {
            job: job(),
            lines: vec(text(), 0..5)
        }),
    ]
}

fn worker_command() -> impl Strategy<Value = WorkerCommand> {
    prop_oneof![
        build!(WorkerCommand::Welcome {
            term: term(),
            heartbeat_ms: any::<u64>(),
            blobs: text(),
            leases_to_keep: vec((term(), any::<u64>()), 0..3),
            ranks_to_keep: vec(held(), 0..3),
        }),
        remote_error().prop_map(WorkerCommand::Refuse),
        build!(WorkerCommand::Grant {
            lease: lease(),
            assignment: assignment(),
            items: vec(bytes(), 0..5)
        }),
        build!(WorkerCommand::StartRank {
            held: held(),
            roster: roster(),
            assignment: assignment()
        }),
        build!(WorkerCommand::StopRank { held: held() }),
        build!(WorkerCommand::StopLease {
            term: term(),
            number: any::<u64>()
        }),
        build!(WorkerCommand::Acknowledge {
            sequence: any::<u64>()
        }),
        build!(WorkerCommand::NotLeader {
            leader: option::of(hint())
        }),
    ]
}

fn executor_command() -> impl Strategy<Value = ExecutorCommand> {
    prop_oneof![
        build!(ExecutorCommand::RunItems {
            task: any::<u64>(),
            assignment: assignment(),
            inputs: vec(path(), 0..3),
            items: vec((item_index(), bytes()), 0..5),
        }),
        build!(ExecutorCommand::RunRank {
            task: any::<u64>(),
            assignment: assignment(),
            inputs: vec(path(), 0..3),
            rank: rank(),
            world_size: any::<u32>(),
            secret: any::<[u8; 32]>(),
            resume: option::of((step(), path())),
        }),
        build!(ExecutorCommand::Stop { task: any::<u64>() }),
    ]
}

fn executor_report() -> impl Strategy<Value = ExecutorReport> {
    prop_oneof![
        build!(ExecutorReport::Ready {
            numerics: numerics()
        }),
        build!(ExecutorReport::Items {
            task: any::<u64>(),
            outcomes: vec(outcome(), 0..5)
        }),
        build!(ExecutorReport::ItemsDone { task: any::<u64>() }),
        build!(ExecutorReport::Progress {
            task: any::<u64>(),
            progress: progress()
        }),
        build!(ExecutorReport::Checkpoint {
            task: any::<u64>(),
            step: step(),
            path: path()
        }),
        build!(ExecutorReport::RankFinished {
            task: any::<u64>(),
            result: bytes(),
            blobs: vec(path(), 0..3)
        }),
        build!(ExecutorReport::RankFailed {
            task: any::<u64>(),
            error: work_error()
        }),
        build!(ExecutorReport::Log {
            task: any::<u64>(),
            line: text()
        }),
    ]
}

fn client_request() -> impl Strategy<Value = ClientRequest> {
    prop_oneof![
        build!(ClientRequest::Submit {
            key: any::<[u8; 16]>().prop_map(SubmissionKey),
            file: text(),
            text: text(),
            refuse_unless_fits: any::<bool>(),
        }),
        Just(ClientRequest::Jobs),
        build!(ClientRequest::Show { job: job() }),
        build!(ClientRequest::Explain { job: job() }),
        build!(ClientRequest::Cancel { job: job() }),
        build!(ClientRequest::Logs {
            job: job(),
            follow: any::<bool>()
        }),
        build!(ClientRequest::Events {
            from: any::<u64>(),
            follow: any::<bool>(),
            of: option::of(build!(EventsPlace {
                coordinator: text(),
                after: any::<u64>()
            }))
        }),
        build!(ClientRequest::Follow { job: job() }),
        Just(ClientRequest::Workers),
        build!(ClientRequest::Blob { digest: digest() }),
        Just(ClientRequest::Status),
        build!(ClientRequest::Label {
            job: job(),
            key: text(),
            value: text()
        }),
        Just(ClientRequest::Cluster),
        build!(ClientRequest::AddMember {
            name: text(),
            address: text()
        }),
        build!(ClientRequest::RemoveMember { id: any::<u64>() }),
        Just(ClientRequest::TransferLeadership),
        build!(ClientRequest::LabelOnce {
            job: job(),
            key: text(),
            value: text(),
            request: any::<[u8; 16]>().prop_map(RequestKey)
        }),
    ]
}

fn summary() -> BoxedStrategy<GenerationSummary> {
    build!(GenerationSummary {
        generation: any::<u32>(),
        generations: any::<u32>(),
        best_fitness: number(),
        mean_fitness: number(),
        best_parameters: any::<u64>(),
        best_accuracy: number(),
        evaluated: any::<u64>(),
        cache_hits: any::<u64>(),
    })
}

fn event() -> BoxedStrategy<Event> {
    let any_kind = prop_oneof![
        build!(EventKind::CoordinatorStarted {
            process: any::<u32>(),
            term: any::<u64>()
        }),
        Just(EventKind::CoordinatorWritable),
        build!(EventKind::WorkerJoined {
            worker: worker(),
            process: any::<u32>(),
            slots: any::<u32>(),
            held_items: any::<u32>(),
            held_ranks: any::<u32>(),
        }),
        build!(EventKind::ItemsRetried {
            job: job(),
            demand: demand(),
            stage: text(),
            items: vec((item_index(), attempt()), 0..4),
            reason: text(),
        }),
        build!(EventKind::RosterCommitted {
            job: job(),
            demand: demand(),
            stage: text(),
            roster: roster_number(),
            members: vec((worker(), slot()), 0..4),
            resume_step: any::<u64>(),
        }),
        build!(EventKind::Checkpointed {
            job: job(),
            demand: demand(),
            step: any::<u64>(),
            digest: digest()
        }),
        build!(EventKind::GenerationFinished {
            job: job(),
            summary: summary()
        }),
        build!(EventKind::JobFailed {
            job: job(),
            error: text()
        }),
    ];
    build!(Event {
        number: any::<u64>(),
        time_ms: any::<u64>(),
        entry: option::of(any::<u64>()),
        kind: any_kind
    })
}

/// Any view of a job; the library's tuples end at twelve fields.
fn job_view() -> impl Strategy<Value = JobView> {
    let status = prop_oneof![
        Just(JobStatus::Queued),
        Just(JobStatus::Running),
        Just(JobStatus::Cancelled)
    ];
    let first = (
        job(),
        text(),
        status,
        vec(text(), 0..4),
        any::<u64>(),
        option::of(any::<u64>()),
    );
    let second = (
        option::of(text()),
        any::<u32>(),
        (any::<u64>(), any::<u64>()),
        option::of((text(), progress())),
        option::of(summary()),
        vec((text(), digest()), 0..3),
        vec((text(), text()), 0..3),
    );
    (first, second).prop_map(
        |((job, name, status, stages, submitted_ms, started_ms), second)| {
            let (error, slots, items, training, generation, artifacts, labels) = second;
            JobView {
                job,
                name: name.clone(),
                kind: "evolve.prune".to_owned(),
                status,
                stage: name.clone(),
                stages,
                submitted_ms,
                started_ms,
                ended_ms: started_ms,
                error: error.clone(),
                slots,
                items,
                evaluated: items.0,
                cache_hits: items.1,
                retries: items.0,
                training,
                generation,
                summary: error,
                artifacts,
                labels,
            }
        },
    )
}

fn cluster_view() -> BoxedStrategy<ClusterView> {
    let roles = prop_oneof![
        Just(MemberRole::Leader),
        Just(MemberRole::Voter),
        Just(MemberRole::Learner),
        Just(MemberRole::Joining),
        Just(MemberRole::Leaving)
    ];
    let member = build!(MemberView {
        id: any::<u64>(),
        name: text(),
        address: text(),
        role: roles,
        matched: option::of(any::<u64>()),
        health: option::of(health()),
        heard_ms: option::of(any::<u64>()),
        problem: option::of(text()),
    });
    build!(ClusterView {
        answered_by: text(),
        group: text(),
        version: any::<u16>(),
        term: any::<u64>(),
        leader: option::of(any::<u64>()),
        commit: any::<u64>(),
        members: vec(member, 0..4),
    })
}

fn peer_message() -> impl Strategy<Value = PeerMessage> {
    let hello = || {
        build!(PeerHello {
            group: any::<[u8; 16]>().prop_map(GroupId),
            from: any::<u64>(),
            to: any::<u64>(),
            address: text(),
        })
    };
    prop_oneof![
        hello().prop_map(PeerMessage::Hello),
        hello().prop_map(PeerMessage::Join),
        vec(bytes(), 0..4).prop_map(PeerMessage::Raft),
        health().prop_map(PeerMessage::Health),
        build!(PeerMessage::SnapshotStart {
            message: bytes(),
            bytes: any::<u64>(),
            digest: digest(),
        }),
        bytes().prop_map(PeerMessage::SnapshotChunk),
    ]
}

fn peer_reply() -> impl Strategy<Value = PeerReply> {
    let refusals = prop_oneof![
        Just(PeerRefusal::Removed),
        Just(PeerRefusal::WrongId),
        Just(PeerRefusal::OtherGroup),
        Just(PeerRefusal::WrongName),
        Just(PeerRefusal::NotReady)
    ];
    prop_oneof![
        Just(PeerReply::Welcome),
        build!(PeerReply::Refused {
            refusal: refusals,
            message: text()
        }),
        Just(PeerReply::SnapshotTaken),
    ]
}

fn client_reply() -> impl Strategy<Value = ClientReply> {
    let line = build!(LogLine {
        time_ms: any::<u64>(),
        worker: option::of(worker()),
        text: text()
    });
    let worker_view = build!(WorkerView {
        worker: worker(),
        connected: any::<bool>(),
        process: any::<u32>(),
        executors: vec(any::<u32>(), 0..4),
        host: text(),
        slots: any::<u32>(),
        busy: any::<u32>(),
        numerics: text(),
        metrics: option::of(text()),
    });
    let status = build!(CoordinatorView {
        build: text(),
        process: any::<u32>(),
        term: any::<u64>(),
        applied: any::<u64>(),
        read_only: option::of(text()),
        metrics: option::of(text()),
    });
    prop_oneof![
        build!(ClientReply::Submitted {
            job: job(),
            already_known: any::<bool>()
        }),
        vec(job_view(), 0..3).prop_map(ClientReply::Jobs),
        job_view().prop_map(|view| ClientReply::Job(Box::new(view))),
        vec(text(), 0..3).prop_map(ClientReply::Explanation),
        Just(ClientReply::Done),
        vec(line, 0..4).prop_map(ClientReply::LogLines),
        build!(ClientReply::Events {
            coordinator: text(),
            events: vec(event(), 0..4)
        }),
        vec(worker_view, 0..3).prop_map(ClientReply::Workers),
        build!(ClientReply::BlobStart {
            bytes: any::<u64>()
        }),
        bytes().prop_map(ClientReply::BlobChunk),
        status.prop_map(ClientReply::Status),
        remote_error().prop_map(ClientReply::Error),
        build!(ClientReply::NotLeader {
            leader: option::of(hint())
        }),
        cluster_view().prop_map(|view| ClientReply::Cluster(Box::new(view))),
        build!(ClientReply::MemberAdded { id: any::<u64>() }),
    ]
}

/// Sends two messages through one stream of bytes and reads them back; every cut is an error.
fn round_trip<M: Message + PartialEq + Debug>(message: &M, cut: prop::sample::Index) {
    let mut stream = Vec::new();
    write_frame(&mut stream, message).unwrap();
    write_frame(&mut stream, message).unwrap();
    let frame = encode(message).unwrap();
    assert_eq!(stream, frame.repeat(2));
    let mut reader = Cursor::new(stream);
    assert_eq!(
        read_frame::<M>(&mut reader).unwrap().as_ref(),
        Some(message)
    );
    assert_eq!(
        read_frame::<M>(&mut reader).unwrap().as_ref(),
        Some(message)
    );
    assert_eq!(read_frame::<M>(&mut reader).unwrap(), None);
    let cut = 1 + cut.index(frame.len() - 1);
    read_frame::<M>(&mut Cursor::new(&frame[..cut])).unwrap_err();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn worker_reports(message in worker_report(), cut in any::<prop::sample::Index>()) {
        round_trip(&message, cut);
    }
    #[test]
    fn worker_commands(message in worker_command(), cut in any::<prop::sample::Index>()) {
        round_trip(&message, cut);
    }
    #[test]
    fn executor_commands(message in executor_command(), cut in any::<prop::sample::Index>()) {
        round_trip(&message, cut);
    }
    #[test]
    fn executor_reports(message in executor_report(), cut in any::<prop::sample::Index>()) {
        round_trip(&message, cut);
    }
    #[test]
    fn client_requests(message in client_request(), cut in any::<prop::sample::Index>()) {
        round_trip(&message, cut);
    }
    #[test]
    fn client_replies(message in client_reply(), cut in any::<prop::sample::Index>()) {
        round_trip(&message, cut);
    }
    #[test]
    fn peer_messages(message in peer_message(), cut in any::<prop::sample::Index>()) {
        round_trip(&message, cut);
    }
    #[test]
    fn peer_replies(message in peer_reply(), cut in any::<prop::sample::Index>()) {
        round_trip(&message, cut);
    }
}
