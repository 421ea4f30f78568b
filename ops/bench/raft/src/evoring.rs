//! `evoring local` with three coordinators and no worker. A command is a label on a job, sent over
//! QUIC with mutual TLS; each client keeps one stream and sends its commands on it one by one.

mod access;
pub mod jobs;

use crate::cpu;
use crate::process::{self, until};
use crate::target::{Cluster, Member, NODES, Programs, Target, Writer};
use access::{Announcement, ask, refusal};
use anyhow::{Context, Result, anyhow, bail, ensure};
use evoring_protocol::JobId;
use evoring_protocol::client::{ClientReply, ClientRequest};
use evoring_protocol::transport::{Connection, Receiver, Sender};
use jobs::Keys;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Child;
use tokio::sync::{Mutex, RwLock};

pub use access::Access;

/// Bound on a cluster's coming up or coming back.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// Time that a failover's client gives one coordinator.
const ATTEMPT_PATIENCE: Duration = Duration::from_millis(100);
/// Wait before the next coordinator is tried.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(10);
/// Time for which a coordinator that did not answer is tried last.
const SILENCE: Duration = Duration::from_millis(300);
/// Time between two looks at a state that is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// Log entries that a coordinator which has caught up may be behind: the writer goes on.
const CAUGHT_UP: u64 = 50;
/// Clients whose labels are on one job, which takes 32.
const CLIENTS_PER_JOB: usize = 10;

/// A local cluster.
#[derive(Debug)]
pub struct Evoring {
    program: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    local: Child,
}

impl Evoring {
    /// Starts `evoring local` in a folder, fresh or used before, and does not wait for it.
    pub fn spawn(programs: &Programs, folder: &Path) -> Result<Self> {
        let log = folder.with_extension("log");
        let mut evoring = Self {
            local: process::start(&programs.evoring, &arguments(folder), &log)?,
            program: programs.evoring.clone(),
            folder: folder.to_owned(),
            log,
        };
        evoring.check()?;
        Ok(evoring)
    }

    /// How clients reach it now; another start makes other certificates.
    pub fn access(&self) -> Result<Access> {
        Access::read(&self.folder.join("cluster.json"))
    }

    /// Fails with the end of the log if the process has ended.
    fn check(&mut self) -> Result<()> {
        match self.local.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} local has ended ({status}); {}",
                self.program.display(),
                process::log_end(&self.log)
            ),
        }
    }

    /// Every coordinator has a process that lives, is in the group and has caught up; `gone` is a
    /// process that was killed.
    async fn all_caught_up(&self, gone: Option<u32>) -> Result<()> {
        let access = self.access()?;
        let announced = access.announced();
        let (_, view) = access.leader().await?;
        ensure!(
            announced.len() == NODES && view.members.len() == NODES,
            "{} coordinators announced, {} in the group",
            announced.len(),
            view.members.len()
        );
        for member in &view.members {
            let process = process_at(&announced, &member.address)?;
            ensure!(
                cpu::lives(process) && Some(process) != gone,
                "{} is not there again",
                member.name
            );
            let leads = Some(member.id) == view.leader;
            ensure!(
                leads
                    || member
                        .matched
                        .is_some_and(|index| index + CAUGHT_UP >= view.commit),
                "{} is behind: {:?} of {}",
                member.name,
                member.matched,
                view.commit
            );
        }
        Ok(())
    }

    /// Kills `evoring local` first, so that it starts nothing again, then the coordinators.
    pub async fn kill_all(mut self) -> Result<()> {
        let coordinators = self.processes().await?;
        self.local.kill().await?;
        for &process in &coordinators {
            // The end of `evoring local` ends them too.
            if cpu::lives(process) {
                let _ = process::kill(process);
            }
        }
        until("the coordinators' end", START_PATIENCE, LOOK, async || {
            ensure!(!coordinators.iter().any(|&process| cpu::lives(process)));
            Ok(())
        })
        .await
    }
}

impl Cluster for Evoring {
    const NAME: &'static str = "evoring";
    type Target = EvoringTarget;
    type Writer = EvoringWriter;

    async fn start(programs: &Programs, folder: &Path) -> Result<Self> {
        let mut evoring = Self::spawn(programs, folder)?;
        until("evoring's start", START_PATIENCE, LOOK, async || {
            evoring.all_caught_up(None).await
        })
        .await
        .or_else(|error| evoring.check().and(Err(error)))?;
        Ok(evoring)
    }

    async fn processes(&self) -> Result<Vec<u32>> {
        let announced = self.access()?.announced();
        Ok(announced.iter().map(|one| one.process).collect())
    }

    async fn leader(&self) -> Result<Member> {
        let access = self.access()?;
        let (_, view) = access.leader().await?;
        let leader = view
            .members
            .iter()
            .find(|member| Some(member.id) == view.leader)
            .context("the group has no leader")?;
        Ok(Member {
            name: leader.name.clone(),
            process: process_at(&access.announced(), &leader.address)?,
        })
    }

    async fn target(&self, clients: usize, connections: usize) -> Result<EvoringTarget> {
        let access = self.access()?;
        let mut links = Vec::new();
        for _ in 0..connections.min(clients) {
            links.push(RwLock::new(access.leader().await?.0));
        }
        let keys = Keys::new()?;
        let mut jobs = Vec::new();
        for _ in 0..clients.div_ceil(CLIENTS_PER_JOB) {
            jobs.push(jobs::submit(&*links[0].read().await, &keys).await?);
        }
        Ok(EvoringTarget {
            access,
            links,
            streams: (0..clients).map(|_| Mutex::default()).collect(),
            jobs,
        })
    }

    async fn writer(&self) -> Result<EvoringWriter> {
        let access = self.access()?;
        let (connection, _) = access.leader().await?;
        Ok(EvoringWriter {
            job: jobs::submit(&connection, &Keys::new()?).await?,
            access,
            nodes: (0..NODES).map(|_| Reached::default()).collect(),
            at: 0,
        })
    }

    async fn restored(&mut self, killed: &Member) -> Result<()> {
        let what = format!("recovery of {}", killed.name);
        until(&what, START_PATIENCE, LOOK, async || {
            self.all_caught_up(Some(killed.process)).await
        })
        .await
    }

    async fn stop(self) -> Result<()> {
        self.kill_all().await
    }
}

fn arguments(folder: &Path) -> Vec<OsString> {
    let nodes = NODES.to_string();
    ["local", "--coordinators", &nodes, "--workers", "0", "--dir"]
        .iter()
        .map(OsString::from)
        .chain([folder.into()])
        .collect()
}

/// The process that listens at a member's address.
fn process_at(announced: &[Announcement], address: &str) -> Result<u32> {
    announced
        .iter()
        .find(|one| one.listen.to_string() == address)
        .map(|one| one.process)
        .with_context(|| format!("nobody has announced itself at {address}"))
}

/// The request to attach a label.
fn label(job: JobId, key: &str, value: &str) -> ClientRequest {
    ClientRequest::Label {
        job,
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

/// Attaches a label.
async fn attach(stream: &mut Stream, request: &ClientRequest) -> Result<()> {
    let (sender, receiver) = stream;
    sender.send(request).await?;
    let reply = receiver.receive::<ClientReply>().await?;
    match reply.context("the coordinator ended the stream without an answer")? {
        ClientReply::Done => Ok(()),
        other => Err(refusal(&other)),
    }
}

/// A client's stream.
type Stream = (Sender, Receiver);

/// Clients over QUIC; each connection carries the streams of its clients.
pub struct EvoringTarget {
    access: Access,
    links: Vec<RwLock<Connection>>,
    /// By client, once it has sent something.
    streams: Vec<Mutex<Option<Stream>>>,
    jobs: Vec<JobId>,
}

impl Target for EvoringTarget {
    async fn put(&self, client: usize, key: &str, value: &str) -> Result<()> {
        let link = &self.links[client % self.links.len()];
        let job = self.jobs[client % self.jobs.len()];
        // A client sends one command after the other, so nobody waits here.
        let mut stream = self.streams[client].lock().await;
        let opened = match &mut *stream {
            Some(opened) => opened,
            None => stream.insert(link.read().await.clone().open().await?),
        };
        let outcome = attach(opened, &label(job, key, value)).await;
        if outcome.is_err() {
            *stream = None;
            // One that leads now; of many clients that fail, each does this, which is rare.
            if let Ok((leading, _)) = self.access.leader().await {
                *link.write().await = leading;
            }
        }
        outcome
    }
}

/// One client that knows all coordinators and keeps a connection to each.
pub struct EvoringWriter {
    access: Access,
    job: JobId,
    nodes: Vec<Reached>,
    at: usize,
}

/// What the client knows of one coordinator.
#[derive(Default)]
struct Reached {
    link: Option<Connection>,
    /// When it did not answer in time, last.
    silent: Option<Instant>,
}

impl EvoringWriter {
    /// Whether the coordinator said that it carried it out, or that it does not.
    async fn put(&mut self, key: &str, value: &str) -> Result<ClientReply> {
        let link = &mut self.nodes[self.at].link;
        let connection = match link {
            Some(connection) => connection,
            None => {
                // One that has started again may listen elsewhere.
                let announced = self.access.announced();
                let node = announced.get(self.at).context("not announced")?;
                link.insert(self.access.connect(node.listen).await?)
            }
        };
        ask(connection, &label(self.job, key, value)).await
    }

    /// Goes on to the next coordinator; one that was silent a moment ago comes last.
    fn go_on(&mut self) {
        let count = self.nodes.len();
        let next = |step: usize| (self.at + step) % count;
        let speaks = |&node: &usize| {
            let silent = self.nodes[node].silent;
            silent.is_none_or(|since| since.elapsed() > SILENCE)
        };
        self.at = (1..=count).map(next).find(speaks).unwrap_or(next(1));
    }
}

impl Writer for EvoringWriter {
    async fn attempt(&mut self, key: &str, value: &str) -> Result<()> {
        let outcome = match tokio::time::timeout(ATTEMPT_PATIENCE, self.put(key, value)).await {
            Ok(Ok(ClientReply::Done)) => return Ok(()),
            Ok(Ok(other)) => refusal(&other),
            Ok(Err(error)) => {
                self.nodes[self.at] = Reached::default();
                error
            }
            Err(_) => {
                self.nodes[self.at] = Reached {
                    link: None,
                    silent: Some(Instant::now()),
                };
                anyhow!("no answer in time")
            }
        };
        self.go_on();
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        Err(outcome)
    }
}

/// Attaches a label to `job` with the coordinator that leads.
pub async fn write_once(access: &Access, job: JobId) -> Result<()> {
    let (connection, _) = access.leader().await?;
    let mut stream = connection.open().await?;
    attach(&mut stream, &label(job, "restart", "done")).await
}
