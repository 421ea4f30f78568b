//! Values that the processes of one user on a host have in common: computed once, held in memory
//! once.
//!
//! A folder in shared memory ([`default_folder`]) has one file for each key. Whoever wants values
//! asks [`share`]: it maps a complete file, or fills one. Locks on the file (`flock`, which the
//! kernel releases however a process ends) keep order:
//!
//! - `FILE-1`: a file is written or cut only under its exclusive lock, and only while it is
//!   incomplete or damaged.
//! - `FILE-2`: a mapping is read only while its process holds the shared lock, and it ends before
//!   that lock does. So nobody's values change or vanish under him.
//! - `FILE-3`: a file is complete when its header, written last, names length and digest of its
//!   values; whoever maps a file that he did not fill checks both. A process that dies while it
//!   fills leaves an incomplete file, which the next one fills again.
//! - `FILE-4`: a file is removed only under its exclusive lock, and whoever gets a lock looks
//!   whether the file still has its name; if not, he begins again.
//!
//! The last user removes a file. Processes killed leave theirs; [`sweep`] removes what nobody holds.

mod file;
mod folder;
mod mapping;
#[cfg(test)]
mod tests;

pub use mapping::Shared;

use evoring_protocol::Digest;
use file::HostFile;
use folder::Folder;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause before looking again at a file that somebody fills.
const RETRY: Duration = Duration::from_millis(5);

/// Why values are not shared. Nothing is lost: the caller can compute its own.
#[derive(Debug, thiserror::Error)]
pub enum HostFileError {
    /// The system refused an operation.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something of somebody else, or open to others.
    #[error("{}: expected {expected}, found {found}; remove it to share values again", path.display())]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// Somebody has been filling the file for too long.
    #[error("{}: still being filled by another process after {patience:?}; it may have been stopped", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// How long was waited.
        patience: Duration,
    },
    /// The values in use are not those that were written.
    #[error("{}: its values do not have the digest in its header, and other processes use them; it goes when they end", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Where the processes of this user keep what they share.
pub fn default_folder() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    PathBuf::from(format!("/dev/shm/evoring-{user}"))
}

/// The `bytes` bytes named `key` in `folder`, which is made. If no process has them, `fill` is
/// given zeros, aligned to a page, and writes them; it may be called again. Waits for at most
/// `patience` for another process that fills the same.
///
/// Equal keys must mean equal bytes.
pub fn share(
    folder: &Path,
    key: &Digest,
    bytes: usize,
    patience: Duration,
    fill: &mut dyn FnMut(&mut [u8]),
) -> Result<Shared, HostFileError> {
    // Opened each time: others may remove the folder between two calls.
    let folder = Arc::new(Folder::open(folder)?);
    let begin = Instant::now();
    loop {
        let file = HostFile::open(&folder, key, bytes)?;
        if let Some(shared) = attempt(file, fill)? {
            return Ok(shared);
        }
        if begin.elapsed() >= patience {
            let path = folder.file_path(&key.to_string());
            return Err(HostFileError::Busy { path, patience });
        }
        std::thread::sleep(RETRY);
    }
}

/// One try; `None` if another process is at work on the file or has removed it.
fn attempt(
    file: HostFile,
    fill: &mut dyn FnMut(&mut [u8]),
) -> Result<Option<Shared>, HostFileError> {
    // What this process has checked or written itself need not be read again.
    let mut known = None;
    if file.try_lock_exclusive()? {
        if !file.has_its_name()? {
            return Ok(None);
        }
        known = match file.checked()? {
            Some(values) => Some(values),
            None => Some(file.fill(fill)?),
        };
    }
    // The change from one lock to the other has a gap: all is looked at again behind it.
    if !file.try_lock_shared()? || !file.has_its_name()? {
        return Ok(None);
    }
    let Some(written) = file.complete()? else {
        return Ok(None);
    };
    let shared = Shared::map(file)?;
    if known.is_none_or(|known| known != written) && Digest::of(shared.bytes()) != written {
        return Err(shared.into_damaged());
    }
    Ok(Some(shared))
}

/// Removes files that nobody holds, left by processes that were killed; how many. Without a
/// folder there is nothing to do.
pub fn sweep(folder: &Path) -> Result<usize, HostFileError> {
    let Some(folder) = Folder::open_existing(folder)? else {
        return Ok(0);
    };
    let folder = Arc::new(folder);
    let mut removed = 0;
    for name in folder.file_names()? {
        // One that cannot be opened is met again, and told of, by whoever needs it.
        if let Ok(Some(file)) = HostFile::open_existing(&folder, name)
            && file.try_lock_exclusive()?
            && file.has_its_name()?
        {
            file.remove()?;
            removed += 1;
        }
    }
    Ok(removed)
}
