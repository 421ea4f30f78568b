//! Connects the core to clock, processes, files and the coordinator.

use super::blobs::Blobs;
use super::cache::{Bounds, Cache, Pin};
use super::core::Core;
use super::executors::Executors;
use super::handed::{HandedFile, HandedFiles};
use super::http::{self, Metrics};
use super::session::{self, Address, Addressed};
use super::work::{Action, Counter, Event, Profile, Purpose, Work};
use anyhow::Context as _;
use evoring_protocol::executor::ExecutorCommand;
use evoring_protocol::transport::{Connector, Identity};
use evoring_protocol::work::{FailureCause, HeldRank, WorkError};
use evoring_protocol::worker::WorkerReport;
use evoring_protocol::{Digest, SlotIndex, WorkerId};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// How often the core sees the time.
const TICK: Duration = Duration::from_millis(50);
/// Reports that wait for the session.
const REPORTS: usize = 4 * super::outbox::WINDOW;
/// What the local cache holds.
const CACHED: Bounds = Bounds {
    files: 256,
    bytes: 16 << 30,
};

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name, as in the certificate.
    pub worker: WorkerId,
    /// Folder of this agent alone.
    pub folder: PathBuf,
    /// Folder with the identity.
    pub identity: PathBuf,
    /// Where the coordinators are.
    pub coordinators: Vec<Address>,
    /// Number of slots.
    pub slots: u32,
    /// Where to serve metrics.
    pub http: SocketAddr,
}

/// Why an agent ended that would end so again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Hopeless(String);

/// Runs the agent until `stop` completes or it cannot go on.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let identity = Identity::load(&settings.identity)?;
    let connector = Connector::new(&identity)?;
    std::fs::create_dir_all(&settings.folder)
        .with_context(|| format!("folder {}", settings.folder.display()))?;
    let listener = http::bind(settings.http).await?;
    let metrics = Metrics::new()?;
    metrics.slots.set(i64::from(settings.slots));
    let profile = Profile {
        worker: settings.worker.clone(),
        incarnation: incarnation(),
        process: std::process::id(),
        host: host()?,
        slots: settings.slots,
        metrics: Some(listener.local_addr()?),
    };
    let folder = settings.folder.join("cache");
    let cache =
        Cache::open(&folder, CACHED).with_context(|| format!("folder {}", folder.display()))?;
    let folder = settings.folder.join("handed");
    let handed = HandedFiles::open(folder.clone())
        .with_context(|| format!("folder {}", folder.display()))?;
    let (events, inbox) = mpsc::channel(4096);
    let (reports, report_inbox) = mpsc::channel(REPORTS);
    let (may_connect, gate) = watch::channel(false);
    let (lifeline, keep_alive) = std::io::pipe()?;
    let program = std::env::current_exe()?.with_file_name("evoring-executor");
    let executors = Executors::new(
        program,
        settings.folder.join("scratch"),
        settings.slots,
        lifeline,
        events.clone(),
    );
    let session = tokio::spawn(session::keep_connected(
        connector,
        settings.coordinators.clone(),
        gate,
        report_inbox,
        events.clone(),
    ));
    let server = tokio::spawn(http::serve(listener, metrics.clone()));
    let mut agent = Agent {
        core: Core::new(profile),
        executors,
        events,
        reports,
        may_connect,
        metrics,
        blobs: None,
        cache,
        handed,
        pins: Pins::default(),
        begin: Instant::now(),
    };
    let outcome = agent.run(inbox, stop).await;
    session.abort();
    server.abort();
    agent.executors.kill_all();
    drop(keep_alive);
    outcome
}

struct Agent {
    core: Core,
    executors: Executors,
    events: mpsc::Sender<Event>,
    reports: mpsc::Sender<Addressed>,
    may_connect: watch::Sender<bool>,
    metrics: Metrics,
    blobs: Option<(String, Arc<Blobs>)>,
    cache: Cache,
    handed: HandedFiles,
    pins: Pins,
    begin: Instant,
}

/// Inputs of tasks, by task: their files stay while it runs.
type Pins = Arc<Mutex<BTreeMap<u64, Vec<Pin>>>>;

impl Agent {
    async fn run(
        &mut self,
        mut inbox: mpsc::Receiver<Event>,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let mut stop = std::pin::pin!(stop);
        let mut ticks = tokio::time::interval(TICK);
        loop {
            let event = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                _ = ticks.tick() => Event::Tick,
                event = inbox.recv() => match event {
                    Some(event) => event,
                    None => return Ok(()),
                },
            };
            let is_tick = event == Event::Tick;
            let mut events = VecDeque::from([event]);
            while let Some(event) = events.pop_front() {
                for action in self.core.handle(event, self.begin.elapsed()) {
                    events.extend(self.act(action)?);
                }
            }
            if self.core.can_connect() {
                self.may_connect
                    .send_if_modified(|ready| !std::mem::replace(ready, true));
            }
            self.show();
            if is_tick {
                self.unpin();
            }
        }
    }

    /// Lets go of the inputs of tasks that have ended.
    fn unpin(&self) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.retain(|task, _| self.core.has_task(*task));
    }

    /// Brings the gauges up to date.
    fn show(&self) {
        let (ready, busy) = self.core.slot_counts();
        self.metrics.slots_ready.set(ready as i64);
        self.metrics.slots_busy.set(busy as i64);
        self.metrics
            .connected
            .set(i64::from(self.core.is_welcome()));
        self.metrics
            .unacknowledged
            .set(self.core.outbox_len() as i64);
    }

    /// Carries one action out; may give an event that the core must hear before anything else.
    fn act(&mut self, action: Action) -> anyhow::Result<Option<Event>> {
        match action {
            Action::Send { session, report } => self.send(session, report),
            Action::UseBlobs(url) => self.use_blobs(url)?,
            Action::Start { slot, wait } => return Ok(self.executors.start(slot, wait)),
            Action::Run {
                slot,
                process,
                task,
                work,
            } => self.prepare(slot, process, task, *work),
            Action::Stop { slot, task } => {
                self.executors
                    .send(slot, None, ExecutorCommand::Stop { task })
            }
            Action::Kill { slot } => self.executors.kill(slot),
            Action::Store {
                held,
                purpose,
                files,
            } => self.store(held, purpose, &files),
            Action::Deliver {
                slot,
                process,
                command,
            } => self.executors.send(slot, Some(process), *command),
            Action::Count(counter) => self.count(counter),
            Action::Log(line) => tracing::info!("{line}"),
            Action::Exit {
                message,
                is_hopeless: true,
            } => return Err(Hopeless(message).into()),
            Action::Exit { message, .. } => anyhow::bail!(message),
        }
        Ok(None)
    }

    /// Reports that may be lost leave room in the queue for those that may not, of which the core
    /// has at most [`WINDOW`](super::outbox::WINDOW) on their way.
    fn send(&self, session: u64, report: WorkerReport) {
        let is_kept = matches!(
            report,
            WorkerReport::Hello(_) | WorkerReport::Results { .. } | WorkerReport::Rank { .. }
        );
        if is_kept || self.reports.capacity() > REPORTS / 2 {
            drop(self.reports.try_send((session, report)));
        }
    }

    fn count(&self, counter: Counter) {
        match counter {
            Counter::ItemsDone(items) => self.metrics.items.inc_by(items),
            Counter::ItemsFailed(items) => self.metrics.items_failed.inc_by(items),
            Counter::RankDone => self.metrics.ranks.inc(),
            Counter::RankFailed => self.metrics.ranks_failed.inc(),
            Counter::ExecutorDied => self.metrics.executor_deaths.inc(),
        }
    }

    fn use_blobs(&mut self, url: String) -> anyhow::Result<()> {
        if self.blobs.as_ref().is_none_or(|(known, _)| *known != url) {
            let blobs = Blobs::open(&url, self.cache.clone())?;
            self.blobs = Some((url, Arc::new(blobs)));
        }
        Ok(())
    }

    /// Fetches inputs and checkpoint beside the event loop, then hands the work over.
    fn prepare(&self, slot: SlotIndex, process: u32, task: u64, work: Work) {
        let (blobs, events, pins) = (
            self.blobs.as_ref().map(|(_, blobs)| Arc::clone(blobs)),
            self.events.clone(),
            Arc::clone(&self.pins),
        );
        tokio::spawn(async move {
            let event = match fetch_and_build(blobs.as_deref(), task, work).await {
                Ok((command, inputs)) => {
                    let mut pins = pins.lock().unwrap_or_else(PoisonError::into_inner);
                    pins.insert(task, inputs);
                    Event::Prepared {
                        slot,
                        process,
                        command: Box::new(command),
                    }
                }
                Err(error) => Event::NotPrepared { task, error },
            };
            let _ = events.send(event).await;
        });
    }

    fn store(&mut self, held: HeldRank, purpose: Purpose, files: &[PathBuf]) {
        let (blobs, events) = (
            self.blobs.as_ref().map(|(_, blobs)| Arc::clone(blobs)),
            self.events.clone(),
        );
        // Before the next event, which may be the executor's end.
        let files = self.handed.take(files);
        tokio::spawn(async move {
            let outcome = match files {
                Ok(files) => store_files(blobs.as_deref(), &files).await,
                Err(error) => Err(error.into()),
            };
            let _ = events
                .send(Event::Stored {
                    held,
                    purpose,
                    outcome,
                })
                .await;
        });
    }
}

/// The command for an executor, with every input in a local file that stays while its pin lives.
async fn fetch_and_build(
    blobs: Option<&Blobs>,
    task: u64,
    work: Work,
) -> Result<(ExecutorCommand, Vec<Pin>), WorkError> {
    let blobs = blobs.ok_or_else(no_store)?;
    let (Work::Items { assignment, .. } | Work::Rank { assignment, .. }) = &work;
    let assignment = assignment.clone();
    let mut pins = Vec::new();
    for digest in &assignment.inputs {
        pins.push(blobs.fetch(*digest).await?);
    }
    let inputs = pins.iter().map(|pin| pin.path().to_owned()).collect();
    let command = match work {
        Work::Items { lease, items, .. } => {
            let indices = lease.items.iter().map(|item| item.index);
            ExecutorCommand::RunItems {
                task,
                assignment,
                inputs,
                items: indices.zip(items).collect(),
            }
        }
        Work::Rank { held, roster, .. } => {
            let resume = match roster.resume {
                None => None,
                Some(checkpoint) => {
                    let pin = blobs.fetch(checkpoint.digest).await?;
                    let path = pin.path().to_owned();
                    pins.push(pin);
                    Some((checkpoint.step, path))
                }
            };
            ExecutorCommand::RunRank {
                task,
                assignment,
                inputs,
                rank: held.rank,
                world_size: roster.members.len() as u32,
                secret: roster.secret,
                resume,
            }
        }
    };
    Ok((command, pins))
}

/// Stores files in order; the digest of the first.
async fn store_files(
    blobs: Option<&Blobs>,
    files: &[HandedFile],
) -> Result<Option<Digest>, WorkError> {
    let mut first = None;
    for file in files {
        let digest = blobs.ok_or_else(no_store)?.store(file.path()).await?;
        first = first.or(Some(digest));
    }
    Ok(first)
}

fn no_store() -> WorkError {
    WorkError {
        message: "no coordinator has named a blob store yet".to_owned(),
        cause: FailureCause::Lost,
    }
}

/// Random number of this process, from the system's hash seed.
fn incarnation() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one((std::process::id(), std::time::SystemTime::now()))
}

/// The same for processes that can share memory and abstract sockets: the boot and the network
/// namespace (abstract sockets belong to it).
fn host() -> anyhow::Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("/proc/sys/kernel/random/boot_id")?;
    let network = std::fs::read_link("/proc/self/ns/net").context("/proc/self/ns/net")?;
    Ok(format!("{}/{}", boot.trim(), network.display()))
}
