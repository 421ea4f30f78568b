//! The file under redb, watched: it takes blocks before they are needed, so that a full disk
//! shows itself before a commit and not at its sync, and it remembers how it failed.

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use std::fs::File;
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
    file: File,
    inner: FileBackend,
    notes: FileNotes,
}

impl WatchedFile {
    /// Wraps an open file.
    pub(super) fn new(file: File, notes: FileNotes) -> Result<Self, redb::DatabaseError> {
        let inner = FileBackend::new(file.try_clone()?)?;
        Ok(Self { file, inner, notes })
    }

    fn keep<T>(&self, outcome: io::Result<T>, is_sync: bool) -> io::Result<T> {
        if let Err(error) = &outcome {
            let failure = match (is_sync, error.raw_os_error()) {
                (true, _) => Failure::Sync(error.to_string()),
                (false, Some(code)) if is_full(code) => Failure::Full,
                (false, _) => Failure::Other(error.to_string()),
            };
            self.notes.note(failure);
        }
        outcome
    }
}

fn is_full(code: i32) -> bool {
    [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT]
        .iter()
        .any(|errno| errno.raw_os_error() == code)
}

impl StorageBackend for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.keep(self.inner.len(), false)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.keep(self.inner.read(offset, out), false)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.len()?;
        if len > old {
            use rustix::fs::{FallocateFlags, fallocate};
            match fallocate(&self.file, FallocateFlags::empty(), old, len - old) {
                // A file system without it grows by writing, and shows ENOSPC there.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(errno) => return self.keep(Err(errno.into()), false),
            }
        }
        self.keep(self.inner.set_len(len), false)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.keep(
            self.notes
                .injected(true)
                .and_then(|()| self.inner.sync_data()),
            true,
        )
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.keep(
            self.notes
                .injected(false)
                .and_then(|()| self.inner.write(offset, data)),
            false,
        )
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
