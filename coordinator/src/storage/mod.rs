//! What a coordinator must not forget: Raft log, hard state, membership and the snapshot of the
//! replicated state, behind one trait.
//!
//! Invariants, each checked by the contract suite in `contract.rs`:
//!
//! - `STORE-1`: a [`LogWrite`] is taken wholly or not at all, and is synced before `write` returns.
//! - `STORE-2`: indices are contiguous; a write that would leave a gap is refused.
//! - `STORE-3`: every record carries a CRC over its place and its bytes; a mismatch stops the store.
//! - `STORE-4`: a store never opens shorter than what it acknowledged.
//! - `STORE-5`: after a failed write nothing is taken until the store is opened again; after a
//!   failed *sync* not in this process, because the kernel may claim success for lost pages.

mod backend;
mod record;
mod redb_store;
mod witness;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod corruption;
#[cfg(test)]
mod memory;

#[cfg(test)]
pub(crate) use memory::{Fault, MemoryStore};
pub use redb_store::RedbStore;

use raft::eraftpb::{ConfState, Entry, HardState};
use std::path::PathBuf;

/// The replicated state at one index.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRecord {
    /// Last index that it contains.
    pub index: u64,
    /// Term of that index.
    pub term: u64,
    /// Membership at that index.
    pub membership: ConfState,
    /// The encoded state.
    pub data: Vec<u8>,
}

/// What one transaction changes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogWrite {
    /// Entries to append, contiguous; entries already stored at or after the first are replaced.
    pub entries: Vec<Entry>,
    /// Term, vote and commit.
    pub hard_state: Option<HardState>,
    /// A new snapshot; entries up to its index are dropped, later ones stay.
    pub snapshot: Option<SnapshotRecord>,
}

impl LogWrite {
    /// Whether a write that comes directly after this one may share its transaction. A snapshot's
    /// stays alone: what follows it is checked against what is stored by then.
    pub(crate) fn takes(&self, next: &LogWrite) -> bool {
        self.snapshot.is_none() && next.snapshot.is_none()
    }

    /// Adds a write that it [`takes`](Self::takes).
    pub(crate) fn join(&mut self, next: LogWrite) {
        if let Some(first) = next.entries.first() {
            let kept = self
                .entries
                .partition_point(|entry| entry.index < first.index);
            self.entries.truncate(kept);
            self.entries.extend(next.entries);
        }
        if next.hard_state.is_some() {
            self.hard_state = next.hard_state;
        }
    }

    /// Bytes of commands in it.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.data.len()).sum()
    }
}

/// Everything that a store holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stored {
    /// Term, vote and commit, if ever written.
    pub hard_state: Option<HardState>,
    /// The snapshot, if ever written.
    pub snapshot: Option<SnapshotRecord>,
    /// Entries after the snapshot, contiguous.
    pub entries: Vec<Entry>,
}

impl Stored {
    /// Index of the last entry, or of the snapshot.
    pub fn last_index(&self) -> u64 {
        self.entries
            .last()
            .map_or(self.snapshot_index(), |entry| entry.index)
    }

    /// Index of the snapshot; 0 without one.
    pub fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.index)
    }

    /// Takes a checked write, in memory; the one definition of what a write means (`STORE-2`).
    #[cfg(test)]
    pub(crate) fn take(&mut self, write: &LogWrite) -> Result<(), StorageError> {
        check_contiguous(self.snapshot_index(), self.last_index(), write)?;
        if let Some(first) = write.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(write.entries.iter().cloned());
        }
        if let Some(hard_state) = &write.hard_state {
            self.hard_state = Some(hard_state.clone());
        }
        if let Some(snapshot) = &write.snapshot {
            self.entries.retain(|entry| entry.index > snapshot.index);
            self.snapshot = Some(snapshot.clone());
        }
        Ok(())
    }
}

/// Checks a write against what is stored: entries without gaps, snapshots that go forward.
pub(crate) fn check_contiguous(
    snapshot: u64,
    last: u64,
    write: &LogWrite,
) -> Result<(), StorageError> {
    let mut next = None;
    for entry in &write.entries {
        let fits = match next {
            None => entry.index > snapshot && entry.index <= last + 1,
            Some(next) => entry.index == next,
        };
        if !fits {
            let expected = next.unwrap_or(last + 1);
            return Err(StorageError::NotContiguous {
                expected,
                got: entry.index,
            });
        }
        next = Some(entry.index + 1);
    }
    match &write.snapshot {
        Some(new) if new.index < snapshot => Err(StorageError::NotContiguous {
            expected: snapshot,
            got: new.index,
        }),
        _ => Ok(()),
    }
}

/// Why a store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// What is on the disk is not what was written.
    #[error(
        "{}: corrupt: {what}; the file was left as it is{}; this coordinator must not go on with it: \
         restore the folder from a copy, or remove it and join as a new coordinator",
        path.display(),
        copy.as_ref().map_or(String::new(), |copy| format!(" and copied to {}", copy.display()))
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
        /// Where a copy was kept.
        copy: Option<PathBuf>,
    },
    /// No space is left on the device; nothing was written.
    #[error("{}: no space left on the device while writing; free some and it goes on by itself", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A read or write failed.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// An earlier sync failed, so nothing that the system says about this file can be trusted.
    #[error("{}: refuses all writes since a sync failed ({reason}); check the disk, then restart", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
        /// The first failure.
        reason: String,
    },
    /// Another process has the store.
    #[error("{}: another coordinator process uses this folder", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A write would leave a gap in the log: a defect of the caller.
    #[error("log entry {got} does not follow: expected {expected}")]
    NotContiguous {
        /// Next possible index.
        expected: u64,
        /// Index of the entry.
        got: u64,
    },
}

impl StorageError {
    /// Whether the same write may succeed later in this process.
    pub fn can_retry(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// Durable storage of one coordinator.
pub trait LogStore: Send {
    /// Reads everything, checking every record.
    fn load(&self) -> Result<Stored, StorageError>;

    /// Writes and syncs one transaction (`STORE-1`).
    fn write(&mut self, write: &LogWrite) -> Result<(), StorageError>;

    /// Opens the store again after [`StorageError::Full`] and proves that it holds exactly what
    /// it held before the write that failed; after that, the same write may be repeated.
    fn reopen(&mut self) -> Result<(), StorageError>;
}
