//! The store on disk: one redb file and its witness.

use super::backend::{Failure, FileNotes, WatchedFile};
use super::record::{frame, frame_message, unframe, unframe_message};
use super::witness::{Statement, Witness};
use super::{LogStore, LogWrite, SnapshotRecord, StorageError, Stored, check_contiguous};
use raft::eraftpb::{ConfState, Entry, HardState};
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

const LOG_FILE: &str = "log.redb";
const WITNESS_FILE: &str = "log.witness";

/// Index to framed entry.
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries/1");
/// Single records by the keys below.
const SINGLES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("singles/1");
const SEQUENCE: u64 = 1;
const HARD_STATE: u64 = 2;
const MEMBERSHIP: u64 = 3;
const SNAPSHOT_PLACE: u64 = 4;
const SNAPSHOT_DATA: u64 = 5;

/// The cache holds the log's suffix and the snapshot of every job file seen so far; more is
/// never read, because Raft's view is kept in memory.
const CACHE_BYTES: usize = 16 << 20;
/// Copies of damaged files that are kept; a process that is started again and again makes no more.
const COPIES: u32 = 3;
/// Bytes of redb's magic number, with which its files begin.
const MAGIC_BYTES: usize = 9;
/// redb reports a repair's progress: 0.0 and 0.6 come with every integrity check, 0.3 says that
/// the newest commit is broken and an older one would be taken.
const FALLS_BACK: std::ops::Range<f64> = 0.2..0.5;

/// Sequence number and extent of what is stored, to check writes and reopenings against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Extent {
    sequence: u64,
    snapshot: u64,
    last: u64,
}

/// The store on disk.
#[derive(Debug)]
pub struct RedbStore {
    folder: PathBuf,
    /// Absent only while a reopening has failed.
    database: Option<Database>,
    witness: Witness,
    notes: FileNotes,
    extent: Extent,
    failed: bool,
}

impl RedbStore {
    /// Opens or creates the store in `folder`, reading and checking all of it.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if anything is not as it was written; a copy of the file is kept.
    pub fn open(folder: &Path) -> Result<Self, StorageError> {
        let io = |e: io::Error| StorageError::Io {
            path: folder.to_owned(),
            reason: e.to_string(),
        };
        let witness_path = folder.join(WITNESS_FILE);
        let had_witness = witness_path.exists();
        let witness = Witness::open(&witness_path).map_err(io)?;
        let statement = witness.read().map_err(io)?;
        if had_witness && matches!(statement, Statement::Nothing | Statement::Empty) {
            empty_unmade(&folder.join(LOG_FILE)).map_err(io)?;
        }
        let notes = FileNotes::default();
        let database = open_database(folder, &notes)?;
        let mut store = Self {
            folder: folder.to_owned(),
            database: Some(database),
            witness,
            notes,
            extent: Extent::default(),
            failed: false,
        };
        let (stored, sequence) = store.read()?;
        store.extent = Extent {
            sequence,
            snapshot: stored.snapshot_index(),
            last: stored.last_index(),
        };
        match statement {
            Statement::Nothing => {}
            // Nothing was ever acknowledged: the first start was interrupted.
            Statement::Empty if sequence == 0 => {
                store.witness = Witness::make(&witness_path).map_err(io)?;
            }
            Statement::Empty => return Err(store.corrupt("log.witness is empty".to_owned())),
            Statement::Acknowledged(acknowledged) if acknowledged <= sequence => {}
            Statement::Acknowledged(acknowledged) => {
                return Err(store.corrupt(format!(
                    "it ends with transaction {sequence}, but transaction {acknowledged} was acknowledged"
                )));
            }
            Statement::Damaged(what) => return Err(store.corrupt(what)),
        }
        Ok(store)
    }

    fn path(&self) -> PathBuf {
        self.folder.join(LOG_FILE)
    }

    #[cfg(test)]
    pub(super) fn inject(&self, failure: Option<Failure>) {
        self.notes.inject(failure);
    }

    fn corrupt(&self, what: String) -> StorageError {
        corrupt(&self.folder, what)
    }

    fn database(&self) -> Result<&Database, StorageError> {
        self.database.as_ref().ok_or_else(|| StorageError::Io {
            path: self.path(),
            reason: "the file is not open".to_owned(),
        })
    }

    /// Everything, and the sequence number of the last transaction.
    fn read(&self) -> Result<(Stored, u64), StorageError> {
        self.try_read().map_err(|error| match error {
            ReadError::Store(error) => error,
            ReadError::Redb(redb::Error::Corrupted(what)) | ReadError::Record(what) => {
                self.corrupt(what)
            }
            ReadError::Redb(error) => StorageError::Io {
                path: self.path(),
                reason: error.to_string(),
            },
        })
    }

    fn try_read(&self) -> Result<(Stored, u64), ReadError> {
        let transaction = self.database()?.begin_read()?;
        let singles = match transaction.open_table(SINGLES) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok((Stored::default(), 0)),
            Err(error) => return Err(error.into()),
        };
        let sequence = single(&singles, SEQUENCE)?
            .as_deref()
            .and_then(number)
            .ok_or_else(|| ReadError::Record("no sequence number".to_owned()))?;
        let hard_state = match singles.get(HARD_STATE)? {
            Some(record) => Some(
                unframe_message::<HardState>(HARD_STATE, record.value())
                    .map_err(ReadError::Record)?,
            ),
            None => None,
        };
        let mut stored = Stored {
            hard_state,
            snapshot: read_snapshot(&singles)?,
            entries: Vec::new(),
        };
        let table = transaction.open_table(ENTRIES)?;
        for row in table.iter()? {
            let (index, record) = row?;
            let index = index.value();
            let entry: Entry = unframe_message(index, record.value()).map_err(ReadError::Record)?;
            let expected = stored.last_index() + 1;
            if index != entry.index || index != expected {
                return Err(ReadError::Record(format!(
                    "entry {index}: expected index {expected}"
                )));
            }
            stored.entries.push(entry);
        }
        Ok((stored, sequence))
    }

    fn try_write(&self, write: &LogWrite, sequence: u64) -> Result<(), redb::Error> {
        let Some(database) = &self.database else {
            return Err(redb::Error::DatabaseClosed);
        };
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            if let Some(first) = write.entries.first() {
                entries.retain_in(first.index.., |_, _| false)?;
            }
            for entry in &write.entries {
                entries.insert(entry.index, frame_message(entry.index, entry).as_slice())?;
            }
            let mut singles = transaction.open_table(SINGLES)?;
            let mut put = |key: u64, payload: &[u8]| {
                singles
                    .insert(key, frame(key, payload).as_slice())
                    .map(drop)
            };
            put(SEQUENCE, &sequence.to_le_bytes())?;
            if let Some(hard_state) = &write.hard_state {
                put(HARD_STATE, &prost::Message::encode_to_vec(hard_state))?;
            }
            if let Some(snapshot) = &write.snapshot {
                let mut place = snapshot.index.to_le_bytes().to_vec();
                place.extend_from_slice(&snapshot.term.to_le_bytes());
                put(SNAPSHOT_PLACE, &place)?;
                put(
                    MEMBERSHIP,
                    &prost::Message::encode_to_vec(&snapshot.membership),
                )?;
                put(SNAPSHOT_DATA, &snapshot.data)?;
                entries.retain_in(..=snapshot.index, |_, _| false)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// What a failed write means, from what the file saw first.
    fn failure(&self, error: &redb::Error) -> StorageError {
        let path = self.path();
        match self.notes.failure() {
            Some(Failure::Full) => StorageError::Full { path },
            Some(Failure::Sync(reason)) => StorageError::Poisoned { path, reason },
            Some(Failure::Other(reason)) => StorageError::Poisoned { path, reason },
            None => StorageError::Poisoned {
                path,
                reason: error.to_string(),
            },
        }
    }
}

impl LogStore for RedbStore {
    fn load(&self) -> Result<Stored, StorageError> {
        self.read().map(|(stored, _)| stored)
    }

    fn write(&mut self, write: &LogWrite) -> Result<(), StorageError> {
        if self.failed {
            return Err(self.failure(&redb::Error::PreviousIo));
        }
        check_contiguous(self.extent.snapshot, self.extent.last, write)?;
        let mut extent = self.extent;
        extent.sequence += 1;
        if let Err(error) = self.try_write(write, extent.sequence) {
            self.failed = true;
            return Err(self.failure(&error));
        }
        if let Some(entry) = write.entries.last() {
            extent.last = entry.index;
        }
        if let Some(snapshot) = &write.snapshot {
            extent.snapshot = snapshot.index;
            extent.last = extent.last.max(snapshot.index);
        }
        self.extent = extent;
        self.witness.state(extent.sequence).map_err(|e| {
            self.failed = true;
            StorageError::Poisoned {
                path: self.folder.join(WITNESS_FILE),
                reason: e.to_string(),
            }
        })
    }

    fn reopen(&mut self) -> Result<(), StorageError> {
        match self.notes.failure() {
            None if !self.failed => return Ok(()),
            Some(Failure::Full) => {}
            _ => return Err(self.failure(&redb::Error::PreviousIo)),
        }
        // Closing releases the file's lock; the failed transaction is gone with it.
        self.database = None;
        let notes = self.notes.reopened();
        let opened = open_database(&self.folder, &notes);
        if let Some(failure) = notes.failure() {
            if failure != Failure::Full {
                self.notes = notes;
            }
            return Err(self.failure(&redb::Error::PreviousIo));
        }
        self.database = Some(opened?);
        let (stored, sequence) = self.read()?;
        let found = Extent {
            sequence,
            snapshot: stored.snapshot_index(),
            last: stored.last_index(),
        };
        if found != self.extent {
            return Err(self.corrupt(format!(
                "after a full disk it holds {found:?}, expected {:?}",
                self.extent
            )));
        }
        self.notes = notes;
        self.failed = false;
        Ok(())
    }
}

type Singles = redb::ReadOnlyTable<u64, &'static [u8]>;

fn number(bytes: &[u8]) -> Option<u64> {
    bytes
        .first_chunk::<8>()
        .map(|bytes| u64::from_le_bytes(*bytes))
}

/// A checked single record.
fn single(singles: &Singles, key: u64) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(record) = singles.get(key)? else {
        return Ok(None);
    };
    Ok(Some(
        unframe(key, record.value())
            .map_err(ReadError::Record)?
            .to_vec(),
    ))
}

fn read_snapshot(singles: &Singles) -> Result<Option<SnapshotRecord>, ReadError> {
    let Some(place) = single(singles, SNAPSHOT_PLACE)? else {
        return Ok(None);
    };
    let missing = |what: &str| ReadError::Record(format!("a snapshot without its {what}"));
    let membership = singles
        .get(MEMBERSHIP)?
        .ok_or_else(|| missing("membership"))?;
    let membership =
        unframe_message::<ConfState>(MEMBERSHIP, membership.value()).map_err(ReadError::Record)?;
    Ok(Some(SnapshotRecord {
        index: number(&place).ok_or_else(|| missing("index"))?,
        term: place
            .get(8..)
            .and_then(number)
            .ok_or_else(|| missing("term"))?,
        membership,
        data: single(singles, SNAPSHOT_DATA)?.ok_or_else(|| missing("data"))?,
    }))
}

fn open_database(folder: &Path, notes: &FileNotes) -> Result<Database, StorageError> {
    let path = folder.join(LOG_FILE);
    let io = |e: io::Error| StorageError::Io {
        path: path.clone(),
        reason: e.to_string(),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    let backend = WatchedFile::new(file, notes.clone()).map_err(|e| database_error(folder, e))?;
    let mut builder = Builder::new();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .set_repair_callback(|session| {
            if FALLS_BACK.contains(&session.progress()) {
                session.abort();
            }
        });
    let database = builder
        .create_with_backend(backend)
        .map_err(|e| database_error(folder, e))?;
    // A file that was just made is durable only with its folder's entry.
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io)?;
    Ok(database)
}

/// Empties a log file whose making was interrupted. redb gives a file its magic number last; one
/// without it, and without any acknowledgement, holds nothing.
fn empty_unmade(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut magic = [0u8; MAGIC_BYTES];
    match std::os::unix::fs::FileExt::read_exact_at(&file, &mut magic, 0) {
        Ok(()) if magic != [0; MAGIC_BYTES] => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => file.set_len(0),
    }
}

fn database_error(folder: &Path, error: DatabaseError) -> StorageError {
    let path = folder.join(LOG_FILE);
    match error {
        DatabaseError::DatabaseAlreadyOpen => StorageError::InUse { path },
        DatabaseError::RepairAborted => corrupt(folder, "its newest commit is broken".to_owned()),
        DatabaseError::Storage(redb::StorageError::Corrupted(what)) => corrupt(folder, what),
        DatabaseError::Storage(redb::StorageError::Io(e))
            if e.kind() == io::ErrorKind::InvalidData =>
        {
            corrupt(folder, e.to_string())
        }
        DatabaseError::Storage(redb::StorageError::Io(e))
            if e.kind() == io::ErrorKind::UnexpectedEof =>
        {
            corrupt(folder, format!("it is shorter than its header says: {e}"))
        }
        other => StorageError::Io {
            path,
            reason: other.to_string(),
        },
    }
}

/// Keeps a copy of the damaged file, so that nothing done later loses evidence.
fn corrupt(folder: &Path, what: String) -> StorageError {
    let path = folder.join(LOG_FILE);
    let copy = (0..COPIES)
        .map(|number| folder.join(format!("{LOG_FILE}.corrupt-{number}")))
        .find(|candidate| !candidate.exists())
        .filter(|candidate| std::fs::copy(&path, candidate).is_ok());
    StorageError::Corrupt { path, what, copy }
}

enum ReadError {
    Store(StorageError),
    Redb(redb::Error),
    Record(String),
}

impl From<StorageError> for ReadError {
    fn from(error: StorageError) -> Self {
        Self::Store(error)
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for ReadError {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        }
    )*};
}
from_redb!(redb::TransactionError, redb::TableError, redb::StorageError);
