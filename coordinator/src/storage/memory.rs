//! A store in memory, for tests. It keeps what it acknowledged, and fails on demand.

use super::{LogStore, LogWrite, SnapshotRecord, StorageError, Stored};
use std::path::PathBuf;

/// What the next writes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// They succeed.
    #[default]
    None,
    /// They fail for want of space, before anything is written.
    Full,
    /// Their sync fails.
    Sync,
}

/// A store in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    stored: Stored,
    fault: Fault,
    failed: Option<Fault>,
    writes: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what the next writes do.
    pub fn set_fault(&mut self, fault: Fault) {
        self.fault = fault;
    }

    /// Number of acknowledged writes.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    fn path() -> PathBuf {
        PathBuf::from("(memory)")
    }

    fn refuse(fault: Fault) -> StorageError {
        match fault {
            Fault::Sync => StorageError::Poisoned {
                path: Self::path(),
                reason: "sync failed".to_owned(),
            },
            Fault::Full | Fault::None => StorageError::Full { path: Self::path() },
        }
    }
}

impl LogStore for MemoryStore {
    fn load(&self) -> Result<Stored, StorageError> {
        Ok(self.stored.clone())
    }

    fn snapshot(&self) -> Result<Option<SnapshotRecord>, StorageError> {
        Ok(self.stored.snapshot.clone())
    }

    fn write(&mut self, write: &LogWrite) -> Result<(), StorageError> {
        if let Some(fault) = self.failed {
            return Err(Self::refuse(fault));
        }
        if self.fault != Fault::None {
            self.failed = Some(self.fault);
            return Err(Self::refuse(self.fault));
        }
        self.stored.take(write)?;
        self.writes += 1;
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), StorageError> {
        match self.failed {
            Some(Fault::Sync) => Err(Self::refuse(Fault::Sync)),
            Some(fault) if self.fault == Fault::Full => Err(Self::refuse(fault)),
            _ => {
                self.failed = None;
                Ok(())
            }
        }
    }
}
