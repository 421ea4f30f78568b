//! Files that executors hand over to be stored.
//!
//! An executor's folder is emptied when its next process starts. What it handed over before that is
//! the agent's: it is moved away at once, and removed when it is stored or cannot be.

use super::blobs::BlobError;
use std::path::{Path, PathBuf};

/// The agent's own folder for such files.
#[derive(Debug)]
pub struct HandedFiles {
    folder: PathBuf,
    taken: u64,
}

/// One file, removed with this value.
#[derive(Debug)]
pub struct HandedFile(PathBuf);

impl HandedFiles {
    /// Opens the folder, which must be on the file system of the executors' folders, and empties it:
    /// what an earlier agent left there, nobody waits for.
    pub fn open(folder: PathBuf) -> std::io::Result<Self> {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, taken: 0 })
    }

    /// Takes files over, in order.
    pub fn take(&mut self, files: &[PathBuf]) -> Result<Vec<HandedFile>, BlobError> {
        files.iter().map(|file| self.take_one(file)).collect()
    }

    fn take_one(&mut self, file: &Path) -> Result<HandedFile, BlobError> {
        let path = self.folder.join(self.taken.to_string());
        self.taken += 1;
        std::fs::rename(file, &path).map_err(|source| BlobError::File {
            path: file.to_owned(),
            source,
        })?;
        Ok(HandedFile(path))
    }
}

impl HandedFile {
    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for HandedFile {
    fn drop(&mut self) {
        // The store may have moved it; a file that stays only takes room until the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: a file that was handed over outlives its executor's folder, and goes with its value;
    /// one that is not there is named.
    #[test]
    fn files_outlive_their_executor() {
        let room = tempfile::tempdir().unwrap();
        let scratch = room.path().join("slot-0");
        std::fs::create_dir(&scratch).unwrap();
        let (kept, missing) = (scratch.join("weights"), scratch.join("none"));
        std::fs::write(&kept, b"w").unwrap();
        let mut handed = HandedFiles::open(room.path().join("handed")).unwrap();
        let files = handed.take(std::slice::from_ref(&kept)).unwrap();
        std::fs::remove_dir_all(&scratch).unwrap();
        assert_eq!(std::fs::read(files[0].path()).unwrap(), b"w");
        let path = files[0].path().to_owned();
        drop(files);
        assert!(!path.exists());
        let error = handed.take(&[missing]).unwrap_err().to_string();
        assert!(error.contains("slot-0/none"), "{error}");
    }

    /// Claim: what an earlier agent left is gone after the start.
    #[test]
    fn leftovers_are_removed() {
        let room = tempfile::tempdir().unwrap();
        let folder = room.path().join("handed");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("0"), b"old").unwrap();
        HandedFiles::open(folder.clone()).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
}
