//! How ranks put their shards together; the executor brings the shared-memory one.

use evoring_jobs::tree::tree_sum;
use std::ops::Range;

/// A sum that did not come about: a member is gone, or the gang was told to stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExchangeError(pub String);

/// Sums one vector per shard over all shards, with the same bits on every rank.
pub trait GradientExchange {
    /// Shards that this rank computes.
    fn shards(&self) -> Range<u32>;
    /// Where to write shard `shard`, one of [`GradientExchange::shards`].
    fn shard_buffer(&mut self, shard: u32) -> &mut [f32];
    /// Sums all shards' buffers by the fixed tree. All ranks call it together.
    fn reduce(&mut self) -> Result<&[f32], ExchangeError>;
    /// Whether this rank writes files.
    fn is_first_rank(&self) -> bool;
}

/// One rank that computes every shard: the reference for all others.
#[derive(Debug)]
pub struct SingleProcess {
    parts: Vec<Vec<f32>>,
    sum: Vec<f32>,
}

impl SingleProcess {
    /// For `shards` shards of `length` values.
    pub fn new(shards: u32, length: usize) -> Self {
        Self {
            parts: vec![vec![0.0; length]; shards as usize],
            sum: vec![0.0; length],
        }
    }
}

impl GradientExchange for SingleProcess {
    fn shards(&self) -> Range<u32> {
        0..self.parts.len() as u32
    }

    fn shard_buffer(&mut self, shard: u32) -> &mut [f32] {
        &mut self.parts[shard as usize]
    }

    fn reduce(&mut self) -> Result<&[f32], ExchangeError> {
        let parts: Vec<&[f32]> = self.parts.iter().map(Vec::as_slice).collect();
        let length = self.sum.len();
        tree_sum(&parts, 0..length, &mut self.sum);
        Ok(&self.sum)
    }

    fn is_first_rank(&self) -> bool {
        true
    }
}
