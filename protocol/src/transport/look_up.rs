//! Addresses of names.

use std::net::SocketAddr;
use std::time::Duration;

/// A name server that takes longer has no answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Addresses of one name that are of use: each costs an attempt.
const ADDRESSES: usize = 4;

/// Addresses of `HOST:PORT`, at most four. Must be called inside a tokio runtime.
///
/// # Errors
/// If nothing knows the name, or not within two seconds.
pub async fn look_up(name: &str) -> std::io::Result<Vec<SocketAddr>> {
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host(name)).await {
        Ok(found) => Ok(found?.take(ADDRESSES).collect()),
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}
