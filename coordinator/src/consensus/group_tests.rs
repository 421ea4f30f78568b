//! Several nodes in one thread, driven by hand; stores are real and in memory.

use super::*;
use crate::storage::{LogStore, MemoryStore};
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, EntryType};
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
    // The next heartbeat says that it is committed.
    group.tick(HEARTBEAT_TICKS);
    assert_eq!(group.commands(3), [b"b".to_vec()]);
    group.goals(&[2, 3]);
    group.tick(FAREWELL_TICKS as usize + 200);
    assert_eq!(
        group.members[&1].stopped,
        Some(StopReason::Removed),
        "{:?}",
        group.members[&1].consensus.membership()
    );
    let leader = group.leader();
    assert_eq!(group.voters(leader), [2, 3]);
    group.propose(leader, b"c");
    group.tick(HEARTBEAT_TICKS);
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
    let change = |index, kind, data: &[u8]| Entry {
        entry_type: kind,
        data: data.to_vec(),
        ..entry(index, term)
    };
    let snapshot = |index, voters: &[u64], more: &dyn Fn(&mut ConfState)| {
        let mut conf_state = ConfState {
            voters: voters.to_vec(),
            ..ConfState::default()
        };
        more(&mut conf_state);
        let mut message = message(MessageType::MsgSnapshot);
        message.snapshot = Some(raft::eraftpb::Snapshot {
            data: b"state".to_vec(),
            metadata: Some(raft::eraftpb::SnapshotMetadata {
                conf_state: Some(conf_state),
                index,
                term,
            }),
        });
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
        // Would be taken for what follows an entry that is not here.
        with(MsgAppend, &|m| {
            m.index = last + 5;
            m.log_term = 0;
            m.commit = last + 5;
        }),
        with(MsgAppend, &|m| {
            m.index = last + 5;
            m.log_term = 0;
            m.entries = vec![entry(last + 6, term)];
        }),
        with(MsgAppend, &|m| m.entries = vec![change(last + 1, 7, b"")]),
        with(MsgAppend, &|m| {
            m.entries = vec![change(last + 1, 1, &[255])]
        }),
        // Kinds of changes and of transitions that nobody knows.
        with(MsgAppend, &|m| {
            m.entries = vec![change(last + 1, 1, &[16, 9])]
        }),
        with(MsgAppend, &|m| {
            m.entries = vec![change(last + 1, 2, &[8, 9])]
        }),
        with(MsgAppend, &|m| {
            m.entries = vec![change(last + 1, 2, &[18, 2, 8, 9])];
        }),
        snapshot(u64::MAX, &[1, 2, 3], &|_| {}),
        snapshot(last + 9, &[], &|_| {}),
        snapshot(last + 9, &[1, 2, 2, 3], &|_| {}),
        snapshot(last + 9, &[0, 1, 2, 3], &|_| {}),
        snapshot(last + 9, &[1, 2, 3], &|c| c.learners = vec![3]),
        snapshot(last + 9, &[1, 2, 3], &|c| c.learners_next = vec![4]),
        snapshot(last + 9, &[1, 2, 3], &|c| c.auto_leave = true),
        snapshot(last + 9, &[1, 2, 3], &|c| {
            c.voters_outgoing = vec![1, 2, 3, 4];
            c.learners = vec![4];
        }),
        snapshot(last + 9, &[1, 2, 3], &|c| {
            c.voters_outgoing = vec![1, 2, 3];
            c.learners_next = vec![3];
        }),
        snapshot(last + 9, &[1, 2, 3], &|c| {
            c.learners = (4..100).collect();
        }),
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
    // To a leader: more than it has.
    let message = with(MsgAppendResponse, &|m| {
        (m.from, m.to, m.index) = (id, leader, last + 1_000);
    });
    let (from, message) = (id, Box::new(message));
    group.feed(leader, Event::Receive { from, message });
    let message_of_hint = with(MsgAppendResponse, &|m| {
        (m.from, m.to, m.reject, m.reject_hint) = (id, leader, true, u64::MAX);
    });
    let message = Box::new(message_of_hint);
    group.feed(leader, Event::Receive { from, message });
    assert_eq!(group.members[&leader].rejected.len(), 2);
    assert!(group.members[&leader].consensus.is_leader());
}

// Claim: a leader that is asked to hand over does so although the first attempt is lost, and a new
// one does not inherit the wish.
// Method: lose everything of the first moments; then time passes.
#[test]
fn a_lost_transfer_is_repeated() {
    let mut group = Group::of(&[1, 2, 3]);
    let first = group.leader();
    group.tick(30);
    group.feed(first, Event::HandOver);
    group.network.clear();
    group.tick(60);
    let second = group.leader();
    assert_ne!(second, first);
    group.tick(300);
    assert_eq!(group.leader(), second);
}

// Claim: the last node of two survives that it forgets, in a crash, that the other's removal was
// committed (RAFT-7): the other answers for a while, then it stops, and by then that is durable.
// Method: shrink to one; restart that one with the commit index before the last change, then as its
// store is and without the other.
#[test]
fn the_last_of_two_may_forget() {
    let mut group = Group::of(&[1, 2]);
    let leader = group.leader();
    let other = 3 - leader;
    group.goals(&[leader]);
    group.tick(20);
    assert_eq!(group.voters(leader), [leader]);
    assert_eq!(group.members[&other].stopped, None, "it may be needed");
    let store = group.members[&leader].store.clone();
    let mut stored = store.load().unwrap();
    let mut hard_state = stored.hard_state.take().unwrap();
    assert_eq!(hard_state.commit, stored.last_index(), "durable");
    hard_state.commit -= 1;
    let mut forgetful = MemoryStore::new();
    let mut write = LogWrite {
        snapshot: stored.snapshot.take(),
        ..LogWrite::default()
    };
    forgetful.write(&write).unwrap();
    write = LogWrite {
        entries: stored.entries,
        hard_state: Some(hard_state),
        ..LogWrite::default()
    };
    forgetful.write(&write).unwrap();
    group.start(leader, forgetful);
    assert_eq!(group.leader(), leader);
    group.tick(20);
    assert_eq!(group.voters(leader), [leader]);
    group.tick(FAREWELL_TICKS as usize + 10);
    assert_eq!(group.members[&other].stopped, Some(StopReason::Removed));
    group.start(leader, store);
    assert_eq!(group.leader(), leader);
}

/// A follower of three whose log is stored, and a leader's message to it.
fn follower() -> (Consensus, impl Fn(MessageType) -> Message) {
    let mut stored = Stored::default();
    let mut write = first_write(1, Vec::new());
    if let Some(snapshot) = &mut write.snapshot {
        snapshot.membership.voters = vec![1, 2, 3];
    }
    stored.take(&write).unwrap();
    let (id, boot, seed) = (1, 1, 1);
    let consensus = Consensus::new(NodeConfig { id, boot, seed }, stored).unwrap();
    let message = |kind| {
        let mut message = Message {
            from: 2,
            to: 1,
            term: 1,
            index: 1,
            log_term: 1,
            ..Message::default()
        };
        message.set_msg_type(kind);
        message
    };
    (consensus, message)
}

fn receive(consensus: &mut Consensus, message: Message) -> Vec<Action> {
    let (from, message) = (message.from, Box::new(message));
    consensus.handle(Event::Receive { from, message })
}

// Claim: a follower that installs a snapshot does not campaign before it is applied, however long
// that takes and whoever asks for it; afterwards it does.
// Method: no word from the leader, and its request to take over, between the two.
#[test]
fn an_installing_follower_does_not_campaign() {
    let (mut consensus, message) = follower();
    let mut snapshot = message(MessageType::MsgSnapshot);
    snapshot.snapshot = Some(raft::eraftpb::Snapshot {
        data: b"state".to_vec(),
        metadata: Some(raft::eraftpb::SnapshotMetadata {
            conf_state: Some(consensus.membership().clone()),
            index: 9,
            term: 1,
        }),
    });
    let actions = receive(&mut consensus, snapshot);
    let token = actions.iter().find_map(|action| match action {
        Action::Persist { token, .. } => Some(*token),
        _ => None,
    });
    let token = token.unwrap();
    let campaigns = |consensus: &mut Consensus| {
        let mut ticks = (0..200).flat_map(|_| consensus.handle(Event::Tick));
        ticks.any(|action| match action {
            Action::Send(message) => message.msg_type() == MessageType::MsgRequestPreVote,
            Action::Persist { .. } => true,
            _ => false,
        })
    };
    assert!(!campaigns(&mut consensus));
    let actions = consensus.handle(Event::Persisted { token });
    assert!(actions.iter().any(|a| matches!(a, Action::Install { .. })));
    assert!(!campaigns(&mut consensus));
    receive(&mut consensus, message(MessageType::MsgTimeoutNow));
    assert_eq!(consensus.handle(Event::Campaign), []);
    consensus.handle(Event::Applied { index: 9 });
    assert!(campaigns(&mut consensus));
}

// Claim: votes that come before the candidate's log is durable, and so before it asked for them, do
// not make it a leader.
// Method: entries whose write is not reported; the leader's request to take over is not followed
// before it is, and votes of this term and of the next one change nothing.
#[test]
fn votes_before_the_log_is_durable_change_nothing() {
    let (mut consensus, message) = follower();
    let mut append = message(MessageType::MsgAppend);
    append.entries = vec![Entry {
        index: 2,
        term: 1,
        ..Entry::default()
    }];
    receive(&mut consensus, append);
    receive(&mut consensus, message(MessageType::MsgTimeoutNow));
    assert_eq!(consensus.term(), 1);
    let mut vote = message(MessageType::MsgRequestVoteResponse);
    assert_eq!(receive(&mut consensus, vote.clone()), []);
    vote.term = 2;
    receive(&mut consensus, vote);
    assert!(!consensus.is_leader());
}

// Claim: a committed change of membership that cannot be stops the node, without a panic.
// Method: leave a joint membership that is none; remove every voter.
#[test]
fn an_impossible_change_stops() {
    let remove = |node: u8| vec![18, 4, 8, 1, 16, node];
    for changes in [vec![Vec::new()], [1, 2, 3].map(remove).to_vec()] {
        let (mut consensus, message) = follower();
        let mut append = message(MessageType::MsgAppend);
        append.commit = 9;
        append.entries = (2..)
            .zip(changes)
            .map(|(index, data)| Entry {
                entry_type: EntryType::EntryConfChangeV2 as i32,
                index,
                term: 1,
                data,
                ..Entry::default()
            })
            .collect();
        let mut actions = receive(&mut consensus, append);
        let token = actions.iter().find_map(|action| match action {
            Action::Persist { token, .. } => Some(*token),
            _ => None,
        });
        let token = token.unwrap();
        actions.extend(consensus.handle(Event::Persisted { token }));
        let stops = actions
            .iter()
            .any(|action| matches!(action, Action::Stop(_)));
        assert!(stops, "{actions:?}");
    }
}

// Claim: a leader that has applied its own removal, as one may that took office with it in its log,
// leads no more, even with an entry on its way to its disk; the others go on.
// Method: the removal goes into the log without a hand-over before it, and a command after it; the
// leader's disk stalls and then ends one write after the other.
#[test]
fn a_leader_removes_itself() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let single = ConfChangeSingle {
        node_id: leader,
        change_type: ConfChangeType::RemoveNode as i32,
    };
    let change = ConfChangeV2 {
        changes: vec![single],
        ..ConfChangeV2::default()
    };
    let member = group.members.get_mut(&leader).unwrap();
    member.is_stalled = true;
    let consensus = &mut member.consensus;
    consensus
        .node
        .propose_conf_change(Vec::new(), change)
        .unwrap();
    group.tick(1);
    group.propose(leader, b"too late");
    let writes: Vec<u64> = group.members[&leader].writes.iter().copied().collect();
    assert_eq!(writes.len(), 2);
    for token in writes {
        group.feed(leader, Event::Persisted { token });
    }
    group.members.get_mut(&leader).unwrap().is_stalled = false;
    group.tick(3 * ELECTION_TICKS);
    let next = group.leader();
    assert_ne!(next, leader);
    group.propose(next, b"goes on");
    assert_eq!(group.commands(next).last().unwrap(), b"goes on");
}

// Claim: a follower that was away while more was written than fits one message gets it in messages that
// it takes.
// Method: 24 commands of 1 MiB while one is cut off; then it comes back.
#[test]
fn a_follower_far_behind() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let away = if leader == 3 { 2 } else { 3 };
    group.cut_off.push(away);
    let command = vec![7; 1 << 20];
    for _ in 0..24 {
        group.propose(leader, &command);
    }
    group.cut_off.clear();
    group.tick(3 * ELECTION_TICKS);
    let member = &group.members[&away];
    assert!(member.rejected.is_empty(), "{:?}", member.rejected);
    assert!(member.installed.is_empty());
    assert_eq!(group.commands(away).len(), 24);
}

// Claim: a follower whose disk takes nothing holds a bounded part of what the others write meanwhile, and
// has all of it once its disk goes on.
// Method: twice as much as the bound, and time for heartbeats, while its writes are not reported.
#[test]
fn a_follower_without_a_disk() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader();
    let slow = if leader == 3 { 2 } else { 3 };
    group.members.get_mut(&slow).unwrap().is_stalled = true;
    let command = vec![7; 1 << 20];
    let count = 2 * UNWRITTEN_BYTES / command.len();
    for _ in 0..count {
        group.propose(leader, &command);
        group.tick(1);
    }
    let member = group.members.get_mut(&slow).unwrap();
    let bytes = member.consensus.unwritten_bytes;
    let most = UNWRITTEN_BYTES + MESSAGE_BYTES as usize + command.len();
    assert!((UNWRITTEN_BYTES..=most).contains(&bytes), "{bytes}");
    member.is_stalled = false;
    for token in std::mem::take(&mut member.writes) {
        group.feed(slow, Event::Persisted { token });
    }
    group.tick(3 * ELECTION_TICKS);
    assert_eq!(group.members[&slow].consensus.unwritten_bytes, 0);
    assert_eq!(group.commands(slow).len(), count);
    assert_eq!(group.members[&slow].rejected, []);
}
