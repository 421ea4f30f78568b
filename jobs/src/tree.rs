//! The one fixed balanced binary tree over shards: who computes which, and how they are summed.

use std::ops::Range;

/// Shards that `rank` of `world_size` ranks computes: consecutive, so that every rank holds whole
/// subtrees as far as the numbers allow. Empty if there are more ranks than shards.
///
/// With 4 shards: 2 ranks hold 0–1 and 2–3; 3 ranks hold 0–1, 2 and 3.
pub fn shards_of(rank: u32, world_size: u32, shards: u32) -> Range<u32> {
    let world_size = world_size.max(1);
    // The first ranks take one more.
    let (each, more) = (shards / world_size, shards % world_size);
    let start = |rank: u32| rank * each + rank.min(more);
    start(rank.min(world_size))..start((rank + 1).min(world_size))
}

/// `out[i]` = sum over shards of `parts[shard][i]`, for `i` in `elements`, by the fixed tree:
/// neighbours first. The number of parts is a power of two, all of them as long as `out` or longer.
///
/// # Panics
/// If a part is too short.
pub fn tree_sum(parts: &[&[f32]], elements: Range<usize>, out: &mut [f32]) {
    /// Elements summed at once: four parts of it stay in the first-level cache.
    const BLOCK: usize = 512;
    let mut scratch = vec![0f32; BLOCK * parts.len().max(1)];
    for start in elements.clone().step_by(BLOCK) {
        let block = start..elements.end.min(start + BLOCK);
        let length = block.len();
        for (part, row) in parts.iter().zip(scratch.chunks_exact_mut(BLOCK)) {
            row[..length].copy_from_slice(&part[block.clone()]);
        }
        let mut distance = 1;
        while distance < parts.len() {
            for pair in scratch.chunks_mut(2 * distance * BLOCK) {
                let (left, right) = pair.split_at_mut((distance * BLOCK).min(pair.len()));
                if !right.is_empty() {
                    left[..length]
                        .iter_mut()
                        .zip(&right[..length])
                        .for_each(|(a, b)| *a += *b);
                }
            }
            distance *= 2;
        }
        out[block].copy_from_slice(&scratch[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: the sum is ((s0+s1)+(s2+s3)), for every element, whatever range is asked.
    #[test]
    fn four_shards_are_summed_by_pairs() {
        let part = |shard: u32| -> Vec<f32> {
            (0..1500)
                .map(|i| [1.0, 1e7][shard as usize % 2] + 0.1 * i as f32 + shard as f32)
                .collect()
        };
        let parts: Vec<Vec<f32>> = (0..4).map(part).collect();
        let slices: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
        let mut out = vec![0f32; 1500];
        tree_sum(&slices, 0..700, &mut out);
        tree_sum(&slices, 700..1500, &mut out);
        for (i, sum) in out.iter().enumerate() {
            let expected = (parts[0][i] + parts[1][i]) + (parts[2][i] + parts[3][i]);
            assert_eq!(sum.to_bits(), expected.to_bits());
        }
    }

    /// Claim: ranks share out all shards, in order, without gaps.
    #[test]
    fn ranks_hold_consecutive_shards() {
        for shards in [1, 2, 4, 8] {
            for world_size in 1..=shards {
                let all: Vec<u32> = (0..world_size)
                    .flat_map(|rank| shards_of(rank, world_size, shards))
                    .collect();
                assert_eq!(all, (0..shards).collect::<Vec<u32>>());
                assert!(
                    (0..world_size).all(|rank| !shards_of(rank, world_size, shards).is_empty())
                );
            }
        }
        assert_eq!(shards_of(0, 3, 4), 0..2);
    }
}
