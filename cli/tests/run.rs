//! What `evoring run` does with a job's results and its listeners, with the real `evoring`,
//! scripts for its children, and a coordinator in this process that has one job, ended at once.

#![expect(clippy::unwrap_used, reason = "tests")]

mod stage;

use evoring_protocol::client::{ClientReply, ClientRequest, JobStatus, JobView, WorkerView};
use evoring_protocol::transport::{Connection, Identity, Listener, TransportError};
use evoring_protocol::{Digest, ErrorCode, JobId, RemoteError, WorkerId};
use stage::{DYING, FAITHFUL, JOB, Stage, signal, spawn, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

/// Name of the one artifact.
const ARTIFACT: &str = "model.txt";

/// Answers in the place of the script that `evoring run` started.
struct Coordinator {
    /// Runs the answers until it is dropped.
    _runtime: tokio::runtime::Runtime,
}

/// How the job went.
#[derive(Clone)]
enum Story {
    /// It made an artifact.
    Made(Vec<u8>),
    /// It made an artifact that is announced and never sent.
    Withheld,
    /// It failed.
    Failed,
    /// It runs for ever, and is not cancelled.
    Running,
}

impl Coordinator {
    /// Takes over in a cluster's folder as soon as it is complete.
    fn of_cluster(folder: &Path, story: Story) -> Self {
        let cluster = folder.join("cluster.json");
        wait_for("the cluster file", || {
            let text = fs::read(&cluster).ok()?;
            serde_json::from_slice::<serde_json::Value>(&text).ok()
        });
        let identity = Identity::load(&folder.join("identity/coordinator")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut listener = {
            let _guard = runtime.enter();
            Listener::bind("127.0.0.1:0".parse().unwrap(), &identity).unwrap()
        };
        let announcement =
            serde_json::json!({ "listen": listener.local_addr(), "process": std::process::id() });
        fs::write(folder.join("coordinator.json"), announcement.to_string()).unwrap();
        runtime.spawn(async move {
            while let Some(accepted) = listener.accept().await {
                if let Ok(connection) = accepted {
                    tokio::spawn(serve(connection, story.clone()));
                }
            }
        });
        Self { _runtime: runtime }
    }
}

async fn serve(connection: Connection, story: Story) -> Result<(), TransportError> {
    loop {
        let (mut sender, mut receiver) = connection.accept().await?;
        let Some(request) = receiver.receive::<ClientRequest>().await? else {
            continue;
        };
        for reply in replies(&request, &story) {
            sender.send(&reply).await?;
        }
        match (&request, &story) {
            (ClientRequest::Blob { .. }, Story::Withheld)
            | (ClientRequest::Follow { .. }, Story::Running) => {
                tokio::spawn(async move {
                    std::future::pending::<()>().await;
                    drop(sender);
                });
            }
            _ => sender.finish(),
        }
    }
}

fn replies(request: &ClientRequest, story: &Story) -> Vec<ClientReply> {
    match request {
        ClientRequest::Workers => vec![ClientReply::Workers(vec![worker()])],
        ClientRequest::Submit { .. } => vec![ClientReply::Submitted {
            job: JobId(1),
            already_known: false,
        }],
        ClientRequest::Follow { .. } | ClientRequest::Show { .. } => {
            vec![ClientReply::Job(Box::new(job(story)))]
        }
        ClientRequest::Blob { .. } => match story {
            Story::Withheld | Story::Failed | Story::Running => {
                vec![ClientReply::BlobStart { bytes: 1 }]
            }
            Story::Made(bytes) => vec![
                ClientReply::BlobStart {
                    bytes: bytes.len() as u64,
                },
                ClientReply::BlobChunk(bytes.clone()),
            ],
        },
        other => {
            let message = format!("not expected in this test: {other:?}");
            vec![ClientReply::Error(RemoteError::new(
                ErrorCode::Internal,
                message,
            ))]
        }
    }
}

fn worker() -> WorkerView {
    WorkerView {
        worker: WorkerId::new("w1").unwrap(),
        connected: true,
        process: 1,
        executors: vec![1],
        host: "here".to_owned(),
        slots: 1,
        busy: 0,
        numerics: "n".to_owned(),
        metrics: None,
    }
}

fn job(story: &Story) -> JobView {
    let artifact = |digest| (ARTIFACT.to_owned(), digest);
    let (status, artifacts) = match story {
        Story::Made(bytes) => (JobStatus::Finished, vec![artifact(Digest::of(bytes))]),
        Story::Withheld => (JobStatus::Finished, vec![artifact(Digest([7; 32]))]),
        Story::Failed => (JobStatus::Failed, Vec::new()),
        Story::Running => (JobStatus::Running, Vec::new()),
    };
    JobView {
        job: JobId(1),
        name: "x".to_owned(),
        kind: "evolve.prune".to_owned(),
        status,
        stage: "evaluate".to_owned(),
        stages: vec!["evaluate".to_owned()],
        submitted_ms: 0,
        started_ms: Some(0),
        ended_ms: Some(1),
        error: None,
        slots: 0,
        items: (0, 0),
        evaluated: 0,
        cache_hits: 0,
        retries: 0,
        training: None,
        generation: None,
        summary: None,
        artifacts,
        labels: Vec::new(),
    }
}

/// The folder that `evoring run` made for its cluster.
fn cluster_folder(stage: &Stage) -> PathBuf {
    let clusters = stage.path("state/evoring/clusters");
    wait_for("a cluster", || {
        let mut entries = fs::read_dir(&clusters).ok()?;
        Some(entries.next()?.unwrap().path())
    })
}

/// Runs the job to its end with the artifact `bytes`; the exit code.
fn run_to_the_end(stage: &Stage, stderr: Stdio, bytes: &[u8]) -> Option<i32> {
    fs::write(stage.path("job.toml"), JOB).unwrap();
    let mut command = stage.command(&["run", "job.toml", "--workers", "1", "--out", "out"]);
    let mut child = spawn(command.stdout(Stdio::null()).stderr(stderr));
    let story = Story::Made(bytes.to_owned());
    let _coordinator = Coordinator::of_cluster(&cluster_folder(stage), story);
    wait_for("the end of the run", || child.try_wait().unwrap()).code()
}

/// Runs the job and sends SIGINT once `text` is told: the cluster's folder, how it ended, and what it
/// told.
fn interrupt_once_told(stage: &Stage, story: Story, text: &str) -> (PathBuf, ExitStatus, String) {
    fs::write(stage.path("job.toml"), JOB).unwrap();
    let log = stage.path("stderr");
    let mut command = stage.command(&["run", "job.toml", "--workers", "1", "--out", "out"]);
    command
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap());
    let mut child = spawn(&mut command);
    let folder = cluster_folder(stage);
    let _coordinator = Coordinator::of_cluster(&folder, story);
    let said = || fs::read_to_string(&log).unwrap();
    wait_for(text, || said().contains(text).then_some(()));
    signal(&child, "-INT");
    let status = wait_for("the end of the run", || child.try_wait().unwrap());
    (folder, status, said())
}

// Claim: a second run replaces what the first wrote and nothing else, and a reader of standard
// error that goes away (`2>&1 | head`) ends no run. Method: two runs into one folder with notes in
// it, the second with a closed pipe as standard error.
#[test]
fn runs_into_one_folder() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    let out = stage.path("out");
    let text = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(run_to_the_end(&stage, Stdio::null(), b"first"), Some(0));
    assert_eq!(text(ARTIFACT), "first");
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let code = run_to_the_end(&stage, Stage::closed_pipe(), b"second");
    assert_eq!(code, Some(0));
    assert_eq!(
        (text(ARTIFACT), text("notes.txt")),
        ("second".to_owned(), "mine".to_owned())
    );
    assert_eq!(fs::read_dir(&out).unwrap().count(), 3);
    assert_eq!(
        fs::read_dir(stage.path("state/evoring/clusters"))
            .unwrap()
            .count(),
        0
    );
}

// Claim: a failure is told by the exit code where nobody reads standard error. Method: a closed
// pipe; a job file that is not there, and workers that die at once, which are told of one by one.
#[test]
fn closed_standard_error_keeps_exit_codes() {
    let stage = Stage::new(FAITHFUL, DYING);
    fs::write(stage.path("job.toml"), JOB).unwrap();
    for (arguments, code) in [
        (&["run", "absent.toml"][..], 2),
        (&["run", "absent.toml", "--json"], 2),
        (&["run", "job.toml", "--workers", "1"], 3),
    ] {
        let mut command = stage.command(arguments);
        command.stdout(Stdio::null()).stderr(Stage::closed_pipe());
        let mut child = spawn(&mut command);
        let status = wait_for("the end", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

// Claim: a job that failed is told by the exit code where nobody reads standard output. Method: a
// closed pipe for the documents of `--json`.
#[test]
fn closed_standard_output_keeps_the_verdict() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    fs::write(stage.path("job.toml"), JOB).unwrap();
    let mut command = stage.command(&["run", "job.toml", "--workers", "1", "--json"]);
    let mut child = spawn(command.stdout(Stage::closed_pipe()).stderr(Stdio::null()));
    let _coordinator = Coordinator::of_cluster(&cluster_folder(&stage), Story::Failed);
    let status = wait_for("the end of the run", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
}

// Claim: `fetch` that is interrupted says so by its exit code and leaves nothing behind, also while it
// waits for a coordinator that does not answer. Method: an artifact that never comes, and a
// coordinator that is not there.
#[test]
fn interrupted_fetch_leaves_nothing() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    let _local = stage.local("cluster");
    let folder = stage.path("cluster");
    let partial = || {
        let entries = fs::read_dir(stage.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("fetched")).count()
    };
    let interrupted = || {
        let mut command = stage.command(&["fetch", "1", "fetched"]);
        command
            .env("EVORING_CLUSTER", folder.join("cluster.json"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = spawn(&mut command);
        wait_for("the partial folder", || (partial() == 1).then_some(()));
        signal(&child, "-INT");
        wait_for("the end of fetch", || child.try_wait().unwrap()).code()
    };
    assert_eq!((interrupted(), partial()), (Some(130), 0));
    let _coordinator = Coordinator::of_cluster(&folder, Story::Withheld);
    assert_eq!((interrupted(), partial()), (Some(130), 0));
}

// Claim: where the coordinator does not confirm that the job is cancelled, Ctrl-C keeps the cluster's
// folder and does not say that it is. Method: a job that runs for ever and refuses to be cancelled.
#[test]
fn an_unconfirmed_cancellation_keeps_the_folder() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    let (folder, status, said) = interrupt_once_told(&stage, Story::Running, "job 1");
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(
        said.contains("stopped with its cluster") && !said.contains("cancelled"),
        "{said}"
    );
    assert!(folder.join("cluster.json").exists());
}

// Claim: Ctrl-C while results are fetched loses nothing: the finished job stays in the cluster's
// folder, and the user is told how to get its results. Method: an artifact that never comes.
#[test]
fn interrupt_while_fetching_keeps_the_job() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    let (folder, status, said) = interrupt_once_told(&stage, Story::Withheld, "fetching results");
    assert_eq!(status.code(), Some(130), "{said}");
    let hint = format!(
        "`evoring local --dir {}` and write them with `evoring fetch 1 {}`",
        folder.display(),
        stage.path("out").display()
    );
    assert!(
        said.contains("job 1 is finished") && said.contains(&hint) && !said.contains("cancelled"),
        "{said}"
    );
    assert!(folder.join("coordinator.json").exists());
    assert!(!stage.path("out").exists());
}
