//! The state's storage encoding, with its own version: `EVST`, version `u16` little-endian, then
//! postcard.

use super::State;
use evoring_protocol::Digest;
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};

const MAGIC: &[u8; 4] = b"EVST";
const VERSION: u16 = 3;
const HEADER_BYTES: usize = 6;

/// Bytes that are not an encoded state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("snapshot of {bytes} bytes: {reason}")]
pub struct StateError {
    /// Size.
    pub bytes: usize,
    /// What does not fit.
    pub reason: String,
}

impl State {
    /// Encodes the state; equal states give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        #[cfg(evoring_plants)]
        if is_planted(Plant::SnapshotForgetsKeys) && !self.submissions.is_empty() {
            let mut copy = self.clone();
            copy.submissions.clear();
            return copy.encode();
        }
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&VERSION.to_le_bytes());
        // Writing plain data into a growing vector cannot fail.
        postcard::to_extend(self, header)
            .unwrap_or_else(|e| panic!("the state does not encode: {e}"))
    }

    /// Decodes a state; bytes left over are an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let error = |reason: String| StateError {
            bytes: bytes.len(),
            reason,
        };
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(error("it is too short".to_owned()));
        };
        if header[..4] != *MAGIC {
            return Err(error("it is not a state of Evoring".to_owned()));
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version != VERSION {
            let reason = format!(
                "version {version}, expected {VERSION}; it was written by another build of Evoring"
            );
            return Err(error(reason));
        }
        match postcard::take_from_bytes(body) {
            Ok((state, [])) => Ok(state),
            Ok((_, rest)) => Err(error(format!("{} bytes left over", rest.len()))),
            Err(e) => Err(error(e.to_string())),
        }
    }

    /// Hash over the whole state, taken at snapshots.
    pub fn full_hash(&self) -> Digest {
        Digest::of(&self.encode())
    }
}
