//! Another way to an answer, for when the coordinator that was asked is silent.
//!
//! CLIENT-4: whoever does not answer for [`SILENCE`] may be dead, or merely slow. The other
//! coordinators are asked who leads, again and again with growing pauses; the request goes also to one
//! that says of itself that it does, and whoever answers first is heard. Where nothing is late
//! nobody is asked, and a request that must not be done twice never goes this way.

use super::access::Access;
use super::{Current, GROUP_CONNECT, Replies, Setback, seen};
use crate::client::group::{is_told_by_leader, leader};
use evoring_protocol::client::{ClientReply, ClientRequest, ClusterView};
use evoring_protocol::transport::{Connection, Connector, Role, TransportError, look_up};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;

/// Longer than a durable write takes on a healthy group, and shorter than an election.
pub(super) const SILENCE: Duration = Duration::from_millis(150);
/// Pause before a coordinator is asked again who leads: an election takes less than half a second.
const FIRST_ROUND: Duration = Duration::from_millis(40);
/// Longest such pause, and the one before a leader is asked that has lost its office.
const LAST_ROUND: Duration = Duration::from_millis(500);
/// Most addresses that are asked: those of a cluster file, and some that the others name.
const ADDRESSES: usize = 32;

/// After [`SILENCE`], the answer to `request` of another coordinator that leads, and the connection
/// to it; for ever if there is none. Cancel-safe, as `request` may be sent twice.
pub(super) async fn ask_beside(
    access: &Access,
    asked: &Current,
    request: &ClientRequest,
) -> (Current, Result<ClientReply, Setback>) {
    tokio::time::sleep(SILENCE).await;
    loop {
        let connection = other_leader(access, &asked.connection).await;
        let current = Current {
            seen: seen(access.announced(), connection.remote_address()),
            connection,
        };
        let answer = match Replies::open(access.clone(), current.clone(), request).await {
            Ok(mut replies) => replies.first().await,
            Err(error) => Err(Setback::of_transport(&error, access.is_announced())),
        };
        match answer {
            // It has lost its office, or its life: the one asked first may still answer.
            Err(Setback::Elsewhere { .. } | Setback::Temporary(_)) => {
                tokio::time::sleep(LAST_ROUND).await;
            }
            answer => return (current, answer),
        }
    }
}

/// Waits until another coordinator than the `asked` one says that it leads itself. What the others
/// say about each other only tells whom to ask: it may be old.
async fn other_leader(access: &Access, asked: &Connection) -> Connection {
    let mut addresses = BTreeSet::from([asked.remote_address()]);
    let mut probes = JoinSet::new();
    let mut next = access.addresses(&access.announced()).await;
    loop {
        for address in next.unwrap_or_default() {
            if addresses.len() < ADDRESSES && addresses.insert(address) {
                let probe = Probe {
                    connector: access.connector().clone(),
                    asked: asked.peer().name.clone(),
                    address,
                    connection: None,
                    pause: FIRST_ROUND,
                };
                probes.spawn(probe.look());
            }
        }
        let Some(looked) = probes.join_next().await else {
            return std::future::pending().await;
        };
        next = match looked {
            Ok((_, Told::Leads(connection))) => return connection,
            Ok((mut probe, Told::Names(named))) => {
                let pause = probe.pause;
                probe.pause = LAST_ROUND.min(pause * 9 / 8);
                probes.spawn(async move {
                    tokio::time::sleep(pause).await;
                    probe.look().await
                });
                Ok(named)
            }
            Err(_) => Ok(Vec::new()),
        };
    }
}

/// One coordinator that is asked who leads.
struct Probe {
    connector: Connector,
    /// Name of the coordinator that is silent.
    asked: String,
    address: SocketAddr,
    /// Kept from question to question.
    connection: Option<Connection>,
    /// Before it is asked again.
    pause: Duration,
}

/// What a coordinator says about who leads.
enum Told {
    /// It does.
    Leads(Connection),
    /// Another one does, which listens here; empty if it is the silent one, or not known.
    Names(Vec<SocketAddr>),
}

impl Probe {
    async fn look(mut self) -> (Self, Told) {
        let told = match tokio::time::timeout(GROUP_CONNECT, self.view()).await {
            Ok(Ok(Some((connection, view)))) => {
                let leader = leader(&view).filter(|leader| leader.name != self.asked);
                match leader {
                    Some(_) if is_told_by_leader(&view) => Told::Leads(connection),
                    Some(leader) => Told::Names(look_up(&leader.address).await.unwrap_or_default()),
                    None => Told::Names(Vec::new()),
                }
            }
            // It is silent too, or does not speak our language: a later round may find it well.
            _ => {
                self.connection = None;
                Told::Names(Vec::new())
            }
        };
        (self, told)
    }

    async fn view(&mut self) -> Result<Option<(Connection, ClusterView)>, TransportError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connect =
                    self.connector
                        .connect_within(GROUP_CONNECT, self.address, Role::Coordinator);
                connect.await?
            }
        };
        let (mut sender, mut receiver) = connection.open().await?;
        sender.send(&ClientRequest::Cluster).await?;
        sender.finish();
        let Some(ClientReply::Cluster(view)) = receiver.receive().await? else {
            return Ok(None);
        };
        self.connection = Some(connection.clone());
        Ok(Some((connection, *view)))
    }
}
