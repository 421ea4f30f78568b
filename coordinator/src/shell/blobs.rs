//! The blob store.

use anyhow::{Context as _, bail};
use axum::body::Bytes;
use evoring_protocol::Digest;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A blob that cannot be stored is tried again after this, then half as often, up to …
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// … this.
const LAST_RETRY: Duration = Duration::from_secs(10);

/// A handle on the blob store.
#[derive(Debug, Clone)]
pub(super) struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Those that are being stored.
    storing: Arc<Mutex<BTreeSet<Digest>>>,
}

/// A blob on its way to a client.
pub(super) struct Download {
    /// Size.
    pub bytes: u64,
    /// Pieces of any size.
    pub pieces: BoxStream<'static, object_store::Result<Bytes>>,
}

impl Blobs {
    /// Opens the store behind a URL.
    pub(super) fn open(url: &str) -> anyhow::Result<Self> {
        let Some(folder) = evoring_protocol::file_url::to_path(url) else {
            bail!(
                "--blobs {url}: expected file:///FOLDER; other kinds of stores are not built in yet"
            );
        };
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("--blobs {url}: making the folder"))?;
        let store =
            LocalFileSystem::new_with_prefix(&folder).with_context(|| format!("--blobs {url}"))?;
        // A driver's blob leaves the replicated state once it is stored, so it must be durable.
        Ok(Self {
            store: Arc::new(store.with_fsync(true)),
            storing: Arc::default(),
        })
    }

    /// Stores a blob, however long it takes; false if that is under way already: each new office asks
    /// for what is not stored yet.
    pub(super) async fn put_until_stored(&self, digest: Digest, bytes: Vec<u8>) -> bool {
        let storing = || self.storing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = storing().insert(digest);
        if is_first {
            self.put(digest, bytes).await;
            storing().remove(&digest);
        }
        is_first
    }

    async fn put(&self, digest: Digest, bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        let mut wait = FIRST_RETRY;
        loop {
            match self
                .store
                .put(&Path::from(digest.blob_path()), bytes.clone().into())
                .await
            {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%digest, %error, "a driver's blob cannot be stored yet")
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_RETRY);
        }
    }

    /// Opens a blob; `None` if the store does not have it.
    pub(super) async fn get(&self, digest: Digest) -> anyhow::Result<Option<Download>> {
        match self.store.get(&Path::from(digest.blob_path())).await {
            Ok(found) => Ok(Some(Download {
                bytes: found.meta.size,
                pieces: found.into_stream().boxed(),
            })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading blob {digest}")),
        }
    }
}
