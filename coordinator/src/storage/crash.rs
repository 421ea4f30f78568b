//! Both stores on a simulated disk: power cuts, flipped bits, failing syncs, no space.
//! (`STORE-1`, `STORE-3`, `STORE-4`, `STORE-5`.)

use super::contract::{Simulated, entries, snapshot};
use super::sim_disk::SplitMix;
use super::{DiskFaults, Flip, LogStore, LogWrite, RedbStore, SectorStore, StorageError, Stored};
use raft::eraftpb::{Entry, HardState};

/// Writes between two power cuts, at most.
const WRITES: u64 = 12;

/// A random write that fits what is stored: mostly entries of different sizes, behind the last or
/// in place of some; terms, snapshots of what is there, and such as come from a leader.
fn fitting_write(random: &mut SplitMix, stored: &Stored) -> LogWrite {
    let (cut, last) = (stored.snapshot_index(), stored.last_index());
    let committed = stored.hard_state.as_ref().map_or(0, |it| it.commit);
    let term = 1 + random.below(1 << 40);
    match random.below(12) {
        0 => LogWrite {
            hard_state: Some(HardState {
                term,
                vote: random.below(5),
                commit: last,
            }),
            ..LogWrite::default()
        },
        1 if last > 0 => snapshot(cut + random.below(last - cut + 1), term),
        2 => LogWrite {
            installs: true,
            ..snapshot(cut + 1 + random.below(9), term)
        },
        kind => {
            let replaced = if kind == 3 {
                random.below(last - committed.max(cut) + 1)
            } else {
                0
            };
            let first = last + 1 - replaced;
            let entry = |index| Entry {
                index,
                term,
                data: vec![index as u8; random.below(900) as usize],
                ..Entry::default()
            };
            LogWrite {
                entries: (first..=first + kind % 3).map(entry).collect(),
                ..LogWrite::default()
            }
        }
    }
}

/// What is stored after one write more.
fn after(stored: &Stored, write: &LogWrite) -> Stored {
    let mut stored = stored.clone();
    stored.take(write).unwrap();
    stored
}

/// Writes until the store fails, and returns the write that it failed at.
fn write_some<S: LogStore>(
    store: &mut S,
    model: &mut Stored,
    random: &mut SplitMix,
) -> Option<LogWrite> {
    for _ in 0..WRITES {
        let write = fitting_write(random, model);
        if store.write(&write).is_err() {
            return Some(write);
        }
        model.take(&write).unwrap();
    }
    None
}

/// STORE-1, STORE-4. `operations` is about what a few writes take.
fn power_cuts<S: LogStore>(kind: &Simulated<S>, cuts: u64, operations: u64) {
    let mut random = SplitMix(operations);
    let mut model = Stored::default();
    // Not under way; gone; there.
    let mut outcomes = [0; 3];
    for cut in 0..cuts {
        let mut store = kind.try_open().unwrap();
        kind.disk.power_fails_after(random.below(operations));
        let under_way = write_some(&mut store, &mut model, &mut random);
        kind.disk.power_cut(random.next());
        drop(store);
        if cut % 3 == 0 {
            // Again, while it is opened.
            kind.disk.power_fails_after(random.below(operations / 2));
            drop(kind.try_open());
            kind.disk.power_cut(random.next());
        }
        let found = kind.try_open().unwrap().load().unwrap();
        let outcome = match under_way.map(|write| after(&model, &write)) {
            None => 0,
            Some(more) if found == more => {
                model = more;
                2
            }
            Some(_) => 1,
        };
        assert!(found == model, "cut {cut}: {found:?} instead of {model:?}");
        outcomes[outcome] += 1;
    }
    assert!(
        outcomes[1] > 10 && outcomes[2] > 0,
        "few cuts hit a write: {outcomes:?}"
    );
}

/// STORE-4: a first start that the power cuts short does not stop the next one.
fn first_starts<S: LogStore>(open: fn() -> Simulated<S>, operations: u64) {
    for seed in 0..3 * operations {
        let kind = open();
        kind.disk.power_fails_after(seed % operations);
        let is_taken = kind
            .try_open()
            .is_ok_and(|mut store| store.write(&entries(1..=2, 1)).is_ok());
        kind.disk.power_cut(seed);
        let found = kind.try_open().unwrap().load().unwrap();
        let whole = after(&Stored::default(), &entries(1..=2, 1));
        assert!(
            found == whole || !is_taken && found == Stored::default(),
            "seed {seed}: {found:?}"
        );
    }
}

/// A store with something of everything.
fn written<S: LogStore>(kind: &Simulated<S>) -> S {
    let mut store = kind.try_open().unwrap();
    for write in [entries(1..=4, 1), snapshot(3, 1), entries(5..=7, 2)] {
        store.write(&write).unwrap();
    }
    store
}

/// The same, closed and written back.
fn closed<S: LogStore>(kind: &Simulated<S>) -> Stored {
    let stored = written(kind).load().unwrap();
    kind.disk.settle();
    stored
}

/// The same, killed: the store did nothing to close its files.
fn killed<S: LogStore>(kind: &Simulated<S>) -> Stored {
    let store = written(kind);
    let stored = store.load().unwrap();
    kind.disk.end_process();
    drop(store);
    kind.disk.settle();
    stored
}

/// STORE-3, STORE-4: opens a copy with a flipped bit. Whether it was reported; if not, the log is
/// the same, takes writes, and is the same again.
fn is_reported<S: LogStore>(kind: &Simulated<S>, whole: &Stored, flip: &Flip) -> bool {
    let disk = kind.disk.fork();
    disk.flip(flip);
    let damaged = Simulated { disk, ..*kind };
    let mut store = match damaged.try_open() {
        Ok(store) => store,
        Err(StorageError::Corrupt { .. }) => return true,
        Err(other) => panic!("{flip:?}: {other}"),
    };
    assert_eq!(&store.load().unwrap(), whole, "{flip:?}");
    let more = entries(whole.last_index() + 1..=whole.last_index() + 3, 3);
    store.write(&more).unwrap();
    drop(store);
    let found = damaged.try_open().unwrap().load().unwrap();
    assert_eq!(found, after(whole, &more), "{flip:?}");
    false
}

/// STORE-5: whichever change or sync fails, nothing is taken after it; the next start has what
/// was acknowledged.
fn failing_operations<S: LogStore>(open: fn() -> Simulated<S>, operations: u64) {
    for operation in 0..operations {
        let kind = open();
        let whole = closed(&kind);
        let mut store = kind.try_open().unwrap();
        let write = entries(8..=8, 3);
        kind.disk.power_fails_after(operation);
        let is_taken = store.write(&write).is_ok();
        kind.disk.power_fails_after(u64::MAX);
        let more = entries(9..=9, 3);
        if !is_taken {
            assert!(matches!(store.reopen(), Err(StorageError::Poisoned { .. })));
            let refused = store.write(&write);
            assert!(matches!(refused, Err(StorageError::Poisoned { .. })));
        } else {
            store.write(&more).unwrap();
        }
        kind.disk.power_cut(operation);
        drop(store);
        let found = kind.try_open().unwrap().load().unwrap();
        let written = after(&whole, &write);
        if is_taken {
            assert_eq!(found, after(&written, &more));
        } else {
            assert!(found == whole || found == written, "{operation}: {found:?}");
        }
    }
}

/// STORE-5: after a failed sync nothing is taken, though later syncs succeed; a power cut then
/// leaves what was acknowledged, or what was under way as well.
fn failed_syncs<S: LogStore>(kind: &Simulated<S>) {
    let mut random = SplitMix(5);
    let mut model = closed(kind);
    for round in 0..20 {
        let mut store = kind.try_open().unwrap();
        kind.disk.set_faults(DiskFaults {
            syncs_fail: true,
            ..DiskFaults::default()
        });
        let write = fitting_write(&mut random, &model);
        let refused = store.write(&write);
        assert!(matches!(refused, Err(StorageError::Poisoned { .. })));
        kind.disk.set_faults(DiskFaults::default());
        assert!(store.write(&write).is_err() && store.reopen().is_err());
        kind.disk.power_cut(round);
        drop(store);
        let found = kind.try_open().unwrap().load().unwrap();
        let more = after(&model, &write);
        assert!(found == model || found == more, "round {round}");
        model = found;
    }
}

/// STORE-1: a full disk changes nothing; with room again, the same write is taken.
fn full_then_room<S: LogStore>(kind: &Simulated<S>) {
    let mut random = SplitMix(6);
    let mut model = closed(kind);
    let mut store = kind.try_open().unwrap();
    let mut times = 0;
    for _ in 0..400 {
        let room = |bytes| DiskFaults {
            capacity_bytes: Some(kind.disk.used_bytes() + bytes),
            ..DiskFaults::default()
        };
        kind.disk.set_faults(room(random.below(2_000)));
        let mut write = fitting_write(&mut random, &model);
        if let Some(last) = write.entries.last_mut() {
            last.data.resize(30_000, 7);
        }
        if let Err(error) = store.write(&write) {
            assert!(error.can_retry(), "{error}");
            assert!(store.write(&write).is_err());
            kind.disk.set_faults(room(1 << 24));
            store.reopen().unwrap();
            assert_eq!(store.load().unwrap(), model);
            store.write(&write).unwrap();
            times += 1;
        }
        model.take(&write).unwrap();
        if times == 20 {
            break;
        }
    }
    assert!(times > 3, "the disk was full only {times} times");
    drop(store);
    assert_eq!(kind.try_open().unwrap().load().unwrap(), model);
}

/// STORE-3: where syncs lied, the next start has a state that was once written, or reports damage.
fn lying_syncs<S: LogStore>(open: fn() -> Simulated<S>) {
    let mut reported = 0;
    for seed in 0..40 {
        let (kind, mut random) = (open(), SplitMix(seed));
        let mut model = closed(&kind);
        let mut history = vec![model.clone()];
        let mut store = kind.try_open().unwrap();
        kind.disk.set_faults(DiskFaults {
            syncs_lie: true,
            ..DiskFaults::default()
        });
        for _ in 0..6 {
            let write = fitting_write(&mut random, &model);
            store.write(&write).unwrap();
            model.take(&write).unwrap();
            history.push(model.clone());
        }
        kind.disk.power_cut(seed);
        drop(store);
        kind.disk.set_faults(DiskFaults::default());
        match kind.try_open() {
            Ok(store) => assert!(history.contains(&store.load().unwrap()), "seed {seed}"),
            Err(StorageError::Corrupt { .. }) => reported += 1,
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(reported > 0, "no lie was found out");
}

/// A disk that cannot be read is not taken for an empty or a damaged one.
fn failing_reads<S: LogStore>(kind: &Simulated<S>) {
    let whole = closed(kind);
    kind.disk.set_faults(DiskFaults {
        reads_fail: true,
        ..DiskFaults::default()
    });
    assert!(matches!(kind.try_open(), Err(StorageError::Io { .. })));
    kind.disk.set_faults(DiskFaults::default());
    assert_eq!(kind.try_open().unwrap().load().unwrap(), whole);
}

fn redb() -> Simulated<RedbStore> {
    Simulated::new(RedbStore::open_on)
}

fn sectors() -> Simulated<SectorStore> {
    Simulated::new(SectorStore::open_on)
}

// Claim: after a power cut at any moment, the opening of a store included, it has all that it
// acknowledged, and of a write under way all or nothing.
// Method: random writes; the power fails at a random operation, a random part of what was not
// synced stays; compare with a model; go on with what is there.
#[test]
fn redb_power_cuts() {
    power_cuts(&redb(), 400, 160);
}

#[test]
fn sectors_power_cuts() {
    power_cuts(&sectors(), 2_000, 40);
}

// Claim, method: as above, for the first start and the first write, cut at each operation.
#[test]
fn redb_first_starts() {
    first_starts(redb, 40);
}

#[test]
fn sectors_first_starts() {
    first_starts(sectors, 20);
}

// Claim: each flipped bit is reported.
// Method: flip each bit of each file of a small store.
#[test]
fn sectors_flips() {
    let kind = sectors();
    let whole = closed(&kind);
    let (mut bits, mut reported) = (0, 0);
    for name in ["log.mark", "log.0", "log.1"] {
        for offset in 0..kind.disk.length(name).unwrap() {
            for bit in 0..8 {
                let name = name.to_owned();
                bits += 1;
                reported += u32::from(is_reported(&kind, &whole, &Flip { name, offset, bit }));
            }
        }
    }
    // Nothing else is in the files.
    assert!(bits > 8 * 100 && reported == bits, "{reported} of {bits}");
}

// Claim: a flipped bit is reported or harmless, after further writes too.
// Method: of a store that was closed and of one that was killed, flip each bit of the byte that
// chooses the newest commit, some of the rest of the header, those of the witness, and random ones
// of all sectors that hold anything.
#[test]
fn redb_flips() {
    let header = (0..320 * 8).step_by(37).chain(9 * 8..10 * 8);
    let header = header.map(|bit| ("log.redb", bit));
    let witness = (0..12 * 8).step_by(5).map(|bit| ("log.witness", bit));
    let chosen: Vec<Flip> = header
        .chain(witness)
        .map(|(name, bit)| Flip {
            name: name.to_owned(),
            offset: bit / 8,
            bit: bit as u32 % 8,
        })
        .collect();
    for leave in [closed, killed] {
        let kind = redb();
        let whole = leave(&kind);
        let random = (0..700).map(|seed| kind.disk.fork().flip_bit(seed).unwrap());
        let flips = chosen.iter().cloned().chain(random);
        let reported = flips
            .filter(|flip| is_reported(&kind, &whole, flip))
            .count();
        assert!(reported > 80, "only {reported} were reported");
    }
}

macro_rules! faults {
    ($($store:ident),*) => {$(
        mod $store {
            use super::$store;

            // Claim and method: see the function of this name.
            #[test] fn failing_operations() { super::failing_operations($store, 30); }
            #[test] fn failed_syncs() { super::failed_syncs(&$store()); }
            #[test] fn full_then_room() { super::full_then_room(&$store()); }
            #[test] fn lying_syncs() { super::lying_syncs($store); }
            #[test] fn failing_reads() { super::failing_reads(&$store()); }
        }
    )*};
}
faults!(redb, sectors);
