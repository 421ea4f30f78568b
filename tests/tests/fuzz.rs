//! Every target, a decoder that reads from a network, a disk or a user, stands its corpus and what
//! mutations make of it: no panic, no hang, no more memory than its target says, and what it decodes
//! survives another round.
//!
//! A failure names the input's file and the command that tries it again. `docs/fuzzing.md` is the
//! guide; the variables are
//! - `EVORING_FUZZ_SEED`: decides all mutations;
//! - `EVORING_FUZZ_ROUNDS`: so many times more of them;
//! - `EVORING_FUZZ_INPUT`: a file that is tried instead;
//! - `EVORING_FUZZ_WRITE`: set to 1, the seeds are written rather than compared.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use evoring_tests::fuzz::campaign::{self, Corpus, Fault, Finding, Meter, Plan};
use evoring_tests::fuzz::seeds::{self, PREFIX};
use evoring_tests::fuzz::{PER_BYTE, TARGETS, Target, crowds, target};
use peak_alloc::PeakAlloc;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Seed of a plain test run.
const SEED: u64 = 1;
/// Address space of the test program: an allocation without bound ends it before the machine suffers.
const ADDRESS_BYTES: u64 = 16 << 30;
/// Bytes of all corpora together.
const CORPUS_BYTES: usize = 300_000;

struct Process;

impl Meter for Process {
    fn begin(&self) -> usize {
        MEMORY.reset_peak_usage();
        MEMORY.current_usage()
    }

    fn peak(&self) -> usize {
        MEMORY.peak_usage()
    }
}

/// The allocator counts for the whole process, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static BOUND: Once = Once::new();
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    BOUND.call_once(|| {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let maximum = getrlimit(Resource::As).maximum;
        let current = Some(maximum.unwrap_or(u64::MAX).min(ADDRESS_BYTES));
        setrlimit(Resource::As, Rlimit { current, maximum }).unwrap();
    });
    guard
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn corpus_folder(name: &str) -> PathBuf {
    checkout().join("fuzz/corpus").join(name)
}

/// Where the input that is being tried lies.
fn last_path(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{variable}={text}: {e}")),
        Err(_) => default,
    }
}

/// Tries a target as this run says.
fn check(name: &str) {
    let _alone = alone();
    let target = target(name).unwrap();
    let plan = Plan {
        seed: number("EVORING_FUZZ_SEED", SEED),
        executions: target.executions * number("EVORING_FUZZ_ROUNDS", 1),
    };
    let (corpus, plan) = match std::env::var("EVORING_FUZZ_INPUT") {
        Ok(path) => (
            vec![(path.clone(), fs::read(path).unwrap())],
            Plan {
                executions: 0,
                ..plan
            },
        ),
        Err(_) => (campaign::corpus(&corpus_folder(name)).unwrap(), plan),
    };
    let path = last_path(name);
    // An input that ends the process (no memory, no stack) is the one that is left here.
    let last = File::create(&path).unwrap();
    if let Some(finding) = campaign::run(&target, &corpus, plan, &last, &Process).unwrap() {
        panic!("{}", told(name, plan.seed, &finding, &path));
    }
}

fn told(name: &str, seed: u64, finding: &Finding, path: &Path) -> String {
    let hexadecimal =
        |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let Finding {
        input,
        origin,
        what,
    } = finding;
    let shown = &input[..input.len().min(256)];
    let cut = if shown.len() < input.len() { "…" } else { "" };
    let test = format!("cargo test --locked -p evoring-tests --test fuzz -- --exact {name}");
    let path = path.display();
    format!(
        "{name}: {origin} ({} bytes): {what:?}\ninput: {}{cut}\n  again: EVORING_FUZZ_INPUT={path} {test}\n  the whole run: EVORING_FUZZ_SEED={seed} {test}\nOnce mended, keep it: cp {path} fuzz/corpus/{name}/found-WORD",
        input.len(),
        hexadecimal(shown),
    )
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            /// Claim: the decoder of this name stands any input.
            /// Method: its corpus, then mutations of it, all decided by one seed.
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        /// Targets that have a test.
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    worker_report worker_command client_request client_reply executor_command executor_report
    peer_message peer_reply snapshot_pieces frames raft_message log_record call driver job_file identity batch state event text cluster_file report_file population
    pictures_of_results npy npz idx picture weights checkpoint
}

/// Claim: every target has a test, a program for libFuzzer, a corpus and a row in the guide.
/// Method: compare the files with the table of targets.
#[test]
fn targets_are_complete() {
    let _alone = alone();
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(TESTED, names);
    let manifest = fs::read_to_string(checkout().join("fuzz/Cargo.toml")).unwrap();
    let guide = fs::read_to_string(checkout().join("docs/fuzzing.md")).unwrap();
    for Target { name, per_byte, .. } in TARGETS {
        let program = fs::read_to_string(checkout().join(format!("fuzz/fuzz_targets/{name}.rs")));
        let expected = format!(
            "#![no_main]\nlibfuzzer_sys::fuzz_target!(|data: &[u8]| evoring_tests::fuzz::{name}(data));\n"
        );
        assert_eq!(program.unwrap(), expected, "{name}");
        let entry = format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n");
        assert!(manifest.contains(&entry), "fuzz/Cargo.toml lacks {name}");
        let row = guide
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")));
        let limit = format!("| {per_byte} × ");
        assert!(
            row.is_some_and(|row| row.contains(&limit)),
            "docs/fuzzing.md: {name}: {limit}"
        );
    }
    let listed = |folder: &str, end: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(checkout().join("fuzz").join(folder)).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(end).unwrap_or(&name).to_owned()
        };
        entries.map(name).collect()
    };
    let all: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(listed("fuzz_targets", ".rs"), all);
    assert_eq!(listed("corpus", ""), all);
}

/// Claim: the seeds in the corpus are what today's code writes, and the corpus is small.
/// Method: make them again and compare; `EVORING_FUZZ_WRITE=1` writes them.
#[test]
fn seeds_are_current() {
    let _alone = alone();
    let mut bytes = 0;
    for Target { name, .. } in TARGETS {
        let folder = corpus_folder(name);
        let made = seeds::of(name);
        let mut made: Corpus = made
            .into_iter()
            .map(|(word, bytes)| (format!("{PREFIX}{word}"), bytes))
            .collect();
        made.sort();
        if std::env::var_os("EVORING_FUZZ_WRITE").is_some() {
            fs::create_dir_all(&folder).unwrap();
            let old = campaign::corpus(&folder).unwrap();
            for (file, _) in old.iter().filter(|(file, _)| file.starts_with(PREFIX)) {
                fs::remove_file(folder.join(file)).unwrap();
            }
            for (file, bytes) in &made {
                fs::write(folder.join(file), bytes).unwrap();
            }
        }
        let corpus = campaign::corpus(&folder).unwrap();
        assert!(!corpus.is_empty(), "{name}");
        // What libFuzzer added here has a digest for its name, and is not checked in.
        let is_kept = |file: &str| file.contains('-');
        let kept = corpus.iter().filter(|(file, _)| is_kept(file));
        bytes += kept.map(|(_, bytes)| bytes.len()).sum::<usize>();
        let kept: Corpus = corpus
            .into_iter()
            .filter(|(file, _)| file.starts_with(PREFIX))
            .collect();
        let names = |corpus: &Corpus| -> Vec<String> {
            corpus.iter().map(|(file, _)| file.clone()).collect()
        };
        assert_eq!(names(&kept), names(&made), "fuzz/corpus/{name}");
        for ((file, kept), (_, made)) in kept.iter().zip(&made) {
            assert!(
                kept == made,
                "fuzz/corpus/{name}/{file} is not what today's code writes. If the format changed, so did its version; then: EVORING_FUZZ_WRITE=1 cargo test --locked -p evoring-tests --test fuzz -- --exact seeds_are_current"
            );
        }
    }
    assert!(bytes < CORPUS_BYTES, "{bytes} bytes of corpora");
}

/// Claim: inputs as large as they may be, of as many small parts as fit, take no more memory for each
/// byte than small ones, and no more than a second.
/// Method: every crowd, once.
#[test]
fn crowds_are_stood() {
    let _alone = alone();
    for (name, what, input) in crowds::all() {
        let path = last_path(name);
        let last = File::create(&path).unwrap();
        let fault = campaign::attempt(&target(name).unwrap(), &input, &last, &Process).unwrap();
        if let Some(fault) = fault {
            let origin = format!("crowd of {what}");
            let finding = Finding {
                input,
                origin,
                what: fault,
            };
            panic!("{}", told(name, SEED, &finding, &path));
        }
    }
}

/// Runs a decoder that is known to be bad; what the harness says about it.
fn findings_of(run: fn(&[u8]), corpus: &[u8]) -> Option<Finding> {
    let target = Target {
        name: "planted",
        run,
        per_byte: PER_BYTE,
        constant: 1 << 16,
        executions: 20_000,
    };
    let last = File::create(last_path("planted")).unwrap();
    let corpus = vec![("seed".to_owned(), corpus.to_vec())];
    let plan = Plan {
        seed: SEED,
        executions: target.executions,
    };
    let finding = campaign::run(&target, &corpus, plan, &last, &Process).unwrap();
    if let Some(finding) = &finding {
        // It can be tried again.
        let again = campaign::attempt(&target, &finding.input, &last, &Process).unwrap();
        assert!(again.is_some(), "{finding:?}");
        assert_eq!(fs::read(last_path("planted")).unwrap(), finding.input);
    }
    finding
}

/// Claim: the harness bites: it finds a panic, memory taken on the word of a length, and a decoder
/// that takes too long, and nothing where nothing is wrong.
/// Method: four small decoders of the same records, three of them with a planted defect that the
/// seed alone does not show.
#[test]
fn planted_defects_are_found() {
    /// Tag, length (4 bytes), content.
    const RECORD: &[u8] = &[7, 3, 0, 0, 0, 1, 2, 3];
    fn parts(data: &[u8]) -> Option<(u8, usize, &[u8])> {
        let ([tag, a, b, c, d], content) = data.split_first_chunk()?;
        Some((*tag, u32::from_le_bytes([*a, *b, *c, *d]) as usize, content))
    }
    fn good(data: &[u8]) {
        if let Some((_, length, content)) = parts(data) {
            assert!(content.get(..length).unwrap_or_default().to_vec().len() <= data.len());
        }
    }
    fn panics(data: &[u8]) {
        if let Some((tag, _, [1, content @ ..])) = parts(data) {
            assert!(!(tag > 7 && content.len() == 3), "planted");
        }
    }
    fn reserves(data: &[u8]) {
        if let Some((7, length, content)) = parts(data) {
            let mut kept = Vec::with_capacity(length.min(1 << 30));
            kept.extend_from_slice(content);
            assert!(kept.capacity() >= content.len());
        }
    }
    fn is_slow(data: &[u8]) {
        if let Some((_, length, _)) = parts(data)
            && length > 1 << 16
        {
            let began = std::time::Instant::now();
            while began.elapsed().as_millis() < 1_100 {
                std::hint::black_box(length);
            }
        }
    }
    let _alone = alone();
    assert_eq!(findings_of(good, RECORD), None);
    let panic = findings_of(panics, RECORD).unwrap();
    assert_eq!(panic.what, Fault::Panic("planted".to_owned()));
    let memory = findings_of(reserves, RECORD).unwrap();
    assert!(
        matches!(memory.what, Fault::Memory { peak, most } if peak > most),
        "{memory:?}"
    );
    let slow = findings_of(is_slow, RECORD).unwrap();
    assert!(matches!(slow.what, Fault::Slow(_)), "{slow:?}");
    let told = told("planted", SEED, &panic, Path::new("last"));
    assert!(told.contains("EVORING_FUZZ_INPUT=last cargo test") && told.contains("input: "));
}
