//! What the search has seen: sets of placed operations with the state they led to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

/// A set of operations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct BitSet {
    words: Vec<u64>,
}

impl BitSet {
    /// An empty set with room for `size` members.
    pub(super) fn new(size: usize) -> Self {
        Self {
            words: vec![0; size.div_ceil(64)],
        }
    }

    pub(super) fn insert(&mut self, member: usize) {
        self.words[member / 64] |= 1 << (member % 64);
    }

    pub(super) fn remove(&mut self, member: usize) {
        self.words[member / 64] &= !(1 << (member % 64));
    }

    pub(super) fn contains(&self, member: usize) -> bool {
        self.words[member / 64] & (1 << (member % 64)) != 0
    }

    fn is_subset(&self, other: &Self) -> bool {
        let mut words = self.words.iter().zip(&other.words);
        words.all(|(mine, theirs)| mine & !theirs == 0)
    }

    /// The set, given that it holds all below `lowest` and none above `highest`: as long as
    /// operations overlap, not as the history.
    pub(super) fn window(&self, lowest: usize, highest: usize) -> Window {
        let first = lowest / 64;
        let end = (highest / 64 + 1).max(first);
        let words = self.words.get(first..end).unwrap_or_default();
        Window {
            first,
            words: words.into(),
        }
    }
}

/// A set that holds everything before word `first`, then `words`, then nothing.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Window {
    first: usize,
    words: Box<[u64]>,
}

/// For each set of answered operations and state, the smallest sets of unanswered operations that
/// were used to get there: whatever can follow after more of them can follow after fewer.
pub(super) struct Cache<S> {
    seen: HashMap<(Window, S), Vec<BitSet>>,
}

impl<S: Eq + Hash> Cache<S> {
    pub(super) fn new() -> Self {
        Self {
            seen: HashMap::new(),
        }
    }

    /// Whether nothing that was seen covers this; it counts as seen from now on.
    pub(super) fn insert(&mut self, placed: Window, state: S, used: &BitSet) -> bool {
        match self.seen.entry((placed, state)) {
            Entry::Vacant(entry) => {
                entry.insert(vec![used.clone()]);
                true
            }
            Entry::Occupied(mut entry) => {
                let sets = entry.get_mut();
                if sets.iter().any(|set| set.is_subset(used)) {
                    return false;
                }
                sets.retain(|set| !used.is_subset(set));
                sets.push(used.clone());
                true
            }
        }
    }
}
