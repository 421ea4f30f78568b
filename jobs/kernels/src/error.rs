//! What can go wrong in a kernel.

use evoring_protocol::Digest;
use evoring_protocol::work::{FailureCause, WorkError};
use std::path::{Path, PathBuf};

/// A kernel that gave no result.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file whose content is not what it should be.
    #[error("{}: at byte {offset}: {message}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file; 0 if the whole file is meant.
        offset: u64,
        /// Expected and got.
        message: String,
    },
    /// A named data set that this machine does not have.
    #[error("data set {name:?}: no folder {}; run `make setup`, or name the folder above it with EVORING_DATA", folder.display())]
    NoDataSet {
        /// As in the job file.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// Images or labels that are not those that the job began with.
    #[error("{}: images and labels have digest {got}, expected {expected}, that of the images that the job began with; give every worker the same files, or submit the job again to use these", path.display())]
    OtherData {
        /// File or folder of the data, or the checkpoint that was made with them.
        path: PathBuf,
        /// Content that the job began with.
        expected: Digest,
        /// Content found.
        got: Digest,
    },
    /// A call whose parts do not fit each other or the data.
    #[error("{0}")]
    Unfit(String),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// A member of the gang is gone, or the gang was told to stop.
    #[error("the gang stopped at step {step}: {message}")]
    Stopped {
        /// Steps completed.
        step: u64,
        /// Why.
        message: String,
    },
}

impl KernelError {
    /// For `map_err`: an IO error of `path`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// Content of `path` that is wrong at `offset`.
    pub fn corrupt(path: &Path, offset: u64, message: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            offset,
            message: message.into(),
        }
    }

    /// Whether another attempt may succeed: on another worker, which may have the file or the
    /// memory, or with another gang. What a file or a call says stays as it is; other data than the
    /// job's are on this worker alone, for some worker had the right ones when the job began.
    pub fn can_retry(&self) -> bool {
        match self {
            Self::Stopped { .. }
            | Self::Io { .. }
            | Self::NoDataSet { .. }
            | Self::OtherData { .. }
            | Self::Torch(_) => true,
            Self::Corrupt { .. } | Self::Unfit(_) => false,
        }
    }
}

impl From<&KernelError> for WorkError {
    fn from(error: &KernelError) -> Self {
        let cause = match error {
            KernelError::Stopped { .. } => FailureCause::Lost,
            error if error.can_retry() => FailureCause::Failed,
            _ => FailureCause::Final,
        };
        Self {
            message: error.to_string(),
            cause,
        }
    }
}

impl From<evoring_jobs::calls::CallError> for KernelError {
    fn from(error: evoring_jobs::calls::CallError) -> Self {
        Self::Unfit(error.to_string())
    }
}
