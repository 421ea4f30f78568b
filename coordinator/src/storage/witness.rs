//! A small file beside the log that says how far it was acknowledged (`STORE-4`).
//!
//! The log's file has two commit slots and one bit that chooses between them: with that bit
//! flipped, or with the file gone, it would open as a shorter and otherwise sound log. The
//! witness is written after each commit and before the acknowledgement. It is not synced each
//! time: it may fall behind the log on a power loss, which weakens the check until the next start
//! (which catches up, durably) and breaks nothing, and it survives a killed process. The first
//! statement is synced: from then on an empty log is never taken for a first start.

use super::disk::{Disk, DiskFile, OpenAs};
use super::record::{frame, unframe};
use std::io;

/// The file's name.
pub(super) const WITNESS_FILE: &str = "log.witness";
/// Its name while it is made.
const UNMADE_FILE: &str = "log.witness.new";
const KEY: u64 = 0x7769_746e_6573_7300;
const RECORD_BYTES: usize = 12;

/// The open file.
#[derive(Debug)]
pub(super) struct Witness {
    file: Box<dyn DiskFile>,
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
    pub(super) fn open(disk: &dyn Disk) -> io::Result<Self> {
        match disk.open(WITNESS_FILE, OpenAs::Present) {
            Ok(file) => Ok(Self { file }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(disk),
            Err(error) => Err(error),
        }
    }

    /// Makes one that says [`Statement::Nothing`], in place of any that is there. Under its name
    /// it is whole at once: a full disk or a kill in between leaves nothing there.
    pub(super) fn make(disk: &dyn Disk) -> io::Result<Self> {
        let file = disk.open(UNMADE_FILE, OpenAs::Emptied)?;
        // The blocks are taken now: where files are written in place, a full disk then cannot stop
        // a later statement. Elsewhere (copy on write) it can, and the store stops with it.
        file.write_at(0, &[0; RECORD_BYTES])?;
        file.sync()?;
        disk.rename(UNMADE_FILE, WITNESS_FILE)?;
        disk.sync_names()?;
        Ok(Self { file })
    }

    /// Reads it.
    pub(super) fn read(&self) -> io::Result<Statement> {
        if self.file.is_empty()? {
            return Ok(Statement::Empty);
        }
        let mut record = [0u8; RECORD_BYTES];
        match self.file.read_at(0, &mut record) {
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
            .write_at(0, &frame(KEY, &sequence.to_le_bytes()))?;
        if sequence == 1 {
            self.file.sync()?;
        }
        Ok(())
    }

    /// States it durably.
    pub(super) fn state_durably(&self, sequence: u64) -> io::Result<()> {
        self.state(sequence)?;
        self.file.sync()
    }
}
