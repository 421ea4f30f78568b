//! The queue of messages, and what the leader thread is told.

use super::super::log_writer::LogParts;
use super::super::peers::Common;
use super::*;
use crate::consensus::{NodeConfig, first_write};
use crate::storage::{LogStore as _, MemoryStore};
use evoring_protocol::ClusterId;
use evoring_protocol::peer::GroupId;
use evoring_protocol::transport::{Authority, Connector, Role};
use std::path::PathBuf;
use std::time::SystemTime;
use tokio::sync::watch;

fn snapshot() -> eraftpb::Message {
    eraftpb::Message {
        snapshot: Some(eraftpb::Snapshot::default()),
        ..eraftpb::Message::default()
    }
}

/// Messages of coordinators that wait, and their bytes.
fn waiting(inputs: &Receiver<Input>) -> (usize, usize) {
    let bytes = inputs.try_iter().filter_map(|input| match input {
        Input::Peer { bytes, .. } => Some(bytes),
        _ => None,
    });
    bytes.fold((0, 0), |(count, all), bytes| (count + 1, all + bytes))
}

/// Claim: coordinators that send more than the thread takes fill neither its queue nor the memory;
/// what is dropped counts no more, and what is taken makes room. A snapshot is larger than all that
/// and comes nevertheless.
/// Method: many small messages, then large ones, with the thread's side of the queue held still.
#[test]
fn messages_of_coordinators_are_bounded() {
    let (sender, inputs) = input_channel();
    for _ in 0..2 {
        for _ in 0..2 * PEER_MESSAGES {
            sender.peer(2, eraftpb::Message::default(), 1);
        }
        sender.peer(2, snapshot(), 1);
        assert_eq!(waiting(&inputs), (PEER_MESSAGES, PEER_MESSAGES));
        (0..PEER_MESSAGES).for_each(|_| sender.taken(1));
    }
    let large = 8 << 20;
    for _ in 0..100 {
        sender.peer(2, eraftpb::Message::default(), large);
    }
    sender.peer(2, snapshot(), 2 * PEER_BYTES);
    sender.peer(2, eraftpb::Message::default(), 1);
    let fitting = PEER_BYTES / large;
    let expected = (fitting + 1, PEER_BYTES + 2 * PEER_BYTES);
    assert_eq!(waiting(&inputs), expected);
    assert_eq!(sender.waiting.messages.load(Ordering::Relaxed), fitting + 1);
    // Own inputs find room whatever others send.
    (0..QUEUE).for_each(|_| sender.send(Input::Removed));
}

/// The thread's side of a group of one, and what comes in.
fn worker() -> (Worker, Receiver<Input>) {
    let mut store = MemoryStore::new();
    store.write(&first_write(1, Vec::new())).unwrap();
    let config = NodeConfig {
        id: 1,
        boot: 1,
        seed: 1,
    };
    let consensus = Consensus::new(config, store.load().unwrap()).unwrap();
    let (sender, inputs) = input_channel();
    let (inbox, _) = mpsc::channel(1);
    let inbox = Inbox::new(inbox);
    let metrics = Arc::new(Metrics::new().unwrap());
    let log = LogParts {
        store,
        folder: PathBuf::from("/"),
        inbox: inbox.clone(),
        metrics: Arc::clone(&metrics),
        snapshot_bytes: 0,
    };
    let (failed, _) = mpsc::channel(1);
    let now = SystemTime::now();
    let authority = Authority::create(ClusterId(*b"made-up!"), now).unwrap();
    let identity = authority.issue(Role::Coordinator, "c1", now).unwrap();
    let links = Links::new(Common {
        connector: Connector::new(&identity).unwrap(),
        group: GroupId([1; 16]),
        id: 1,
        address: "127.0.0.1:1".into(),
        raft: sender.clone(),
        inbox: inbox.clone(),
        standing: watch::channel(Arc::default()).1,
        runtime: tokio::runtime::Handle::current(),
    });
    let waiting = Arc::clone(&sender.waiting);
    let parts = RaftParts {
        consensus,
        log: log.start(sender, failed).unwrap(),
        links,
        inbox,
        metrics,
        members: BTreeMap::new(),
        campaigns: true,
    };
    (Worker::new(parts, waiting), inputs)
}

/// Claim: the leader thread hears of another leader and of another membership with what follows from
/// them, and not up to 200 ms later: it tells who has left by what it knows.
/// Method: a group of one leads and takes a second node in; the thread's own clock stands still.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_at_once() {
    fn last_report(worker: &Worker) -> Option<&GroupReport> {
        fn report(event: &leader::Event) -> Option<&GroupReport> {
            match event {
                leader::Event::Group(report) => Some(report),
                _ => None,
            }
        }
        worker.told.iter().rev().find_map(report)
    }
    let (mut worker, inputs) = worker();
    worker.feed(Event::Campaign).unwrap();
    let began = Instant::now();
    let wait_until = |worker: &mut Worker, condition: fn(&Worker) -> bool| {
        while !condition(worker) {
            assert!(began.elapsed() < Duration::from_secs(20));
            if let Ok(input) = inputs.recv_timeout(TICK) {
                assert!(worker.take_all(input, &inputs).unwrap());
            }
            // Entries are applied elsewhere; nothing here depends on it.
            let index = worker.parts.consensus.committed();
            worker.feed(Event::Applied { index }).unwrap();
            worker.feed(Event::Tick).unwrap();
        }
    };
    wait_until(&mut worker, |worker| worker.parts.consensus.is_leader());
    let report = last_report(&worker).unwrap();
    assert_eq!(report.term, worker.parts.consensus.term());
    assert_eq!(report.nodes(), BTreeSet::from([1]));
    let member = |name: &str| Member {
        name: name.into(),
        address: "127.0.0.1:1".into(),
        has_joined: false,
    };
    let members = BTreeMap::from([(1, member("c1")), (2, member("c2"))]);
    worker.take(Input::Members(members)).unwrap();
    let knows_both = |worker: &Worker| {
        let report = last_report(worker);
        report.is_some_and(|report| report.nodes() == BTreeSet::from([1, 2]))
    };
    wait_until(&mut worker, knows_both);
    assert_eq!(worker.ticks, 0);
}
