//! Messages between coordinators of one group.
//!
//! Each coordinator keeps one connection to each other member and only speaks on those that it
//! made. The first stream of a connection begins with [`PeerMessage::Hello`] (or, to a process that
//! has no id yet, [`PeerMessage::Join`]) and carries Raft's messages for as long as it lives; each
//! snapshot takes a stream of its own, so that it delays nothing.

use crate::Digest;
use crate::bounded::{bytes, pieces};
use crate::limits::{BLOB_CHUNK_BYTES, PEER_MESSAGE_BYTES};
use serde::{Deserialize, Serialize};

/// Bytes of one encoded message of Raft, its entries included.
pub const RAFT_MESSAGE_BYTES: usize = 6 << 20;
/// Raft's messages in one frame.
pub const RAFT_MESSAGES: usize = 256;

/// Random number of a group of coordinators, made when the group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub [u8; 16]);

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Introduction of a coordinator to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// The sender's group.
    pub group: GroupId,
    /// Who speaks.
    pub from: u64,
    /// Who is meant. A process that lost its disk is not the one that had this id.
    pub to: u64,
    /// Where the sender listens.
    pub address: String,
}

/// What a coordinator tells about itself, twice a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHealth {
    /// [`crate::version::build_id`].
    pub build: String,
    /// Newest version of the replicated records that it can apply.
    pub version: u16,
    /// Process id.
    pub process: u32,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Bytes of its log's file.
    pub log_bytes: u64,
    /// Bytes that its store's file system has for it; absent until it was looked at.
    pub free_bytes: Option<u64>,
    /// Why its store takes no writes, or why space is low.
    pub trouble: Option<String>,
}

/// From the coordinator that made the connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PeerMessage {
    /// First message of a connection to a member.
    Hello(PeerHello),
    /// First message of a connection to a process that shall become the member `hello.to`.
    Join(PeerHello),
    /// Messages of Raft, encoded by protobuf, at most [`RAFT_MESSAGES`].
    Raft(
        #[serde(serialize_with = "pieces::serialize")]
        #[serde(deserialize_with = "pieces::at_most::<_, RAFT_MESSAGES, PEER_MESSAGE_BYTES>")]
        Vec<Vec<u8>>,
    ),
    /// How the sender is.
    Health(PeerHealth),
    /// First message of a snapshot's stream.
    SnapshotStart {
        /// Raft's message without the state.
        #[serde(serialize_with = "bytes::serialize")]
        #[serde(deserialize_with = "bytes::at_most::<_, PEER_MESSAGE_BYTES>")]
        message: Vec<u8>,
        /// Bytes of the state.
        bytes: u64,
        /// SHA-256 of the state.
        digest: Digest,
    },
    /// The next piece of at most [`BLOB_CHUNK_BYTES`].
    SnapshotChunk(
        #[serde(serialize_with = "bytes::serialize")]
        #[serde(deserialize_with = "bytes::at_most::<_, BLOB_CHUNK_BYTES>")]
        Vec<u8>,
    ),
}

/// From the coordinator that accepted the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerReply {
    /// The hello is accepted.
    Welcome,
    /// It is not.
    Refused {
        /// The kind.
        refusal: PeerRefusal,
        /// For a person.
        message: String,
    },
    /// A snapshot has arrived whole.
    SnapshotTaken,
}

/// Why a coordinator does not talk to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRefusal {
    /// The sender was removed from the group; it must stop.
    Removed,
    /// This process has another id, or none: the member's disk was lost.
    WrongId,
    /// This process belongs to another group.
    OtherGroup,
    /// The certificate names somebody else than the member of this id.
    WrongName,
    /// This process is going away, or not ready.
    NotReady,
}
