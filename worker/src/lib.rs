//! The worker: one agent for each host, one executor process for each slot.
//!
//! [`agent`] holds the private key, speaks QUIC with the coordinator and starts executors;
//! [`collective`] sums between the ranks of a gang; [`host_files`] holds what the executors of a
//! host have in common. The executor itself is the binary `evoring-executor`; it alone links
//! libtorch, so nothing here may name `evoring_kernels`.

pub mod agent;
pub mod collective;
pub mod host_files;
pub mod text;
