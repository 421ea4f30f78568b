//! One service at several addresses.

use super::*;
use crate::transport::{IDLE_TIMEOUT, WATCHED_IDLE_TIMEOUT};
use std::time::{Duration, Instant};

/// Far longer than any of these tests may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A port at which nobody answers and that nobody else takes.
fn silent() -> (std::net::UdpSocket, SocketAddr) {
    let socket = std::net::UdpSocket::bind(ANY_PORT).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Claim: dead addresses cost their head start, not their time limit, and the first that answers
/// is taken. Method: two sockets that nobody reads before a coordinator, with a limit of 30 s.
#[tokio::test]
async fn the_first_that_answers_is_taken() {
    let (mut listener, authority) = coordinator();
    let ((_first, first), (_second, second)) = (silent(), silent());
    let connector = Connector::new(&issue(&authority, Role::Worker, "w1")).unwrap();
    let begin = Instant::now();
    let addresses = [first, second, listener.local_addr()];
    let (accepted, connected) = tokio::join!(
        listener.accept(),
        connector.connect_first(LIMIT, &addresses, Role::Coordinator)
    );
    accepted.unwrap().unwrap();
    let connection = connected.unwrap();
    assert_eq!(connection.remote_address(), listener.local_addr());
    assert!(begin.elapsed() < LIMIT / 2, "{:?}", begin.elapsed());
}

/// Claim: if nobody answers, each address is told of. Method: two silent ones, and none at all.
#[tokio::test]
async fn every_failure_is_told() {
    let authority = authority(CLUSTER);
    let connector = Connector::new(&issue(&authority, Role::Worker, "w1")).unwrap();
    let ((_first, first), (_second, second)) = (silent(), silent());
    let limit = Duration::from_millis(20);
    let failures = connector
        .connect_first(limit, &[first, second], Role::Coordinator)
        .await
        .unwrap_err();
    let addresses = failures.iter().map(|failure| match failure {
        TransportError::NoAnswer { address, .. } => *address,
        other => panic!("{other}"),
    });
    assert_eq!(addresses.collect::<Vec<_>>(), [first, second]);
    let none = connector
        .connect_first(limit, &[], Role::Coordinator)
        .await
        .unwrap_err();
    assert!(none.is_empty());
}

/// Claim: a coordinator that freezes is given up after the watchful connector's idle timeout, before
/// the common one. Method: a listener in a runtime that is not driven any more once it is connected.
#[tokio::test]
async fn a_frozen_coordinator_is_left() {
    let authority = authority(CLUSTER);
    let identity = issue(&authority, Role::Coordinator, "c1");
    let worker = issue(&authority, Role::Worker, "w1");
    let (address_sender, address) = tokio::sync::oneshot::channel();
    let (freeze, frozen) = tokio::sync::oneshot::channel::<()>();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let coordinator = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _connection = runtime.block_on(async {
            let mut listener = Listener::bind(ANY_PORT, &identity).unwrap();
            address_sender.send(listener.local_addr()).unwrap();
            let connection = listener.accept().await.unwrap().unwrap();
            frozen.await.unwrap();
            (listener, connection)
        });
        let _ = ended.recv();
    });
    let connector = Connector::new(&worker).unwrap().watchful();
    let address = address.await.unwrap();
    let connection = connector.connect(address, Role::Coordinator).await.unwrap();
    assert!(!connection.is_closed());
    freeze.send(()).unwrap();
    let lost = tokio::time::timeout(IDLE_TIMEOUT - WATCHED_IDLE_TIMEOUT, connection.closed());
    let reason = lost.await.expect("it is left in time").to_string();
    assert!(reason.contains("no sign of life"), "{reason}");
    assert!(connection.is_closed());
    drop(end);
    coordinator.join().unwrap();
}
