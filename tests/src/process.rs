//! A process of a test, ended and reaped whatever becomes of the test, and what the kernel tells of
//! all others.

use crate::cluster::{PATIENCE, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

/// A process that gets SIGTERM, and is waited for, when dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        Self(
            command
                .spawn()
                .unwrap_or_else(|e| panic!("{command:?}: {e}")),
        )
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal; nothing happens if it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = Pid::from_raw(self.0.id().cast_signed()) {
            // It is not reaped yet, so the number is still its own; already gone is as good.
            let _ = kill_process(process, signal);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After [`PATIENCE`].
    pub fn wait(&mut self) -> ExitStatus {
        let ended = wait_for(|| self.0.try_wait().expect("a child of this process"));
        ended.unwrap_or_else(|| panic!("process {} did not end in {PATIENCE:?}", self.id()))
    }
}

impl From<Child> for Process {
    fn from(child: Child) -> Self {
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            // A stopped one would never look.
            self.signal(Signal::CONT);
            let _ = self.0.wait();
        }
    }
}

/// Number and command line of every process that lives and has `path` somewhere in its arguments.
pub fn living_with(path: &Path) -> Vec<(u32, String)> {
    let wanted = path.as_os_str().as_bytes();
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes
        .filter_map(|process: u32| {
            // One that only waits to be reaped has no command line any more, one that is gone no file.
            let line = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
            let has_path = line.windows(wanted.len()).any(|bytes| bytes == wanted);
            let text = String::from_utf8_lossy(&line).replace('\0', " ");
            has_path.then(|| (process, text.trim_end().to_owned()))
        })
        .collect()
}

/// The body of a page over plain HTTP.
///
/// # Panics
/// If there is none.
pub fn http_body(address: &str, page: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a metrics address");
    let request = format!("GET {page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    // Claim: a process is found by a folder in its arguments while it lives, and not as a zombie.
    // Method: a `cat` that waits for its input; SIGKILL, looked for before it is reaped.
    #[test]
    fn the_living_are_found() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let mut command = Command::new("sh");
        command.args(["-c", "cat; exit 0"]).arg(folder.path());
        let mut process = Process::spawn(command.stdin(Stdio::piped()));
        let found = || living_with(folder.path());
        wait_for(|| (found().len() == 1).then_some(())).expect("the process");
        assert_eq!(found()[0].0, process.id());
        process.signal(Signal::KILL);
        wait_for(|| found().is_empty().then_some(())).expect("the end of the process");
        assert_eq!(process.wait().code(), None, "killed");
    }
}
