//! A connection with a verified peer.

use super::error::TransportError;
use super::peer::{Peer, Remote};
use super::settings::CLOSE_TIMEOUT;
use super::stream::{Receiver, Sender};
use quinn::{ConnectionError, VarInt};
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;

/// Why a connection is closed, as a number on the wire. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum CloseCode {
    /// As the reason says.
    Done = 0,
    /// The connecting side expected another role.
    WrongRole = 1,
    /// The certificate has no role.
    NoRole = 2,
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        Self::from_u32(code as u32)
    }
}

/// Most bytes of a reason; the rest is cut off.
const REASON_BYTES: usize = 512;

/// A connection with a verified peer. Copies share it; it ends when the last copy and the last
/// stream are gone, or by [`Connection::close`].
#[derive(Debug, Clone)]
pub struct Connection {
    inner: quinn::Connection,
    remote: Arc<Remote>,
    /// On the connecting side the endpoint serves this connection alone.
    endpoint: Option<quinn::Endpoint>,
}

impl Connection {
    /// Wraps a connection whose TLS handshake is complete.
    pub(super) fn new(
        inner: quinn::Connection,
        endpoint: Option<quinn::Endpoint>,
    ) -> Result<Self, TransportError> {
        let address = inner.remote_address();
        let peer = verified_peer(&inner).map_err(|reason| {
            inner.close(CloseCode::NoRole.into(), reason.as_bytes());
            TransportError::Refused { address, reason }
        })?;
        Ok(Self {
            inner,
            remote: Arc::new(Remote { peer, address }),
            endpoint,
        })
    }

    pub(super) fn inner(&self) -> &quinn::Connection {
        &self.inner
    }

    /// Who is on the other side.
    pub fn peer(&self) -> &Peer {
        &self.remote.peer
    }

    /// Where the other side is now.
    pub fn remote_address(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    /// Opens a stream. The other side sees it with the first message: send before you receive.
    /// Waits while the peer's limit of 64 open streams is reached. Cancel-safe.
    pub async fn open(&self) -> Result<(Sender, Receiver), TransportError> {
        let streams = self
            .inner
            .open_bi()
            .await
            .map_err(|e| lost(&self.remote, e))?;
        Ok(self.wrap(streams))
    }

    /// Waits for the next stream that the other side opens. Cancel-safe.
    pub async fn accept(&self) -> Result<(Sender, Receiver), TransportError> {
        let streams = self
            .inner
            .accept_bi()
            .await
            .map_err(|e| lost(&self.remote, e))?;
        Ok(self.wrap(streams))
    }

    fn wrap(&self, (send, receive): (quinn::SendStream, quinn::RecvStream)) -> (Sender, Receiver) {
        (
            Sender::new(send, Arc::clone(&self.remote)),
            Receiver::new(receive, Arc::clone(&self.remote)),
        )
    }

    /// Ends the connection now; both sides' streams fail. What was sent but not yet acknowledged
    /// by an answer is lost, so acknowledge in the protocol first. `reason` is shown at the other
    /// side. A process that exits at once should use [`Connection::close_and_wait`].
    pub fn close(&self, reason: &str) {
        self.close_with(CloseCode::Done, reason);
    }

    pub(super) fn close_with(&self, code: CloseCode, reason: &str) {
        // A character cut in two is replaced by the reader.
        let bytes = reason.as_bytes();
        self.inner
            .close(code.into(), &bytes[..bytes.len().min(REASON_BYTES)]);
    }

    /// Ends the connection and, on the connecting side, waits (0.5 s at most) until the other
    /// side knows, so that it need not wait for the idle timeout.
    pub async fn close_and_wait(&self, reason: &str) {
        self.close(reason);
        if let Some(endpoint) = &self.endpoint {
            // The other side may be gone; there is nothing left to do about it.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.close_reason().is_some()
    }

    /// Waits until the connection has ended and says why. Cancel-safe.
    pub async fn closed(&self) -> TransportError {
        lost(&self.remote, self.inner.closed().await)
    }
}

/// The peer in the certificate that TLS has verified.
fn verified_peer(connection: &quinn::Connection) -> Result<Peer, String> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or("it presented no certificate")?;
    let certificate = chain.first().ok_or("it presented no certificate")?;
    Peer::from_certificate(certificate).map_err(|e| format!("its {e}"))
}

/// Translates the end of an established connection.
pub(super) fn lost(remote: &Arc<Remote>, error: ConnectionError) -> TransportError {
    let remote = Arc::clone(remote);
    match error {
        ConnectionError::ApplicationClosed(close) => TransportError::Closed {
            remote,
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::LocallyClosed => TransportError::ClosedHere { remote },
        ConnectionError::TimedOut => TransportError::Lost {
            remote,
            reason: "no sign of life".to_owned(),
        },
        other => TransportError::Lost {
            remote,
            reason: other.to_string(),
        },
    }
}
