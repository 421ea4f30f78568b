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
mod door;
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
mod place;
mod raft_thread;
mod settings;
mod take_up;
mod timed_disk;
mod workers;

pub use settings::Settings;

use crate::consensus::StopReason;
use anyhow::Context as _;
use door::Door;
use evoring_protocol::transport::Connector;
use leader_thread::{Inbox, LeaderThread, RunningLeader, Standing};
use log_writer::LogParts;
use member_file::Membership;
use peers::{Common, Doorkeeper, Links};
use place::Place;
use raft_thread::{RaftParts, RaftThread};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;
use take_up::take_up;
use timed_disk::TimedDisk;
use tokio::sync::{mpsc, oneshot, watch};

/// Messages that wait for the leader thread; senders wait beyond that.
const INBOX: usize = 4_096;

/// Runs a coordinator until it is told to stop.
///
/// # Errors
/// With what failed, where, and what to do; the process should exit with 1, or, for a
/// [`crate::consensus::StopReason`], with [`evoring_protocol::EXIT_HOPELESS`].
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut place = Place::open(&settings).await?;
    let Some(own) = place.membership(&settings).await? else {
        return Ok(());
    };
    let announcement = settings.announce.clone();
    let running = start(settings, place, own)?;
    let mut door = running.door;
    let outcome = door.open(running.failure).await;
    let reason = outcome
        .as_ref()
        .map_or_else(ToString::to_string, Clone::clone);
    tracing::info!(reason, "coordinator stops");
    if outcome.is_ok() {
        door.hand_over().await;
    }
    let (folder, events) = door.close().await;
    // Joining waits for the last sync at most; nothing is acknowledged after it.
    let threads = tokio::task::spawn_blocking(move || {
        running.leader.join();
        running.raft.join();
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

/// A coordinator whose threads run.
struct Running {
    door: Door,
    failure: mpsc::Receiver<anyhow::Error>,
    leader: RunningLeader,
    raft: RaftThread,
}

/// Takes up what is stored and starts the threads.
fn start(settings: Settings, place: Place, own: Membership) -> anyhow::Result<Running> {
    let name = place.identity.peer().name.clone();
    let disk = TimedDisk::new(&settings.dir, place.metrics.log_syncs());
    let taken = take_up(&settings, own, name, place.address.clone(), disk)?;
    let is_alone = taken.leader.state().members().len() == 1;
    let (inbox, messages) = mpsc::channel(INBOX);
    let inbox = Inbox::new(inbox);
    let (failed, failure) = mpsc::channel::<anyhow::Error>(4);
    let (raft, inputs) = raft_thread::input_channel();
    let (standing, standing_seen) = watch::channel(Arc::new(Standing::default()));
    let runtime = tokio::runtime::Handle::current();
    let log = LogParts {
        store: taken.store,
        folder: settings.dir.clone(),
        inbox: inbox.clone(),
        metrics: Arc::clone(&place.metrics),
        snapshot_bytes: taken.snapshot_bytes,
    };
    let links = Links::new(Common {
        connector: Connector::new(&place.identity)?,
        group: own.group,
        id: own.id,
        address: place.address.clone(),
        raft: raft.clone(),
        inbox: inbox.clone(),
        standing: standing_seen.clone(),
        runtime: runtime.clone(),
    });
    let raft_parts = RaftParts {
        consensus: taken.consensus,
        log: log.start(raft.clone(), failed.clone())?,
        links,
        inbox: inbox.clone(),
        metrics: Arc::clone(&place.metrics),
        members: taken.leader.state().members().clone(),
        campaigns: is_alone,
    };
    let raft_thread = raft_parts.start(raft.clone(), inputs, failed.clone())?;
    let leader_parts = LeaderThread {
        leader: taken.leader,
        messages,
        raft: raft.clone(),
        events: place.events.clone(),
        logs: place.logs.clone(),
        blobs: place.blobs.clone(),
        inbox: inbox.clone(),
        metrics: Arc::clone(&place.metrics),
        runtime,
        standing,
    };
    let leader = leader_parts.start(failed)?;
    let doorkeeper = Doorkeeper {
        own,
        standing: standing_seen,
        raft,
        inbox,
    };
    Ok(Running {
        door: Door::new(settings, place, doorkeeper, is_alone),
        failure,
        leader,
        raft: raft_thread,
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
