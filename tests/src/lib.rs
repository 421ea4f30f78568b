//! Process harness: real binaries on loopback, driven through the command line as a user drives
//! them, killed and restarted, and awaited by visible state (events, job views), never by sleeping
//! for luck.
//!
//! Start with [`cluster::Cluster`]; [`binaries`] builds what it runs; [`job`] writes job files
//! small enough for a test and real in every part, [`images`] data sets; [`scenario`] kills
//! processes, [`group`] strikes those of several coordinators, [`network`] cuts them off from each
//! other, and [`evidence`] is what the events say about it. [`client`] asks at the same time as
//! others and records what it was answered, which [`linearizability`] judges. [`process`] and
//! [`namespace`] are what the operating system has to say and to give.
//!
//! [`simulation`] needs no processes: it drives the cores.
//!
//! [`random`] gives all of them their numbers.
//!
//! [`fuzz`] is about single decoders: what reads bytes from a network, a disk or a user.

pub mod binaries;
pub mod client;
pub mod cluster;
pub mod evidence;
pub mod fuzz;
pub mod group;
pub mod images;
pub mod job;
pub mod linearizability;
pub mod namespace;
pub mod network;
pub mod process;
pub mod random;
pub mod scenario;
pub mod simulation;
