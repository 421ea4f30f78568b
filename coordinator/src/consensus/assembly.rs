//! A snapshot that another coordinator sends in pieces, put together.

use evoring_protocol::Digest;
use evoring_protocol::limits::SNAPSHOT_BYTES;
use evoring_protocol::peer::RAFT_MESSAGE_BYTES;
use prost::Message as _;
use raft::eraftpb::Message;
use sha2::{Digest as _, Sha256};

/// Bytes of Raft's message before the pieces: some numbers, and a membership of a few coordinators.
const ANNOUNCEMENT_BYTES: usize = 16 << 10;

/// Why pieces are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// More is announced than is ever taken.
    #[error("a snapshot of {bytes} bytes, at most {SNAPSHOT_BYTES} are taken")]
    Announced {
        /// What is announced.
        bytes: u64,
    },
    /// Raft's message, which comes first, is longer than a snapshot's can be.
    #[error(
        "before the pieces a message of Raft of {bytes} bytes, at most {ANNOUNCEMENT_BYTES} are taken"
    )]
    LongMessage {
        /// Its size.
        bytes: usize,
    },
    /// It is none.
    #[error(transparent)]
    Message(#[from] NoMessage),
    /// Raft's message is not one that brings a snapshot, or brings the state itself.
    #[error("the message of Raft before the pieces must be a snapshot's, without the state")]
    OtherMessage,
    /// There is more than was announced.
    #[error("{got} bytes, expected {expected}")]
    TooLong {
        /// With the piece that is too much.
        got: u64,
        /// What was announced.
        expected: u64,
    },
    /// There is less than was announced.
    #[error("the pieces end after {got} bytes, expected {expected}")]
    TooShort {
        /// All pieces together.
        got: u64,
        /// What was announced.
        expected: u64,
    },
    /// It is something else than was announced.
    #[error("{bytes} bytes with the digest {got}, expected {expected}")]
    OtherDigest {
        /// All pieces together.
        bytes: u64,
        /// Their digest.
        got: Digest,
        /// What was announced.
        expected: Digest,
    },
}

/// Why bytes are no message of Raft.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoMessage {
    /// They are too many.
    #[error("a message of Raft of {bytes} bytes, at most {RAFT_MESSAGE_BYTES} are taken")]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// They mean nothing.
    #[error("a message of Raft is malformed: {0}")]
    Malformed(String),
}

/// Reads a message of Raft.
///
/// # Errors
/// If it is too long or none.
pub fn decode_message(bytes: &[u8]) -> Result<Message, NoMessage> {
    if bytes.len() > RAFT_MESSAGE_BYTES {
        let bytes = bytes.len();
        return Err(NoMessage::TooLong { bytes });
    }
    Message::decode(bytes).map_err(|error| NoMessage::Malformed(error.to_string()))
}

/// A snapshot of which some pieces may have come. It takes memory for what came, never more than for
/// what was announced.
#[derive(Debug)]
pub struct Assembly {
    message: Message,
    state: Vec<u8>,
    expected_bytes: u64,
    expected: Digest,
    hasher: Sha256,
}

impl Assembly {
    /// Begins with what is announced: Raft's message without the state, the state's size and its digest.
    ///
    /// # Errors
    /// If the state is too large or the message is not a snapshot's; no memory was taken then.
    pub fn begin(message: &[u8], bytes: u64, digest: Digest) -> Result<Self, AssemblyError> {
        if bytes > SNAPSHOT_BYTES {
            return Err(AssemblyError::Announced { bytes });
        }
        if message.len() > ANNOUNCEMENT_BYTES {
            let bytes = message.len();
            return Err(AssemblyError::LongMessage { bytes });
        }
        let message = decode_message(message)?;
        match &message.snapshot {
            Some(snapshot) if snapshot.data.is_empty() => {}
            _ => return Err(AssemblyError::OtherMessage),
        }
        Ok(Self {
            message,
            state: Vec::new(),
            expected_bytes: bytes,
            expected: digest,
            hasher: Sha256::new(),
        })
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// If there is more than was announced.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), AssemblyError> {
        let got = (self.state.len() + piece.len()) as u64;
        if got > self.expected_bytes {
            let expected = self.expected_bytes;
            return Err(AssemblyError::TooLong { got, expected });
        }
        self.make_room(got as usize);
        self.state.extend_from_slice(piece);
        self.hasher.update(piece);
        Ok(())
    }

    /// Twice the room that there was, up to what was announced: large states are not copied for each
    /// piece, and take no more than they need in the end.
    fn make_room(&mut self, bytes: usize) {
        if bytes > self.state.capacity() {
            let doubled = bytes.max(2 * self.state.capacity());
            let room = (doubled as u64).min(self.expected_bytes) as usize;
            self.state.reserve_exact(room - self.state.len());
        }
    }

    /// Raft's message with the whole state.
    ///
    /// # Errors
    /// If the state is not what was announced.
    pub fn finish(self) -> Result<Message, AssemblyError> {
        let (bytes, expected) = (self.state.len() as u64, self.expected_bytes);
        if bytes != expected {
            let got = bytes;
            return Err(AssemblyError::TooShort { got, expected });
        }
        let got = Digest(self.hasher.finalize().into());
        if got != self.expected {
            let expected = self.expected;
            return Err(AssemblyError::OtherDigest {
                bytes,
                got,
                expected,
            });
        }
        let mut message = self.message;
        if let Some(snapshot) = &mut message.snapshot {
            snapshot.data = self.state;
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::{Snapshot, SnapshotMetadata};

    fn announced() -> Message {
        let metadata = SnapshotMetadata {
            index: 7,
            ..SnapshotMetadata::default()
        };
        Message {
            snapshot: Some(Snapshot {
                data: Vec::new(),
                metadata: Some(metadata),
            }),
            ..Message::default()
        }
    }

    fn begin(bytes: u64, digest: Digest) -> Result<Assembly, AssemblyError> {
        Assembly::begin(&announced().encode_to_vec(), bytes, digest)
    }

    /// Claim: pieces of any size become the state that was announced, in Raft's message; nothing else
    /// does, and each refusal says what is wrong.
    /// Method: one state in pieces; a byte changed, missing, and too much.
    #[test]
    fn only_what_was_announced() {
        let state: Vec<u8> = (0..100).collect();
        let digest = Digest::of(&state);
        for size in [1, 7, 100, 1_000] {
            let mut assembly = begin(100, digest).unwrap();
            state
                .chunks(size)
                .for_each(|piece| assembly.add(piece).unwrap());
            let message = assembly.finish().unwrap();
            let mut expected = announced();
            expected.snapshot.as_mut().unwrap().data = state.clone();
            assert_eq!(message, expected);
        }
        let mut short = begin(100, digest).unwrap();
        short.add(&state[..99]).unwrap();
        let (got, expected) = (101, 100);
        let refused = short.add(&[99, 0]);
        assert_eq!(refused, Err(AssemblyError::TooLong { got, expected }));
        let got = 99;
        assert_eq!(
            short.finish(),
            Err(AssemblyError::TooShort { got, expected })
        );
        let mut other = begin(100, digest).unwrap();
        other.add(&[1; 100]).unwrap();
        assert!(matches!(
            other.finish(),
            Err(AssemblyError::OtherDigest { bytes: 100, .. })
        ));
        let empty = begin(0, Digest::of(&[])).unwrap().finish();
        assert_eq!(empty, Ok(announced()));
    }

    /// Claim: what cannot become a snapshot is refused at its beginning, and memory is taken for what
    /// comes, not for what is announced.
    /// Method: the largest size and one more; messages of other kinds; the room after each piece.
    #[test]
    fn nothing_is_taken_for_an_announcement() {
        let digest = Digest([0; 32]);
        let bytes = SNAPSHOT_BYTES + 1;
        assert_eq!(
            begin(bytes, digest).unwrap_err(),
            AssemblyError::Announced { bytes }
        );
        assert_eq!(begin(SNAPSHOT_BYTES, digest).unwrap().state.capacity(), 0);
        let mut with_state = announced();
        with_state.snapshot.as_mut().unwrap().data = vec![1];
        for message in [Message::default(), with_state] {
            let refused = Assembly::begin(&message.encode_to_vec(), 9, digest);
            assert_eq!(refused.unwrap_err(), AssemblyError::OtherMessage);
        }
        let bytes = ANNOUNCEMENT_BYTES + 1;
        let long = Assembly::begin(&vec![0; bytes], 9, digest);
        assert_eq!(long.unwrap_err(), AssemblyError::LongMessage { bytes });
        let malformed = Assembly::begin(&[0xff; 9], 9, digest).unwrap_err();
        assert!(malformed.to_string().contains("malformed"), "{malformed}");
        let mut assembly = begin(10_000, digest).unwrap();
        for piece in 1..=10 {
            assembly.add(&[0; 1_000]).unwrap();
            let room = assembly.state.capacity();
            assert!(room <= (2_000 * piece).min(10_000), "{room} for {piece}");
        }
    }
}
