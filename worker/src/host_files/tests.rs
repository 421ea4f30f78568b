//! Sharing within one process (a lock belongs to the open file, so one process can stand for
//! several) and with another one, which is killed.

use super::*;
use std::cell::Cell;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt, symlink};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

/// More than a page, and no whole number of them.
const BYTES: usize = 10_000;
/// For what is not to be waited for.
const SHORT: Duration = Duration::from_millis(20);
/// For what happens at once, on a machine that is busy.
const LONG: Duration = Duration::from_secs(30);
/// Tells this program to play the other process: the folder, and whether to stop half-way.
const FOLDER: &str = "EVORING_TEST_HOST_FILES";
const HALF_WAY: &str = "EVORING_TEST_HALF_WAY";

struct Room {
    base: TempDir,
    folder: PathBuf,
    fills: Cell<usize>,
}

impl Room {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("values");
        Self {
            base,
            folder,
            fills: Cell::new(0),
        }
    }

    fn share(&self, patience: Duration) -> Result<Shared, HostFileError> {
        let mut fill = |bytes: &mut [u8]| {
            self.fills.set(self.fills.get() + 1);
            write(bytes);
        };
        share(&self.folder, &key(1), BYTES, patience, &mut fill)
    }

    fn file(&self) -> PathBuf {
        self.folder.join(key(1).to_string())
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn key(number: u8) -> Digest {
    Digest([number; 32])
}

/// Every second value, as a layer with zeros around it does; the rest must be zero already.
fn write(bytes: &mut [u8]) {
    assert_eq!(bytes.as_ptr() as usize % 4096, 0);
    for (index, byte) in bytes.iter_mut().enumerate() {
        if index % 2 == 0 {
            *byte = (index % 251) as u8;
        } else {
            assert_eq!(*byte, 0, "byte {index}");
        }
    }
}

fn expected() -> Vec<u8> {
    let mut bytes = vec![0u8; BYTES + 4096];
    let start = bytes.as_ptr().align_offset(4096);
    write(&mut bytes[start..start + BYTES]);
    bytes[start..start + BYTES].to_vec()
}

/// This program as another process that shares the values of `room`.
struct Other {
    child: Child,
    said: String,
}

impl Other {
    /// Waits until it holds the values, or is half-way through filling them.
    fn start(room: &Room, half_way: bool) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "host_files::tests::other_process", "--nocapture"])
            .env(FOLDER, &room.folder)
            .env(HALF_WAY, if half_way { "1" } else { "" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The test program's own words may stand in front on the same line.
        let said = lines
            .map(Result::unwrap)
            .find(|line| line.contains("other: "))
            .unwrap();
        Self { child, said }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Claim: a process by itself computes what it asked for. Method: a folder of its own. The tests
/// below start this one as their other process, with a folder that they name.
#[test]
fn other_process() {
    let named = std::env::var_os(FOLDER).map(PathBuf::from);
    let room = Room::new();
    let wait = || {
        let _ = std::io::stdin().read(&mut [0]);
    };
    let is_half_way = std::env::var(HALF_WAY).is_ok_and(|value| !value.is_empty());
    let mut fill = |bytes: &mut [u8]| {
        if is_half_way {
            bytes[..BYTES / 2].fill(7);
            println!("other: half-way");
            wait();
        }
        write(bytes);
    };
    let folder = named.as_ref().unwrap_or(&room.folder);
    let shared = share(folder, &key(1), BYTES, LONG, &mut fill).unwrap();
    assert_eq!(shared.bytes(), expected());
    if named.is_some() {
        println!("other: holds {}", Digest::of(shared.bytes()));
        wait();
    }
}

/// Claim: of all that ask for a key one computes, all see the same bytes, and the last one removes
/// the file; folder and file are for their owner alone. Method: four threads at once; drops.
#[test]
fn one_computes_and_the_last_removes() {
    let room = Room::new();
    let (fills, start) = (AtomicUsize::new(0), Barrier::new(4));
    let folder = &room.folder;
    let one = || {
        start.wait();
        let mut fill = |bytes: &mut [u8]| {
            fills.fetch_add(1, Ordering::Relaxed);
            write(bytes);
        };
        share(folder, &key(1), BYTES, LONG, &mut fill).unwrap()
    };
    let mut all: Vec<Shared> = std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(one));
        threads.map(|thread| thread.join().unwrap()).into()
    });
    assert_eq!(fills.load(Ordering::Relaxed), 1);
    assert!(all.iter().all(|shared| shared.bytes() == expected()));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&room.folder), mode(&room.file())), (0o700, 0o600));
    while all.pop().is_some() {
        assert_eq!(room.names().len(), usize::from(!all.is_empty()));
    }
    assert_eq!(room.share(LONG).unwrap().bytes(), expected());
    assert_eq!(room.fills.get(), 1);
}

/// Claim: two processes share, and the end of the one that computed harms nobody. Method: the
/// other process fills and is killed while this one reads.
#[test]
fn processes_share() {
    let room = Room::new();
    let other = Other::start(&room, false);
    assert!(
        other
            .said
            .ends_with(&format!("holds {}", Digest::of(&expected())))
    );
    let shared = room.share(LONG).unwrap();
    other.kill();
    assert_eq!(shared.bytes(), expected());
    assert_eq!(room.fills.get(), 0);
    drop(shared);
    assert_eq!(room.names(), [""; 0]);
}

/// Claim: nobody waits for ever for a process that fills, and what it leaves when it is killed is
/// never taken for values. Method: the other process stops half-way through, then is killed.
#[test]
fn a_killed_filler_is_replaced() {
    let room = Room::new();
    let other = Other::start(&room, true);
    let error = room.share(SHORT).unwrap_err();
    assert!(matches!(error, HostFileError::Busy { .. }), "{error}");
    other.kill();
    assert_eq!(room.share(LONG).unwrap().bytes(), expected());
    assert_eq!(room.fills.get(), 1);
}

/// Claim: a file that nobody holds is used if it is whole, and filled again if anything is wrong
/// with it. Method: a file as a killed process leaves it, then each kind of damage.
#[test]
fn damaged_files_are_filled_again() {
    let room = Room::new();
    let shared = room.share(LONG).unwrap();
    let whole = std::fs::read(room.file()).unwrap();
    drop(shared);
    let leave = |content: &[u8]| {
        std::fs::write(room.file(), content).unwrap();
        std::fs::set_permissions(room.file(), PermissionsExt::from_mode(0o600)).unwrap();
        room.fills.set(0);
        assert_eq!(room.share(LONG).unwrap().bytes(), expected());
        room.fills.get()
    };
    assert_eq!(leave(&whole), 0);
    let flipped = |index: usize| {
        let mut content = whole.clone();
        content[index] ^= 1;
        content
    };
    for index in [0, 8, 16, 47, 4096, whole.len() - 1] {
        assert_eq!(leave(&flipped(index)), 1, "byte {index}");
    }
    for length in [0, 8, 47, 4096, whole.len() - 1] {
        assert_eq!(leave(&whole[..length]), 1, "{length} bytes");
    }
    assert_eq!(leave(&[&whole[..], &[0]].concat()), 1);
}

/// Claim: values that were damaged while others use them are refused, at once, and neither changed
/// nor removed under those. Method: one byte of a held file is written from outside.
#[test]
fn damaged_values_in_use_are_refused() {
    let room = Room::new();
    let shared = room.share(LONG).unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(room.file())
        .unwrap();
    file.write_all_at(&[9], 4097).unwrap();
    let error = room.share(LONG).unwrap_err();
    assert!(matches!(error, HostFileError::Damaged { .. }), "{error}");
    assert_eq!((shared.bytes()[1], room.names().len()), (9, 1));
    drop(shared);
    assert_eq!(room.share(LONG).unwrap().bytes(), expected());
}

/// Claim: sweeping removes what nobody holds and nothing else. Method: a held file, one of a
/// killed process, files with other names; no folder at all.
#[test]
fn sweeping_leaves_what_is_held() {
    let room = Room::new();
    assert_eq!(sweep(&room.folder).unwrap(), 0);
    assert!(!room.folder.exists());
    let other = Other::start(&room, false);
    std::fs::write(room.folder.join("note"), "").unwrap();
    let held = share(&room.folder, &key(2), BYTES, LONG, &mut write).unwrap();
    assert_eq!(sweep(&room.folder).unwrap(), 0);
    other.kill();
    // Processes that other tests are just starting may still hold copies of its descriptors.
    let begin = Instant::now();
    while sweep(&room.folder).unwrap() == 0 {
        assert!(begin.elapsed() < LONG, "{:?}", room.names());
        std::thread::yield_now();
    }
    assert_eq!(room.names(), [key(2).to_string(), "note".to_owned()]);
    assert_eq!(held.bytes(), expected());
}

/// Claim: a file that loses its name while somebody waits for it or holds it harms nobody. Method:
/// the file is removed from outside; the holder reads on, the next one makes a new file, and the
/// end of the first leaves that alone.
#[test]
fn a_removed_file_is_made_again() {
    let room = Room::new();
    let first = room.share(LONG).unwrap();
    std::fs::remove_file(room.file()).unwrap();
    let second = room.share(LONG).unwrap();
    assert_eq!(room.fills.get(), 2);
    assert_eq!(first.bytes(), second.bytes());
    drop(first);
    assert_eq!(room.names(), [key(1).to_string()]);
}

/// Claim: whoever comes or goes when, and however others sweep meanwhile, everybody gets the right
/// values and nothing is left. Method: threads that share and drop two keys in turn, and one that
/// sweeps for as long as they do.
#[test]
fn users_come_and_go() {
    let room = Room::new();
    drop(room.share(LONG).unwrap());
    let (folder, working) = (&room.folder, AtomicUsize::new(3));
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let working = &working;
            scope.spawn(move || {
                for round in 0..100 {
                    let key = key(1 + (thread + round) % 2);
                    let shared = share(folder, &key, BYTES, LONG, &mut write);
                    assert!(shared.is_ok_and(|shared| shared.bytes() == expected()));
                }
                working.fetch_sub(1, Ordering::Relaxed);
            });
        }
        while working.load(Ordering::Relaxed) > 0 {
            sweep(folder).unwrap();
            std::thread::yield_now();
        }
    });
    assert_eq!(room.names(), [""; 0]);
}

/// Claim: a folder or file that is not this user's alone is refused and left as it is; so is a
/// folder that cannot be made. Method: each kind.
#[test]
fn what_is_foreign_is_refused() {
    let room = Room::new();
    let base = room.base.path();
    let refused = |folder: &Path| {
        let error = share(folder, &key(1), BYTES, LONG, &mut write).unwrap_err();
        assert!(matches!(error, HostFileError::Foreign { .. }), "{error}");
    };
    let open = base.join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
    refused(&open);
    assert!(sweep(&open).is_err());
    let ours = base.join("ours");
    drop(share(&ours, &key(2), BYTES, LONG, &mut write).unwrap());
    symlink(&ours, base.join("link")).unwrap();
    refused(&base.join("link"));
    std::fs::write(base.join("file"), "").unwrap();
    refused(&base.join("file"));
    let target = base.join("target");
    std::fs::write(&target, "").unwrap();
    symlink(&target, ours.join(key(1).to_string())).unwrap();
    refused(&ours);
    assert_eq!(std::fs::read(&target).unwrap(), b"");
    let nowhere = base.join("nowhere/values");
    let error = share(&nowhere, &key(1), BYTES, LONG, &mut write).unwrap_err();
    assert!(matches!(error, HostFileError::Io { .. }), "{error}");
}

/// Claim: without memory for the values there is an error before they are computed, and no file.
/// Method: more than any machine has.
#[test]
fn no_room_is_an_error_at_once() {
    let room = Room::new();
    let mut fill = |_: &mut [u8]| panic!("there is no memory to write to");
    let error = share(&room.folder, &key(1), 1 << 50, LONG, &mut fill).unwrap_err();
    assert!(error.to_string().contains("find memory for"), "{error}");
    assert_eq!(room.names(), [""; 0]);
}
