//! Results that equal inputs give again.

use evoring_protocol::Digest;
use evoring_protocol::bounded::map_to_bytes;
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::Kernel;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Results kept; the oldest goes first. At 300 bytes an entry this is at most 20 MB of state.
pub const CACHE_ENTRIES: usize = 1 << 16;

/// The cache, a part of the replicated state: which entries it holds depends on the log alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FitnessCache {
    #[serde(serialize_with = "map_to_bytes::serialize")]
    #[serde(deserialize_with = "map_to_bytes::at_most::<_, _, { usize::MAX }>")]
    results: BTreeMap<Digest, Vec<u8>>,
    /// Order of arrival.
    order: BTreeMap<u64, Digest>,
    next: u64,
}

/// What the items of one map have in common in their keys.
#[derive(Clone)]
pub struct KeyPrefix(Sha256);

impl KeyPrefix {
    /// Hashes kernel (with its version), payload, inputs and class; each part with its length.
    pub fn new(kernel: Kernel, payload: &[u8], inputs: &[Digest], class: &NumericsClass) -> Self {
        let mut hash = Sha256::new();
        for part in [
            b"evoring fitness 1",
            kernel.name().as_bytes(),
            payload,
            class.0.as_bytes(),
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update((inputs.len() as u64).to_le_bytes());
        inputs.iter().for_each(|input| hash.update(input.0));
        Self(hash)
    }

    /// Key of one item.
    pub fn key(&self, item: &[u8]) -> Digest {
        let mut hash = self.0.clone();
        hash.update(item);
        Digest(hash.finalize().into())
    }
}

impl FitnessCache {
    /// Result of a key.
    pub fn result(&self, key: &Digest) -> Option<&Vec<u8>> {
        self.results.get(key)
    }

    /// Number of results.
    pub fn len(&self) -> usize {
        self.results.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// Keeps a result; the first one of a key stays.
    pub fn insert(&mut self, key: Digest, result: Vec<u8>) {
        if self.results.contains_key(&key) {
            return;
        }
        self.results.insert(key, result);
        self.order.insert(self.next, key);
        self.next += 1;
        while self.results.len() > CACHE_ENTRIES {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            self.results.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: the cache never holds more than its cap, and what goes is the oldest.
    // Method: insert one more than the cap.
    #[test]
    fn oldest_goes_first() {
        let mut cache = FitnessCache::default();
        let key = |number: usize| Digest::of(&number.to_le_bytes());
        for number in 0..=CACHE_ENTRIES {
            cache.insert(key(number), vec![1]);
        }
        assert_eq!(cache.len(), CACHE_ENTRIES);
        assert_eq!(cache.result(&key(0)), None);
        assert_eq!(cache.result(&key(1)), Some(&vec![1]));
    }

    // Claim: each part of the key counts, and bytes cannot move from one part to the next.
    // Method: change one part at a time; shift a byte from payload to class.
    #[test]
    fn every_part_of_the_key_counts() {
        let class = |name: &str| NumericsClass(name.to_owned());
        let key = |kernel, payload: &[u8], inputs: &[Digest], name: &str, item: &[u8]| {
            KeyPrefix::new(kernel, payload, inputs, &class(name)).key(item)
        };
        let input = [Digest::of(b"weights")];
        let base = key(Kernel::PruneEvaluate, b"ab", &input, "cpu", b"item");
        let others = [
            key(Kernel::PruneRank, b"ab", &input, "cpu", b"item"),
            key(Kernel::PruneEvaluate, b"a", &input, "cpu", b"item"),
            key(Kernel::PruneEvaluate, b"a", &input, "bcpu", b"item"),
            key(Kernel::PruneEvaluate, b"ab", &[], "cpu", b"item"),
            key(Kernel::PruneEvaluate, b"ab", &input, "gpu", b"item"),
            key(Kernel::PruneEvaluate, b"ab", &input, "cpu", b"items"),
        ];
        assert!(others.iter().all(|other| *other != base));
        assert_eq!(
            base,
            key(Kernel::PruneEvaluate, b"ab", &input, "cpu", b"item")
        );
    }
}
