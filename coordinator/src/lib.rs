//! The Evoring coordinator.
//!
//! Pure cores, each plain state with events in and effects out: [`consensus`] (Raft),
//! [`state`] (what is replicated), [`scheduler`] (who computes what now), and [`leader`], which
//! binds the last two. [`storage`] keeps the
//! log; [`shell`] waits, feeds the cores and acts.

pub mod consensus;
pub mod leader;
pub mod scheduler;
pub mod shell;
pub mod state;
pub mod storage;

#[cfg(test)]
#[path = "../tests/support/made_up.rs"]
mod made_up;
