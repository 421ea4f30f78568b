//! The agent's way to the coordinator that leads, among several that this test plays over the real
//! transport.
#![expect(clippy::unwrap_used, reason = "tests")]

use evoring_protocol::ClusterId;
use evoring_protocol::client::LeaderHint;
use evoring_protocol::transport::{
    Announcement, Authority, Connection, Connector, Listener, Role, Sender,
};
use evoring_protocol::worker::{WorkerCommand, WorkerReport};
use evoring_worker::agent::session::{Address, Addressed, keep_connected};
use evoring_worker::agent::work::Event;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Bound on every wait; test machines are slow and shared.
const PATIENCE: Duration = Duration::from_secs(60);

/// A session's loop, and the authority of its cluster.
struct Agent {
    authority: Authority,
    events: mpsc::Receiver<Event>,
    reports: mpsc::Sender<Addressed>,
    _ready: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    fn start(authority: Authority, addresses: Vec<Address>) -> Self {
        let identity = authority
            .issue(Role::Worker, "w1", SystemTime::now())
            .unwrap();
        let (sender, events) = mpsc::channel(64);
        let (reports, inbox) = mpsc::channel(64);
        let (ready, gate) = watch::channel(true);
        let connector = Connector::new(&identity).unwrap();
        let task = tokio::spawn(keep_connected(connector, addresses, gate, inbox, sender));
        Self {
            authority,
            events,
            reports,
            _ready: ready,
            task,
        }
    }

    async fn next(&mut self) -> Event {
        in_time("an event", self.events.recv()).await.unwrap()
    }

    /// The next session begins; speaks on it, as the core does.
    async fn greet(&mut self) -> u64 {
        let event = self.next().await;
        let Event::Connected { session } = event else {
            panic!("{event:?}")
        };
        self.reports.send((session, report())).await.unwrap();
        session
    }
}

fn report() -> WorkerReport {
    WorkerReport::Heartbeat { executors: vec![7] }
}

fn authority() -> Authority {
    Authority::create(ClusterId([7; 8]), SystemTime::now()).unwrap()
}

fn coordinator(authority: &Authority, address: &str) -> Listener {
    let identity = authority
        .issue(Role::Coordinator, "c1", SystemTime::now())
        .unwrap();
    Listener::bind(address.parse().unwrap(), &identity).unwrap()
}

/// Takes a session's first report; the connection, and the way to speak on it.
async fn take(listener: &mut Listener) -> (Connection, Sender) {
    let connection = in_time("a connection", listener.accept())
        .await
        .unwrap()
        .unwrap();
    let (commands, mut reports) = in_time("a stream", connection.accept()).await.unwrap();
    let received = in_time("a report", reports.receive()).await.unwrap();
    assert_eq!(received, Some(report()));
    (connection, commands)
}

/// Says to every agent that it does not lead.
async fn follow(mut listener: Listener, leader: Option<SocketAddr>) {
    let leader = leader.map(|address| LeaderHint {
        name: "leader".to_owned(),
        address: address.to_string(),
    });
    while let Some(accepted) = listener.accept().await {
        let leader = leader.clone();
        tokio::spawn(async move {
            let connection = accepted.unwrap();
            let (mut commands, _reports) = connection.accept().await.unwrap();
            let command = WorkerCommand::NotLeader { leader };
            commands.send(&command).await.unwrap();
            commands.finish_and_wait().await.unwrap();
            connection.close("not the leader");
        });
    }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

fn announce(path: &Path, listen: SocketAddr, process: u32) {
    let http = None;
    let announcement = Announcement {
        listen,
        http,
        process,
    };
    announcement.write(path).unwrap();
}

/// Claim: the leader is found behind a dead coordinator and one that does not lead, by its hint
/// although it is not listed, and the core hears of commands of the leader only.
/// Method: a silent socket, a follower with a hint, the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_found_by_its_hint() {
    let authority = authority();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut leader = coordinator(&authority, "127.0.0.1:0");
    let follower = coordinator(&authority, "127.0.0.1:0");
    let addresses = vec![
        Address::Fixed(silent.local_addr().unwrap()),
        Address::Fixed(follower.local_addr()),
    ];
    tokio::spawn(follow(follower, Some(leader.local_addr())));
    let mut agent = Agent::start(authority, addresses);
    assert_eq!(agent.greet().await, 1);
    assert_eq!(agent.next().await, Event::Disconnected);
    assert_eq!(agent.greet().await, 2);
    take(&mut leader).await;
}

/// Claim: without a hint every coordinator is tried, as long as none leads, and the one that is elected
/// at last is found. Method: two followers that know nobody; the third announces itself after some
/// rounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_never_gives_up() {
    let (authority, folder) = (authority(), TempDir::new().unwrap());
    let paths: Vec<PathBuf> = (0..3)
        .map(|index| folder.path().join(format!("c{index}.json")))
        .collect();
    for path in &paths[..2] {
        let follower = coordinator(&authority, "127.0.0.1:0");
        announce(path, follower.local_addr(), 1);
        tokio::spawn(follow(follower, None));
    }
    let addresses = paths.iter().cloned().map(Address::Announced).collect();
    let mut agent = Agent::start(authority, addresses);
    for session in 1..=6 {
        assert_eq!(agent.greet().await, session);
        assert_eq!(agent.next().await, Event::Disconnected);
    }
    let mut elected = coordinator(&agent.authority, "127.0.0.1:0");
    announce(&paths[2], elected.local_addr(), 1);
    let connected = take(&mut elected);
    tokio::pin!(connected);
    loop {
        tokio::select! {
            _ = &mut connected => break,
            event = agent.events.recv() => if let Event::Connected { session } = event.unwrap() {
                agent.reports.send((session, report())).await.unwrap();
            }
        }
    }
}

/// Claim: a coordinator that was started again at its old address is noticed by its announcement.
/// Method: the announcement names another process; the listener stays, and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_at_the_same_address_is_noticed() {
    let (authority, folder) = (authority(), TempDir::new().unwrap());
    let path = folder.path().join("coordinator.json");
    let mut listener = coordinator(&authority, "127.0.0.1:0");
    announce(&path, listener.local_addr(), 1);
    let mut agent = Agent::start(authority, vec![Address::Announced(path.clone())]);
    agent.greet().await;
    let _first = take(&mut listener).await;
    announce(&path, listener.local_addr(), 2);
    assert_eq!(agent.next().await, Event::Disconnected);
    assert_eq!(agent.greet().await, 2);
    take(&mut listener).await;
}

/// Claim: a coordinator that takes connections at its old address before it announces itself again
/// is not left for that once it spoke, and is when it announces itself once more.
/// Method: the announcement names the former process until the connection is made, the new one when
/// the first command comes, and another one later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_just_started_is_kept() {
    let (authority, folder) = (authority(), TempDir::new().unwrap());
    let path = folder.path().join("coordinator.json");
    let mut listener = coordinator(&authority, "127.0.0.1:0");
    announce(&path, listener.local_addr(), 1);
    let mut agent = Agent::start(authority, vec![Address::Announced(path.clone())]);
    agent.greet().await;
    let (_connection, mut commands) = take(&mut listener).await;
    announce(&path, listener.local_addr(), 2);
    // Longer than an agent takes to see an announcement: this pause is the scenario.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let command = WorkerCommand::Acknowledge { sequence: 7 };
    commands.send(&command).await.unwrap();
    assert_eq!(agent.next().await, Event::Command(command));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(agent.events.is_empty());
    announce(&path, listener.local_addr(), 3);
    assert_eq!(agent.next().await, Event::Disconnected);
}
