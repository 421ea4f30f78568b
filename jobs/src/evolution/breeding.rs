//! One generation from the one before.

use super::{Breeding, Chromosome, Crossover, Mutation, Selection, Wheel};
use super::{
    Fit, exchange, fit, flip, invert_segment, repair, swap_segment, swap_uniformly, tournament,
};
use crate::calls::Score;
use crate::random::{Purpose, Stream};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::ops::Range;

/// How an individual came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operator {
    /// Member of generation 0.
    Initial,
    /// One of the best of the generation before, unchanged, its score kept.
    Elite,
    /// A selected parent, unchanged.
    Copy,
    /// Child of two parents.
    Crossover,
    /// Child of one parent.
    Mutation,
}

/// A member of a population.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Individual {
    /// Its genes.
    pub genome: Chromosome,
    /// How it came about.
    pub operator: Operator,
    /// Positions of its parents in the generation before.
    pub parents: Vec<u32>,
    /// Its answers, once evaluated. An elite keeps the score it was chosen for, so that the best
    /// fitness never falls.
    pub score: Option<Score>,
    /// Parameters of the net that it describes.
    pub parameters: u64,
    /// Its fitness, once evaluated.
    pub fitness: f64,
}

impl Individual {
    /// One that is not evaluated yet.
    pub fn new(genome: Chromosome, operator: Operator, parents: Vec<u32>) -> Self {
        Self {
            genome,
            operator,
            parents,
            score: None,
            parameters: 0,
            fitness: 0.0,
        }
    }
}

/// Better individuals first: higher fitness, then fewer parameters, then genes.
pub fn order(a: &Individual, b: &Individual) -> Ordering {
    let by_fitness = b.fitness.total_cmp(&a.fitness);
    by_fitness
        .then(a.parameters.cmp(&b.parameters))
        .then_with(|| a.genome.cmp(&b.genome))
}

/// Breeds generation number `generation` from the evaluated one before it, which must not be empty.
///
/// Slot by slot: s < copy rate copies a parent; s < copy rate + crossover rate makes two children
/// for this slot and the next (one, if a single slot is left); else a parent is mutated. Empty
/// layers are repaired, and children of crossovers and mutations are brought to `size`, if given.
pub fn breed(
    breeding: &Breeding,
    layers: &[Range<u32>],
    size: Option<Fit<'_>>,
    parents: &[Individual],
    (generation, seed): (u32, u64),
) -> Vec<Individual> {
    let mut ranking: Vec<u32> = (0..parents.len() as u32).collect();
    ranking.sort_by(|a, b| order(&parents[*a as usize], &parents[*b as usize]).then(a.cmp(b)));
    let fitness: Vec<f64> = parents.iter().map(|parent| parent.fitness).collect();
    let wheel = Wheel::new(&fitness, breeding.scaling);
    let mut next = elites(breeding, parents, &ranking);
    let breeder = Breeder {
        breeding,
        layers,
        size,
        parents,
        ranking,
        wheel,
    };
    let size = breeding.population as usize;
    while next.len() < size {
        let slot = next.len() as u64;
        let mut stream = Stream::new(seed, Purpose::Breeding, u64::from(generation), slot);
        let children = breeder.children(&mut stream);
        next.extend(children.into_iter().take(size - next.len()));
    }
    next
}

/// What one slot is filled from.
struct Breeder<'a> {
    breeding: &'a Breeding,
    layers: &'a [Range<u32>],
    size: Option<Fit<'a>>,
    parents: &'a [Individual],
    /// Positions of the parents, best first.
    ranking: Vec<u32>,
    wheel: Wheel,
}

impl Breeder<'_> {
    /// One child, or the two of a crossover.
    fn children(&self, stream: &mut Stream) -> Vec<Individual> {
        let breeding = self.breeding;
        let draw = stream.uniform();
        if draw < breeding.copy_rate {
            let parent = self.pick(stream);
            vec![Individual::new(
                self.genome(parent),
                Operator::Copy,
                vec![parent],
            )]
        } else if draw < breeding.copy_rate + breeding.crossover_rate {
            self.siblings(stream)
        } else {
            let parent = self.pick(stream);
            let mut child = self.genome(parent);
            self.mutate(&mut child, stream);
            self.mend(&mut child, stream);
            vec![Individual::new(child, Operator::Mutation, vec![parent])]
        }
    }

    fn siblings(&self, stream: &mut Stream) -> Vec<Individual> {
        let parents = [self.pick(stream), self.pick(stream)];
        let [mut a, mut b] = parents.map(|parent| self.genome(parent));
        match self.breeding.crossover {
            Crossover::TwoPoint => swap_segment(&mut a, &mut b, stream),
            Crossover::Uniform => swap_uniformly(&mut a, &mut b, stream),
        }
        let mut finish = |mut child: Chromosome| {
            if stream.uniform() < self.breeding.child_mutation {
                self.mutate(&mut child, stream);
            }
            self.mend(&mut child, stream);
            Individual::new(child, Operator::Crossover, parents.to_vec())
        };
        vec![finish(a), finish(b)]
    }

    fn pick(&self, stream: &mut Stream) -> u32 {
        match self.breeding.selection {
            Selection::Roulette => self.wheel.spin(stream) as u32,
            Selection::Tournament => {
                let place = tournament(self.ranking.len(), self.breeding.tournament_size, stream);
                self.ranking[place]
            }
        }
    }

    fn genome(&self, parent: u32) -> Chromosome {
        self.parents[parent as usize].genome.clone()
    }

    /// Makes a new child one that is worth an evaluation.
    fn mend(&self, child: &mut Chromosome, stream: &mut Stream) {
        repair(child, self.layers, stream);
        if let Some(size) = self.size {
            fit(child, self.layers, size, stream);
        }
    }

    fn mutate(&self, genome: &mut Chromosome, stream: &mut Stream) {
        let mean = self.breeding.mutation_genes;
        match self.breeding.mutation {
            Mutation::Segment => drop(invert_segment(genome, stream)),
            Mutation::BitFlip => flip(genome, mean, stream),
            Mutation::Exchange => exchange(genome, self.layers, mean, stream),
        }
    }
}

/// The best individuals of different genes, unchanged.
fn elites(breeding: &Breeding, parents: &[Individual], ranking: &[u32]) -> Vec<Individual> {
    let mut elites: Vec<Individual> = Vec::new();
    for index in ranking {
        let parent = &parents[*index as usize];
        if elites.len() >= breeding.elites.min(breeding.population) as usize {
            break;
        }
        if elites.iter().all(|elite| elite.genome != parent.genome) {
            elites.push(Individual {
                operator: Operator::Elite,
                parents: vec![*index],
                ..parent.clone()
            });
        }
    }
    elites
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Scaling, Start, first_generation};
    use super::*;
    use crate::network::NetworkSpec;

    pub(in super::super) fn settings() -> Breeding {
        Breeding {
            population: 32,
            start: Start::Bernoulli,
            keep_rates: [0.7, 0.95],
            selection: Selection::Roulette,
            tournament_size: 2,
            scaling: Scaling::Raw,
            copy_rate: 0.2,
            crossover_rate: 0.7,
            mutation_rate: 0.1,
            crossover: Crossover::TwoPoint,
            mutation: Mutation::Segment,
            mutation_genes: 4.0,
            child_mutation: 0.0,
            elites: 1,
        }
    }

    const LAYERS: [Range<u32>; 2] = [0..8, 8..40];

    /// Made-up fitness: share of ones.
    fn evaluate(generation: &mut [Individual]) {
        for individual in generation {
            individual.fitness = f64::from(individual.genome.count(0..40)) / 40.0;
            individual.parameters = u64::from(individual.genome.count(0..40));
        }
    }

    /// Claim: children of a crossover enter the next generation. Each crossover slot holds a genome
    /// whose every gene comes from one of the two recorded parents, both children of a pair are
    /// kept, and children that differ from all parents are there. Method: 30 generations, each checked against its parents.
    #[test]
    fn crossover_children_enter() {
        let mut parents = first_generation(&settings(), &LAYERS, &[], &[], 3);
        let mut new_genomes = 0;
        let mut pairs = 0;
        for generation in 1..=30 {
            evaluate(&mut parents);
            let next = breed(&settings(), &LAYERS, None, &parents, (generation, 3));
            assert_eq!(next.len(), 32);
            for child in next
                .iter()
                .filter(|each| each.operator == Operator::Crossover)
            {
                let [a, b] = [0, 1].map(|side| &parents[child.parents[side] as usize].genome);
                assert!((0..40).all(|gene| {
                    [a, b]
                        .iter()
                        .any(|parent| parent.gene(gene) == child.genome.gene(gene))
                }));
                new_genomes +=
                    u32::from(parents.iter().all(|parent| parent.genome != child.genome));
            }
            pairs += next
                .windows(2)
                .filter(|pair| {
                    let sums = |gene| pair.iter().filter(|child| child.genome.gene(gene)).count();
                    let parents_sums = |gene| {
                        pair[0]
                            .parents
                            .iter()
                            .filter(|index| parents[**index as usize].genome.gene(gene))
                            .count()
                    };
                    pair.iter()
                        .all(|child| child.operator == Operator::Crossover)
                        && pair[0].parents == pair[1].parents
                        && (0..40).all(|gene| sums(gene) == parents_sums(gene))
                })
                .count();
            parents = next;
        }
        assert!(pairs > 200, "{pairs} pairs of siblings");
        assert!(new_genomes > 100, "{new_genomes} new genomes");
    }

    /// Claim: the operators fill slots in the proportions s1 : s2 : s3, where a crossover fills two.
    /// Method: 200 generations of 32; expected shares 0.2/1.7, 1.4/1.7, 0.1/1.7.
    #[test]
    fn operators_are_drawn_at_their_rates() {
        let mut parents = first_generation(&settings(), &LAYERS, &[], &[], 3);
        evaluate(&mut parents);
        let mut counts = [0u32; 3];
        for generation in 1..=200 {
            for individual in &breed(&settings(), &LAYERS, None, &parents, (generation, 8))[1..] {
                match individual.operator {
                    Operator::Copy => counts[0] += 1,
                    Operator::Crossover => counts[1] += 1,
                    Operator::Mutation => counts[2] += 1,
                    Operator::Initial | Operator::Elite => panic!("not bred"),
                }
            }
        }
        let total = f64::from(counts.iter().sum::<u32>());
        for (count, expected) in counts.iter().zip([0.2 / 1.7, 1.4 / 1.7, 0.1 / 1.7]) {
            assert!(
                (f64::from(*count) / total - expected).abs() < 0.02,
                "{counts:?}"
            );
        }
    }

    /// Claim: the best is copied unchanged as the first member with its score, so best fitness
    /// never decreases, even if a second evaluation would answer less.
    /// Method: 60 generations with every option, fitness that falls with each evaluation.
    #[test]
    fn best_fitness_never_decreases() {
        for selection in [Selection::Roulette, Selection::Tournament] {
            for mutation in [Mutation::Segment, Mutation::BitFlip, Mutation::Exchange] {
                let breeding = Breeding {
                    selection,
                    mutation,
                    scaling: Scaling::Windowed,
                    ..settings()
                };
                let mut generation = first_generation(&breeding, &LAYERS, &[], &[], 5);
                let mut best = 0.0;
                for number in 1..=60 {
                    for each in generation.iter_mut().filter(|each| each.score.is_none()) {
                        each.score = Some(Score {
                            correct: each.genome.count(0..40),
                            total: 40,
                        });
                        each.fitness =
                            f64::from(each.genome.count(0..40)) - f64::from(number) * 0.1;
                    }
                    let top = generation
                        .iter()
                        .map(|each| each.fitness)
                        .max_by(f64::total_cmp)
                        .unwrap();
                    assert!(
                        number == 1 || top >= best,
                        "generation {number}: {top} after {best}"
                    );
                    best = top;
                    generation = breed(&breeding, &LAYERS, None, &generation, (number, 5));
                    assert_eq!(generation[0].operator, Operator::Elite);
                    assert_eq!(generation[0].fitness, top);
                    assert!(generation[0].score.is_some());
                }
            }
        }
    }

    /// Claim: no bred individual has an empty layer, and a population of one is its elite.
    #[test]
    fn bred_individuals_are_whole() {
        let tiny: [Range<u32>; 3] = [0..1, 1..3, 3..5];
        let mut parents = first_generation(&settings(), &tiny, &[], &[], 3);
        for generation in 1..=50 {
            parents.iter_mut().for_each(|each| each.fitness = 1.0);
            parents = breed(&settings(), &tiny, None, &parents, (generation, 1));
            assert!(parents.iter().all(|each| {
                tiny.iter()
                    .all(|layer| each.genome.count(layer.clone()) > 0)
            }));
        }
        let alone = Breeding {
            population: 1,
            ..settings()
        };
        let next = breed(&alone, &tiny, None, &parents[..1], (1, 1));
        assert_eq!(next.len(), 1);
        assert_eq!(next[0].genome, parents[0].genome);
    }

    /// Claim: where a size is given, every bred child has at most that many parameters and no
    /// removed filter would still fit, whatever its parents had. Method: 30 generations from
    /// individuals of all sizes; elites and copies are their parents' genomes and are left out.
    #[test]
    fn children_are_brought_to_size() {
        let network = NetworkSpec::lenet(10);
        let layers: Vec<Range<u32>> = network.prunable().iter().map(|each| each.genes()).collect();
        let size = Fit {
            formula: &network.size_formula(),
            budget: network.parameters() / 8,
            weakness: &[0.5; 570],
        };
        let mut parents = first_generation(&settings(), &layers, &[], &[], 3);
        let mut children = 0;
        for generation in 1..=30 {
            parents.iter_mut().for_each(|each| each.fitness = 1.0);
            parents = breed(&settings(), &layers, Some(size), &parents, (generation, 3));
            for child in parents
                .iter()
                .filter(|each| matches!(each.operator, Operator::Crossover | Operator::Mutation))
            {
                children += 1;
                let widths = network.widths(&child.genome);
                assert!(
                    size.formula.parameters(&widths) <= size.budget,
                    "{widths:?}"
                );
                for (place, layer) in layers.iter().enumerate() {
                    let mut wider = widths.clone();
                    wider[place] += 1;
                    assert!(
                        widths[place] == layer.end - layer.start
                            || size.formula.parameters(&wider) > size.budget,
                        "{widths:?}"
                    );
                }
            }
        }
        assert!(children > 500, "{children}");
    }

    /// Claim: a generation is a function of (seed, generation, parents) alone.
    #[test]
    fn breeding_repeats() {
        let mut parents = first_generation(&settings(), &LAYERS, &[], &[], 3);
        evaluate(&mut parents);
        let next = breed(&settings(), &LAYERS, None, &parents, (4, 7));
        assert_eq!(next, breed(&settings(), &LAYERS, None, &parents, (4, 7)));
        assert_ne!(next, breed(&settings(), &LAYERS, None, &parents, (5, 7)));
        assert_ne!(next, breed(&settings(), &LAYERS, None, &parents, (4, 8)));
    }
}
