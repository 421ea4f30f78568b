//! Damage is reported at opening and never passes for a shorter log (`STORE-3`, `STORE-4`).

use super::contract::{closed_store, entries};
use super::{LogStore, RedbStore, StorageError, Stored};
use std::fs;
use std::path::Path;

/// Opens a damaged store: the damage must be reported, or have hit bytes that hold nothing.
fn open_damaged(folder: &Path, whole: &Stored, what: &str) -> bool {
    match RedbStore::open(folder) {
        Ok(store) => {
            assert_eq!(
                &store.load().unwrap(),
                whole,
                "{what}: passed for another log"
            );
            false
        }
        Err(error) => {
            let is_told = matches!(error, StorageError::Corrupt { .. });
            assert!(is_told, "{what}: {error}");
            true
        }
    }
}

fn copy(from: &Path, to: &Path) {
    for name in ["log.redb", "log.witness"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

// Claim: a flipped byte anywhere in the file is reported or harmless, never a shorter or another
// log, never a panic.
// Method: flip one byte in each of some hundred places of the log's file, in the header densely,
// each in a fresh copy; many must be reported.
#[test]
fn flipped_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let whole = closed_store(folder.path());
    let bytes = fs::read(folder.path().join("log.redb")).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let places = (0..320)
        .step_by(3)
        .chain((320..used).step_by((used / 90).max(1)));
    let mut reported = 0;
    for place in places {
        let damaged = tempfile::tempdir().unwrap();
        copy(folder.path(), damaged.path());
        let mut bytes = bytes.clone();
        bytes[place] ^= 0x41;
        fs::write(damaged.path().join("log.redb"), &bytes).unwrap();
        reported += u32::from(open_damaged(
            damaged.path(),
            &whole,
            &format!("byte {place}"),
        ));
    }
    assert!(reported > 10, "only {reported} places were reported");
}

// Claim: so is each single bit of the header, also where it makes the file one of another version of
// its format (simulated: seed 8630).
// Method: flip one after the other.
#[test]
fn flipped_bits_of_the_header() {
    let folder = tempfile::tempdir().unwrap();
    let whole = closed_store(folder.path());
    let bytes = fs::read(folder.path().join("log.redb")).unwrap();
    let damaged = tempfile::tempdir().unwrap();
    let mut reported = 0;
    for bit in 0..320 * 8 {
        for file in fs::read_dir(damaged.path()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        copy(folder.path(), damaged.path());
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(damaged.path().join("log.redb"), &bytes).unwrap();
        let what = format!("bit {} of byte {}", bit % 8, bit / 8);
        reported += u32::from(open_damaged(damaged.path(), &whole, &what));
    }
    assert!(reported > 100, "only {reported} bits were reported");
}

// Claim: a log that is cut off, emptied or gone is reported, not begun anew.
// Method: truncate to several lengths, to nothing, remove.
#[test]
fn truncated_files() {
    let folder = tempfile::tempdir().unwrap();
    let whole = closed_store(folder.path());
    let length = fs::metadata(folder.path().join("log.redb")).unwrap().len();
    for left in [length - 1, length - 4096, length / 2, 4096, 100, 1, 0] {
        let damaged = tempfile::tempdir().unwrap();
        copy(folder.path(), damaged.path());
        fs::OpenOptions::new()
            .write(true)
            .open(damaged.path().join("log.redb"))
            .unwrap()
            .set_len(left)
            .unwrap();
        assert!(open_damaged(
            damaged.path(),
            &whole,
            &format!("{left} of {length} bytes")
        ));
    }
    let damaged = tempfile::tempdir().unwrap();
    copy(folder.path(), damaged.path());
    fs::remove_file(damaged.path().join("log.redb")).unwrap();
    assert!(open_damaged(damaged.path(), &whole, "removed"));
}

// Claim: an older copy of the log, sound in itself, is not taken for the newest.
// Method: keep a copy, write more, put the copy back.
#[test]
fn older_copy() {
    let folder = tempfile::tempdir().unwrap();
    closed_store(folder.path());
    let old = fs::read(folder.path().join("log.redb")).unwrap();
    RedbStore::open(folder.path())
        .unwrap()
        .write(&entries(41..=41, 1))
        .unwrap();
    fs::write(folder.path().join("log.redb"), old).unwrap();
    let error = RedbStore::open(folder.path()).unwrap_err();
    assert!(
        matches!(&error, StorageError::Corrupt { copy: Some(copy), .. } if copy.exists()),
        "{error}"
    );
    assert!(error.to_string().contains("was acknowledged"), "{error}");
}

// Claim: a damaged witness is reported.
// Method: flip each of its bytes.
#[test]
fn damaged_witness() {
    let folder = tempfile::tempdir().unwrap();
    closed_store(folder.path());
    let path = folder.path().join("log.witness");
    let bytes = fs::read(&path).unwrap();
    for place in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(
            matches!(
                RedbStore::open(folder.path()),
                Err(StorageError::Corrupt { .. })
            ),
            "byte {place}"
        );
    }
}

// Claim: a first start that was interrupted, by a full disk or a kill, does not stop the next one:
// nothing was acknowledged.
// Method: what an interruption leaves: an empty witness, one under its temporary name, a log file
// without a magic number; then it must open and take writes.
#[test]
fn interrupted_first_start() {
    let lay = |files: &[(&str, &[u8])]| {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    };
    let zeros = vec![0u8; 8192];
    for folder in [
        lay(&[("log.witness", b"")]),
        lay(&[("log.witness.new", b"x")]),
        lay(&[("log.witness", b""), ("log.redb", b"")]),
        lay(&[("log.witness", &[0; 12]), ("log.redb", b"")]),
        lay(&[("log.witness", &[0; 12]), ("log.redb", &zeros)]),
        lay(&[("log.witness", &[0; 12]), ("log.redb", &[0; 3])]),
    ] {
        let whole = closed_store(folder.path());
        let again = RedbStore::open(folder.path()).unwrap();
        assert_eq!(again.load().unwrap(), whole);
    }
}

// Claim: once something was acknowledged, an empty witness, or a log without its magic number, is
// damage and not a first start.
// Method: empty the one, zero the first page of the other.
#[test]
fn emptied_later() {
    let folder = tempfile::tempdir().unwrap();
    closed_store(folder.path());
    let witness = fs::read(folder.path().join("log.witness")).unwrap();
    fs::write(folder.path().join("log.witness"), b"").unwrap();
    let is_corrupt = || {
        matches!(
            RedbStore::open(folder.path()),
            Err(StorageError::Corrupt { .. })
        )
    };
    assert!(is_corrupt());
    fs::write(folder.path().join("log.witness"), witness).unwrap();
    let mut log = fs::read(folder.path().join("log.redb")).unwrap();
    log[..9].fill(0);
    fs::write(folder.path().join("log.redb"), log).unwrap();
    assert!(is_corrupt());
}

// Claim: two processes cannot have one store.
// Method: open it twice.
#[test]
fn in_use() {
    let folder = tempfile::tempdir().unwrap();
    let _first = RedbStore::open(folder.path()).unwrap();
    assert!(matches!(
        RedbStore::open(folder.path()),
        Err(StorageError::InUse { .. })
    ));
}
