//! What `raft` reads: the log's suffix in memory. What is here may not be durable yet; `RAFT-1`
//! keeps that apart.

use crate::storage::Stored;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::collections::VecDeque;

/// Entries before a snapshot that stay in memory, so that a follower that is a little behind gets
/// these and not the whole state.
const KEPT_ENTRIES: u64 = 4_096;
/// … as long as they have at most this many bytes.
const KEPT_BYTES: usize = 16 << 20;

/// The log since some time before the last snapshot.
#[derive(Debug)]
pub(super) struct LogView {
    hard_state: HardState,
    snapshot: SnapshotMetadata,
    /// Index and term before the first entry.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    /// Changes of membership that are applied and not in the snapshot.
    changes: Vec<(u64, ConfState)>,
    kept_entries: u64,
}

impl LogView {
    pub(super) fn new(stored: Stored) -> Self {
        let snapshot = stored
            .snapshot
            .map(|snapshot| metadata(snapshot.index, snapshot.term, snapshot.membership))
            .unwrap_or_default();
        Self {
            hard_state: stored.hard_state.unwrap_or_default(),
            base: (snapshot.index, snapshot.term),
            snapshot,
            entries: stored.entries.into(),
            changes: Vec::new(),
            kept_entries: KEPT_ENTRIES,
        }
    }

    /// Keeps so many entries before a snapshot.
    pub(super) fn keep_entries(&mut self, entries: u64) {
        self.kept_entries = entries;
    }

    /// The newest that was handed out, or is handed out with the next write.
    pub(super) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(super) fn snapshot_index(&self) -> u64 {
        self.snapshot.index
    }

    /// Appends, replacing what conflicts.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            let kept = usize::try_from(first.index.saturating_sub(self.base.0 + 1));
            self.entries.truncate(kept.unwrap_or(usize::MAX));
            self.entries.extend(entries.iter().cloned());
        }
    }

    /// Replaces everything by a snapshot of the leader's.
    pub(super) fn install(&mut self, snapshot: SnapshotMetadata) {
        self.base = (snapshot.index, snapshot.term);
        self.snapshot = snapshot;
        self.entries.clear();
        self.changes.clear();
    }

    /// Membership that an applied change made.
    pub(super) fn changed(&mut self, index: u64, membership: ConfState) {
        self.changes.push((index, membership));
    }

    /// Index of the newest applied change of membership; that of the snapshot without one.
    pub(super) fn last_change(&self) -> u64 {
        self.changes
            .last()
            .map_or(self.snapshot.index, |(index, _)| *index)
    }

    /// Membership in force at an applied index.
    pub(super) fn membership(&self, index: u64) -> ConfState {
        let newest = self.changes.iter().rev().find(|(at, _)| *at <= index);
        match newest {
            Some((_, membership)) => membership.clone(),
            None => self.snapshot.conf_state.clone().unwrap_or_default(),
        }
    }

    /// Notes that a snapshot of this index is durable; forgets what nobody will ask for.
    pub(super) fn compact(&mut self, index: u64) {
        let Some(term) = self
            .known_term(index)
            .filter(|_| index > self.snapshot.index)
        else {
            return;
        };
        self.snapshot = metadata(index, term, self.membership(index));
        self.changes.retain(|(at, _)| *at > index);
        let mut bytes: usize = self.entries.iter().map(entry_bytes).sum();
        while let Some(first) = self.entries.front()
            && first.index <= index
            && (first.index + self.kept_entries <= index || bytes > KEPT_BYTES)
        {
            bytes -= entry_bytes(first);
            self.base = (first.index, first.term);
            self.entries.pop_front();
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

    pub(super) fn last(&self) -> u64 {
        self.entries.back().map_or(self.base.0, |entry| entry.index)
    }
}

fn metadata(index: u64, term: u64, membership: ConfState) -> SnapshotMetadata {
    SnapshotMetadata {
        conf_state: Some(membership),
        index,
        term,
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 32
}

impl Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let membership = self.snapshot.conf_state.clone().unwrap_or_default();
        Ok(RaftState::new(self.hard_state.clone(), membership))
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
        let wanted = self.entries.range(offset(low)..offset(high));
        let mut left = max_size.into().unwrap_or(u64::MAX);
        let fitting = wanted.enumerate().take_while(|(position, entry)| {
            let bytes = entry_bytes(entry) as u64;
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

    /// Where a snapshot begins; whoever sends it adds the state ([`super::Action::SendSnapshot`]).
    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        if self.snapshot.index == 0 {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(Snapshot {
            data: Vec::new(),
            metadata: Some(self.snapshot.clone()),
        })
    }
}
