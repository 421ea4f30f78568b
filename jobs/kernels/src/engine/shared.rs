//! What chromosomes share: outputs of filters, kept until memory is needed.
//!
//! What a filter gives depends on the genes of the layers in front of it, and on nothing else of
//! the chromosome. Breeding copies long runs of genes, so most of a child's filters have been
//! computed for a parent: crossover or inversion of a segment leaves every layer in front of the
//! segment as it was. An entry holds the filters of one stage for one choice of genes in front.

use super::lanes::Lanes;
use evoring_jobs::evolution::Chromosome;

/// Filters of one stage for one choice of the genes in front of it.
#[derive(Debug)]
pub struct Entry {
    stage: usize,
    /// The genes of the stages in front.
    prefix: Chromosome,
    /// Which filters have been computed.
    has: Vec<bool>,
    /// `[block][filter][value]`.
    values: Vec<Lanes>,
    used: u64,
}

/// Entries up to a bound in bytes; the one unused for longest makes room.
#[derive(Debug)]
pub struct Entries {
    limit_bytes: usize,
    bytes: usize,
    clock: u64,
    entries: Vec<Entry>,
}

/// How many entries must fit for a stage to be shared; with fewer, they would push each other out
/// before they are met again.
const FEWEST_ENTRIES: usize = 8;

impl Entries {
    /// Entries of at most `limit_bytes` together.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            bytes: 0,
            clock: 0,
            entries: Vec::new(),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the entry of `stage` behind the genes `prefix` out, to be put back after use; makes an
    /// empty one if there is none. `None` if entries of this size are not shared.
    pub fn take(
        &mut self,
        stage: usize,
        prefix: &Chromosome,
        filters: usize,
        values: usize,
    ) -> Option<Entry> {
        let bytes = values.saturating_mul(size_of::<Lanes>());
        if bytes > self.limit_bytes / FEWEST_ENTRIES {
            return None;
        }
        self.clock += 1;
        let known = self
            .entries
            .iter()
            .position(|entry| entry.stage == stage && entry.prefix == *prefix);
        if let Some(index) = known {
            let mut entry = self.entries.swap_remove(index);
            entry.used = self.clock;
            return Some(entry);
        }
        let mut recycled = None;
        while self.bytes + bytes > self.limit_bytes {
            let oldest = (0..self.entries.len()).min_by_key(|index| self.entries[*index].used)?;
            let entry = self.entries.swap_remove(oldest);
            self.bytes -= entry.bytes();
            // The zeros around planes are where they were, so long as it is the same stage.
            if entry.stage == stage {
                recycled = Some(entry.values);
            }
        }
        self.bytes += bytes;
        let values = recycled.unwrap_or_else(|| vec![Lanes::ZERO; values]);
        Some(Entry {
            stage,
            prefix: prefix.clone(),
            has: vec![false; filters],
            values,
            used: self.clock,
        })
    }

    /// Puts an entry back.
    pub fn put(&mut self, entry: Entry) {
        self.entries.push(entry);
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        self.values.len() * size_of::<Lanes>()
    }

    /// Those of `filters` that have not been computed.
    pub fn missing(&self, filters: &[u32]) -> Vec<u32> {
        filters
            .iter()
            .copied()
            .filter(|filter| !self.has[*filter as usize])
            .collect()
    }

    /// Notes that `filters` are there now, in every block.
    pub fn mark(&mut self, filters: &[u32]) {
        filters
            .iter()
            .for_each(|filter| self.has[*filter as usize] = true);
    }

    /// Values of one of `blocks` blocks.
    pub fn block(&self, block: usize, blocks: usize) -> &[Lanes] {
        let each = self.values.len() / blocks;
        &self.values[block * each..][..each]
    }

    /// Like [`Entry::block`], to write.
    pub fn block_mut(&mut self, block: usize, blocks: usize) -> &mut [Lanes] {
        let each = self.values.len() / blocks;
        &mut self.values[block * each..][..each]
    }
}
