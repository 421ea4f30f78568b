//! The search: populations and what is remembered of them.

use super::allocation::allocations;
use super::job::{PruneJob, accuracy};
use super::shortlist::{Candidate, Shortlist};
use crate::calls::Score;
use crate::evolution::{
    Chromosome, Fit, Individual, Operator, Start, breed, first_generation, order,
};
use crate::random::Purpose;
use evoring_protocol::Digest;
use evoring_protocol::event::GenerationSummary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Where the search stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SearchState {
    generation: u32,
    population: Vec<Individual>,
    shortlist: Shortlist,
    /// Digests of the different chromosomes, cut to 128 bits: only their number is used.
    seen: BTreeSet<[u8; 16]>,
    counts: Counts,
}

/// Evaluations. `different` depends on the job alone; the others on what the cluster had cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Individuals of all generations.
    pub(super) individuals: u64,
    /// Different chromosomes among them.
    pub(super) different: u64,
    /// Computed, as the coordinator reports it, maps after the search included.
    pub(super) evaluated: u64,
    /// Answered from the cache, likewise.
    pub(super) cache_hits: u64,
}

/// One individual as `population/NNN.json` shows it.
#[derive(Serialize)]
struct Line<'a> {
    genome: String,
    correct: u32,
    total: u32,
    parameters: u64,
    fitness: f64,
    parents: &'a [u32],
    operator: Operator,
}

impl SearchState {
    /// Generation 0.
    pub(super) fn new(job: &PruneJob, l1: &[Vec<u32>]) -> Self {
        let breeding = &job.search.breeding;
        let allocations = match breeding.start {
            Start::L1Target => {
                let others = breeding.population.saturating_sub(1);
                allocations(
                    job,
                    Purpose::FirstGeneration,
                    &job.search.start_shares,
                    job.parameter_budget(),
                    others,
                )
            }
            Start::KeepRates | Start::Bernoulli | Start::L1 => Vec::new(),
        };
        Self {
            generation: 0,
            population: first_generation(breeding, &job.layers(), l1, &allocations, job.seed),
            shortlist: Shortlist::new(job.search.finalists, job.parameter_budget()),
            seen: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// Number of the generation that is evaluated now.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Chromosomes to evaluate.
    pub(super) fn genomes(&self) -> impl ExactSizeIterator<Item = &Chromosome> {
        self.population.iter().map(|individual| &individual.genome)
    }

    /// Enters the scores of the generation. An elite keeps the score that it was chosen for.
    pub(super) fn enter(
        &mut self,
        job: &PruneJob,
        scores: &[Score],
        evaluated: u32,
        cache_hits: u32,
    ) {
        let formula = job.network.size_formula();
        let layers = job.layers();
        let rule = job.fitness_rule();
        for (individual, score) in self.population.iter_mut().zip(scores) {
            let score = *individual.score.get_or_insert(*score);
            let widths = layers
                .iter()
                .map(|layer| individual.genome.count(layer.clone()));
            individual.parameters = formula.parameters(&widths.collect::<Vec<u32>>());
            individual.fitness = rule.fitness(score, individual.parameters);
            let mut short = [0; 16];
            short.copy_from_slice(&Digest::of(&crate::calls::encode(&individual.genome)).0[..16]);
            self.seen.insert(short);
            self.shortlist.enter(Candidate {
                genome: individual.genome.clone(),
                parameters: individual.parameters,
                score,
                fitness: individual.fitness,
                generation: self.generation,
            });
        }
        self.counts.individuals += self.population.len() as u64;
        self.counts.different = self.seen.len() as u64;
        self.counts.evaluated += u64::from(evaluated);
        self.counts.cache_hits += u64::from(cache_hits);
    }

    /// The evaluated generation, for people.
    pub(super) fn summary(&self, job: &PruneJob) -> Option<GenerationSummary> {
        let best = self.population.iter().min_by(|a, b| order(a, b))?;
        let sum: f64 = self
            .population
            .iter()
            .map(|individual| individual.fitness)
            .sum();
        Some(GenerationSummary {
            generation: self.generation,
            generations: job.search.generations + 1,
            best_fitness: best.fitness,
            mean_fitness: sum / self.population.len() as f64,
            best_parameters: best.parameters,
            best_accuracy: best.score.map_or(0.0, accuracy),
            evaluated: self.counts.evaluated,
            cache_hits: self.counts.cache_hits,
        })
    }

    /// Name and text of the file of the evaluated generation: a JSON array with one individual a
    /// line.
    pub(super) fn file(&self) -> (String, Vec<u8>) {
        let line = |individual: &Individual| {
            let score = individual.score.unwrap_or(Score {
                correct: 0,
                total: 0,
            });
            let line = Line {
                genome: individual.genome.to_string(),
                correct: score.correct,
                total: score.total,
                parameters: individual.parameters,
                fitness: individual.fitness,
                parents: &individual.parents,
                operator: individual.operator,
            };
            // Plain data with finite numbers always has a JSON form.
            serde_json::to_string(&line).unwrap_or_default()
        };
        let lines: Vec<String> = self.population.iter().map(line).collect();
        let name = format!("population/{:03}.json", self.generation);
        (name, format!("[\n{}\n]\n", lines.join(",\n")).into_bytes())
    }

    /// Breeds the next generation; false if the evaluated one was the last. `l1` lists each layer's
    /// filters from the largest L1 norm to the smallest.
    pub(super) fn advance(&mut self, job: &PruneJob, l1: &[Vec<u32>]) -> bool {
        if self.generation >= job.search.generations {
            return false;
        }
        self.generation += 1;
        self.population = breed(
            &job.search.breeding,
            &job.layers(),
            job.search.fit.then_some(Fit {
                formula: &job.network.size_formula(),
                budget: job.parameter_budget(),
                weakness: &weakness(l1),
            }),
            &self.population,
            (self.generation, job.seed),
        );
        true
    }

    /// What the rest of the job needs.
    pub(super) fn finish(self) -> (Shortlist, Counts) {
        (self.shortlist, self.counts)
    }
}

/// For each gene its place in its layer's order, 0 for the first, towards 1; every layer of `l1`
/// lists each of its filters once.
fn weakness(l1: &[Vec<u32>]) -> Vec<f64> {
    let mut all = Vec::new();
    for order in l1 {
        let start = all.len();
        all.resize(start + order.len(), 0.0);
        for (place, filter) in order.iter().enumerate() {
            all[start + *filter as usize] = place as f64 / order.len() as f64;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: a gene's weakness is its filter's place in the order of its own layer.
    #[test]
    fn weakness_is_the_place_in_the_layer() {
        let l1 = [vec![1, 0], vec![2, 0, 3, 1]];
        assert_eq!(weakness(&l1), [0.5, 0.0, 0.25, 0.75, 0.0, 0.5]);
    }
}
