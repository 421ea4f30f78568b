//! The command line of Evoring: a client of a cluster, local clusters of true processes, and what
//! people see of a job.
//!
//! Start with [`commands`], one file for each group of commands. [`client`] asks coordinators and
//! survives their restarts; [`local`] starts, watches and stops processes; [`follow`] shows
//! progress; [`artifacts`] fetches, checks and assembles what a job made; [`picture`] draws it;
//! [`output`] holds tables and JSON; [`exit`] the exit codes.

// These panic where a reader or a terminal has gone, and would take a running job with them.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod args;
pub mod artifacts;
pub mod client;
pub mod commands;
pub mod exit;
pub mod follow;
pub mod job_file;
pub mod local;
pub mod output;
pub mod picture;
mod tilde;
