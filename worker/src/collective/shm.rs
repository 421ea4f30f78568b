//! The backend between processes of one host: gradients lie in one shared mapping and are reduced
//! in place.
//!
//! Who may touch which floats when (a *phase* lies between two barriers):
//!
//! - A rank writes its shards' buffers outside of operations, that is before the first barrier of
//!   a sum (`meet`). Between that barrier and the second one all ranks read all shards and write
//!   their own slice of the result area. After the second barrier nobody reads shards: they may be
//!   written again at once.
//! - The result area is written only after the first barrier of an operation. A rank reaches it
//!   with `&mut self`, so it has done with the result that it was lent before. Hence a slow rank's
//!   result is never overwritten, and two barriers for each sum are enough.
//! - `broadcast` and `all_gather` move pieces through the result area, each between two barriers.
//!
//! Members say with one word each which operation they entered, which is compared after the first
//! barrier. It is not overwritten before all have read it: every operation but the barrier itself
//! has a second barrier, and the barrier compares nothing.

use super::barrier::{Barrier, abort};
use super::join::{Joined, join};
use super::layout::{Layout, WORD_OPERATIONS};
use super::mapping::{Area, Header};
use super::watch::Watch;
use super::{Collective, CollectiveError};
use evoring_jobs::tree::shards_of;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Time for all members to come; a restarted executor needs about a second.
const JOIN_TIME: Duration = Duration::from_secs(30);
/// Longest wait for living members in an operation. They load data and compute at their own
/// speed; dead ones are noticed at once, so this only ends a gang in which somebody hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// Who joins which gang.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This member, in `0..world_size`.
    pub rank: u32,
    /// Number of members, at most `shards`.
    pub world_size: u32,
    /// Micro-batches of one step, a power of two.
    pub shards: u32,
    /// Values of one shard.
    pub length: usize,
    /// Known to the members only.
    pub secret: [u8; 32],
    /// Ends every wait when it is set.
    pub stop: Arc<AtomicBool>,
    /// Time for all members to come.
    pub join_time: Duration,
    /// Longest wait for living members in an operation.
    pub patience: Duration,
}

impl Settings {
    /// Rank 0 of a gang of one, with the usual times; to be filled in.
    pub fn new(shards: u32, length: usize, secret: [u8; 32]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        Self {
            rank: 0,
            world_size: 1,
            shards,
            length,
            secret,
            stop,
            join_time: JOIN_TIME,
            patience: PATIENCE,
        }
    }
}

/// One member of a gang.
#[derive(Debug)]
pub struct Shm {
    rank: u32,
    layout: Layout,
    header: Arc<Header>,
    area: Area,
    barrier: Barrier,
    has_failed: bool,
    /// Its end tells the other members that this one is gone.
    _watch: Watch,
}

/// Operations, as members tell them to each other.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Sum = 1,
    Gather = 2,
    Broadcast = 3,
    Barrier = 4,
}

impl Operation {
    /// One word for an operation and its arguments; not zero. It finds mistakes, not forgers.
    fn word(self, length: usize, root: u32) -> u32 {
        let arguments = (length as u64)
            .wrapping_mul(31)
            .wrapping_add(u64::from(root));
        (self as u32) << 28 | (arguments % 0x0fff_ffff) as u32
    }
}

impl Shm {
    /// Joins a gang; the first rank waits until all others are here.
    pub fn join(settings: &Settings) -> Result<Self, CollectiveError> {
        let layout = Layout::new(settings.world_size, settings.shards, settings.length)?;
        let (rank, world_size) = (settings.rank, settings.world_size);
        if rank >= world_size {
            return Err(CollectiveError::Refused(format!(
                "rank {rank} of {world_size}"
            )));
        }
        let Joined {
            file,
            header,
            connections,
        } = join(settings, &layout)?;
        let header = Arc::new(header);
        let area = Area::map(&file, &layout)?;
        let barrier = Barrier::new(
            header.clone(),
            world_size,
            settings.patience,
            settings.stop.clone(),
        );
        let watch = Watch::begin(header.clone(), connections)?;
        Ok(Self {
            rank,
            layout,
            header,
            area,
            barrier,
            has_failed: false,
            _watch: watch,
        })
    }

    /// Begins an operation: all members are here and want the same.
    fn meet(&mut self, operation: u32) -> Result<(), CollectiveError> {
        self.enter(operation)?;
        let others = (0..self.layout.world_size)
            .map(|rank| (rank, self.operation(rank).load(Ordering::Relaxed)));
        match others.clone().find(|(_, other)| *other != operation) {
            None => Ok(()),
            Some((rank, other)) => {
                let message = format!(
                    "rank {} entered operation {operation:#010x}, rank {rank} {other:#010x}",
                    self.rank
                );
                Err(self.fail(CollectiveError::Refused(message)))
            }
        }
    }

    /// Says what this member wants and waits for the others.
    fn enter(&mut self, operation: u32) -> Result<(), CollectiveError> {
        if self.has_failed {
            let reason = "an earlier operation failed".to_owned();
            return Err(CollectiveError::Aborted { reason });
        }
        // The barrier orders it before the others' look.
        self.operation(self.rank)
            .store(operation, Ordering::Relaxed);
        self.wait()
    }

    fn operation(&self, rank: u32) -> &std::sync::atomic::AtomicU32 {
        self.header.word(WORD_OPERATIONS + rank as usize)
    }

    fn wait(&mut self) -> Result<(), CollectiveError> {
        self.barrier.wait().map_err(|error| self.fail(error))
    }

    /// After a failure the members' phases differ: none may go on.
    fn fail(&mut self, error: CollectiveError) -> CollectiveError {
        self.has_failed = true;
        abort(&self.header, self.rank);
        error
    }

    /// Sums this rank's slice over all shards into the result area.
    fn sum_slice(&mut self) -> Result<Range<usize>, CollectiveError> {
        self.meet(Operation::Sum.word(self.layout.length, 0))?;
        let slice = self.layout.slice(self.rank);
        self.area.sum(slice.clone());
        self.wait()?;
        Ok(slice)
    }
}

impl Collective for Shm {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world_size(&self) -> u32 {
        self.layout.world_size
    }

    fn shards(&self) -> Range<u32> {
        shards_of(self.rank, self.layout.world_size, self.layout.shards)
    }

    fn shard_buffer(&mut self, shard: u32) -> &mut [f32] {
        assert!(
            self.shards().contains(&shard),
            "shard {shard}: rank {} holds {:?}",
            self.rank,
            self.shards()
        );
        self.area.shard_mut(shard)
    }

    fn all_reduce(&mut self) -> Result<&[f32], CollectiveError> {
        self.sum_slice()?;
        Ok(self.area.result(0..self.layout.length))
    }

    fn reduce_scatter(&mut self) -> Result<(Range<usize>, &[f32]), CollectiveError> {
        let slice = self.sum_slice()?;
        Ok((slice.clone(), self.area.result(slice)))
    }

    fn all_gather(&mut self, own: &[f32], all: &mut [f32]) -> Result<(), CollectiveError> {
        let (ranks, length) = (self.layout.world_size as usize, own.len());
        if length.checked_mul(ranks) != Some(all.len()) {
            let message = format!(
                "gather {length} values of each of {ranks} ranks into {}",
                all.len()
            );
            return Err(self.fail(CollectiveError::Refused(message)));
        }
        self.meet(Operation::Gather.word(length, 0))?;
        let piece = self.layout.result_floats() / ranks;
        for start in (0..length).step_by(piece) {
            let count = piece.min(length - start);
            let place = self.rank as usize * piece;
            self.area
                .result_mut(place..place + count)
                .copy_from_slice(&own[start..start + count]);
            self.wait()?;
            for (rank, values) in all.chunks_exact_mut(length).enumerate() {
                let place = rank * piece;
                values[start..start + count]
                    .copy_from_slice(self.area.result(place..place + count));
            }
            self.wait()?;
        }
        // Nothing to gather: keep the members' words until all have compared them.
        if length == 0 { self.wait() } else { Ok(()) }
    }

    fn broadcast(&mut self, root: u32, values: &mut [f32]) -> Result<(), CollectiveError> {
        if root >= self.layout.world_size {
            let message = format!("broadcast from rank {root} of {}", self.layout.world_size);
            return Err(self.fail(CollectiveError::Refused(message)));
        }
        self.meet(Operation::Broadcast.word(values.len(), root))?;
        for piece in values.chunks_mut(self.layout.result_floats()) {
            let place = 0..piece.len();
            if self.rank == root {
                self.area.result_mut(place.clone()).copy_from_slice(piece);
            }
            self.wait()?;
            if self.rank != root {
                piece.copy_from_slice(self.area.result(place));
            }
            self.wait()?;
        }
        if values.is_empty() {
            self.wait()
        } else {
            Ok(())
        }
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.enter(Operation::Barrier.word(0, 0))
    }
}
