//! The evolution engine: chromosomes, populations, selection and variation.
//!
//! Everything follows Wang et al., *Towards Evolutionary Compression* (KDD 2018): roulette by
//! cumulative sums, each slot of the next generation filled by copying, two-point crossover or
//! segment inversion, the best individual copied unchanged. The options beside those are ours.
//! Random numbers are keyed by (seed, purpose, generation, slot), so a generation depends on the
//! one before and on nothing else.

mod breeding;
mod chromosome;
mod selection;
mod settings;
mod start;
mod variation;

pub use breeding::{Individual, Operator, breed, order};
pub use chromosome::Chromosome;
pub use selection::{Wheel, tournament};
pub use settings::{Breeding, Crossover, Mutation, Scaling, Selection, Start};
pub use start::{first_generation, strongest};
pub use variation::{
    Fit, exchange, fit, flip, invert_segment, repair, swap_segment, swap_uniformly,
};
