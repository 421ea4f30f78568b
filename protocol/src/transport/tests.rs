//! Real endpoints on loopback.

mod admission;
mod identities;
mod messages;
mod several;

use super::{Authority, Connection, Connector, Identity, Listener, Role, TransportError};
use crate::ClusterId;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::SystemTime;

const CLUSTER: ClusterId = ClusterId([0xc1; 8]);
const OTHER_CLUSTER: ClusterId = ClusterId([0xc2; 8]);
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn authority(cluster: ClusterId) -> Authority {
    Authority::create(cluster, SystemTime::now()).unwrap()
}

fn issue(authority: &Authority, role: Role, name: &str) -> Identity {
    authority.issue(role, name, SystemTime::now()).unwrap()
}

/// A coordinator's listener, and the authority of its cluster.
fn coordinator() -> (Listener, Authority) {
    let authority = authority(CLUSTER);
    let identity = issue(&authority, Role::Coordinator, "c1");
    (Listener::bind(ANY_PORT, &identity).unwrap(), authority)
}

async fn connect(identity: &Identity, address: SocketAddr) -> Result<Connection, TransportError> {
    Connector::new(identity)
        .unwrap()
        .connect(address, Role::Coordinator)
        .await
}

/// Outcomes of one attempt to connect, at the listener and at the connector.
async fn attempt(
    listener: &mut Listener,
    identity: &Identity,
) -> (
    Result<Connection, TransportError>,
    Result<Connection, TransportError>,
) {
    let address = listener.local_addr();
    let (accepted, connected) = tokio::join!(listener.accept(), connect(identity, address));
    (accepted.expect("the listener is open"), connected)
}

/// A connection between coordinator c1 and worker w1.
struct Pair {
    coordinator: Connection,
    worker: Connection,
    listener: Listener,
}

impl Pair {
    async fn new() -> Self {
        let (mut listener, authority) = coordinator();
        let identity = issue(&authority, Role::Worker, "w1");
        let (accepted, connected) = attempt(&mut listener, &identity).await;
        Self {
            coordinator: accepted.unwrap(),
            worker: connected.unwrap(),
            listener,
        }
    }
}
