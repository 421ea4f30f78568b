//! `evoring` with scripts in the place of the other programs.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bound on every wait.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Lives until its lifeline ends.
pub const FAITHFUL: &str = "exec cat";
/// Does not end when asked to.
pub const STUBBORN: &str = "trap '' TERM\ncat\nsleep 60";
/// Dies at once.
pub const DYING: &str = "echo 'no libtorch, run make setup' >&2\nexit 7";

/// Says that it would die again.
pub const HOPELESS: &str = "echo 'the coordinator refused this worker' >&2\nexit 78";

/// Held while a program is written, and while a process is started: a child born in between would
/// inherit the open file, and a program that is open for writing cannot be executed.
static FORK: Mutex<()> = Mutex::new(());

fn no_fork() -> MutexGuard<'static, ()> {
    FORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A job file that can be run.
pub const JOB: &str = "name = \"x\"\nkind = \"evolve.prune\"\n[data]\nset = \"fashion-mnist\"\n[network]\nname = \"lenet\"\n[train]\nranks = \"1..2\"\n";

/// A folder with `evoring` and scripts beside it.
pub struct Stage {
    pub folder: tempfile::TempDir,
}

impl Stage {
    pub fn new(coordinator: &str, worker: &str) -> Self {
        let _guard = no_fork();
        let folder = tempfile::tempdir().unwrap();
        fs::copy(env!("CARGO_BIN_EXE_evoring"), folder.path().join("evoring")).unwrap();
        for (name, body) in [
            ("evoring-coordinator", coordinator),
            ("evoring-worker", worker),
            ("evoring-executor", FAITHFUL),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("evoring"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("EVORING_CLUSTER");
        command.stdin(Stdio::null());
        command
    }

    pub fn local(&self, dir: &str) -> Local {
        self.local_by(
            self.command(&["local", "--workers", "2", "--dir", dir]),
            dir,
        )
    }

    /// As `nohup` starts it.
    pub fn local_under_nohup(&self, dir: &str) -> Local {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "trap '' HUP; exec ./evoring local --workers 2 --dir \"$0\"",
                dir,
            ])
            .current_dir(self.folder.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("EVORING_CLUSTER")
            .stdin(Stdio::null());
        self.local_by(command, dir)
    }

    /// As a terminal starts it, whatever these tests were started by.
    pub fn local_on_a_terminal(&self, dir: &str) -> Local {
        let mut command = Command::new("env");
        command
            .args(["--default-signal=HUP", "./evoring", "local"])
            .args(["--workers", "2", "--dir", dir])
            .current_dir(self.folder.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("EVORING_CLUSTER")
            .stdin(Stdio::null());
        self.local_by(command, dir)
    }

    fn local_by(&self, mut command: Command, dir: &str) -> Local {
        let log = self.path(&format!("{dir}.stderr"));
        command
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap());
        let child = spawn(&mut command);
        let processes = wait_for("three children", || {
            Some(processes(&log)).filter(|found| found.len() == 3)
        });
        Local { child, processes }
    }

    /// An output that nobody reads.
    pub fn closed_pipe() -> Stdio {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer.into()
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        spawn(&mut command).wait_with_output().unwrap()
    }
}

pub struct Local {
    pub child: Child,
    pub processes: Vec<u32>,
}

impl Local {
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    pub fn assert_all_gone(&self) {
        wait_for("the end of every child", || {
            self.processes
                .iter()
                .all(|process| !lives(*process))
                .then_some(())
        });
    }
}

/// Whatever becomes of the test, nothing of it stays: children end with `evoring`.
impl Drop for Local {
    fn drop(&mut self) {
        // It may have been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn spawn(command: &mut Command) -> Child {
    let _guard = no_fork();
    command.spawn().unwrap()
}

pub fn signal(child: &Child, name: &str) {
    let mut command = Command::new("kill");
    command.args([name, &child.id().to_string()]);
    let status = spawn(&mut command).wait().unwrap();
    assert!(status.success());
}

/// What `evoring local` says it started.
fn processes(log: &Path) -> Vec<u32> {
    let text = fs::read_to_string(log).unwrap();
    text.lines()
        .filter_map(|line| line.split(" runs as process ").nth(1)?.parse().ok())
        .collect()
}

/// Whether a process runs; one that only waits to be reaped does not.
pub fn lives(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("").starts_with('Z'))
}

pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
