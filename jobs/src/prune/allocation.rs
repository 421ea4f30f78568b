//! Width allocations for the L1-norm baseline, and random chromosomes of given widths.

use super::job::PruneJob;
use crate::evolution::Chromosome;
use crate::network::SizeFormula;
use crate::random::{Purpose, Stream};
use std::ops::Range;

/// Steps of the common factor that scales an allocation before it is grown filter by filter.
const SCALE_STEPS: u32 = 1 << 12;
/// Draws for one allocation before a repeated one is given up.
const TRIES: u64 = 32;

/// `count` different allocations of at most `budget` parameters, each as large as it can be: the
/// first keeps the same share of every layer, the others draw a share for each layer; all are
/// scaled to the budget and then grown one filter at a time until none fits any more. Fewer come
/// back where a small net has not that many.
pub fn allocations(job: &PruneJob, purpose: Purpose, budget: u64, count: u32) -> Vec<Vec<u32>> {
    let filters: Vec<u32> = job
        .network
        .prunable()
        .iter()
        .map(|layer| layer.filters)
        .collect();
    let formula = job.network.size_formula();
    let mut found: Vec<Vec<u32>> = Vec::new();
    for index in 0..u64::from(count) {
        for attempt in 0..TRIES {
            let mut stream = Stream::new(job.seed, purpose, 1 + index, attempt);
            let mut share = |_: &u32| {
                if index == 0 {
                    1.0
                } else {
                    0.1 + 0.9 * stream.uniform()
                }
            };
            let shares: Vec<f64> = filters.iter().map(&mut share).collect();
            let widths = grown(&formula, &filters, &shares, budget);
            if !found.contains(&widths) {
                found.push(widths);
                break;
            }
        }
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
        let all = allocations(&job, Purpose::Allocation, budget, 60);
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
        assert_eq!(allocations(&job, Purpose::Allocation, budget, 60), all);
    }

    /// Claim: an allocation exists for every budget that one filter a layer fits, up to the full net.
    #[test]
    fn any_budget_is_met() {
        let job = lenet();
        let formula = job.network.size_formula();
        let smallest = formula.parameters(&[1, 1, 1]);
        for budget in [smallest, smallest + 1, 5_000, 431_079, 431_080, u64::MAX] {
            let all = allocations(&job, Purpose::Allocation, budget, 4);
            assert!(
                !all.is_empty()
                    && all
                        .iter()
                        .all(|widths| formula.parameters(widths) <= budget)
            );
        }
        assert_eq!(
            allocations(&job, Purpose::Allocation, smallest, 4),
            [[1, 1, 1]]
        );
        assert_eq!(
            allocations(&job, Purpose::Allocation, u64::MAX, 4),
            [[20, 50, 500]]
        );
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
