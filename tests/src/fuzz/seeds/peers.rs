//! Messages between coordinators.

use super::Seed;
use super::parts::bodies;
use crate::fuzz::pieces::{FITS, IS_GENUINE};
use evoring_coordinator::state::NEWEST_RECORDS;
use evoring_protocol::Digest;
use evoring_protocol::codec::encode;
use evoring_protocol::peer::{GroupId, PeerHealth, PeerHello, PeerMessage, PeerRefusal, PeerReply};
use prost::Message as _;
use raft::eraftpb::{Message, MessageType, Snapshot, SnapshotMetadata};

pub(super) fn health() -> PeerHealth {
    PeerHealth {
        build: "0.1.0".to_owned(),
        version: NEWEST_RECORDS,
        process: 4_321,
        applied: 300,
        log_bytes: 1 << 20,
        free_bytes: Some(1 << 20),
        trouble: Some("space is low".to_owned()),
    }
}

pub fn peer_messages() -> Vec<Seed> {
    let hello = PeerHello {
        group: GroupId([0xbb; 16]),
        from: 1,
        to: 2,
        address: "127.0.0.1:7000".to_owned(),
    };
    bodies([
        ("hello", PeerMessage::Hello(hello.clone())),
        ("join", PeerMessage::Join(hello)),
        ("raft", PeerMessage::Raft(vec![vec![1, 2], vec![3]])),
        ("health", PeerMessage::Health(health())),
        (
            "snapshot",
            PeerMessage::SnapshotStart {
                message: vec![1, 2],
                bytes: 1 << 30,
                digest: Digest([0xdd; 32]),
            },
        ),
        ("chunk", PeerMessage::SnapshotChunk(vec![1, 2, 3])),
    ])
}

pub fn peer_replies() -> Vec<Seed> {
    let refused = PeerReply::Refused {
        refusal: PeerRefusal::WrongId,
        message: "the member's disk was lost".to_owned(),
    };
    bodies([
        ("welcome", PeerReply::Welcome),
        ("refused", refused),
        ("taken", PeerReply::SnapshotTaken),
    ])
}

/// Raft's message for a snapshot, without the state.
fn announced() -> Vec<u8> {
    let metadata = SnapshotMetadata {
        index: 9,
        term: 1,
        ..SnapshotMetadata::default()
    };
    let mut message = Message {
        from: 2,
        to: 1,
        term: 1,
        snapshot: Some(Snapshot {
            data: Vec::new(),
            metadata: Some(metadata),
        }),
        ..Message::default()
    };
    message.set_msg_type(MessageType::MsgSnapshot);
    message.encode_to_vec()
}

/// A snapshot's stream behind its flags.
fn stream(flags: u8, bytes: u64, pieces: &[&[u8]]) -> Vec<u8> {
    let start = PeerMessage::SnapshotStart {
        message: announced(),
        bytes,
        digest: Digest::of(&pieces.concat()),
    };
    let piece = |piece: &&[u8]| PeerMessage::SnapshotChunk(piece.to_vec());
    let messages = std::iter::once(start).chain(pieces.iter().map(piece));
    let frames = messages.flat_map(|message| encode(&message).expect("a seed fits into a frame"));
    std::iter::once(flags).chain(frames).collect()
}

pub fn snapshots() -> Vec<Seed> {
    let pieces: [&[u8]; 3] = [&[1, 2, 3], &[4; 20], &[5]];
    vec![
        ("whole", stream(0, 24, &pieces)),
        ("free", stream(FITS | IS_GENUINE, 24, &pieces)),
        ("fits", stream(FITS, 24, &pieces)),
        ("genuine", stream(IS_GENUINE, 24, &pieces)),
        ("short", stream(0, 25, &pieces)),
        ("long", stream(0, 23, &pieces)),
        ("empty", stream(0, 0, &[])),
        ("large", stream(0, (2 << 30) + 1, &pieces)),
    ]
}
