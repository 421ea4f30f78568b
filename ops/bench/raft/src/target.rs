//! What is measured: a cluster of three, as the programs here need it.

use anyhow::Result;
use std::future::Future;
use std::path::{Path, PathBuf};

/// Nodes of each cluster.
pub const NODES: usize = 3;

/// The programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `etcd`.
    pub etcd: PathBuf,
    /// `evoring`; the coordinator's program lies beside it.
    pub evoring: PathBuf,
}

/// One process of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in the cluster.
    pub name: String,
    /// Its process.
    pub process: u32,
}

/// Three processes on this machine. Dropping it kills them.
pub trait Cluster: Sized {
    /// For people.
    const NAME: &'static str;
    /// Many clients of it.
    type Target: Target;
    /// One client of it that survives its leaders.
    type Writer: Writer;

    /// Starts three processes with their data below `folder`; returns once a leader answers.
    async fn start(programs: &Programs, folder: &Path) -> Result<Self>;
    /// The processes that hold the cluster up, for their processor time.
    async fn processes(&self) -> Result<Vec<u32>>;
    /// Who leads now.
    async fn leader(&self) -> Result<Member>;
    /// Clients `0..clients` over so many connections, all of them to the leader.
    async fn target(&self, clients: usize, connections: usize) -> Result<Self::Target>;
    /// A client for failovers.
    async fn writer(&self) -> Result<Self::Writer>;
    /// Waits until every process is there again, one in the place of `killed`, and all have
    /// caught up; starts it where nobody else does.
    async fn restored(&mut self, killed: &Member) -> Result<()>;
    /// Ends every process.
    async fn stop(self) -> Result<()>;
}

/// Many clients, each with one request at a time.
pub trait Target: Send + Sync + 'static {
    /// Stores `value`; returns once a majority has it on disk. A failure may be retried.
    fn put(&self, client: usize, key: &str, value: &str)
    -> impl Future<Output = Result<()>> + Send;
}

/// One client that knows all nodes.
pub trait Writer: Send + 'static {
    /// Tries to store `value`, by a node or several; after a failure the next attempt may go to another
    /// one.
    fn attempt(&mut self, key: &str, value: &str) -> impl Future<Output = Result<()>> + Send;
}
