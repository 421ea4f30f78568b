//! Steps of a node of Raft, and logs.

use super::Seed;
use crate::fuzz::consensus::{LAGS, NODE, STALLS, Step};
use crate::fuzz::storage::{self, Holds};
use evoring_coordinator::storage::SnapshotRecord;
use prost::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState,
    Message, MessageType, Snapshot, SnapshotMetadata,
};

fn message(kind: MessageType, change: impl Fn(&mut Message)) -> Vec<u8> {
    let mut message = Message {
        from: 2,
        to: NODE,
        ..Message::default()
    };
    message.set_msg_type(kind);
    change(&mut message);
    let bytes = message.encode_to_vec();
    let length = (bytes.len() as u16).to_le_bytes();
    [&[Step::Message as u8], &length[..], &bytes].concat()
}

fn step(step: Step) -> Vec<u8> {
    vec![step as u8]
}

/// The same step, with flags.
fn and(mut step: Vec<u8>, flags: u8) -> Vec<u8> {
    step[0] |= flags;
    step
}

fn entry(index: u64) -> Entry {
    Entry {
        index,
        term: 1,
        data: vec![3, 1],
        ..Entry::default()
    }
}

fn change(index: u64, kind: ConfChangeType, node: u64) -> Entry {
    let mut single = ConfChangeSingle {
        node_id: node,
        ..ConfChangeSingle::default()
    };
    single.set_change_type(kind);
    let change = ConfChangeV2 {
        changes: vec![single],
        ..ConfChangeV2::default()
    };
    let mut entry = Entry {
        data: change.encode_to_vec(),
        ..entry(index)
    };
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry
}

fn append(entries: &[Entry], commit: u64) -> Vec<u8> {
    let before = entries.first().map_or(1, |entry| entry.index - 1);
    message(MessageType::MsgAppend, |message| {
        (message.index, message.log_term) = (before, 1);
        message.entries = entries.to_vec();
        message.commit = commit;
    })
}

fn snapshot(index: u64) -> Vec<u8> {
    message(MessageType::MsgSnapshot, |message| {
        message.snapshot = Some(Snapshot {
            data: vec![1; 9],
            metadata: Some(SnapshotMetadata {
                conf_state: Some(ConfState {
                    voters: vec![1, 2, 3],
                    learners: vec![4],
                    ..ConfState::default()
                }),
                index,
                term: 1,
            }),
        });
    })
}

/// From a follower's first patience to office: pre-vote for the next term, then the vote.
fn elected() -> Vec<u8> {
    let granted = message(MessageType::MsgRequestPreVoteResponse, |message| {
        message.term = 1;
    });
    let voted = message(MessageType::MsgRequestVoteResponse, |_| {});
    [step(Step::Ticks), granted, voted].concat()
}

pub fn raft_messages() -> Vec<Seed> {
    let heartbeat = message(MessageType::MsgHeartbeat, |message| {
        message.commit = 3;
        message.context = vec![1; 24];
    });
    let vote = message(MessageType::MsgRequestVote, |message| {
        (message.term, message.index, message.log_term) = (1, 9, 1);
        (message.commit, message.commit_term) = (2, 1);
    });
    let refused = message(MessageType::MsgAppendResponse, |message| {
        message.reject = true;
        (message.index, message.reject_hint, message.log_term) = (2, 1, 1);
    });
    let taken = message(MessageType::MsgAppendResponse, |message| message.index = 2);
    let heard = message(MessageType::MsgHeartbeatResponse, |message| {
        message.commit = 1;
    });
    let entries = [entry(2), entry(3)];
    let members = [
        change(4, ConfChangeType::AddLearnerNode, 4),
        change(5, ConfChangeType::RemoveNode, 4),
        change(6, ConfChangeType::RemoveNode, 3),
    ];
    let leads = [
        elected(),
        refused,
        taken.clone(),
        step(Step::Propose),
        step(Step::Read),
        heard,
        step(Step::Snapshot),
    ]
    .concat();
    let hands_over = [leads.clone(), step(Step::HandOver), step(Step::Ticks)];
    let installs = [
        append(&entries, 2),
        and(snapshot(9), LAGS),
        and(step(Step::Ticks), LAGS),
        and(message(MessageType::MsgTimeoutNow, |_| {}), LAGS),
        append(&[entry(10)], 10),
    ];
    let stalls = [
        and(append(&entries, 3), STALLS),
        and(message(MessageType::MsgTimeoutNow, |_| {}), STALLS),
        message(MessageType::MsgRequestVoteResponse, |_| {}),
        step(Step::Unreachable),
    ];
    vec![
        ("follows", [append(&entries, 2), heartbeat].concat()),
        (
            "members",
            [append(&entries, 3), append(&members, 6)].concat(),
        ),
        ("votes", [vote, step(Step::Ticks)].concat()),
        ("leads", leads),
        ("hands-over", hands_over.concat()),
        ("installs", installs.concat()),
        ("stalls", stalls.concat()),
    ]
}

/// Kind of a record, then hard state, snapshot and entries with their lengths.
fn record(
    kind: u8,
    hard_state: Option<&HardState>,
    snapshot: Option<SnapshotRecord>,
    entries: &[Entry],
) -> Vec<u8> {
    let mut payload = vec![kind, u8::from(hard_state.is_some())];
    if let Some(hard_state) = hard_state {
        payload.extend(hard_state.encode_length_delimited_to_vec());
    }
    payload.push(u8::from(snapshot.is_some()));
    if let Some(record) = snapshot {
        let message = Snapshot {
            data: record.data,
            metadata: Some(SnapshotMetadata {
                conf_state: Some(record.membership),
                index: record.index,
                term: record.term,
            }),
        };
        payload.extend(message.encode_length_delimited_to_vec());
    }
    for entry in entries {
        payload.extend(entry.encode_length_delimited_to_vec());
    }
    let length = (payload.len() as u16).to_le_bytes();
    [&length[..], &payload].concat()
}

pub fn logs() -> Vec<Seed> {
    let [whole, more] = storage::writes();
    let records = [
        vec![Holds::Records as u8],
        record(1, whole.hard_state.as_ref(), whole.snapshot.clone(), &[]),
        record(0, None, None, &more.entries),
        record(0, whole.hard_state.as_ref(), None, &[]),
    ];
    // Where indices end.
    let last = whole.snapshot.map(|snapshot| SnapshotRecord {
        index: u64::MAX,
        ..snapshot
    });
    let far = [
        vec![Holds::Records as u8],
        record(1, None, last, &[]),
        record(0, None, None, &more.entries),
    ];
    // The bit that chooses between the commits of redb, and bytes in its pages.
    let changes = [
        vec![Holds::Changes as u8],
        vec![9, 0, 0, 1, 1],
        vec![0, 0x10, 0, 4, 1, 2, 3, 4],
        vec![0, 0x20, 0, 2, 0xff, 0xff],
    ];
    vec![
        ("files", storage::files()),
        ("records", records.concat()),
        ("far", far.concat()),
        ("changes", changes.concat()),
        ("witness", storage::witness()),
    ]
}
