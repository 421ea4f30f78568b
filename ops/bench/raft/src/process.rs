//! Child processes that end with this one, and the folder of a run.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Starts `program`, its output appended to `log`. The kernel kills it when this process ends,
/// even if this one is killed.
pub fn start(program: &Path, arguments: &[OsString], log: &Path) -> Result<Child> {
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("log {}", log.display()))?;
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("setpriv (util-linux) {}", program.display()))
}

/// The last lines of a log, for messages.
pub fn log_end(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(5);
    format!("{}:\n{}", log.display(), lines[from..].join("\n"))
}

/// Sends SIGKILL.
pub fn kill(process: u32) -> Result<()> {
    signal(process, Signal::KILL)
}

/// Sends SIGSTOP.
pub fn stop(process: u32) -> Result<()> {
    signal(process, Signal::STOP)
}

fn signal(process: u32, signal: Signal) -> Result<()> {
    let id = i32::try_from(process)
        .ok()
        .and_then(Pid::from_raw)
        .with_context(|| format!("{process} is no process id"))?;
    kill_process(id, signal).with_context(|| format!("{signal:?} to process {process}"))
}

/// Asks `condition` every `pause` until it holds, for at most `limit`. The last answer that it does
/// not hold, or the last error, is the reason of a failure.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut condition: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = tokio::time::Instant::now() + limit;
    loop {
        match condition().await {
            Ok(value) => return Ok(value),
            Err(error) if tokio::time::Instant::now() >= end => {
                return Err(error.context(format!("{what}: not within {limit:?}")));
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
    }
}

/// A fresh folder for the data of one run, removed with everything in it unless it is kept.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes a folder below `parent`.
    pub fn new(parent: &Path, keep: bool) -> Result<Self> {
        let path = parent.join(format!("run-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("folder {}", path.display()))?;
        Ok(Self {
            path: path.canonicalize()?,
            keep,
        })
    }

    /// A folder in it.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir(&path).with_context(|| format!("folder {}", path.display()))?;
        Ok(path)
    }

    /// Removes a folder in it that is no longer needed.
    pub fn forget(&self, path: &Path) {
        if !self.keep && path.starts_with(&self.path) {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("data and logs are kept in {}", self.path.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
