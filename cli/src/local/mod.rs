//! A cluster of true processes on this machine: a group of coordinators, some workers, mutual TLS
//! from a throw-away authority, everything in one folder, nothing left running.

mod binaries;
mod child;
mod folder;
pub mod group;
mod lines;
mod log;
pub mod registry;
mod restart;

pub use binaries::Binaries;
pub use child::{ChildEvent, Stop};
pub use folder::Folder;
pub use group::LocalCoordinator;

use crate::client::{Access, ClusterFile};
use crate::exit::Failure;
use child::{ChildSpec, supervise};
use evoring_protocol::ClusterId;
use evoring_protocol::transport::{Authority, Role};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{PipeReader, PipeWriter, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Name in the certificate that other commands use.
const CLIENT: &str = "client";

/// What to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Coordinator processes; without a number as many as the folder knows, or one.
    pub coordinators: Option<u32>,
    /// Worker processes.
    pub workers: u32,
    /// Slots of each.
    pub slots_per_worker: u32,
}

/// A running cluster. Dropping it kills every process of it; [`LocalCluster::request_stop`] lets them end.
#[derive(Debug)]
pub struct LocalCluster {
    folder: Folder,
    coordinators: Vec<LocalCoordinator>,
    tasks: JoinSet<()>,
    stop: watch::Sender<Stop>,
    events: mpsc::UnboundedReceiver<ChildEvent>,
    /// CHILD-1: the only write end. Children read the end of file when it is gone.
    _lifeline: PipeWriter,
    deaths: u64,
    /// Coordinators that are not started again, but were not removed.
    lost: BTreeSet<String>,
    /// Coordinators that were removed from the group and have ended.
    removed: BTreeSet<String>,
}

/// What happened to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterEvent {
    /// To one of its processes; the cluster goes on.
    Child(ChildEvent),
    /// A coordinator is not started again, and the others go on without it; the message holds its last
    /// lines and what to do.
    Lost {
        /// For people.
        message: String,
    },
    /// A process without which the cluster cannot go on is not started again.
    Broken {
        /// For people.
        message: String,
    },
}

impl LocalCluster {
    /// Makes authority, identities and cluster file in `folder`, and starts every process.
    pub fn start(binaries: &Binaries, folder: Folder, size: Size) -> Result<Self, Failure> {
        let coordinators = group::coordinators(&folder, size.coordinators)?;
        prepare(&folder, &coordinators, size)?;
        let (lifeline_reader, lifeline) =
            std::io::pipe().map_err(|error| Failure::local("lifeline pipe", error))?;
        let (stop, stopped) = watch::channel(Stop::No);
        let (events_sender, events) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for spec in specs(&folder, binaries, &coordinators, size)? {
            let reader: PipeReader = lifeline_reader
                .try_clone()
                .map_err(|error| Failure::local("lifeline pipe", error))?;
            tasks.spawn(supervise(
                spec,
                reader,
                stopped.clone(),
                events_sender.clone(),
            ));
        }
        Ok(Self {
            folder,
            coordinators,
            tasks,
            stop,
            events,
            _lifeline: lifeline,
            deaths: 0,
            lost: BTreeSet::new(),
            removed: BTreeSet::new(),
        })
    }

    /// Its folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Its coordinators. Several must still [become a group](group::form).
    pub fn coordinators(&self) -> &[LocalCoordinator] {
        &self.coordinators
    }

    /// How clients reach it.
    pub fn access(&self) -> Result<Access, Failure> {
        Access::from_file(&self.folder.cluster_file())
    }

    /// Deaths of children so far.
    pub fn deaths(&self) -> u64 {
        self.deaths
    }

    /// The next change. Never ends while the cluster lives. Cancel-safe.
    pub async fn next_event(&mut self) -> ClusterEvent {
        match self.events.recv().await {
            Some(ChildEvent::GaveUp { name, message }) => self.gave_up(name, message),
            Some(event) => {
                if let ChildEvent::Removed { name } = &event {
                    self.removed.insert(name.clone());
                }
                self.deaths += u64::from(matches!(event, ChildEvent::Died { .. }));
                ClusterEvent::Child(event)
            }
            // Every supervisor has ended, which only `stop` asks for.
            None => std::future::pending().await,
        }
    }

    /// A group goes on while more than half of its coordinators do.
    fn gave_up(&mut self, name: String, message: String) -> ClusterEvent {
        let mut coordinators = self.coordinators.iter();
        let is_coordinator = coordinators.any(|coordinator| coordinator.name == name);
        // One that never was a member has nobody who can do without it: the group is yet to be made.
        if !is_coordinator || !self.folder.has_log(&name) {
            return ClusterEvent::Broken { message };
        }
        let all = self.coordinators.len() - self.removed.len();
        let advice = format!(
            "the others go on; it is started again with the cluster, and if that is of no use, `evoring cluster remove {name}`, or delete its folder {} while the cluster is stopped: it is then taken in anew",
            self.folder.state(&name).display()
        );
        self.lost.insert(name);
        match all - self.lost.len() > all / 2 {
            true => ClusterEvent::Lost {
                message: format!("{message}\n{advice}"),
            },
            false => ClusterEvent::Broken { message },
        }
    }

    /// Asks every process to end; [`Stop::Now`] kills.
    pub fn request_stop(&self, how: Stop) {
        self.stop.send_if_modified(|level| {
            how > *level && {
                *level = how;
                true
            }
        });
    }

    /// Waits until every process has been reaped. Cancel-safe.
    pub async fn wait_stopped(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Writes identities and the cluster file. The authority's key is never stored: a restart in the
/// same folder makes a new authority of the same cluster, and all identities anew.
fn prepare(folder: &Folder, coordinators: &[LocalCoordinator], size: Size) -> Result<(), Failure> {
    let now = SystemTime::now();
    let path = folder.cluster_file();
    let cluster = match known_cluster(&path) {
        Some(cluster) => cluster,
        None if path.exists() => {
            let message = "not a file that `evoring local` wrote; choose another --dir, or move it";
            return Err(Failure::local(path.display(), message));
        }
        None => ClusterId(random()?),
    };
    let authority =
        Authority::create(cluster, now).map_err(|error| Failure::local("authority", error))?;
    let workers = (1..=size.workers).map(|number| (Role::Worker, worker_name(number)));
    let names = coordinators.iter().map(|one| one.name.clone());
    let others = names
        .map(|name| (Role::Coordinator, name))
        .chain([(Role::Submitter, CLIENT.to_owned())]);
    for (role, name) in others.chain(workers) {
        authority
            .issue(role, &name, now)
            .and_then(|identity| identity.save(&folder.identity(&name)))
            .map_err(|error| Failure::local("identity", error))?;
    }
    // One of an earlier start would send clients to a port that may be anybody's now.
    for coordinator in coordinators {
        let _ = std::fs::remove_file(&coordinator.announce);
    }
    let announce = coordinators.iter().map(|one| one.announce.clone());
    let file = ClusterFile {
        cluster: Some(cluster.to_string()),
        announce: announce.collect(),
        coordinators: Vec::new(),
        identity: folder.identity(CLIENT),
    };
    serde_json::to_vec_pretty(&file)
        .map_err(std::io::Error::other)
        .and_then(|text| std::fs::write(&path, text))
        .map_err(|error| Failure::local(path.display(), error))
}

/// The number of the cluster that an earlier start made in this folder.
fn known_cluster(path: &Path) -> Option<ClusterId> {
    let file: ClusterFile = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let text = file
        .cluster
        .filter(|text| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u64::from_str_radix(&text, 16)
        .ok()
        .map(|number| ClusterId(number.to_be_bytes()))
}

fn worker_name(number: u32) -> String {
    format!("w{number}")
}

/// Every child with its arguments. Each reads its lifeline from standard input.
fn specs(
    folder: &Folder,
    binaries: &Binaries,
    coordinators: &[LocalCoordinator],
    size: Size,
) -> Result<Vec<ChildSpec>, Failure> {
    let argument = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        [OsString::from(name), value.as_ref().to_owned()]
    };
    let common = |name: &str| {
        [
            argument("--dir", &folder.state(name)),
            argument("--identity", &folder.identity(name)),
            argument("--http", &"127.0.0.1:0"),
            argument("--lifeline-fd", &"0"),
        ]
        .concat()
    };
    let blobs = folder.blobs_url()?;
    let mut specs = Vec::new();
    for LocalCoordinator {
        name,
        announce,
        creates,
        ..
    } in coordinators
    {
        let mut arguments = common(name);
        arguments.extend(argument("--announce", announce));
        // A coordinator keeps the port that it once got.
        arguments.extend(argument("--listen", &"127.0.0.1:0"));
        arguments.extend(argument("--blobs", &blobs));
        arguments.extend(creates.then(|| OsString::from("--create")));
        specs.push(ChildSpec {
            name: name.clone(),
            program: binaries.coordinator.clone(),
            arguments,
            log: folder.log(name),
        });
    }
    specs.extend((1..=size.workers).map(worker_name).map(|name| {
        let mut arguments = common(&name);
        for coordinator in coordinators {
            arguments.extend(argument("--announce", &coordinator.announce));
        }
        arguments.extend(argument("--name", &name));
        arguments.extend(argument("--slots", &size.slots_per_worker.to_string()));
        ChildSpec {
            program: binaries.worker.clone(),
            arguments,
            log: folder.log(&name),
            name,
        }
    }));
    Ok(specs)
}

/// Random bytes from the operating system.
pub fn random<const BYTES: usize>() -> Result<[u8; BYTES], Failure> {
    let mut bytes = [0u8; BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Failure::local("/dev/urandom", error))?;
    Ok(bytes)
}

/// Bound on a cluster's coming up; libtorch takes a second or two on a busy machine.
pub const START_PATIENCE: Duration = Duration::from_secs(60);
