//! What Evoring runs: job files ([`spec`]), drivers (pure state machines that say what runs next,
//! [`driver`]) and the evolution engine ([`evolution`]).
//!
//! Everything here is a pure function of its arguments: no clock, no IO, no randomness but the
//! counter-based generator of [`random`]. Coordinators replay it; workers read the same
//! descriptions ([`network`], [`data`], [`calls`]) and compute.

pub mod calls;
pub mod data;
pub mod driver;
pub mod evolution;
pub mod network;
pub mod prune;
pub mod random;
pub mod spec;
pub mod tree;
