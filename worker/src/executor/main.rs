//! `evoring-executor`: computes for one slot, in a process of its own.
//!
//! The agent starts it with a socket (file descriptor 3) and a lifeline (4), tells it what to run
//! one piece after the other, and gets reports. It never uses the network and holds no key. A
//! panic of a kernel is reported; the process then ends with [`EXIT_PANIC`] and the agent starts a
//! fresh one.

mod activations;
mod inbox;
mod inherited;
mod items;
mod outbox;
mod panic;
mod rank;

use activations::HostActivations;
use anyhow::Context as _;
use clap::Parser;
use evoring_kernels::evaluator::Evaluator;
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use inbox::Task;
use outbox::Outbox;
use rustix::process::{Signal, getpid, kill_process, set_parent_process_death_signal};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

/// A kernel panicked.
const EXIT_PANIC: u8 = 70;

/// Computes for one slot of a worker; started by `evoring-worker` alone.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Number of the slot, for messages
    #[arg(long)]
    slot: u32,
    /// Folder of this executor alone
    #[arg(long, value_name = "DIR")]
    scratch: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let slot = arguments.slot;
    match run(arguments) {
        Ok(End::Dismissed) => ExitCode::SUCCESS,
        Ok(End::Panicked) => ExitCode::from(EXIT_PANIC),
        Err(error) => {
            eprintln!("executor of slot {slot}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Why the executor ends.
enum End {
    /// The agent closed the socket.
    Dismissed,
    /// A kernel panicked; libtorch's state is not to be trusted any more.
    Panicked,
}

fn run(arguments: Arguments) -> anyhow::Result<End> {
    let (socket, lifeline) = inherited::take()?;
    hold_lifeline(lifeline)?;
    // A second belt, should the watching thread never run. The agent starts executors from its main
    // thread, with which it ends; whoever starts them otherwise must stay as long.
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("ask for a signal at the agent's end")?;
    let socket = UnixStream::from(socket);
    let (outbox, writer) = outbox::open(socket.try_clone().context("the socket to the agent")?)?;
    let tasks = inbox::open(socket)?;
    evoring_kernels::initialise();
    outbox.report(ExecutorReport::Ready {
        numerics: evoring_kernels::numerics_class(),
    });
    let activations =
        HostActivations::open(arguments.slot, evoring_worker::host_files::default_folder());
    let mut executor = Executor {
        slot: arguments.slot,
        scratch: arguments.scratch,
        evaluator: Evaluator::new(Box::new(activations)),
        outbox,
    };
    // Ends when the agent closes the socket.
    let end = tasks
        .iter()
        .find(|task| !executor.run(task))
        .map_or(End::Dismissed, |_| End::Panicked);
    drop(executor);
    // All that was reported must be on its way before the process ends.
    let _ = writer.join();
    Ok(end)
}

/// Ends this process with the agent, whatever it is doing.
fn hold_lifeline(lifeline: OwnedFd) -> anyhow::Result<()> {
    let wait = move || {
        let mut pipe = std::fs::File::from(lifeline);
        loop {
            match pipe.read(&mut [0; 16]) {
                Ok(1..) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // A signal, because exit handlers of libraries could wait for threads that compute.
                Ok(0) | Err(_) => {
                    let _ = kill_process(getpid(), Signal::KILL);
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("lifeline".to_owned())
        .spawn(wait)
        .context("start the thread that watches the agent")?;
    Ok(())
}

/// What lives from one piece of work to the next.
struct Executor {
    slot: u32,
    scratch: PathBuf,
    evaluator: Evaluator,
    outbox: Outbox,
}

impl Executor {
    /// Runs one piece of work and reports its end; `false` after a panic.
    fn run(&mut self, task: &Task) -> bool {
        let Self {
            scratch,
            evaluator,
            outbox,
            ..
        } = self;
        let result = match &task.command {
            ExecutorCommand::RunItems {
                task: number,
                assignment,
                inputs,
                items,
            } => {
                let piece = items::Piece {
                    task: *number,
                    assignment,
                    inputs,
                    items,
                };
                items::run(piece, evaluator, outbox, &task.stop)
            }
            ExecutorCommand::RunRank {
                task: number,
                assignment,
                inputs,
                rank,
                world_size,
                secret,
                resume,
            } => {
                let member = rank::Member {
                    rank: rank.0,
                    world_size: *world_size,
                    secret: *secret,
                };
                let piece = rank::Piece {
                    task: *number,
                    assignment,
                    inputs,
                    member,
                    resume: resume.as_ref(),
                };
                rank::run(piece, scratch, outbox, &task.stop)
            }
            // The inbox answers these itself.
            ExecutorCommand::Stop { .. } => Ok(()),
        };
        if let Err(message) = &result {
            eprintln!(
                "executor of slot {}: task {}: panic: {message}",
                self.slot, task.number
            );
        }
        result.is_ok()
    }
}
