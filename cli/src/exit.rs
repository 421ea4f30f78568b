//! How a command ends: one table of exit codes, and the failure that carries one.

use evoring_protocol::{ErrorCode, RemoteError};
use std::fmt::Display;

/// Exit codes, as documented in `docs/cli.md`; numbers never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// The job failed or was cancelled by somebody else.
    JobFailed = 1,
    /// Wrong arguments or a wrong job file; nothing was started.
    Usage = 2,
    /// No coordinator answered, or the local cluster could not be kept alive.
    Unreachable = 3,
    /// The cluster refused the request.
    Refused = 4,
    /// Something on this machine: a folder that cannot be written, a damaged download.
    Local = 5,
    /// Interrupted by Ctrl-C (SIGINT).
    Interrupted = 130,
    /// Stopped by SIGTERM or SIGHUP.
    Terminated = 143,
}

impl Exit {
    /// Stable name, as in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::JobFailed => "job_failed",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Local => "local",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        }
    }
}

/// Why a command did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Decides the exit code.
    pub exit: Exit,
    /// What failed, where, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure of the given kind.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// Something on this machine.
    pub fn local(what: impl Display, source: impl Display) -> Self {
        Self::new(Exit::Local, format!("{what}: {source}"))
    }

    /// Wrong arguments or a wrong job file.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// What the cluster refused, with the code's name.
    pub fn refused(error: &RemoteError) -> Self {
        let advice = match error.code {
            ErrorCode::Forbidden => {
                "; the certificate in the cluster file's identity has no right to this"
            }
            ErrorCode::VersionMismatch => "; run commands and cluster from one build",
            ErrorCode::NotReady | ErrorCode::Busy => "; try again in a moment",
            ErrorCode::ReadOnly
            | ErrorCode::Invalid
            | ErrorCode::NotFound
            | ErrorCode::Internal => "",
        };
        Self::new(
            Exit::Refused,
            format!("refused ({}): {}{advice}", error.code.name(), error.message),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: scripts can rely on the numbers. Method: pin each.
    #[test]
    fn codes_are_pinned() {
        let codes = [
            Exit::Ok,
            Exit::JobFailed,
            Exit::Usage,
            Exit::Unreachable,
            Exit::Refused,
            Exit::Local,
            Exit::Interrupted,
            Exit::Terminated,
        ]
        .map(|exit| exit as u8);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 130, 143]);
    }
}
