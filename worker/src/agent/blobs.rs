//! The blob store as an agent uses it: files in by digest, files out checked against theirs.

use evoring_protocol::Digest;
use evoring_protocol::limits::BLOB_BYTES;
use object_store::local::LocalFileSystem;
use object_store::path::Path as BlobPath;
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Files in the local cache before the oldest are removed.
const CACHED_FILES: usize = 256;

/// A blob that cannot be stored or fetched.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// A URL that this build has no store for.
    #[error("blob store {0:?}: expected file:///absolute/folder")]
    UnknownStore(String),
    /// The store refused.
    #[error("blob store {url}: {source}")]
    Store {
        /// The store.
        url: String,
        /// What it says.
        source: object_store::Error,
    },
    /// A local file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A blob whose bytes do not have its digest.
    #[error("blob store {url}: blob {expected} has the digest {got}: it is damaged")]
    Damaged {
        /// The store.
        url: String,
        /// Its name.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// A blob over the limit.
    #[error("blob {digest}: {bytes} bytes, expected at most {BLOB_BYTES}")]
    TooLarge {
        /// Its name.
        digest: Digest,
        /// Its size.
        bytes: u64,
    },
}

/// A blob store with a local cache.
#[derive(Debug, Clone)]
pub struct Blobs {
    url: String,
    store: Arc<dyn ObjectStore>,
    cache: PathBuf,
    /// Blobs whose cached files this process has checked.
    checked: Arc<Mutex<BTreeSet<Digest>>>,
}

impl Blobs {
    /// Opens the store at `url`; `cache` is a folder of this agent alone.
    pub fn open(url: &str, cache: &Path) -> Result<Self, BlobError> {
        let folder = url
            .strip_prefix("file://")
            .filter(|folder| folder.starts_with('/'));
        let folder = folder.ok_or_else(|| BlobError::UnknownStore(url.to_owned()))?;
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| BlobError::File { path, source }
        };
        std::fs::create_dir_all(folder).map_err(file(Path::new(folder)))?;
        std::fs::create_dir_all(cache).map_err(file(cache))?;
        let store =
            LocalFileSystem::new_with_prefix(folder).map_err(|source| BlobError::Store {
                url: url.to_owned(),
                source,
            })?;
        // A blob that the log names must survive a power cut.
        let (store, checked) = (Arc::new(store.with_fsync(true)), Arc::default());
        Ok(Self {
            url: url.to_owned(),
            store,
            cache: cache.to_owned(),
            checked,
        })
    }

    fn failed(&self, source: object_store::Error) -> BlobError {
        BlobError::Store {
            url: self.url.clone(),
            source,
        }
    }

    /// Moves a file into the store and gives its digest.
    pub async fn store(&self, path: &Path) -> Result<Digest, BlobError> {
        let file = |source| BlobError::File {
            path: path.to_owned(),
            source,
        };
        let bytes = tokio::fs::read(path).await.map_err(file)?;
        let digest = Digest::of(&bytes);
        let place = BlobPath::from(digest.blob_path());
        // Also over a blob of this name: it may be damaged, and the same bytes do no harm.
        self.store
            .put(&place, bytes.into())
            .await
            .map_err(|source| self.failed(source))?;
        // The store has it; a file that stays only takes room.
        let _ = tokio::fs::remove_file(path).await;
        Ok(digest)
    }

    /// A local file with the blob's bytes.
    pub async fn fetch(&self, digest: Digest) -> Result<PathBuf, BlobError> {
        let path = self.cache.join(digest.to_string());
        if self.is_cached(&path, digest).await {
            return Ok(path);
        }
        let place = BlobPath::from(digest.blob_path());
        let found = self
            .store
            .get(&place)
            .await
            .map_err(|source| self.failed(source))?;
        if found.meta.size > BLOB_BYTES {
            return Err(BlobError::TooLarge {
                digest,
                bytes: found.meta.size,
            });
        }
        let bytes = found.bytes().await.map_err(|source| self.failed(source))?;
        let got = Digest::of(&bytes);
        if got != digest {
            return Err(BlobError::Damaged {
                url: self.url.clone(),
                expected: digest,
                got,
            });
        }
        let file = |source| BlobError::File {
            path: path.clone(),
            source,
        };
        self.shrink_cache();
        // A name of its own: two slots may want the same blob at once.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("part-{}-{number}", std::process::id()));
        tokio::fs::write(&temporary, &bytes).await.map_err(file)?;
        tokio::fs::rename(&temporary, &path).await.map_err(file)?;
        self.note_checked(digest);
        Ok(path)
    }

    /// Whether the cache has the blob, undamaged: a file of an earlier process is read once, since
    /// a power cut may have left anything in it.
    async fn is_cached(&self, path: &Path, digest: Digest) -> bool {
        if self
            .checked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&digest)
        {
            return tokio::fs::try_exists(path).await.unwrap_or(false);
        }
        let is_whole = tokio::fs::read(path)
            .await
            .is_ok_and(|bytes| Digest::of(&bytes) == digest);
        if is_whole {
            self.note_checked(digest);
        }
        is_whole
    }

    fn note_checked(&self, digest: Digest) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        // Beyond this many, old ones are read once more when they are wanted again.
        if checked.len() >= 16 * CACHED_FILES {
            checked.clear();
        }
        checked.insert(digest);
    }

    /// Removes the oldest files beyond the bound; open ones stay readable for who has them open.
    fn shrink_cache(&self) {
        let Ok(entries) = std::fs::read_dir(&self.cache) else {
            return;
        };
        let mut files: Vec<_> = entries
            .flatten()
            .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
            .collect();
        files.sort();
        let extra = files.len().saturating_sub(CACHED_FILES);
        for (_, path) in &files[..extra] {
            let _ = std::fs::remove_file(path);
        }
    }
}
