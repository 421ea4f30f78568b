//! Linearizability: could the answers that clients saw have come from one copy that does one
//! thing at a time, each somewhere between its call and its answer?
//!
//! A run records every operation in a [`History`]; [`check()`] searches an order that a
//! [`Model`] accepts and gives a [`Verdict`]. The [`JobModel`] describes jobs by submission key,
//! the [`LabelModel`] one label of a job. The rules:
//!
//! - **LIN-1** An operation takes effect once, after its call and before its answer. Equal
//!   instants overlap.
//! - **LIN-2** An operation whose answer was never seen stays open for ever: it takes effect at
//!   any time after its call, or never.
//! - **LIN-3** An operation that certainly did not happen ([`History::failed`]) is left out.
//! - **LIN-4** A history is linearizable if, and only if, it is for each key by itself (locality:
//!   Herlihy and Wing 1990, theorem 1); so keys are checked one by one.
//!
//! # Method
//!
//! The search of Wing and Gong (1993) with the memory of Lowe ("Testing for linearizability",
//! 2017), in the shape of Porcupine: calls and answers stand in a doubly linked list
//! (`entries`), placing an operation lifts both out, a dead end puts them back, and a pair of
//! (operations placed, state) is never searched twice (`cache`). Some things are added, and compared
//! with plain enumeration in the tests:
//!
//! - Unanswered operations stand in a list of their own, are tried last, and of two searches that
//!   differ only in them the one that has used fewer suffices. One that makes no difference to the
//!   operation behind it is not placed.
//! - Of unanswered operations with equal inputs, the one called first goes first.
//! - An answered operation that only looks ([`Model::is_observation`]) goes as soon as it fits.
//!   Of the others, what was answered first goes first.
//!
//! Deciding is NP-complete (Gibbons and Korach 1997), hence the limit of steps for each key.

mod cache;
mod check;
mod entries;
mod history;
mod job;
mod label;
mod model;
mod search;

pub use check::{Verdict, check};
pub use history::{Handle, History};
pub use job::{JobInput, JobModel, JobOutput, JobState, JobStatus, Phase};
pub use label::{LabelInput, LabelModel, LabelOutput};
pub use model::Model;

#[cfg(test)]
mod tests;
