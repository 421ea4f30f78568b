//! Messages between coordinators.

use super::Seed;
use super::parts::bodies;
use evoring_coordinator::state::NEWEST_RECORDS;
use evoring_protocol::Digest;
use evoring_protocol::peer::{GroupId, PeerHealth, PeerHello, PeerMessage, PeerRefusal, PeerReply};

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
