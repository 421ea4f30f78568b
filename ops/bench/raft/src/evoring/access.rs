//! How to reach a local cluster: its cluster file, what its coordinators announce, one request.

use crate::cpu;
use anyhow::{Context, Result, bail};
use evoring_protocol::client::{ClientReply, ClientRequest, ClusterView};
use evoring_protocol::transport::{Connection, Connector, Identity, Role};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bound on a connection's making; a dead coordinator on loopback is noticed by nothing else.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);

/// What `evoring local` writes for its clients; relative paths are looked up beside it.
#[derive(Debug, Deserialize)]
struct ClusterFile {
    announce: Announce,
    identity: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Announce {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// What a coordinator writes after each start.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Announcement {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its process.
    pub process: u32,
}

/// The way to a cluster's coordinators, under one identity.
#[derive(Debug, Clone)]
pub struct Access {
    announce: Vec<PathBuf>,
    connector: Connector,
}

impl Access {
    /// Reads a cluster file and the identity that it names.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        let file: ClusterFile =
            serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        let beside = path.parent().unwrap_or(Path::new("."));
        let announce = match file.announce {
            Announce::One(path) => vec![path],
            Announce::Many(paths) => paths,
        };
        let identity = Identity::load(&beside.join(&file.identity))?;
        Ok(Self {
            announce: announce.iter().map(|path| beside.join(path)).collect(),
            connector: Connector::new(&identity)?,
        })
    }

    /// The coordinators that have announced themselves, in the order of the cluster file.
    pub fn announced(&self) -> Vec<Announcement> {
        let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).ok()?).ok();
        self.announce.iter().filter_map(read).collect()
    }

    /// Connects to one coordinator.
    pub async fn connect(&self, address: SocketAddr) -> Result<Connection> {
        let connecting =
            self.connector
                .connect_within(CONNECT_PATIENCE, address, Role::Coordinator);
        Ok(connecting.await?)
    }

    /// The group as its leader sees it, with the connection to the leader.
    pub async fn leader(&self) -> Result<(Connection, ClusterView)> {
        let mut problem = "no coordinator that lives has announced itself".to_owned();
        // Nothing answers for a process that has ended, and waiting for it would be measured.
        let announced = self.announced().into_iter();
        for Announcement { listen, .. } in announced.filter(|one| cpu::lives(one.process)) {
            let asked = async {
                let connection = self.connect(listen).await?;
                match ask(&connection, &ClientRequest::Cluster).await? {
                    ClientReply::Cluster(view) => Ok((connection, *view)),
                    other => Err(refusal(&other)),
                }
            };
            match asked.await {
                Ok((connection, view)) if leads(&view) => return Ok((connection, view)),
                Ok((connection, view)) => {
                    connection.close("asked the wrong coordinator");
                    problem = format!("{} does not lead", view.answered_by);
                }
                Err(error) => problem = format!("{listen}: {error:#}"),
            }
        }
        bail!("no leader; {problem}")
    }
}

/// Whether the coordinator that gave this answer leads.
fn leads(view: &ClusterView) -> bool {
    view.members
        .iter()
        .any(|member| Some(member.id) == view.leader && member.name == view.answered_by)
}

/// One request on a stream of its own.
pub async fn ask(connection: &Connection, request: &ClientRequest) -> Result<ClientReply> {
    let (mut sender, mut receiver) = connection.open().await?;
    sender.send(request).await?;
    sender.finish();
    receiver
        .receive()
        .await?
        .context("the coordinator ended the stream without an answer")
}

/// An answer that is not the wanted one, as an error.
pub fn refusal(reply: &ClientReply) -> anyhow::Error {
    match reply {
        ClientReply::Error(error) => anyhow::anyhow!("{}: {error}", error.code.name()),
        ClientReply::NotLeader { leader } => anyhow::anyhow!("does not lead; leader: {leader:?}"),
        _ => anyhow::anyhow!("an answer to another question"),
    }
}
