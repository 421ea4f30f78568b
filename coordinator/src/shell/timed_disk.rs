//! The folder of the log, with a clock: how long each sync takes. Stores have none.

use crate::storage::{Disk, DiskFile, LOG_FILE, OpenAs, RealDisk};
use prometheus::Histogram;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A disk that counts the syncs of the log's file.
#[derive(Debug)]
pub(super) struct TimedDisk {
    disk: RealDisk,
    syncs: Histogram,
}

impl TimedDisk {
    /// The disk that `folder`, which exists, lies on.
    pub(super) fn new(folder: &Path, syncs: Histogram) -> Self {
        let disk = RealDisk::new(folder);
        Self { disk, syncs }
    }
}

impl Disk for TimedDisk {
    fn open(&self, name: &str, open_as: OpenAs) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.open(name, open_as)?;
        if name != LOG_FILE {
            return Ok(file);
        }
        let syncs = self.syncs.clone();
        Ok(Box::new(TimedFile { file, syncs }))
    }

    fn exists(&self, name: &str) -> bool {
        self.disk.exists(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn copy(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.copy(from, to)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

/// A file whose syncs are counted, those that fail too: a disk may take its time for that.
#[derive(Debug)]
struct TimedFile {
    file: Box<dyn DiskFile>,
    syncs: Histogram,
}

impl DiskFile for TimedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        let began = Instant::now();
        let outcome = self.file.sync();
        self.syncs.observe(began.elapsed().as_secs_f64());
        outcome
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::first_write;
    use crate::storage::{LogStore as _, RedbStore};
    use prometheus::HistogramOpts;
    use std::sync::Arc;

    /// Claim: each transaction of a store is some syncs of the log's file, which are counted, and the
    /// time of all of them is no more than passed; the store is the same as without a clock.
    /// Method: a store on such a disk, one write, and the folder opened again without it.
    #[test]
    fn syncs_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let syncs = Histogram::with_opts(HistogramOpts::new("syncs", "of this test")).unwrap();
        let began = Instant::now();
        let disk = TimedDisk::new(folder.path(), syncs.clone());
        let mut store = RedbStore::open_on(Arc::new(disk)).unwrap();
        let before = syncs.get_sample_count();
        store.write(&first_write(1, vec![1])).unwrap();
        assert!(syncs.get_sample_count() > before);
        assert!(syncs.get_sample_sum() <= began.elapsed().as_secs_f64());
        let stored = store.load().unwrap();
        drop(store);
        let again = RedbStore::open(folder.path()).unwrap();
        assert_eq!(again.load().unwrap(), stored);
    }
}
