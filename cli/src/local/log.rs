//! A child's standard error in a file of bounded size, and its last lines in memory.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file that grows beyond this becomes `NAME.1` (replacing the one before), so a child's log
/// never takes more than twice this.
pub const LOG_BYTES: u64 = 4 << 20;
/// Lines kept in memory.
pub const LAST_LINES: usize = 20;
/// Longest line kept in memory, in characters.
const LINE_CHARS: usize = 400;

/// The file and the last lines of one child.
#[derive(Debug)]
pub struct BoundedLog {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    last: VecDeque<String>,
}

impl BoundedLog {
    /// Opens `path` for appending.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            bytes,
            last: VecDeque::new(),
        })
    }

    /// Appends one line (without its end). A log that cannot be written must not stop the child,
    /// so after an error only the last lines are kept.
    pub fn line(&mut self, text: &str) {
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(text.chars().take(LINE_CHARS).collect());
        if self.bytes >= LOG_BYTES {
            self.rotate();
        }
        if let Some(file) = &mut self.file {
            match writeln!(file, "{text}") {
                Ok(()) => self.bytes += text.len() as u64 + 1,
                Err(_) => self.file = None,
            }
        }
    }

    /// The last lines, oldest first.
    pub fn last_lines(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }

    fn rotate(&mut self) {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        let fresh = std::fs::rename(&self.path, &old).and_then(|()| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.path)
        });
        self.file = fresh.ok();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: a talkative child fills at most two files. Method: write three times the bound.
    #[test]
    fn size_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w1.log");
        let mut log = BoundedLog::open(&path).unwrap();
        let line = "x".repeat(1 << 16);
        for _ in 0..3 * LOG_BYTES / (1 << 16) {
            log.line(&line);
        }
        let total: u64 = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(total <= 2 * LOG_BYTES + (1 << 17), "{total}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        assert_eq!(log.last_lines().count(), LAST_LINES);
        assert!(log.last_lines().all(|line| line.len() == LINE_CHARS));
    }
}
