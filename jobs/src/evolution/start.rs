//! First generations.

use super::{Breeding, Chromosome, Individual, Operator, Start, repair};
use crate::random::{Purpose, Stream};
use std::ops::Range;

/// The chromosome that keeps the strongest filters: `widths[l]` of layer `l` in the order of
/// `l1[l]`, which lists the layer's filters from the largest L1 norm to the smallest.
pub fn strongest(layers: &[Range<u32>], l1: &[Vec<u32>], widths: &[u32]) -> Chromosome {
    let mut chromosome = Chromosome::zeros(layers.last().map_or(0, |last| last.end));
    for ((layer, order), width) in layers.iter().zip(l1).zip(widths) {
        order
            .iter()
            .take(*width as usize)
            .for_each(|filter| chromosome.set(layer.start + filter, true));
    }
    chromosome
}

/// Generation 0. Untuned random masks give chance accuracy, after which the size term alone would
/// rule; so all kinds but [`Start::Bernoulli`] contain the full net as their first individual.
/// `allocations` are the widths that [`Start::L1Target`] uses.
pub fn first_generation(
    breeding: &Breeding,
    layers: &[Range<u32>],
    l1: &[Vec<u32>],
    allocations: &[Vec<u32>],
    seed: u64,
) -> Vec<Individual> {
    let genes = layers.last().map_or(0, |last| last.end);
    let individual = |index: u32| {
        let mut stream = Stream::new(seed, Purpose::FirstGeneration, 0, u64::from(index));
        let genome = match breeding.start {
            Start::KeepRates | Start::L1 | Start::L1Target if index == 0 => Chromosome::ones(genes),
            Start::KeepRates => {
                let rate = between(breeding.keep_rates, &mut stream);
                bernoulli(genes, rate, &mut stream)
            }
            Start::Bernoulli => bernoulli(genes, 0.5, &mut stream),
            Start::L1 => {
                let width = |layer: &Range<u32>| {
                    let filters = layer.end - layer.start;
                    let kept = between(breeding.keep_rates, &mut stream) * f64::from(filters);
                    (libm::round(kept) as u32).clamp(1, filters)
                };
                let widths: Vec<u32> = layers.iter().map(width).collect();
                strongest(layers, l1, &widths)
            }
            // A small net may have fewer allocations than the population has members.
            Start::L1Target => {
                let place = (index as usize - 1) % allocations.len().max(1);
                let whole: Vec<u32> = layers.iter().map(|layer| layer.end - layer.start).collect();
                strongest(layers, l1, allocations.get(place).unwrap_or(&whole))
            }
        };
        let mut genome = genome;
        repair(&mut genome, layers, &mut stream);
        Individual::new(genome, Operator::Initial, Vec::new())
    };
    (0..breeding.population).map(individual).collect()
}

fn between([low, high]: [f64; 2], stream: &mut Stream) -> f64 {
    low + (high - low) * stream.uniform()
}

fn bernoulli(genes: u32, rate: f64, stream: &mut Stream) -> Chromosome {
    let mut chromosome = Chromosome::zeros(genes);
    (0..genes).for_each(|gene| chromosome.set(gene, stream.uniform() < rate));
    chromosome
}

#[cfg(test)]
mod tests {
    use super::super::breeding::tests::settings;
    use super::*;

    const LAYERS: [Range<u32>; 3] = [0..20, 20..70, 70..570];

    fn l1() -> Vec<Vec<u32>> {
        LAYERS
            .iter()
            .map(|layer| (0..layer.end - layer.start).rev().collect())
            .collect()
    }

    /// Claim: the start of the paper's preset holds the full net, and every other individual keeps a
    /// share of its genes inside the stated range: untuned random masks answer at chance,
    /// and a population of them would only shrink.
    #[test]
    fn first_generation_starts_from_high_keep_rates() {
        let breeding = Breeding {
            start: Start::KeepRates,
            keep_rates: [0.7, 0.95],
            ..settings()
        };
        let generation = first_generation(&breeding, &LAYERS, &l1(), &[], 1);
        assert_eq!(generation.len(), 32);
        assert_eq!(generation[0].genome, Chromosome::ones(570));
        let share = |individual: &Individual| f64::from(individual.genome.count(0..570)) / 570.0;
        assert!(
            generation[1..]
                .iter()
                .all(|each| (0.63..=0.99).contains(&share(each)))
        );
        let mean = generation[1..].iter().map(share).sum::<f64>() / 31.0;
        assert!((mean - 0.825).abs() < 0.04, "{mean}");
    }

    /// Claim: L1 individuals keep the strongest filters of each layer, at rates inside the range;
    /// Bernoulli ones keep half.
    #[test]
    fn other_starts_do_as_they_say() {
        let breeding = Breeding {
            start: Start::L1,
            keep_rates: [0.15, 0.95],
            ..settings()
        };
        for individual in &first_generation(&breeding, &LAYERS, &l1(), &[], 1)[1..] {
            for (layer, order) in LAYERS.iter().zip(l1()) {
                let width = individual.genome.count(layer.clone());
                let filters = f64::from(layer.end - layer.start);
                assert!(
                    (0.15 - 0.5 / filters..=0.95 + 0.5 / filters)
                        .contains(&(f64::from(width) / filters))
                );
                assert!(
                    order[..width as usize]
                        .iter()
                        .all(|filter| individual.genome.gene(layer.start + filter))
                );
            }
        }
        let breeding = Breeding {
            start: Start::Bernoulli,
            ..settings()
        };
        let generation = first_generation(&breeding, &LAYERS, &l1(), &[], 1);
        let ones: u32 = generation
            .iter()
            .map(|each| each.genome.count(0..570))
            .sum();
        assert!((f64::from(ones) / (32.0 * 570.0) - 0.5).abs() < 0.02);
    }
}
