//! The coordinator process.

use clap::Parser as _;
use evoring_coordinator::consensus::StopReason;
use evoring_coordinator::shell::{Settings, run};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Threads for connections: half of the cores, as consensus, log and leader have threads of their own.
fn worker_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    (cores / 2).clamp(1, 8)
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_ansi(false)
        // A standard error that cannot be written (full disk, reader gone) must not end the process.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(settings)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("evoring-coordinator: {error:#}");
            match error.downcast_ref() {
                Some(StopReason::Removed) => ExitCode::from(evoring_protocol::EXIT_REMOVED),
                Some(StopReason::Forgot(_) | StopReason::Membership { .. }) => {
                    ExitCode::from(evoring_protocol::EXIT_HOPELESS)
                }
                None => ExitCode::FAILURE,
            }
        }
    }
}
