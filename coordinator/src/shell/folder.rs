//! The coordinator's folder: one process at a time, and the announcement.

use anyhow::{Context as _, bail};
use evoring_protocol::transport::{Announcement, Identity, Listener, TransportError};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The locked folder; dropping it releases the lock.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if needed and locks it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("making the folder {}", path.display()))?;
        let file = path.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file)
            .with_context(|| format!("opening {}", file.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!(
                    "{} is in use by another coordinator process; stop it or choose another --dir",
                    path.display()
                )
            }
            Err(errno) => Err(errno).with_context(|| format!("locking {}", file.display())),
        }
    }

    /// Listens at `address`; for port 0 at the port of the last process of this folder, if it is
    /// free. Peers of a killed process then learn at once that it is gone, because its successor
    /// answers their packets, and need not wait for their idle timeout.
    pub(super) fn listen(
        &self,
        address: SocketAddr,
        identity: &Identity,
    ) -> Result<Listener, TransportError> {
        let file = self.path.join("address");
        let last = fs::read_to_string(&file)
            .ok()
            .and_then(|text| text.trim().parse::<SocketAddr>().ok());
        let listener = match last.filter(|last| address.port() == 0 && last.ip() == address.ip()) {
            Some(last) => {
                Listener::bind(last, identity).or_else(|_| Listener::bind(address, identity))
            }
            None => Listener::bind(address, identity),
        }?;
        if let Err(error) = fs::write(&file, format!("{}\n", listener.local_addr())) {
            // Only the next start is slower for it.
            tracing::warn!(%error, file = %file.display(), "the address cannot be kept");
        }
        Ok(listener)
    }

    /// Writes the announcement, whole or not at all.
    pub(super) fn announce(
        &self,
        path: &Path,
        listen: SocketAddr,
        http: SocketAddr,
    ) -> anyhow::Result<()> {
        let announcement = Announcement {
            listen,
            http: Some(http),
            process: std::process::id(),
        };
        let written = announcement.write(path);
        written.with_context(|| format!("writing {}", path.display()))
    }
}
