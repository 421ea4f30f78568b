//! The folder: for its owner alone.

use super::HostFileError;
use evoring_protocol::Digest;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, mkdir, openat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Permissions of the folder.
const OWNER_ALONE: u32 = 0o700;

/// A folder that nobody but this user can reach into.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Files are reached from here, so what the path means later does not matter.
    pub descriptor: OwnedFd,
}

impl Folder {
    /// Makes the folder, or takes one that is ours.
    pub fn open(path: &Path) -> Result<Self, HostFileError> {
        match mkdir(path, Mode::from_raw_mode(OWNER_ALONE)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(io("make folder", path)(error)),
        }
        Self::open_existing(path)?.ok_or_else(|| io("open folder", path)(Errno::NOENT))
    }

    /// Takes a folder that is ours; `None` if there is none.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, HostFileError> {
        let foreign = |found: String| HostFileError::Foreign {
            path: path.to_owned(),
            expected: "a folder of this user with mode 0700",
            found,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor = match openat(CWD, path, flags, Mode::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(foreign("a link or something else".to_owned()));
            }
            Err(error) => return Err(io("open folder", path)(error)),
        };
        let status = fstat(&descriptor).map_err(io("look at folder", path))?;
        let (user, mode) = (status.st_uid, status.st_mode & 0o7777);
        if user != rustix::process::geteuid().as_raw() || mode != OWNER_ALONE {
            return Err(foreign(format!(
                "a folder of user {user} with mode {mode:04o}"
            )));
        }
        Ok(Some(Self {
            path: path.to_owned(),
            descriptor,
        }))
    }

    /// Path of a file, for messages.
    pub fn file_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Names of the files that can be ours: digests.
    pub fn file_names(&self) -> Result<Vec<String>, HostFileError> {
        let entries = Dir::read_from(&self.descriptor).map_err(io("read folder", &self.path))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io("read folder", &self.path))?;
            let is_file = matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown);
            let name = entry.file_name().to_str().unwrap_or_default();
            if is_file && name.parse::<Digest>().is_ok() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

/// For `map_err`: names what was tried with which path.
pub fn io(what: &'static str, path: &Path) -> impl FnOnce(Errno) -> HostFileError {
    move |source| HostFileError::Io {
        what,
        path: path.to_owned(),
        source: source.into(),
    }
}
