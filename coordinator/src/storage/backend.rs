//! The file under redb, watched: it remembers how it failed, and gives redb the one lock that it
//! needs, over the whole file.

use super::disk::{DiskFile, is_full};
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use redb::{BackendError, StorageBackend};
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

/// The first failure of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No space, found before any sync: what was durable still is.
    Full,
    /// A sync failed: nothing that was written since the last good one can be trusted.
    Sync(String),
    /// Anything else.
    Other(String),
}

/// What the store and its file tell each other.
#[derive(Debug, Clone, Default)]
pub(super) struct FileNotes {
    failure: Arc<Mutex<Option<Failure>>>,
    /// How writes and syncs shall fail.
    #[cfg(test)]
    injected: Arc<Mutex<Option<Failure>>>,
}

impl FileNotes {
    /// The first failure; it stays until the file is opened again.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn note(&self, failure: Failure) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(failure);
    }

    /// Notes for the same file, opened again.
    pub(super) fn reopened(&self) -> Self {
        let mut notes = self.clone();
        notes.failure = Arc::default();
        notes
    }

    #[cfg(test)]
    pub(super) fn inject(&self, failure: Option<Failure>) {
        *self.injected.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    #[cfg(not(test))]
    fn injected(&self, _is_sync: bool) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn injected(&self, is_sync: bool) -> io::Result<()> {
        match &*self.injected.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Failure::Full) if !is_sync => Err(rustix::io::Errno::NOSPC.into()),
            Some(Failure::Sync(reason)) if is_sync => Err(io::Error::other(reason.clone())),
            _ => Ok(()),
        }
    }
}

/// A watched file.
#[derive(Debug)]
pub(super) struct WatchedFile {
    file: Box<dyn DiskFile>,
    notes: FileNotes,
}

impl WatchedFile {
    /// Wraps an open file.
    pub(super) fn new(file: Box<dyn DiskFile>, notes: FileNotes) -> Self {
        Self { file, notes }
    }

    fn keep<T>(&self, outcome: io::Result<T>, is_sync: bool) -> io::Result<T> {
        if let Err(error) = &outcome {
            self.notes.note(match is_sync {
                true => Failure::Sync(error.to_string()),
                false if is_full(error) => Failure::Full,
                false => Failure::Other(error.to_string()),
            });
        }
        outcome
    }
}

fn is_whole(start: Bound<u64>, end: Bound<u64>) -> bool {
    matches!(start, Bound::Unbounded | Bound::Included(0)) && end == Bound::Unbounded
}

/// Byte ranges cannot be locked; redb then asks for the whole file, which is what one process with
/// one database needs.
impl StorageBackend for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.keep(self.file.len(), false)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.keep(self.file.read_at(offset, out), false)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.keep(self.file.set_len(len), false)
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(evoring_plants)]
        if is_planted(Plant::WritesNotSynced) {
            return Ok(());
        }
        self.keep(
            self.notes.injected(true).and_then(|()| self.file.sync()),
            true,
        )
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.keep(
            self.notes
                .injected(false)
                .and_then(|()| self.file.write_at(offset, data)),
            false,
        )
    }

    fn close(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if !is_whole(start, end) {
            return Err(BackendError::Unsupported);
        }
        self.file.try_lock().map_err(BackendError::from)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        if !is_whole(start, end) {
            return Err(BackendError::Unsupported);
        }
        self.file.unlock().map_err(BackendError::from)
    }
}
