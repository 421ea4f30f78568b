//! A file system that one process and its children alone see, where the machine allows that, and what
//! a test says where it does not.

use std::fmt::{self, Display, Formatter};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Options of `unshare` that lead to a mount namespace: for everybody where user namespaces are
/// allowed, and for root where they are not.
const WAYS: [&[&str]; 2] = [&["--user", "--map-root-user", "--mount"], &["--mount"]];
/// Mounts `$0` bytes at `$1`, and becomes what follows.
const SCRIPT: &str = "mount -t tmpfs -o size=\"$0\" none \"$1\" && shift && exec \"$@\"";

/// No namespace of some kind can be made here; says what was tried, and how to allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAllowed {
    kind: &'static str,
    needed: &'static str,
    capability: &'static str,
    tried: Vec<String>,
}

impl NotAllowed {
    fn mount(tried: Vec<String>) -> Self {
        Self {
            kind: "a mount namespace",
            needed: "`unshare` and `mount` (package util-linux)",
            capability: "the capability SYS_ADMIN",
            tried,
        }
    }

    pub(crate) fn network(tried: Vec<String>) -> Self {
        Self {
            kind: "a network namespace with wires to others",
            needed: "`unshare` and `nsenter` (package util-linux), `ip` (package iproute2)",
            capability: "the capabilities SYS_ADMIN and NET_ADMIN",
            tried,
        }
    }
}

/// Says that a test was not run, past the capture of its output, in the form that `ops/test.py`
/// repeats.
///
/// # Panics
/// If standard error cannot be written.
pub fn not_run(test: &str, reason: &NotAllowed) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "\nnot run: {test} ({reason})").expect("standard error");
}

impl Display for NotAllowed {
    /// One line.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no process gets {} here: {}; needed are {}, and user namespaces (as root: sysctl \
             user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1 on Debian, \
             kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu) or, in a container, {}",
            self.kind,
            self.tried.join("; "),
            self.needed,
            self.capability
        )
    }
}

/// A command that mounts a tmpfs of `bytes` at `place`, for itself alone, and becomes `program`, with
/// the arguments that are added; its process is the program's.
///
/// # Errors
/// If the machine does not allow that.
pub fn with_tmpfs(place: &Path, bytes: u64, program: &Path) -> Result<Command, NotAllowed> {
    let command = |way: &[&str], program: &Path| {
        let mut command = Command::new("unshare");
        command.args(way).args(["sh", "-c", SCRIPT]);
        command.arg(bytes.to_string()).arg(place).arg(program);
        command
    };
    let mut tried = Vec::new();
    for way in WAYS {
        match attempt(command(way, Path::new("true"))) {
            Ok(()) => return Ok(command(way, program)),
            Err(said) => tried.push(format!("`unshare {}`: {said}", way.join(" "))),
        }
    }
    Err(NotAllowed::mount(tried))
}

/// Runs the command; what it said, in one line, if it did not succeed.
pub(crate) fn attempt(mut command: Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(one_line(&output)),
    }
}

/// How a command ended, and what it said.
pub(crate) fn one_line(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let words: Vec<&str> = said.split_whitespace().collect();
    format!("{}, {}", output.status, words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: what fails is told in one line, with its cause and what to do. Method: a command that
    // fails as `unshare` does where it may not, and one that is not there.
    #[test]
    fn refusals_are_told_in_one_line() {
        let mut refused = Command::new("sh");
        refused.args(["-c", "echo 'unshare failed:\nNot permitted' >&2; exit 1"]);
        let said = attempt(refused).expect_err("it fails");
        assert_eq!(said, "exit status: 1, unshare failed: Not permitted");
        let absent = attempt(Command::new("evoring-absent")).expect_err("it is not there");
        let text = NotAllowed::mount(vec![said, absent]).to_string();
        for part in [
            "Not permitted",
            "No such file",
            "user.max_user_namespaces",
            "util-linux",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains('\n'), "{text}");
    }
}
