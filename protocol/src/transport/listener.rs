//! The listening side.

use super::connection::{CloseCode, Connection};
use super::error::{IdentityError, TransportError};
use super::identity::Identity;
use super::settings::{
    ACCEPTED_QUEUE, CLOSE_TIMEOUT, CONNECT_TIMEOUT, CONNECTIONS, HANDSHAKES, SOCKET_BYTES,
    TRANSPORT_VERSION,
};
use super::{alert, tls};
use crate::ClusterId;
use quinn::{ConnectionError, Incoming};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Accepts connections of its own cluster. Dropping it stops that; connections go on.
#[derive(Debug)]
pub struct Listener {
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    accepted: mpsc::Receiver<Result<Connection, TransportError>>,
}

impl Listener {
    /// Listens at `address` (port 0: a free one). Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`TransportError::AddressInUse`] if another process has the port, [`TransportError::Bind`]
    /// if the address is not one of this machine, [`TransportError::Identity`] if the identity is
    /// broken or of a role that does not listen.
    pub fn bind(address: SocketAddr, identity: &Identity) -> Result<Self, TransportError> {
        let peer = identity.peer();
        if !peer.role.can_listen() {
            return Err(IdentityError::CannotListen {
                role: peer.role,
                name: peer.name.clone(),
            }
            .into());
        }
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => TransportError::AddressInUse { address },
            _ => TransportError::Bind { address, source },
        };
        let socket = UdpSocket::bind(address).map_err(failed)?;
        enlarge_buffers(&socket);
        let endpoint = quinn::Endpoint::new(
            tls::listening_endpoint(identity)?,
            Some(tls::listening(identity)?),
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(failed)?;
        let address = endpoint.local_addr().map_err(failed)?;
        let (sender, accepted) = mpsc::channel(ACCEPTED_QUEUE);
        tokio::spawn(accept_all(endpoint.clone(), peer.cluster, sender));
        Ok(Self {
            endpoint,
            address,
            accepted,
        })
    }

    /// Where it listens, with the true port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, or why one was refused (log it and go on); `None` once the listener
    /// is closed. Handshakes run beside this, so a slow one delays no other. Cancel-safe.
    ///
    /// Every role of the cluster is accepted: check [`Connection::peer`] before you act.
    pub async fn accept(&mut self) -> Option<Result<Connection, TransportError>> {
        self.accepted.recv().await
    }

    /// Closes all connections with `reason` and waits (0.5 s at most) until the peers know.
    pub async fn close(self, reason: &str) {
        self.endpoint
            .close(CloseCode::Done.into(), reason.as_bytes());
        // Peers may be gone; there is nothing left to do about it.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await;
    }
}

/// One socket serves all peers: what a few hundred of them send within a millisecond exceeds the
/// system's default of 208 KiB, and the library notices lost packets late. The system may give less
/// (`net.core.rmem_max`); that only costs time.
fn enlarge_buffers(socket: &UdpSocket) {
    use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
    let _ = set_socket_recv_buffer_size(socket, SOCKET_BYTES);
    let _ = set_socket_send_buffer_size(socket, SOCKET_BYTES);
}

type Accepted = mpsc::Sender<Result<Connection, TransportError>>;

/// Runs until the listener is dropped or closed.
async fn accept_all(endpoint: quinn::Endpoint, cluster: ClusterId, accepted: Accepted) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let incoming = tokio::select! {
            biased;
            () = accepted.closed() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        if endpoint.open_connections() >= CONNECTIONS {
            incoming.refuse();
            continue;
        }
        // Under load a newcomer first proves that its address is its own.
        if handshakes.available_permits() < HANDSHAKES / 2 && !incoming.remote_address_validated() {
            // Fails only for a validated address.
            let _ = incoming.retry();
            continue;
        }
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
            break;
        };
        let accepted = accepted.clone();
        tokio::spawn(async move {
            let outcome = handshake(incoming, cluster).await;
            // Fails only if the listener is gone.
            let _ = accepted.send(outcome).await;
            drop(permit);
        });
    }
    refuse_all(&endpoint).await;
}

/// After the listener: tells newcomers at once, for as long as old connections keep the socket.
async fn refuse_all(endpoint: &quinn::Endpoint) {
    loop {
        tokio::select! {
            biased;
            () = endpoint.wait_idle() => return,
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => incoming.refuse(),
                None => return,
            },
        }
    }
}

async fn handshake(incoming: Incoming, cluster: ClusterId) -> Result<Connection, TransportError> {
    let address = incoming.remote_address();
    let complete = async {
        let inner = incoming
            .accept()
            .map_err(|e| refused(address, cluster, e))?;
        let inner = inner.await.map_err(|e| refused(address, cluster, e))?;
        let connection = Connection::new(inner, None)?;
        greet(connection.inner())
            .await
            .map_err(|e| refused(address, cluster, e))?;
        Ok(connection)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, complete)
        .await
        .unwrap_or_else(|_| {
            let reason = format!(
                "the handshake took longer than {} s",
                CONNECT_TIMEOUT.as_secs()
            );
            Err(TransportError::Refused { address, reason })
        })
}

/// Tells the other side that its certificate is accepted, see [`super::Connector::connect`].
async fn greet(connection: &quinn::Connection) -> Result<(), ConnectionError> {
    let mut stream = connection.open_uni().await?;
    match stream.write_all(&[TRANSPORT_VERSION]).await {
        Err(quinn::WriteError::ConnectionLost(error)) => Err(error),
        // The peer need not read the byte: it has seen the stream then.
        Ok(()) | Err(_) => Ok(()),
    }
}

fn refused(address: SocketAddr, cluster: ClusterId, error: ConnectionError) -> TransportError {
    match error {
        ConnectionError::TransportError(e) => match alert::of(e.code) {
            Some(alert::UNKNOWN_CA | alert::DECRYPT_ERROR | alert::NO_APPLICATION_PROTOCOL) => {
                TransportError::ForeignClient { address, cluster }
            }
            Some(alert::CERTIFICATE_REQUIRED) => TransportError::NoCertificate { address },
            Some(alert::CERTIFICATE_EXPIRED) => TransportError::Expired {
                address,
                whose: "the other side's",
            },
            _ => TransportError::Refused {
                address,
                reason: e.to_string(),
            },
        },
        ConnectionError::ConnectionClosed(close) => match alert::of(close.error_code) {
            Some(alert::UNKNOWN_CA | alert::DECRYPT_ERROR) => {
                TransportError::ForeignClient { address, cluster }
            }
            Some(alert::CERTIFICATE_EXPIRED) => TransportError::Expired {
                address,
                whose: "this process's",
            },
            _ => TransportError::Refused {
                address,
                reason: close.to_string(),
            },
        },
        ConnectionError::ApplicationClosed(close) => TransportError::Refused {
            address,
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        other => TransportError::Refused {
            address,
            reason: other.to_string(),
        },
    }
}
