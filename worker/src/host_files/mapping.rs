//! The mappings; the only unsafe code of shared files.
//!
//! Only processes of this user reach the files: the folder has mode 0700, and file and folder were
//! checked when they were opened. They all keep the rules of [`super`]; a process of this user that
//! does not could as well write into our memory.
#![expect(
    unsafe_code,
    reason = "memory shared between processes is reached through mappings"
)]

use super::HostFileError;
use super::file::{HEADER_BYTES, HostFile};
use memmap2::{Mmap, MmapMut, MmapOptions};
use std::os::fd::{AsRawFd as _, OwnedFd};

/// The values of an open file, to read; any lock held for as long as the mapping lives.
pub fn read(file: &OwnedFd, bytes: usize) -> std::io::Result<Mmap> {
    // SAFETY: the file has all these bytes, as its length was compared, and nobody writes or cuts
    // it while we hold a lock (`FILE-1`, `FILE-2`).
    unsafe { options(bytes).map(file.as_raw_fd()) }
}

/// The values of an open file, to write; the exclusive lock held for as long as the mapping lives.
pub fn write(file: &OwnedFd, bytes: usize) -> std::io::Result<MmapMut> {
    // SAFETY: the file has all these bytes, as they were just allocated, and nobody else reads or
    // writes values while we hold the exclusive lock (`FILE-1`, `FILE-2`).
    unsafe { options(bytes).map_mut(file.as_raw_fd()) }
}

fn options(bytes: usize) -> MmapOptions {
    let mut options = MmapOptions::new();
    options.offset(HEADER_BYTES as u64).len(bytes);
    options
}

/// Values that this process has in common with others; the last one that drops them removes them.
#[derive(Debug)]
pub struct Shared {
    /// Declared first, so that it ends before the lock does (`FILE-2`).
    values: Mmap,
    user: User,
}

/// Holds the shared lock.
#[derive(Debug)]
struct User(HostFile);

impl Shared {
    /// Maps a complete file whose shared lock is held.
    pub fn map(file: HostFile) -> Result<Self, HostFileError> {
        Ok(Self {
            values: file.map()?,
            user: User(file),
        })
    }

    /// The values, from the beginning of a page on.
    pub fn bytes(&self) -> &[u8] {
        &self.values
    }

    /// Gives values up that are not those that were written.
    pub fn into_damaged(self) -> HostFileError {
        let path = self.user.0.path();
        HostFileError::Damaged { path }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let file = &self.0;
        // What cannot be removed now is removed by the next sweep.
        if let (Ok(true), Ok(true)) = (file.try_lock_exclusive(), file.has_its_name()) {
            let _ = file.remove();
        }
    }
}
