//! A consensus of one, driven by hand; the store is real and in memory.

use super::*;
use crate::storage::{LogStore, MemoryStore};

/// Persists everything at once and gives what was applied, in order.
struct Node {
    consensus: Consensus,
    store: MemoryStore,
    applied: Vec<Committed>,
    seen: Vec<&'static str>,
}

impl Node {
    fn start(store: MemoryStore, boot: u64) -> Self {
        let consensus = Consensus::new(
            NodeConfig {
                id: 1,
                boot,
                seed: 1,
            },
            store.load().unwrap(),
        )
        .unwrap();
        Self {
            consensus,
            store,
            applied: Vec::new(),
            seen: Vec::new(),
        }
    }

    fn fresh() -> Self {
        let mut store = MemoryStore::new();
        store.write(&first_write(1, b"first".to_vec())).unwrap();
        Self::start(store, 1)
    }

    fn feed(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.consensus.handle(event) {
                match action {
                    Action::Persist { token, write } => {
                        self.seen.push("persist");
                        self.store.write(&write).unwrap();
                        events.push_back(Event::Persisted { token });
                    }
                    Action::Apply(entries) => {
                        self.seen.push("apply");
                        let index = entries.last().unwrap().index;
                        self.applied.extend(entries);
                        events.push_back(Event::Applied { index });
                    }
                    Action::Elected { .. } => self.seen.push("elected"),
                    Action::SteppedDown => self.seen.push("stepped down"),
                    Action::Refused { .. } => self.seen.push("refused"),
                    Action::Leader(_) | Action::Membership(_) => {}
                    Action::ReadReady { .. } => self.seen.push("read"),
                    other => panic!("unexpected for a group of one: {other:?}"),
                }
            }
        }
    }

    fn propose(&mut self, token: u64, data: &[u8]) {
        self.feed(Event::Propose {
            token,
            data: data.to_vec(),
        });
    }

    fn commands(&self) -> Vec<&[u8]> {
        self.applied
            .iter()
            .map(|entry| entry.data.as_slice())
            .filter(|data| !data.is_empty())
            .collect()
    }
}

// Claim: a group of one elects itself, and applies a proposal only after its write is durable.
// Method: campaign and propose; withhold `Persisted` and look at the actions.
#[test]
fn applies_after_persisting() {
    let mut node = Node::fresh();
    node.propose(1, b"too early");
    node.feed(Event::Campaign);
    assert_eq!(node.seen, ["refused", "persist", "elected", "apply"]);
    assert!(node.consensus.is_leader());
    let actions = node.consensus.handle(Event::Propose {
        token: 2,
        data: b"a".to_vec(),
    });
    let [Action::Persist { token, write }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(write.entries.len(), 1);
    assert_eq!(node.consensus.handle(Event::Tick), []);
    let actions = node.consensus.handle(Event::Persisted { token: *token });
    let [Action::Apply(entries)] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(
        (entries[0].proposal, entries[0].data.as_slice()),
        (Some(2), &b"a"[..])
    );
}

// Claim: a leader that was paused gives up its office at once, and takes it again by an election.
// Method: pause a group of one before and after its election; propose; let time pass.
#[test]
fn a_pause_ends_an_office() {
    let mut node = Node::fresh();
    node.feed(Event::Paused);
    node.feed(Event::Campaign);
    let term = node.consensus.term();
    node.seen.clear();
    node.feed(Event::Paused);
    node.propose(1, b"too late");
    assert_eq!(node.seen, ["stepped down", "refused"]);
    (0..3 * ELECTION_TICKS).for_each(|_| node.feed(Event::Tick));
    assert!(node.consensus.is_leader() && node.consensus.term() > term);
    node.propose(2, b"a");
    assert_eq!(node.commands(), [b"a"]);
}

// Claim: what is proposed while a write is under way is not applied with it.
// Method: two proposals, `Persisted` for the first alone.
#[test]
fn writes_are_counted_in_order() {
    let mut node = Node::fresh();
    node.feed(Event::Campaign);
    let tokens: Vec<u64> = [b"a", b"b"]
        .iter()
        .zip(1..)
        .flat_map(|(data, token)| {
            node.consensus.handle(Event::Propose {
                token,
                data: data.to_vec(),
            })
        })
        .filter_map(|action| match action {
            Action::Persist { token, .. } => Some(token),
            _ => None,
        })
        .collect();
    let applied = |actions: Vec<Action>| {
        actions
            .into_iter()
            .filter_map(|action| {
                if let Action::Apply(e) = action {
                    Some(e.len())
                } else {
                    None
                }
            })
            .sum::<usize>()
    };
    assert_eq!(
        applied(node.consensus.handle(Event::Persisted { token: tokens[0] })),
        1
    );
    assert_eq!(
        applied(node.consensus.handle(Event::Persisted { token: tokens[1] })),
        1
    );
}

// Claim: after a restart every durable entry is applied again, in order, and none of them counts
// as a proposal of the new process.
// Method: propose, restart from the store, compare; the same without the last `Persisted`.
#[test]
fn replays_after_restart() {
    let mut node = Node::fresh();
    node.feed(Event::Campaign);
    for token in 1..=20 {
        node.propose(token, &[token as u8]);
    }
    let mut again = Node::start(node.store.clone(), 2);
    again.feed(Event::Campaign);
    assert_eq!(again.commands(), node.commands());
    assert!(again.applied.iter().all(|entry| entry.proposal.is_none()));
    assert!(again.consensus.term() > node.consensus.term());
}

// Claim: a snapshot cuts the log, in memory and in the store, and a restart begins there.
// Method: propose, snapshot in the middle, propose more, restart.
#[test]
fn snapshot_cuts_the_log() {
    let mut node = Node::fresh();
    node.feed(Event::Campaign);
    for token in 1..=10 {
        node.propose(token, &[token as u8]);
    }
    let index = node.applied.last().unwrap().index;
    node.feed(Event::Snapshot {
        index,
        data: b"state at ten".to_vec(),
    });
    // An older one, and one beyond what is applied, change nothing.
    let writes = node.store.writes();
    node.feed(Event::Snapshot {
        index: index - 1,
        data: b"old".to_vec(),
    });
    node.feed(Event::Snapshot {
        index: index + 1,
        data: b"new".to_vec(),
    });
    assert_eq!(node.store.writes(), writes);
    for token in 11..=13 {
        node.propose(token, &[token as u8]);
    }
    let stored = node.store.load().unwrap();
    let snapshot = stored.snapshot.as_ref().unwrap();
    assert_eq!(
        (snapshot.index, snapshot.data.as_slice()),
        (index, &b"state at ten"[..])
    );
    assert_eq!(stored.entries.len(), 3);
    assert!(stored.hard_state.unwrap().commit >= index);
    let mut again = Node::start(node.store.clone(), 2);
    again.feed(Event::Campaign);
    assert_eq!(again.commands(), [[11], [12], [13]]);
}

// Claim: a leader of one stays leader while nothing happens.
// Method: tick for a simulated minute.
#[test]
fn stays_leader() {
    let mut node = Node::fresh();
    node.feed(Event::Campaign);
    for _ in 0..600 {
        node.feed(Event::Tick);
    }
    assert!(node.consensus.is_leader());
    assert!(!node.seen.contains(&"stepped down"));
}

// Claim: proposals beyond the limit of uncommitted bytes are refused, not queued without bound.
// Method: propose without ever persisting.
#[test]
fn refuses_too_much() {
    let mut node = Node::fresh();
    node.feed(Event::Campaign);
    let refused = (0..200).find(|&token| {
        let actions = node.consensus.handle(Event::Propose {
            token,
            data: vec![0; 1 << 20],
        });
        actions.iter().any(|action| {
            matches!(
                action,
                Action::Refused {
                    reason: Refusal::NotNow,
                    ..
                }
            )
        })
    });
    assert!(
        refused.is_some_and(|count| count <= UNCOMMITTED_BYTES >> 20),
        "{refused:?}"
    );
}

/// A follower of node 1 with the ids 1 to 3, in term 2 with the entries up to `last`, all durable.
fn follower(last: u64) -> (Consensus, Stored) {
    let membership = ConfState {
        voters: vec![1, 2, 3],
        ..ConfState::default()
    };
    let mut first = first_write(1, b"first".to_vec());
    first.snapshot.as_mut().unwrap().membership = membership;
    let mut stored = Stored::default();
    stored.take(&first).unwrap();
    let config = NodeConfig {
        id: 2,
        boot: 1,
        seed: 1,
    };
    let mut consensus = Consensus::new(config, stored.clone()).unwrap();
    let actions = consensus.handle(append(1, 1, 2..=last, last));
    carry_out(&mut consensus, &mut stored, actions);
    (consensus, stored)
}

fn entries(indices: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    let entry = |index| Entry {
        index,
        term: 2,
        data: vec![7],
        ..Entry::default()
    };
    indices.map(entry).collect()
}

fn of_leader(kind: MessageType) -> Message {
    let mut message = Message {
        from: 1,
        to: 2,
        term: 2,
        ..Message::default()
    };
    message.set_msg_type(kind);
    message
}

fn receive(message: Message) -> Event {
    Event::Receive {
        from: 1,
        message: Box::new(message),
    }
}

fn append(index: u64, log_term: u64, new: std::ops::RangeInclusive<u64>, commit: u64) -> Event {
    receive(Message {
        index,
        log_term,
        commit,
        entries: entries(new),
        ..of_leader(MessageType::MsgAppend)
    })
}

/// Does what a shell does, one write after the other; a process that dies between two of them must be
/// able to start again.
fn carry_out(consensus: &mut Consensus, stored: &mut Stored, actions: Vec<Action>) -> Vec<Action> {
    let mut rest = std::collections::VecDeque::from(actions);
    let mut seen = Vec::new();
    while let Some(action) = rest.pop_front() {
        match action {
            Action::Persist { token, write } => {
                stored.take(&write).unwrap();
                let config = NodeConfig {
                    id: 2,
                    boot: 9,
                    seed: 1,
                };
                Consensus::new(config, stored.clone()).unwrap();
                rest.extend(consensus.handle(Event::Persisted { token }));
            }
            Action::Apply(entries) => {
                let index = entries.last().unwrap().index;
                rest.extend(consensus.handle(Event::Applied { index }));
            }
            Action::Install { index, .. } => {
                rest.extend(consensus.handle(Event::Applied { index }));
                seen.push(action);
            }
            other => seen.push(other),
        }
    }
    seen
}

// Claim: a snapshot that is taken while entries are on their way to the disk leaves a store that can be
// opened, whichever of the writes was the last (`RAFT-2`).
// Method: entries with a higher commit index and a snapshot of what was applied before, in one batch.
#[test]
fn a_snapshot_claims_no_entries() {
    let (mut consensus, mut stored) = follower(10);
    let snapshot = Event::Snapshot {
        index: 10,
        data: b"state".to_vec(),
    };
    let batch = [append(10, 2, 11..=20, 15), snapshot];
    let actions = consensus.handle_all(batch);
    carry_out(&mut consensus, &mut stored, actions);
    assert_eq!((stored.snapshot_index(), stored.last_index()), (10, 20));
    assert_eq!(consensus.committed(), 15);
}

// Claim: a leader's snapshot and entries after it can come at once.
// Method: both in one batch; the state is installed, then the entries are applied.
#[test]
fn a_snapshot_with_entries_after_it() {
    let (mut consensus, mut stored) = follower(10);
    let membership = consensus.membership().clone();
    let snapshot = raft::eraftpb::Snapshot {
        data: b"state".to_vec(),
        metadata: Some(raft::eraftpb::SnapshotMetadata {
            conf_state: Some(membership),
            index: 50,
            term: 2,
        }),
    };
    let snapshot = receive(Message {
        snapshot: Some(snapshot),
        ..of_leader(MessageType::MsgSnapshot)
    });
    let actions = consensus.handle_all([snapshot, append(50, 2, 51..=60, 55)]);
    let seen = carry_out(&mut consensus, &mut stored, actions);
    let installs = |action: &Action| matches!(action, Action::Install { index: 50, .. });
    assert!(seen.iter().any(installs), "{seen:?}");
    assert_eq!((stored.snapshot_index(), stored.last_index()), (50, 60));
    assert_eq!(stored.hard_state.unwrap().commit, 55);
    assert_eq!(consensus.committed(), 55);
}

// Claim: a follower answers heartbeats while its disk stalls, writes nothing for that, and acknowledges
// no entry before it is durable; only a new term or vote on its way to the disk holds answers back.
// Method: entries whose write does not end, then a heartbeat; the same with the heartbeat of a new term.
#[test]
fn stalled_disks_answer_heartbeats() {
    let kinds = |actions: &[Action]| -> Vec<MessageType> {
        let sent = actions.iter().filter_map(|action| match action {
            Action::Send(message) => Some(message.msg_type()),
            _ => None,
        });
        sent.collect()
    };
    let persists = |actions: &[Action]| -> Option<u64> {
        actions.iter().find_map(|action| match action {
            Action::Persist { token, .. } => Some(*token),
            _ => None,
        })
    };
    let (mut consensus, _) = follower(10);
    let actions = consensus.handle(append(10, 2, 11..=11, 10));
    let token = persists(&actions).unwrap();
    assert_eq!(kinds(&actions), []);
    for _ in 0..3 {
        let actions = consensus.handle(receive(of_leader(MessageType::MsgHeartbeat)));
        assert_eq!(kinds(&actions), [MessageType::MsgHeartbeatResponse]);
        assert_eq!(persists(&actions), None);
    }
    let actions = consensus.handle(Event::Persisted { token });
    assert_eq!(kinds(&actions), [MessageType::MsgAppendResponse]);

    let new_term = Message {
        term: 3,
        ..of_leader(MessageType::MsgHeartbeat)
    };
    let actions = consensus.handle(receive(new_term.clone()));
    let token = persists(&actions).unwrap();
    assert_eq!(kinds(&actions), []);
    let actions = consensus.handle(receive(new_term));
    assert_eq!((kinds(&actions), persists(&actions)), (vec![], None));
    let actions = consensus.handle(Event::Persisted { token });
    let answers = [MessageType::MsgHeartbeatResponse; 2];
    assert_eq!(kinds(&actions), answers);
}

// Claim: what is held against a message is what this node has by then, not what it had before others of
// the same batch.
// Method: entries that are not committed, then twice the new leader's in their place, committed, at once.
#[test]
fn doubled_entries_of_a_new_leader() {
    let (mut consensus, mut stored) = follower(10);
    let actions = consensus.handle(append(10, 2, 11..=12, 10));
    carry_out(&mut consensus, &mut stored, actions);
    let newer = |index| Entry {
        index,
        term: 3,
        ..Entry::default()
    };
    let message = Message {
        term: 3,
        index: 10,
        log_term: 2,
        commit: 12,
        entries: (11..=12).map(newer).collect(),
        ..of_leader(MessageType::MsgAppend)
    };
    let actions = consensus.handle_all([receive(message.clone()), receive(message)]);
    let seen = carry_out(&mut consensus, &mut stored, actions);
    let is_rejected = |action: &Action| matches!(action, Action::Rejected(_));
    assert!(!seen.iter().any(is_rejected), "{seen:?}");
    assert_eq!(
        (consensus.committed(), stored.entries.last().unwrap().term),
        (12, 3)
    );
}
