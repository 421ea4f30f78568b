//! The real coordinator process, made-up workers: what a client sees, and what survives.

#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes need clocks and threads"
)]

mod support;

use evoring_protocol::client::{ClientReply, ClientRequest, JobStatus};
use evoring_protocol::event::EventKind;
use evoring_protocol::transport::Role;
use evoring_protocol::worker::{WorkerCommand, WorkerReport};
use evoring_protocol::{ErrorCode, JobId};
use std::time::Duration;
use support::{Client, Cluster, JOB, Plan, submission};

/// Claim: a job goes through all stages, its artifacts can be fetched, its events tell the story.
/// Method: one worker of one slot; submit, wait, look at everything a client can ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_job() {
    let mut cluster = Cluster::start();
    let _worker = cluster.worker("w1", 1, Plan::default());
    let client = cluster.client().await;
    let job = client.submit(1).await;
    let again = client.ask(submission(1, JOB, false)).await;
    assert_eq!(
        again,
        ClientReply::Submitted {
            job,
            already_known: true
        }
    );
    let view = client
        .wait(job, "the job ends", |view| view.status.is_final())
        .await;
    assert_eq!(view.status, JobStatus::Finished, "{:?}", view.error);
    assert!(view.summary.is_some() && view.evaluated > 0 && view.retries == 0);
    for (name, digest) in &view.artifacts {
        if name.ends_with(".json") {
            assert!(!client.blob(*digest).await.is_empty(), "{name}");
        }
    }
    let events = client.events().await;
    let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
    for stage in &view.stages {
        let is_start = |kind: &EventKind| matches!(kind, EventKind::StageStarted { stage: s, .. } if s == stage);
        assert_eq!(
            events.iter().filter(|event| is_start(&event.kind)).count(),
            1,
            "{stage}"
        );
    }
    assert!(matches!(
        events.last().unwrap().kind,
        EventKind::JobFinished { .. }
    ));
    let followed = client.replies(ClientRequest::Follow { job }).await;
    assert_eq!(followed, [ClientReply::Job(Box::new(view))]);
    let host = cluster.http.to_string();
    assert_eq!(cluster.get("/healthz", &host).0, 200);
    assert_eq!(cluster.get("/readyz", &host).0, 200);
    assert_eq!(cluster.get("/readyz", "evil.example").0, 421);
    assert!(
        cluster
            .get("/metrics", &host)
            .1
            .contains("evoring_coordinator_items_granted_total")
    );
    assert!(cluster.stop().success());
}

/// Claim: wrong requests are refused with the reason, and nothing else suffers.
/// Method: unknown job, broken job file, more ranks than slots, a viewer that submits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let code = |reply: ClientReply| match reply {
        ClientReply::Error(error) => (error.code, error.message),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        code(client.ask(ClientRequest::Show { job: JobId(9) }).await).0,
        ErrorCode::NotFound
    );
    assert_eq!(
        code(client.ask(ClientRequest::Cancel { job: JobId(9) }).await).0,
        ErrorCode::NotFound
    );
    let broken = code(client.ask(submission(1, "kind = 3", false)).await);
    assert!(
        broken.0 == ErrorCode::Invalid && broken.1.contains("job.toml"),
        "{broken:?}"
    );
    let text = format!("{JOB}\n[train]\nranks = \"4..4\"\nshards = 4\n");
    let refused = code(client.ask(submission(2, &text, true)).await);
    assert!(
        refused.0 == ErrorCode::Invalid && refused.1.contains("needs 4 slots, 0 present"),
        "{refused:?}"
    );
    let ClientReply::Submitted { job, .. } = client.ask(submission(3, &text, false)).await else {
        panic!()
    };
    let ClientReply::Explanation(why) = client.ask(ClientRequest::Explain { job }).await else {
        panic!()
    };
    assert!(
        why.iter()
            .any(|sentence| sentence.contains("needs 4 slots, 0 present")),
        "{why:?}"
    );
    let viewer = Client(cluster.connect(Role::Viewer, "guest").await);
    assert_eq!(
        code(viewer.ask(submission(4, JOB, false)).await).0,
        ErrorCode::Forbidden
    );
    assert!(
        matches!(viewer.ask(ClientRequest::Jobs).await, ClientReply::Jobs(jobs) if jobs.len() == 1)
    );
    assert_eq!(
        client.ask(ClientRequest::Cancel { job }).await,
        ClientReply::Done
    );
    assert_eq!(client.show(job).await.status, JobStatus::Cancelled);
}

/// Claim: a certificate of one role may not do what another role does, and is told so; garbage on a
/// stream costs the stream alone.
/// Method: a worker asks, a submitter computes, an agent takes another's name, random frames.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_roles() {
    let cluster = Cluster::start();
    let worker = Client(cluster.connect(Role::Worker, "w1").await);
    let ClientReply::Error(error) = worker.ask(ClientRequest::Jobs).await else {
        panic!()
    };
    assert_eq!(error.code, ErrorCode::Forbidden);
    let hello = support::hello("w2");
    for (role, name) in [(Role::Submitter, "w2"), (Role::Worker, "w1")] {
        let connection = cluster.connect(role, name).await;
        let (mut sender, mut receiver) = connection.open().await.unwrap();
        sender
            .send(&WorkerReport::Hello(hello.clone()))
            .await
            .unwrap();
        let reply = receiver.receive::<WorkerCommand>().await.unwrap().unwrap();
        let WorkerCommand::Refuse(error) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!(error.code, ErrorCode::Forbidden, "{error}");
    }
    let client = cluster.client().await;
    let (mut sender, mut receiver) = client.0.open().await.unwrap();
    sender.send(&ClientReply::Done).await.unwrap();
    sender.finish();
    let reply = receiver.receive::<ClientReply>().await.unwrap().unwrap();
    assert!(
        matches!(&reply, ClientReply::Error(error) if error.code == ErrorCode::Invalid),
        "{reply:?}"
    );
    assert!(matches!(
        client.ask(ClientRequest::Status).await,
        ClientReply::Status(_)
    ));
}

/// Claim: killed in any stage and started again, the coordinator goes on where it was: the same
/// result, events without gap or repetition, and nothing acknowledged is computed twice.
/// Method: for each stage, wait until it runs, SIGKILL, start in the same folder; compare with an
/// undisturbed run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_every_stage() {
    let mut cluster = Cluster::start();
    let plan = Plan {
        item: Duration::from_millis(2),
        training: Duration::from_millis(150),
    };
    let _workers = [cluster.worker("w1", 1, plan), cluster.worker("w2", 1, plan)];
    let mut client = cluster.client().await;
    let job = client.submit(1).await;
    for stage in ["train", "search", "finetune", "evaluate"] {
        client
            .wait(job, stage, |view| {
                view.stage == stage && (view.slots > 0 || view.status.is_final())
            })
            .await;
        cluster.kill();
        cluster.start_process();
        client = cluster.client().await;
        wait_ready(&cluster).await;
    }
    let disturbed = client
        .wait(job, "the job ends", |view| view.status.is_final())
        .await;
    assert_eq!(
        disturbed.status,
        JobStatus::Finished,
        "{:?}",
        disturbed.error
    );
    let events = client.events().await;
    let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
    for stage in &disturbed.stages {
        let is_start = |kind: &EventKind| matches!(kind, EventKind::StageStarted { stage: s, .. } if s == stage);
        assert_eq!(
            events.iter().filter(|event| is_start(&event.kind)).count(),
            1,
            "{stage}"
        );
    }
    let starts = events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::CoordinatorStarted { .. }))
        .count();
    assert_eq!(starts, 5);

    let calm = Cluster::start();
    let _worker = calm.worker("w1", 1, Plan::default());
    let other = calm.client().await;
    let job = other.submit(1).await;
    let undisturbed = other
        .wait(job, "the job ends", |view| view.status.is_final())
        .await;
    assert_eq!(undisturbed.evaluated, disturbed.evaluated);
    assert_eq!(undisturbed.cache_hits, disturbed.cache_hits);
    assert_eq!(undisturbed.artifacts, disturbed.artifacts);
}

/// Claim: a worker killed while it trains or searches costs nothing but time.
/// Method: kill w2 in both stages by dropping its connection, bring it back as a new process;
/// in the search until it was hit while it held items.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_worker() {
    let cluster = Cluster::start();
    let plan = Plan {
        item: Duration::from_millis(10),
        training: Duration::from_millis(300),
    };
    let _w1 = cluster.worker("w1", 1, plan);
    let mut w2 = cluster.worker("w2", 1, plan);
    let client = cluster.client().await;
    let job = client.submit(1).await;
    client
        .wait(job, "train", |view| {
            view.stage == "train" && view.slots == 2
        })
        .await;
    let lost = |kind: &EventKind| matches!(kind, EventKind::WorkerLost { held_items, held_ranks, .. } if held_items + held_ranks > 0);
    let mut incarnation = 1;
    for kills in 1..=2 {
        while client
            .events()
            .await
            .iter()
            .filter(|event| lost(&event.kind))
            .count()
            < kills
        {
            incarnation += 1;
            drop(w2);
            w2 = cluster.worker("w2", incarnation, plan);
            client
                .wait(job, "search", |view| {
                    view.stage == "search" && view.slots == 2
                })
                .await;
        }
    }
    let view = client
        .wait(job, "the job ends", |view| view.status.is_final())
        .await;
    assert_eq!(view.status, JobStatus::Finished, "{:?}", view.error);
    assert!(view.retries >= 2, "{view:?}");
    let events = client.events().await;
    assert!(
        events
            .iter()
            .any(|event| matches!(event.kind, EventKind::RosterBroken { .. }))
    );
    assert!(
        events
            .iter()
            .any(|event| matches!(event.kind, EventKind::ItemsRetried { .. }))
    );
}

/// Claim: the coordinator ends when the process that started it is gone.
/// Method: a pipe as lifeline; close its other end.
#[tokio::test]
async fn lifeline() {
    use rustix::io::{FdFlags, fcntl_setfd};
    use std::os::fd::AsRawFd as _;
    let mut cluster = Cluster::start();
    cluster.kill();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    fcntl_setfd(&read, FdFlags::empty()).unwrap();
    let mut command = cluster.command();
    command
        .arg("--lifeline-fd")
        .arg(read.as_raw_fd().to_string());
    let announce = cluster.folder.path().join("announce");
    std::fs::remove_file(&announce).unwrap();
    let mut child = command.spawn().unwrap();
    drop(read);
    let began = std::time::Instant::now();
    while !announce.exists() {
        assert!(began.elapsed() < support::PATIENCE && child.try_wait().unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(write);
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
}

/// Claim: one process per folder, and the second one says so.
/// Method: start another in the same folder.
#[tokio::test]
async fn one_process_per_folder() {
    let cluster = Cluster::start();
    let output = cluster.command().output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        text.contains("in use by another coordinator process"),
        "{text}"
    );
}

async fn wait_ready(cluster: &Cluster) {
    let began = std::time::Instant::now();
    while cluster.get("/readyz", "localhost").0 != 200 {
        assert!(began.elapsed() < support::PATIENCE, "not ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
