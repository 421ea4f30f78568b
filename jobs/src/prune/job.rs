//! Parameters of a job, validated.

use super::allocation::Shares;
use crate::calls::{PruneEvaluateCall, Recipe, Score};
use crate::data::{DataSpec, Part};
use crate::evolution::Breeding;
use crate::network::NetworkSpec;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Size term of the fitness, from 0 for the full net to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SizeTerm {
    /// 1 − parameters / N, as in the paper.
    Linear,
    /// 1 up to N / [`Search::min_compression`] parameters, where accuracy alone decides; a larger net
    /// ranks below any of these, the lower the larger it is.
    Target,
}

/// What the search does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Generations bred after generation 0.
    pub generations: u32,
    /// How.
    pub breeding: Breeding,
    /// Widths of a first generation of the wanted size ([`crate::evolution::Start::L1Target`]).
    pub start_shares: Shares,
    /// Whether children are brought to N / [`Search::min_compression`] parameters
    /// ([`crate::evolution::Fit`]).
    pub fit: bool,
    /// λ: weight of the size term beside the accuracy.
    pub lambda: f64,
    /// Size term.
    pub size_term: SizeTerm,
    /// The final individual has at most N / this many parameters.
    pub min_compression: f64,
    /// Best individuals that are compared on the selection images.
    pub finalists: u32,
}

/// What the compressed net is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// L1-norm pruning at the winner's layer widths.
    pub l1_widths: bool,
    /// Width allocations tried for the best L1-norm pruning of at most the winner's size; 0 = none.
    pub l1_allocations: u32,
    /// Random search at the winner's widths: as many chromosomes as the search evaluated.
    pub random: bool,
    /// The full net with the same extra epochs.
    pub full_extra: bool,
}

/// A training stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Fewest and most ranks.
    pub ranks: [u32; 2],
    /// How.
    pub recipe: Recipe,
    /// Steps between checkpoints.
    pub checkpoint_steps: u32,
}

/// A job of kind `evolve.prune`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PruneJob {
    /// Name for people.
    pub name: String,
    /// Seed of everything but the split.
    pub seed: u64,
    /// Images; the driver enters their digest once the full net is trained.
    pub data: DataSpec,
    /// The full network.
    pub network: NetworkSpec,
    /// Micro-batches of one step; a power of two.
    pub shards: u32,
    /// Training of the full net.
    pub train: Training,
    /// Search.
    pub search: Search,
    /// Fine-tuning, equal for all rows.
    pub finetune: Training,
    /// Comparison.
    pub baselines: Baselines,
    /// Images of one forward pass on the test part.
    pub evaluate_batch: u32,
}

impl PruneJob {
    /// Gene ranges of the prunable layers.
    pub fn layers(&self) -> Vec<Range<u32>> {
        self.network
            .prunable()
            .iter()
            .map(|layer| layer.genes())
            .collect()
    }

    /// Parameters that the final individual may have.
    pub fn parameter_budget(&self) -> u64 {
        (self.network.parameters() as f64 / self.search.min_compression) as u64
    }

    /// The rule of fitness.
    pub fn fitness_rule(&self) -> FitnessRule {
        FitnessRule {
            full: self.network.parameters(),
            target: self.parameter_budget(),
            lambda: self.search.lambda,
            size_term: self.search.size_term,
        }
    }

    /// Argument for evaluating chromosomes on a part of the data.
    pub fn evaluate_call(&self, part: Part) -> PruneEvaluateCall {
        PruneEvaluateCall {
            network: self.network.clone(),
            data: self.data.clone(),
            part,
        }
    }
}

/// f = accuracy + λ · size term.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitnessRule {
    full: u64,
    target: u64,
    lambda: f64,
    size_term: SizeTerm,
}

impl FitnessRule {
    /// Fitness of a net of this many parameters.
    pub fn fitness(&self, score: Score, parameters: u64) -> f64 {
        let accuracy = accuracy(score);
        match self.size_term {
            SizeTerm::Linear => {
                accuracy + self.lambda * (1.0 - parameters as f64 / self.full as f64)
            }
            SizeTerm::Target if parameters <= self.target => accuracy + self.lambda,
            // Below any net that is small enough, whatever either answers.
            SizeTerm::Target => {
                let excess = (parameters - self.target) as f64;
                let share = excess / self.full.saturating_sub(self.target).max(1) as f64;
                accuracy - 1.0 + self.lambda * (1.0 - share)
            }
        }
    }
}

/// Share of correct answers, 0 to 1.
pub fn accuracy(score: Score) -> f64 {
    f64::from(score.correct) / f64::from(score.total.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: the linear term is the paper's, 1 − parameters / N. With the target term accuracy
    /// alone decides among nets that are small enough, and one parameter too many ranks a net that
    /// answers everything below one that answers nothing.
    #[test]
    fn size_terms() {
        let rule = |size_term| FitnessRule {
            full: 800,
            target: 100,
            lambda: 0.5,
            size_term,
        };
        let fitness = |term, parameters| {
            rule(term).fitness(
                Score {
                    correct: 3,
                    total: 4,
                },
                parameters,
            )
        };
        assert_eq!(
            [800, 400, 0].map(|p| fitness(SizeTerm::Linear, p)),
            [0.75, 1.0, 1.25]
        );
        assert_eq!(
            [800, 450, 100, 10].map(|p| fitness(SizeTerm::Target, p)),
            [-0.25, 0.0, 1.25, 1.25]
        );
        let [right, wrong] = [4, 0].map(|correct| Score { correct, total: 4 });
        for lambda in [0.01, 0.3, 100.0] {
            let rule = FitnessRule {
                lambda,
                ..rule(SizeTerm::Target)
            };
            assert!(rule.fitness(right, 101) < rule.fitness(wrong, 100));
        }
        let whole = FitnessRule {
            target: 800,
            ..rule(SizeTerm::Target)
        };
        assert_eq!(
            whole.fitness(
                Score {
                    correct: 0,
                    total: 0
                },
                800
            ),
            0.5
        );
    }
}
