//! A real coordinator process, and workers that speak the real protocol but compute made-up
//! results: pure functions of what they are asked, so that any two runs must agree.

#![allow(dead_code, reason = "each test binary uses its part")]

mod agent;
mod made_up;

use agent::Agent;
pub use made_up::JOB;

use evoring_coordinator::state::OLDEST_RECORDS;
use evoring_protocol::client::{ClientReply, ClientRequest, JobView};
use evoring_protocol::event::Event;
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::transport::{Authority, Connection, Connector, Identity, Role};
use evoring_protocol::version::build_id;
use evoring_protocol::worker::Hello;
use evoring_protocol::{ClusterId, Digest, JobId, SubmissionKey, WorkerId};
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Nothing in these tests takes longer than this.
pub const PATIENCE: Duration = Duration::from_secs(20);

const THIS_BUILD: &str = env!("CARGO_BIN_EXE_evoring-coordinator");

/// What a coordinator's process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Build {
    /// This build.
    This,
    /// This one, which goes no further than the oldest version of the records, as an older build would
    /// not.
    Held,
    /// Another one.
    Other(PathBuf),
}

impl Build {
    /// The one of `EVORING_OLDER_COORDINATOR`, or this one, held.
    pub fn older() -> Self {
        let other = std::env::var_os("EVORING_OLDER_COORDINATOR");
        other.map_or(Self::Held, |program| Self::Other(program.into()))
    }
}

/// A folder, an authority and a coordinator process.
pub struct Cluster {
    pub folder: tempfile::TempDir,
    authority: std::sync::Arc<Authority>,
    /// Name in the certificate.
    name: String,
    /// The first of its group.
    creates: bool,
    pub build: Build,
    child: Option<Child>,
    /// Passes on what the process logs, and gives it back when the process has ended.
    log: Option<JoinHandle<String>>,
    /// Size of a tmpfs that only the process sees, under `dir`.
    tmpfs_bytes: Option<u64>,
    pub address: SocketAddr,
    pub http: SocketAddr,
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// With a small file system of its own under the coordinator's folder.
    pub fn start_on_tmpfs(bytes: u64) -> Self {
        Self::start_with(Some(bytes))
    }

    /// The coordinator's folder as the process sees it.
    pub fn seen_dir(&self) -> PathBuf {
        let process = self.child.as_ref().unwrap().id();
        PathBuf::from(format!("/proc/{process}/root{}", self.dir().display()))
    }

    fn start_with(tmpfs_bytes: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(ClusterId(*b"made-up!"), SystemTime::now()).unwrap();
        Self::start_named(
            "c1",
            true,
            Build::This,
            authority.into(),
            folder,
            tmpfs_bytes,
        )
    }

    /// The first of a group, of another build.
    pub fn start_as(build: Build) -> Self {
        let authority = Authority::create(ClusterId(*b"made-up!"), SystemTime::now()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self::start_named("c1", true, build, authority.into(), folder, None)
    }

    /// Starts a process that is expected to end by itself; the log goes nowhere.
    pub fn start_until_end(&mut self) -> std::process::ExitStatus {
        let mut command = self.command();
        self.child = Some(command.stderr(Stdio::null()).spawn().unwrap());
        self.wait_end()
    }

    /// A coordinator of the same cluster that waits to be taken into its group.
    pub fn start_another(&self, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_named(
            name,
            false,
            self.build.clone(),
            self.authority.clone(),
            folder,
            None,
        )
    }

    fn start_named(
        name: &str,
        creates: bool,
        build: Build,
        authority: std::sync::Arc<Authority>,
        folder: tempfile::TempDir,
        tmpfs_bytes: Option<u64>,
    ) -> Self {
        let identity = authority
            .issue(Role::Coordinator, name, SystemTime::now())
            .unwrap();
        identity.save(&folder.path().join("identity")).unwrap();
        let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let mut cluster = Self {
            folder,
            authority,
            name: name.to_owned(),
            creates,
            build,
            child: None,
            log: None,
            tmpfs_bytes,
            address: nowhere,
            http: nowhere,
        };
        cluster.start_process();
        cluster
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("dir")
    }

    pub fn command(&self) -> Command {
        let path = self.folder.path();
        let program = match &self.build {
            Build::This | Build::Held => Path::new(THIS_BUILD),
            Build::Other(program) => program,
        };
        let is_held = self.build == Build::Held;
        let mut command = match self.tmpfs_bytes {
            None => Command::new(program),
            Some(bytes) => {
                std::fs::create_dir_all(self.dir()).unwrap();
                let script = format!("mount -t tmpfs -o size={bytes} none \"$0\" && exec \"$@\"");
                let mut command = Command::new("unshare");
                command
                    .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
                    .arg(self.dir())
                    .arg(program);
                command
            }
        };
        command
            .arg("--dir")
            .arg(self.dir())
            .arg("--identity")
            .arg(path.join("identity"))
            .arg("--listen")
            .arg("127.0.0.1:0")
            .arg("--blobs")
            .arg(format!("file://{}", path.join("blobs").display()))
            .arg("--announce")
            .arg(path.join("announce"))
            .args(self.creates.then_some("--create"))
            .args(is_held.then(|| format!("--hold-version={OLDEST_RECORDS}")))
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    pub fn start_process(&mut self) {
        let announce = self.folder.path().join("announce");
        let _ = std::fs::remove_file(&announce);
        let mut child = self.command().spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let name = self.name.clone();
        self.log = Some(std::thread::spawn(move || {
            let lines = std::io::BufReader::new(stderr).lines();
            let mut log = String::new();
            for line in lines.map_while(Result::ok) {
                println!("{name}: {line}");
                log.push_str(&line);
                log.push('\n');
            }
            log
        }));
        let began = Instant::now();
        let announced: serde_json::Value = loop {
            if let Ok(text) = std::fs::read_to_string(&announce) {
                break serde_json::from_str(&text).unwrap();
            }
            assert!(child.try_wait().unwrap().is_none(), "the coordinator ended");
            assert!(began.elapsed() < PATIENCE, "no announcement");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(announced["process"], child.id());
        let address: SocketAddr = announced["listen"].as_str().unwrap().parse().unwrap();
        // A restarted coordinator keeps its port, so that its peers find it at once.
        assert!(self.address.port() == 1 || self.address == address);
        self.address = address;
        self.http = announced["http"].as_str().unwrap().parse().unwrap();
        self.child = Some(child);
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Another port is no surprise at the next start.
    pub fn forget_address(&mut self) {
        self.address = "127.0.0.1:1".parse().unwrap();
    }

    /// Waits until the process ends by itself.
    pub fn wait_end(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if began.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("{} does not end", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and the exit status.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().unwrap();
        let process = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap()
    }

    /// What the process logged that has ended.
    pub fn log(&mut self) -> String {
        self.log.take().unwrap().join().unwrap()
    }

    pub fn identity(&self, role: Role, name: &str) -> Identity {
        self.authority.issue(role, name, SystemTime::now()).unwrap()
    }

    pub async fn connect(&self, role: Role, name: &str) -> Connection {
        let connector = Connector::new(&self.identity(role, name)).unwrap();
        connector
            .connect(self.address, Role::Coordinator)
            .await
            .unwrap()
    }

    pub async fn client(&self) -> Client {
        Client(self.connect(Role::Submitter, "tester").await)
    }

    /// A worker of one slot.
    pub fn worker(&self, name: &str, incarnation: u64, plan: Plan) -> FakeWorker {
        let connector = Connector::new(&self.identity(Role::Worker, name)).unwrap();
        let agent = Agent::new(WorkerId::new(name).unwrap(), incarnation, plan);
        FakeWorker(tokio::spawn(agent.run(connector, vec![self.address])))
    }

    /// A worker of one slot that knows several coordinators.
    pub fn worker_of(&self, name: &str, plan: Plan, addresses: Vec<SocketAddr>) -> FakeWorker {
        let connector = Connector::new(&self.identity(Role::Worker, name)).unwrap();
        let agent = Agent::new(WorkerId::new(name).unwrap(), 1, plan);
        FakeWorker(tokio::spawn(agent.run(connector, addresses)))
    }

    pub fn get(&self, path: &str, host: &str) -> (u16, String) {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(self.http).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A client.
pub struct Client(pub Connection);

impl Client {
    pub async fn replies(&self, request: ClientRequest) -> Vec<ClientReply> {
        let (mut sender, mut receiver) = self.0.open().await.unwrap();
        sender.send(&request).await.unwrap();
        sender.finish();
        let mut replies = Vec::new();
        while let Some(reply) = receiver.receive::<ClientReply>().await.unwrap() {
            replies.push(reply);
        }
        replies
    }

    pub async fn ask(&self, request: ClientRequest) -> ClientReply {
        let mut replies = self.replies(request).await;
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0)
    }

    pub async fn submit(&self, number: u8) -> JobId {
        let request = submission(number, JOB, false);
        match self.ask(request).await {
            ClientReply::Submitted { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    pub async fn show(&self, job: JobId) -> JobView {
        match self.ask(ClientRequest::Show { job }).await {
            ClientReply::Job(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    pub async fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for reply in self
            .replies(ClientRequest::Events {
                from: 1,
                follow: false,
                of: None,
            })
            .await
        {
            match reply {
                ClientReply::Events { events: page, .. } => events.extend(page),
                other => panic!("{other:?}"),
            }
        }
        events
    }

    pub async fn blob(&self, digest: Digest) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut expected = None;
        for reply in self.replies(ClientRequest::Blob { digest }).await {
            match reply {
                ClientReply::BlobStart { bytes } => expected = Some(bytes),
                ClientReply::BlobChunk(chunk) => bytes.extend(chunk),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(expected, Some(bytes.len() as u64));
        assert_eq!(Digest::of(&bytes), digest);
        bytes
    }

    /// Waits until the job's view fulfils a condition.
    pub async fn wait(
        &self,
        job: JobId,
        what: &str,
        condition: impl Fn(&JobView) -> bool,
    ) -> JobView {
        let began = Instant::now();
        loop {
            let view = self.show(job).await;
            if condition(&view) {
                return view;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "waited for: {what}; last: {view:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub fn submission(number: u8, text: &str, refuse_unless_fits: bool) -> ClientRequest {
    ClientRequest::Submit {
        key: SubmissionKey([number; 16]),
        file: "job.toml".to_owned(),
        text: text.to_owned(),
        refuse_unless_fits,
    }
}

/// A hello of a worker that holds nothing.
pub fn hello(name: &str) -> Hello {
    Hello {
        build: build_id(),
        worker: WorkerId::new(name).unwrap(),
        incarnation: 1,
        process: 1,
        host: "host".to_owned(),
        slots: 1,
        numerics: NumericsClass("made-up".to_owned()),
        metrics: None,
        leases: Vec::new(),
        ranks: Vec::new(),
    }
}

/// How a made-up worker behaves.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Time of one item.
    pub item: Duration,
    /// Time of a gang's training.
    pub training: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            item: Duration::from_millis(1),
            training: Duration::from_millis(20),
        }
    }
}

/// A running worker; dropping it kills it without a word, as SIGKILL does.
pub struct FakeWorker(tokio::task::JoinHandle<()>);

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Blobs in the store.
#[allow(dead_code, reason = "used by some of the test binaries")]
pub fn stored(folder: &Path, digest: Digest) -> bool {
    folder.join("blobs").join(digest.blob_path()).exists()
}
