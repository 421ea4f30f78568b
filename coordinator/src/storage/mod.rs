//! What a coordinator must not forget: Raft log, hard state, membership and the snapshot of the
//! replicated state, behind one trait, [`LogStore`]. Coordinators have a [`RedbStore`]; simulated
//! ones may have the quicker [`SectorStore`]. Both lie on a [`Disk`], real or simulated.
//!
//! Invariants, checked by the contract suite in `contract.rs` and, over a failing disk, in `crash.rs`:
//!
//! - `STORE-1`: a [`LogWrite`] is taken wholly or not at all, and is synced before `write` returns.
//! - `STORE-2`: indices are contiguous; a write that would leave a gap is refused.
//! - `STORE-3`: every record carries a CRC over its place and its bytes; a mismatch stops the store.
//! - `STORE-4`: a store never opens shorter than what it acknowledged.
//! - `STORE-5`: after a failed write nothing is taken until the store is opened again; after a
//!   failed *sync* not in this process, because the kernel may claim success for lost pages.

mod backend;
mod disk;
mod record;
mod redb_store;
mod sector_store;
mod sim_disk;
mod witness;
mod write_queue;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod corruption;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod memory;

pub use disk::{Disk, DiskFile, OpenAs, RealDisk};
#[cfg(test)]
pub(crate) use memory::{Fault, MemoryStore};
pub use redb_store::{LOG_FILE, RedbStore};
pub use sector_store::SectorStore;
pub use sim_disk::{DiskFaults, Flip, SECTOR_BYTES, SimDisk};
pub use write_queue::{TRANSACTION_BYTES, WriteQueue};

#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use raft::eraftpb::{ConfState, Entry, HardState};
use std::path::PathBuf;

/// No index is higher, so that there is always a next one.
const LAST_INDEX: u64 = u64::MAX - 1;

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
    /// The snapshot came from the leader: it replaces the log, so that all stored entries are
    /// dropped, later ones too. Such a write has a snapshot and no entries.
    pub installs: bool,
}

impl LogWrite {
    /// Whether a write that comes directly after this one may share its transaction. A snapshot's
    /// stays alone: what follows it is checked against what is stored by then.
    pub fn takes(&self, next: &LogWrite) -> bool {
        let is_plain = |write: &LogWrite| write.snapshot.is_none() && !write.installs;
        is_plain(self) && is_plain(next)
    }

    /// Adds a write that it [`takes`](Self::takes).
    pub fn join(&mut self, next: LogWrite) {
        if let Some(first) = next.entries.first() {
            let kept = self
                .entries
                .partition_point(|entry| entry.index < first.index);
            self.entries.truncate(kept);
            self.entries.extend(next.entries);
        }
        #[cfg(evoring_plants)]
        if self.hard_state.is_some() && is_planted(Plant::JoinedWriteForgets) {
            return;
        }
        if next.hard_state.is_some() {
            self.hard_state = next.hard_state;
        }
    }

    /// Bytes of commands in it.
    pub fn bytes(&self) -> usize {
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

    /// Checks a write and takes it, in memory; the one definition of what it means (`STORE-2`).
    ///
    /// # Errors
    /// [`StorageError::NotContiguous`] or [`StorageError::Misused`]; nothing is taken then.
    pub fn take(&mut self, write: &LogWrite) -> Result<(), StorageError> {
        check_write(Extent::of(self, 0), write)?;
        if let Some(first) = write.entries.first() {
            let kept = self.before(first.index);
            self.entries.truncate(kept);
            self.entries.extend_from_slice(&write.entries);
        }
        if write.installs {
            self.entries.clear();
        }
        if let Some(snapshot) = &write.snapshot {
            let dropped = self.before(snapshot.index + 1);
            self.entries.drain(..dropped);
            self.snapshot = Some(snapshot.clone());
        }
        if let Some(hard_state) = &write.hard_state {
            self.hard_state = Some(hard_state.clone());
        }
        Ok(())
    }

    /// Number of entries before `index`.
    fn before(&self, index: u64) -> usize {
        self.entries.partition_point(|entry| entry.index < index)
    }
}

/// Sequence number and extent of what is stored, to check writes and reopenings against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Extent {
    sequence: u64,
    snapshot: u64,
    last: u64,
    /// The commit index, if one was ever written.
    committed: Option<u64>,
}

impl Extent {
    fn of(stored: &Stored, sequence: u64) -> Self {
        Self {
            sequence,
            snapshot: stored.snapshot_index(),
            last: stored.last_index(),
            committed: stored.hard_state.as_ref().map(|it| it.commit),
        }
    }

    /// What it is after a write.
    fn after(mut self, write: &LogWrite) -> Self {
        self.sequence += 1;
        if let Some(hard_state) = &write.hard_state {
            self.committed = Some(hard_state.commit);
        }
        if let Some(entry) = write.entries.last() {
            self.last = entry.index;
        }
        if let Some(snapshot) = &write.snapshot {
            self.snapshot = snapshot.index;
            self.last = if write.installs {
                snapshot.index
            } else {
                self.last.max(snapshot.index)
            };
        }
        self
    }

    /// Checks that the commit index is within the log: `raft` takes up no other store.
    fn check_commit(self) -> Result<(), String> {
        let (first, last) = (self.snapshot, self.last);
        match self.committed {
            Some(commit) if !(first..=last).contains(&commit) => Err(format!(
                "index {commit} is committed, but the log has {first} to {last}"
            )),
            _ => Ok(()),
        }
    }
}

/// Checks a write against what is stored: entries without gaps, snapshots that go forward, nothing
/// beside a snapshot that replaces the log, and a commit index within the log.
fn check_write(stored: Extent, write: &LogWrite) -> Result<(), StorageError> {
    let Extent { snapshot, last, .. } = stored;
    if write.installs && (write.snapshot.is_none() || !write.entries.is_empty()) {
        return Err(StorageError::Misused(
            "a write that replaces the log has a snapshot and no entries".to_owned(),
        ));
    }
    let mut next = None;
    for entry in &write.entries {
        let fits = entry.index <= LAST_INDEX
            && match next {
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
    if let Some(new) = &write.snapshot
        && (new.index < snapshot || new.index > LAST_INDEX)
    {
        return Err(StorageError::Misused(format!(
            "a snapshot at index {}, after one at {snapshot}",
            new.index
        )));
    }
    stored
        .after(write)
        .check_commit()
        .map_err(StorageError::Misused)
}

/// Checks that an entry comes directly after index `last`.
fn check_next(last: u64, entry: &Entry) -> Result<(), StorageError> {
    let (expected, got) = (last + 1, entry.index);
    if got == expected && got <= LAST_INDEX {
        Ok(())
    } else {
        Err(StorageError::NotContiguous { expected, got })
    }
}

/// Checks what was read as a snapshot.
fn check_snapshot(snapshot: &Option<SnapshotRecord>) -> Result<(), String> {
    match snapshot {
        Some(snapshot) if snapshot.index > LAST_INDEX => {
            Err(format!("a snapshot at index {}", snapshot.index))
        }
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
    /// A write contradicts itself: a defect of the caller.
    #[error("a log write was refused: {0}")]
    Misused(String),
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

    /// Reads the newest snapshot alone, checking it.
    fn snapshot(&self) -> Result<Option<SnapshotRecord>, StorageError>;

    /// Writes and syncs one transaction (`STORE-1`).
    fn write(&mut self, write: &LogWrite) -> Result<(), StorageError>;

    /// Opens the store again after [`StorageError::Full`] and proves that it holds exactly what
    /// it held before the write that failed; after that, the same write may be repeated.
    fn reopen(&mut self) -> Result<(), StorageError>;

    /// Says whether there is plenty of space on the device. Without, as at first, a store works so that
    /// a start on a full device can still write the little that an election takes, if that costs time.
    fn expect_space(&mut self, is_plenty: bool) {
        let _ = is_plenty;
    }
}
