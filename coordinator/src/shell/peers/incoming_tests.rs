//! A door that is a real listener on loopback, and coordinators that come to it.

use super::super::member_file::Membership;
use super::super::raft_thread::{Input, input_channel};
use super::*;
use crate::consensus::Event;
use evoring_protocol::limits::{BLOB_CHUNK_BYTES, SNAPSHOT_BYTES};
use evoring_protocol::peer::{PeerHello, PeerMessage, PeerRefusal, PeerReply};
use evoring_protocol::transport::{Authority, Connection, Listener, Role};
use evoring_protocol::{ClusterId, Digest};
use prost::Message as _;
use raft::eraftpb::{self, MessageType, Snapshot, SnapshotMetadata};
use std::collections::BTreeSet;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const GROUP: GroupId = GroupId([1; 16]);
/// Two whole pieces and half of one.
const STATE_BYTES: usize = 2 * BLOB_CHUNK_BYTES + BLOB_CHUNK_BYTES / 2;

/// Coordinator 1 with its door, and an authority for others.
struct House {
    authority: Authority,
    address: String,
    standing: watch::Sender<Arc<Standing>>,
    inputs: Receiver<Input>,
    _stop: watch::Sender<bool>,
}

impl House {
    /// Nobody but itself is known yet.
    fn open() -> Self {
        let authority = Authority::create(ClusterId(*b"made-up!"), SystemTime::now()).unwrap();
        let now = SystemTime::now();
        let identity = authority.issue(Role::Coordinator, "c1", now).unwrap();
        let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &identity).unwrap();
        let address = listener.local_addr().to_string();
        let (raft, inputs) = input_channel();
        let (inbox, _) = mpsc::channel(1);
        let standing = watch::channel(Arc::new(standing(&[(1, "c1")]))).0;
        let (group, id) = (GROUP, 1);
        let door = Doorkeeper {
            own: Membership { group, id },
            standing: standing.subscribe(),
            raft,
            inbox: Inbox::new(inbox),
        };
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            while let Some(accepted) = listener.accept().await {
                if let Ok(connection) = accepted {
                    tokio::spawn(serve(connection, door.clone(), stopped.clone()));
                }
            }
        });
        Self {
            authority,
            address,
            standing,
            inputs,
            _stop: stop,
        }
    }

    fn know(&self, members: &[(u64, &str)]) {
        self.standing.send_replace(Arc::new(standing(members)));
    }

    fn connector(&self, name: &str) -> Connector {
        let now = SystemTime::now();
        let identity = self.authority.issue(Role::Coordinator, name, now).unwrap();
        Connector::new(&identity).unwrap()
    }

    /// A connection of this name, and the answer to the hello that it is the coordinator of this id.
    async fn greeted(&self, name: &str, from: u64) -> (Connection, PeerReply) {
        let address = self.address.parse().unwrap();
        let connection = self
            .connector(name)
            .connect(address, Role::Coordinator)
            .await
            .unwrap();
        let hello = PeerMessage::Hello(PeerHello {
            group: GROUP,
            from,
            to: 1,
            address: "127.0.0.1:1".into(),
        });
        let (mut sender, mut receiver) = connection.open().await.unwrap();
        sender.send(&hello).await.unwrap();
        let reply = receiver.receive::<PeerReply>().await.unwrap().unwrap();
        // The stream of messages stays open as long as the connection does.
        tokio::spawn({
            let connection = connection.clone();
            async move {
                connection.closed().await;
                drop(sender);
            }
        });
        (connection, reply)
    }

    /// The message of Raft that was handed on, of this sender.
    fn handed_on(&self) -> Option<(u64, eraftpb::Message)> {
        let peer = |input| match input {
            Input::Peer { from, message, .. } => Some((from, *message)),
            _ => None,
        };
        self.inputs.try_iter().find_map(peer)
    }
}

fn standing(members: &[(u64, &str)]) -> Standing {
    let member = |(id, name): &(u64, &str)| {
        let member = Member {
            name: (*name).into(),
            address: "127.0.0.1:1".into(),
            has_joined: true,
        };
        (*id, member)
    };
    let members: BTreeMap<u64, Member> = members.iter().map(member).collect();
    Standing {
        leads: false,
        is_elected: false,
        next_member: members.keys().max().map_or(1, |id| id + 1),
        nodes: members.keys().copied().collect::<BTreeSet<u64>>(),
        members,
    }
}

/// Raft's message for a snapshot, without the state.
fn announced() -> eraftpb::Message {
    let metadata = SnapshotMetadata {
        index: 9,
        term: 1,
        ..SnapshotMetadata::default()
    };
    eraftpb::Message {
        msg_type: MessageType::MsgSnapshot.into(),
        from: 2,
        to: 1,
        snapshot: Some(Snapshot {
            data: Vec::new(),
            metadata: Some(metadata),
        }),
        ..eraftpb::Message::default()
    }
}

/// Of which no two pieces are equal.
fn state() -> Vec<u8> {
    let word = |index: usize| (index as u32).to_le_bytes();
    (0..STATE_BYTES / 4).flat_map(word).collect()
}

/// Sends a snapshot's stream as it is, and reads the answer.
async fn answer(connection: &Connection, messages: &[PeerMessage]) -> PeerReply {
    let (mut sender, mut receiver) = connection.open().await.unwrap();
    for message in messages {
        // Whoever refuses reads no further.
        if sender.send(message).await.is_err() {
            break;
        }
    }
    sender.finish();
    let reply = tokio::time::timeout(PATIENCE, receiver.receive::<PeerReply>()).await;
    reply.expect("an answer in time").unwrap().unwrap()
}

fn start(bytes: u64, digest: Digest) -> PeerMessage {
    PeerMessage::SnapshotStart {
        message: announced().encode_to_vec(),
        bytes,
        digest,
    }
}

fn pieces(state: &[u8]) -> Vec<PeerMessage> {
    let piece = |bytes: &[u8]| PeerMessage::SnapshotChunk(bytes.to_vec());
    state.chunks(BLOB_CHUNK_BYTES).map(piece).collect()
}

/// Claim: a state of several pieces arrives whole, counts as its sender's, and the sender hears of it.
/// Method: the link of coordinator 2 to the door of 1, with a state of two pieces and a half.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_arrives_whole() {
    let house = House::open();
    let (raft, sent) = input_channel();
    let (inbox, _events) = mpsc::channel(16);
    let (_standing, seen) = watch::channel(Arc::default());
    let mut links = Links::new(Common {
        connector: house.connector("c2"),
        group: GROUP,
        id: 2,
        address: "127.0.0.1:1".into(),
        raft,
        inbox: Inbox::new(inbox),
        standing: seen,
        runtime: tokio::runtime::Handle::current(),
    });
    let door = Member {
        name: "c1".into(),
        address: house.address.clone(),
        has_joined: true,
    };
    links.set_members(&BTreeMap::from([(1, door)]));
    let (message, state) = (announced().encode_to_vec(), state());
    let snapshot = Outgoing::Snapshot {
        message,
        state: state.clone(),
    };
    assert!(links.send(1, snapshot));
    let told = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(began.elapsed());
            let input = sent.recv_timeout(left).expect("told in time");
            if let Input::Core(Event::SnapshotSent { to, arrived }) = input {
                return (to, arrived);
            }
        }
    });
    assert_eq!(told.await.unwrap(), (1, true));
    let (from, message) = house.handed_on().unwrap();
    let mut expected = announced();
    expected.snapshot.as_mut().unwrap().data = state;
    assert_eq!(from, 2);
    assert!(message == expected, "another state than was sent");
}

/// Claim: what is not the snapshot that was announced is refused with the reason, is not handed on, and
/// costs the connection nothing: the next one is taken. A size beyond the limit is refused at once.
/// Method: streams with another digest, a byte too much, an early end, something else than a piece, a
/// message that is no snapshot's, a size of one byte too many; then a good one.
#[tokio::test(flavor = "multi_thread")]
async fn other_snapshots_than_announced_are_refused() {
    let house = House::open();
    let (connection, reply) = house.greeted("c2", 2).await;
    assert_eq!(reply, PeerReply::Welcome);
    let state = state();
    let (bytes, digest) = (STATE_BYTES as u64, Digest::of(&state));
    let with = |first: PeerMessage, rest: Vec<PeerMessage>| [vec![first], rest].concat();
    let all = || pieces(&state);
    let mut changed = state.clone();
    changed[STATE_BYTES / 2] ^= 1;
    let one_more = [state.clone(), vec![0]].concat();
    let no_piece = PeerMessage::Raft(Vec::new());
    let no_snapshot = PeerMessage::SnapshotStart {
        message: eraftpb::Message::default().encode_to_vec(),
        bytes,
        digest,
    };
    for (what, messages, expected) in [
        (
            "another digest",
            with(start(bytes, digest), pieces(&changed)),
            "with the digest",
        ),
        (
            "a byte too much",
            with(start(bytes, digest), pieces(&one_more)),
            "bytes, expected",
        ),
        (
            "an early end",
            with(start(bytes, digest), all()[..2].to_vec()),
            "the pieces end after",
        ),
        (
            "nothing at all",
            with(start(bytes, digest), Vec::new()),
            "the pieces end after 0",
        ),
        (
            "no piece",
            with(start(bytes, digest), vec![no_piece]),
            "expected a piece",
        ),
        ("no beginning", all(), "begins with its size"),
        (
            "no snapshot",
            with(no_snapshot, all()),
            "must be a snapshot's",
        ),
        (
            "too large",
            with(start(SNAPSHOT_BYTES + 1, digest), Vec::new()),
            "at most 2147483648",
        ),
    ] {
        match answer(&connection, &messages).await {
            PeerReply::Refused { message, .. } => {
                assert!(message.contains(expected), "{what}: {message}");
            }
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(house.handed_on(), None, "{what}");
    }
    let good = answer(&connection, &with(start(bytes, digest), all())).await;
    assert_eq!(good, PeerReply::SnapshotTaken);
    let (_, message) = house.handed_on().unwrap();
    assert!(message.snapshot.unwrap().data == state);
}

/// Claim (`PEER-1`): who was let in before the member of its id was known is not heard any more once
/// that is known under another name, or was removed; who is that member stays.
/// Method: two coordinators say that they are member 2 of a group that does not know it yet, and one
/// that it is 3; then 2 becomes known, and then 3 is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_counts_as_soon_as_it_is_known() {
    let house = House::open();
    let (member, _) = house.greeted("c2", 2).await;
    let (liar, reply) = house.greeted("c9", 2).await;
    assert_eq!(reply, PeerReply::Welcome, "nobody knows better yet");
    let (third, _) = house.greeted("c3", 3).await;
    house.know(&[(1, "c1"), (2, "c2")]);
    let closed = tokio::time::timeout(PATIENCE, liar.closed()).await;
    let why = closed.expect("closed in time").to_string();
    assert!(
        why.contains("member 2 is c2, but the certificate is c9's"),
        "{why}"
    );
    let (_, refused) = house.greeted("c9", 2).await;
    assert!(
        matches!(&refused, PeerReply::Refused { refusal, .. } if *refusal == PeerRefusal::WrongName),
        "{refused:?}"
    );
    assert!(!third.is_closed(), "it may be the next member");
    house.know(&[(1, "c1"), (2, "c2"), (4, "c4")]);
    let closed = tokio::time::timeout(PATIENCE, third.closed()).await;
    let why = closed.expect("closed in time").to_string();
    assert!(why.contains("member 3 was removed"), "{why}");
    let state = state();
    let messages = [
        vec![start(STATE_BYTES as u64, Digest::of(&state))],
        pieces(&state),
    ]
    .concat();
    assert_eq!(answer(&member, &messages).await, PeerReply::SnapshotTaken);
}

/// Claim: a coordinator's connection on which no stream is opened is not kept.
/// Method: one that only connects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_coordinators_are_let_go() {
    let house = House::open();
    let address = house.address.parse().unwrap();
    let connector = house.connector("c2");
    let connection = connector.connect(address, Role::Coordinator).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, connection.closed()).await;
    assert!(closed.is_ok());
}
