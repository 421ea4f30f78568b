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
use std::path::Path;

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
    /// Its bytes are not what was written.
    Damaged(String),
}

impl Witness {
    /// Opens or creates it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        if is_new {
            // The blocks are taken now, so that a full disk cannot stop a later statement.
            file.write_all_at(&[0; RECORD_BYTES], 0)?;
            file.sync_all()?;
        }
        Ok(Self { file })
    }

    /// Reads it.
    pub(super) fn read(&self) -> io::Result<Statement> {
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
