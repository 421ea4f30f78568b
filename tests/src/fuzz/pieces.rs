//! A snapshot's stream from another coordinator, put together as its door does.

use evoring_coordinator::consensus::{Assembly, AssemblyError};
use evoring_protocol::Digest;
use evoring_protocol::codec::read_frame;
use evoring_protocol::limits::SNAPSHOT_BYTES;
use evoring_protocol::peer::PeerMessage;
use raft::eraftpb::Message;
use std::io::Cursor;

/// Set in the first byte: the size that is announced is that of the pieces.
pub const FITS: u8 = 1;
/// Set in the first byte: the digest that is announced is that of the pieces.
pub const IS_GENUINE: u8 = 2;

/// A byte of flags, without which no mutation would get past size and digest, and frames: the beginning
/// and pieces. What comes out is what was announced, and the pieces in their order; everything else is
/// refused.
pub fn snapshot_pieces(data: &[u8]) {
    let Some((flags, frames)) = data.split_first() else {
        return;
    };
    let mut frames = Cursor::new(frames);
    let Ok(Some(PeerMessage::SnapshotStart {
        message,
        bytes,
        digest,
    })) = read_frame(&mut frames)
    else {
        return;
    };
    let mut pieces = Vec::new();
    while let Ok(Some(PeerMessage::SnapshotChunk(piece))) = read_frame(&mut frames) {
        pieces.push(piece);
    }
    let whole = pieces.concat();
    let length = whole.len() as u64;
    let fits = flags & FITS != 0;
    let bytes = if fits { length } else { bytes };
    let is_genuine = flags & IS_GENUINE != 0;
    let digest = if is_genuine {
        Digest::of(&whole)
    } else {
        digest
    };
    match put_together(&message, bytes, digest, &pieces) {
        Ok(message) => {
            let state = message.snapshot.map(|snapshot| snapshot.data);
            assert_eq!(state, Some(whole));
            assert!(length == bytes && bytes <= SNAPSHOT_BYTES);
        }
        Err(AssemblyError::Announced { .. }) => assert!(bytes > SNAPSHOT_BYTES),
        Err(AssemblyError::TooLong { .. }) => assert!(length > bytes),
        Err(AssemblyError::TooShort { .. }) => assert!(length < bytes),
        Err(AssemblyError::OtherDigest { got, .. }) => {
            assert!(!is_genuine && got == Digest::of(&whole));
        }
        Err(
            AssemblyError::LongMessage { .. }
            | AssemblyError::Message(_)
            | AssemblyError::OtherMessage,
        ) => {}
    }
}

fn put_together(
    message: &[u8],
    bytes: u64,
    digest: Digest,
    pieces: &[Vec<u8>],
) -> Result<Message, AssemblyError> {
    let mut assembly = Assembly::begin(message, bytes, digest)?;
    pieces.iter().try_for_each(|piece| assembly.add(piece))?;
    assembly.finish()
}
