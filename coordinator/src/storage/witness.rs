//! A small file beside the log that says how far it was acknowledged (`STORE-4`).
//!
//! The log's file has two commit slots and one bit that chooses between them: with that bit
//! flipped, or with the file gone, it would open as a shorter and otherwise sound log. The
//! witness is written after each commit and before the acknowledgement. It is not synced each
//! time: it may fall behind the log on a power loss, which weakens the check and breaks nothing,
//! and it survives a killed process.

use super::record::{frame, unframe};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const KEY: u64 = 0x7769_746e_6573_7300;
const RECORD_BYTES: usize = 12;

/// The open file.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
}

/// What a witness says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// No acknowledgement was ever given.
    Nothing,
    /// Transactions up to this sequence number were acknowledged.
    Acknowledged(u64),
    /// The file holds nothing at all: its making was interrupted, or it was cut off.
    Empty,
    /// Its bytes are not what was written.
    Damaged(String),
}

impl Witness {
    /// Opens it, or makes one that says [`Statement::Nothing`].
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Ok(Self { file }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(error) => Err(error),
        }
    }

    /// Makes one that says [`Statement::Nothing`], in place of any that is there. Under its name
    /// it is whole at once: a full disk or a kill in between leaves nothing there.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        // The blocks are taken now: where files are written in place, a full disk then cannot stop
        // a later statement. Elsewhere (copy on write) it can, and the store stops with it.
        file.write_all_at(&[0; RECORD_BYTES], 0)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self { file })
    }

    /// Reads it.
    pub(super) fn read(&self) -> io::Result<Statement> {
        if self.file.metadata()?.len() == 0 {
            return Ok(Statement::Empty);
        }
        let mut record = [0u8; RECORD_BYTES];
        match self.file.read_exact_at(&mut record, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Statement::Damaged(format!(
                    "witness is shorter than {RECORD_BYTES} bytes"
                )));
            }
            other => other?,
        }
        if record == [0; RECORD_BYTES] {
            return Ok(Statement::Nothing);
        }
        Ok(match unframe(KEY, &record) {
            Ok(payload) => match payload.try_into() {
                Ok(bytes) => Statement::Acknowledged(u64::from_le_bytes(bytes)),
                Err(_) => Statement::Damaged("witness has the wrong size".to_owned()),
            },
            Err(reason) => Statement::Damaged(format!("witness: {reason}")),
        })
    }

    /// States that everything up to `sequence` is durable.
    pub(super) fn state(&self, sequence: u64) -> io::Result<()> {
        self.file
            .write_all_at(&frame(KEY, &sequence.to_le_bytes()), 0)
    }
}
