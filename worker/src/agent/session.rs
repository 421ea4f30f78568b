//! The agent's connection to the coordinator: made again and again, for ever.

use super::work::Event;
use evoring_protocol::transport::{Connection, Connector, Role, TransportError};
use evoring_protocol::worker::{WorkerCommand, WorkerReport};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Pause before the second attempt.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// How often the announcement is looked at while a session stands.
const ANNOUNCEMENT_LOOK: Duration = Duration::from_millis(200);
/// Longest pause between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// A session that stood this long was a good one: after it the next attempt comes at once.
const GOOD_SESSION: Duration = Duration::from_secs(5);
/// Messages on their way in each direction.
const QUEUE: usize = 256;

/// Where the coordinator is.
#[derive(Debug, Clone)]
pub enum Address {
    /// At a fixed address.
    Fixed(SocketAddr),
    /// In a file that the coordinator writes; read at every attempt, because a coordinator that was
    /// started again may have another port.
    Announced(PathBuf),
}

impl Address {
    fn resolve(&self) -> Result<SocketAddr, String> {
        match self {
            Self::Fixed(address) => Ok(*address),
            Self::Announced(path) => {
                let failed = |reason: String| format!("announcement {}: {reason}", path.display());
                let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
                let value: serde_json::Value =
                    serde_json::from_str(&text).map_err(|e| failed(e.to_string()))?;
                let listen = value["listen"]
                    .as_str()
                    .ok_or_else(|| failed("expected a field `listen`".to_owned()))?;
                listen
                    .parse()
                    .map_err(|_| failed(format!("`listen` is {listen:?}, expected ADDRESS:PORT")))
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
    address: Address,
    mut may_connect: watch::Receiver<bool>,
    mut reports: mpsc::Receiver<Addressed>,
    events: mpsc::Sender<Event>,
) {
    let mut session = 0;
    let mut wait = FIRST_WAIT;
    let mut last_failure = String::new();
    if may_connect.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    loop {
        match connect(&connector, &address).await {
            Ok((connection, at)) => {
                let begin = Instant::now();
                last_failure.clear();
                session += 1;
                if events.send(Event::Connected { session }).await.is_err() {
                    return;
                }
                let reason = tokio::select! {
                    biased;
                    reason = talk(&connection, session, &mut reports, &events) => reason,
                    () = moved(&address, at) => "the coordinator announced another address".to_owned(),
                };
                tracing::warn!(%reason, "the session with the coordinator ended");
                connection.close("the session ended");
                if events.send(Event::Disconnected).await.is_err() {
                    return;
                }
                // A coordinator that refuses is not asked twenty times a second.
                if begin.elapsed() >= GOOD_SESSION {
                    wait = FIRST_WAIT;
                }
            }
            // Once for each reason: an absent coordinator must not fill the log.
            Err(failure) if failure != last_failure => {
                tracing::warn!("{failure}");
                last_failure = failure;
            }
            Err(_) => {}
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MAX_WAIT);
    }
}

async fn connect(
    connector: &Connector,
    address: &Address,
) -> Result<(Connection, SocketAddr), String> {
    let at = address.resolve()?;
    let connection = connector
        .connect_within(Duration::from_secs(2), at, Role::Coordinator)
        .await
        .map_err(|e| e.to_string())?;
    Ok((connection, at))
}

/// Completes when a coordinator announces itself elsewhere than `at`: the one at `at` was killed,
/// which QUIC would notice only after its idle timeout.
async fn moved(address: &Address, at: SocketAddr) {
    loop {
        tokio::time::sleep(ANNOUNCEMENT_LOOK).await;
        if address.resolve().is_ok_and(|now| now != at) {
            return;
        }
    }
}

/// Talks until the connection ends; gives the reason.
async fn talk(
    connection: &Connection,
    session: u64,
    reports: &mut mpsc::Receiver<Addressed>,
    events: &mpsc::Sender<Event>,
) -> String {
    let (sender, receiver) = match connection.open().await {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    let (outgoing, mut writer) = sender.into_queue::<WorkerReport>(QUEUE);
    let mut commands = receiver.into_queue::<WorkerCommand>(QUEUE);
    let ended = |result: Option<Result<WorkerCommand, TransportError>>| match result {
        Some(Err(error)) => error.to_string(),
        _ => "the coordinator closed the stream".to_owned(),
    };
    let reason = loop {
        tokio::select! {
            biased;
            outcome = &mut writer => return writer_ended(outcome),
            command = commands.recv() => match command {
                Some(Ok(command)) => {
                    if events.send(Event::Command(command)).await.is_err() {
                        break "the agent is ending".to_owned();
                    }
                }
                other => break ended(other),
            },
            report = reports.recv() => match report {
                Some((meant_for, report)) => {
                    if meant_for == session && outgoing.send(report).await.is_err() {
                        return writer_ended(writer.await);
                    }
                }
                None => break "the agent is ending".to_owned(),
            },
        }
    };
    writer.abort();
    reason
}

/// Why nothing can be written any more: a report that does not fit into a frame, or the connection.
fn writer_ended(outcome: Result<Result<(), TransportError>, tokio::task::JoinError>) -> String {
    match outcome {
        Ok(Ok(())) => "the stream to the coordinator ended".to_owned(),
        Ok(Err(error)) => format!("a report cannot be sent: {error}"),
        Err(error) => format!("the task that writes reports ended: {error}"),
    }
}
