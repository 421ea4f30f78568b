//! The folder of a local cluster: where everything in it is, and who may use it.

use crate::exit::{Exit, Failure};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A cluster's folder, held by one process at a time.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// The lock is released by the kernel when this process ends, however it ends.
    _lock: File,
}

impl Folder {
    /// Makes the folder (for its owner alone, since it holds private keys) or takes an existing
    /// one that no process uses.
    pub fn open(root: &Path) -> Result<Self, Failure> {
        let what = || format!("cluster folder {}", root.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|error| Failure::local(what(), error))?;
        let root = root
            .canonicalize()
            .map_err(|error| Failure::local(what(), error))?;
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| Failure::local(path.display(), error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::new(
                Exit::Local,
                format!(
                    "{} is used by another `evoring run` or `evoring local`; name another folder with --dir",
                    what()
                ),
            )),
            Err(error) => Err(Failure::local(path.display(), error)),
        }
    }

    /// Whether a process holds the cluster folder `root`.
    pub fn is_in_use(root: &Path) -> bool {
        File::open(root.join("lock")).is_ok_and(|lock| {
            flock(&lock, FlockOperation::NonBlockingLockShared)
                == Err(rustix::io::Errno::WOULDBLOCK)
        })
    }

    /// The folder itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What other commands read to reach this cluster.
    pub fn cluster_file(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// Where a coordinator writes its addresses after each start.
    pub fn announce(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.json"))
    }

    /// Whether a coordinator has kept anything here.
    pub fn has_log(&self, name: &str) -> bool {
        self.state(name).join("log.redb").exists()
    }

    /// Certificate and key of one process.
    pub fn identity(&self, name: &str) -> PathBuf {
        self.root.join("identity").join(name)
    }

    /// State of one process.
    pub fn state(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// URL of the blob store.
    pub fn blobs_url(&self) -> Result<String, Failure> {
        let path = self.root.join("blobs");
        let text = path.to_str().ok_or_else(|| {
            Failure::usage(format!(
                "{}: the path of a cluster folder must be UTF-8",
                path.display()
            ))
        })?;
        Ok(evoring_protocol::file_url::from_path(text))
    }

    /// Output of one process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: one process at a time holds a folder, and others can see that. Method: two opens (the
    // lock belongs to the open file, so one process can stand for two).
    #[test]
    fn folder_has_one_holder() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("a b");
        let folder = Folder::open(&root).unwrap();
        assert!(Folder::is_in_use(&root));
        let failure = Folder::open(&root).unwrap_err();
        assert!(failure.message.contains("used by another"), "{failure}");
        assert!(folder.blobs_url().unwrap().ends_with("/a%20b/blobs"));
        drop(folder);
        assert!(!Folder::is_in_use(&root));
        Folder::open(&root).unwrap();
    }
}
