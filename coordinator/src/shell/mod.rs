//! The process around the cores: threads, sockets, files. It waits, feeds the cores and carries
//! out what they want; it decides nothing.
//!
//! Threads: `evoring-raft` owns consensus, `evoring-log` the log's file, `evoring-leader` owns state
//! and scheduler, `evoring-events` writes the event file; connections and HTTP live on tokio's.

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
mod joining;
mod leader_thread;
mod lifeline;
mod log_writer;
mod member_file;
mod metrics;
mod pages;
mod peers;
mod raft_thread;
mod settings;
mod workers;

pub use settings::Settings;

use crate::consensus::{Consensus, NodeConfig, StopReason, first_write};
use crate::leader::{Denial, Leader, LeaderConfig, Question, Secrets};
use crate::state::State;
use crate::storage::{LogStore, RedbStore, Stored};
use anyhow::Context as _;
use blobs::Blobs;
use clients::Clients;
use event_file::EventFile;
use evoring_protocol::peer::GroupId;
use evoring_protocol::transport::{Connection, Connector, Identity, Listener, Role};
use folder::Folder;
use http::Http;
use job_logs::JobLogs;
use leader_thread::{Inbox, LeaderThread, Message, Standing};
use log_writer::LogParts;
use member_file::Membership;
use metrics::Metrics;
use peers::{Common, Doorkeeper, Links};
use raft_thread::RaftParts;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};

/// Id of the first member of every group.
const FOUNDER: u64 = 1;
/// Messages that wait for the leader thread; senders wait beyond that.
const INBOX: usize = 4_096;
/// A coordinator that starts looks this often whether anybody leads.
const OFFICE_INTERVAL: Duration = Duration::from_millis(2);
/// A coordinator that stops waits this long for another one to lead.
const HAND_OVER: Duration = Duration::from_secs(1);

/// Runs a coordinator until it is told to stop.
///
/// # Errors
/// With what failed, where, and what to do; the process should exit with 1, or, for a
/// [`crate::consensus::StopReason`], with [`evoring_protocol::EXIT_HOPELESS`].
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let folder = Folder::open(&settings.dir)?;
    let identity = Identity::load(&settings.identity)
        .with_context(|| format!("the identity in {}", settings.identity.display()))?;
    let metrics = Arc::new(Metrics::new()?);
    let blobs = Blobs::open(&settings.blobs)?;
    let events = EventFile::open(&settings.dir)?;
    let logs = JobLogs::default();
    logs.take_up(&events.all());
    let mut listener = folder.listen(settings.listen, &identity)?;
    let http = http::start(settings.http, Arc::clone(&metrics)).await?;
    let mut end = lifeline::end(settings.lifeline_fd)?;
    let address = settings
        .advertise
        .clone()
        .unwrap_or_else(|| listener.local_addr().to_string());
    let announcement = settings.announce.clone();
    let own = match member_file::read(&settings.dir)? {
        Some(own) => own,
        None if settings.create => create(&settings.dir)?,
        None => {
            folder.announce(&settings.announce, listener.local_addr(), http.address())?;
            tracing::info!(address, "waits to be taken into a group");
            match joining::wait(&mut listener, &settings.dir, &mut end).await? {
                Some(own) => own,
                None => return Ok(()),
            }
        }
    };
    let taken = take_up(
        &settings,
        own,
        identity.peer().name.clone(),
        address.clone(),
    )?;
    let is_alone = taken.leader.state().members().len() == 1;

    let (inbox, messages) = mpsc::channel(INBOX);
    let inbox = Inbox::new(inbox);
    let (failed, failure) = mpsc::channel::<anyhow::Error>(4);
    let (raft, inputs) = raft_thread::input_channel();
    let log = LogParts {
        store: taken.store,
        folder: settings.dir.clone(),
        inbox: inbox.clone(),
        metrics: Arc::clone(&metrics),
        snapshot_bytes: taken.snapshot_bytes,
    };
    let (standing, standing_seen) = watch::channel(Arc::new(Standing::default()));
    let links = Links::new(Common {
        connector: Connector::new(&identity)?,
        group: own.group,
        id: own.id,
        address,
        raft: raft.clone(),
        inbox: inbox.clone(),
        standing: standing_seen.clone(),
        runtime: tokio::runtime::Handle::current(),
    });
    let raft_parts = RaftParts {
        consensus: taken.consensus,
        log: log.start(raft.clone(), failed.clone())?,
        links,
        inbox: inbox.clone(),
        metrics: Arc::clone(&metrics),
        members: taken.leader.state().members().clone(),
        campaigns: is_alone,
    };
    let raft_thread = raft_parts.start(raft.clone(), inputs, failed.clone())?;
    let leader = LeaderThread {
        leader: taken.leader,
        messages,
        raft: raft.clone(),
        events: events.clone(),
        logs: logs.clone(),
        blobs: blobs.clone(),
        inbox: inbox.clone(),
        metrics,
        runtime: tokio::runtime::Handle::current(),
        standing,
    };
    let leader = leader.start(failed)?;

    let clients = Clients::new(
        inbox.clone(),
        events.clone(),
        logs,
        blobs,
        http.address(),
        identity.peer().name.clone(),
        standing_seen.clone(),
    );
    let doorkeeper = Doorkeeper {
        own,
        standing: standing_seen,
        raft,
        inbox: inbox.clone(),
    };
    let (stop, stopped) = watch::channel(false);
    let mut door = Door {
        settings,
        folder,
        listener,
        http,
        inbox,
        clients: Arc::new(clients),
        doorkeeper,
        stopped,
        is_alone,
    };
    let outcome = door.open(end, failure).await;
    let reason = outcome
        .as_ref()
        .map_or_else(ToString::to_string, Clone::clone);
    tracing::info!(reason, "coordinator stops");
    if outcome.is_ok() {
        door.hand_over().await;
    }
    // Receivers may all be gone.
    let _ = stop.send(true);
    let folder = door.close().await;
    // Joining waits for the last sync at most; nothing is acknowledged after it.
    let threads = tokio::task::spawn_blocking(move || {
        leader.join();
        raft_thread.join();
        events.close();
    });
    threads.await.context("joining the coordinator's threads")?;
    drop(folder);
    if let Err(error) = &outcome
        && matches!(error.downcast_ref(), Some(StopReason::Removed))
    {
        // Nobody shall look for it here any more.
        let _ = std::fs::remove_file(&announcement);
    }
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
    doorkeeper: Doorkeeper,
    stopped: watch::Receiver<bool>,
    /// The group had one member at the start.
    is_alone: bool,
}

impl Door {
    /// Lets peers in until the process shall end; gives the reason.
    async fn open(
        &mut self,
        mut end: oneshot::Receiver<String>,
        mut failure: mpsc::Receiver<anyhow::Error>,
    ) -> anyhow::Result<String> {
        // In a group others answer as well, and a coordinator without a leader can say so.
        let mut is_announced = !self.is_alone;
        if is_announced {
            self.announce()?;
        }
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
        let stopped = self.stopped.clone();
        match connection.peer().role {
            Role::Worker => {
                tokio::spawn(workers::serve(connection, self.inbox.clone(), stopped));
            }
            Role::Coordinator => {
                tokio::spawn(peers::serve(connection, self.doorkeeper.clone(), stopped));
            }
            Role::Submitter | Role::Viewer => {
                tokio::spawn(clients::serve(
                    connection,
                    Arc::clone(&self.clients),
                    stopped,
                ));
            }
        }
    }

    /// Lets another coordinator lead before this one ends, so that nobody waits for an election.
    async fn hand_over(&self) {
        let mut standing = self.doorkeeper.standing.clone();
        let is_needed = {
            let standing = standing.borrow();
            standing.leads && standing.members.len() > 1
        };
        if is_needed && self.inbox.send(Message::HandOver).await {
            // If nobody can take it, the others find out by themselves.
            let handed = standing.wait_for(|standing| !standing.leads);
            let _ = tokio::time::timeout(HAND_OVER, handed).await;
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

/// Waits until this coordinator is in office, or knows who is.
async fn in_office(inbox: &Inbox) {
    loop {
        match inbox.ask(Question::Leadership).await {
            Ok(_) | Err(Denial::NotLeader(Some(_))) => return,
            Err(_) => tokio::time::sleep(OFFICE_INTERVAL).await,
        }
    }
}

/// What the threads begin with.
struct TakenUp {
    consensus: Consensus,
    store: RedbStore,
    leader: Leader,
    snapshot_bytes: u64,
}

/// Makes the folder that of the first member of a new group.
fn create(folder: &Path) -> anyhow::Result<Membership> {
    let own = Membership {
        group: GroupId(random()?),
        id: FOUNDER,
    };
    member_file::write(folder, &own)?;
    Ok(own)
}

/// The first contents of the founder's log; an interrupted start may have left it empty.
fn found(
    store: &mut RedbStore,
    settings: &Settings,
    own: Membership,
    name: &str,
    address: &str,
) -> anyhow::Result<()> {
    let mut state = State::of_new_group(own.group, name.to_owned(), address.to_owned());
    hold(&mut state, settings);
    store.write(&first_write(own.id, state.encode()))?;
    Ok(())
}

fn hold(state: &mut State, settings: &Settings) {
    if let Some(version) = settings.hold_version {
        state.hold_version(version);
    }
}

/// Reads the stored state.
fn take_up(
    settings: &Settings,
    own: Membership,
    name: String,
    address: String,
) -> anyhow::Result<TakenUp> {
    let mut store = RedbStore::open(&settings.dir)?;
    let mut stored = store.load()?;
    if own.id == FOUNDER && stored == Stored::default() {
        found(&mut store, settings, own, &name, &address)?;
        stored = store.load()?;
    }
    let mut state = match &stored.snapshot {
        Some(snapshot) => {
            let mut state = State::decode(&snapshot.data).with_context(|| {
                format!(
                    "the snapshot at index {} in {}",
                    snapshot.index,
                    settings.dir.display()
                )
            })?;
            state.begin_after(snapshot.index);
            state
        }
        // A new member, which waits for the leader's snapshot.
        None => State::default(),
    };
    hold(&mut state, settings);
    let snapshot_bytes = stored
        .snapshot
        .as_ref()
        .map_or(0, |snapshot| snapshot.data.len() as u64);
    let config = NodeConfig {
        id: own.id,
        boot: u64::from_le_bytes(random()?),
        seed: u64::from_le_bytes(random()?),
    };
    let consensus = Consensus::new(config, stored)?;
    let leader = LeaderConfig {
        process: std::process::id(),
        blobs: settings.blobs.clone(),
        id: own.id,
        name,
        address,
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
