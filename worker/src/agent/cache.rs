//! Local files with blobs' bytes: bounded in number and bytes, the least recently used go first, and
//! never one that a task uses.

use evoring_protocol::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Bytes read at once for a digest.
const PIECE_BYTES: usize = 256 << 10;

/// A folder of this agent alone.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    bounds: Bounds,
    inner: Arc<Mutex<Inner>>,
}

/// What a cache holds before the least recently used files are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Files.
    pub files: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Inner {
    /// Blobs whose files this process has written or checked.
    checked: BTreeSet<Digest>,
    /// How many use each file now.
    pins: BTreeMap<Digest, usize>,
}

/// Keeps a blob's file in the cache while it lives.
#[derive(Debug)]
pub struct Pin {
    digest: Digest,
    path: PathBuf,
    inner: Arc<Mutex<Inner>>,
}

impl Pin {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut inner = lock(&self.inner);
        if let Some(count) = inner.pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                inner.pins.remove(&self.digest);
            }
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    /// Opens the folder, removing what an earlier process left half written.
    pub fn open(folder: &Path, bounds: Bounds) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let cache = Self {
            folder: folder.to_owned(),
            bounds,
            inner: Arc::default(),
        };
        for entry in std::fs::read_dir(folder)?.flatten() {
            if digest_of_name(&entry.path()).is_none() {
                // What cannot be removed only takes room.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(cache)
    }

    /// Where a blob's file is, or is to be put; it stays there while the pin lives.
    pub fn pin(&self, digest: Digest) -> Pin {
        *lock(&self.inner).pins.entry(digest).or_default() += 1;
        Pin {
            digest,
            path: self.folder.join(digest.to_string()),
            inner: Arc::clone(&self.inner),
        }
    }

    /// A name for a file that is being written: two slots may want the same blob at once.
    pub fn temporary(&self, digest: Digest) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("{digest}.part-{number}"))
    }

    /// Whether the pinned file is there, undamaged; it is the most recently used one then. A file
    /// of an earlier process is read once, since a power cut may have left anything in it.
    pub fn has(&self, pin: &Pin) -> bool {
        let is_checked = lock(&self.inner).checked.contains(&pin.digest);
        let is_whole = if is_checked {
            pin.path.exists()
        } else {
            digest_of(&pin.path).is_ok_and(|digest| digest == pin.digest)
        };
        if is_whole {
            self.note(pin);
            // A file that cannot be touched is removed early, and fetched again.
            let _ = File::open(&pin.path).and_then(|f| f.set_modified(SystemTime::now()));
        }
        is_whole
    }

    /// The pinned file was written and is what it should be.
    pub fn note(&self, pin: &Pin) {
        let mut inner = lock(&self.inner);
        // Beyond this many, old ones are read once more when they are wanted again.
        if inner.checked.len() >= 16 * self.bounds.files {
            inner.checked.clear();
        }
        inner.checked.insert(pin.digest);
    }

    /// Makes room for one more file of this many bytes. Pinned files stay, also beyond the bounds.
    pub fn shrink(&self, bytes: u64) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        let pinned: BTreeSet<Digest> = lock(&self.inner).pins.keys().copied().collect();
        let mut files: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let digest = digest_of_name(&entry.path())?;
                let metadata = entry.metadata().ok()?;
                Some((
                    metadata.modified().ok()?,
                    digest,
                    metadata.len(),
                    entry.path(),
                ))
            })
            .collect();
        files.sort();
        let mut count = files.len() + 1;
        let mut total = files
            .iter()
            .map(|(_, _, bytes, _)| bytes)
            .fold(bytes, |sum, bytes| sum.saturating_add(*bytes));
        for (_, digest, bytes, path) in files {
            if count <= self.bounds.files && total <= self.bounds.bytes {
                return;
            }
            // A file that was pinned since then stays.
            let inner = lock(&self.inner);
            if !pinned.contains(&digest)
                && !inner.pins.contains_key(&digest)
                && std::fs::remove_file(path).is_ok()
            {
                count -= 1;
                total = total.saturating_sub(bytes);
            }
        }
    }
}

/// The blob that a cached file's name says.
fn digest_of_name(path: &Path) -> Option<Digest> {
    path.file_name()?.to_str()?.parse().ok()
}

/// Digest of a file, read piece by piece.
pub fn digest_of(path: &Path) -> io::Result<Digest> {
    let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(Digest(hasher.finalize().into())),
            Ok(count) => hasher.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ROOMY: u64 = 1 << 20;

    fn bounds(files: usize, bytes: u64) -> Bounds {
        Bounds { files, bytes }
    }

    fn put(cache: &Cache, number: u64) -> Pin {
        let text = number.to_string();
        let pin = cache.pin(Digest::of(text.as_bytes()));
        std::fs::write(pin.path(), text).unwrap();
        // Older than anything that the cache touches.
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(number);
        File::open(pin.path())
            .and_then(|f| f.set_modified(time))
            .unwrap();
        cache.note(&pin);
        pin
    }

    /// Claim: the least recently used files go first; one that was asked for lately stays, one that
    /// is pinned stays even beyond the bound, until its pin is gone.
    /// Method: files with times of the past, of which one is asked for and one stays pinned.
    #[test]
    fn pinned_and_recent_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), bounds(3, ROOMY)).unwrap();
        let pinned = put(&cache, 1);
        let recent = put(&cache, 2).path().to_owned();
        let old = put(&cache, 3).path().to_owned();
        let pin = cache.pin(Digest::of(b"2"));
        assert!(cache.has(&pin));
        drop(pin);
        cache.shrink(1);
        assert!(pinned.path().exists() && recent.exists() && !old.exists());
        let also: Vec<Pin> = (4..9).map(|number| put(&cache, number)).collect();
        cache.shrink(1);
        assert!(also.iter().all(|pin| pin.path().exists()) && !recent.exists());
        let (first, rest) = (pinned.path().to_owned(), also[4].path().to_owned());
        drop((pinned, also));
        cache.shrink(1);
        assert!(!first.exists() && rest.exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    /// Claim: what is to come has room in bytes too: old files go until it has, and no more.
    /// Method: four files of one byte where six fit; then files of two, three and seven bytes come.
    #[test]
    fn bytes_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), bounds(100, 6)).unwrap();
        (1..5).for_each(|number| drop(put(&cache, number)));
        let count = || std::fs::read_dir(folder.path()).unwrap().count();
        for (bytes, left) in [(2, 4), (3, 3), (7, 0)] {
            cache.shrink(bytes);
            assert_eq!(count(), left, "{bytes} bytes to come");
        }
    }

    /// Claim: two pins on one file are two: the first to go does not free it.
    #[test]
    fn pins_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), bounds(1, ROOMY)).unwrap();
        let first = put(&cache, 1);
        let second = cache.pin(Digest::of(b"1"));
        drop(first);
        cache.shrink(1);
        assert!(second.path().exists());
    }

    /// Claim: a file that an earlier process left is used only if it is whole, and what it left
    /// half written is removed.
    #[test]
    fn files_of_earlier_processes_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, damaged) = (Digest::of(b"whole"), Digest::of(b"damaged"));
        std::fs::write(folder.path().join(whole.to_string()), b"whole").unwrap();
        std::fs::write(folder.path().join(damaged.to_string()), b"dama").unwrap();
        let half = folder.path().join(format!("{whole}.part-7"));
        std::fs::write(&half, b"who").unwrap();
        let cache = Cache::open(folder.path(), bounds(9, ROOMY)).unwrap();
        assert!(cache.has(&cache.pin(whole)));
        assert!(!cache.has(&cache.pin(damaged)));
        assert!(!half.exists());
    }
}
