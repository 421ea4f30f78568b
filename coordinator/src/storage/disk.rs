//! What a store needs of a disk: a few files in one folder, by name. [`RealDisk`] is a folder;
//! [`SimDisk`](super::SimDisk) is its simulated twin.

use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What to do about a file's absence, or its presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenAs {
    /// It must be there; [`io::ErrorKind::NotFound`] if not.
    Present,
    /// It is made if it is not there.
    PresentOrNew,
    /// It is made, or emptied.
    Emptied,
}

/// Files of one folder.
///
/// Names change in memory first: that a file was made or renamed is durable after
/// [`sync_names`](Self::sync_names).
pub trait Disk: Debug + Send + Sync {
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, name: &str, open_as: OpenAs) -> io::Result<Box<dyn DiskFile>>;

    /// Whether a file is there.
    fn exists(&self, name: &str) -> bool;

    /// Gives a file another name, in place of the one that has it.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Copies a file, as evidence; nothing depends on the copy.
    ///
    /// # Errors
    /// What the system says.
    fn copy(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes names durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_names(&self) -> io::Result<()>;

    /// Where a file lies, for messages; the folder itself for an empty name.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file. Dropping it closes it and releases its lock.
pub trait DiskFile: Debug + Send + Sync {
    /// Length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before, or what the system says.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data`; the file grows if it must.
    ///
    /// # Errors
    /// What the system says; a part may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Cuts or extends it. An extension reads as zeros and has its blocks: a full disk says so
    /// here and not when they are written.
    ///
    /// # Errors
    /// What the system says; the file may have been extended in part.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes bytes and length durable.
    ///
    /// # Errors
    /// What the system says. After a failure nothing that was written since the last success can
    /// be trusted, even if a later sync succeeds (`STORE-5`).
    fn sync(&self) -> io::Result<()>;

    /// Takes the file for this opening of it alone; `false` if another has it.
    ///
    /// # Errors
    /// What the system says.
    fn try_lock(&self) -> io::Result<bool>;

    /// Releases the lock.
    ///
    /// # Errors
    /// What the system says.
    fn unlock(&self) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Debug, Clone)]
pub struct RealDisk {
    folder: PathBuf,
}

impl RealDisk {
    /// The disk that `folder`, which exists, lies on.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str, open_as: OpenAs) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(open_as != OpenAs::Present)
            .truncate(open_as == OpenAs::Emptied)
            .open(self.path(name))?;
        Ok(Box::new(RealFile(file)))
    }

    fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn copy(&self, from: &str, to: &str) -> io::Result<()> {
        let copied = std::fs::copy(self.path(from), self.path(to)).map(drop);
        // Half a copy helps nobody, and on a full disk its space is needed.
        copied.inspect_err(|_| drop(std::fs::remove_file(self.path(to))))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.folder.clone()
        } else {
            self.folder.join(name)
        }
    }
}

/// A file of the file system.
#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.len()?;
        if len > old {
            use rustix::fs::{FallocateFlags, fallocate};
            match fallocate(&self.0, FallocateFlags::empty(), old, len - old) {
                // A file system without it grows by writing, and shows ENOSPC there.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        self.0.unlock()
    }
}

/// Whether an error says that no space is left.
pub(super) fn is_full(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let full = [Errno::NOSPC, Errno::DQUOT];
    error
        .raw_os_error()
        .is_some_and(|code| full.iter().any(|errno| errno.raw_os_error() == code))
}
