//! Fuzz targets: functions for decoders that read from a network, a disk or a user (`docs/fuzzing.md`
//! names those that have none).
//!
//! A target takes any bytes and must neither panic nor hang; what it decodes it encodes again,
//! decodes that and compares. [`TARGETS`] says how much memory each may hold meanwhile. The same
//! functions run under libFuzzer (`fuzz/`) and as ordinary tests (`tests/fuzz.rs`): [`campaign`]
//! feeds them the corpus and what [`mutate`] makes of it; [`seeds`] writes the corpus, [`crowds`] inputs too large for it.
//! `docs/fuzzing.md` is the guide.

mod artifacts;
pub mod campaign;
mod consensus;
mod coordinator;
pub mod crowds;
mod driver;
mod jobs;
mod kernels;
mod messages;
pub mod mutate;
mod pieces;
pub mod seeds;
mod storage;
mod texts;

pub use artifacts::{cluster_file, pictures_of_results, population, report_file};
pub use consensus::raft_message;
pub use coordinator::{batch, event, state};
pub use driver::driver;
pub use jobs::{call, job_file};
pub use kernels::{checkpoint, idx, npy, npz, picture, weights};
pub use messages::{
    client_reply, client_request, executor_command, executor_report, frames, peer_message,
    peer_reply, worker_command, worker_report,
};
pub use pieces::snapshot_pieces;
pub use storage::log_record;
pub use texts::{identity, text};

/// A decoder under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of the function, of its folder in `fuzz/corpus` and of its test.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]),
    /// Bytes of memory that it may hold at its peak for each byte of input …
    pub per_byte: usize,
    /// … and in any case.
    pub constant: usize,
    /// Inputs that one test run makes; fewer where one takes longer.
    pub executions: u64,
}

/// What an input may take where nothing else is said: goal G10 of the test plan.
pub const PER_BYTE: usize = 16;
/// Whatever a worker lists is few of it: the bytes, what was read of them, and both once more.
const PER_REPORTED_BYTE: usize = 4;
/// Deflate and gzip pack at most 1,032 bytes into one; what was unpacked is held up to six times: a
/// buffer that grows, and its values in the order of the network.
const PER_PACKED_BYTE: usize = 6 * 1_032;
/// What a worker may take for the word of a coordinator, which is trusted with more. (What workers
/// answer to calls is at most 256 bytes long.)
const PER_TRUSTED_BYTE: usize = 100;
/// What a coordinator takes from its own log or from another one: an entry has 3 bytes there and 88 in
/// memory, and is held in a list that grows, in the log, and on its way to the disk.
const PER_LOGGED_BYTE: usize = 600;
/// Files of results and weights, which are the user's own: a number of two characters becomes a filter
/// of 60 characters in a picture, or a size of 8 bytes in a list that grows.
const PER_OWN_BYTE: usize = 64;
/// Small reserves: messages of errors, a reader's buffer, a test program's own threads.
const SMALL: usize = 64 << 10;
/// serde reserves at most this for a sequence, on the word of its length alone; messages nest three.
const RESERVES: usize = 3 << 20;

/// A list of all workers of the largest cluster, while it grows.
const LISTS: usize = 24 << 20;

/// Every target, network first.
pub const TARGETS: &[Target] = &[
    loose(
        "worker_report",
        worker_report,
        PER_REPORTED_BYTE,
        RESERVES,
        40_000,
    ),
    strict("worker_command", worker_command, RESERVES, 60_000),
    strict("client_request", client_request, SMALL, 40_000),
    strict("client_reply", client_reply, LISTS, 60_000),
    strict("executor_command", executor_command, RESERVES, 40_000),
    loose(
        "executor_report",
        executor_report,
        PER_REPORTED_BYTE,
        RESERVES,
        40_000,
    ),
    strict("peer_message", peer_message, RESERVES, 40_000),
    strict("peer_reply", peer_reply, SMALL, 40_000),
    strict("snapshot_pieces", snapshot_pieces, RESERVES, 20_000),
    strict("frames", frames, SMALL, 40_000),
    loose(
        "raft_message",
        raft_message,
        PER_LOGGED_BYTE,
        1 << 20,
        6_000,
    ),
    // redb's file and its pages in memory.
    loose("log_record", log_record, PER_LOGGED_BYTE, 64 << 20, 2_000),
    loose("call", call, PER_TRUSTED_BYTE, RESERVES, 40_000),
    strict("driver", driver, 256 << 10, 2_000),
    // As many words and signs as a job file may have.
    strict("job_file", job_file, 20 << 20, 4_000),
    strict("identity", identity, SMALL, 4_000),
    strict("batch", batch, RESERVES, 40_000),
    strict("state", state, RESERVES, 40_000),
    strict("event", event, SMALL, 40_000),
    strict("text", text, SMALL, 40_000),
    // The file has at most 64 KiB; a name of no letters takes three of them and 24 bytes in memory.
    strict("cluster_file", cluster_file, 2 << 20, 40_000),
    loose("report_file", report_file, PER_OWN_BYTE, SMALL, 4_000),
    strict("population", population, SMALL, 40_000),
    // A picture has at most 200,000 filters, which a few characters of a file can ask for.
    loose(
        "pictures_of_results",
        pictures_of_results,
        PER_OWN_BYTE,
        48 << 20,
        8_000,
    ),
    strict("npy", npy, SMALL, 6_000),
    loose("npz", npz, PER_PACKED_BYTE, 256 << 10, 8_000),
    loose("idx", idx, PER_PACKED_BYTE, 256 << 10, 8_000),
    // A small picture may be as empty as it likes.
    loose("picture", picture, PER_PACKED_BYTE, 16 << 20, 3_000),
    loose("weights", weights, PER_OWN_BYTE, SMALL, 4_000),
    loose("checkpoint", checkpoint, PER_OWN_BYTE, SMALL, 2_000),
];

/// A target that takes [`PER_BYTE`] bytes for each byte, and `constant`.
const fn strict(name: &'static str, run: fn(&[u8]), constant: usize, executions: u64) -> Target {
    Target {
        name,
        run,
        per_byte: PER_BYTE,
        constant,
        executions,
    }
}

/// A target that takes another number of bytes for each byte.
const fn loose(
    name: &'static str,
    run: fn(&[u8]),
    per_byte: usize,
    constant: usize,
    executions: u64,
) -> Target {
    Target {
        per_byte,
        ..strict(name, run, constant, executions)
    }
}

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}
