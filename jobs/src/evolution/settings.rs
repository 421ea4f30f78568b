//! What a search may choose.

use serde::{Deserialize, Serialize};

/// Who becomes a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// With probability proportional to (scaled) fitness.
    Roulette,
    /// The best of [`Breeding::tournament_size`] drawn with replacement.
    Tournament,
}

/// What the roulette sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scaling {
    /// Fitness as it is, as in the paper.
    Raw,
    /// Fitness minus the lowest of the generation, which restores pressure between close values.
    Windowed,
}

/// How two parents make two children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crossover {
    /// Swap one random segment, as in the paper.
    TwoPoint,
    /// Swap each gene with probability ½.
    Uniform,
}

/// How one parent makes one child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mutation {
    /// Invert one random segment, as in the paper: a third of the genes on average.
    Segment,
    /// Flip each gene with the same small probability.
    BitFlip,
    /// Exchange kept filters for removed ones of the same layer: widths stay.
    Exchange,
}

/// First generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The full net; others keep each gene with a rate of their own, drawn from the keep rates.
    KeepRates,
    /// Each gene with probability ½.
    Bernoulli,
    /// The full net; others by L1 norm, with a rate for each layer drawn from the keep rates.
    L1,
    /// The full net; others by L1 norm, each with other widths that fill the wanted size.
    L1Target,
}

/// How a generation follows from the one before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breeding {
    /// Individuals of a generation.
    pub population: u32,
    /// First generation.
    pub start: Start,
    /// Range of keep rates of the first generation, 0 to 1.
    pub keep_rates: [f64; 2],
    /// Who becomes a parent.
    pub selection: Selection,
    /// Individuals of one tournament.
    pub tournament_size: u32,
    /// What the roulette sees.
    pub scaling: Scaling,
    /// Share of slots filled by a copy (s1).
    pub copy_rate: f64,
    /// Share of slots filled by crossover (s2).
    pub crossover_rate: f64,
    /// Share of slots filled by mutation (s3); the three add up to 1.
    pub mutation_rate: f64,
    /// How two parents make two children.
    pub crossover: Crossover,
    /// How one parent makes one child.
    pub mutation: Mutation,
    /// Mean number of genes that a bit flip changes, or of filters that an exchange replaces.
    pub mutation_genes: f64,
    /// Probability that a child of a crossover is mutated too; 0 in the paper.
    pub child_mutation: f64,
    /// Best individuals copied unchanged as the first members.
    pub elites: u32,
}
