//! Which local clusters run: small files in the user's state folder, so that commands without
//! `--cluster` find the last one.

use super::folder::Folder;
use crate::exit::Failure;
use crate::output::say;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Who started a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Starter {
    /// `evoring run`: ends with its job.
    Run,
    /// `evoring local`: preferred, as it stays.
    Local,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    cluster: PathBuf,
    starter: Starter,
    started_ms: u64,
}

/// `$XDG_STATE_HOME/evoring`, else `~/.local/state/evoring`.
pub fn state_folder() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("evoring"))
        .ok_or_else(|| {
            Failure::usage("neither XDG_STATE_HOME nor HOME is set: name a folder with --dir")
        })
}

/// A folder for a new cluster that no other process will choose.
pub fn fresh_folder(state: &Path, starter: Starter) -> PathBuf {
    let name = match starter {
        Starter::Run => "run",
        Starter::Local => "local",
    };
    state.join("clusters").join(format!(
        "{name}-{}-{}",
        crate::output::time::compact(now_ms()),
        std::process::id()
    ))
}

/// Removes its file when dropped.
#[derive(Debug)]
pub struct Registration(PathBuf);

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Lists a running cluster until the registration is dropped.
pub fn register(state: &Path, cluster: &Path, starter: Starter) -> Result<Registration, Failure> {
    let folder = state.join("running");
    let path = folder.join(format!("{}.json", std::process::id()));
    let entry = Entry {
        cluster: cluster.to_owned(),
        starter,
        started_ms: now_ms(),
    };
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&path, serde_json::to_vec(&entry)?))
        .map_err(|error| Failure::local(path.display(), error))?;
    Ok(Registration(path))
}

/// [`register`] for a cluster whose folder the user named: it can do without a state folder, but
/// other commands must then be told where it is.
pub fn register_if_possible(
    state: Result<PathBuf, Failure>,
    cluster: &Path,
    starter: Starter,
) -> Option<Registration> {
    match state.and_then(|state| register(&state, cluster, starter)) {
        Ok(registration) => Some(registration),
        Err(failure) => {
            say(format_args!(
                "evoring: other commands need `--cluster {}`: {failure}",
                cluster.display()
            ));
            None
        }
    }
}

/// Cluster file of the last `evoring local` that runs, else of the last `evoring run`. Entries
/// that a killed process left behind are removed.
pub fn last_running(state: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(state.join("running")).ok()?;
    let entries = files.flatten().filter_map(|file| {
        let path = file.path();
        let entry: Entry = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        if Folder::is_in_use(entry.cluster.parent()?) {
            Some(entry)
        } else {
            let _ = std::fs::remove_file(path);
            None
        }
    });
    entries
        .max_by_key(|entry| (entry.starter, entry.started_ms))
        .map(|entry| entry.cluster)
}

/// Wall clock, for names and messages.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: commands find a running `local` before a running `run`, and nothing that has ended.
    // Method: three clusters, of which one is not held by anybody. The registrations share a
    // process, so they are written under different state folders and moved together.
    #[test]
    fn last_running_prefers_local() {
        let state = tempfile::tempdir().unwrap();
        let mut held = Vec::new();
        for (index, (starter, is_held)) in [
            (Starter::Run, true),
            (Starter::Local, true),
            (Starter::Local, false),
        ]
        .into_iter()
        .enumerate()
        {
            let root = state.path().join(format!("c{index}"));
            let folder = Folder::open(&root).unwrap();
            let cluster = folder.cluster_file();
            let registration = register(state.path(), &cluster, starter).unwrap();
            std::fs::rename(
                &registration.0,
                state.path().join("running").join(format!("x{index}.json")),
            )
            .unwrap();
            if is_held {
                held.push(folder);
            }
        }
        assert_eq!(
            last_running(state.path()),
            Some(state.path().join("c1/cluster.json"))
        );
        assert!(!state.path().join("running/x2.json").exists());
        held.clear();
        assert_eq!(last_running(state.path()), None);
    }
}
