//! The real agent with a real executor, against a coordinator that this test plays over the real
//! transport: what it says, what survives, and what ends with it.
#![expect(clippy::unwrap_used, reason = "tests")]

use evoring_protocol::transport::{Announcement, Authority, Identity, Listener, Role};
use evoring_protocol::work::{Assignment, Kernel, Lease, LeasedItem};
use evoring_protocol::worker::{Hello, WorkerCommand, WorkerReport};
use evoring_protocol::{
    Attempt, ClusterId, DemandId, EXIT_HOPELESS, ErrorCode, ItemIndex, JobId, RemoteError,
    SlotIndex, Term, WorkerId,
};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio::sync::mpsc;

// Runtimes of two threads: while a test waits for a process, the transport must go on.

/// Bound on every wait; test machines are slow and shared.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at visible state.
const POLL: Duration = Duration::from_millis(10);

/// An agent and the identities of its cluster.
struct Agent {
    child: Child,
    folder: TempDir,
    coordinator: Identity,
}

impl Agent {
    fn start() -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_evoring-worker")))
    }

    /// Starts `program` as agent `w1` whose coordinator announces itself in a file.
    fn start_program(program: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let now = SystemTime::now();
        let authority = Authority::create(ClusterId([7; 8]), now).unwrap();
        authority
            .issue(Role::Worker, "w1", now)
            .unwrap()
            .save(&folder.path().join("identity"))
            .unwrap();
        let coordinator = authority.issue(Role::Coordinator, "c1", now).unwrap();
        let mut command = Command::new(program);
        command
            .args([
                "--name",
                "w1",
                "--slots",
                "1",
                "--lifeline-fd",
                "0",
                "--dir",
            ])
            .arg(folder.path().join("agent"));
        command
            .arg("--identity")
            .arg(folder.path().join("identity"));
        command
            .arg("--announce")
            .arg(folder.path().join("coordinator.json"));
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            folder,
            coordinator,
        }
    }

    /// Opens a port and announces it, as a coordinator does that was started again.
    fn announce(&self) -> Listener {
        let listener = Listener::bind(
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            &self.coordinator,
        )
        .unwrap();
        let announcement = Announcement {
            listen: listener.local_addr(),
            http: None,
            process: std::process::id(),
        };
        let path = self.folder.path().join("coordinator.json");
        announcement.write(&path).unwrap();
        listener
    }

    /// Waits for the agent to end by itself; its standard error, and whether it succeeded.
    fn end(&mut self) -> (ExitStatus, String) {
        let status = poll("the end of the agent", || self.child.try_wait().unwrap());
        let mut text = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        (status, text)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One session, from the coordinator's side.
struct Session {
    commands: mpsc::Sender<WorkerCommand>,
    reports: mpsc::Receiver<Result<WorkerReport, evoring_protocol::transport::TransportError>>,
    connection: evoring_protocol::transport::Connection,
}

impl Session {
    /// Takes the agent's connection and its hello, which must come first.
    async fn accept(listener: &mut Listener) -> (Self, Hello) {
        let connection = in_time("a connection", listener.accept())
            .await
            .unwrap()
            .unwrap();
        let (sender, receiver) = in_time("a stream", connection.accept()).await.unwrap();
        let (commands, _) = sender.into_queue(64);
        let mut session = Self {
            commands,
            reports: receiver.into_queue(64),
            connection,
        };
        match session.next().await {
            WorkerReport::Hello(hello) => (session, hello),
            other => panic!("expected a hello, got {other:?}"),
        }
    }

    async fn send(&self, command: WorkerCommand) {
        self.commands.send(command).await.unwrap();
    }

    async fn welcome(&self, blobs: &Path, leases_to_keep: Vec<(Term, u64)>) {
        let blobs = format!("file://{}", blobs.display());
        let (term, heartbeat_ms, ranks_to_keep) = (Term(1), 50, vec![]);
        self.send(WorkerCommand::Welcome {
            term,
            heartbeat_ms,
            blobs,
            leases_to_keep,
            ranks_to_keep,
        })
        .await;
    }

    async fn next(&mut self) -> WorkerReport {
        in_time("a report", self.reports.recv())
            .await
            .expect("the stream goes on")
            .unwrap()
    }

    /// Skips reports until `look` finds what it wants.
    async fn until<T>(&mut self, mut look: impl FnMut(&WorkerReport) -> Option<T>) -> T {
        loop {
            if let Some(found) = look(&self.next().await) {
                return found;
            }
        }
    }

    /// Process id of the executor, as heartbeats tell it, once it is not `other`.
    async fn executor_but(&mut self, other: u32) -> u32 {
        self.until(|report| match report {
            WorkerReport::Heartbeat { executors } => executors
                .first()
                .copied()
                .filter(|p| *p != 0 && *p != other),
            _ => None,
        })
        .await
    }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

fn poll<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(POLL);
    }
}

/// Whether a process computes: a zombie that nobody has waited for yet does not.
fn is_alive(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    !status.is_empty()
        && !status
            .lines()
            .any(|line| line.starts_with("State:") && line.contains('Z'))
}

fn kill(process: u32) {
    let process = rustix::process::Pid::from_raw(process.cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

/// A lease of one item whose payload no kernel understands: its outcome is an error, at once.
fn grant() -> WorkerCommand {
    let lease = Lease {
        job: JobId(1),
        demand: DemandId(1),
        items: vec![LeasedItem {
            index: ItemIndex(3),
            attempt: Attempt(1),
        }],
        worker: WorkerId::new("w1").unwrap(),
        slot: SlotIndex(0),
        term: Term(1),
        number: 9,
        expiry_ms: 60_000,
        mac: [1; 32],
    };
    let (job, demand, stage) = (JobId(1), DemandId(1), "search".into());
    let assignment = Assignment {
        job,
        demand,
        stage,
        kernel: Kernel::PruneRank,
        payload: vec![255],
        inputs: vec![],
    };
    WorkerCommand::Grant {
        lease,
        assignment,
        items: vec![vec![1, 2, 3]],
    }
}

fn get(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Claim: an agent waits for its coordinator, introduces itself, and names its executor; a killed
/// executor is reported with its signal and started again; when the agent is killed by SIGKILL,
/// its executor ends too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_dies_and_comes_back_and_ends_with_its_agent() {
    let mut agent = Agent::start();
    let mut listener = agent.announce();
    let (mut session, hello) = Session::accept(&mut listener).await;
    assert_eq!(
        (hello.process, hello.slots, hello.leases.len()),
        (agent.child.id(), 1, 0)
    );
    assert!(hello.numerics.0.contains("libtorch"), "{}", hello.numerics);
    session
        .welcome(&agent.folder.path().join("blobs"), vec![])
        .await;
    let first = session.executor_but(0).await;
    kill(first);
    let (process, status) = session
        .until(|report| match report {
            WorkerReport::ExecutorExited {
                process, status, ..
            } => Some((*process, status.clone())),
            _ => None,
        })
        .await;
    assert_eq!(process, first);
    assert!(status.contains("SIGKILL"), "{status}");
    let second = session.executor_but(first).await;
    assert!(is_alive(second));
    agent.child.kill().unwrap();
    poll("the executor's end", || (!is_alive(second)).then_some(()));
}

/// Claim (AGENT-1): what a coordinator does not acknowledge is told again, with the same number,
/// to the next one, which listens elsewhere; the hello lists its lease; after the acknowledgement
/// it is not told a third time. Method: two coordinators one after the other, then a third session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_outlive_a_coordinator() {
    let agent = Agent::start();
    let blobs = agent.folder.path().join("blobs");
    let results = |report: &WorkerReport| match report {
        WorkerReport::Results {
            sequence, outcomes, ..
        } => Some((*sequence, outcomes.clone())),
        _ => None,
    };
    let mut listener = agent.announce();
    let (mut session, _) = Session::accept(&mut listener).await;
    session.welcome(&blobs, vec![]).await;
    session.send(grant()).await;
    let (sequence, outcomes) = session.until(results).await;
    assert_eq!(outcomes[0].index, ItemIndex(3));
    let error = outcomes[0].result.as_ref().unwrap_err();
    assert!(
        !error.cause.can_retry(),
        "a payload that is no call will never be one: {error}"
    );
    listener.close("this coordinator is gone").await;

    let mut listener = agent.announce();
    let (mut session, hello) = Session::accept(&mut listener).await;
    assert_eq!(
        hello
            .leases
            .iter()
            .map(|lease| lease.number)
            .collect::<Vec<u64>>(),
        [9]
    );
    session.welcome(&blobs, vec![(Term(1), 9)]).await;
    assert_eq!(session.until(results).await, (sequence, outcomes));
    session.send(WorkerCommand::Acknowledge { sequence }).await;
    // The agent's next answer proves that it has read the acknowledgement.
    session.send(grant()).await;
    let (second, _) = session.until(results).await;
    session
        .send(WorkerCommand::Acknowledge { sequence: second })
        .await;
    let address = hello.metrics.unwrap();
    poll("an empty outbox", || {
        let text = get(
            address,
            &format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
        );
        text.contains("evoring_worker_unacknowledged_reports 0\n")
            .then_some(())
    });
    session.connection.close("again");
    let (_, hello) = Session::accept(&mut listener).await;
    assert_eq!(hello.leases, []);
}

/// Claim: metrics are read-only, for a Host that names this machine; `/readyz` says whether a
/// session stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_is_read_only_and_local() {
    let agent = Agent::start();
    let mut listener = agent.announce();
    let (mut session, hello) = Session::accept(&mut listener).await;
    let address = hello.metrics.unwrap();
    assert!(address.ip().is_loopback());
    let ask = |request: &str, host: &str| {
        get(
            address,
            &format!("{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        )
    };
    let own = address.to_string();
    assert!(
        ask("GET /readyz", &own).starts_with("HTTP/1.1 503"),
        "no welcome yet"
    );
    session
        .welcome(&agent.folder.path().join("blobs"), vec![])
        .await;
    session.executor_but(0).await;
    poll("readiness", || {
        ask("GET /readyz", &own)
            .starts_with("HTTP/1.1 200")
            .then_some(())
    });
    assert!(
        ask("GET /healthz", &format!("localhost:{}", address.port())).starts_with("HTTP/1.1 200")
    );
    assert!(ask("GET /metrics", &own).contains("evoring_worker_slots_ready 1\n"));
    assert!(ask("GET /metrics", "evil.example").starts_with("HTTP/1.1 421"));
    assert!(ask("POST /metrics", &own).starts_with("HTTP/1.1 405"));
}

/// Claim: an agent that is refused for good ends and repeats the coordinator's sentence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_agent_ends() {
    let mut agent = Agent::start();
    let mut listener = agent.announce();
    let (session, _) = Session::accept(&mut listener).await;
    let error = RemoteError::new(
        ErrorCode::VersionMismatch,
        "run the same build of Evoring on both sides",
    );
    session.send(WorkerCommand::Refuse(error)).await;
    let (status, text) = agent.end();
    assert!(
        text.contains("run the same build of Evoring on both sides"),
        "{text}"
    );
    assert_eq!(status.code(), Some(EXIT_HOPELESS.into()));
}

/// Claim: an agent ends, with its executor, when its parent's end of the lifeline closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_ends_with_its_parent() {
    let mut agent = Agent::start();
    let mut listener = agent.announce();
    let (mut session, _) = Session::accept(&mut listener).await;
    session
        .welcome(&agent.folder.path().join("blobs"), vec![])
        .await;
    let executor = session.executor_but(0).await;
    drop(agent.child.stdin.take());
    let (status, text) = agent.end();
    assert!(status.success(), "{text}");
    assert!(!is_alive(executor), "the agent waits for its executors");
}

/// Claim: an agent whose executor cannot load libtorch says what is missing and how to get it, and
/// ends at once, as starting it again would not help; one whose executor dies in another way tries
/// five times. Method: the agent beside an executor that says and does what the dynamic loader does;
/// then beside one that ends as by an instruction that the processor does not have.
#[test]
fn an_executor_that_cannot_start_is_explained() {
    // Beside the build, so that the agent can be linked to rather than copied.
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().join("evoring-worker");
    std::fs::hard_link(env!("CARGO_BIN_EXE_evoring-worker"), &program).unwrap();
    let executor = folder.path().join("evoring-executor");
    let end = |says: &str| {
        place_broken_executor(&executor, says);
        let begin = Instant::now();
        let (status, text) = Agent::start_program(&program).end();
        (status.code(), text, begin.elapsed())
    };
    let (code, text, _) = end(
        "evoring-executor: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file: No such file or directory",
    );
    assert_eq!(code, Some(EXIT_HOPELESS.into()), "{text}");
    assert!(
        text.contains("libtorch_cpu.so")
            && text.contains("make setup")
            && text.contains("exit status: 127"),
        "{text}"
    );
    assert_eq!(
        text.matches("the executor of slot 0 ended").count(),
        2,
        "{text}"
    );
    let (code, text, time) = end("illegal instruction");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("5 deaths within a minute"), "{text}");
    // Four restarts: after 0, 0.5, 1 and 2 s.
    assert!(time >= Duration::from_millis(3_500), "{text}");
}

fn place_broken_executor(path: &Path, says: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let part = path.with_extension("part");
    std::fs::write(&part, format!("#!/bin/sh\necho '{says}' >&2\nexit 127\n")).unwrap();
    std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(part, path).unwrap();
}
