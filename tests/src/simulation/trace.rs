//! A hash over all that happens: two runs of one seed must agree on it.

use crate::random::mix;

/// A number that stands for some bytes, here only.
pub(super) fn of_bytes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let start = mix(bytes.len() as u64 ^ 0x9e37_79b9_7f4a_7c15);
    words.iter().chain([&last]).fold(start, |hash, word| {
        (hash ^ u64::from_le_bytes(*word))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}

/// The running hash.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    events: u64,
}

impl Trace {
    pub(super) fn note(&mut self, parts: [u64; 3]) {
        self.events += 1;
        for part in parts {
            self.hash = mix(self.hash.rotate_left(17) ^ part.wrapping_add(0x9e37_79b9_7f4a_7c15));
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }
}
