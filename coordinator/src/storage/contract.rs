//! One suite that every store must pass.

use super::backend::Failure;
use super::{
    Disk, DiskFaults, Fault, LogStore, LogWrite, MemoryStore, RedbStore, SectorStore, SimDisk,
    SnapshotRecord, StorageError, Stored,
};
use proptest::prelude::*;
use raft::eraftpb::{ConfState, Entry, HardState};
use std::path::Path;
use std::sync::Arc;

pub(super) fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        data: format!("entry {index} of term {term}").into_bytes(),
        ..Entry::default()
    }
}

pub(super) fn entries(indices: std::ops::RangeInclusive<u64>, term: u64) -> LogWrite {
    LogWrite {
        entries: indices.map(|index| entry(index, term)).collect(),
        ..LogWrite::default()
    }
}

pub(super) fn snapshot(index: u64, term: u64) -> LogWrite {
    let membership = ConfState {
        voters: vec![1],
        ..ConfState::default()
    };
    let snapshot = SnapshotRecord {
        index,
        term,
        membership,
        data: vec![7; 3 * index as usize],
    };
    let hard_state = Some(HardState {
        term,
        vote: 1,
        commit: index,
    });
    LogWrite {
        entries: Vec::new(),
        hard_state,
        snapshot: Some(snapshot),
        installs: false,
    }
}

/// A snapshot from the leader.
pub(super) fn install(index: u64, term: u64) -> LogWrite {
    LogWrite {
        installs: true,
        ..snapshot(index, term)
    }
}

/// A kind of store: how to open it, and how to make its next writes fail.
trait Kind {
    type Store: LogStore;
    fn open(&mut self) -> Self::Store;
    fn fail(&mut self, store: &mut Self::Store, fault: Fault);
}

struct InMemory;

impl Kind for InMemory {
    type Store = MemoryStore;

    fn open(&mut self) -> MemoryStore {
        MemoryStore::new()
    }

    fn fail(&mut self, store: &mut MemoryStore, fault: Fault) {
        store.set_fault(fault);
    }
}

struct OnDisk(tempfile::TempDir);

impl Kind for OnDisk {
    type Store = RedbStore;

    fn open(&mut self) -> RedbStore {
        RedbStore::open(self.0.path()).unwrap()
    }

    fn fail(&mut self, store: &mut RedbStore, fault: Fault) {
        store.inject(match fault {
            Fault::None => None,
            Fault::Full => Some(Failure::Full),
            Fault::Sync => Some(Failure::Sync("injected".to_owned())),
        });
    }
}

/// A kind of store on a simulated disk, and how it is opened.
pub(super) struct Simulated<S> {
    pub(super) disk: SimDisk,
    pub(super) open: fn(Arc<dyn Disk>) -> Result<S, StorageError>,
}

impl<S> Simulated<S> {
    pub(super) fn new(open: fn(Arc<dyn Disk>) -> Result<S, StorageError>) -> Self {
        let disk = SimDisk::new();
        Self { disk, open }
    }

    pub(super) fn try_open(&self) -> Result<S, StorageError> {
        (self.open)(Arc::new(self.disk.clone()))
    }
}

impl<S: LogStore> Kind for Simulated<S> {
    type Store = S;

    fn open(&mut self) -> S {
        self.try_open().unwrap()
    }

    fn fail(&mut self, _: &mut S, fault: Fault) {
        self.disk.set_faults(DiskFaults {
            is_full: fault == Fault::Full,
            syncs_fail: fault == Fault::Sync,
            ..DiskFaults::default()
        });
    }
}

fn on_disk() -> OnDisk {
    OnDisk(tempfile::tempdir().unwrap())
}

/// STORE-1, STORE-2: what is written is what is loaded, conflicts are replaced, snapshots cut.
fn takes_writes(kind: &mut impl Kind) {
    let mut store = kind.open();
    assert_eq!(store.load().unwrap(), Stored::default());
    let mut model = Stored::default();
    let hard_state = LogWrite {
        hard_state: Some(HardState {
            term: 3,
            vote: 1,
            commit: 4,
        }),
        ..LogWrite::default()
    };
    let writes = [
        snapshot(1, 1),
        entries(2..=6, 1),
        entries(5..=5, 2),
        hard_state,
        snapshot(4, 1),
        entries(6..=9, 2),
        snapshot(9, 2),
    ];
    for write in &writes {
        store.write(write).unwrap();
        model.take(write).unwrap();
        assert_eq!(store.load().unwrap(), model);
        assert_eq!(store.snapshot().unwrap(), model.snapshot);
    }
    assert_eq!((model.snapshot_index(), model.last_index()), (9, 9));
}

/// STORE-2: writes that leave a gap, go back behind the snapshot, or claim to have committed more than
/// there is, are refused and change nothing.
fn refuses_gaps(kind: &mut impl Kind) {
    let mut store = kind.open();
    store.write(&snapshot(4, 1)).unwrap();
    store.write(&entries(5..=7, 1)).unwrap();
    let before = store.load().unwrap();
    let mut holed = entries(8..=9, 1);
    holed.entries.push(entry(11, 1));
    let hard_state = Some(HardState {
        term: 1,
        vote: 1,
        commit: 8,
    });
    let beyond = LogWrite {
        hard_state,
        ..entries(7..=7, 1)
    };
    let gaps = [entries(9..=9, 1), entries(4..=5, 1), holed];
    for wrong in gaps {
        let outcome = store.write(&wrong);
        let is_gap = matches!(outcome, Err(StorageError::NotContiguous { .. }));
        assert!(is_gap, "{wrong:?}: {outcome:?}");
        assert_eq!(store.load().unwrap(), before);
    }
    for wrong in [snapshot(3, 1), beyond] {
        let outcome = store.write(&wrong);
        let is_misused = matches!(outcome, Err(StorageError::Misused(_)));
        assert!(is_misused, "{wrong:?}: {outcome:?}");
        assert_eq!(store.load().unwrap(), before);
    }
    // What is committed is replaced by nothing shorter.
    let commits = LogWrite {
        hard_state: Some(HardState {
            term: 1,
            vote: 1,
            commit: 7,
        }),
        ..LogWrite::default()
    };
    store.write(&commits).unwrap();
    assert!(matches!(
        store.write(&entries(6..=6, 1)),
        Err(StorageError::Misused(_))
    ));
    store.write(&entries(8..=8, 1)).unwrap();
}

/// STORE-1, STORE-2: a snapshot from the leader replaces the log, entries after it too; what does
/// not say so wholly is refused and changes nothing; the log goes on from the snapshot.
fn installs_snapshots(kind: &mut impl Kind) {
    let mut store = kind.open();
    assert_eq!(store.snapshot().unwrap(), None);
    store.write(&snapshot(2, 1)).unwrap();
    store.write(&entries(3..=9, 1)).unwrap();
    let before = store.load().unwrap();
    let bare = LogWrite {
        installs: true,
        ..LogWrite::default()
    };
    let with_entries = LogWrite {
        entries: vec![entry(6, 2)],
        ..install(5, 2)
    };
    for wrong in [bare, with_entries] {
        let refused = store.write(&wrong);
        assert!(
            matches!(refused, Err(StorageError::Misused(_))),
            "{wrong:?}"
        );
        assert_eq!(store.load().unwrap(), before);
    }
    assert!(store.write(&install(1, 2)).is_err());
    for (index, last) in [(5, 5), (20, 20), (20, 20)] {
        store.write(&install(index, 2)).unwrap();
        let stored = store.load().unwrap();
        assert_eq!(
            (stored.snapshot_index(), stored.last_index()),
            (index, last)
        );
        assert_eq!(store.snapshot().unwrap(), install(index, 2).snapshot);
        assert_eq!(stored.hard_state, install(index, 2).hard_state);
        assert!(store.write(&entries(last + 2..=last + 2, 2)).is_err());
        store.write(&entries(last + 1..=last + 3, 2)).unwrap();
    }
}

/// STORE-5: after a full disk nothing is taken until it is opened again; then the same write is.
fn recovers_from_full(kind: &mut impl Kind) {
    let mut store = kind.open();
    store.write(&snapshot(1, 1)).unwrap();
    store.write(&entries(2..=3, 1)).unwrap();
    kind.fail(&mut store, Fault::Full);
    let error = store.write(&entries(4..=5, 1)).unwrap_err();
    assert!(
        matches!(error, StorageError::Full { .. }) && error.can_retry(),
        "{error}"
    );
    assert!(store.reopen().is_err());
    kind.fail(&mut store, Fault::None);
    assert!(store.write(&entries(4..=5, 1)).is_err());
    store.reopen().unwrap();
    assert_eq!(store.load().unwrap().last_index(), 3);
    store.write(&entries(4..=5, 1)).unwrap();
    assert_eq!(store.load().unwrap().last_index(), 5);
}

/// STORE-5: after a failed sync nothing is taken any more in this process.
fn stays_poisoned(kind: &mut impl Kind) {
    let mut store = kind.open();
    store.write(&snapshot(1, 1)).unwrap();
    kind.fail(&mut store, Fault::Sync);
    let error = store.write(&entries(2..=2, 1)).unwrap_err();
    assert!(
        matches!(error, StorageError::Poisoned { .. }) && !error.can_retry(),
        "{error}"
    );
    kind.fail(&mut store, Fault::None);
    assert!(matches!(store.reopen(), Err(StorageError::Poisoned { .. })));
    assert!(store.write(&entries(2..=2, 1)).is_err());
}

macro_rules! contract {
    ($($claim:ident),*) => {
        mod memory {
            $(#[test] fn $claim() { super::$claim(&mut super::InMemory); })*
        }
        mod disk {
            $(#[test] fn $claim() { super::$claim(&mut super::on_disk()); })*
        }
        mod simulated_disk {
            use super::{RedbStore, Simulated};
            $(#[test] fn $claim() { super::$claim(&mut Simulated::new(RedbStore::open_on)); })*
        }
        mod sectors {
            use super::{SectorStore, Simulated};
            $(#[test] fn $claim() { super::$claim(&mut Simulated::new(SectorStore::open_on)); })*
        }
    };
}
contract!(
    takes_writes,
    refuses_gaps,
    installs_snapshots,
    recovers_from_full,
    stays_poisoned
);

/// One random write that may or may not fit.
fn any_write() -> impl Strategy<Value = LogWrite> {
    let entries = (1u64..12, 0u64..5, 1u64..4).prop_map(|(first, count, term)| {
        let entries = (first..first + count)
            .map(|index| entry(index, term))
            .collect();
        LogWrite {
            entries,
            ..LogWrite::default()
        }
    });
    let cut = (1u64..12, 1u64..4, any::<bool>()).prop_map(|(index, term, installs)| LogWrite {
        installs,
        ..snapshot(index, term)
    });
    let hard_state = (1u64..4, 0u64..12).prop_map(|(term, commit)| LogWrite {
        hard_state: Some(HardState {
            term,
            vote: 1,
            commit,
        }),
        ..LogWrite::default()
    });
    prop_oneof![4 => entries, 1 => cut, 1 => hard_state]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    // Claim: all stores agree with each other after any writes, and those on disks hold the same
    // after they were closed and opened again.
    // Method: random writes, many of which do not fit; open again in the middle and at the end.
    #[test]
    fn stores_agree(writes in proptest::collection::vec(any_write(), 1..30)) {
        let (mut on_disk, mut sectors) = (on_disk(), Simulated::new(SectorStore::open_on));
        let (mut disk, mut sector) = (on_disk.open(), sectors.open());
        let mut memory = MemoryStore::new();
        let middle = writes.len() / 2;
        for (position, write) in writes.iter().enumerate() {
            let is_taken = memory.write(write).is_ok();
            prop_assert_eq!(disk.write(write).is_ok(), is_taken);
            prop_assert_eq!(sector.write(write).is_ok(), is_taken);
            if position == middle {
                drop((disk, sector));
                (disk, sector) = (on_disk.open(), sectors.open());
            }
            prop_assert_eq!(disk.load().unwrap(), memory.load().unwrap());
            prop_assert_eq!(sector.load().unwrap(), memory.load().unwrap());
            prop_assert_eq!(sector.snapshot().unwrap(), memory.snapshot().unwrap());
        }
        drop((disk, sector));
        prop_assert_eq!(on_disk.open().load().unwrap(), memory.load().unwrap());
        prop_assert_eq!(sectors.open().load().unwrap(), memory.load().unwrap());
    }
}

proptest! {
    // Claim: writes that share a transaction leave what they leave one after the other.
    // Method: random writes that fit; neighbours are joined wherever that is possible.
    #[test]
    fn joined_writes_agree(writes in proptest::collection::vec(any_write(), 1..20)) {
        let (mut single, mut joined) = (MemoryStore::new(), MemoryStore::new());
        let mut waiting = LogWrite::default();
        for write in writes {
            if single.write(&write).is_err() {
                continue;
            }
            if waiting.takes(&write) {
                waiting.join(write);
            } else {
                joined.write(&waiting).unwrap();
                waiting = write;
            }
        }
        joined.write(&waiting).unwrap();
        prop_assert_eq!(single.load().unwrap(), joined.load().unwrap());
    }
}

/// A folder with a store of some writes, closed.
pub(super) fn closed_store(folder: &Path) -> Stored {
    let mut store = RedbStore::open(folder).unwrap();
    store.write(&snapshot(1, 1)).unwrap();
    for index in 2..=40 {
        store.write(&entries(index..=index, 1)).unwrap();
    }
    store.load().unwrap()
}
