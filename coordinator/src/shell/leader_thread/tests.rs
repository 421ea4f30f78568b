//! The thread's rounds, one at a time.

use super::super::raft_thread::input_channel;
use super::*;
use crate::consensus::Committed;
use crate::leader::{LeaderConfig, Secrets};
use crate::state::{Batch, OLDEST_RECORDS, State};
use evoring_protocol::JobId;
use evoring_protocol::peer::GroupId;
use std::sync::mpsc::Receiver;
use tokio::sync::oneshot;

/// Room in the queue of messages.
const INBOX: usize = 256;

/// A worker in office, what it gives to Raft, and those who talk to it.
struct Bench {
    worker: Worker,
    inputs: Receiver<Input>,
    inbox: Inbox,
    runtime: tokio::runtime::Runtime,
    _blobs_runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn in_office() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let others = tokio::runtime::Runtime::new().unwrap();
        let state = State::of_new_group(GroupId([1; 16]), "a".into(), "a:1".into());
        let config = LeaderConfig::of_test("a", "a:1");
        let (sender, messages) = mpsc::channel(INBOX);
        let inbox = Inbox::new(sender);
        let (raft, inputs) = input_channel();
        let parts = LeaderThread {
            leader: Leader::new(config, state, Secrets::new([1; 32])),
            messages,
            raft,
            events: EventFile::open(folder.path()).unwrap(),
            logs: JobLogs::default(),
            blobs: Blobs::open(&format!("file://{}", folder.path().display())).unwrap(),
            inbox: inbox.clone(),
            metrics: Arc::new(Metrics::new().unwrap()),
            runtime: others.handle().clone(),
            standing: watch::channel(Arc::default()).0,
        };
        let mut bench = Self {
            worker: Worker::new(parts).unwrap(),
            inputs,
            inbox,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap(),
            _blobs_runtime: others,
            _folder: folder,
        };
        let batch = Batch {
            time_ms: 0,
            commands: vec![Command::SetLeaseKey { key: [2; 32] }],
        };
        let entry = Committed {
            index: 2,
            term: 1,
            proposal: None,
            data: batch.encode(OLDEST_RECORDS),
        };
        bench.first(Event::Elected { term: 1 });
        bench.first(Event::Committed(vec![entry]));
        assert!(bench.turn());
        assert!(bench.worker.parts.leader.scheduler().is_some());
        bench
    }

    fn turn(&mut self) -> bool {
        self.worker.turn(&self.runtime).unwrap()
    }

    fn first(&self, event: Event) {
        assert!(self.inbox.try_first(event).unwrap().is_none());
    }

    /// Puts a client's wish into the queue.
    fn label(&self, number: u64) -> oneshot::Receiver<Result<Outcome, Denial>> {
        let (reply, outcome) = oneshot::channel();
        let command = Command::Label {
            job: JobId(1),
            key: "key".into(),
            value: number.to_string(),
        };
        let message = Message::Write { command, reply };
        self.inbox.sender.try_send(message).unwrap();
        outcome
    }

    /// Commands of the entries proposed since the last call.
    fn proposed(&self) -> Vec<usize> {
        let data = self.inputs.try_iter().filter_map(|input| match input {
            Input::Core(consensus::Event::Propose { data, .. }) => Some(data),
            _ => None,
        });
        let version = self.worker.parts.leader.state().version();
        data.map(|data| Batch::decode(&data, version).unwrap().commands.len())
            .collect()
    }
}

/// Claim: what many clients want at once shares one entry, and with it one sync.
/// Method: a hundred labels wait before the thread looks.
#[test]
fn what_waits_shares_an_entry() {
    let mut bench = Bench::in_office();
    bench.proposed();
    let _outcomes: Vec<_> = (0..100).map(|number| bench.label(number)).collect();
    bench.turn();
    assert_eq!(bench.proposed(), [100]);
}

/// Claim: what the group decided does not wait behind clients, however many there are.
/// Method: the queue of messages is full, and a sender waits for the next free place, when this
/// coordinator loses its office: no client's wish is proposed any more, all are told.
#[test]
fn decisions_of_the_group_come_first() {
    let mut bench = Bench::in_office();
    bench.proposed();
    let outcomes: Vec<_> = (0..INBOX as u64)
        .map(|number| bench.label(number))
        .collect();
    let waits = bench.inbox.clone();
    let waiting = bench
        .worker
        .parts
        .runtime
        .spawn(async move { waits.send(Message::HandOver).await });
    bench.first(Event::SteppedDown);
    while bench.turn() && !bench.worker.parts.messages.is_empty() {}
    assert!(bench.worker.parts.leader.scheduler().is_none());
    assert!(bench.proposed().is_empty());
    for mut outcome in outcomes {
        assert!(outcome.try_recv().unwrap().is_err());
    }
    waiting.abort();
}

/// Claim: what came before the end is still done, and the end is not put off.
/// Method: a wish, the end, another wish.
#[test]
fn ends_after_what_came_before() {
    let mut bench = Bench::in_office();
    bench.proposed();
    let _before = bench.label(1);
    bench.inbox.sender.try_send(Message::Stop).unwrap();
    let _after = bench.label(2);
    assert!(!bench.turn());
    assert_eq!(bench.proposed(), [1]);
}
