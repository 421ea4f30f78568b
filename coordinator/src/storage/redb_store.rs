//! The store of a coordinator: one redb file and its witness.

use super::backend::{Failure, FileNotes, WatchedFile};
use super::disk::{Disk, OpenAs, RealDisk};
use super::record::{frame, frame_message, unframe, unframe_message};
use super::witness::{Statement, WITNESS_FILE, Witness};
use super::{
    Extent, LAST_INDEX, LogStore, LogWrite, SnapshotRecord, StorageError, Stored, check_snapshot,
    check_write,
};
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use raft::eraftpb::{ConfState, Entry, HardState};
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the log's file in its folder.
pub const LOG_FILE: &str = "log.redb";

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

/// The store of a coordinator.
#[derive(Debug)]
pub struct RedbStore {
    disk: Arc<dyn Disk>,
    /// Absent only while a reopening has failed.
    database: Option<Database>,
    witness: Witness,
    notes: FileNotes,
    extent: Extent,
    failed: bool,
    has_space: bool,
}

impl RedbStore {
    /// Opens or creates the store in `folder`, reading and checking all of it.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if anything is not as it was written; a copy of the file is kept.
    pub fn open(folder: &Path) -> Result<Self, StorageError> {
        Self::open_on(Arc::new(RealDisk::new(folder)))
    }

    /// Opens or creates the store on a disk, real or simulated.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_on(disk: Arc<dyn Disk>) -> Result<Self, StorageError> {
        let io = |e: io::Error| StorageError::Io {
            path: disk.path(""),
            reason: e.to_string(),
        };
        let had_witness = disk.exists(WITNESS_FILE);
        let witness = Witness::open(&*disk).map_err(io)?;
        let statement = witness.read().map_err(io)?;
        if had_witness && matches!(statement, Statement::Nothing | Statement::Empty) {
            empty_unmade(&*disk).map_err(io)?;
        }
        let notes = FileNotes::default();
        #[cfg(evoring_plants)]
        let statement = match is_planted(Plant::DamagedLogEmptied)
            .then(|| open_database(&*disk, &FileNotes::default()))
        {
            Some(Err(StorageError::Corrupt { .. })) => {
                disk.open(LOG_FILE, OpenAs::Emptied).map_err(io)?;
                Statement::Nothing
            }
            _ => statement,
        };
        let database = open_database(&*disk, &notes)?;
        let mut store = Self {
            disk: Arc::clone(&disk),
            database: Some(database),
            witness,
            notes,
            extent: Extent::default(),
            failed: false,
            has_space: false,
        };
        let (stored, sequence) = store.read()?;
        store.extent = Extent::of(&stored, sequence);
        store.check_statement(statement)?;
        if sequence > 0 {
            store.witness.state_durably(sequence).map_err(io)?;
        }
        Ok(store)
    }

    /// Checks what was read against what the witness says.
    fn check_statement(&mut self, statement: Statement) -> Result<(), StorageError> {
        let sequence = self.extent.sequence;
        match statement {
            // The first transaction is stated durably before it is acknowledged.
            Statement::Nothing if sequence <= 1 => Ok(()),
            Statement::Nothing => Err(self.corrupt(format!(
                "log.witness says nothing of its {sequence} transactions; it was removed or emptied"
            ))),
            // Nothing was ever acknowledged: the first start was interrupted.
            Statement::Empty if sequence == 0 => {
                self.witness = Witness::make(&*self.disk).map_err(|e| StorageError::Io {
                    path: self.disk.path(WITNESS_FILE),
                    reason: e.to_string(),
                })?;
                Ok(())
            }
            Statement::Empty => Err(self.corrupt("log.witness is empty".to_owned())),
            Statement::Acknowledged(acknowledged) if acknowledged <= sequence => Ok(()),
            Statement::Acknowledged(acknowledged) => Err(self.corrupt(format!(
                "it ends with transaction {sequence}, but transaction {acknowledged} was acknowledged"
            ))),
            Statement::Damaged(what) => Err(self.corrupt(what)),
        }
    }

    fn path(&self) -> PathBuf {
        self.disk.path(LOG_FILE)
    }

    #[cfg(test)]
    pub(super) fn inject(&self, failure: Option<Failure>) {
        self.notes.inject(failure);
    }

    fn corrupt(&self, what: String) -> StorageError {
        corrupt(&*self.disk, what)
    }

    fn database(&self) -> Result<&Database, StorageError> {
        self.database.as_ref().ok_or_else(|| StorageError::Io {
            path: self.path(),
            reason: "the file is not open".to_owned(),
        })
    }

    /// Everything, and the sequence number of the last transaction.
    fn read(&self) -> Result<(Stored, u64), StorageError> {
        self.try_read().map_err(|error| self.read_error(error))
    }

    fn read_error(&self, error: ReadError) -> StorageError {
        match error {
            ReadError::Store(error) => error,
            ReadError::Redb(redb::Error::Corrupted(what)) | ReadError::Record(what) => {
                self.corrupt(what)
            }
            ReadError::Redb(error) => StorageError::Io {
                path: self.path(),
                reason: error.to_string(),
            },
        }
    }

    fn try_snapshot(&self) -> Result<Option<SnapshotRecord>, ReadError> {
        match open_singles(&self.database()?.begin_read()?)? {
            Some(singles) => read_snapshot(&singles),
            None => Ok(None),
        }
    }

    fn try_read(&self) -> Result<(Stored, u64), ReadError> {
        let transaction = self.database()?.begin_read()?;
        let Some(singles) = open_singles(&transaction)? else {
            return Ok((Stored::default(), 0));
        };
        let sequence = single(&singles, SEQUENCE)?
            .as_deref()
            .and_then(number)
            .filter(|&sequence| sequence <= LAST_INDEX)
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
        check_snapshot(&stored.snapshot).map_err(ReadError::Record)?;
        let table = transaction.open_table(ENTRIES)?;
        for row in table.iter()? {
            let (index, record) = row?;
            let index = index.value();
            let entry: Entry = unframe_message(index, record.value()).map_err(ReadError::Record)?;
            let expected = stored.last_index() + 1;
            if index != entry.index || index != expected || index > LAST_INDEX {
                return Err(ReadError::Record(format!(
                    "entry {index}: expected index {expected}"
                )));
            }
            stored.entries.push(entry);
        }
        Extent::of(&stored, sequence)
            .check_commit()
            .map_err(ReadError::Record)?;
        Ok((stored, sequence))
    }

    fn try_write(&self, write: &LogWrite, sequence: u64) -> Result<(), redb::Error> {
        let Some(database) = &self.database else {
            return Err(redb::Error::DatabaseClosed);
        };
        let mut transaction = database.begin_write()?;
        // The older commit is never taken for the newer one, if that is damaged.
        transaction.set_two_phase_commit(true);
        // Each commit writes the table of free pages, so that pages of the file are always on their way
        // to be written again. It costs a fifth of the commands; without it redb looks through the whole
        // file after a crash, as we do at every start.
        transaction.set_quick_repair(!self.has_space);
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            let first = write.entries.first().map(|entry| entry.index);
            // Mostly there is nothing to replace.
            let replaced = first.filter(|first| *first <= self.extent.last);
            if let Some(replaced) = replaced.or(write.installs.then_some(0)) {
                entries.retain_in(replaced.., |_, _| false)?;
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

    fn snapshot(&self) -> Result<Option<SnapshotRecord>, StorageError> {
        self.try_snapshot().map_err(|error| self.read_error(error))
    }

    fn write(&mut self, write: &LogWrite) -> Result<(), StorageError> {
        if self.failed {
            return Err(self.failure(&redb::Error::PreviousIo));
        }
        check_write(self.extent, write)?;
        if let Err(error) = self.try_write(write, self.extent.sequence + 1) {
            #[cfg(evoring_plants)]
            if self.notes.failure() == Some(Failure::Full) && is_planted(Plant::FailedWriteIgnored)
            {
                return Ok(());
            }
            self.failed = true;
            return Err(self.failure(&error));
        }
        self.extent = self.extent.after(write);
        self.witness.state(self.extent.sequence).map_err(|e| {
            self.failed = true;
            StorageError::Poisoned {
                path: self.disk.path(WITNESS_FILE),
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
        let opened = open_database(&*self.disk, &notes);
        if let Some(failure) = notes.failure() {
            if failure != Failure::Full {
                self.notes = notes;
            }
            return Err(self.failure(&redb::Error::PreviousIo));
        }
        self.database = Some(opened?);
        let (stored, sequence) = self.read()?;
        let found = Extent::of(&stored, sequence);
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

    fn expect_space(&mut self, is_plenty: bool) {
        self.has_space = is_plenty;
    }
}

type Singles = redb::ReadOnlyTable<u64, &'static [u8]>;

/// The table of single records; none before the first write.
fn open_singles(transaction: &redb::ReadTransaction) -> Result<Option<Singles>, ReadError> {
    match transaction.open_table(SINGLES) {
        Ok(table) => Ok(Some(table)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

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

fn open_database(disk: &dyn Disk, notes: &FileNotes) -> Result<Database, StorageError> {
    let io = |e: io::Error| StorageError::Io {
        path: disk.path(LOG_FILE),
        reason: e.to_string(),
    };
    let file = disk.open(LOG_FILE, OpenAs::PresentOrNew).map_err(io)?;
    let backend = WatchedFile::new(file, notes.clone());
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
        .map_err(|e| database_error(disk, e))?;
    // A file that was just made is durable only with its folder's entry.
    disk.sync_names().map_err(io)?;
    Ok(database)
}

/// Empties a log file whose making was interrupted. redb gives a file its magic number last; one
/// without it, and without any acknowledgement, holds nothing.
fn empty_unmade(disk: &dyn Disk) -> io::Result<()> {
    let file = match disk.open(LOG_FILE, OpenAs::Present) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut magic = [0u8; MAGIC_BYTES];
    match file.read_at(0, &mut magic) {
        Ok(()) if magic != [0; MAGIC_BYTES] => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => file.set_len(0),
    }
}

fn database_error(disk: &dyn Disk, error: DatabaseError) -> StorageError {
    let path = disk.path(LOG_FILE);
    match error {
        DatabaseError::DatabaseAlreadyOpen => StorageError::InUse { path },
        DatabaseError::RepairAborted => corrupt(disk, "its newest commit is broken".to_owned()),
        DatabaseError::Storage(redb::StorageError::Corrupted(what)) => corrupt(disk, what),
        DatabaseError::UpgradeRequired(version) => {
            let what = format!(
                "its header says version {version} of the file format, which was never written here"
            );
            corrupt(disk, what)
        }
        DatabaseError::Storage(redb::StorageError::Io(e))
            if e.kind() == io::ErrorKind::InvalidData =>
        {
            corrupt(disk, e.to_string())
        }
        DatabaseError::Storage(redb::StorageError::Io(e))
            if e.kind() == io::ErrorKind::UnexpectedEof =>
        {
            corrupt(disk, format!("it is shorter than its header says: {e}"))
        }
        other => StorageError::Io {
            path,
            reason: other.to_string(),
        },
    }
}

/// Keeps a copy of the damaged file, so that nothing done later loses evidence.
fn corrupt(disk: &dyn Disk, what: String) -> StorageError {
    let copy = (0..COPIES)
        .map(|number| format!("{LOG_FILE}.corrupt-{number}"))
        .find(|candidate| !disk.exists(candidate))
        .filter(|candidate| disk.copy(LOG_FILE, candidate).is_ok());
    StorageError::Corrupt {
        path: disk.path(LOG_FILE),
        what,
        copy: copy.map(|copy| disk.path(&copy)),
    }
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
