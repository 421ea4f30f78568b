//! Secrets from one seed of true randomness.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// Gives secrets that nobody can guess who does not know the seed.
pub struct Secrets {
    seed: [u8; 32],
    given: u64,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

impl Secrets {
    /// Takes a seed: from the system's generator, or from a test.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed, given: 0 }
    }

    /// The next secret: HMAC-SHA-256 of a counter.
    pub fn next_secret(&mut self) -> [u8; 32] {
        self.given += 1;
        let mut hash = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.seed)
            .unwrap_or_else(|e| panic!("HMAC refuses a key: {e}"));
        hash.update(&self.given.to_le_bytes());
        hash.finalize().into_bytes().into()
    }
}
