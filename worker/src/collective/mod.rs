//! Sums and messages between the ranks of a gang.
//!
//! A gang's arithmetic is fixed by its job: each of `shards` micro-batches has a buffer of its
//! own, and [`Collective::all_reduce`] sums the buffers by the one fixed balanced tree over shards
//! ([`evoring_jobs::tree`]). So every world size gives the same bits. [`shm`] is the backend
//! between the executors of one host, also of different agents.
//!
//! - `COLLECTIVE-1` The result of a sum depends on the shards' values alone.
//! - `COLLECTIVE-2` Once one operation has failed on a rank, all later ones on it fail.
//! - `COLLECTIVE-3` When a member goes, every operation that it had not completed its part of
//!   ends with [`CollectiveError::Aborted`] on all others, within a second. Ranks are connected with
//!   the first one only, which tells the others: while the first is stopped (not dead, whose end
//!   all see), another one's death shows only when the patience of [`shm::Settings`] is over.

mod barrier;
mod join;
mod layout;
mod mapping;
mod meeting;
pub mod shm;
#[cfg(test)]
mod tests;
mod watch;

use std::ops::Range;
use std::time::Duration;

/// Operations that all ranks of a gang call together, in the same order and with the same lengths;
/// a rank that calls another one than the others is [`CollectiveError::Refused`].
pub trait Collective: Send {
    /// This member, in `0..world_size`.
    fn rank(&self) -> u32;

    /// Number of members.
    fn world_size(&self) -> u32;

    /// Shards that this rank writes, consecutive (see [`evoring_jobs::tree::shards_of`]).
    fn shards(&self) -> Range<u32>;

    /// Where to write the values of `shard`, one of [`Collective::shards`]; they stay until they
    /// are overwritten.
    ///
    /// # Panics
    /// If the shard belongs to another rank.
    fn shard_buffer(&mut self, shard: u32) -> &mut [f32];

    /// Sums all shards' buffers by the fixed tree; every rank gets the same bits.
    fn all_reduce(&mut self) -> Result<&[f32], CollectiveError>;

    /// Sums all shards' buffers by the fixed tree; each rank gets the elements of the returned
    /// range only. The ranges of all ranks follow each other and cover all elements; some may be
    /// empty.
    fn reduce_scatter(&mut self) -> Result<(Range<usize>, &[f32]), CollectiveError>;

    /// Collects every rank's `own` values: rank `r`'s are `all[r * own.len()..][..own.len()]`.
    fn all_gather(&mut self, own: &[f32], all: &mut [f32]) -> Result<(), CollectiveError>;

    /// Gives `values` of rank `root` to all ranks.
    fn broadcast(&mut self, root: u32, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// Returns when all ranks have called it.
    fn barrier(&mut self) -> Result<(), CollectiveError>;
}

/// Why a collective operation, or joining a gang, did not come about; who reports it adds the
/// job and the rank.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// A member is gone, or this one was told to stop.
    #[error("{reason}")]
    Aborted {
        /// Who is gone, as far as it is known.
        reason: String,
    },
    /// Members are alive but did not come.
    #[error("waited {} s for {what}", waited.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
    },
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// Members do not agree about the gang or the operation, or the gang is not possible.
    #[error("{0}")]
    Refused(String),
}

impl CollectiveError {
    /// Whether another attempt with another roster may succeed.
    pub fn can_retry(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }

    /// For `map_err`: an error of the system while `what` was tried.
    fn io<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            what,
            source: source.into(),
        }
    }
}
