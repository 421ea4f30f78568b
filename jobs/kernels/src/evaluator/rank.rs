//! Kernel `prune.rank`: the order of a layer's filters by L1 norm.

use crate::KernelError;
use crate::weights::{Weights, float_values};
use evoring_jobs::calls::{RankCall, RankItem};
use std::path::Path;

/// Ranks of some filters within their layer, 0 = largest norm, ties by index.
pub fn filters(call: &RankCall, weights: &Path, item: &RankItem) -> Result<Vec<u16>, KernelError> {
    call.network
        .validate()
        .map_err(|error| KernelError::Unfit(error.to_string()))?;
    let prunable = call.network.prunable();
    let unfit = || {
        KernelError::Unfit(format!(
            "{item:?} does not fit the network's {} prunable layers",
            prunable.len()
        ))
    };
    let layer = prunable.get(item.layer as usize).ok_or_else(unfit)?;
    let end = item
        .first
        .checked_add(item.count)
        .filter(|end| *end <= layer.filters)
        .ok_or_else(unfit)?;
    let weights = Weights::load(weights, &call.network)?;
    let ranks = ranks(
        &float_values(weights.tensor(layer.layer, "weight")),
        layer.filters as usize,
    );
    Ok(ranks[item.first as usize..end as usize].to_vec())
}

/// Rank of each of `filters` filters whose weights lie one after the other.
fn ranks(weights: &[f32], filters: usize) -> Vec<u16> {
    let norm = |filter: &[f32]| {
        filter
            .iter()
            .map(|value| f64::from(value.abs()))
            .sum::<f64>()
    };
    let norms: Vec<f64> = weights
        .chunks_exact(weights.len() / filters)
        .map(norm)
        .collect();
    let mut order: Vec<usize> = (0..filters).collect();
    order.sort_by(|a, b| norms[*b].total_cmp(&norms[*a]).then(a.cmp(b)));
    let mut ranks = vec![0; filters];
    order
        .into_iter()
        .enumerate()
        .for_each(|(rank, filter)| ranks[filter] = rank as u16);
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: the largest norm has rank 0, signs do not matter, equal norms go by index.
    #[test]
    fn largest_first_ties_by_index() {
        assert_eq!(
            ranks(&[1.0, 1.0, -3.0, 0.0, 2.0, 0.0, 0.0, -2.0], 4),
            [1, 0, 2, 3]
        );
    }
}
