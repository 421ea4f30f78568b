//! Errors that cross the wire: code, name and sentence in one table.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a request or a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorCode {
    /// The request itself is wrong; repeating it cannot help.
    Invalid,
    /// No such job, worker or blob.
    NotFound,
    /// The certificate's role may not ask this.
    Forbidden,
    /// The processes come from different builds.
    VersionMismatch,
    /// The coordinator's disk is full or has failed; it only reads.
    ReadOnly,
    /// No leader, or the leader is taking office; ask again.
    NotReady,
    /// A declared limit is reached; ask again later.
    Busy,
    /// A defect of Evoring.
    Internal,
}

impl ErrorCode {
    /// Stable name, as in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::VersionMismatch => "version_mismatch",
            Self::ReadOnly => "read_only",
            Self::NotReady => "not_ready",
            Self::Busy => "busy",
            Self::Internal => "internal",
        }
    }

    /// Whether the same request may succeed later.
    pub fn can_retry(self) -> bool {
        matches!(self, Self::ReadOnly | Self::NotReady | Self::Busy)
    }
}

/// A refusal with what failed, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct RemoteError {
    /// The kind.
    pub code: ErrorCode,
    /// One or more sentences for a person.
    pub message: String,
}

impl RemoteError {
    /// A refusal of the given kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
