//! The state's storage encoding, with its own version: `EVST`, version `u16` little-endian, then
//! postcard.
//!
//! Version 4 has the requests that labelled jobs behind version 3. It is written as soon as the version
//! of the records in force has them: until then a member of an older build must understand a snapshot.

use super::State;
use evoring_protocol::Digest;
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};

const MAGIC: &[u8; 4] = b"EVST";
const WITHOUT_LABEL_REQUESTS: u16 = 3;
const VERSION: u16 = 4;
/// Version of the records from which on the newest encoding is written.
const RECORDS: u16 = 4;
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
        debug_assert!(self.version >= RECORDS || self.label_requests.is_empty());
        let version = self.encoding();
        header.extend_from_slice(&version.to_le_bytes());
        // Writing plain data into a growing vector cannot fail.
        let encoded = postcard::to_extend(self, header);
        match version {
            WITHOUT_LABEL_REQUESTS => encoded,
            _ => encoded.and_then(|bytes| postcard::to_extend(&self.label_requests, bytes)),
        }
        .unwrap_or_else(|e| panic!("the state does not encode: {e}"))
    }

    fn encoding(&self) -> u16 {
        match self.version {
            RECORDS.. => VERSION,
            _ => WITHOUT_LABEL_REQUESTS,
        }
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
        if !(WITHOUT_LABEL_REQUESTS..=VERSION).contains(&version) {
            let reason = format!(
                "version {version}, expected {WITHOUT_LABEL_REQUESTS} to {VERSION}; it was written by another build of Evoring"
            );
            return Err(error(reason));
        }
        let malformed = |e: postcard::Error| error(e.to_string());
        let (mut state, mut rest) = postcard::take_from_bytes::<Self>(body).map_err(malformed)?;
        if version > WITHOUT_LABEL_REQUESTS {
            (state.label_requests, rest) = postcard::take_from_bytes(rest).map_err(malformed)?;
        }
        if !rest.is_empty() {
            return Err(error(format!("{} bytes left over", rest.len())));
        }
        // Equal states have equal bytes, so that there is one encoding for each.
        if state.encoding() != version {
            let reason = format!(
                "version {version}, expected {} with records of version {}",
                state.encoding(),
                state.version
            );
            return Err(error(reason));
        }
        Ok(state)
    }

    /// Hash over the whole state, taken at snapshots.
    pub fn full_hash(&self) -> Digest {
        Digest::of(&self.encode())
    }
}
