//! A log on two plain files: far quicker than [`RedbStore`](super::RedbStore) on a simulated disk,
//! with the same promises. The simulator uses it for most of its runs.
//!
//! Files:
//!
//! - `log.0` and `log.1`, the areas. One is in force. It holds records, one for each write, without
//!   gaps from its first byte on. A write with a snapshot begins the other area with a record of
//!   everything, so that a log is as long as what came after its snapshot.
//! - `log.mark`, one sector: which area is in force, how many of its bytes are acknowledged, the
//!   numbers of its first record and of the last. It is written over in place.
//!
//! A write appends its record and syncs the area, then writes the mark and syncs that, then is
//! acknowledged.
//!
//! `STORE-4`, or how a torn tail is told from rot: neither a record's checksum nor a look at what
//! follows it can tell them apart, for the last record may be torn because the power failed while
//! it was written, or be damaged after it was acknowledged. So the place where it ends decides.
//! All that the mark covers was durable before the mark was, hence
//!
//! - what does not fit *below* the mark's end was damaged later: [`StorageError::Corrupt`];
//! - what lies *behind* it was never acknowledged: it is not read, and written over;
//! - the mark itself is old or new after a power cut, never torn, since it is one sector; if its
//!   checksum does not fit, it was damaged: corrupt;
//! - the mark is old: nothing after it was acknowledged. It is new: its record is whole. Either way
//!   the log is the one that was acknowledged last, or has the one write more that was under way.
//!
//! Every byte below the end counts in a checksum over its record's number and bytes, and a record's
//! length in its own, so that each flipped bit is found. A disk whose syncs lie can lose the mark's
//! last version together with its record: that is a shorter log which nothing on this disk shows.

use super::backend::Failure;
use super::disk::{Disk, DiskFile, OpenAs, is_full};
use super::record::{frame, unframe};
use super::{
    Extent, LAST_INDEX, LogStore, LogWrite, SnapshotRecord, StorageError, Stored, check_next,
    check_snapshot, check_write,
};
use prost::Message;
use raft::eraftpb;
use std::io;
use std::sync::Arc;

const MARK_FILE: &str = "log.mark";
/// Its name while it is made.
const UNMADE_FILE: &str = "log.mark.new";
const AREA_FILES: [&str; 2] = ["log.0", "log.1"];
const MARK_KEY: u64 = 0x6d61_726b_0000_0000;
/// CRC, then four numbers.
const MARK_BYTES: usize = 4 + 4 * 8;
/// A record begins with its payload's length, framed, …
const HEADER_BYTES: usize = 8;
/// … and goes on with the payload, framed.
const CRC_BYTES: usize = 4;

/// What a record's payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A write without a snapshot.
    Change = 0,
    /// Everything.
    Whole = 1,
}

/// What is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Mark {
    /// Number of the last record; 0 before the first.
    sequence: u64,
    /// Number of the area's first record.
    first: u64,
    /// Place in [`AREA_FILES`].
    area: u64,
    /// Acknowledged bytes of the area.
    bytes: u64,
}

impl Mark {
    fn encode(self) -> Vec<u8> {
        let numbers = [self.sequence, self.first, self.area, self.bytes];
        let payload: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        frame(MARK_KEY, &payload)
    }

    fn decode(record: &[u8]) -> Result<Self, String> {
        let payload = unframe(MARK_KEY, record)?;
        let mut numbers = [0; 4];
        for (number, bytes) in numbers.iter_mut().zip(payload.chunks_exact(8)) {
            *number = bytes
                .iter()
                .rev()
                .fold(0, |n, byte| n << 8 | u64::from(*byte));
        }
        let [sequence, first, area, bytes] = numbers;
        if sequence.max(first) > LAST_INDEX {
            return Err(format!("record {sequence} after record {first}"));
        }
        Ok(Self {
            sequence,
            first,
            area,
            bytes,
        })
    }
}

/// A log on two plain files.
#[derive(Debug)]
pub struct SectorStore {
    disk: Arc<dyn Disk>,
    mark_file: Box<dyn DiskFile>,
    areas: [Box<dyn DiskFile>; 2],
    mark: Mark,
    extent: Extent,
    failure: Option<Failure>,
}

impl SectorStore {
    /// Opens or creates the store, reading and checking all of it.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if anything acknowledged is not as it was written.
    pub fn open_on(disk: Arc<dyn Disk>) -> Result<Self, StorageError> {
        let io = |name: &str, error: io::Error| io_error(&*disk, name, &error);
        let mark_file = open_mark(&*disk)?;
        if !mark_file.try_lock().map_err(|e| io(MARK_FILE, e))? {
            return Err(StorageError::InUse {
                path: disk.path(MARK_FILE),
            });
        }
        let mark = read_mark(&*disk, &*mark_file)?;
        // Both are durable before the first write.
        let open_as = match mark.sequence {
            0 => OpenAs::PresentOrNew,
            _ => OpenAs::Present,
        };
        let area = |name: &str| match disk.open(name, open_as) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(corrupt(&*disk, name, "it is gone".to_owned()))
            }
            other => other.map_err(|e| io(name, e)),
        };
        let areas = [area(AREA_FILES[0])?, area(AREA_FILES[1])?];
        disk.sync_names().map_err(|e| io("", e))?;
        let mut store = Self {
            disk,
            mark_file,
            areas,
            mark,
            extent: Extent::default(),
            failure: None,
        };
        store.extent = Extent::of(&store.load()?, mark.sequence);
        Ok(store)
    }

    fn area(&self) -> &dyn DiskFile {
        &*self.areas[self.mark.area as usize % 2]
    }

    fn area_name(&self) -> &'static str {
        AREA_FILES[self.mark.area as usize % 2]
    }

    fn corrupt(&self, what: String) -> StorageError {
        corrupt(&*self.disk, self.area_name(), what)
    }

    /// Fills `out` from the area in force.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), StorageError> {
        match self.area().read_at(offset, out) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.corrupt(format!(
                    "it ends before byte {}, which was acknowledged",
                    offset + out.len() as u64
                )))
            }
            other => other.map_err(|e| io_error(&*self.disk, self.area_name(), &e)),
        }
    }

    /// The mark and bytes that `write` makes, with the area that they are for.
    fn prepare(&self, write: &LogWrite) -> Result<(Mark, Vec<u8>), StorageError> {
        let mut mark = self.mark;
        mark.sequence += 1;
        if write.snapshot.is_some() {
            let mut stored = self.load()?;
            stored.take(write)?;
            mark.first = mark.sequence;
            mark.area = 1 - self.mark.area;
            mark.bytes = 0;
            let (hard_state, snapshot) = (&stored.hard_state, &stored.snapshot);
            let payload = encode(Kind::Whole, hard_state, snapshot, &stored.entries);
            return Ok((mark, record(mark.sequence, &payload)?));
        }
        if self.mark.sequence == 0 {
            mark.first = 1;
        }
        let payload = encode(Kind::Change, &write.hard_state, &None, &write.entries);
        Ok((mark, record(mark.sequence, &payload)?))
    }

    /// Makes `bytes` durable where the mark's bytes end, then the mark with them.
    fn put(&mut self, mut mark: Mark, bytes: &[u8]) -> Result<(), Failure> {
        let area = &self.areas[mark.area as usize % 2];
        area.write_at(mark.bytes, bytes).map_err(write_failure)?;
        area.sync().map_err(sync_failure)?;
        mark.bytes += bytes.len() as u64;
        self.mark_file
            .write_at(0, &mark.encode())
            .map_err(write_failure)?;
        self.mark_file.sync().map_err(sync_failure)?;
        if mark.area != self.mark.area {
            // Only gives back its space: whether it succeeds does not matter.
            let _ = self.area().set_len(0);
        }
        self.mark = mark;
        Ok(())
    }

    /// What a failure means for the caller.
    fn error(&self, failure: &Failure) -> StorageError {
        let path = self.disk.path(self.area_name());
        match failure {
            Failure::Full => StorageError::Full { path },
            Failure::Sync(reason) | Failure::Other(reason) => StorageError::Poisoned {
                path,
                reason: reason.clone(),
            },
        }
    }
}

impl LogStore for SectorStore {
    fn load(&self) -> Result<Stored, StorageError> {
        let length = self
            .area()
            .len()
            .map_err(|e| io_error(&*self.disk, self.area_name(), &e))?;
        if length < self.mark.bytes {
            return Err(self.corrupt(format!(
                "it has {length} bytes, but {} were acknowledged",
                self.mark.bytes
            )));
        }
        let mut bytes = vec![0; self.mark.bytes as usize];
        self.read(0, &mut bytes)?;
        replay(self.mark, &bytes).map_err(|what| self.corrupt(what))
    }

    fn snapshot(&self) -> Result<Option<SnapshotRecord>, StorageError> {
        if self.extent.snapshot == 0 {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        self.read(0, &mut header)?;
        let length = payload_bytes(self.mark.first, &header)
            .filter(|length| (HEADER_BYTES + CRC_BYTES + length) as u64 <= self.mark.bytes)
            .ok_or_else(|| self.corrupt("the snapshot's length does not fit".to_owned()))?;
        let mut body = vec![0; CRC_BYTES + length];
        self.read(HEADER_BYTES as u64, &mut body)?;
        unframe(self.mark.first, &body)
            .and_then(decode)
            .map(|(_, write)| write.snapshot)
            .map_err(|what| self.corrupt(what))
    }

    fn write(&mut self, write: &LogWrite) -> Result<(), StorageError> {
        if let Some(failure) = &self.failure {
            return Err(self.error(failure));
        }
        check_write(self.extent, write)?;
        let (mark, bytes) = self.prepare(write).inspect_err(|error| {
            self.failure = Some(Failure::Other(error.to_string()));
        })?;
        if let Err(failure) = self.put(mark, &bytes) {
            let error = self.error(&failure);
            self.failure = Some(failure);
            return Err(error);
        }
        self.extent = self.extent.after(write);
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), StorageError> {
        match &self.failure {
            None => return Ok(()),
            Some(Failure::Full) => {}
            Some(failure) => return Err(self.error(failure)),
        }
        // Says what it says already: only to see whether there is room.
        if let Err(error) = self.mark_file.write_at(0, &self.mark.encode()) {
            let failure = write_failure(error);
            let error = self.error(&failure);
            self.failure = Some(failure);
            return Err(error);
        }
        let found = Extent::of(&self.load()?, self.mark.sequence);
        if found != self.extent {
            return Err(self.corrupt(format!(
                "after a full disk it holds {found:?}, expected {:?}",
                self.extent
            )));
        }
        self.failure = None;
        Ok(())
    }
}

fn write_failure(error: io::Error) -> Failure {
    if is_full(&error) {
        Failure::Full
    } else {
        Failure::Other(error.to_string())
    }
}

fn sync_failure(error: io::Error) -> Failure {
    Failure::Sync(error.to_string())
}

fn io_error(disk: &dyn Disk, name: &str, error: &io::Error) -> StorageError {
    StorageError::Io {
        path: disk.path(name),
        reason: error.to_string(),
    }
}

fn corrupt(disk: &dyn Disk, name: &str, what: String) -> StorageError {
    StorageError::Corrupt {
        path: disk.path(name),
        what,
        copy: None,
    }
}

/// Opens the mark, or makes the first one. Under its name it is whole at once.
fn open_mark(disk: &dyn Disk) -> Result<Box<dyn DiskFile>, StorageError> {
    let make = || {
        let file = disk.open(UNMADE_FILE, OpenAs::Emptied)?;
        file.write_at(0, &Mark::default().encode())?;
        file.sync()?;
        disk.rename(UNMADE_FILE, MARK_FILE)?;
        disk.sync_names()?;
        Ok(file)
    };
    match disk.open(MARK_FILE, OpenAs::Present) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Areas are made after the mark.
            match AREA_FILES.iter().find(|name| disk.exists(name)) {
                Some(name) => Err(corrupt(disk, MARK_FILE, format!("gone, but {name} is not"))),
                None => make().map_err(|e| io_error(disk, MARK_FILE, &e)),
            }
        }
        other => other.map_err(|e| io_error(disk, MARK_FILE, &e)),
    }
}

fn read_mark(disk: &dyn Disk, file: &dyn DiskFile) -> Result<Mark, StorageError> {
    let mut record = [0; MARK_BYTES];
    match file.read_at(0, &mut record) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let what = format!("shorter than {MARK_BYTES} bytes");
            return Err(corrupt(disk, MARK_FILE, what));
        }
        other => other.map_err(|e| io_error(disk, MARK_FILE, &e))?,
    }
    Mark::decode(&record).map_err(|what| corrupt(disk, MARK_FILE, what))
}

/// Frames a payload with its length.
fn record(sequence: u64, payload: &[u8]) -> Result<Vec<u8>, StorageError> {
    let length = u32::try_from(payload.len())
        .map_err(|_| StorageError::Misused("a log write is larger than 4 GiB".to_owned()))?;
    let mut record = frame(sequence, &length.to_le_bytes());
    record.extend_from_slice(&frame(sequence, payload));
    Ok(record)
}

/// The length that a record's header says.
fn payload_bytes(sequence: u64, header: &[u8]) -> Option<usize> {
    let length = unframe(sequence, header).ok()?;
    Some(u32::from_le_bytes(length.try_into().ok()?) as usize)
}

/// What all acknowledged records say together.
fn replay(mark: Mark, mut bytes: &[u8]) -> Result<Stored, String> {
    let mut stored = Stored::default();
    let mut sequence = mark.first;
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let (body, rest) = payload_bytes(sequence, header)
            .and_then(|length| rest.split_at_checked(CRC_BYTES + length))
            .ok_or_else(|| format!("the length of record {sequence} does not fit"))?;
        let (kind, write) = unframe(sequence, body).and_then(decode)?;
        match kind {
            Kind::Whole if sequence == mark.first => {
                check_snapshot(&write.snapshot)?;
                stored = Stored {
                    hard_state: write.hard_state,
                    snapshot: write.snapshot,
                    entries: Vec::new(),
                };
                for entry in write.entries {
                    check_next(stored.last_index(), &entry).map_err(|e| e.to_string())?;
                    stored.entries.push(entry);
                }
            }
            Kind::Whole => return Err(format!("record {sequence} holds everything")),
            Kind::Change => stored
                .take(&write)
                .map_err(|e| format!("record {sequence}: {e}"))?,
        }
        sequence += 1;
        bytes = rest;
    }
    let expected = if mark.sequence == 0 {
        mark.first
    } else {
        mark.sequence + 1
    };
    if !bytes.is_empty() || sequence != expected {
        return Err(format!(
            "it ends before record {sequence}, expected it to end before record {expected}"
        ));
    }
    Ok(stored)
}

/// Layout: kind; hard state and snapshot, each after a byte that says whether it is there; then
/// entries to the end. Raft's messages come with their lengths.
fn encode(
    kind: Kind,
    hard_state: &Option<eraftpb::HardState>,
    snapshot: &Option<SnapshotRecord>,
    entries: &[eraftpb::Entry],
) -> Vec<u8> {
    let mut bytes = vec![kind as u8, u8::from(hard_state.is_some())];
    if let Some(hard_state) = hard_state {
        bytes.extend_from_slice(&hard_state.encode_length_delimited_to_vec());
    }
    bytes.push(u8::from(snapshot.is_some()));
    if let Some(snapshot) = snapshot {
        let mut message = eraftpb::Snapshot {
            data: snapshot.data.clone(),
            ..eraftpb::Snapshot::default()
        };
        let metadata = message.mut_metadata();
        metadata.index = snapshot.index;
        metadata.term = snapshot.term;
        metadata.set_conf_state(snapshot.membership.clone());
        bytes.extend_from_slice(&message.encode_length_delimited_to_vec());
    }
    for entry in entries {
        bytes.extend_from_slice(&entry.encode_length_delimited_to_vec());
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Result<(Kind, LogWrite), String> {
    let kind = match take_byte(&mut bytes)? {
        0 => Kind::Change,
        1 => Kind::Whole,
        other => return Err(format!("a record of the unknown kind {other}")),
    };
    let mut write = LogWrite::default();
    if take_byte(&mut bytes)? == 1 {
        write.hard_state = Some(take_message(&mut bytes)?);
    }
    if take_byte(&mut bytes)? == 1 {
        let mut message: eraftpb::Snapshot = take_message(&mut bytes)?;
        let metadata = message.take_metadata();
        write.snapshot = Some(SnapshotRecord {
            index: metadata.index,
            term: metadata.term,
            membership: metadata.get_conf_state().clone(),
            data: message.data,
        });
    }
    while !bytes.is_empty() {
        write.entries.push(take_message(&mut bytes)?);
    }
    Ok((kind, write))
}

fn take_byte(bytes: &mut &[u8]) -> Result<u8, String> {
    let (first, rest) = bytes.split_first().ok_or("a record is too short")?;
    *bytes = rest;
    Ok(*first)
}

fn take_message<M: Message + Default>(bytes: &mut &[u8]) -> Result<M, String> {
    M::decode_length_delimited(bytes).map_err(|e| format!("a record's message: {e}"))
}
