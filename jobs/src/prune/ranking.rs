//! Order of filters by L1 norm, from which the driver makes every L1-norm pruning itself.

use super::job::PruneJob;
use super::step::{error, results};
use crate::calls::RankItem;
use crate::driver::DriverError;

/// Filters of one ranking item: their ranks fit into one result.
const RANK_FILTERS: u32 = 100;

/// What to ask for: every filter of every prunable layer once.
pub(super) fn rank_items(job: &PruneJob) -> Vec<RankItem> {
    let mut items = Vec::new();
    for (layer, prunable) in job.network.prunable().iter().enumerate() {
        for first in (0..prunable.filters).step_by(RANK_FILTERS as usize) {
            let count = RANK_FILTERS.min(prunable.filters - first);
            items.push(RankItem {
                layer: layer as u32,
                first,
                count,
            });
        }
    }
    items
}

/// Filters of each layer by rank, from the ranks of filters.
pub(super) fn l1_order(job: &PruneJob, bytes: &[Vec<u8>]) -> Result<Vec<Vec<u32>>, DriverError> {
    let items = rank_items(job);
    let ranks: Vec<Vec<u16>> = results("ranking", bytes, items.len())?;
    let mut order: Vec<Vec<Option<u32>>> = job
        .network
        .prunable()
        .iter()
        .map(|layer| vec![None; layer.filters as usize])
        .collect();
    for (
        RankItem {
            layer,
            first,
            count,
        },
        ranks,
    ) in items.iter().zip(&ranks)
    {
        let wrong = || {
            error(format!(
                "ranking: layer {layer}: expected each rank once, got {ranks:?} for {count} filters from {first}"
            ))
        };
        if ranks.len() != *count as usize {
            return Err(wrong());
        }
        for (filter, rank) in (*first..).zip(ranks) {
            let place = order[*layer as usize]
                .get_mut(usize::from(*rank))
                .ok_or_else(wrong)?;
            if place.replace(filter).is_some() {
                return Err(wrong());
            }
        }
    }
    let whole = |layer: Vec<Option<u32>>| layer.into_iter().collect::<Option<Vec<u32>>>();
    let order: Option<Vec<Vec<u32>>> = order.into_iter().map(whole).collect();
    order.ok_or_else(|| error("ranking: a rank is missing"))
}
