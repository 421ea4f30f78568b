//! The connecting side.

use super::connection::{CloseCode, Connection};
use super::error::{IdentityError, TransportError};
use super::identity::Identity;
use super::peer::{Peer, Role, cluster_name};
use super::settings::{self, CONNECT_TIMEOUT, HEAD_START};
use super::{alert, tls};
use crate::ClusterId;
use quinn::ConnectionError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Makes connections under one identity.
#[derive(Debug, Clone)]
pub struct Connector {
    config: quinn::ClientConfig,
    peer: Peer,
}

impl Connector {
    /// Prepares the identity; touches no network.
    pub fn new(identity: &Identity) -> Result<Self, IdentityError> {
        Ok(Self {
            config: tls::connecting(identity)?,
            peer: identity.peer().clone(),
        })
    }

    /// Connects to `address` and returns when both sides have accepted each other's certificate:
    /// same cluster, and there is an `expected`. Takes at most [`CONNECT_TIMEOUT`]. Must be called
    /// inside a tokio runtime. Cancel-safe.
    ///
    /// # Errors
    /// [`TransportError::can_retry`] says which are worth another try; nothing is tried again here.
    pub async fn connect(
        &self,
        address: SocketAddr,
        expected: Role,
    ) -> Result<Connection, TransportError> {
        self.connect_within(CONNECT_TIMEOUT, address, expected)
            .await
    }

    /// [`Connector::connect`] with another bound.
    pub async fn connect_within(
        &self,
        limit: Duration,
        address: SocketAddr,
        expected: Role,
    ) -> Result<Connection, TransportError> {
        let target = Target {
            address,
            expected,
            cluster: self.peer.cluster,
        };
        let no_answer = TransportError::NoAnswer {
            address,
            expected,
            waited: limit,
        };
        tokio::time::timeout(limit, self.connect_unbounded(target))
            .await
            .unwrap_or(Err(no_answer))
    }

    /// The same connector for a service that runs at several addresses: a connection without any
    /// sign of life ends after [`WATCHED_IDLE_TIMEOUT`](super::WATCHED_IDLE_TIMEOUT).
    pub fn watchful(mut self) -> Self {
        self.config.transport_config(Arc::new(settings::watching()));
        self
    }

    /// Connects to whichever address answers first, with a quarter of a second's head start for each
    /// before the next one; an attempt that fails lets the next one begin at once. Each takes at most
    /// `limit`. Must be called inside a tokio runtime. Cancel-safe.
    ///
    /// # Errors
    /// Why each failed, if all did.
    pub async fn connect_first(
        &self,
        limit: Duration,
        addresses: &[SocketAddr],
        expected: Role,
    ) -> Result<Connection, Vec<TransportError>> {
        let mut waiting = addresses.iter().copied();
        // Dropped with this future, and the attempts with it.
        let mut attempts = JoinSet::new();
        let mut failures = Vec::new();
        loop {
            if let Some(address) = waiting.next() {
                let connector = self.clone();
                attempts
                    .spawn(async move { connector.connect_within(limit, address, expected).await });
            } else if attempts.is_empty() {
                return Err(failures);
            }
            let head_start = async {
                match waiting.len() {
                    0 => std::future::pending().await,
                    _ => tokio::time::sleep(HEAD_START).await,
                }
            };
            tokio::select! {
                biased;
                Some(Ok(outcome)) = attempts.join_next() => match outcome {
                    Ok(connection) => return Ok(connection),
                    Err(failure) => failures.push(failure),
                },
                () = head_start => {}
            }
        }
    }

    async fn connect_unbounded(&self, target: Target) -> Result<Connection, TransportError> {
        let local = local_address(target.address);
        let endpoint = quinn::Endpoint::client(local).map_err(|source| TransportError::Bind {
            address: local,
            source,
        })?;
        let inner = endpoint
            .connect_with(
                self.config.clone(),
                target.address,
                &cluster_name(target.cluster),
            )
            .map_err(|e| target.unreachable(e))?
            .await
            .map_err(|e| target.failed(e))?;
        let connection = Connection::new(inner, Some(endpoint))?;
        let got = connection.peer().role;
        if got != target.expected {
            connection.close_with(
                CloseCode::WrongRole,
                &format!("expected a {}, found a {got}", target.expected),
            );
            return Err(TransportError::WrongRole {
                address: target.address,
                expected: target.expected,
                got,
            });
        }
        // In TLS 1.3 our handshake ends before the other side has seen our certificate.
        greeted(connection.inner())
            .await
            .map_err(|e| target.failed(e))?;
        Ok(connection)
    }
}

/// Waits until the listener says that it accepts us.
async fn greeted(connection: &quinn::Connection) -> Result<(), ConnectionError> {
    // The stream says all by its existence; its one byte only makes it visible.
    connection.accept_uni().await.map(drop)
}

/// Where to connect to, for messages.
#[derive(Debug, Clone, Copy)]
struct Target {
    address: SocketAddr,
    expected: Role,
    cluster: ClusterId,
}

impl Target {
    fn unreachable(self, reason: impl ToString) -> TransportError {
        let Self {
            address, expected, ..
        } = self;
        TransportError::Unreachable {
            address,
            expected,
            reason: reason.to_string(),
        }
    }

    fn failed(self, error: ConnectionError) -> TransportError {
        let Self {
            address,
            expected,
            cluster,
        } = self;
        match error {
            ConnectionError::TransportError(e) => match alert::of(e.code) {
                Some(alert::UNKNOWN_CA | alert::DECRYPT_ERROR | alert::NO_APPLICATION_PROTOCOL) => {
                    TransportError::ForeignServer {
                        address,
                        expected,
                        cluster,
                    }
                }
                Some(alert::CERTIFICATE_EXPIRED) => TransportError::Expired {
                    address,
                    whose: "the other side's",
                },
                Some(_) => TransportError::Refused {
                    address,
                    reason: e.to_string(),
                },
                None => self.unreachable(e),
            },
            ConnectionError::ConnectionClosed(close) => match alert::of(close.error_code) {
                Some(alert::UNKNOWN_CA | alert::DECRYPT_ERROR | alert::NO_APPLICATION_PROTOCOL) => {
                    TransportError::OtherCluster {
                        address,
                        expected,
                        cluster,
                    }
                }
                Some(alert::CERTIFICATE_EXPIRED) => TransportError::Expired {
                    address,
                    whose: "this process's",
                },
                Some(_) => TransportError::Refused {
                    address,
                    reason: close.to_string(),
                },
                None => self.unreachable(close),
            },
            ConnectionError::ApplicationClosed(close) => {
                self.unreachable(String::from_utf8_lossy(&close.reason))
            }
            other => self.unreachable(other),
        }
    }
}

/// Loopback stays on loopback: no socket that others could reach.
fn local_address(remote: SocketAddr) -> SocketAddr {
    let ip = match remote.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(ip) if ip.is_loopback() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}
