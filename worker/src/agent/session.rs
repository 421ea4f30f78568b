//! The agent's connection to the coordinator that leads: looked for and made again and again, for
//! ever.

use super::work::Event;
use evoring_protocol::client::LeaderHint;
use evoring_protocol::transport::{
    Announcement, Connection, Connector, Role, Search, TransportError, look_up,
};
use evoring_protocol::worker::{CONNECT_MS, RECONNECT_MS, WorkerCommand, WorkerReport};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Pause before the second attempt.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// How often the announcement is looked at while a session stands.
const ANNOUNCEMENT_LOOK: Duration = Duration::from_millis(200);
/// A coordinator that does not answer is given up after this.
const CONNECT: Duration = Duration::from_millis(CONNECT_MS);
/// Longest pause between two attempts.
const MAX_WAIT: Duration = Duration::from_millis(RECONNECT_MS);
/// The same while coordinators answer and none leads: an election takes a second or so, and ten
/// thousand agents must not keep those from it who elect.
const ELECTION_WAIT: Duration = Duration::from_millis(500);
/// A session that stood this long was a good one: after it the next attempt comes at once.
const GOOD_SESSION: Duration = Duration::from_secs(5);
/// A session that stood this long was with the leader.
const FOUND: Duration = Duration::from_secs(1);
/// Messages on their way in each direction.
const QUEUE: usize = 256;

/// Why the agent itself ends a session.
const ENDING: &str = "the agent is ending";

/// Where a coordinator is.
#[derive(Debug, Clone)]
pub enum Address {
    /// At a fixed address.
    Fixed(SocketAddr),
    /// In a file that the coordinator writes; read at every attempt, because a coordinator that was
    /// started again may have another port.
    Announced(PathBuf),
}

/// Where to connect to, and the process there if it is announced.
type Found = (SocketAddr, Option<u32>);

impl Address {
    fn resolve(&self) -> Result<Found, String> {
        match self {
            Self::Fixed(address) => Ok((*address, None)),
            Self::Announced(path) => {
                let announcement = Announcement::read(path)
                    .map_err(|error| format!("announcement {}: {error}", path.display()))?;
                Ok((announcement.listen, Some(announcement.process)))
            }
        }
    }
}

/// A report with the number of the session that it is meant for.
pub type Addressed = (u64, WorkerReport);

/// Connects, feeds the core, and connects again. `may_connect` becomes true once an executor is
/// ready; `reports` are sent on the session whose number they carry, and dropped if it is not the
/// one that stands: the core sends again what matters (`AGENT-5`).
pub async fn keep_connected(
    connector: Connector,
    addresses: Vec<Address>,
    mut may_connect: watch::Receiver<bool>,
    mut reports: mpsc::Receiver<Addressed>,
    events: mpsc::Sender<Event>,
) {
    let connector = match addresses.len() {
        1 => connector,
        _ => connector.watchful(),
    };
    let mut session = 0;
    let mut wait = FIRST_WAIT;
    let mut last_failure = String::new();
    let mut search = Search::default();
    if may_connect.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    loop {
        let mut longest = MAX_WAIT;
        match connect(&connector, &addresses, &search).await {
            Ok((connection, found)) => {
                let begin = Instant::now();
                let (speaks, spoke) = oneshot::channel();
                session += 1;
                if events.send(Event::Connected { session }).await.is_err() {
                    return;
                }
                let end = tokio::select! {
                    biased;
                    end = talk(&connection, session, &mut reports, &events, speaks) => end,
                    () = moved(&addresses, &found, connection.remote_address(), spoke) => End::Lost("the coordinator announced itself anew".to_owned()),
                };
                let at = connection.remote_address();
                connection.close("the session ended");
                if events.send(Event::Disconnected).await.is_err() {
                    return;
                }
                // A coordinator that refuses is not asked twenty times a second.
                if begin.elapsed() >= GOOD_SESSION {
                    wait = FIRST_WAIT;
                    last_failure.clear();
                }
                if begin.elapsed() >= FOUND {
                    search.found();
                }
                let hinted = match &end {
                    End::NotLeader(leader) => {
                        longest = ELECTION_WAIT;
                        addresses_of(leader.as_ref()).await
                    }
                    End::Lost(_) => Vec::new(),
                };
                tell(&end.to_string(), &mut last_failure);
                if search.elsewhere(at, hinted, addresses.len()) {
                    continue;
                }
            }
            Err(failure) => {
                search.nobody();
                tell(&failure, &mut last_failure);
            }
        }
        tokio::time::sleep(wait.min(longest)).await;
        wait = (wait * 2).min(MAX_WAIT);
    }
}

/// Once for each reason: an absent coordinator must not fill the log.
fn tell(failure: &str, last_failure: &mut String) {
    if failure != last_failure {
        tracing::warn!("{failure}");
        failure.clone_into(last_failure);
    }
}

/// Connects to the most likely leader that answers, and says what each announcement said before.
async fn connect(
    connector: &Connector,
    addresses: &[Address],
    search: &Search,
) -> Result<(Connection, Vec<Option<Found>>), String> {
    let (mut found, mut known, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for address in addresses {
        match address.resolve() {
            Ok(resolved) => {
                found.push(Some(resolved));
                known.push(resolved.0);
            }
            Err(failure) => {
                found.push(None);
                failures.push(failure);
            }
        }
    }
    let order = search.order(&known);
    match connector
        .connect_first(CONNECT, &order, Role::Coordinator)
        .await
    {
        Ok(connection) => Ok((connection, found)),
        Err(refusals) => {
            failures.extend(refusals.iter().map(ToString::to_string));
            Err(failures.join("; "))
        }
    }
}

/// Completes when the coordinator at `at` announces itself anew: the one that this agent talks with
/// was killed, which QUIC would notice only after its idle timeout.
///
/// `found` is what was announced before the connection was made. One that starts takes connections at
/// its old address before it announces itself, and speaks after that: until it `spoke`, a new
/// announcement may be its own, and it is given the time of an attempt to speak.
async fn moved(
    addresses: &[Address],
    found: &[Option<Found>],
    at: SocketAddr,
    mut spoke: oneshot::Receiver<()>,
) {
    let mut pairs = addresses.iter().zip(found);
    // Only what led here matters.
    let led_here = pairs.find_map(|(address, found)| {
        let found = found.filter(|(announced, _)| *announced == at)?;
        Some((address, found))
    });
    let Some((address, mut found)) = led_here else {
        return std::future::pending().await;
    };
    let (mut has_spoken, mut changed) = (false, None);
    loop {
        tokio::select! {
            // It is dropped only with the session.
            Ok(()) = &mut spoke, if !has_spoken => {
                has_spoken = true;
                changed = None;
                let now = address.resolve().ok();
                found = now.filter(|(announced, _)| *announced == at).unwrap_or(found);
            }
            () = tokio::time::sleep(ANNOUNCEMENT_LOOK) => {}
        }
        if address.resolve().is_ok_and(|now| now != found) {
            let since = *changed.get_or_insert_with(Instant::now);
            if has_spoken || since.elapsed() >= CONNECT {
                return;
            }
        }
    }
}

/// Addresses of the leader; none if its name means nothing here, and then the others are tried.
async fn addresses_of(leader: Option<&LeaderHint>) -> Vec<SocketAddr> {
    let Some(leader) = leader else {
        return Vec::new();
    };
    look_up(&leader.address).await.unwrap_or_default()
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    /// The coordinator does not lead.
    NotLeader(Option<LeaderHint>),
    /// Anything else.
    Lost(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotLeader(Some(leader)) => {
                write!(
                    f,
                    "looking for the leader: {} at {}",
                    leader.name, leader.address
                )
            }
            Self::NotLeader(None) => f.write_str("looking for the leader: none is known"),
            Self::Lost(reason) => write!(f, "the session with the coordinator ended: {reason}"),
        }
    }
}

/// Talks until the connection ends, or the coordinator says that it does not lead; `speaks` is told of
/// its first command.
async fn talk(
    connection: &Connection,
    session: u64,
    reports: &mut mpsc::Receiver<Addressed>,
    events: &mpsc::Sender<Event>,
    speaks: oneshot::Sender<()>,
) -> End {
    let mut speaks = Some(speaks);
    let (sender, receiver) = match connection.open().await {
        Ok(stream) => stream,
        Err(error) => return End::Lost(error.to_string()),
    };
    let (outgoing, mut writer) = sender.into_queue::<WorkerReport>(QUEUE);
    let mut commands = receiver.into_queue::<WorkerCommand>(QUEUE);
    let ended = |result: Option<Result<WorkerCommand, TransportError>>| match result {
        Some(Err(error)) => error.to_string(),
        _ => "the coordinator closed the stream".to_owned(),
    };
    let end = loop {
        tokio::select! {
            biased;
            // First, because what a coordinator says before it closes the connection matters.
            command = commands.recv() => match command {
                Some(Ok(WorkerCommand::NotLeader { leader })) => break End::NotLeader(leader),
                Some(Ok(command)) => {
                    // Fails only if nobody watches for it any more.
                    speaks.take().map(|speaks| speaks.send(()));
                    if events.send(Event::Command(command)).await.is_err() {
                        break End::Lost(ENDING.to_owned());
                    }
                }
                other => break End::Lost(ended(other)),
            },
            outcome = &mut writer => {
                let end = last_words(connection, &mut commands).await;
                return end.unwrap_or_else(|| End::Lost(writer_ended(outcome)));
            }
            report = reports.recv() => match report {
                Some((meant_for, report)) => {
                    if meant_for == session && outgoing.send(report).await.is_err() {
                        let end = last_words(connection, &mut commands).await;
                        return match end {
                            Some(end) => end,
                            None => End::Lost(writer_ended(writer.await)),
                        };
                    }
                }
                None => break End::Lost(ENDING.to_owned()),
            },
        }
    };
    writer.abort();
    end
}

/// What a coordinator that closed the connection said before, if that was where to go.
async fn last_words(
    connection: &Connection,
    commands: &mut mpsc::Receiver<Result<WorkerCommand, TransportError>>,
) -> Option<End> {
    // Otherwise the queue need not end.
    if !connection.is_closed() {
        return None;
    }
    while let Some(Ok(command)) = commands.recv().await {
        if let WorkerCommand::NotLeader { leader } = command {
            return Some(End::NotLeader(leader));
        }
    }
    None
}

/// Why nothing can be written any more: a report that does not fit into a frame, or the connection.
fn writer_ended(outcome: Result<Result<(), TransportError>, tokio::task::JoinError>) -> String {
    match outcome {
        Ok(Ok(())) => "the stream to the coordinator ended".to_owned(),
        Ok(Err(error)) => format!("a report cannot be sent: {error}"),
        Err(error) => format!("the task that writes reports ended: {error}"),
    }
}
