//! Every identifier, one meaning each.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// A job, numbered from 1 in the order of submission.
    JobId, u64
);
number_id!(
    /// One demand (gang or map) of a job, numbered by the job's driver from 1.
    DemandId, u32
);
number_id!(
    /// Position of an item in its map, from 0.
    ItemIndex, u32
);
number_id!(
    /// One run of an item or of a gang, from 1. The next one begins when the log says that this one
    /// failed or was lost; what a new leader only grants again keeps its number.
    Attempt, u32
);
number_id!(
    /// A slot of one worker, from 0: the place of one executor.
    SlotIndex, u32
);
number_id!(
    /// Number of a gang's roster, from 1; a change of members makes the next one.
    RosterNumber, u32
);
number_id!(
    /// Index of a gang member in `0..world_size`.
    Rank, u32
);
number_id!(
    /// Completed optimizer updates of a training.
    Step, u64
);
number_id!(
    /// A Raft term.
    Term, u64
);

/// Name of a worker, as in its certificate: 1 to 63 characters of `a-z`, `0-9` and `-`, neither
/// beginning nor ending with `-` (a DNS label).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(String);

/// A name with characters or a length that no worker may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "worker name {0:?}: expected 1 to 63 characters of a-z, 0-9 and '-', neither beginning nor ending with '-'"
)]
pub struct InvalidWorkerId(String);

impl WorkerId {
    /// Checks and wraps a name.
    pub fn new(name: &str) -> Result<Self, InvalidWorkerId> {
        let valid = (1..=63).contains(&name.len())
            && !name.starts_with('-')
            && !name.ends_with('-')
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if valid {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidWorkerId(name.chars().take(80).collect()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for WorkerId {
    type Error = InvalidWorkerId;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl From<WorkerId> for String {
    fn from(id: WorkerId) -> Self {
        id.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Random number of a cluster, made with its authority; in every certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 8]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Random number of one submission: a repeated submission with the same key makes no second job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SubmissionKey(pub [u8; 16]);

/// Random number of one request: a copy of it that comes later, by another way, changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestKey(pub [u8; 16]);
