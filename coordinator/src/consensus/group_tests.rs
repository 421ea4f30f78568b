//! Several nodes in one thread, driven by hand; stores are real and in memory.

use super::*;
use crate::storage::{LogStore, MemoryStore};
use std::collections::VecDeque;

struct Member {
    consensus: Consensus,
    store: MemoryStore,
    /// Writes whose end is not reported yet; only a stalled disk keeps them.
    writes: VecDeque<u64>,
    is_stalled: bool,
    applied: Vec<Committed>,
    installed: Vec<(u64, Vec<u8>)>,
    reads: Vec<(u64, u64)>,
    failed_reads: Vec<u64>,
    stopped: Option<StopReason>,
    rejected: Vec<Rejection>,
    wanted: Vec<u64>,
}

struct Group {
    members: BTreeMap<u64, Member>,
    network: VecDeque<Message>,
    /// Nodes that nothing reaches and that reach nobody.
    cut_off: Vec<u64>,
    boots: u64,
}

impl Group {
    fn of(ids: &[u64]) -> Self {
        let mut group = Self {
            members: BTreeMap::new(),
            network: VecDeque::new(),
            cut_off: Vec::new(),
            boots: 0,
        };
        for &id in ids {
            let mut store = MemoryStore::new();
            let mut write = first_write(id, b"first".to_vec());
            if let Some(snapshot) = &mut write.snapshot {
                snapshot.membership.voters = ids.to_vec();
            }
            store.write(&write).unwrap();
            group.start(id, store);
        }
        group
    }

    fn start(&mut self, id: u64, store: MemoryStore) {
        self.boots += 1;
        let config = NodeConfig {
            id,
            boot: self.boots,
            seed: id,
        };
        let consensus = Consensus::new(config, store.load().unwrap()).unwrap();
        let member = Member {
            consensus,
            store,
            writes: VecDeque::new(),
            is_stalled: false,
            applied: Vec::new(),
            installed: Vec::new(),
            reads: Vec::new(),
            failed_reads: Vec::new(),
            stopped: None,
            rejected: Vec::new(),
            wanted: Vec::new(),
        };
        self.members.insert(id, member);
    }

    fn feed(&mut self, id: u64, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(member) = self.members.get_mut(&id) else {
                return;
            };
            for action in member.consensus.handle(event) {
                match action {
                    Action::Persist { token, write } => {
                        member.store.write(&write).unwrap();
                        match member.is_stalled {
                            true => member.writes.push_back(token),
                            false => events.push_back(Event::Persisted { token }),
                        }
                    }
                    Action::Send(message) => self.network.push_back(*message),
                    Action::SendSnapshot(mut message) => {
                        let record = member.store.load().unwrap().snapshot.unwrap();
                        message.snapshot = Some(raft::eraftpb::Snapshot {
                            data: record.data,
                            metadata: Some(raft::eraftpb::SnapshotMetadata {
                                conf_state: Some(record.membership),
                                index: record.index,
                                term: record.term,
                            }),
                        });
                        let (to, arrived) = (message.to, true);
                        self.network.push_back(*message);
                        events.push_back(Event::SnapshotSent { to, arrived });
                    }
                    Action::Apply(entries) => {
                        let index = entries.last().unwrap().index;
                        member.applied.extend(entries);
                        events.push_back(Event::Applied { index });
                    }
                    Action::Install { index, data, .. } => {
                        member.installed.push((index, data));
                        events.push_back(Event::Applied { index });
                    }
                    Action::ReadReady { token, index } => member.reads.push((token, index)),
                    Action::ReadFailed { token } => member.failed_reads.push(token),
                    Action::Stop(reason) => member.stopped = Some(reason),
                    Action::Rejected(rejection) => member.rejected.push(rejection),
                    Action::WantSnapshot { index } => member.wanted.push(index),
                    _ => {}
                }
            }
        }
    }

    /// Delivers everything that is on its way.
    fn settle(&mut self) {
        while let Some(message) = self.network.pop_front() {
            let (from, to) = (message.from, message.to);
            if !self.cut_off.contains(&from) && !self.cut_off.contains(&to) {
                let message = Box::new(message);
                self.feed(to, Event::Receive { from, message });
            }
        }
    }

    fn tick(&mut self, ticks: usize) {
        for _ in 0..ticks {
            let ids: Vec<u64> = self.members.keys().copied().collect();
            for id in ids {
                self.feed(id, Event::Tick);
            }
            self.settle();
        }
    }

    /// Ticks until a node that is not cut off leads.
    fn leader(&mut self) -> u64 {
        for _ in 0..2_000 {
            let leads = |(id, member): &(&u64, &Member)| {
                !self.cut_off.contains(id) && member.consensus.is_leader()
            };
            if let Some((&id, _)) = self.members.iter().find(leads) {
                return id;
            }
            self.tick(1);
        }
        panic!("nobody leads");
    }

    fn propose(&mut self, id: u64, data: &[u8]) {
        let data = data.to_vec();
        self.feed(id, Event::Propose { token: 1, data });
        self.settle();
    }

    fn commands(&self, id: u64) -> Vec<Vec<u8>> {
        let applied = self.members[&id].applied.iter();
        applied
            .filter(|entry| !entry.data.is_empty())
            .map(|entry| entry.data.clone())
            .collect()
    }

    fn goals(&mut self, goals: &[u64]) {
        let goal = Goal { may_vote: true };
        let goals: BTreeMap<u64, Goal> = goals.iter().map(|&id| (id, goal)).collect();
        for id in self.members.keys().copied().collect::<Vec<u64>>() {
            self.feed(id, Event::Members(goals.clone()));
        }
    }

    fn voters(&self, id: u64) -> Vec<u64> {
        let membership = self.members[&id].consensus.membership();
        assert!(membership.voters_outgoing.is_empty(), "joint");
        let mut voters = membership.voters.clone();
        voters.sort_unstable();
        voters
    }
}

// Claim: a minority can be cut off at any time, the leader included; a new one is elected, what
// was committed stays, and whoever comes back catches up and follows.
// Method: cut off the leader, commit without it, heal.
#[test]
fn outlives_a_leader() {
    let mut group = Group::of(&[1, 2, 3]);
    let first = group.leader();
    group.propose(first, b"a");
    group.cut_off = vec![first];
    group.propose(first, b"lost");
    let second = group.leader();
    assert_ne!(first, second);
    group.tick(60);
    assert!(!group.members[&first].consensus.is_leader(), "check-quorum");
    group.propose(second, b"b");
    group.cut_off.clear();
    group.tick(60);
    for id in 1..=3 {
        assert_eq!(group.commands(id), [b"a".to_vec(), b"b".to_vec()]);
    }
    assert_eq!(group.leader(), second, "pre-vote");
}

// Claim: a leader answers a read only when a majority confirms that it still leads; one that was
// cut off does not, and says so once it has stepped down.
// Method: read with and without the others.
#[test]
fn reads_need_a_majority() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    group.propose(leader, b"a");
    group.feed(leader, Event::Read { token: 7 });
    group.settle();
    let committed = group.members[&leader].consensus.committed();
    assert_eq!(group.members[&leader].reads, [(7, committed)]);
    group.cut_off = vec![leader];
    group.feed(leader, Event::Read { token: 8 });
    group.tick(60);
    assert_eq!(group.members[&leader].reads.len(), 1);
    assert_eq!(group.members[&leader].failed_reads, [8]);
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let other = group.leader();
    let bystander = (1..=3).find(|id| *id != other && *id != leader).unwrap();
    assert_ne!(follower, leader);
    group.feed(bystander, Event::Read { token: 9 });
    assert_eq!(group.members[&bystander].failed_reads, [9]);
}

// Claim: answers to a read that are lost are asked for again.
// Method: lose every message of one round, then let time pass.
#[test]
fn lost_reads_are_repeated() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    group.tick(5);
    group.feed(leader, Event::Read { token: 7 });
    group.network.clear();
    assert_eq!(group.members[&leader].reads, []);
    group.tick(20);
    assert_eq!(group.members[&leader].reads.len(), 1);
}

// Claim: a group of one grows to three without a stop and shrinks again; new nodes get a snapshot
// that knows them, the old leader hands over before it leaves, and whoever is removed stops.
// Method: goals one after the other, with snapshots whenever they are wanted.
#[test]
fn grows_and_shrinks() {
    let mut group = Group::of(&[1]);
    let leader = group.leader();
    group.propose(leader, b"a");
    for id in [2, 3] {
        group.start(id, MemoryStore::new());
        group.goals(&(1..=id).collect::<Vec<u64>>());
        for _ in 0..100 {
            group.tick(1);
            let leader = group.leader();
            let member = group.members.get_mut(&leader).unwrap();
            if let Some(wanted) = member.wanted.pop() {
                let index = member.applied.last().unwrap().index;
                assert!(index >= wanted);
                let data = b"state".to_vec();
                group.feed(leader, Event::Snapshot { index, data });
            }
        }
        assert_eq!(group.voters(1), (1..=id).collect::<Vec<u64>>());
        assert_eq!(group.members[&id].installed.len(), 1);
        assert_eq!(group.members[&id].installed[0].1, b"state");
    }
    group.propose(1, b"b");
    assert_eq!(group.commands(3), [b"b".to_vec()]);
    group.goals(&[2, 3]);
    group.tick(200);
    assert_eq!(
        group.members[&1].stopped,
        Some(StopReason::Removed),
        "{:?}",
        group.members[&1].consensus.membership()
    );
    let leader = group.leader();
    assert_eq!(group.voters(leader), [2, 3]);
    group.propose(leader, b"c");
    assert_eq!(group.commands(2).last(), group.commands(3).last());
}

// Claim: a node that forgot what it had acknowledged is told so and stops; it does not follow on
// with a shorter log.
// Method: a follower loses its newest entries and comes back.
#[test]
fn a_node_that_forgot_stops() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    group.propose(leader, b"a");
    let before = group.members[&follower].store.clone();
    group.propose(leader, b"b");
    group.tick(3);
    group.start(follower, before);
    group.tick(3);
    let stopped = &group.members[&follower].stopped;
    assert!(
        matches!(
            stopped,
            Some(StopReason::Forgot(Rejection::LogTooShort { .. }))
        ),
        "{stopped:?}"
    );
}

// Claim: a leader whose disk stalls hands over, and the group goes on.
// Method: its writes are never reported; propose at the new leader.
#[test]
fn a_stalled_disk_hands_over() {
    let mut group = Group::of(&[1, 2, 3]);
    let slow = group.leader();
    group.members.get_mut(&slow).unwrap().is_stalled = true;
    group.propose(slow, b"a");
    group.tick(70);
    let leader = group.leader();
    assert_ne!(leader, slow);
    group.propose(leader, b"b");
    assert_eq!(group.commands(leader), [b"a".to_vec(), b"b".to_vec()]);
}

// Claim: what no working coordinator says changes nothing and stops nobody; the reason is told.
// Method: one message of every kind of wrong, each otherwise as a leader or follower would send it.
#[test]
fn wrong_messages_are_rejected() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    group.propose(leader, b"a");
    let id = (1..=3).find(|id| *id != leader).unwrap();
    let term = group.members[&id].consensus.term();
    let last = group.members[&id].consensus.last_index();
    let message = |kind: MessageType| {
        let mut message = Message {
            from: leader,
            to: id,
            term,
            index: last,
            log_term: term,
            ..Message::default()
        };
        message.set_msg_type(kind);
        message
    };
    let entry = |index, term| Entry {
        index,
        term,
        ..Entry::default()
    };
    let with = |kind, change: &dyn Fn(&mut Message)| {
        let mut message = message(kind);
        change(&mut message);
        message
    };
    use MessageType::*;
    let wrong = [
        with(MsgHeartbeat, &|m| m.from = id),
        with(MsgHeartbeat, &|m| m.to = leader),
        with(MsgHeartbeat, &|m| m.term = 0),
        with(MsgHeartbeat, &|m| m.term = u64::MAX),
        with(MsgHeartbeat, &|m| m.context = vec![0; 1_000]),
        with(MsgHeartbeat, &|m| m.request_snapshot = 5),
        message(MsgPropose),
        message(MsgReadIndex),
        message(MsgHup),
        message(MsgTransferLeader),
        message(MsgSnapshot),
        with(MsgAppend, &|m| m.entries = vec![entry(last + 2, term)]),
        with(MsgAppend, &|m| m.entries = vec![entry(last + 1, term + 1)]),
        with(MsgAppend, &|m| {
            m.index = 1;
            m.log_term = 1;
            m.entries = vec![entry(2, term + 7)];
            m.term = term + 9;
        }),
        with(MsgAppend, &|m| {
            let mut large = entry(last + 1, term);
            large.data = vec![0; evoring_protocol::peer::RAFT_MESSAGE_BYTES + 1];
            m.entries = vec![large];
        }),
        with(MsgAppendResponse, &|m| m.index = last + 1_000),
    ];
    for (number, message) in wrong.into_iter().enumerate() {
        let from = leader;
        let kind = message.msg_type();
        let message = Box::new(message);
        group.feed(id, Event::Receive { from, message });
        let member = &group.members[&id];
        assert_eq!(member.rejected.len(), number + 1, "{kind:?} {number}");
        assert_eq!(member.stopped, None);
        assert_eq!(member.consensus.term(), term);
        assert_eq!(member.consensus.last_index(), last);
    }
}
