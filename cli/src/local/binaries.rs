//! The other programs of Evoring, found beside this one.

use crate::exit::{Exit, Failure};
use std::path::{Path, PathBuf};

/// Paths of the programs that a local cluster starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// `evoring-coordinator`.
    pub coordinator: PathBuf,
    /// `evoring-worker`, which finds `evoring-executor` beside itself.
    pub worker: PathBuf,
}

impl Binaries {
    /// Looks beside the running program.
    pub fn beside_this_program(workers: u32) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|error| Failure::local("own path", error))?;
        let folder = program.parent().unwrap_or(Path::new("/"));
        Self::in_folder(folder, workers)
    }

    /// Looks into `folder`; the message names everything that is missing and how to build it. What
    /// workers need is only looked for if there shall be any.
    pub fn in_folder(folder: &Path, workers: u32) -> Result<Self, Failure> {
        let names = ["evoring-coordinator", "evoring-worker", "evoring-executor"];
        let missing: Vec<&str> = names
            .into_iter()
            .take(if workers == 0 { 1 } else { usize::MAX })
            .filter(|name| !folder.join(name).is_file())
            .collect();
        if missing.is_empty() {
            return Ok(Self {
                coordinator: folder.join(names[0]),
                worker: folder.join(names[1]),
            });
        }
        let release = if cfg!(debug_assertions) {
            ""
        } else {
            " --release"
        };
        Err(Failure::new(
            Exit::Local,
            format!(
                "{} not found in {}: a local cluster starts programs that stand beside `evoring`, and `cargo run --bin evoring` builds that one alone; build all four with `cargo build --workspace{release}` (after `make setup`)",
                missing.join(", "),
                folder.display()
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: the message names what is missing and the command. Method: a folder with one of three.
    #[test]
    fn missing_programs_are_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("evoring-worker"), "").unwrap();
        let failure = Binaries::in_folder(folder.path(), 1).unwrap_err();
        assert!(
            failure
                .message
                .starts_with("evoring-coordinator, evoring-executor not found in"),
            "{failure}"
        );
        assert!(
            failure.message.contains("cargo build --workspace"),
            "{failure}"
        );
        std::fs::write(folder.path().join("evoring-coordinator"), "").unwrap();
        assert!(Binaries::in_folder(folder.path(), 1).is_err());
        assert!(Binaries::in_folder(folder.path(), 0).is_ok());
    }
}
