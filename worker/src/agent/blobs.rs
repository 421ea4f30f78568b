//! The blob store as an agent uses it: files in by digest, files out checked against theirs.

use super::cache::{Cache, Pin, digest_of};
use evoring_protocol::Digest;
use evoring_protocol::limits::BLOB_BYTES;
use evoring_protocol::work::{FailureCause, WorkError};
use futures::StreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as BlobPath;
use object_store::{GetResult, MultipartUpload, ObjectStore, ObjectStoreExt};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes of a blob that are in memory while it is stored.
const PIECE_BYTES: usize = 8 << 20;

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
    #[error("{what}: {bytes} bytes, expected at most {BLOB_BYTES}")]
    TooLarge {
        /// The blob, or the file that was to become one.
        what: String,
        /// Its size.
        bytes: u64,
    },
}

impl BlobError {
    /// What is to blame: what is in the store stays as it is, what the system refuses it may allow
    /// later or elsewhere.
    pub fn cause(&self) -> FailureCause {
        match self {
            Self::UnknownStore(_) | Self::Damaged { .. } | Self::TooLarge { .. } => {
                FailureCause::Final
            }
            Self::Store { .. } | Self::File { .. } => FailureCause::Failed,
        }
    }
}

impl From<BlobError> for WorkError {
    fn from(error: BlobError) -> Self {
        Self {
            message: error.to_string(),
            cause: error.cause(),
        }
    }
}

/// For `map_err`: an error of the local file `path`.
fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::File { path, source }
}

/// A blob store with a local cache.
#[derive(Debug, Clone)]
pub struct Blobs {
    url: String,
    store: Arc<dyn ObjectStore>,
    cache: Cache,
}

impl Blobs {
    /// Opens the store at `url`.
    pub fn open(url: &str, cache: Cache) -> Result<Self, BlobError> {
        let folder = evoring_protocol::file_url::to_path(url)
            .ok_or_else(|| BlobError::UnknownStore(url.to_owned()))?;
        std::fs::create_dir_all(&folder).map_err(file_error(Path::new(&folder)))?;
        let store =
            LocalFileSystem::new_with_prefix(&folder).map_err(|source| BlobError::Store {
                url: url.to_owned(),
                source,
            })?;
        Ok(Self {
            url: url.to_owned(),
            // A blob that the log names must survive a power cut.
            store: Arc::new(store.with_fsync(true)),
            cache,
        })
    }

    fn failed(&self, source: object_store::Error) -> BlobError {
        BlobError::Store {
            url: self.url.clone(),
            source,
        }
    }

    /// Moves a file into the store, piece by piece, and gives its digest. The file must not change
    /// meanwhile.
    pub async fn store(&self, path: &Path) -> Result<Digest, BlobError> {
        let bytes = tokio::fs::metadata(path)
            .await
            .map_err(file_error(path))?
            .len();
        if bytes > BLOB_BYTES {
            let what = path.display().to_string();
            return Err(BlobError::TooLarge { what, bytes });
        }
        let read = path.to_owned();
        let digest = tokio::task::spawn_blocking(move || digest_of(&read)).await;
        let digest = digest
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(file_error(path))?;
        let place = BlobPath::from(digest.blob_path());
        // Also over a blob of this name: it may be damaged, and the same bytes do no harm.
        let mut upload = self
            .store
            .put_multipart(&place)
            .await
            .map_err(|source| self.failed(source))?;
        if let Err(error) = self.put_pieces(&mut *upload, path).await {
            // What stays of it is nobody's blob, and the first error is the one to tell.
            let _ = upload.abort().await;
            return Err(error);
        }
        upload
            .complete()
            .await
            .map_err(|source| self.failed(source))?;
        // The store has it; a file that stays only takes room.
        let _ = tokio::fs::remove_file(path).await;
        Ok(digest)
    }

    /// One piece after the other: the file system takes no two at once anyway.
    async fn put_pieces(
        &self,
        upload: &mut dyn MultipartUpload,
        path: &Path,
    ) -> Result<(), BlobError> {
        let mut file = tokio::fs::File::open(path)
            .await
            .map_err(file_error(path))?;
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            (&mut file)
                .take(PIECE_BYTES as u64)
                .read_to_end(&mut piece)
                .await
                .map_err(file_error(path))?;
            if piece.is_empty() {
                return Ok(());
            }
            upload
                .put_part(piece.into())
                .await
                .map_err(|source| self.failed(source))?;
        }
    }

    /// A local file with the blob's bytes, which stays while the pin lives.
    pub async fn fetch(&self, digest: Digest) -> Result<Pin, BlobError> {
        // First of all, so that no other fetch removes the file from here on.
        let pin = self.cache.pin(digest);
        let cache = self.cache.clone();
        // Reading a large file again takes its time.
        let looked = tokio::task::spawn_blocking(move || (cache.has(&pin), pin)).await;
        let (is_cached, pin) =
            looked.map_err(|error| file_error(Path::new("cache"))(std::io::Error::other(error)))?;
        if is_cached {
            return Ok(pin);
        }
        let place = BlobPath::from(digest.blob_path());
        let found = self
            .store
            .get(&place)
            .await
            .map_err(|source| self.failed(source))?;
        check_size(digest, found.meta.size)?;
        self.cache.shrink(found.meta.size);
        let temporary = self.cache.temporary(digest);
        let outcome = match self.download(found, digest, &temporary).await {
            Ok(()) => tokio::fs::rename(&temporary, pin.path())
                .await
                .map_err(file_error(pin.path())),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            // What stays is removed at the agent's next start.
            let _ = tokio::fs::remove_file(&temporary).await;
            return Err(error);
        }
        self.cache.note(&pin);
        Ok(pin)
    }

    /// Writes a blob into a file piece by piece, and checks it.
    async fn download(
        &self,
        found: GetResult,
        digest: Digest,
        path: &Path,
    ) -> Result<(), BlobError> {
        let mut file = tokio::fs::File::create(path)
            .await
            .map_err(file_error(path))?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|source| self.failed(source))?;
            bytes += piece.len() as u64;
            check_size(digest, bytes)?;
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(file_error(path))?;
        }
        file.flush().await.map_err(file_error(path))?;
        let got = Digest(hasher.finalize().into());
        if got != digest {
            return Err(BlobError::Damaged {
                url: self.url.clone(),
                expected: digest,
                got,
            });
        }
        Ok(())
    }
}

fn check_size(digest: Digest, bytes: u64) -> Result<(), BlobError> {
    if bytes <= BLOB_BYTES {
        return Ok(());
    }
    let what = format!("blob {digest}");
    Err(BlobError::TooLarge { what, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::cache::Bounds;
    use tempfile::TempDir;

    fn bounds(files: usize) -> Bounds {
        Bounds {
            files,
            bytes: 1 << 30,
        }
    }

    fn open(files: usize) -> (TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache"), bounds(files)).unwrap();
        let url = format!("file://{}", folder.path().join("blobs").display());
        (folder, Blobs::open(&url, cache).unwrap())
    }

    async fn stored(folder: &TempDir, blobs: &Blobs, bytes: &[u8]) -> Digest {
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        blobs.store(&path).await.unwrap()
    }

    /// Claim: a file larger than what is held in memory is stored and fetched whole, and is gone from
    /// where it was; nothing half written stays in the store. Method: a blob of two pieces and a bit.
    #[tokio::test]
    async fn large_files_pass_in_pieces() {
        let (folder, blobs) = open(4);
        let bytes: Vec<u8> = (0..2 * PIECE_BYTES + 77)
            .map(|k| ((k * k) >> 7) as u8)
            .collect();
        let digest = stored(&folder, &blobs, &bytes).await;
        assert_eq!(digest, Digest::of(&bytes));
        assert!(!folder.path().join("file").exists());
        let pin = blobs.fetch(digest).await.unwrap();
        assert!(std::fs::read(pin.path()).unwrap() == bytes);
        let blob = folder.path().join("blobs").join(digest.blob_path());
        let beside = std::fs::read_dir(blob.parent().unwrap()).unwrap().count();
        assert_eq!(beside, 1);
    }

    /// Claim: what is stored is fetched again, whole; files that a task holds stay while others
    /// are fetched beyond the cache's bound. Method: ten blobs, two of them held, room for two.
    #[tokio::test]
    async fn held_inputs_stay() {
        let (folder, blobs) = open(2);
        let mut digests = Vec::new();
        for number in 0u32..10 {
            digests.push(stored(&folder, &blobs, &vec![number as u8; 300_000]).await);
        }
        let held = [
            blobs.fetch(digests[0]).await.unwrap(),
            blobs.fetch(digests[1]).await.unwrap(),
        ];
        for digest in &digests[2..] {
            let pin = blobs.fetch(*digest).await.unwrap();
            assert_eq!(super::super::cache::digest_of(pin.path()).unwrap(), *digest);
        }
        for (pin, digest) in held.iter().zip(&digests) {
            assert_eq!(super::super::cache::digest_of(pin.path()).unwrap(), *digest);
        }
        let files = std::fs::read_dir(folder.path().join("cache")).unwrap();
        assert!(files.count() <= 3);
    }

    /// Claim: a damaged or oversized blob is final, and leaves nothing in the cache; a missing one
    /// may come; an oversized file is not stored.
    /// Method: change a stored blob's bytes, remove it, and files with holes over the limit.
    #[tokio::test]
    async fn errors_know_their_cause() {
        let (folder, blobs) = open(2);
        let digest = stored(&folder, &blobs, b"bytes").await;
        let place = folder.path().join("blobs").join(digest.blob_path());
        std::fs::write(&place, b"other").unwrap();
        let error = blobs.fetch(digest).await.unwrap_err();
        assert!(matches!(error, BlobError::Damaged { .. }), "{error}");
        assert_eq!(error.cause(), FailureCause::Final);
        let file = std::fs::File::create(&place).unwrap();
        file.set_len(BLOB_BYTES + 1).unwrap();
        let error = blobs.fetch(digest).await.unwrap_err();
        assert!(matches!(error, BlobError::TooLarge { .. }), "{error}");
        assert_eq!(error.cause(), FailureCause::Final);
        let error = blobs.store(&place).await.unwrap_err();
        assert!(matches!(error, BlobError::TooLarge { .. }), "{error}");
        std::fs::remove_file(&place).unwrap();
        let error = blobs.fetch(digest).await.unwrap_err();
        assert_eq!(error.cause(), FailureCause::Failed, "{error}");
        let files = std::fs::read_dir(folder.path().join("cache")).unwrap();
        assert_eq!(files.count(), 0);
        let cache = Cache::open(&folder.path().join("cache"), bounds(2)).unwrap();
        let error = Blobs::open("s3://bucket", cache).unwrap_err();
        assert_eq!(error.cause(), FailureCause::Final);
    }
}
