//! One child process: started, its output copied into a bounded log, started again when it dies,
//! stopped when asked.
//!
//! CHILD-1: a child's standard input is the read end of a pipe whose write end only this process
//! holds (close-on-exec, so no child has a copy). It reads the end of file as soon as this
//! process is gone, however it went, and exits.

use super::lines::LineCutter;
use super::log::BoundedLog;
use super::restart::{RestartPolicy, Verdict};
use evoring_protocol::{EXIT_HOPELESS, EXIT_REMOVED};
use rustix::process::{Pid, Signal};
use std::ffi::OsString;
use std::fmt;
use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

/// How long a child may take to stop by itself.
const GRACE: Duration = Duration::from_secs(3);
/// How long the rest of a dead child's output is awaited; grandchildren may hold the pipe open.
const DRAIN: Duration = Duration::from_millis(200);

/// How urgently everything must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not at all.
    No,
    /// SIGTERM first, SIGKILL after a grace period.
    Gently,
    /// SIGKILL.
    Now,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    /// Name for people, also of the log.
    pub name: String,
    /// Path of the program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// What became of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildEvent {
    /// It runs.
    Started {
        /// Name.
        name: String,
        /// Process id.
        process: u32,
    },
    /// It died and is started again.
    Died {
        /// Name.
        name: String,
        /// Exit status or signal.
        status: String,
    },
    /// It was removed from the group of coordinators and is not needed any more.
    Removed {
        /// Name.
        name: String,
    },
    /// It died too often, or said that it would die again; the message holds its last lines.
    GaveUp {
        /// Name.
        name: String,
        /// For people.
        message: String,
    },
}

impl fmt::Display for ChildEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { name, process } => write!(f, "{name} runs as process {process}"),
            Self::Died { name, status } => write!(f, "{name} ended ({status}), starting it again"),
            Self::Removed { name } => write!(f, "{name} was removed from the group and has ended"),
            Self::GaveUp { message, .. } => f.write_str(message),
        }
    }
}

/// Runs one child until `stop` says otherwise, it dies too often, or it says that it would die again
/// ([`EXIT_HOPELESS`]) or is not needed any more ([`EXIT_REMOVED`]).
pub async fn supervise(
    spec: ChildSpec,
    lifeline: PipeReader,
    mut stop: watch::Receiver<Stop>,
    events: mpsc::UnboundedSender<ChildEvent>,
) {
    let mut policy = RestartPolicy::default();
    let began = Instant::now();
    let log = match BoundedLog::open(&spec.log) {
        Ok(log) => Arc::new(Mutex::new(log)),
        Err(error) => {
            let message = format!("{}: log {}: {error}", spec.name, spec.log.display());
            let name = spec.name.clone();
            let _ = events.send(ChildEvent::GaveUp { name, message });
            return;
        }
    };
    loop {
        let (status, is_hopeless) = match run_once(&spec, &lifeline, &log, &mut stop, &events).await
        {
            Ok(Some(status)) if status.code() == Some(EXIT_REMOVED.into()) => {
                let name = spec.name.clone();
                let _ = events.send(ChildEvent::Removed { name });
                return;
            }
            Ok(Some(status)) => {
                let is_hopeless = status.code() == Some(EXIT_HOPELESS.into());
                (status.to_string(), is_hopeless)
            }
            Ok(None) => return,
            Err(error) => {
                let program = spec.program.display();
                (format!("cannot be started: {program}: {error}"), false)
            }
        };
        lock(&log).line(&format!("[evoring] {} ended: {status}", spec.name));
        let verdict = match is_hopeless {
            true => Verdict::GiveUp,
            false => policy.on_death(began.elapsed()),
        };
        match verdict {
            Verdict::Restart(wait) => {
                let _ = events.send(ChildEvent::Died {
                    name: spec.name.clone(),
                    status,
                });
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|level| *level > Stop::No) => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
            Verdict::GiveUp => {
                let _ = events.send(ChildEvent::GaveUp {
                    name: spec.name.clone(),
                    message: last_words(&spec, is_hopeless, &status, &lock(&log)),
                });
                return;
            }
        }
    }
}

/// Starts the child and waits for its end; `None` when it was stopped.
async fn run_once(
    spec: &ChildSpec,
    lifeline: &PipeReader,
    log: &Arc<Mutex<BoundedLog>>,
    stop: &mut watch::Receiver<Stop>,
    events: &mpsc::UnboundedSender<ChildEvent>,
) -> std::io::Result<Option<ExitStatus>> {
    let (output, output_writer) = std::io::pipe()?;
    let mut child = Command::new(&spec.program)
        .args(&spec.arguments)
        .stdin(Stdio::from(OwnedFd::from(lifeline.try_clone()?)))
        .stdout(Stdio::from(OwnedFd::from(output_writer.try_clone()?)))
        .stderr(Stdio::from(OwnedFd::from(output_writer)))
        // The output goes to a file.
        .env("NO_COLOR", "1")
        // Ctrl-C on the terminal is for this process alone, which then stops its children.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let mut copy = tokio::spawn(copy_output(output, Arc::clone(log)));
    let _ = events.send(ChildEvent::Started {
        name: spec.name.clone(),
        process: child.id().unwrap_or(0),
    });
    let ended = tokio::select! {
        biased;
        _ = stop.wait_for(|level| *level > Stop::No) => None,
        status = child.wait() => Some(status?),
    };
    if ended.is_none() {
        end_child(&mut child, stop).await;
    }
    if tokio::time::timeout(DRAIN, &mut copy).await.is_err() {
        copy.abort();
    }
    Ok(ended)
}

/// Asks the child to end, then kills its process group.
async fn end_child(child: &mut Child, stop: &mut watch::Receiver<Stop>) {
    let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
        return;
    };
    // The process has not been reaped, so its id still names it; it may have ended by itself.
    let _ = rustix::process::kill_process(pid, Signal::TERM);
    let gentle = tokio::select! {
        biased;
        _ = stop.wait_for(|level| *level == Stop::Now) => false,
        _ = tokio::time::sleep(GRACE) => false,
        _ = child.wait() => true,
    };
    if !gentle {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = child.wait().await;
    }
}

async fn copy_output(output: PipeReader, log: Arc<Mutex<BoundedLog>>) {
    let Ok(mut output) = tokio::net::unix::pipe::Receiver::from_owned_fd(OwnedFd::from(output))
    else {
        return;
    };
    let mut cutter = LineCutter::default();
    let mut buffer = vec![0u8; 8 << 10];
    while let Ok(bytes) = output.read(&mut buffer).await {
        if bytes == 0 {
            break;
        }
        cutter.push(&buffer[..bytes], |line| lock(&log).line(line));
    }
    cutter.finish(|line| lock(&log).line(line));
}

fn last_words(spec: &ChildSpec, is_hopeless: bool, status: &str, log: &BoundedLog) -> String {
    let lines: String = log.last_lines().map(|line| format!("\n  {line}")).collect();
    let what = match is_hopeless {
        true => format!("cannot run here ({status})"),
        false => format!("died five times in a minute, the last time with {status}"),
    };
    let (name, log) = (&spec.name, spec.log.display());
    format!("{name} {what}; its last lines ({log}):{lines}")
}

/// A poisoned lock only means that a log line was cut short.
fn lock(log: &Mutex<BoundedLog>) -> MutexGuard<'_, BoundedLog> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
