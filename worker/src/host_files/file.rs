//! One file: its locks, its header and its values.
//!
//! A page of header, of which [`HEADER_USED`] bytes are used, then the values. Layout of the
//! header: [`MAGIC`], the values' length in bytes (u64, little-endian), their SHA-256.

use super::HostFileError;
use super::folder::{Folder, io};
use super::mapping;
use evoring_protocol::Digest;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, fallocate, flock, fstat,
    ftruncate, openat, statat, unlinkat,
};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// Marks a complete file of this layout.
const MAGIC: [u8; 8] = *b"evoring1";
/// Magic, length, digest.
const HEADER_USED: usize = 8 + 8 + 32;
/// Where the values begin: on a page of their own, so that any value is aligned.
pub const HEADER_BYTES: usize = 4096;

/// An open file of the folder.
#[derive(Debug)]
pub struct HostFile {
    folder: Arc<Folder>,
    name: String,
    /// The lock belongs to it: it is released when this is closed.
    descriptor: OwnedFd,
    /// Bytes of the values.
    pub bytes: usize,
}

impl HostFile {
    /// Opens the file of `key`, or makes an empty one.
    pub fn open(folder: &Arc<Folder>, key: &Digest, bytes: usize) -> Result<Self, HostFileError> {
        let name = key.to_string();
        let flags = OFlags::RDWR | OFlags::CREATE;
        Self::open_with(folder, name.clone(), flags, bytes)?
            .ok_or_else(|| io("open", &folder.file_path(&name))(Errno::NOENT))
    }

    /// Opens a file to remove it; `None` if it is gone.
    pub fn open_existing(
        folder: &Arc<Folder>,
        name: String,
    ) -> Result<Option<Self>, HostFileError> {
        Self::open_with(folder, name, OFlags::RDWR, 0)
    }

    fn open_with(
        folder: &Arc<Folder>,
        name: String,
        flags: OFlags,
        bytes: usize,
    ) -> Result<Option<Self>, HostFileError> {
        let path = folder.file_path(&name);
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let descriptor = match openat(&folder.descriptor, &name, flags, mode) {
            Ok(descriptor) => descriptor,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::ISDIR) => {
                let found = "a link or a folder".to_owned();
                return Err(foreign(path, found));
            }
            Err(error) => return Err(io("open", &path)(error)),
        };
        let status = fstat(&descriptor).map_err(io("look at", &path))?;
        let kind = FileType::from_raw_mode(status.st_mode);
        let (user, mode) = (status.st_uid, status.st_mode & 0o7777);
        let is_ours = user == rustix::process::geteuid().as_raw() && mode & 0o077 == 0;
        if kind != FileType::RegularFile || !is_ours {
            let found = format!("{kind:?} of user {user} with mode {mode:04o}");
            return Err(foreign(path, found));
        }
        Ok(Some(Self {
            folder: folder.clone(),
            name,
            descriptor,
            bytes,
        }))
    }

    /// For messages.
    pub fn path(&self) -> PathBuf {
        self.folder.file_path(&self.name)
    }

    /// Becomes the only user, if there is no other; else it holds no lock any more.
    pub fn try_lock_exclusive(&self) -> Result<bool, HostFileError> {
        self.try_lock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Becomes a user, unless somebody writes; then it holds no lock any more.
    pub fn try_lock_shared(&self) -> Result<bool, HostFileError> {
        self.try_lock(FlockOperation::NonBlockingLockShared)
    }

    fn try_lock(&self, operation: FlockOperation) -> Result<bool, HostFileError> {
        match retry_on_intr(|| flock(&self.descriptor, operation)) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(io("lock", &self.path())(error)),
        }
    }

    /// Whether the folder still has this file under its name (`FILE-4`).
    pub fn has_its_name(&self) -> Result<bool, HostFileError> {
        let own = fstat(&self.descriptor).map_err(io("look at", &self.path()))?;
        match statat(
            &self.folder.descriptor,
            &self.name,
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(io("look at", &self.path())(error)),
        }
    }

    /// Digest that the header of a complete file of the right length names; any lock held.
    pub fn complete(&self) -> Result<Option<Digest>, HostFileError> {
        let mut header = [0u8; HEADER_USED];
        let read = retry_on_intr(|| pread(&self.descriptor, &mut header, 0))
            .map_err(io("read", &self.path()))?;
        let status = fstat(&self.descriptor).map_err(io("look at", &self.path()))?;
        let is_complete = read == HEADER_USED
            && header[..16] == self.mark()
            && u64::try_from(status.st_size) == Ok(self.file_bytes());
        let mut digest = [0u8; 32];
        digest.copy_from_slice(&header[16..]);
        Ok(is_complete.then_some(Digest(digest)))
    }

    /// The digest of a complete file's values, if they have it; the exclusive lock held.
    pub fn checked(&self) -> Result<Option<Digest>, HostFileError> {
        let Some(written) = self.complete()? else {
            return Ok(None);
        };
        let values = mapping::read(&self.descriptor, self.bytes).map_err(self.failed("map"))?;
        Ok((Digest::of(&values) == written).then_some(written))
    }

    /// Writes values and, last, the header; the exclusive lock held (`FILE-1`). Their digest.
    pub fn fill(&self, fill: &mut dyn FnMut(&mut [u8])) -> Result<Digest, HostFileError> {
        self.allocate().inspect_err(|_| {
            // Nobody can do anything with an empty file.
            let _ = self.remove();
        })?;
        let mut values =
            mapping::write(&self.descriptor, self.bytes).map_err(self.failed("map"))?;
        fill(&mut values);
        let digest = Digest::of(&values);
        drop(values);
        let mut header = self.mark().to_vec();
        header.extend(digest.0);
        match retry_on_intr(|| pwrite(&self.descriptor, &header, 0)) {
            Ok(HEADER_USED) => Ok(digest),
            Ok(_) => Err(io("write", &self.path())(Errno::IO)),
            Err(error) => Err(io("write", &self.path())(error)),
        }
    }

    /// Zeros for header and values. They are allocated at once: memory that is not there gives an
    /// error here, not a signal when it is touched.
    fn allocate(&self) -> Result<(), HostFileError> {
        let path = self.path();
        ftruncate(&self.descriptor, 0).map_err(io("empty", &path))?;
        retry_on_intr(|| {
            let flags = FallocateFlags::empty();
            fallocate(&self.descriptor, flags, 0, self.file_bytes())
        })
        .map_err(io("find memory for", &path))
    }

    /// Removes the file from the folder; the exclusive lock held, and it has its name.
    pub fn remove(&self) -> Result<(), HostFileError> {
        match unlinkat(&self.folder.descriptor, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(io("remove", &self.path())(error)),
        }
    }

    /// The values, to be read while the shared lock is held.
    pub fn map(&self) -> Result<memmap2::Mmap, HostFileError> {
        mapping::read(&self.descriptor, self.bytes).map_err(self.failed("map"))
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> HostFileError {
        let path = self.path();
        move |source| HostFileError::Io { what, path, source }
    }

    fn file_bytes(&self) -> u64 {
        (HEADER_BYTES + self.bytes) as u64
    }

    fn mark(&self) -> [u8; 16] {
        let mut mark = [0u8; 16];
        mark[..8].copy_from_slice(&MAGIC);
        mark[8..].copy_from_slice(&(self.bytes as u64).to_le_bytes());
        mark
    }
}

fn foreign(path: PathBuf, found: String) -> HostFileError {
    HostFileError::Foreign {
        path,
        expected: "a file of this user with mode 0600",
        found,
    }
}
