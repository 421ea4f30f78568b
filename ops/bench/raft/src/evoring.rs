//! `evoring local` with three coordinators and no worker. A command is a label on a job, sent over
//! QUIC with mutual TLS; each client keeps one stream and sends its commands on it one by one.

mod access;
pub mod jobs;

use crate::cpu;
use crate::process::{self, until};
use crate::target::{Cluster, Member, NODES, Programs, Target, Writer};
use ::evoring::client::{Client, SHORT_PATIENCE};
use access::{Announcement, refusal};
use anyhow::{Context, Result, anyhow, bail, ensure};
use evoring_protocol::client::{ClientReply, ClientRequest};
use evoring_protocol::transport::{Connection, Receiver, Sender};
use evoring_protocol::{JobId, RequestKey};
use jobs::Keys;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::{Mutex, RwLock};

pub use access::Access;

/// What `evoring local` writes for its clients.
const CLUSTER_FILE: &str = "cluster.json";
/// Bound on a cluster's coming up or coming back.
const START_PATIENCE: Duration = Duration::from_secs(120);
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
        Access::read(&self.folder.join(CLUSTER_FILE))
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

    /// Kills everything. `evoring local` stands still meanwhile: it would start coordinators again, and
    /// they would end in an orderly way if it ended first.
    pub async fn kill_all(mut self) -> Result<()> {
        let coordinators = self.processes().await?;
        process::stop(self.local.id().context("evoring local has ended")?)?;
        for &process in &coordinators {
            process::kill(process)?;
        }
        self.local.kill().await?;
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
        let (connection, _) = self.access()?.leader().await?;
        let access = ::evoring::client::Access::from_file(&self.folder.join(CLUSTER_FILE))
            .map_err(|failure| anyhow!("{failure}"))?;
        Ok(EvoringWriter {
            job: jobs::submit(&connection, &Keys::new()?).await?,
            client: Client::new(access, SHORT_PATIENCE),
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

/// The request to attach a label; each has a key that no other has.
fn label(job: JobId, key: &str, value: &str) -> ClientRequest {
    static LABELLED: AtomicU64 = AtomicU64::new(0);
    let number = LABELLED.fetch_add(1, Ordering::Relaxed);
    ClientRequest::LabelOnce {
        job,
        key: key.to_owned(),
        value: value.to_owned(),
        request: RequestKey(u128::from(number).to_le_bytes()),
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

/// The client that commands are.
pub struct EvoringWriter {
    client: Client,
    job: JobId,
}

impl Writer for EvoringWriter {
    async fn attempt(&mut self, key: &str, value: &str) -> Result<()> {
        match self.client.ask(&label(self.job, key, value)).await {
            Ok(ClientReply::Done) => Ok(()),
            Ok(other) => Err(refusal(&other)),
            Err(failure) => Err(anyhow!("{failure}")),
        }
    }
}

/// Attaches a label to `job` with the coordinator that leads.
pub async fn write_once(access: &Access, job: JobId) -> Result<()> {
    let (connection, _) = access.leader().await?;
    let mut stream = connection.open().await?;
    attach(&mut stream, &label(job, "restart", "done")).await
}
