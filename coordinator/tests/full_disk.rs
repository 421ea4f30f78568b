//! The real coordinator process on a small file system of its own, which is filled.

#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes need clocks and threads"
)]

mod support;

use evoring_protocol::ErrorCode;
use evoring_protocol::client::{ClientReply, ClientRequest, JobStatus};
use evoring_protocol::event::EventKind;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::Duration;
use support::{Client, Cluster, JOB, PATIENCE, Plan, submission};

/// Writes until there is no space at all.
fn fill(file: &mut File) {
    let chunk = vec![1u8; 64 << 10];
    let mut size = chunk.len();
    while size > 0 {
        match file.write(&chunk[..size]) {
            Ok(written) if written > 0 => {}
            _ => size /= 2,
        }
    }
}

async fn wait_for_readiness(cluster: &Cluster, status: u16) -> String {
    let began = std::time::Instant::now();
    loop {
        let (got, text) = cluster.get("/readyz", "localhost");
        if got == status {
            return text;
        }
        assert!(began.elapsed() < PATIENCE, "{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn submit_until(client: &Client, number: u8, is_taken: bool) -> ClientReply {
    let began = std::time::Instant::now();
    loop {
        let reply = client.ask(submission(number, JOB, false)).await;
        if matches!(reply, ClientReply::Submitted { .. }) == is_taken {
            return reply;
        }
        assert!(began.elapsed() < PATIENCE, "{reply:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Claim: with its disk full the coordinator refuses new work and says so, everywhere; nothing
/// that was acknowledged is lost; when there is space again it goes on by itself.
/// Method: a tmpfs in a mount namespace of the process; fill it during the search, free it, finish
/// the job; kill, start again, look again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk() {
    let cluster = Cluster::start_on_tmpfs(32 << 20);
    let plan = Plan {
        item: Duration::from_millis(10),
        ..Plan::default()
    };
    let _worker = cluster.worker("w1", 1, plan);
    let client = cluster.client().await;
    let job = client.submit(1).await;
    client
        .wait(job, "search", |view| {
            view.stage == "search" && view.slots > 0
        })
        .await;

    let filler = cluster.seen_dir().join("filler");
    fill(
        &mut OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(&filler)
            .unwrap(),
    );
    let text = wait_for_readiness(&cluster, 503).await;
    assert!(text.contains("only reads"), "{text}");
    let ClientReply::Error(error) = submit_until(&client, 2, false).await else {
        unreachable!()
    };
    assert_eq!(error.code, ErrorCode::ReadOnly);
    assert!(
        error.message.contains("only reads") && error.message.contains("free"),
        "{error}"
    );
    let ClientReply::Status(status) = client.ask(ClientRequest::Status).await else {
        unreachable!()
    };
    assert!(status.read_only.is_some());
    assert_eq!(client.show(job).await.job, job);

    std::fs::remove_file(&filler).unwrap();
    wait_for_readiness(&cluster, 200).await;
    let ClientReply::Submitted { job: second, .. } = submit_until(&client, 3, true).await else {
        unreachable!()
    };
    for job in [job, second] {
        let view = client
            .wait(job, "the job ends", |view| view.status.is_final())
            .await;
        assert_eq!(view.status, JobStatus::Finished, "{:?}", view.error);
        assert_eq!(view.retries, 0);
    }
    check_events(&cluster, &client).await;
}

/// The events tell both changes, and are all in the file.
async fn check_events(cluster: &Cluster, client: &Client) {
    let events = client.events().await;
    let count =
        |wanted: fn(&EventKind) -> bool| events.iter().filter(|event| wanted(&event.kind)).count();
    assert_eq!(
        count(|kind| matches!(kind, EventKind::CoordinatorReadOnly { .. })),
        1
    );
    assert_eq!(
        count(|kind| matches!(kind, EventKind::CoordinatorWritable)),
        1
    );
    let written = std::fs::read_to_string(cluster.seen_dir().join("events")).unwrap();
    let last = events.last().unwrap().number;
    assert!(
        written
            .lines()
            .last()
            .unwrap()
            .contains(&format!("\"number\":{last},")),
        "events were lost"
    );
}
