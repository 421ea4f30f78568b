//! The coordinator process.

use clap::Parser as _;
use evoring_coordinator::consensus::StopReason;
use evoring_coordinator::shell::{Settings, run};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

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
        .worker_threads(2)
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
