//! Sides of data sets that stay in memory.
//!
//! A side is taken from memory only while its files are those that it was read from: by name, size,
//! inode and times. An executor outlives many jobs, and people correct files in between.

use super::{Images, Side, files, place, read};
use crate::KernelError;
use evoring_jobs::data::{DataSource, DataSpec};
use evoring_protocol::Digest;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Sides kept for the process: training and test of one data set.
const KEPT_SIDES: usize = 2;

/// A side of a data set in memory.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its images.
    pub images: Arc<Images>,
    /// Their content, as [`Images::digest`] gives it.
    pub digest: Digest,
}

/// What a side was read for and from.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    source: DataSource,
    shape: [u32; 3],
    classes: u32,
    side: Side,
    files: Vec<FileState>,
}

/// What shows that a file was written again: programs that keep the time of the last change keep
/// neither the inode nor the time of the inode's change.
#[derive(Debug, PartialEq, Eq)]
struct FileState {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    fn of(path: PathBuf) -> Result<Self, KernelError> {
        let metadata = std::fs::metadata(&path).map_err(KernelError::io(&path))?;
        Ok(Self {
            path,
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Origin {
    /// As the files are now.
    fn now(spec: &DataSpec, side: Side) -> Result<Self, KernelError> {
        let files: Result<_, _> = files(spec, side)?.into_iter().map(FileState::of).collect();
        Ok(Self {
            source: spec.source.clone(),
            shape: spec.shape,
            classes: spec.classes,
            side,
            files: files?,
        })
    }

    /// Whether both are about the same images, whatever became of the files.
    fn is_of(&self, other: &Self) -> bool {
        self.source == other.source
            && (self.shape, self.classes, self.side) == (other.shape, other.classes, other.side)
    }

    /// Refuses files that were written while they were read; the next attempt reads them again.
    fn check_unchanged(&self, spec: &DataSpec) -> Result<(), KernelError> {
        let now = Self::now(spec, self.side)?;
        if now == *self {
            return Ok(());
        }
        let mut both = self.files.iter().zip(&now.files);
        let changed = both.find(|(before, now)| before != now);
        let path = match changed {
            Some((before, _)) => before.path.clone(),
            // A picture was added or removed behind all others.
            None => place(&self.source)?,
        };
        Err(KernelError::Io {
            path,
            source: std::io::Error::other("the data were changed while they were read"),
        })
    }
}

/// The side, from memory if its files are those that were read.
pub fn load(spec: &DataSpec, side: Side) -> Result<Loaded, KernelError> {
    static KNOWN: Mutex<Vec<(Origin, Loaded)>> = Mutex::new(Vec::new());
    let origin = Origin::now(spec, side)?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, loaded)) = known.iter().find(|(known, _)| *known == origin) {
        return Ok(loaded.clone());
    }
    // What is dropped first need not be in memory beside what comes.
    known.retain(|(known, _)| !known.is_of(&origin));
    known.truncate(KEPT_SIDES - 1);
    let images = read(spec, side)?;
    origin.check_unchanged(spec)?;
    let loaded = Loaded {
        digest: images.digest(spec.shape),
        images: Arc::new(images),
    };
    known.insert(0, (origin, loaded.clone()));
    Ok(loaded)
}
