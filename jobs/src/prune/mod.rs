//! `evolve.prune`: evolutionary compression of a CNN (Wang et al., *Towards Evolutionary
//! Compression*, KDD 2018).
//!
//! [`PruneDriver`] trains the full net, ranks its filters, searches filter masks, chooses the
//! final individual and its rivals on images that no fitness has seen, fine-tunes all of them
//! alike and evaluates everything once on the test part. What is decided by which part:
//! [`PruneJob`] the parameters, `search` a generation, `comparison` the rivals, `tuning` the gangs of
//! fine-tuning, `report` and `model` the files.

mod allocation;
mod comparison;
mod driver;
mod job;
mod model;
mod ranking;
mod report;
mod search;
mod shortlist;
mod step;
mod tuning;

#[cfg(test)]
mod simulation;

pub use allocation::Shares;
pub use driver::PruneDriver;
pub use job::{Baselines, FitnessRule, PruneJob, Search, SizeTerm, Training, accuracy};
pub(crate) use report::FINALIST_BYTES;
