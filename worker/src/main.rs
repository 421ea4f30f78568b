//! `evoring-worker`: the agent of a host.

use anyhow::Context as _;
use clap::{ArgGroup, Parser};
use evoring_protocol::limits::WORKER_SLOTS;
use evoring_protocol::{EXIT_HOPELESS, WorkerId};
use evoring_worker::agent::session::Address;
use evoring_worker::agent::{Hopeless, Settings, run};
use evoring_worker::host_files;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the executors of one host and connects them to the coordinator.
#[derive(Debug, Parser)]
#[command(version, group = ArgGroup::new("where").required(true).multiple(true).args(["coordinator", "announce"]))]
struct Arguments {
    /// Name of this worker, as in its certificate
    #[arg(long)]
    name: String,
    /// Folder for files of this agent
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Folder with certificate.pem, key.pem and authority.pem
    #[arg(long, value_name = "DIR")]
    identity: PathBuf,
    /// Address of a coordinator; may be given for several
    #[arg(long, value_name = "ADDRESS:PORT")]
    coordinator: Vec<SocketAddr>,
    /// File in which a coordinator announces its address; may be given for several
    #[arg(long, value_name = "FILE")]
    announce: Vec<PathBuf>,
    /// Slots, each with one executor process
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(WORKER_SLOTS)))]
    slots: u32,
    /// Where to serve /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// Inherited pipe at whose end of file the worker stops
    #[arg(long, value_name = "N")]
    lifeline_fd: Option<u32>,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // A standard error that cannot be written (full disk, reader gone) must not end the process.
        .log_internal_errors(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("evoring-worker: {error:#}");
            match error.is::<Hopeless>() {
                true => ExitCode::from(EXIT_HOPELESS),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    let announced = arguments.announce.into_iter().map(Address::Announced);
    let fixed = arguments.coordinator.into_iter().map(Address::Fixed);
    let settings = Settings {
        worker: WorkerId::new(&arguments.name)?,
        folder: arguments.dir,
        identity: arguments.identity,
        coordinators: announced.chain(fixed).collect(),
        slots: arguments.slots,
        http: arguments.http,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let lifeline = arguments.lifeline_fd.map(open_lifeline).transpose()?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let stop = async move {
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = end_of_lifeline(lifeline) => {}
            }
        };
        run(settings, stop).await
    });
    // Threads that wait for executors end with them; they are killed by now.
    runtime.shutdown_background();
    // Which is why they could not remove what they had in common.
    if let Err(error) = host_files::sweep(&host_files::default_folder()) {
        tracing::warn!("shared activations are not removed: {error}");
    }
    outcome
}

/// A handle of our own on an inherited pipe, without taking over a raw number.
fn open_lifeline(descriptor: u32) -> anyhow::Result<File> {
    let path = format!("/proc/self/fd/{descriptor}");
    File::open(&path).with_context(|| format!("--lifeline-fd {descriptor}: {path}"))
}

/// Completes when the parent is gone; never without a lifeline.
async fn end_of_lifeline(lifeline: Option<File>) {
    let Some(lifeline) = lifeline else {
        return std::future::pending().await;
    };
    let mut lifeline = tokio::fs::File::from_std(lifeline);
    let mut buffer = [0u8; 64];
    while matches!(lifeline.read(&mut buffer).await, Ok(count) if count > 0) {}
}
