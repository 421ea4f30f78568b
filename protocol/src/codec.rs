//! Frames: `length: u32`, `kind: u8`, `version: u8`, then postcard. Lengths are little-endian,
//! count the postcard bytes, and are checked against the kind's limit before anything is read.

use crate::client::{ClientReply, ClientRequest};
use crate::executor::{ExecutorCommand, ExecutorReport};
use crate::limits;
use crate::peer::{PeerMessage, PeerReply};
use crate::worker::{WorkerCommand, WorkerReport};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Read as _;

/// Bytes before a frame's body.
pub const HEADER_BYTES: usize = 6;
/// Newest version of the frame layout, and of what the messages in it have in common, that is read.
pub const FRAME_VERSION: u8 = 3;
/// Oldest version that is read; raised when no build that writes it is talked to any more.
pub const OLDEST_FRAME: u8 = 3;
/// The version that is written, which every build that is talked to must read: a new one is written a
/// release after it was first read (VERSION-2 in [`crate::version`]).
pub const WRITTEN_FRAME: u8 = 3;

/// Kinds of frames, one for each direction of each stream. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// [`WorkerReport`]
    WorkerReport = 1,
    /// [`WorkerCommand`]
    WorkerCommand = 2,
    /// [`ClientRequest`]
    ClientRequest = 3,
    /// [`ClientReply`]
    ClientReply = 4,
    /// [`ExecutorCommand`]
    ExecutorCommand = 5,
    /// [`ExecutorReport`]
    ExecutorReport = 6,
    /// [`PeerMessage`]
    PeerMessage = 7,
    /// [`PeerReply`]
    PeerReply = 8,
}

impl FrameKind {
    /// Most bytes of a body.
    pub fn limit_bytes(self) -> usize {
        match self {
            Self::WorkerReport => limits::WORKER_REPORT_BYTES,
            Self::WorkerCommand => limits::WORKER_COMMAND_BYTES,
            Self::ClientRequest => limits::CLIENT_REQUEST_BYTES,
            Self::ClientReply => limits::CLIENT_REPLY_BYTES,
            Self::ExecutorCommand | Self::ExecutorReport => limits::EXECUTOR_FRAME_BYTES,
            Self::PeerMessage => limits::PEER_MESSAGE_BYTES,
            Self::PeerReply => limits::PEER_REPLY_BYTES,
        }
    }
}

/// A message that travels in frames.
pub trait Message: Serialize + DeserializeOwned {
    /// Its kind.
    const KIND: FrameKind;
}

impl Message for WorkerReport {
    const KIND: FrameKind = FrameKind::WorkerReport;
}
impl Message for WorkerCommand {
    const KIND: FrameKind = FrameKind::WorkerCommand;
}
impl Message for ClientRequest {
    const KIND: FrameKind = FrameKind::ClientRequest;
}
impl Message for ClientReply {
    const KIND: FrameKind = FrameKind::ClientReply;
}
impl Message for ExecutorCommand {
    const KIND: FrameKind = FrameKind::ExecutorCommand;
}
impl Message for ExecutorReport {
    const KIND: FrameKind = FrameKind::ExecutorReport;
}
impl Message for PeerMessage {
    const KIND: FrameKind = FrameKind::PeerMessage;
}
impl Message for PeerReply {
    const KIND: FrameKind = FrameKind::PeerReply;
}

/// Why bytes are not a frame, or a message does not fit into one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The body would exceed the kind's limit.
    #[error("frame of {got} bytes: a {kind:?} may have {limit}")]
    TooLarge {
        /// The kind.
        kind: FrameKind,
        /// Its limit.
        limit: usize,
        /// Size asked for.
        got: usize,
    },
    /// Another kind was expected on this stream.
    #[error("frame of kind {got}: expected {expected:?} ({})", *expected as u8)]
    WrongKind {
        /// What this stream carries.
        expected: FrameKind,
        /// What came.
        got: u8,
    },
    /// The peer speaks another version.
    #[error(
        "frame of version {got}: this build reads {OLDEST_FRAME} to {FRAME_VERSION}; run builds of Evoring that speak one protocol"
    )]
    WrongVersion {
        /// What came.
        got: u8,
    },
    /// The body is not a message of this kind.
    #[error("body of a {kind:?} ({bytes} bytes): {reason}")]
    Malformed {
        /// The kind.
        kind: FrameKind,
        /// Size of the body.
        bytes: usize,
        /// What the decoder says.
        reason: String,
    },
}

/// Encodes `message` as one frame.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, CodecError> {
    let kind = M::KIND;
    let malformed = |e: postcard::Error| CodecError::Malformed {
        kind,
        bytes: 0,
        reason: e.to_string(),
    };
    let mut frame = postcard::to_extend(message, vec![0u8; HEADER_BYTES]).map_err(malformed)?;
    let body_bytes = frame.len() - HEADER_BYTES;
    if body_bytes > kind.limit_bytes() {
        return Err(CodecError::TooLarge {
            kind,
            limit: kind.limit_bytes(),
            got: body_bytes,
        });
    }
    // The limit is far below 4 GiB.
    frame[..4].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    frame[4] = kind as u8;
    frame[5] = WRITTEN_FRAME;
    Ok(frame)
}

/// Checks a header and returns the size of the body.
pub fn decode_header<M: Message>(header: [u8; HEADER_BYTES]) -> Result<usize, CodecError> {
    let [a, b, c, d, kind, version] = header;
    if kind != M::KIND as u8 {
        return Err(CodecError::WrongKind {
            expected: M::KIND,
            got: kind,
        });
    }
    if !(OLDEST_FRAME..=FRAME_VERSION).contains(&version) {
        return Err(CodecError::WrongVersion { got: version });
    }
    let bytes = u32::from_le_bytes([a, b, c, d]) as usize;
    if bytes > M::KIND.limit_bytes() {
        return Err(CodecError::TooLarge {
            kind: M::KIND,
            limit: M::KIND.limit_bytes(),
            got: bytes,
        });
    }
    Ok(bytes)
}

/// Decodes a body; bytes left over are an error.
pub fn decode_body<M: Message>(body: &[u8]) -> Result<M, CodecError> {
    let malformed = |reason: String| CodecError::Malformed {
        kind: M::KIND,
        bytes: body.len(),
        reason,
    };
    let (message, rest) = postcard::take_from_bytes(body).map_err(|e| malformed(e.to_string()))?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(malformed(format!("{} bytes left over", rest.len())))
    }
}

/// Writes one frame to a blocking stream.
pub fn write_frame<M: Message>(
    writer: &mut impl std::io::Write,
    message: &M,
) -> std::io::Result<()> {
    let frame = encode(message).map_err(std::io::Error::other)?;
    writer.write_all(&frame)
}

/// Reads one frame from a blocking stream; `None` at its end.
pub fn read_frame<M: Message>(reader: &mut impl std::io::Read) -> std::io::Result<Option<M>> {
    let mut header = [0u8; HEADER_BYTES];
    let mut filled = 0;
    while filled < HEADER_BYTES {
        match reader.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let bytes = decode_header::<M>(header).map_err(std::io::Error::other)?;
    // Memory for what comes, not for what is announced.
    let mut body = Vec::new();
    std::io::Read::take(reader, bytes as u64).read_to_end(&mut body)?;
    if body.len() < bytes {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    decode_body(&body).map(Some).map_err(std::io::Error::other)
}
