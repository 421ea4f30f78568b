//! The agent. [`core`] decides (no clock, no IO), the rest carries out: [`session`] talks to the
//! coordinator, [`executors`] starts processes, [`blobs`] moves files (`handed`: those that executors
//! hand over), [`http`] serves metrics, [`mod@run`] connects them.

pub mod blobs;
mod cache;
pub mod core;
mod describe;
pub mod executors;
mod handed;
pub mod http;
mod outbox;
pub mod run;
pub mod session;
pub mod work;

pub use run::{Hopeless, Settings, run};
