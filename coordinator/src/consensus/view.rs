//! What `raft` reads: the log's suffix in memory. What is here may not be durable yet; `RAFT-1`
//! keeps that apart.

use crate::storage::Stored;
use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

/// The log since the last snapshot.
#[derive(Debug)]
pub(super) struct LogView {
    hard_state: HardState,
    membership: raft::eraftpb::ConfState,
    /// Index and term before the first entry.
    base: (u64, u64),
    entries: Vec<Entry>,
}

impl LogView {
    pub(super) fn new(stored: Stored) -> Self {
        let (base, membership) = stored
            .snapshot
            .map(|snapshot| ((snapshot.index, snapshot.term), snapshot.membership))
            .unwrap_or_default();
        Self {
            hard_state: stored.hard_state.unwrap_or_default(),
            membership,
            base,
            entries: stored.entries,
        }
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(super) fn snapshot_index(&self) -> u64 {
        self.base.0
    }

    /// Appends, replacing what conflicts.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend_from_slice(entries);
        }
    }

    /// Forgets entries up to `index`, which a durable snapshot contains.
    pub(super) fn compact(&mut self, index: u64) {
        if let Some(term) = self.known_term(index) {
            self.entries.retain(|entry| entry.index > index);
            self.base = (index, term);
        }
    }

    pub(super) fn known_term(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        let offset = index.checked_sub(self.base.0 + 1)?;
        self.entries
            .get(usize::try_from(offset).ok()?)
            .map(|entry| entry.term)
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.base.0, |entry| entry.index)
    }
}

impl Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.membership.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let offset = |index: u64| (index - self.base.0 - 1) as usize;
        let wanted = self
            .entries
            .get(offset(low)..offset(high))
            .unwrap_or_default();
        let mut left = max_size.into().unwrap_or(u64::MAX);
        let fitting = wanted.iter().enumerate().take_while(|(position, entry)| {
            let bytes = (entry.data.len() + entry.context.len() + 32) as u64;
            let fits = *position == 0 || bytes <= left;
            left = left.saturating_sub(bytes);
            fits
        });
        Ok(fitting.map(|(_, entry)| entry.clone()).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        self.known_term(index)
            .ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        // Only another voter could ask, and there is none yet.
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}
