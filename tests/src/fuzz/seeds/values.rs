//! Messages, log entries, states, events and calls.

use super::Seed;
use crate::fuzz::driver::JOB;
use crate::fuzz::kernels::network;
use evoring_coordinator::state::{
    Admission, Batch, Command, ItemReport, NEWEST_RECORDS, State, Submission,
};
use evoring_jobs::calls::{
    self, EvaluateCall, EvaluateItem, EvaluateResult, PruneEvaluateCall, RankCall, RankItem,
    Recipe, Score, TrainCall, TrainResult,
};
use evoring_jobs::data::{DataSource, DataSpec, Part};
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::spec;
use evoring_protocol::client::{
    ClientReply, ClientRequest, ClusterView, CoordinatorView, EventsPlace, JobStatus, JobView,
    LeaderHint, LogLine, MemberRole, MemberView, WorkerView,
};
use evoring_protocol::codec::{self, HEADER_BYTES, Message};
use evoring_protocol::event::{Event, EventKind, GenerationSummary};
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::peer::{GroupId, PeerHealth, PeerHello, PeerMessage, PeerRefusal, PeerReply};
use evoring_protocol::work::{
    Assignment, Checkpoint, FailureCause, HeldRank, ItemOutcome, Kernel, Lease, LeasedItem, Member,
    Roster, TrainingProgress, WorkError,
};
use evoring_protocol::worker::{Hello, Ran, RankEvent, WorkerCommand, WorkerReport};
use evoring_protocol::{
    Attempt, DemandId, Digest, ErrorCode, ItemIndex, JobId, Rank, RemoteError, RosterNumber,
    SlotIndex, Step, SubmissionKey, Term, WorkerId,
};

fn body<M: Message>(message: &M) -> Vec<u8> {
    let frame = codec::encode(message).expect("a seed fits into a frame");
    frame[HEADER_BYTES..].to_vec()
}

fn bodies<M: Message, const COUNT: usize>(messages: [(&'static str, M); COUNT]) -> Vec<Seed> {
    let seed = |(name, message)| (name, body(&message));
    messages.into_iter().map(seed).collect()
}

fn worker() -> WorkerId {
    WorkerId::new("w-1").expect("a valid name")
}

fn class() -> NumericsClass {
    NumericsClass("libtorch-2/cpu".to_owned())
}

fn lease() -> Lease {
    let item = |index| LeasedItem {
        index: ItemIndex(index),
        attempt: Attempt(1),
    };
    Lease {
        job: JobId(300),
        demand: DemandId(2),
        items: vec![item(7), item(8)],
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

fn checkpoint() -> Checkpoint {
    Checkpoint {
        step: Step(1_000),
        digest: Digest([0xcc; 32]),
    }
}

fn progress() -> TrainingProgress {
    TrainingProgress {
        step: 3,
        steps: 100,
        loss: 0.5,
    }
}

fn work_error() -> WorkError {
    WorkError {
        message: "train-images: at byte 16: truncated".to_owned(),
        cause: FailureCause::Final,
    }
}

fn outcomes() -> Vec<ItemOutcome> {
    let outcome = |index, result| ItemOutcome {
        index: ItemIndex(index),
        result,
    };
    vec![outcome(7, Ok(vec![1, 2])), outcome(8, Err(work_error()))]
}

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

fn leader() -> LeaderHint {
    LeaderHint {
        name: "c2".to_owned(),
        address: "127.0.0.1:7001".to_owned(),
    }
}

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

fn health() -> PeerHealth {
    PeerHealth {
        build: "0.1.0".to_owned(),
        version: NEWEST_RECORDS,
        process: 4_321,
        applied: 300,
        log_bytes: 1 << 20,
        trouble: Some("space is low".to_owned()),
    }
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

pub fn client_replies() -> Vec<Seed> {
    let view = JobView {
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
    };
    let line = LogLine {
        time_ms: 1,
        worker: Some(worker()),
        text: "line".to_owned(),
    };
    let worker = WorkerView {
        worker: worker(),
        connected: true,
        process: 1,
        executors: vec![2, 3],
        host: "host".to_owned(),
        slots: 2,
        busy: 1,
        numerics: class().0,
        metrics: Some("127.0.0.1:9000".to_owned()),
    };
    let coordinator = CoordinatorView {
        build: "0.1.0".to_owned(),
        process: 1,
        term: 2,
        applied: 3,
        read_only: Some("disk full".to_owned()),
        metrics: None,
    };
    bodies([
        ("jobs", ClientReply::Jobs(vec![view])),
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
        ("workers", ClientReply::Workers(vec![worker])),
        ("chunk", ClientReply::BlobChunk(vec![1, 2, 3])),
        ("status", ClientReply::Status(coordinator)),
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

pub fn peer_messages() -> Vec<Seed> {
    let hello = PeerHello {
        group: GroupId([0xbb; 16]),
        from: 1,
        to: 2,
        address: "127.0.0.1:7000".to_owned(),
    };
    bodies([
        ("hello", PeerMessage::Hello(hello.clone())),
        ("join", PeerMessage::Join(hello)),
        ("raft", PeerMessage::Raft(vec![vec![1, 2], vec![3]])),
        ("health", PeerMessage::Health(health())),
        (
            "snapshot",
            PeerMessage::SnapshotStart {
                message: vec![1, 2],
                bytes: 1 << 30,
                digest: Digest([0xdd; 32]),
            },
        ),
        ("chunk", PeerMessage::SnapshotChunk(vec![1, 2, 3])),
    ])
}

pub fn peer_replies() -> Vec<Seed> {
    let refused = PeerReply::Refused {
        refusal: PeerRefusal::WrongId,
        message: "the member's disk was lost".to_owned(),
    };
    bodies([
        ("welcome", PeerReply::Welcome),
        ("refused", refused),
        ("taken", PeerReply::SnapshotTaken),
    ])
}

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

fn commands() -> Vec<Command> {
    let (job, demand, number) = (JobId(1), DemandId(1), RosterNumber(1));
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
    let report = |index, outcome| ItemReport {
        index: ItemIndex(index),
        attempt: Attempt(1),
        outcome,
    };
    vec![
        Command::SetLeaseKey { key: [0x11; 32] },
        Command::AdmitWorker {
            worker: worker(),
            admission,
        },
        Command::Submit(Box::new(submission)),
        Command::AssignClass {
            job,
            class: class(),
        },
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

fn summary() -> GenerationSummary {
    GenerationSummary {
        generation: 1,
        generations: 4,
        best_fitness: 0.8125,
        mean_fitness: 0.1 + 0.2,
        best_parameters: 9_000,
        best_accuracy: 0.75,
        evaluated: 10,
        cache_hits: 2,
    }
}

fn all_events() -> Vec<Event> {
    let (job, demand, worker) = (JobId(7), DemandId(2), worker());
    let stage = || "search".to_owned();
    let kinds = [
        EventKind::CoordinatorWritable,
        EventKind::GenerationFinished {
            job,
            summary: summary(),
        },
        EventKind::LeaseGranted {
            job,
            demand,
            stage: stage(),
            worker: worker.clone(),
            slot: SlotIndex(0),
            items: vec![(ItemIndex(1), Attempt(1))],
            is_copy: false,
        },
        EventKind::RosterCommitted {
            job,
            demand,
            stage: stage(),
            roster: RosterNumber(1),
            members: vec![(worker, SlotIndex(0))],
            resume_step: 10,
        },
        EventKind::Checkpointed {
            job,
            demand,
            step: 10,
            digest: Digest([0xcc; 32]),
        },
        EventKind::ItemsRecorded {
            job,
            demand,
            stage: stage(),
            items: vec![ItemIndex(1)],
        },
    ];
    let event = |(number, kind)| Event {
        number,
        time_ms: 1_800_000_000_000,
        entry: number.is_multiple_of(2).then_some(number),
        kind,
    };
    (1..).zip(kinds).map(event).collect()
}

pub fn events() -> Vec<Seed> {
    let names = [
        "writable",
        "generation",
        "lease",
        "roster",
        "checkpoint",
        "recorded",
    ];
    let text = |event: &Event| serde_json::to_vec(event).expect("an event is written as JSON");
    names
        .into_iter()
        .zip(all_events().iter().map(text))
        .collect()
}

pub fn calls() -> Vec<Seed> {
    let network = network();
    let mut chromosome = Chromosome::ones(network.genes());
    chromosome.set(0, false);
    let data = DataSpec {
        source: DataSource::Npz("/data.npz".to_owned()),
        shape: network.input,
        classes: 2,
        split_seed: 1,
        fitness_images: 10,
        selection_images: 20,
        train_images: Some(30),
        digest: Some(Digest([2; 32])),
    };
    let recipe = Recipe {
        epochs: 2,
        batch: 8,
        learning_rate: 0.1,
        warmup_steps: 3,
        momentum: 0.9,
        weight_decay: 1e-4,
        flip: true,
        shift_pixels: 2,
    };
    let train = TrainCall {
        network: network.clone(),
        chromosome: Some(chromosome.clone()),
        data: data.clone(),
        recipe,
        seed: 7,
        shards: 4,
        checkpoint_steps: 10,
    };
    let trained = TrainResult {
        weights: Digest([1; 32]),
        steps: 42,
        final_loss: 0.25,
        data: Digest([2; 32]),
    };
    let evaluate = EvaluateItem {
        input: 1,
        chromosome: Some(chromosome.clone()),
        is_small: false,
    };
    let score = Score {
        correct: 9,
        total: 10,
    };
    let evaluated = EvaluateResult {
        score,
        data: Digest([2; 32]),
        nanoseconds_per_image: 1_234,
    };
    let fitness = PruneEvaluateCall {
        network: network.clone(),
        data: data.clone(),
        part: Part::Fitness,
    };
    let values = [
        ("train", calls::encode(&train)),
        ("trained", calls::encode(&trained)),
        (
            "rank",
            calls::encode(&RankCall {
                network: network.clone(),
            }),
        ),
        (
            "rank-item",
            calls::encode(&RankItem {
                layer: 0,
                first: 1,
                count: 100,
            }),
        ),
        ("fitness", calls::encode(&fitness)),
        ("score", calls::encode(&score)),
        (
            "evaluate",
            calls::encode(&EvaluateCall {
                network,
                data,
                batch: 100,
            }),
        ),
        ("evaluate-item", calls::encode(&evaluate)),
        ("evaluated", calls::encode(&evaluated)),
        ("ranks", calls::encode(&vec![0u16, 300, 65_535])),
        ("chromosome", calls::encode(&chromosome)),
    ];
    (0..)
        .zip(values)
        .map(|(kind, (name, bytes))| (name, [vec![kind], bytes].concat()))
        .collect()
}
