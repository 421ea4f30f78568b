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

/// What is known of an entry that was applied.
struct AppliedEntry {
    term: u64,
    /// Of its command.
    digest: u64,
    /// Of the state after it.
    state: Digest,
    /// A term in which it was committed for certain: that of the first process that applied it, then.
    committed_in: u64,
}

/// The one log, and a state that has applied all of it.
pub(in super::super) struct AppliedLog {
    /// From [`FIRST_INDEX`] on.
    entries: Vec<AppliedEntry>,
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
            entries: vec![AppliedEntry {
                term: 1,
                digest: 0,
                state: first.hash(),
                committed_in: 1,
            }],
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

    /// A process in this term is about to apply an entry; gives its digest.
    pub(super) fn applies(
        &mut self,
        host: usize,
        term: u64,
        entry: &Committed,
    ) -> Result<u64, Violation> {
        let digest = of_bytes(&entry.data);
        let known = Self::position(entry.index).map(|position| self.entries.get(position));
        match known {
            Some(Some(known)) if (known.term, known.digest) == (entry.term, digest) => Ok(digest),
            Some(None) if entry.index == self.last() + 1 => {
                let applied = self.reference.apply(entry.index, &entry.data);
                let applied = applied.map_err(|error| Violation::new(NAME, error.to_string()))?;
                self.entries.push(AppliedEntry {
                    term: entry.term,
                    digest,
                    state: self.reference.hash(),
                    committed_in: term,
                });
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
                        Some(Some(known)) => format!(
                            "applied one of term {} with digest {:x} there",
                            known.term, known.digest
                        ),
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
        if known.is_none_or(|known| known.state != state.hash()) {
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
        if known.is_none_or(|known| known.term == snapshot.term) {
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

    /// Whoever leads has everything that was committed in earlier terms. It may come to lead late, when
    /// later terms have committed more: its own office is worth nothing by then.
    pub(super) fn elected(&mut self, host: usize, consensus: &Consensus) -> Checked {
        let is_earlier = |entry: &AppliedEntry| entry.committed_in < consensus.term();
        let last = self.entries.iter().rposition(is_earlier);
        let last = last.map_or(0, |position| FIRST_INDEX + position as u64);
        if consensus.last_index() >= last {
            return Ok(());
        }
        let what = format!(
            "host {host} leads in term {} with a log up to {}, while {last} was committed before",
            consensus.term(),
            consensus.last_index(),
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
