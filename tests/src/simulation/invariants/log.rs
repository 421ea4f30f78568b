//! 2 and 8: what is applied is the same everywhere, index by index; what is committed stays so; and
//! a state that came from a snapshot and the entries after it is the one that came from all entries.

use super::super::trace::of_bytes;
use super::{Checked, Violation};
use evoring_coordinator::consensus::{Committed, Consensus};
use evoring_coordinator::state::{Applied, State};
use evoring_coordinator::storage::{SnapshotRecord, Stored};
use evoring_protocol::Digest;
use std::collections::BTreeMap;

const NAME: &str = "log";

/// Index of the snapshot with which a group begins.
pub(in super::super) const FIRST_INDEX: u64 = 1;
/// States at this distance are compared byte by byte.
const COMPARED_EVERY: u64 = 64;

/// The one log, and a state that has applied all of it.
pub(in super::super) struct AppliedLog {
    /// Term, digest of the command, and hash of the state after it, from [`FIRST_INDEX`] on.
    entries: Vec<(u64, u64, Digest)>,
    /// Encodings of the state at some indices, as digests.
    whole: BTreeMap<u64, u64>,
    reference: State,
    /// Committed index of each process.
    committed: BTreeMap<usize, u64>,
    /// Filled with what the newest entry led to.
    pub news: Vec<(u64, Vec<u8>, Applied)>,
}

impl AppliedLog {
    pub(super) fn new(first: State) -> Self {
        Self {
            entries: vec![(1, 0, first.hash())],
            whole: BTreeMap::new(),
            reference: first,
            committed: BTreeMap::new(),
            news: Vec::new(),
        }
    }

    /// The state after everything that was ever committed.
    pub(in super::super) fn reference(&self) -> &State {
        &self.reference
    }

    /// Index of the last committed entry.
    pub(in super::super) fn last(&self) -> u64 {
        FIRST_INDEX + self.entries.len() as u64 - 1
    }

    fn position(index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(FIRST_INDEX)?).ok()
    }

    pub(super) fn started(&mut self, host: usize, stored: &Stored, state: &State) -> Checked {
        self.committed.remove(&host);
        match stored.snapshot {
            Some(_) => self.state(host, state),
            None => Ok(()),
        }
    }

    pub(super) fn committed(&mut self, host: usize, index: u64) -> Checked {
        let known = self.committed.entry(host).or_default();
        if index < *known {
            let what = format!("host {host} committed {known}, now only {index}");
            return Err(Violation::new(NAME, what));
        }
        *known = index;
        Ok(())
    }

    /// A process is about to apply an entry; gives its digest.
    pub(super) fn applies(&mut self, host: usize, entry: &Committed) -> Result<u64, Violation> {
        let digest = of_bytes(&entry.data);
        let known = Self::position(entry.index).map(|position| self.entries.get(position));
        match known {
            Some(Some(&(term, known, _))) if (term, known) == (entry.term, digest) => Ok(digest),
            Some(None) if entry.index == self.last() + 1 => {
                let applied = self.reference.apply(entry.index, &entry.data);
                let applied = applied.map_err(|error| Violation::new(NAME, error.to_string()))?;
                self.entries
                    .push((entry.term, digest, self.reference.hash()));
                self.news.push((entry.index, entry.data.clone(), applied));
                if entry.index.is_multiple_of(COMPARED_EVERY) {
                    self.whole
                        .insert(entry.index, of_bytes(&self.reference.encode()));
                }
                Ok(digest)
            }
            other => {
                let what = format!(
                    "host {host} applies entry {} of term {} with digest {digest:x}; others {}",
                    entry.index,
                    entry.term,
                    match other {
                        Some(Some((term, digest, _))) =>
                            format!("applied one of term {term} with digest {digest:x} there"),
                        _ => format!("have applied entries up to {}", self.last()),
                    }
                );
                Err(Violation::new(NAME, what))
            }
        }
    }

    /// A process has this state.
    pub(super) fn state(&mut self, host: usize, state: &State) -> Checked {
        let index = state.applied();
        let known = Self::position(index).and_then(|position| self.entries.get(position));
        if known.is_none_or(|(_, _, hash)| *hash != state.hash()) {
            let what = format!("host {host} has another state at index {index}");
            return Err(Violation::new(NAME, what));
        }
        if index.is_multiple_of(COMPARED_EVERY) {
            return self.encoding(host, index, &state.encode());
        }
        Ok(())
    }

    pub(super) fn snapshot(&mut self, host: usize, index: u64, data: &[u8]) -> Checked {
        self.encoding(host, index, data)
    }

    /// A snapshot is on a disk; its index is applied somewhere.
    pub(super) fn stored(&self, host: usize, snapshot: &SnapshotRecord) -> Checked {
        let position = Self::position(snapshot.index);
        let known = position.and_then(|position| self.entries.get(position));
        if known.is_none_or(|(term, ..)| *term == snapshot.term) {
            return Ok(());
        }
        let what = format!(
            "host {host} stored a snapshot at {} of term {}, whose entry is of another",
            snapshot.index, snapshot.term
        );
        Err(Violation::new(NAME, what))
    }

    /// Whoever comes first to an index decides, as its hash over all entries is right.
    fn encoding(&mut self, host: usize, index: u64, data: &[u8]) -> Checked {
        let digest = of_bytes(data);
        if *self.whole.entry(index).or_insert(digest) == digest {
            return Ok(());
        }
        let what = format!("host {host} encodes its state at index {index} in another way");
        Err(Violation::new(NAME, what))
    }

    /// Whoever leads has everything that is committed.
    pub(super) fn elected(&mut self, host: usize, consensus: &Consensus) -> Checked {
        if consensus.last_index() >= self.last() {
            return Ok(());
        }
        let what = format!(
            "host {host} leads in term {} with a log up to {}, while {} is committed",
            consensus.term(),
            consensus.last_index(),
            self.last()
        );
        Err(Violation::new(NAME, what))
    }

    /// At the end: a state that is as far as the reference equals it.
    pub(in super::super) fn equals(&self, host: usize, state: &State) -> Checked {
        if state.applied() != self.last() || state.encode() == self.reference.encode() {
            return Ok(());
        }
        let what = format!("host {host} ended with another state at {}", self.last());
        Err(Violation::new(NAME, what))
    }
}
