//! The folder for results: checked before the job runs, filled in a folder of its own, and put in
//! place once everything is there.
//!
//! OUT-1: nothing is overwritten, renamed or deleted but what an earlier run wrote, as its
//! `report.json` says. Everything else in the folder is the user's and stays.
//! OUT-2: of several files `report.json` is taken away first and put in place last, so a folder
//! that has one is complete.

use super::report;
use crate::exit::{Exit, Failure};
use crate::local::registry::now_ms;
use crate::output::say;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// File by which a folder is known to hold results.
pub const REPORT: &str = "report.json";
/// Beginning of the names of folders that are being filled; a killed process leaves one behind.
const PARTIAL: &str = ".evoring-partial-";
/// Where earlier results wait, in the folder being filled, until the new ones are in place. No
/// artifact's name begins with a dot.
const EARLIER: &str = ".earlier";
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
    /// Checks that results can be written to `place` and makes a folder for them: inside `place`
    /// if that exists (it may be all that this user can write to), else beside it.
    pub fn prepare(place: &Path) -> Result<Self, Failure> {
        let place =
            std::path::absolute(place).map_err(|error| Failure::local(place.display(), error))?;
        earlier_files(&place)?;
        let cannot = |error: std::io::Error| {
            Failure::new(
                Exit::Local,
                format!(
                    "results cannot be written to {}: {error}; name another folder",
                    place.display()
                ),
            )
        };
        // A killed process may have left a folder and its number to others, and one process may make
        // several folders in a millisecond.
        static MADE: AtomicU64 = AtomicU64::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{PARTIAL}{}-{}-{made}", std::process::id(), now_ms());
        let staging = if place.is_dir() {
            place.join(unique)
        } else {
            let name = place.file_name().ok_or_else(|| {
                Failure::usage(format!(
                    "{}: expected a folder with a name",
                    place.display()
                ))
            })?;
            let parent = place.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(parent).map_err(cannot)?;
            parent.join(format!(".{}{unique}", name.to_string_lossy()))
        };
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

    /// Puts `files`, which are all that was written, in their place; true if earlier results were
    /// replaced. After a failure they are where they were written, and the place is as before.
    pub fn put_in_place(mut self, files: &[String]) -> Result<bool, Failure> {
        self.is_done = true;
        let failed = |reason: String| {
            let staging = self.staging.display();
            Failure::new(
                Exit::Local,
                format!("{reason}; the new results are complete, in {staging}"),
            )
        };
        let earlier = earlier_files(&self.place).map_err(|failure| failed(failure.message))?;
        let is_foreign = |name: &&String| match found(&self.place, name) {
            Found::Nothing => false,
            Found::File => !earlier.contains(name),
            Found::Other => true,
        };
        if let Some(name) = files.iter().find(is_foreign) {
            let path = self.place.join(name);
            return Err(failed(format!(
                "{} is in the way: no earlier run wrote it; move it, or name another folder",
                path.display()
            )));
        }
        let is_new = fs::symlink_metadata(&self.place).is_err();
        let moved = if is_new {
            fs::rename(&self.staging, &self.place)
        } else {
            self.replace(&earlier, files)
        };
        moved.map_err(|error| {
            failed(format!(
                "results cannot be moved to {}: {error}",
                self.place.display()
            ))
        })?;
        if !is_new {
            // What is left there are the earlier files, and they are ours. The new ones are in place
            // whether or not these can be removed.
            if let Err(error) = fs::remove_dir_all(&self.staging) {
                let staging = self.staging.display();
                say(format!("earlier results stay in {staging}: {error}"));
            }
        }
        Ok(!earlier.is_empty())
    }

    /// Takes the earlier files away and puts the new ones in their place, or does nothing.
    fn replace(&self, earlier: &[String], files: &[String]) -> std::io::Result<()> {
        let is_there = |name: &&String| found(&self.place, name) == Found::File;
        let mut outgoing: Vec<&String> = earlier.iter().filter(is_there).collect();
        outgoing.sort_by_key(|name| *name != REPORT);
        let mut incoming: Vec<&String> = files.iter().collect();
        incoming.sort_by_key(|name| *name == REPORT);
        let aside = self.staging.join(EARLIER);
        let mut moves = Moves::default();
        let moved = outgoing
            .iter()
            .try_for_each(|name| moves.add(self.place.join(name), aside.join(name)))
            .and_then(|()| {
                incoming
                    .iter()
                    .try_for_each(|name| moves.add(self.staging.join(name), self.place.join(name)))
            });
        if moved.is_err() {
            moves.take_back();
        }
        moved
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

/// Renames that can be taken back.
#[derive(Debug, Default)]
struct Moves(Vec<(PathBuf, PathBuf)>);

impl Moves {
    fn add(&mut self, from: PathBuf, to: PathBuf) -> std::io::Result<()> {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(&from, &to)?;
        self.0.push((from, to));
        Ok(())
    }

    fn take_back(self) {
        for (from, to) in self.0.into_iter().rev() {
            // The error that led here is the one to tell.
            let _ = fs::rename(to, from);
        }
    }
}

/// What is in the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    File,
    /// A folder, a link, or something that is no folder on the way there.
    Other,
}

/// Looks at `name` (`a/b` too) in `place`; a link is never followed, as it leads elsewhere.
fn found(place: &Path, name: &str) -> Found {
    let mut path = place.to_owned();
    let mut parts = name.split('/').peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        let fits = match fs::symlink_metadata(&path) {
            Ok(metadata) if parts.peek().is_some() => metadata.is_dir(),
            Ok(metadata) => metadata.is_file(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Found::Nothing,
            Err(_) => false,
        };
        if !fits {
            return Found::Other;
        }
    }
    Found::File
}

/// Files of the results that `place` holds; none if it is empty or absent. Any other folder is
/// refused: results among other files would be hard to find, and could not be told from them.
fn earlier_files(place: &Path) -> Result<Vec<String>, Failure> {
    let refuse = |what: &str| {
        Err(Failure::usage(format!(
            "{} {what}; name another folder",
            place.display()
        )))
    };
    // What cannot be looked at cannot be made either, and that error says why.
    if fs::symlink_metadata(place).is_err() {
        return Ok(Vec::new());
    }
    if !place.is_dir() {
        return refuse("exists and is not a folder");
    }
    let unreadable = |error| Failure::local(place.display(), error);
    let (mut is_empty, mut has_partial) = (true, false);
    for entry in fs::read_dir(place).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let is_partial = name.to_string_lossy().starts_with(PARTIAL);
        is_empty &= is_partial;
        has_partial |= is_partial;
    }
    match found(place, REPORT) {
        _ if is_empty => Ok(Vec::new()),
        Found::Nothing if has_partial => refuse(&format!(
            "holds other files than results (no report.json), and a folder {PARTIAL}… of a run that was killed; if it was killed while it replaced results, the earlier ones are in {EARLIER} there"
        )),
        Found::Nothing => refuse("holds other files than results (no report.json)"),
        Found::File | Found::Other => match report::files_of(&place.join(REPORT)) {
            Some(files) => Ok(files),
            None => refuse(
                "holds a report.json that this version of evoring did not write, so its files are not touched",
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report that lists `files`.
    fn report(files: &[&str]) -> String {
        serde_json::json!({ "format": report::FORMAT, "result": null, "run": { "files": files } })
            .to_string()
    }

    /// Writes a run's results, each file with the run's name in it.
    fn write(out: &OutFolder, run: &str, files: &[&str]) -> Vec<String> {
        for name in files {
            let path = out.staging().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, run).unwrap();
        }
        let all: Vec<&str> = [&[REPORT], files].concat();
        fs::write(out.staging().join(REPORT), report(&all)).unwrap();
        all.into_iter().map(str::to_owned).collect()
    }

    fn run(place: &Path, run: &str, files: &[&str]) -> Result<bool, Failure> {
        let out = OutFolder::prepare(place).unwrap();
        let written = write(&out, run, files);
        out.put_in_place(&written)
    }

    /// Every file below `folder` with its text.
    fn contents(folder: &Path) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap().display().to_string();
                    found.push((name, fs::read_to_string(&path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    fn text(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).unwrap()
    }

    // Claim: a second run replaces the first as a whole, and what the user keeps beside the
    // results stays. Method: a file that only the first has, notes, and a folder of notes.
    #[test]
    fn second_run_replaces_the_first_alone() {
        let base = tempfile::tempdir().unwrap();
        let place = base.path().join("deep/result");
        assert!(!run(&place, "1", &["model.json", "only-first", "deep/a"]).unwrap());
        fs::write(place.join("notes.txt"), "mine").unwrap();
        fs::create_dir(place.join("thesis")).unwrap();
        fs::write(place.join("thesis/report.json"), "mine too").unwrap();
        assert!(run(&place, "2", &["model.json", "deep/b"]).unwrap());
        let expected = [
            ("deep/b", "2"),
            ("model.json", "2"),
            ("notes.txt", "mine"),
            (REPORT, &report(&[REPORT, "model.json", "deep/b"])),
            ("thesis/report.json", "mine too"),
        ];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(contents(&place), expected);
        assert_eq!(fs::read_dir(base.path().join("deep")).unwrap().count(), 1);
    }

    // Claim: a folder that is not ours is never touched, whatever it is called. Method: another
    // tool's report.json, ours without its list or with a path that leads out, a thesis without
    // any, and a file in the place of the folder; before anything is written.
    #[test]
    fn foreign_folders_are_refused() {
        let outside = serde_json::json!({ "format": report::FORMAT, "run": { "files": ["../x"] } });
        let reports = [
            r#"{"result": {"passed": 3}, "run": {}}"#.to_owned(),
            r#"{"format": "other/1", "run": {"files": ["thesis.tex"]}}"#.to_owned(),
            serde_json::json!({ "format": report::FORMAT, "run": {} }).to_string(),
            outside.to_string(),
            "no JSON".to_owned(),
        ];
        for report in reports {
            let base = tempfile::tempdir().unwrap();
            fs::write(base.path().join(REPORT), &report).unwrap();
            fs::write(base.path().join("thesis.tex"), "").unwrap();
            let before = contents(base.path());
            let failure = OutFolder::prepare(base.path()).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.message.contains("did not write"), "{failure}");
            assert_eq!(contents(base.path()), before, "{report}");
        }
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("thesis.tex"), "").unwrap();
        for (place, reason) in [
            (base.path().to_owned(), "other files"),
            (base.path().join("thesis.tex"), "not a folder"),
        ] {
            let failure = OutFolder::prepare(&place).unwrap_err();
            assert!(failure.message.contains(reason), "{failure}");
        }
        assert_eq!(contents(base.path()).len(), 1);
    }

    // Claim: a file of the user's in the place of a new one is never overwritten, and neither
    // results are lost. Method: among earlier results, a file of the same name as a new one; a
    // link in the place of a listed file; a file where a folder is needed.
    #[test]
    fn files_in_the_way_stay() {
        let base = tempfile::tempdir().unwrap();
        let elsewhere = base.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        let place = base.path().join("result");
        run(&place, "1", &["model.json", "front.svg"]).unwrap();
        fs::write(place.join("fitness.svg"), "mine").unwrap();
        fs::write(place.join("notes"), "mine").unwrap();
        fs::remove_file(place.join("front.svg")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, place.join("front.svg")).unwrap();
        let before = contents(&place);
        for name in ["fitness.svg", "front.svg", "notes/a"] {
            let out = OutFolder::prepare(&place).unwrap();
            let staging = out.staging().to_owned();
            let files = write(&out, "2", &["model.json", name]);
            let failure = out.put_in_place(&files).unwrap_err();
            assert_eq!(failure.exit, Exit::Local);
            assert!(
                failure.message.contains("in the way")
                    && failure.message.contains(&staging.display().to_string()),
                "{failure}"
            );
            assert_eq!(text(&staging, name), "2");
            fs::remove_dir_all(staging).unwrap();
            assert_eq!(contents(&place), before, "{name}");
        }
        assert!(run(&place, "2", &["model.json"]).unwrap());
        assert_eq!(text(&place, "front.svg"), "mine");
        assert_eq!(text(base.path(), "elsewhere"), "mine");
    }

    // Claim: a failure half-way leaves earlier and new results as they were. Method: a new file
    // that is not there, after one that is.
    #[test]
    fn half_a_move_is_taken_back() {
        let base = tempfile::tempdir().unwrap();
        let place = base.path().join("result");
        run(&place, "1", &["model.json", "deep/a"]).unwrap();
        let before = contents(&place);
        let out = OutFolder::prepare(&place).unwrap();
        let staging = out.staging().to_owned();
        let mut files = write(&out, "2", &["model.json"]);
        files.push("absent".to_owned());
        let failure = out.put_in_place(&files).unwrap_err();
        assert!(failure.message.contains("cannot be moved"), "{failure}");
        assert_eq!(text(&staging, "model.json"), "2");
        fs::remove_dir_all(staging).unwrap();
        assert_eq!(contents(&place), before);
    }

    // Claim: after a kill in the middle of a replacement the refusal says where the earlier results
    // are. Method: a folder as such a kill leaves it.
    #[test]
    fn half_replaced_results_are_told() {
        let base = tempfile::tempdir().unwrap();
        let place = base.path().join("result");
        let aside = place.join(format!("{PARTIAL}1-1-0")).join(EARLIER);
        fs::create_dir_all(&aside).unwrap();
        fs::write(aside.join(REPORT), report(&[REPORT])).unwrap();
        fs::write(place.join("model.json"), "1").unwrap();
        let failure = OutFolder::prepare(&place).unwrap_err();
        assert!(
            failure.message.contains(PARTIAL) && failure.message.contains(EARLIER),
            "{failure}"
        );
        assert_eq!(text(&place, "model.json"), "1");
    }

    // Claim: an abandoned run leaves earlier results, or an empty folder, and no other trace; a
    // killed one is in nobody's way.
    #[test]
    fn abandoned_run_leaves_no_trace() {
        let base = tempfile::tempdir().unwrap();
        let place = base.path().join("result");
        drop(OutFolder::prepare(&place).unwrap());
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
        fs::create_dir(&place).unwrap();
        drop(OutFolder::prepare(&place).unwrap());
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        std::mem::forget(OutFolder::prepare(&place).unwrap());
        assert!(!run(&place, "1", &["model.json"]).unwrap());
        drop(OutFolder::prepare(&place).unwrap());
        assert_eq!(text(&place, "model.json"), "1");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 3);
    }
}
