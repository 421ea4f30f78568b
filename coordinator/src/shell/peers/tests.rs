//! Links to coordinators that are real listeners on loopback.

use super::super::raft_thread::input_channel;
use super::*;
use evoring_protocol::ClusterId;
use evoring_protocol::peer::{PeerHello, PeerMessage};
use evoring_protocol::transport::{Authority, Connection, Listener, Role};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// Longer than any attempt to connect.
const PATIENCE: Duration = Duration::from_secs(20);

/// Coordinator 1 and its links, and an authority for others.
struct Bench {
    authority: Authority,
    links: Links,
    /// What the raft thread is told.
    inputs: std::sync::mpsc::Receiver<Input>,
    _standing: watch::Sender<Arc<Standing>>,
}

impl Bench {
    fn new() -> Self {
        let authority = Authority::create(ClusterId(*b"made-up!"), SystemTime::now()).unwrap();
        let now = SystemTime::now();
        let identity = authority.issue(Role::Coordinator, "c1", now).unwrap();
        let (standing, seen) = watch::channel(Arc::default());
        let (raft, inputs) = input_channel();
        let (inbox, _) = mpsc::channel(1);
        let links = Links::new(Common {
            connector: Connector::new(&identity).unwrap(),
            group: GroupId([1; 16]),
            id: 1,
            address: "127.0.0.1:1".into(),
            raft,
            inbox: Inbox::new(inbox),
            standing: seen,
            runtime: tokio::runtime::Handle::current(),
        });
        Self {
            authority,
            links,
            inputs,
            _standing: standing,
        }
    }

    /// A coordinator of this name on a port of its own.
    fn listener(&self, name: &str) -> (Listener, String) {
        let now = SystemTime::now();
        let identity = self.authority.issue(Role::Coordinator, name, now).unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &identity).unwrap();
        let address = listener.local_addr().to_string();
        (listener, address)
    }

    fn set_member(&mut self, id: u64, name: &str, address: &str) {
        let member = Member {
            name: name.into(),
            address: address.into(),
            has_joined: true,
        };
        self.links.set_members(&BTreeMap::from([(id, member)]));
    }
}

/// The hello of the next connection that says one.
async fn greeted(listener: &mut Listener) -> (Connection, PeerHello) {
    let greeting = async {
        loop {
            let Some(Ok(connection)) = listener.accept().await else {
                continue;
            };
            let Ok((_, mut receiver)) = connection.accept().await else {
                continue;
            };
            if let Ok(Some(PeerMessage::Hello(hello))) = receiver.receive().await {
                return (connection, hello);
            }
        }
    };
    tokio::time::timeout(PATIENCE, greeting)
        .await
        .expect("a hello")
}

/// Claim (`PEER-3`): a member that listens elsewhere than the group knows is found where it says,
/// even while another coordinator listens at its old place; whoever says so with the certificate of
/// another name is not believed.
/// Method: the known place is that of c3; c4 says that it is the member, then c2 itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_found_where_it_says() {
    let mut bench = Bench::new();
    let (mut member, new_place) = bench.listener("c2");
    let (mut other, old_place) = bench.listener("c3");
    let (mut liar, liars_place) = bench.listener("c4");
    let others = tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = other.accept() => {}
                _ = liar.accept() => return "connected to the liar",
            }
        }
    });
    bench.set_member(2, "c2", &old_place);
    bench.links.hint(2, "c4".into(), liars_place);
    bench.links.hint(2, "c2".into(), new_place);
    let (_connection, hello) = greeted(&mut member).await;
    assert_eq!((hello.from, hello.to), (1, 2));
    assert!(!others.is_finished());
    others.abort();
}

/// Claim (`PEER-3`): a member whom the group is told to be where it is not, is found where it said before.
/// Method: the member says where it is; then the group knows a place at which nobody listens.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_address_loses_nobody() {
    let mut bench = Bench::new();
    let (mut member, place) = bench.listener("c2");
    bench.set_member(2, "c2", &place);
    bench.links.hint(2, "c2".into(), place);
    let (_first, _) = greeted(&mut member).await;
    bench.set_member(2, "c2", "127.0.0.1:1");
    let (_second, hello) = greeted(&mut member).await;
    assert_eq!((hello.from, hello.to), (1, 2));
}

/// Claim: where the group knows a member to listen is tried first, and what a member said of its
/// place is of no account any more once the group knows another one.
/// Method: both places listen; then the known one changes.
#[tokio::test(flavor = "multi_thread")]
async fn the_place_that_the_group_knows_comes_first() {
    let mut bench = Bench::new();
    let (mut known, place) = bench.listener("c2");
    let (mut newer, newer_place) = bench.listener("c2");
    bench.links.hint(2, "c2".into(), newer_place.clone());
    bench.set_member(2, "c2", &place);
    let (connection, _) = greeted(&mut known).await;
    bench.set_member(2, "c2", &newer_place);
    greeted(&mut newer).await;
    connection.closed().await;
}

/// Claim: a coordinator that is not known as a member yet is answered where it says that it listens,
/// once there is something to say; not this coordinator itself, and not any number of them.
/// Method: hints of many ids; a message to one of the first, to itself, and to one of the last.
#[tokio::test(flavor = "multi_thread")]
async fn hints_are_bounded() {
    let mut bench = Bench::new();
    let (mut second, place) = bench.listener("c2");
    for id in 1..1_000 {
        bench.links.hint(id, "c2".into(), place.clone());
    }
    let mut send = |to| bench.links.send(to, Outgoing::Raft(vec![1]));
    assert_eq!([send(2), send(1), send(999)], [true, false, false]);
    let (_connection, hello) = greeted(&mut second).await;
    assert_eq!(hello.to, 2);
}

/// Claim: a snapshot that waits for a member is told to be lost when the way to that member changes or
/// ends: Raft sends that member nothing more until it knows what became of it.
/// Method: a snapshot for a member that does not answer, which then has another address, and is removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_snapshot_is_told_to_be_lost() {
    let mut bench = Bench::new();
    let lost = |bench: &Bench| {
        let inputs = bench.inputs.try_iter();
        let is_loss = |input: &Input| {
            use consensus::Event::SnapshotSent;
            let Input::Core(SnapshotSent { to: 2, arrived }) = input else {
                return false;
            };
            !arrived
        };
        inputs.filter(is_loss).count()
    };
    bench.set_member(2, "c2", "192.0.2.1:1");
    let snapshot = Outgoing::Snapshot {
        message: vec![1],
        state: vec![2],
    };
    assert!(bench.links.send(2, snapshot));
    bench.set_member(2, "c2", "192.0.2.2:1");
    assert_eq!(lost(&bench), 1);
    bench.links.retain(|_| false);
    assert_eq!(lost(&bench), 1);
}
