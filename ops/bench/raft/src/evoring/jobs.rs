//! Jobs to attach labels to, and many of them.

use super::access::{ask, refusal};
use anyhow::{Context, Result};
use evoring_protocol::client::{ClientReply, ClientRequest};
use evoring_protocol::transport::Connection;
use evoring_protocol::{JobId, SubmissionKey};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinSet;

/// The smallest job; without workers it waits for ever.
const JOB: &str = "name = \"bench\"\nkind = \"evolve.prune\"\n[data]\nset = \"fashion-mnist\"\n[network]\nname = \"lenet\"\n";
/// Streams of one connection, below the coordinator's limit of 64.
const STREAMS: u64 = 48;
/// Connections at once that jobs are stored over.
pub const CONNECTIONS: usize = 4;

/// Makes submission keys that nobody else makes.
#[derive(Debug)]
pub struct Keys {
    random: [u8; 8],
    next: AtomicU64,
}

impl Keys {
    /// With a random beginning.
    pub fn new() -> Result<Self> {
        let mut random = [0; 8];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .context("/dev/urandom")?;
        Ok(Self {
            random,
            next: AtomicU64::new(0),
        })
    }

    fn next(&self) -> SubmissionKey {
        let mut key = [0; 16];
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        key[..8].copy_from_slice(&self.random);
        key[8..].copy_from_slice(&number.to_be_bytes());
        SubmissionKey(key)
    }
}

/// Submits a job.
pub async fn submit(connection: &Connection, keys: &Keys) -> Result<JobId> {
    let request = ClientRequest::Submit {
        key: keys.next(),
        file: "bench.toml".to_owned(),
        text: JOB.to_owned(),
        refuse_unless_fits: false,
    };
    match ask(connection, &request).await? {
        ClientReply::Submitted { job, .. } => Ok(job),
        other => Err(refusal(&other).context("submit")),
    }
}

/// Ends a job.
async fn cancel(connection: &Connection, job: JobId) -> Result<()> {
    match ask(connection, &ClientRequest::Cancel { job }).await? {
        ClientReply::Done => Ok(()),
        other => Err(refusal(&other).context("cancel")),
    }
}

/// Whether a job is there and ended.
pub async fn has_ended(connection: &Connection, job: JobId) -> Result<bool> {
    match ask(connection, &ClientRequest::Show { job }).await? {
        ClientReply::Job(view) => Ok(view.status.is_final()),
        other => Err(refusal(&other).context("show")),
    }
}

/// Submits `count` jobs and ends each of them at once, over all streams of these connections.
pub async fn store_ended(connections: &[Connection], count: u64) -> Result<()> {
    let keys = Arc::new(Keys::new()?);
    let left = Arc::new(AtomicU64::new(count));
    let mut streams = JoinSet::new();
    for connection in connections {
        for _ in 0..STREAMS {
            let (connection, keys, left) =
                (connection.clone(), Arc::clone(&keys), Arc::clone(&left));
            streams.spawn(async move {
                while take(&left) {
                    let job = submit(&connection, &keys).await?;
                    cancel(&connection, job).await?;
                }
                anyhow::Ok(())
            });
        }
    }
    while let Some(outcome) = streams.join_next().await {
        outcome??;
    }
    Ok(())
}

/// Takes one, if any is left.
fn take(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
        .is_ok()
}
