//! Who gets a connection, and what everybody else is told.

use super::*;
use crate::transport::{CONNECT_TIMEOUT, LIFETIME, tls};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

/// Both sides know each other's role, name and cluster, for each role that connects.
#[tokio::test]
async fn both_sides_know_each_other() {
    let (mut listener, authority) = coordinator();
    for role in Role::ALL {
        let identity = issue(&authority, role, "x");
        let (accepted, connected) = attempt(&mut listener, &identity).await;
        let (accepted, connected) = (accepted.unwrap(), connected.unwrap());
        assert_eq!(accepted.peer(), identity.peer());
        assert_eq!(
            (connected.peer().role, connected.peer().name.as_str()),
            (Role::Coordinator, "c1")
        );
        assert_eq!(connected.peer().cluster, CLUSTER);
        assert_eq!(connected.remote_address(), listener.local_addr());
    }
}

/// A certificate of another cluster is refused, and both sides' sentences say so.
#[tokio::test]
async fn another_cluster_is_refused_and_told_so() {
    let (mut listener, _) = coordinator();
    let foreigner = issue(&authority(OTHER_CLUSTER), Role::Worker, "w1");
    let (accepted, connected) = attempt(&mut listener, &foreigner).await;
    let (accepted, connected) = (accepted.unwrap_err(), connected.unwrap_err());
    assert!(!connected.can_retry());
    assert_eq!(
        connected.to_string(),
        format!(
            "the coordinator at {} refused this certificate: it belongs to another cluster \
             ({OTHER_CLUSTER}); use the identity made by the cluster that runs there",
            listener.local_addr()
        )
    );
    let sentence = accepted.to_string();
    assert!(sentence.starts_with("refused 127.0.0.1:"), "{sentence}");
    assert!(
        sentence.ends_with(&format!(
            ": its certificate belongs to another cluster, this one is {CLUSTER}; \
             it must use an identity made by this cluster"
        )),
        "{sentence}"
    );
}

/// An authority that claims the same cluster number is not the cluster's: each side refuses it
/// by itself, also when the other side would go on.
#[tokio::test]
async fn the_key_counts_not_the_number() {
    let (mut listener, real) = coordinator();
    let fake = authority(CLUSTER);

    // The connector does not trust the listener.
    let (accepted, connected) = attempt(&mut listener, &issue(&fake, Role::Worker, "w1")).await;
    let (accepted, connected) = (accepted.unwrap_err(), connected.unwrap_err());
    assert!(
        matches!(connected, TransportError::ForeignServer { .. }),
        "{connected}"
    );
    assert!(
        matches!(accepted, TransportError::ForeignClient { .. }),
        "{accepted}"
    );

    // The connector trusts the listener; its own certificate is the fake one.
    let fake = issue(&fake, Role::Worker, "w1");
    let mixed = Identity::from_pem(
        fake.certificate_pem,
        fake.key_pem,
        issue(&real, Role::Worker, "w1").authority_pem,
    )
    .unwrap();
    let (accepted, connected) = attempt(&mut listener, &mixed).await;
    let (accepted, connected) = (accepted.unwrap_err(), connected.unwrap_err());
    assert!(
        matches!(connected, TransportError::OtherCluster { .. }),
        "{connected}"
    );
    assert!(
        matches!(accepted, TransportError::ForeignClient { .. }),
        "{accepted}"
    );
}

/// Without a client certificate there is no connection: a raw client of the same library that
/// presents none is cut off, and the listener says why.
#[tokio::test]
async fn no_certificate_no_connection() {
    let (mut listener, authority) = coordinator();
    let identity = issue(&authority, Role::Worker, "w1");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.authority().unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    )
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    config.alpn_protocols = vec![format!("evoring/1/{CLUSTER}").into_bytes()];
    let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
    let endpoint = quinn::Endpoint::client(ANY_PORT).unwrap();
    let connecting = endpoint
        .connect_with(
            quinn::ClientConfig::new(Arc::new(config)),
            listener.local_addr(),
            &format!("{CLUSTER}.evoring"),
        )
        .unwrap();
    let (accepted, ended) = tokio::join!(listener.accept(), async {
        // The client's handshake ends before the server has missed the certificate.
        match connecting.await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        }
    });
    let accepted = accepted.unwrap().unwrap_err();
    assert!(
        matches!(accepted, TransportError::NoCertificate { .. }),
        "{accepted}"
    );
    assert!(
        matches!(ended, quinn::ConnectionError::ConnectionClosed(_)),
        "{ended}"
    );
}

/// A worker's listener is not taken for a coordinator, although its certificate is good.
#[tokio::test]
async fn another_role_is_refused() {
    let authority = authority(CLUSTER);
    let mut listener = Listener::bind(ANY_PORT, &issue(&authority, Role::Worker, "w1")).unwrap();
    let address = listener.local_addr();
    let client = issue(&authority, Role::Submitter, "me");
    let (_accepted, connected) = attempt(&mut listener, &client).await;
    assert_eq!(
        connected.unwrap_err().to_string(),
        format!("the process at {address} is a worker: expected a coordinator; check the address")
    );
}

/// Certificates outside of their lifetime are refused, and both sides are told to look at it.
#[tokio::test]
async fn expired_certificates_are_refused() {
    let authority = authority(CLUSTER);
    let long_ago = SystemTime::now() - 2 * LIFETIME;
    let good = issue(&authority, Role::Coordinator, "c1");
    let old = authority.issue(Role::Coordinator, "c2", long_ago).unwrap();

    let mut listener = Listener::bind(ANY_PORT, &good).unwrap();
    let (accepted, connected) = attempt(&mut listener, &old).await;
    let (accepted, connected) = (
        accepted.unwrap_err().to_string(),
        connected.unwrap_err().to_string(),
    );
    assert!(
        connected.contains("this process's certificate has expired"),
        "{connected}"
    );
    assert!(
        accepted.contains("the other side's certificate has expired"),
        "{accepted}"
    );

    let mut listener = Listener::bind(ANY_PORT, &old).unwrap();
    let (accepted, connected) = attempt(&mut listener, &good).await;
    let (accepted, connected) = (
        accepted.unwrap_err().to_string(),
        connected.unwrap_err().to_string(),
    );
    assert!(
        connected.contains("the other side's certificate has expired"),
        "{connected}"
    );
    assert!(
        accepted.contains("this process's certificate has expired"),
        "{accepted}"
    );
}

/// A submitter's process cannot listen at all.
#[tokio::test]
async fn people_do_not_listen() {
    let identity = issue(&authority(CLUSTER), Role::Submitter, "me");
    let error = Listener::bind(ANY_PORT, &identity).unwrap_err().to_string();
    assert!(
        error.starts_with("the identity of submitter me cannot listen"),
        "{error}"
    );
}

/// A taken port is named, with what to do.
#[tokio::test]
async fn taken_port_is_named() {
    let (listener, authority) = coordinator();
    let address = listener.local_addr();
    let second = issue(&authority, Role::Coordinator, "c2");
    let error = Listener::bind(address, &second).unwrap_err();
    assert!(
        matches!(error, TransportError::AddressInUse { .. }),
        "{error}"
    );
    let expected = format!(
        "UDP port {} of 127.0.0.1 is taken: stop the process",
        address.port()
    );
    assert!(error.to_string().starts_with(&expected), "{error}");
}

/// Where nobody answers (a socket that nobody reads), connecting ends at its limit and may be
/// tried again.
#[tokio::test]
async fn silence_ends() {
    let silent = UdpSocket::bind(ANY_PORT).unwrap();
    let identity = issue(&authority(CLUSTER), Role::Worker, "w1");
    let error = Connector::new(&identity)
        .unwrap()
        .connect_within(
            Duration::from_millis(100),
            silent.local_addr().unwrap(),
            Role::Coordinator,
        )
        .await
        .unwrap_err();
    assert!(
        matches!(error, TransportError::NoAnswer { .. }) && error.can_retry(),
        "{error}"
    );
}

/// Handshakes that hang hold up nobody: a hundred clients that stop after their first packet are
/// followed by one that is served at once. They live in a runtime that runs only while the
/// listener's stands still, so they never see an answer.
#[tokio::test]
async fn hanging_handshakes_delay_nobody() {
    let (mut listener, authority) = coordinator();
    let address = listener.local_addr();
    let identity = issue(&authority, Role::Worker, "w1");
    let hanging =
        std::thread::scope(|scope| scope.spawn(|| hang(&identity, address)).join().unwrap());
    let begin = std::time::Instant::now();
    let (accepted, connected) = attempt(&mut listener, &identity).await;
    assert_eq!(accepted.unwrap().peer().name, "w1");
    connected.unwrap();
    assert!(begin.elapsed() < CONNECT_TIMEOUT / 2);
    hanging.shutdown_background();
}

/// Sends the first packets of a hundred handshakes and freezes.
fn hang(identity: &Identity, address: SocketAddr) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for _ in 0..100 {
            let endpoint = quinn::Endpoint::client(ANY_PORT).unwrap();
            let connecting = endpoint
                .connect_with(
                    tls::connecting(identity).unwrap(),
                    address,
                    &format!("{CLUSTER}.evoring"),
                )
                .unwrap();
            tokio::spawn(async move { (connecting.await, endpoint) });
            tokio::task::yield_now().await;
        }
    });
    runtime
}

/// After the death of a listening process without a word (its runtime is dropped, so no packet
/// of farewell leaves), a new one at the same address under the same identity tells peers at
/// their next sign of life, long before the idle timeout, and serves them.
#[test]
fn restart_is_noticed_before_the_idle_timeout() {
    let authority = authority(CLUSTER);
    let server = issue(&authority, Role::Coordinator, "c1");
    let client = issue(&authority, Role::Worker, "w1");
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (first_life, rest) = (runtime(), runtime());

    let (address, served) = first_life.block_on(async {
        let mut listener = Listener::bind(ANY_PORT, &server).unwrap();
        let address = listener.local_addr();
        let served = tokio::spawn(async move {
            let _connection = listener.accept().await.unwrap().unwrap();
            std::future::pending::<()>().await;
        });
        (address, served)
    });
    let connection = rest.block_on(connect(&client, address)).unwrap();
    // Dropping a connection sends a farewell; killing its runtime first does not.
    first_life.shutdown_background();
    drop(served);

    rest.block_on(async {
        let mut listener = loop {
            match Listener::bind(address, &server) {
                Ok(listener) => break listener,
                // The old socket is closed in the background.
                Err(TransportError::AddressInUse { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        };
        let error = connection.closed().await;
        let TransportError::Lost { reason, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(reason, "reset by peer");
        assert!(error.can_retry());
        let (accepted, connected) = attempt(&mut listener, &client).await;
        accepted.unwrap();
        connected.unwrap();
    });
}

/// A listener that closes tells all peers why, and no longer accepts.
#[tokio::test]
async fn closing_listener_tells_everybody() {
    let pair = Pair::new().await;
    pair.listener.close("going down for an update").await;
    let error = pair.worker.closed().await;
    assert!(
        error
            .to_string()
            .ends_with("closed the connection: going down for an update"),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .starts_with("coordinator c1 at 127.0.0.1:"),
        "{error}"
    );
}

/// A dropped listener keeps its connections and refuses new ones quickly.
#[tokio::test]
async fn dropped_listener_keeps_its_connections() {
    let (mut listener, authority) = coordinator();
    let address = listener.local_addr();
    let identity = issue(&authority, Role::Worker, "w1");
    let (accepted, connected) = attempt(&mut listener, &identity).await;
    let (accepted, connected) = (accepted.unwrap(), connected.unwrap());
    drop(listener);
    let (mut sender, _) = connected.open().await.unwrap();
    let report = crate::worker::WorkerReport::Heartbeat { executors: vec![7] };
    sender.send(&report).await.unwrap();
    let (_, mut receiver) = accepted.accept().await.unwrap();
    assert_eq!(receiver.receive().await.unwrap(), Some(report));
    let error = connect(&identity, address).await.unwrap_err();
    assert!(
        matches!(error, TransportError::Unreachable { .. }),
        "{error}"
    );
    assert!(error.can_retry());
}
