//! A disk in memory that fails as disks do, repeatably: one seed decides what a power cut keeps.
//!
//! What it promises is what a store may rely on, and no more:
//!
//! - A sector of [`SECTOR_BYTES`] is written wholly or not at all.
//! - What was written, and a length that was set, is durable after a sync of the file. Before, a
//!   power cut keeps any subset of it, sector by sector, in any order.
//! - Names are durable after [`Disk::sync_names`]. Before, a power cut keeps the first few of the
//!   changes: file systems journal them in order.
//! - A process that ends leaves everything it wrote to the next one; its open files are dead.

mod damage;

pub use damage::Flip;

use super::disk::{Disk, DiskFile, OpenAs};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that are written wholly or not at all: the least that any disk promises.
pub const SECTOR_BYTES: usize = 512;
type Sector = [u8; SECTOR_BYTES];
const ZEROS: Sector = [0; SECTOR_BYTES];

/// How a disk fails from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFaults {
    /// Files cannot grow past this many bytes in all.
    pub capacity_bytes: Option<u64>,
    /// Nothing can be written, in place neither, as on a full file system that copies on write.
    pub is_full: bool,
    /// Syncs fail; what they should have written never is, unless it is written again.
    pub syncs_fail: bool,
    /// Syncs succeed and do nothing.
    pub syncs_lie: bool,
    /// Reads fail.
    pub reads_fail: bool,
}

/// A handle of a simulated disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another disk with the same content, synced and not; nobody has its files open.
    pub fn fork(&self) -> Self {
        let mut copy = self.state().clone();
        copy.process += 1;
        Self(Arc::new(Mutex::new(copy)))
    }

    /// How it fails.
    pub fn faults(&self) -> DiskFaults {
        self.state().faults
    }

    /// Sets how it fails from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.state().faults = faults;
    }

    /// The power fails after this many more changes and syncs: from then on everything fails,
    /// until [`power_cut`](Self::power_cut) says what is left.
    pub fn power_fails_after(&self, operations: u64) {
        self.state().operations_left = Some(operations);
    }

    /// The power is cut and comes again: open files are dead, and of what was not synced a part
    /// stays that `seed` chooses.
    pub fn power_cut(&self, seed: u64) {
        let mut state = self.state();
        let mut random = SplitMix(seed);
        state.end_process();
        state.cut_names(&mut random);
        for file in state.files.values_mut() {
            file.power_cut(&mut random);
        }
    }

    /// The process ends, and the kernel goes on: open files are dead, nothing else is lost.
    pub fn end_process(&self) {
        self.state().end_process();
    }

    /// The kernel writes back everything, as it does after a while.
    pub fn settle(&self) {
        let mut state = self.state();
        state.settle_names();
        for file in state.files.values_mut() {
            file.settle();
        }
    }

    /// Length of a file in bytes, if it is there.
    pub fn length(&self, name: &str) -> Option<u64> {
        let state = self.state();
        let file = state.names.get(name)?;
        Some(state.files.get(file)?.len)
    }

    /// Bytes that all files take.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Number of syncs that succeeded, of files and of names.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str, open_as: OpenAs) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let known = state.names.get(name).copied();
        let file = match known {
            Some(file) => file,
            None if open_as == OpenAs::Present => return Err(io::ErrorKind::NotFound.into()),
            None => state.make(name)?,
        };
        state.last_opening += 1;
        let opened = SimFile {
            disk: self.clone(),
            file,
            process: state.process,
            opening: state.last_opening,
        };
        drop(state);
        if known.is_some() && open_as == OpenAs::Emptied {
            opened.set_len(0)?;
        }
        Ok(Box::new(opened))
    }

    fn exists(&self, name: &str) -> bool {
        self.state().names.contains_key(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let change = NameChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        if !change.apply(&mut state.names) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.name_changes.push(change);
        Ok(())
    }

    fn copy(&self, from: &str, to: &str) -> io::Result<()> {
        let source = self.open(from, OpenAs::Present)?;
        let mut bytes = vec![0; source.len()? as usize];
        source.read_at(0, &mut bytes)?;
        self.open(to, OpenAs::Emptied)?.write_at(0, &bytes)
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.begin_sync()? {
            state.settle_names();
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("(simulated disk)").join(name)
    }
}

/// An open file.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
    process: u64,
    opening: u64,
}

impl SimFile {
    /// The disk's state, while this opening of the file lives.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.process == self.process {
            Ok(state)
        } else {
            Err(io::Error::other("the process that opened it has ended"))
        }
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.file(self.file)?.len)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state()?;
        if state.operations_left == Some(0) || state.faults.reads_fail {
            return Err(rustix::io::Errno::IO.into());
        }
        let file = state.file(self.file)?;
        let end = offset.saturating_add(out.len() as u64);
        let range = offset as usize..end as usize;
        match file.bytes.get(range) {
            Some(bytes) if end <= file.len => out.copy_from_slice(bytes),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state()?;
        state.step()?;
        if data.is_empty() {
            return Ok(());
        }
        let end = offset + data.len() as u64;
        state.make_room(self.file, end)?;
        let file = state.file(self.file)?;
        if end > file.len {
            file.set_len(end);
        }
        let sector_bytes = SECTOR_BYTES as u64;
        for sector in offset / sector_bytes..=(end - 1) / sector_bytes {
            file.remember(sector);
        }
        file.bytes[offset as usize..end as usize].copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.step()?;
        if len > state.file(self.file)?.len {
            state.make_room(self.file, len)?;
        }
        state.file(self.file)?.set_len(len);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state()?;
        match state.begin_sync() {
            Ok(true) => state.file(self.file)?.settle(),
            Ok(false) => {}
            Err(error) => {
                state.file(self.file)?.forget();
                return Err(error);
            }
        }
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.state()?;
        let (process, opening) = (state.process, self.opening);
        let file = state.file(self.file)?;
        if matches!(file.locked_by, Some(holder) if holder.0 == process && holder.1 != opening) {
            return Ok(false);
        }
        file.locked_by = Some((process, opening));
        Ok(true)
    }

    fn unlock(&self) -> io::Result<()> {
        let mut state = self.state()?;
        let file = state.file(self.file)?;
        if file.locked_by == Some((self.process, self.opening)) {
            file.locked_by = None;
        }
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        // Of a process that has ended, nothing is locked.
        let _ = self.unlock();
    }
}

/// A change of names that is not durable yet.
#[derive(Debug, Clone)]
enum NameChange {
    Make { name: String, file: u64 },
    Rename { from: String, to: String },
}

impl NameChange {
    /// Whether there was something to change.
    fn apply(&self, names: &mut BTreeMap<String, u64>) -> bool {
        let (name, file) = match self {
            Self::Make { name, file } => (name, Some(*file)),
            Self::Rename { from, to } => (to, names.remove(from)),
        };
        file.is_some_and(|file| {
            names.insert(name.clone(), file);
            true
        })
    }
}

#[derive(Clone, Default)]
struct State {
    /// Names as processes see them.
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// What leads from the durable ones to the others.
    name_changes: Vec<NameChange>,
    files: BTreeMap<u64, Contents>,
    last_file: u64,
    /// Files that earlier processes opened are dead.
    process: u64,
    last_opening: u64,
    faults: DiskFaults,
    /// Until the power fails.
    operations_left: Option<u64>,
    syncs: u64,
}

impl State {
    /// Counts a change or a sync; fails once the power has.
    fn step(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            Some(0) => return Err(io::Error::other("the power is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    /// Whether the sync that begins does what it should.
    fn begin_sync(&mut self) -> io::Result<bool> {
        self.step()?;
        if self.faults.syncs_fail {
            return Err(rustix::io::Errno::IO.into());
        }
        self.syncs += 1;
        Ok(!self.faults.syncs_lie)
    }

    fn file(&mut self, file: u64) -> io::Result<&mut Contents> {
        self.files
            .get_mut(&file)
            .ok_or_else(|| io::Error::other("the file is gone"))
    }

    fn make(&mut self, name: &str) -> io::Result<u64> {
        self.step()?;
        if self.faults.is_full {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        self.last_file += 1;
        let change = NameChange::Make {
            name: name.to_owned(),
            file: self.last_file,
        };
        change.apply(&mut self.names);
        self.name_changes.push(change);
        self.files.insert(self.last_file, Contents::default());
        Ok(self.last_file)
    }

    /// Checks that a file can be written up to `end`.
    fn make_room(&mut self, file: u64, end: u64) -> io::Result<()> {
        let has = self.file(file)?.bytes.len();
        let more = padded(end).saturating_sub(has) as u64;
        let capacity = self.faults.capacity_bytes.unwrap_or(u64::MAX);
        if self.faults.is_full || (more > 0 && self.used_bytes() + more > capacity) {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        self.files
            .values()
            .map(|file| file.bytes.len() as u64)
            .sum()
    }

    fn end_process(&mut self) {
        self.process += 1;
        self.operations_left = None;
        self.remove_unnamed();
    }

    fn settle_names(&mut self) {
        self.durable_names.clone_from(&self.names);
        self.name_changes.clear();
    }

    fn cut_names(&mut self, random: &mut SplitMix) {
        let kept = random.below(self.name_changes.len() as u64 + 1);
        for change in self.name_changes.drain(..).take(kept as usize) {
            change.apply(&mut self.durable_names);
        }
        self.names.clone_from(&self.durable_names);
        self.remove_unnamed();
    }

    fn remove_unnamed(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        let is_named = |file: &u64| {
            names
                .values()
                .chain(durable.values())
                .any(|one| one == file)
        };
        self.files.retain(|file, _| is_named(file));
    }
}

/// What was in a sector when it was durable last.
#[derive(Clone)]
struct Durable {
    bytes: Box<Sector>,
    /// A sync of what was written since has failed: later ones do not try again.
    is_forgotten: bool,
}

/// A file's content.
#[derive(Clone, Default)]
struct Contents {
    len: u64,
    /// Whole sectors; zeros behind the end.
    bytes: Vec<u8>,
    durable_len: u64,
    /// The sectors that were written since.
    unsynced: BTreeMap<u64, Durable>,
    /// Process and opening.
    locked_by: Option<(u64, u64)>,
}

impl Contents {
    /// Keeps what a sector holds, before it changes for the first time since it was durable.
    fn remember(&mut self, sector: u64) {
        let bytes = &self.bytes;
        self.unsynced
            .entry(sector)
            .and_modify(|durable| durable.is_forgotten = false)
            .or_insert_with(|| {
                let mut old = Box::new(ZEROS);
                let begin = sector as usize * SECTOR_BYTES;
                if let Some(bytes) = bytes.get(begin..begin + SECTOR_BYTES) {
                    old.copy_from_slice(bytes);
                }
                Durable {
                    bytes: old,
                    is_forgotten: false,
                }
            });
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let sectors = self.bytes.len() / SECTOR_BYTES;
            for sector in len / SECTOR_BYTES as u64..sectors as u64 {
                self.remember(sector);
            }
        }
        self.resize(len);
    }

    /// Cuts or extends, with zeros.
    fn resize(&mut self, len: u64) {
        if len < self.len {
            self.bytes.truncate(len as usize);
        }
        self.bytes.resize(padded(len), 0);
        self.len = len;
    }

    /// Everything is durable but what an earlier sync has forgotten.
    fn settle(&mut self) {
        self.durable_len = self.len;
        self.unsynced.retain(|_, durable| durable.is_forgotten);
    }

    /// A sync failed: what it should have written counts as written and is not.
    fn forget(&mut self) {
        for durable in self.unsynced.values_mut() {
            durable.is_forgotten = true;
        }
    }

    /// Keeps a part of what was not synced: of the length, and of each sector.
    fn power_cut(&mut self, random: &mut SplitMix) {
        let written = self.len;
        let len = [self.durable_len, written][random.below(2) as usize];
        self.resize(len);
        // From nothing over a few to everything, so that each is frequent.
        let kept_of_8 = [0, 1, 4, 7, 8][random.below(5) as usize];
        for (sector, durable) in std::mem::take(&mut self.unsynced) {
            let begin = sector as usize * SECTOR_BYTES;
            let was_cut_off = begin as u64 >= written;
            if !was_cut_off && random.below(8) < kept_of_8 {
                continue;
            }
            if let Some(bytes) = self.bytes.get_mut(begin..begin + SECTOR_BYTES) {
                bytes.copy_from_slice(&durable.bytes[..]);
            }
        }
        // What a sector had behind the end is gone.
        self.bytes[len as usize..].fill(0);
        self.durable_len = len;
    }
}

fn padded(len: u64) -> usize {
    (len as usize).next_multiple_of(SECTOR_BYTES)
}

/// Repeatable numbers: SplitMix64, for its size.
#[derive(Debug, Clone)]
pub(super) struct SplitMix(pub(super) u64);

impl SplitMix {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, or 0; the small bias does not matter here.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn open(disk: &SimDisk, name: &str) -> Box<dyn DiskFile> {
        disk.open(name, OpenAs::PresentOrNew).unwrap()
    }

    pub(super) fn bytes(disk: &SimDisk, name: &str) -> Vec<u8> {
        let file = open(disk, name);
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    }

    pub(super) fn durable(name: &str, content: &[u8]) -> SimDisk {
        let disk = SimDisk::new();
        let file = open(&disk, name);
        file.write_at(0, content).unwrap();
        file.sync().unwrap();
        disk.sync_names().unwrap();
        disk
    }

    // Claim: a power cut keeps what was synced, and of the rest each sector, each length and each
    // name either as it was or as it became; every one of these outcomes comes about, and the
    // same seed gives the same one.
    // Method: one durable file is written over in three sectors and extended by one, a second is
    // made; many seeds.
    #[test]
    fn power_cuts() {
        let (old, new) = ([1u8; 3 * SECTOR_BYTES], [2u8; 4 * SECTOR_BYTES]);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..2_000 {
            let run = || {
                let disk = durable("a", &old);
                open(&disk, "a").write_at(0, &new).unwrap();
                let second = open(&disk, "b");
                second.write_at(0, &[3]).unwrap();
                second.sync().unwrap();
                disk.power_cut(seed);
                assert!(second.write_at(0, &[3]).is_err() && second.len().is_err());
                let first = bytes(&disk, "a");
                let second = disk.exists("b").then(|| bytes(&disk, "b"));
                (first, second)
            };
            let (first, second) = run();
            assert_eq!((first.clone(), second.clone()), run());
            assert!(second.is_none() || second.as_deref() == Some(&[3]));
            let sectors: Vec<u8> = first.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect();
            for (sector, place) in first.chunks(SECTOR_BYTES).zip(0..) {
                assert_eq!(sector, [sector[0]; SECTOR_BYTES]);
                let known: &[u8] = if place == 3 { &[0, 2] } else { &[1, 2] };
                assert!(known.contains(&sector[0]), "sector {place}: {}", sector[0]);
            }
            seen.insert((sectors, second.is_some()));
        }
        // 2^3 contents, three ends (none, zeros, written), with the second file or without.
        assert_eq!(seen.len(), 8 * 3 * 2);
    }

    // Claim: a length that was cut and not synced comes back with its bytes, or stays cut.
    // Method: cut a durable file, cut the power, for several seeds.
    #[test]
    fn cut_off() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let disk = durable("a", &[1; 2 * SECTOR_BYTES]);
            open(&disk, "a").set_len(SECTOR_BYTES as u64).unwrap();
            disk.power_cut(seed);
            let bytes = bytes(&disk, "a");
            assert!(bytes.iter().all(|byte| *byte == 1));
            seen.insert(bytes.len());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [512, 1024]);
    }

    // Claim: a renamed file has one of its names after a power cut, never both or none.
    // Method: rename over another file; many seeds.
    #[test]
    fn renames() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let disk = durable("a", &[1]);
            open(&disk, "b").write_at(0, &[2]).unwrap();
            open(&disk, "b").sync().unwrap();
            disk.sync_names().unwrap();
            disk.rename("b", "a").unwrap();
            disk.power_cut(seed);
            let is_renamed = !disk.exists("b");
            assert_eq!(bytes(&disk, "a"), if is_renamed { [2] } else { [1] });
            seen.insert(is_renamed);
        }
        assert_eq!(seen.len(), 2);
    }

    // Claim: each fault does what it says, and no more.
    // Method: each on its own; after a failed and after a lying sync, some power cut takes away
    // what they claimed, after the failed one even though a later sync succeeds.
    #[test]
    fn faults() {
        let disk = durable("a", &[1; SECTOR_BYTES]);
        let with = |faults| {
            let disk = disk.fork();
            disk.set_faults(faults);
            let file = open(&disk, "a");
            (disk, file)
        };
        let none = DiskFaults::default();
        let is_full =
            |outcome: io::Result<()>| crate::storage::disk::is_full(&outcome.unwrap_err());

        let (_, file) = with(DiskFaults {
            capacity_bytes: Some(1024),
            ..none
        });
        file.write_at(0, &[2; 1024]).unwrap();
        assert!(is_full(file.write_at(1024, &[2])) && is_full(file.set_len(1025)));
        assert_eq!(file.len().unwrap(), 1024);

        let (_, file) = with(DiskFaults {
            is_full: true,
            ..none
        });
        assert!(is_full(file.write_at(0, &[2])));
        file.sync().unwrap();

        let (_, file) = with(DiskFaults {
            reads_fail: true,
            ..none
        });
        assert!(file.read_at(0, &mut [0]).is_err());

        let loses = |faults: DiskFaults| {
            (0..20).any(|seed| {
                let (disk, file) = with(faults);
                file.write_at(0, &[2]).unwrap();
                assert_eq!(file.sync().is_err(), faults.syncs_fail);
                disk.set_faults(none);
                if faults.syncs_fail {
                    file.sync().unwrap();
                }
                disk.power_cut(seed);
                bytes(&disk, "a")[0] == 1
            })
        };
        let (syncs_fail, syncs_lie) = (true, true);
        assert!(loses(DiskFaults { syncs_fail, ..none }));
        assert!(loses(DiskFaults { syncs_lie, ..none }));
    }

    // Claim: one opening has a file's lock, until it is dropped or its process ends.
    // Method: two openings take turns.
    #[test]
    fn locks() {
        let disk = durable("a", &[1]);
        let first = open(&disk, "a");
        let second = open(&disk, "a");
        assert!(first.try_lock().unwrap() && first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        drop(first);
        assert!(second.try_lock().unwrap());
        disk.end_process();
        assert!(open(&disk, "a").try_lock().unwrap());
    }
}
