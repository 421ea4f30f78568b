//! Making new chromosomes from old ones. `layers` are the gene ranges that must never be empty.

use super::Chromosome;
use crate::network::SizeFormula;
use crate::random::Stream;
use std::ops::Range;

/// A random segment; both ends are drawn from `0..=genes`, so that the last gene can be inside.
fn segment(genes: u32, stream: &mut Stream) -> Range<u32> {
    let ends = [(); 2].map(|()| stream.below(u64::from(genes) + 1) as u32);
    ends[0].min(ends[1])..ends[0].max(ends[1])
}

/// Two-point crossover: swaps one random segment.
pub fn swap_segment(a: &mut Chromosome, b: &mut Chromosome, stream: &mut Stream) {
    let inside = segment(a.len(), stream);
    a.swap(b, inside);
}

/// Uniform crossover: swaps each gene with probability ½.
pub fn swap_uniformly(a: &mut Chromosome, b: &mut Chromosome, stream: &mut Stream) {
    a.swap_where(b, || stream.bits());
}

/// Inverts one random segment and returns it.
pub fn invert_segment(chromosome: &mut Chromosome, stream: &mut Stream) -> Range<u32> {
    let inside = segment(chromosome.len(), stream);
    chromosome.invert(inside.clone());
    inside
}

/// Flips each gene with probability `mean_genes / genes`.
pub fn flip(chromosome: &mut Chromosome, mean_genes: f64, stream: &mut Stream) {
    let probability = (mean_genes / f64::from(chromosome.len().max(1))).min(1.0);
    if probability <= 0.0 {
        return;
    }
    // Draws the distances between flipped genes, which are geometric, instead of every gene.
    let log_of_staying = libm::log1p(-probability);
    let mut gene = 0;
    while gene < chromosome.len() {
        let distance = libm::log1p(-stream.uniform()) / log_of_staying;
        // A float too large for the integer becomes its largest value.
        gene = u32::saturating_add(gene, distance as u32);
        chromosome.invert(gene..gene.saturating_add(1));
        gene = gene.saturating_add(1);
    }
}

/// Exchanges, for each layer and each of its kept filters with probability `mean_genes / genes
/// kept`, the filter for a random removed one of the same layer. Widths stay.
pub fn exchange(
    chromosome: &mut Chromosome,
    layers: &[Range<u32>],
    mean_genes: f64,
    stream: &mut Stream,
) {
    let kept_in_all = layers
        .iter()
        .map(|layer| chromosome.count(layer.clone()))
        .sum::<u32>();
    let probability = mean_genes / f64::from(kept_in_all.max(1));
    for layer in layers {
        let (kept, mut removed): (Vec<u32>, Vec<u32>) =
            layer.clone().partition(|gene| chromosome.gene(*gene));
        for gene in kept {
            if stream.uniform() < probability && !removed.is_empty() {
                let place = stream.below(removed.len() as u64) as usize;
                let other = std::mem::replace(&mut removed[place], gene);
                chromosome.set(gene, false);
                chromosome.set(other, true);
            }
        }
    }
}

/// Gives every empty layer one random filter back.
pub fn repair(chromosome: &mut Chromosome, layers: &[Range<u32>], stream: &mut Stream) {
    for layer in layers {
        if chromosome.count(layer.clone()) == 0 {
            let back = stream.below(u64::from(layer.end - layer.start)) as u32;
            chromosome.set(layer.start + back, true);
        }
    }
}

/// The size that children are brought to, and by which filters.
#[derive(Debug, Clone, Copy)]
pub struct Fit<'a> {
    /// Parameters as a function of the widths.
    pub formula: &'a SizeFormula,
    /// Most parameters.
    pub budget: u64,
    /// For each gene its place in its layer's order by L1 norm: 0 for the largest norm, towards 1
    /// for the smallest.
    pub weakness: &'a [f64],
}

/// Which of two filters a change takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preferred {
    Weaker,
    Stronger,
}

impl Fit<'_> {
    /// Draws two of `filters` (layer, gene), with replacement, and takes the preferred one out.
    fn take(
        &self,
        filters: &mut Vec<(usize, u32)>,
        preferred: Preferred,
        stream: &mut Stream,
    ) -> (usize, u32) {
        let [a, b] = [(); 2].map(|()| stream.below(filters.len() as u64) as usize);
        let weakness = |place: usize| self.weakness[filters[place].1 as usize];
        let is_a_stronger = weakness(a) < weakness(b);
        let is_a_taken = is_a_stronger == (preferred == Preferred::Stronger);
        filters.swap_remove(if is_a_taken { a } else { b })
    }
}

/// Removes filters until the net is within the budget, but never a layer's last one; then gives
/// filters back for as long as one fits, so that no parameter is left unused. Of two random filters
/// the one further back in its layer's order by L1 norm goes, and the one further in front comes
/// back.
///
/// Where accuracy alone decides among nets that are small enough, a child above the budget would be
/// an evaluation for nothing, and one far below it a handicap. The lean towards large norms is for
/// what comes after the search: filters chosen by accuracy alone gained less from fine-tuning.
pub fn fit(chromosome: &mut Chromosome, layers: &[Range<u32>], size: Fit<'_>, stream: &mut Stream) {
    let mut widths: Vec<u32> = layers
        .iter()
        .map(|layer| chromosome.count(layer.clone()))
        .collect();
    let mut parameters = size.formula.parameters(&widths);
    let filters_with = |chromosome: &Chromosome, is_kept: bool| -> Vec<(usize, u32)> {
        let all = layers.iter().enumerate();
        all.flat_map(|(layer, genes)| genes.clone().map(move |gene| (layer, gene)))
            .filter(|(_, gene)| chromosome.gene(*gene) == is_kept)
            .collect()
    };
    let mut kept = filters_with(chromosome, true);
    while parameters > size.budget && !kept.is_empty() {
        let (layer, gene) = size.take(&mut kept, Preferred::Weaker, stream);
        if widths[layer] > 1 {
            parameters -= size.formula.of_one_filter(&widths, layer);
            widths[layer] -= 1;
            chromosome.set(gene, false);
        }
    }
    let mut removed = filters_with(chromosome, false);
    while parameters <= size.budget && !removed.is_empty() {
        let (layer, gene) = size.take(&mut removed, Preferred::Stronger, stream);
        // What one filter more needs does not depend on the width of its own layer.
        let more = size.formula.of_one_filter(&widths, layer);
        if more <= size.budget - parameters {
            parameters += more;
            widths[layer] += 1;
            chromosome.set(gene, true);
        } else {
            // Widths only grow from here, so no other filter of this layer fits either.
            removed.retain(|(other, _)| *other != layer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkSpec;
    use crate::random::Purpose;
    use proptest::prelude::*;

    fn random(genes: u32, seed: u64) -> Chromosome {
        let mut stream = Stream::new(seed, Purpose::FirstGeneration, 0, 0);
        let mut chromosome = Chromosome::zeros(genes);
        (0..genes).for_each(|gene| chromosome.set(gene, stream.below(2) == 1));
        chromosome
    }

    /// Claim: fitting keeps what is strong: a child far above the budget keeps filters of larger
    /// norm than those it loses, and one far below gains filters of larger norm than those it does
    /// not, while weak ones are kept and strong ones lost often enough for a search to try them.
    /// Method: 50 fits of the full net and of the smallest one, norms in the order of the genes.
    #[test]
    fn fitting_leans_towards_large_norms() {
        let network = NetworkSpec::lenet(10);
        let layers: Vec<Range<u32>> = network.prunable().iter().map(|each| each.genes()).collect();
        let place = |gene: u32| {
            let layer = layers.iter().find(|layer| layer.contains(&gene)).unwrap();
            f64::from(gene - layer.start) / f64::from(layer.end - layer.start)
        };
        let weakness: Vec<f64> = (0..570).map(place).collect();
        let size = Fit {
            formula: &network.size_formula(),
            budget: network.parameters() / 4,
            weakness: &weakness,
        };
        let mut smallest = Chromosome::zeros(570);
        layers
            .iter()
            .for_each(|layer| smallest.set(layer.start, true));
        for start in [Chromosome::ones(570), smallest] {
            let mut sums = [(0.0, 0.0); 2];
            for index in 0..50 {
                let mut child = start.clone();
                fit(
                    &mut child,
                    &layers,
                    size,
                    &mut Stream::new(1, Purpose::Breeding, 0, index),
                );
                for gene in 70..570 {
                    let sum = &mut sums[usize::from(child.gene(gene))];
                    *sum = (sum.0 + weakness[gene as usize], sum.1 + 1.0);
                }
            }
            let [removed, kept] = sums.map(|(sum, count)| sum / count);
            assert!(kept + 0.05 < removed, "{kept} {removed}");
            assert!(kept > 0.15 && removed < 0.85, "{kept} {removed}");
        }
    }

    proptest! {
        /// Claim: both crossovers keep the number of ones at each locus, summed over the two
        /// children.
        #[test]
        fn crossover_preserves_per_locus_bit_sums(genes in 1u32..200, seed in any::<u64>(), uniform in any::<bool>()) {
            let (a, b) = (random(genes, seed), random(genes, !seed));
            let (mut x, mut y) = (a.clone(), b.clone());
            let mut stream = Stream::new(seed, Purpose::Breeding, 0, 0);
            if uniform { swap_uniformly(&mut x, &mut y, &mut stream) } else { swap_segment(&mut x, &mut y, &mut stream) }
            for gene in 0..genes {
                let sum = |p: &Chromosome, q: &Chromosome| u8::from(p.gene(gene)) + u8::from(q.gene(gene));
                prop_assert_eq!(sum(&a, &b), sum(&x, &y));
            }
        }

        /// Claim: inverting the same segment twice gives the parent back.
        #[test]
        fn mutation_is_an_involution(genes in 1u32..200, seed in any::<u64>()) {
            let parent = random(genes, seed);
            let mut child = parent.clone();
            let inside = invert_segment(&mut child, &mut Stream::new(seed, Purpose::Breeding, 0, 0));
            prop_assert_eq!(child == parent, inside.is_empty());
            child.invert(inside);
            prop_assert_eq!(child, parent);
        }

        /// Claim: exchanging filters keeps every layer's width.
        #[test]
        fn exchange_keeps_widths(seed in any::<u64>(), mean in 0.0f64..30.0) {
            let layers = [0..20, 20..70, 70..130];
            let parent = random(130, seed);
            let mut child = parent.clone();
            exchange(&mut child, &layers, mean, &mut Stream::new(seed, Purpose::Breeding, 0, 0));
            for layer in layers {
                prop_assert_eq!(child.count(layer.clone()), parent.count(layer));
            }
        }

        /// Claim: after repair no layer is empty, and layers that were not are untouched.
        #[test]
        fn empty_layers_are_repaired(seed in any::<u64>(), empty in 0usize..3) {
            let layers = [0..3, 3..64, 64..70];
            let mut chromosome = random(70, seed);
            layers[empty].clone().for_each(|gene| chromosome.set(gene, false));
            let before = chromosome.clone();
            repair(&mut chromosome, &layers, &mut Stream::new(seed, Purpose::Breeding, 0, 0));
            for layer in layers {
                match before.count(layer.clone()) {
                    0 => prop_assert_eq!(chromosome.count(layer), 1),
                    _ => layer.for_each(|gene| assert_eq!(chromosome.gene(gene), before.gene(gene))),
                }
            }
        }
    }

    /// Claim: the first and the last gene are reached by mutation and by crossover as often as the
    /// theory says: gene i of L lies inside with probability 2 (i+1) (L−i) / (L+1)². A segment whose
    /// ends were drawn below L would never reach the last one. Method: 40,000 draws at L = 10.
    #[test]
    fn the_last_gene_is_reachable() {
        let mut stream = Stream::new(9, Purpose::Breeding, 0, 0);
        let mut inverted = [0u32; 10];
        let mut swapped = [0u32; 10];
        for _ in 0..40_000 {
            let mut child = Chromosome::zeros(10);
            invert_segment(&mut child, &mut stream);
            let (mut a, mut b) = (Chromosome::zeros(10), Chromosome::ones(10));
            swap_segment(&mut a, &mut b, &mut stream);
            for gene in 0..10 {
                inverted[gene as usize] += u32::from(child.gene(gene));
                swapped[gene as usize] += u32::from(a.gene(gene));
            }
        }
        for gene in 0..10 {
            let expected = 2.0 * (gene as f64 + 1.0) * (10.0 - gene as f64) / 121.0;
            for counts in [inverted, swapped] {
                let share = f64::from(counts[gene]) / 40_000.0;
                assert!(
                    (share - expected).abs() < 0.01,
                    "gene {gene}: {share} against {expected}"
                );
            }
        }
    }

    /// Claim: a segment covers a third of the genes on average (which makes it a jump), a bit flip
    /// `mutation_genes`. Method: means of 10,000 draws at 570 genes.
    #[test]
    fn mutations_have_their_mean_size() {
        let mut stream = Stream::new(2, Purpose::Breeding, 0, 0);
        let full = Chromosome::ones(570);
        let mut changed = [0u64; 2];
        for _ in 0..10_000 {
            let (mut a, mut b) = (full.clone(), full.clone());
            invert_segment(&mut a, &mut stream);
            flip(&mut b, 4.0, &mut stream);
            changed[0] += u64::from(570 - a.count(0..570));
            changed[1] += u64::from(570 - b.count(0..570));
        }
        let mean = changed.map(|sum| sum as f64 / 10_000.0);
        assert!((mean[0] - 190.0).abs() < 5.0, "{mean:?}");
        assert!((mean[1] - 4.0).abs() < 0.1, "{mean:?}");
    }

    /// Claim: a bit flip reaches every gene equally often; a mean of 0 flips none, a mean of all
    /// genes flips all.
    #[test]
    fn flips_reach_every_gene() {
        let mut stream = Stream::new(4, Purpose::Breeding, 0, 0);
        let mut counts = [0u32; 20];
        for _ in 0..20_000 {
            let mut child = Chromosome::zeros(20);
            flip(&mut child, 3.0, &mut stream);
            (0..20).for_each(|gene| counts[gene as usize] += u32::from(child.gene(gene)));
        }
        assert!(
            counts.iter().all(|count| (2_800..3_200).contains(count)),
            "{counts:?}"
        );
        for (mean, expected) in [(0.0, 0), (20.0, 20), (1e9, 20)] {
            let mut child = Chromosome::zeros(20);
            flip(&mut child, mean, &mut stream);
            assert_eq!(child.count(0..20), expected);
        }
    }
}
