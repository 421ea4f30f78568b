//! The process around the cores: threads, sockets, files. It waits, feeds the cores and carries
//! out what they want; it decides nothing.
//!
//! Threads: `evoring-raft` owns consensus and the log's file, `evoring-leader` owns state and
//! scheduler, `evoring-events` writes the event file; connections and HTTP live on tokio's.

#![allow(
    clippy::disallowed_methods,
    reason = "the shell has clocks and threads; the cores have none"
)]

mod blobs;
mod clients;
mod event_file;
mod folder;
mod gates;
mod http;
mod job_logs;
mod leader_thread;
mod lifeline;
mod metrics;
mod pages;
mod raft_thread;
mod settings;
mod workers;

pub use settings::Settings;

use crate::consensus::{Consensus, NodeConfig, first_write};
use crate::leader::{Leader, LeaderConfig, Question, Secrets};
use crate::state::State;
use crate::storage::{LogStore, RedbStore};
use anyhow::Context as _;
use blobs::Blobs;
use clients::Clients;
use event_file::EventFile;
use evoring_protocol::transport::{Connection, Identity, Listener, Role};
use folder::Folder;
use http::Http;
use job_logs::JobLogs;
use leader_thread::{Inbox, LeaderThread};
use metrics::Metrics;
use raft_thread::RaftParts;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};

/// Messages that wait for the leader thread; senders wait beyond that.
const INBOX: usize = 4_096;
/// A coordinator that starts looks this often whether it is in office; that takes one sync.
const OFFICE_INTERVAL: Duration = Duration::from_millis(2);
/// The one voter that exists yet.
const VOTER: u64 = 1;

/// Runs a coordinator until it is told to stop.
///
/// # Errors
/// With what failed, where, and what to do; the process should exit with 1.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let folder = Folder::open(&settings.dir)?;
    let identity = Identity::load(&settings.identity)
        .with_context(|| format!("the identity in {}", settings.identity.display()))?;
    let metrics = Arc::new(Metrics::new()?);
    let blobs = Blobs::open(&settings.blobs)?;
    let events = EventFile::open(&settings.dir)?;
    let logs = JobLogs::default();
    logs.take_up(&events.all());
    let listener = folder.listen(settings.listen, &identity)?;
    let (inbox, messages) = mpsc::channel(INBOX);
    let inbox = Inbox::new(inbox);
    let http = http::start(settings.http, Arc::clone(&metrics)).await?;

    let taken = take_up(&settings)?;
    let (failed, failure) = mpsc::channel::<anyhow::Error>(4);
    let raft = RaftParts {
        consensus: taken.consensus,
        store: taken.store,
        folder: settings.dir.clone(),
        inbox: inbox.clone(),
        metrics: Arc::clone(&metrics),
        snapshot_bytes: taken.snapshot_bytes,
    };
    let raft = raft.start(failed.clone())?;
    let leader = LeaderThread {
        leader: taken.leader,
        messages,
        raft: raft.sender(),
        events: events.clone(),
        logs: logs.clone(),
        blobs: blobs.clone(),
        inbox: inbox.clone(),
        metrics,
        runtime: tokio::runtime::Handle::current(),
    };
    let leader = leader.start(failed)?;

    let clients = Clients::new(inbox.clone(), events.clone(), logs, blobs, http.address());
    let (stop, stopped) = watch::channel(false);
    let mut door = Door {
        settings,
        folder,
        listener,
        http,
        inbox,
        clients: Arc::new(clients),
        stopped,
    };
    let outcome = door.open(failure).await;
    let reason = outcome
        .as_ref()
        .map_or_else(ToString::to_string, Clone::clone);
    tracing::info!(reason, "coordinator stops");
    // Receivers may all be gone.
    let _ = stop.send(true);
    let folder = door.close().await;
    // Joining waits for the last sync at most; nothing is acknowledged after it.
    let threads = tokio::task::spawn_blocking(move || {
        leader.join();
        raft.join();
        events.close();
    });
    threads.await.context("joining the coordinator's threads")?;
    drop(folder);
    outcome.map(drop)
}

/// Where peers come in.
struct Door {
    settings: Settings,
    folder: Folder,
    listener: Listener,
    http: Http,
    inbox: Inbox,
    clients: Arc<Clients>,
    stopped: watch::Receiver<bool>,
}

impl Door {
    /// Lets peers in until the process shall end; gives the reason.
    async fn open(&mut self, mut failure: mpsc::Receiver<anyhow::Error>) -> anyhow::Result<String> {
        let mut end = lifeline::end(self.settings.lifeline_fd)?;
        let mut is_announced = false;
        loop {
            tokio::select! {
                biased;
                reason = &mut end => return Ok(reason.unwrap_or_else(|_| "the watcher of signals ended".to_owned())),
                error = failure.recv() => return Err(error.unwrap_or_else(|| anyhow::anyhow!("a thread ended"))),
                () = in_office(&self.inbox), if !is_announced => {
                    is_announced = true;
                    self.announce()?;
                }
                accepted = self.listener.accept() => match accepted {
                    Some(Ok(connection)) => self.serve(connection),
                    Some(Err(error)) => tracing::warn!(%error, "a connection was refused"),
                    None => anyhow::bail!("the listener at {} ended", self.listener.local_addr()),
                },
            }
        }
    }

    fn announce(&self) -> anyhow::Result<()> {
        let (listen, http) = (self.listener.local_addr(), self.http.address());
        self.folder
            .announce(&self.settings.announce, listen, http)?;
        tracing::info!(%listen, %http, dir = %self.settings.dir.display(), "coordinator is up");
        Ok(())
    }

    /// Gives a connection to those who talk with its role.
    fn serve(&self, connection: Connection) {
        match connection.peer().role {
            Role::Worker => {
                tokio::spawn(workers::serve(
                    connection,
                    self.inbox.clone(),
                    self.stopped.clone(),
                ));
            }
            Role::Coordinator | Role::Submitter | Role::Viewer => {
                tokio::spawn(clients::serve(
                    connection,
                    Arc::clone(&self.clients),
                    self.stopped.clone(),
                ));
            }
        }
    }

    /// Ends all connections and tells the leader thread to end; gives back the locked folder.
    async fn close(self) -> Folder {
        self.listener.close("the coordinator stops").await;
        self.http.stop();
        self.inbox.stop();
        self.folder
    }
}

/// Waits until the leader thread answers questions.
async fn in_office(inbox: &Inbox) {
    while inbox.ask(Question::Workers).await.is_err() {
        tokio::time::sleep(OFFICE_INTERVAL).await;
    }
}

/// What the threads begin with.
struct TakenUp {
    consensus: Consensus,
    store: RedbStore,
    leader: Leader,
    snapshot_bytes: u64,
}

/// Reads the stored state, or makes the first.
fn take_up(settings: &Settings) -> anyhow::Result<TakenUp> {
    let mut store = RedbStore::open(&settings.dir)?;
    let mut stored = store.load()?;
    if stored.snapshot.is_none() {
        store.write(&first_write(VOTER, State::default().encode()))?;
        stored = store.load()?;
    }
    let snapshot = stored
        .snapshot
        .as_ref()
        .context("the log has no snapshot to begin with")?;
    let mut state = State::decode(&snapshot.data).with_context(|| {
        format!(
            "the snapshot at index {} in {}",
            snapshot.index,
            settings.dir.display()
        )
    })?;
    state.begin_after(snapshot.index);
    let snapshot_bytes = snapshot.data.len() as u64;
    let config = NodeConfig {
        id: VOTER,
        boot: u64::from_le_bytes(random()?),
    };
    let consensus = Consensus::new(config, stored)?;
    let leader = LeaderConfig {
        process: std::process::id(),
        blobs: settings.blobs.clone(),
    };
    Ok(TakenUp {
        consensus,
        store,
        leader: Leader::new(leader, state, Secrets::new(random()?)),
        snapshot_bytes,
    })
}

/// Milliseconds since 1970.
fn wall_clock_ms() -> u64 {
    let time = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes from the system's generator.
fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut file = std::fs::File::open("/dev/urandom").context("/dev/urandom")?;
    std::io::Read::read_exact(&mut file, &mut bytes).context("/dev/urandom")?;
    Ok(bytes)
}

/// Runs a thread's work; an error or a panic ends the process through `failed`.
fn guarded(
    name: &str,
    failed: &mpsc::Sender<anyhow::Error>,
    work: impl FnOnce() -> anyhow::Result<()>,
) {
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => anyhow::anyhow!("the {name} thread panicked; the lines before say where"),
    };
    // The process ends anyway if nobody listens.
    let _ = failed.blocking_send(error);
}

/// What a question's sender waits for.
type Reply<T> = oneshot::Sender<T>;
