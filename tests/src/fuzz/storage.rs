//! What a coordinator's log holds on its disk: whatever lies there, it opens or says what is wrong.

use evoring_coordinator::storage::{
    Disk, LOG_FILE, LogStore, LogWrite, OpenAs, RedbStore, SectorStore, SimDisk, SnapshotRecord,
    StorageError,
};
use raft::eraftpb::{ConfState, Entry, HardState};
use std::sync::{Arc, OnceLock};

const MARK_FILE: &str = "log.mark";
const AREA_FILES: [&str; 2] = ["log.0", "log.1"];
const MARK_KEY: u64 = 0x6d61_726b_0000_0000;
const MARK_BYTES: usize = 36;
const WITNESS_FILE: &str = "log.witness";
/// Of the entries of [`writes`].
const LAST_INDEX: u64 = 11;

/// What the first byte of an input says about the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Holds {
    /// A mark, as it lies on the disk, and the area in force.
    Files = 0,
    /// Payloads of records, each after its length, 2 bytes: their checksums are right.
    Records = 1,
    /// Changes of a sound log of redb: place (3 bytes), length (1 byte), bytes.
    Changes = 2,
    /// A witness beside a sound log of redb.
    Witness = 3,
}

/// A log of the simulator's store, or changes of one of redb's or of its witness.
pub fn log_record(data: &[u8]) {
    match data.split_first() {
        Some((kind, rest)) if kind % 4 == Holds::Files as u8 => {
            let (mark, area) = rest.split_at(rest.len().min(MARK_BYTES));
            drop(sector_store(mark, area));
        }
        Some((kind, rest)) if kind % 4 == Holds::Records as u8 => drop(records(rest)),
        Some((kind, rest)) if kind % 4 == Holds::Witness as u8 => drop(witnessed(rest)),
        Some((_, rest)) => changes(rest),
        None => {}
    }
}

/// The checksum of a record in its place.
fn framed(key: u64, payload: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(&key.to_le_bytes());
    crc.update(payload);
    [&crc.sum().to_le_bytes(), payload].concat()
}

fn records(mut rest: &[u8]) -> Option<SectorStore> {
    let (mut area, mut sequence) = (Vec::new(), 0u64);
    while let Some(length) = rest.split_off(..2).and_then(|bytes| bytes.first_chunk()) {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let payload = rest.split_off(..length).unwrap_or_default();
        sequence += 1;
        area.extend(framed(sequence, &(length as u32).to_le_bytes()));
        area.extend(framed(sequence, payload));
    }
    let numbers = [sequence, sequence.min(1), 0, area.len() as u64];
    let numbers: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    let mut store = sector_store(&framed(MARK_KEY, &numbers), &area)?;
    // What was read can be written again.
    let stored = store.load().expect("what was opened can be read");
    let write = LogWrite {
        hard_state: stored.hard_state.clone(),
        ..LogWrite::default()
    };
    store.write(&write).expect("an empty write is taken");
    assert_eq!(store.load().expect("and read"), stored);
    Some(store)
}

fn sector_store(mark: &[u8], area: &[u8]) -> Option<SectorStore> {
    let disk = SimDisk::new();
    let files = [
        (MARK_FILE, mark),
        (AREA_FILES[0], area),
        (AREA_FILES[1], area),
    ];
    for (name, bytes) in files {
        write(&disk, name, 0, bytes);
    }
    opened(SectorStore::open_on(Arc::new(disk)))
}

fn write(disk: &SimDisk, name: &str, offset: u64, bytes: &[u8]) {
    let file = disk.open(name, OpenAs::PresentOrNew);
    let file = file.expect("the disk works");
    file.write_at(offset, bytes).expect("the disk works");
    file.sync().expect("the disk works");
}

/// The store; `None` if it says that something is wrong with its files.
fn opened<S: LogStore>(outcome: Result<S, StorageError>) -> Option<S> {
    match outcome {
        Ok(store) => {
            drop(store.load().expect("what was opened can be read"));
            drop(store.snapshot().expect("what was opened can be read"));
            Some(store)
        }
        Err(StorageError::Corrupt { .. } | StorageError::Io { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// A log of redb with a snapshot and entries, closed.
fn sound() -> &'static SimDisk {
    static SOUND: OnceLock<SimDisk> = OnceLock::new();
    SOUND.get_or_init(|| {
        let disk = SimDisk::new();
        let mut store = RedbStore::open_on(Arc::new(disk.clone())).expect("an empty disk");
        for write in writes() {
            store.write(&write).expect("the disk works");
        }
        drop(store);
        disk.settle();
        disk
    })
}

/// A snapshot, then entries.
pub fn writes() -> [LogWrite; 2] {
    let entry = |index| Entry {
        index,
        term: 2,
        data: vec![3, 1, 2],
        ..Entry::default()
    };
    let first = LogWrite {
        hard_state: Some(HardState {
            term: 2,
            vote: 1,
            commit: 7,
        }),
        snapshot: Some(SnapshotRecord {
            index: 7,
            term: 1,
            membership: ConfState {
                voters: vec![1, 2, 3],
                ..ConfState::default()
            },
            data: vec![1; 9],
        }),
        ..LogWrite::default()
    };
    let second = LogWrite {
        entries: (8..=LAST_INDEX).map(entry).collect(),
        ..LogWrite::default()
    };
    [first, second]
}

fn changes(mut rest: &[u8]) {
    let disk = sound().fork();
    let length = disk.length(LOG_FILE).unwrap_or_default();
    while let Some([a, b, c, count]) = rest.split_off(..4).and_then(|bytes| bytes.first_chunk()) {
        let bytes = rest.split_off(..rest.len().min(usize::from(*count)));
        let place = u64::from(u32::from_le_bytes([*a, *b, *c, 0])) % length.max(1);
        write(&disk, LOG_FILE, place, bytes.unwrap_or_default());
    }
    drop(opened(RedbStore::open_on(Arc::new(disk))));
}

/// A sound log beside a witness of these bytes: it is whole, or not opened.
fn witnessed(witness: &[u8]) -> Option<RedbStore> {
    let disk = sound().fork();
    let file = disk.open(WITNESS_FILE, OpenAs::Emptied);
    drop(file.expect("the disk works"));
    write(&disk, WITNESS_FILE, 0, witness);
    let store = opened(RedbStore::open_on(Arc::new(disk)))?;
    let stored = store.load().expect("what was opened can be read");
    assert_eq!(stored.last_index(), LAST_INDEX);
    Some(store)
}

/// What the witness of a sound log says: that its [`writes`] were acknowledged.
pub fn witness() -> Vec<u8> {
    let disk = sound().fork();
    let mut bytes = vec![0; disk.length(WITNESS_FILE).unwrap_or_default() as usize];
    let file = disk.open(WITNESS_FILE, OpenAs::Present);
    let read = file.and_then(|file| file.read_at(0, &mut bytes));
    read.expect("the disk works");
    [vec![Holds::Witness as u8], bytes].concat()
}

/// The bytes of a simulator's log with [`writes`]: mark and area in force.
pub fn files() -> Vec<u8> {
    let disk = SimDisk::new();
    let mut store = SectorStore::open_on(Arc::new(disk.clone())).expect("an empty disk");
    for write in writes() {
        store.write(&write).expect("the disk works");
    }
    drop(store);
    let read = |name: &str| {
        let mut bytes = vec![0; disk.length(name).unwrap_or_default() as usize];
        let file = disk.open(name, OpenAs::Present).expect("it is there");
        file.read_at(0, &mut bytes).expect("the disk works");
        bytes
    };
    // A snapshot begins the other area.
    [
        vec![Holds::Files as u8],
        read(MARK_FILE),
        read(AREA_FILES[1]),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::seeds;

    /// Claim: the seeds are logs that open, so that mutations of them get far.
    /// Method: open them; the changes of redb's file must be found out.
    #[test]
    fn seeds_are_logs() {
        let seeds = seeds::of("log_record");
        let rest = |name: &str| {
            let (_, bytes) = seeds.iter().find(|(seed, _)| *seed == name).unwrap();
            bytes[1..].to_vec()
        };
        let files = rest("files");
        let (mark, area) = files.split_at(MARK_BYTES);
        let store = sector_store(mark, area).unwrap();
        assert_eq!(store.load().unwrap().last_index(), LAST_INDEX);
        let store = records(&rest("records")).unwrap();
        assert_eq!(store.load().unwrap().last_index(), LAST_INDEX);
        let store = opened(RedbStore::open_on(Arc::new(sound().fork()))).unwrap();
        assert_eq!(store.load().unwrap().last_index(), LAST_INDEX);
        assert!(witnessed(&rest("witness")).is_some());
        let mut damaged = rest("witness");
        damaged[4] += 1;
        assert!(witnessed(&damaged).is_none());
    }
}
