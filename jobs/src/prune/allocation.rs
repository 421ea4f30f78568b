//! Width allocations for the L1-norm baseline, and random chromosomes of given widths.

use super::job::PruneJob;
use crate::evolution::Chromosome;
use crate::network::{Layer, SizeFormula};
use crate::random::{Purpose, Stream};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Steps of the common factor that scales an allocation before it is grown filter by filter.
const SCALE_STEPS: u32 = 1 << 12;
/// Draws that give known allocations, one after the other, before no more are looked for.
const MISSES: u64 = 32;

/// From what the shares of an allocation's layers are drawn. Only their ratios count: all are
/// scaled to the budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// Convolutions: from, to.
    pub conv: [f64; 2],
    /// Dense layers: from, to.
    pub dense: [f64; 2],
}

impl Shares {
    /// Every layer alike.
    pub const EVEN: Self = Self {
        conv: [0.1, 1.0],
        dense: [0.1, 1.0],
    };
}

/// `count` different allocations of at most `budget` parameters, each as large as it can be: the
/// first has the middle of each layer's range of shares, the others draw a share for each layer;
/// all are scaled to the budget and then grown one filter at a time until none fits any more.
/// Fewer come back where a small net has not that many.
pub fn allocations(
    job: &PruneJob,
    purpose: Purpose,
    shares: &Shares,
    budget: u64,
    count: u32,
) -> Vec<Vec<u32>> {
    let layers = job.network.prunable();
    let filters: Vec<u32> = layers.iter().map(|layer| layer.filters).collect();
    let formula = job.network.size_formula();
    different(count, |index, attempt| {
        let mut stream = Stream::new(job.seed, purpose, 1 + index, attempt);
        let drawn = layers.iter().map(|layer| {
            let [low, high] = match job.network.layers.get(layer.layer) {
                Some(Layer::Conv { .. }) => shares.conv,
                _ => shares.dense,
            };
            let place = if index == 0 { 0.5 } else { stream.uniform() };
            low + (high - low) * place
        });
        let drawn: Vec<f64> = drawn.collect();
        grown(&formula, &filters, &drawn, budget)
    })
}

/// Up to `count` different values of `draw(index, attempt)`. A small net may have fewer: a run of
/// [`MISSES`] draws without a new one ends the search, so that a step of the driver stays short.
fn different(count: u32, mut draw: impl FnMut(u64, u64) -> Vec<u32>) -> Vec<Vec<u32>> {
    let mut found: Vec<Vec<u32>> = Vec::new();
    for index in 0..u64::from(count) {
        let new = (0..MISSES)
            .map(|attempt| draw(index, attempt))
            .find(|widths| !found.contains(widths));
        let Some(widths) = new else { break };
        found.push(widths);
    }
    found
}

/// The largest widths in these proportions with at most `budget` parameters; at least one filter
/// in each layer.
fn grown(formula: &SizeFormula, filters: &[u32], shares: &[f64], budget: u64) -> Vec<u32> {
    // At the last step every layer is whole, so that growing one by one has little left to do.
    let smallest_share = shares.iter().copied().min_by(f64::total_cmp).unwrap_or(1.0);
    let scaled = |step: u32| -> Vec<u32> {
        let scale = f64::from(step) / f64::from(SCALE_STEPS) / smallest_share;
        let width = |(filters, share): (&u32, &f64)| {
            ((f64::from(*filters) * share * scale) as u32).clamp(1, *filters)
        };
        filters.iter().zip(shares).map(width).collect()
    };
    let fits = |widths: &[u32]| formula.parameters(widths) <= budget;
    // Parameters grow with the step, so bisection finds the last one that fits.
    let (mut fitting, mut too_large) = (0, SCALE_STEPS + 1);
    while too_large - fitting > 1 {
        let middle = (fitting + too_large) / 2;
        if fits(&scaled(middle)) {
            fitting = middle
        } else {
            too_large = middle
        }
    }
    let mut widths = scaled(fitting);
    let mut has_grown = true;
    while has_grown {
        has_grown = false;
        for layer in 0..widths.len() {
            if widths[layer] < filters[layer] {
                widths[layer] += 1;
                if fits(&widths) {
                    has_grown = true
                } else {
                    widths[layer] -= 1
                }
            }
        }
    }
    widths
}

/// Random chromosome number `index` with these widths.
pub fn random_of_widths(
    layers: &[Range<u32>],
    widths: &[u32],
    seed: u64,
    index: u64,
) -> Chromosome {
    let mut stream = Stream::new(seed, Purpose::RandomSearch, 0, index);
    let mut chromosome = Chromosome::zeros(layers.last().map_or(0, |last| last.end));
    for (layer, width) in layers.iter().zip(widths) {
        // The first steps of Fisher–Yates choose without replacement.
        let mut genes: Vec<u32> = layer.clone().collect();
        for place in 0..(*width as usize).min(genes.len()) {
            let other = place + stream.below((genes.len() - place) as u64) as usize;
            genes.swap(place, other);
            chromosome.set(genes[place], true);
        }
    }
    chromosome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::JobDriver;

    fn lenet() -> PruneJob {
        let text = "name = \"x\"\nkind = \"evolve.prune\"\n[data]\nset = \"fashion-mnist\"\n[network]\nname = \"lenet\"";
        let JobDriver::PruneV1(driver) = crate::spec::parse("x.toml", text).unwrap().driver;
        driver.job().clone()
    }

    /// Claim: LeNet has 48 and more different allocations, each within the budget, and no filter
    /// can be added to any; they cover small and large shares of every layer.
    #[test]
    fn allocations_are_different_and_full() {
        let job = lenet();
        let budget = job.parameter_budget();
        let formula = job.network.size_formula();
        let all = allocations(&job, Purpose::Allocation, &Shares::EVEN, budget, 60);
        assert_eq!(all.len(), 60);
        for widths in &all {
            assert!(formula.parameters(widths) <= budget);
            for layer in 0..3 {
                let mut wider = widths.clone();
                wider[layer] += 1;
                assert!(
                    wider[layer] > [20, 50, 500][layer] || formula.parameters(&wider) > budget,
                    "{widths:?}"
                );
            }
        }
        for layer in 0..3 {
            let shares: Vec<u32> = all
                .iter()
                .map(|widths| widths[layer] * 100 / [20, 50, 500][layer])
                .collect();
            assert!(
                shares.iter().any(|share| *share < 25) && shares.iter().any(|share| *share > 70),
                "{shares:?}"
            );
        }
        assert_eq!(
            allocations(&job, Purpose::Allocation, &Shares::EVEN, budget, 60),
            all
        );
    }

    /// Claim: shares of one kind of layer widen that kind. Method: LeNet's convolutions with shares
    /// of at least half, its dense layer with at most 0.3, against even shares.
    #[test]
    fn shares_are_those_of_the_kind_of_layer() {
        let job = lenet();
        let shares = Shares {
            conv: [0.5, 1.0],
            dense: [0.05, 0.3],
        };
        let budget = job.parameter_budget();
        let all = allocations(&job, Purpose::FirstGeneration, &shares, budget, 31);
        assert_eq!(all.len(), 31);
        for widths in &all {
            let kept = |layer: usize| f64::from(widths[layer]) / [20.0, 50.0, 500.0][layer];
            assert!(kept(0) > kept(2) && kept(1) > kept(2), "{widths:?}");
        }
    }

    /// Claim: an allocation exists for every budget that one filter a layer fits, up to the full net.
    #[test]
    fn any_budget_is_met() {
        let job = lenet();
        let formula = job.network.size_formula();
        let smallest = formula.parameters(&[1, 1, 1]);
        for budget in [smallest, smallest + 1, 5_000, 431_079, 431_080, u64::MAX] {
            let all = allocations(&job, Purpose::Allocation, &Shares::EVEN, budget, 4);
            assert!(
                !all.is_empty()
                    && all
                        .iter()
                        .all(|widths| formula.parameters(widths) <= budget)
            );
        }
        assert_eq!(
            allocations(&job, Purpose::Allocation, &Shares::EVEN, smallest, 4),
            [[1, 1, 1]]
        );
        assert_eq!(
            allocations(&job, Purpose::Allocation, &Shares::EVEN, u64::MAX, 4),
            [[20, 50, 500]]
        );
    }

    /// Claim: where there are no more allocations, one run of misses ends the search; misses in
    /// between do not. Method: draws are counted, among 3 and among 1,000 different values.
    #[test]
    fn a_run_of_misses_ends_the_search() {
        let search = |count: u32, values: u64, hit_every: u64| {
            let mut draws = 0;
            let found = different(count, |_, _| {
                draws += 1;
                vec![(draws / hit_every % values) as u32]
            });
            (found.len(), draws)
        };
        assert_eq!(search(1_000, 3, 1), (3, 3 + MISSES));
        assert_eq!(search(100, 1_000, 31), (100, 99 * 31));
        assert_eq!(search(0, 3, 1), (0, 0));
    }

    /// Claim: random chromosomes have the widths, differ, and choose every filter equally often.
    #[test]
    fn random_chromosomes_have_the_widths() {
        let job = lenet();
        let layers = job.layers();
        let mut counts = [0u32; 20];
        for index in 0..4_000 {
            let genome = random_of_widths(&layers, &[5, 20, 100], 3, index);
            assert_eq!(job.network.widths(&genome), [5, 20, 100]);
            (0..20).for_each(|gene| counts[gene as usize] += u32::from(genome.gene(gene)));
        }
        assert!(
            counts.iter().all(|count| (880..1120).contains(count)),
            "{counts:?}"
        );
    }
}
