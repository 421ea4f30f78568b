//! Where things lie in a gang's shared mapping.
//!
//! ```text
//! header    whole pages of 32-bit words: see the constants below
//! shards    one buffer for each shard, `stride` floats apart
//! result    `max(length, world size)` floats, rounded up
//! ```

use super::CollectiveError;
use std::ops::Range;

/// First word: "EVRG".
pub const MAGIC: u32 = 0x4752_5645;
/// Word of [`MAGIC`].
pub const WORD_MAGIC: usize = 0;
/// Word of the number of members.
pub const WORD_WORLD_SIZE: usize = 1;
/// Word of the number of shards.
pub const WORD_SHARDS: usize = 2;
/// Words of the length, low half first.
pub const WORD_LENGTH: usize = 3;
/// Word that counts the arrivals at the current barrier; on a cache line of its own, as are the
/// next two.
pub const WORD_ARRIVED: usize = 16;
/// Word of the barrier's round; waiting members sleep on it.
pub const WORD_ROUND: usize = 32;
/// Word that is zero, or 1 + the rank that is gone.
pub const WORD_ABORT: usize = 48;
/// First of one word for each rank: the operation that it entered last.
pub const WORD_OPERATIONS: usize = 64;

/// Floats of a cache line: buffers and slices begin on one, so that ranks do not share lines.
const LINE_FLOATS: usize = 16;
/// Mappings of the second part must begin on a page.
const PAGE_BYTES: usize = 4096;
/// Most bytes of one gang's mapping; far above any network that a host can hold.
const MAX_BYTES: usize = 1 << 38;

/// Sizes of one gang's mapping. Every member computes it from its own call and compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Number of members.
    pub world_size: u32,
    /// Number of shards, a power of two.
    pub shards: u32,
    /// Values of one shard.
    pub length: usize,
}

impl Layout {
    /// Checks that the gang is possible and small enough.
    pub fn new(world_size: u32, shards: u32, length: usize) -> Result<Self, CollectiveError> {
        let layout = Self {
            world_size,
            shards,
            length,
        };
        let is_possible = world_size > 0
            && world_size <= evoring_protocol::limits::GANG_RANKS
            && shards.is_power_of_two()
            && world_size <= shards
            && length > 0;
        let bytes = length.checked_add(2 * LINE_FLOATS + world_size as usize);
        let bytes = bytes.and_then(|floats| floats.checked_mul(4 * (shards as usize + 1)));
        let is_small = bytes.is_some_and(|bytes| bytes <= MAX_BYTES);
        if is_possible && is_small {
            Ok(layout)
        } else {
            let expected = "1 to `shards` members, a power of two of shards, at least one value, at most 256 GiB in all";
            Err(CollectiveError::Refused(format!(
                "a gang of {layout}: expected {expected}"
            )))
        }
    }

    /// Bytes in front of the floats.
    pub fn header_bytes(&self) -> usize {
        (4 * (WORD_OPERATIONS + self.world_size as usize)).next_multiple_of(PAGE_BYTES)
    }

    /// Floats from one shard's buffer to the next one's.
    pub fn stride(&self) -> usize {
        self.length.next_multiple_of(LINE_FLOATS)
    }

    /// Floats of the result area; at least one for each member, for gathering.
    pub fn result_floats(&self) -> usize {
        self.length
            .max(self.world_size as usize)
            .next_multiple_of(LINE_FLOATS)
    }

    /// Floats behind the header.
    pub fn floats(&self) -> usize {
        self.stride() * self.shards as usize + self.result_floats()
    }

    /// Bytes of the whole mapping.
    pub fn bytes(&self) -> usize {
        self.header_bytes() + 4 * self.floats()
    }

    /// Elements that `rank` sums.
    pub fn slice(&self, rank: u32) -> Range<usize> {
        let each = self
            .length
            .div_ceil(self.world_size as usize)
            .next_multiple_of(LINE_FLOATS);
        let bound = |rank: u32| (rank as usize * each).min(self.length);
        bound(rank)..bound(rank + 1)
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ranks, {} shards of {} values",
            self.world_size, self.shards, self.length
        )
    }
}
