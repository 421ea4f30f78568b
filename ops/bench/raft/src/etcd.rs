//! Three etcd servers with their default settings, on free ports of the loopback interface.

mod grpc;

use crate::process::{self, until};
use crate::target::{Cluster, Member, NODES, Programs, Target, Writer};
use anyhow::{Context, Result, anyhow, bail};
use grpc::{Link, State};
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Child;

/// Bound on a cluster's coming up.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Bound on the question for a node's state.
const STATE_PATIENCE: Duration = Duration::from_secs(1);
/// Time that a failover's client gives one node.
const ATTEMPT_PATIENCE: Duration = Duration::from_millis(100);
/// Wait before the next node is tried.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(10);
/// Time between two looks at a state that is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// Log entries that a node which has caught up may be behind: the writer goes on all the time.
const CAUGHT_UP: u64 = 50;

/// Three servers.
#[derive(Debug)]
pub struct Etcd {
    program: PathBuf,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    name: String,
    url: String,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Child,
}

impl Node {
    fn process(&self) -> Result<u32> {
        self.child
            .id()
            .with_context(|| format!("{} has ended; {}", self.name, process::log_end(&self.log)))
    }
}

impl Cluster for Etcd {
    const NAME: &'static str = "etcd";
    type Target = EtcdTarget;
    type Writer = EtcdWriter;

    async fn start(programs: &Programs, folder: &Path) -> Result<Self> {
        let ports = free_ports(2 * NODES)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let names: Vec<String> = (1..=NODES).map(|number| format!("n{number}")).collect();
        let everybody: Vec<String> = names
            .iter()
            .zip(&ports[NODES..])
            .map(|(name, &port)| format!("{name}={}", url(port)))
            .collect();
        let everybody = everybody.join(",");
        let mut nodes = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let (client, peer) = (url(ports[index]), url(ports[NODES + index]));
            let data = folder.join(&name);
            let arguments = arguments(&name, &data, &client, &peer, &everybody);
            let log = folder.join(format!("{name}.log"));
            let child = process::start(&programs.etcd, &arguments, &log)?;
            nodes.push(Node {
                name,
                url: client,
                arguments,
                log,
                child,
            });
        }
        let cluster = Self {
            program: programs.etcd.clone(),
            nodes,
        };
        until("etcd's start", START_PATIENCE, LOOK, async || {
            cluster.all_caught_up().await
        })
        .await
        .with_context(|| process::log_end(&cluster.nodes[0].log))?;
        Ok(cluster)
    }

    async fn processes(&self) -> Result<Vec<u32>> {
        self.nodes.iter().map(Node::process).collect()
    }

    async fn leader(&self) -> Result<Member> {
        let node = self.leading_node().await?;
        Ok(Member {
            name: node.name.clone(),
            process: node.process()?,
        })
    }

    async fn target(&self, clients: usize, connections: usize) -> Result<EtcdTarget> {
        let node = self.leading_node().await?;
        let mut links = Vec::new();
        for _ in 0..connections.min(clients) {
            links.push(Link::connect(&node.url).await?);
        }
        Ok(EtcdTarget { links })
    }

    async fn writer(&self) -> Result<EtcdWriter> {
        Ok(EtcdWriter {
            urls: self.nodes.iter().map(|node| node.url.clone()).collect(),
            links: vec![None; NODES],
            at: 0,
        })
    }

    async fn restored(&mut self, killed: &Member) -> Result<()> {
        let node = self
            .nodes
            .iter_mut()
            .find(|node| node.name == killed.name)
            .with_context(|| format!("no node {}", killed.name))?;
        node.child.wait().await?;
        node.child = process::start(&self.program, &node.arguments, &node.log)?;
        until("etcd's recovery", START_PATIENCE, LOOK, async || {
            self.all_caught_up().await
        })
        .await
    }

    async fn stop(mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.child.kill().await?;
        }
        Ok(())
    }
}

impl Etcd {
    async fn leading_node(&self) -> Result<&Node> {
        for node in &self.nodes {
            let state = state(node).await?;
            if state.member == state.leader {
                return Ok(node);
            }
        }
        bail!("none of etcd's nodes leads")
    }

    async fn all_caught_up(&self) -> Result<()> {
        let mut states = Vec::new();
        for node in &self.nodes {
            states.push(state(node).await?);
        }
        let applied = states.iter().map(|state| state.applied);
        let behind = applied.clone().max().unwrap_or(0) - applied.min().unwrap_or(0);
        let leader = states[0].leader;
        if leader == 0 || behind > CAUGHT_UP || states.iter().any(|state| state.leader != leader) {
            bail!("its nodes are {states:?}");
        }
        Ok(())
    }
}

async fn state(node: &Node) -> Result<State> {
    node.process()?;
    let ask = async { Link::connect(&node.url).await?.state().await };
    tokio::time::timeout(STATE_PATIENCE, ask)
        .await
        .map_err(|_| anyhow!("{} does not answer", node.name))?
}

/// Defaults, but for names and places.
fn arguments(name: &str, data: &Path, client: &str, peer: &str, everybody: &str) -> Vec<OsString> {
    let pairs: [(&str, &dyn AsRef<std::ffi::OsStr>); 10] = [
        ("--name", &name),
        ("--data-dir", &data),
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
        ("--initial-cluster", &everybody),
        ("--initial-cluster-state", &"new"),
        ("--initial-cluster-token", &"evoring-bench"),
        ("--log-level", &"warn"),
    ];
    pairs
        .iter()
        .flat_map(|(option, value)| [OsString::from(option), value.as_ref().to_owned()])
        .collect()
}

/// Ports that were free a moment ago: etcd takes no open sockets.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<std::io::Result<_>>()?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}

/// Clients over gRPC.
pub struct EtcdTarget {
    links: Vec<Link>,
}

impl Target for EtcdTarget {
    async fn put(&self, client: usize, key: &str, value: &str) -> Result<()> {
        self.links[client % self.links.len()].put(key, value).await
    }
}

/// One client that knows all nodes. A follower hands its request on to the leader.
pub struct EtcdWriter {
    urls: Vec<String>,
    links: Vec<Option<Link>>,
    at: usize,
}

impl EtcdWriter {
    async fn put(&mut self, key: &str, value: &str) -> Result<()> {
        let link = &mut self.links[self.at];
        let link = match link {
            Some(link) => link,
            None => link.insert(Link::connect(&self.urls[self.at]).await?),
        };
        link.put(key, value).await
    }
}

impl Writer for EtcdWriter {
    async fn attempt(&mut self, key: &str, value: &str) -> Result<()> {
        let outcome = match tokio::time::timeout(ATTEMPT_PATIENCE, self.put(key, value)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow!("{} did not answer in time", self.urls[self.at])),
        };
        if outcome.is_err() {
            self.links[self.at] = None;
            self.at = (self.at + 1) % self.urls.len();
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
        outcome
    }
}
