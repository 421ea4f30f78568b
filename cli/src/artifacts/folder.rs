//! The folder for results: checked before the job runs, filled beside its place, and put there
//! whole, so that a second run never mixes with the first.

use crate::exit::{Exit, Failure};
use crate::local::registry::now_ms;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// File by which a folder is known to hold earlier results.
const MARK: &str = "report.json";
/// Below this much free space nothing is started.
const LEAST_FREE_BYTES: u64 = 16 << 20;
/// Written and removed again.
const PROBE: &[u8] = b"evoring checks that it can write here\n";

/// A folder being filled, removed when dropped before [`OutFolder::put_in_place`].
#[derive(Debug)]
pub struct OutFolder {
    place: PathBuf,
    staging: PathBuf,
    is_done: bool,
}

impl OutFolder {
    /// Checks that results can be written to `place` and makes a folder beside it for them.
    pub fn prepare(place: &Path) -> Result<Self, Failure> {
        let place =
            std::path::absolute(place).map_err(|error| Failure::local(place.display(), error))?;
        check_replaceable(&place)?;
        let name = place.file_name().ok_or_else(|| {
            Failure::usage(format!(
                "{}: expected a folder with a name",
                place.display()
            ))
        })?;
        let parent = place.parent().unwrap_or(Path::new("/"));
        // A killed process may have left a folder and its number to others.
        let unique = format!("{}-{}", std::process::id(), now_ms());
        let staging = parent.join(format!(".{}.partial-{unique}", name.to_string_lossy()));
        let cannot = |error: std::io::Error| {
            Failure::new(
                Exit::Local,
                format!(
                    "results cannot be written to {}: {error}; name another folder",
                    place.display()
                ),
            )
        };
        fs::create_dir_all(parent).map_err(cannot)?;
        fs::create_dir(&staging).map_err(cannot)?;
        let folder = Self {
            place: place.clone(),
            staging,
            is_done: false,
        };
        folder.probe().map_err(cannot)?;
        Ok(folder)
    }

    /// Where files are written until all are there.
    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// Where they will be.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Puts the whole folder in its place; true if earlier results were replaced.
    pub fn put_in_place(mut self) -> Result<bool, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(
                Exit::Local,
                format!(
                    "results cannot be moved to {}: {error}; they are in {}",
                    self.place.display(),
                    self.staging.display()
                ),
            )
        };
        check_replaceable(&self.place)?;
        let replaces = self.place.exists();
        // From here on an error leaves what was fetched where it is.
        self.is_done = true;
        let mut old = self.staging.clone().into_os_string();
        old.push(".old");
        let old = PathBuf::from(old);
        if replaces {
            fs::rename(&self.place, &old).map_err(failed)?;
        }
        if let Err(error) = fs::rename(&self.staging, &self.place) {
            let _ = fs::rename(&old, &self.place);
            return Err(failed(error));
        }
        if replaces {
            fs::remove_dir_all(&old).map_err(|error| {
                Failure::local(format!("earlier results, now in {}", old.display()), error)
            })?;
        }
        Ok(replaces)
    }

    fn probe(&self) -> std::io::Result<()> {
        let path = self.staging.join("probe");
        let mut file = File::create(&path)?;
        file.write_all(PROBE)?;
        file.sync_all()?;
        fs::remove_file(&path)?;
        let space = rustix::fs::statvfs(&self.staging)?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < LEAST_FREE_BYTES {
            return Err(std::io::Error::other(format!(
                "{free} bytes are free, expected at least {LEAST_FREE_BYTES}"
            )));
        }
        Ok(())
    }
}

impl Drop for OutFolder {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_dir_all(&self.staging);
        }
    }
}

/// Earlier results and empty folders may be replaced, nothing else.
fn check_replaceable(place: &Path) -> Result<(), Failure> {
    let refuse = |what: &str| {
        Err(Failure::usage(format!(
            "{} {what}; name another folder",
            place.display()
        )))
    };
    let Ok(metadata) = fs::symlink_metadata(place) else {
        return Ok(());
    };
    if !metadata.is_dir() {
        return refuse("exists and is not a folder");
    }
    let mut entries =
        fs::read_dir(place).map_err(|error| Failure::local(place.display(), error))?;
    if entries.next().is_some() && !place.join(MARK).is_file() {
        return refuse("holds other files than results (no report.json)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(place: &Path, text: &str) -> bool {
        let out = OutFolder::prepare(place).unwrap();
        fs::write(out.staging().join(MARK), text).unwrap();
        out.put_in_place().unwrap()
    }

    // Claim: a second run replaces the first as a whole and leaves nothing behind. Method: a file
    // that only the first has.
    #[test]
    fn second_run_replaces_the_first() {
        let base = tempfile::tempdir().unwrap();
        let place = base.path().join("deep/result");
        assert!(!fill(&place, "1"));
        fs::write(place.join("only-first"), "").unwrap();
        assert!(fill(&place, "2"));
        assert_eq!(fs::read_to_string(place.join(MARK)).unwrap(), "2");
        assert!(!place.join("only-first").exists());
        assert_eq!(fs::read_dir(base.path().join("deep")).unwrap().count(), 1);
    }

    // Claim: foreign files and files in the way are never touched. Method: both, before anything
    // is written.
    #[test]
    fn foreign_folders_are_refused() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("thesis.tex"), "").unwrap();
        assert!(
            OutFolder::prepare(base.path())
                .unwrap_err()
                .message
                .contains("other files")
        );
        assert!(
            OutFolder::prepare(&base.path().join("thesis.tex"))
                .unwrap_err()
                .message
                .contains("not a folder")
        );
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }

    // Claim: an abandoned run leaves the earlier results and no other trace.
    #[test]
    fn abandoned_run_leaves_no_trace() {
        let base = tempfile::tempdir().unwrap();
        let place = base.path().join("result");
        fill(&place, "1");
        drop(OutFolder::prepare(&place).unwrap());
        assert_eq!(fs::read_to_string(place.join(MARK)).unwrap(), "1");
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }
}
