//! Blobs on their way from the cluster, bounded and checked by digest.

use crate::client::{Client, Setback};
use crate::exit::{Exit, Failure};
use crate::follow::unexpected;
use evoring_protocol::Digest;
use evoring_protocol::client::{ClientReply, ClientRequest};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{Seek, Write};
use std::time::Instant;

/// Where a blob goes; a lost connection begins it anew.
pub trait Sink {
    /// Forgets what came so far.
    fn restart(&mut self) -> std::io::Result<()>;
    /// The next piece.
    fn piece(&mut self, bytes: &[u8]) -> std::io::Result<()>;
}

impl Sink for Vec<u8> {
    fn restart(&mut self) -> std::io::Result<()> {
        self.clear();
        Ok(())
    }

    fn piece(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

impl Sink for File {
    fn restart(&mut self) -> std::io::Result<()> {
        self.set_len(0)?;
        self.rewind()
    }

    fn piece(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.write_all(bytes)
    }
}

/// Brings one blob of at most `limit` bytes into `sink`. `name` is for messages.
pub async fn blob(
    client: &mut Client,
    name: &str,
    digest: Digest,
    limit: u64,
    sink: &mut impl Sink,
) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        match attempt(client, name, digest, limit, sink).await {
            Ok(()) => return Ok(()),
            Err(setback) => client.wait_or_fail(setback, began).await?,
        }
    }
}

async fn attempt(
    client: &mut Client,
    name: &str,
    digest: Digest,
    limit: u64,
    sink: &mut impl Sink,
) -> Result<(), Setback> {
    let local =
        |error: std::io::Error| Setback::Final(Failure::local(format!("artifact {name}"), error));
    let mut replies = client
        .open(&ClientRequest::Blob { digest })
        .await
        .map_err(Setback::Final)?;
    sink.restart().map_err(local)?;
    let expected = match replies.next().await? {
        Some(ClientReply::BlobStart { bytes }) => bytes,
        Some(other) => return Err(Setback::Final(unexpected("Blob", &other))),
        None => return Err(broken_off(name, 0, 0)),
    };
    if expected > limit {
        let message = format!("artifact {name} has {expected} bytes: expected at most {limit}");
        return Err(Setback::Final(Failure::new(Exit::Local, message)));
    }
    let (mut got, mut hash) = (0u64, Sha256::new());
    while got < expected {
        match replies.next().await? {
            Some(ClientReply::BlobChunk(piece))
                if !piece.is_empty() && piece.len() as u64 <= expected - got =>
            {
                got += piece.len() as u64;
                hash.update(&piece);
                sink.piece(&piece).map_err(local)?;
            }
            Some(other) => return Err(Setback::Final(unexpected("Blob", &other))),
            None => return Err(broken_off(name, got, expected)),
        }
    }
    let found = Digest(hash.finalize().into());
    if found == digest {
        return Ok(());
    }
    let message = format!(
        "artifact {name} is damaged: expected digest {digest}, got {found}; the blob store of the cluster has to be restored"
    );
    Err(Setback::Final(Failure::new(Exit::Local, message)))
}

fn broken_off(name: &str, got: u64, expected: u64) -> Setback {
    let message = format!("artifact {name} broke off: expected {expected} bytes, got {got}");
    Setback::Temporary(Failure::new(Exit::Unreachable, message))
}
