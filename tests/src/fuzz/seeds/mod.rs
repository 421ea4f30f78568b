//! The inputs that mutations start from, made by the same code that writes such bytes in earnest.
//!
//! They lie in `fuzz/corpus/TARGET/` under names that begin with [`PREFIX`], so that any fuzzer can
//! use them; a test compares them with what is made here. Other files there are inputs that were
//! found once, and an identity, whose key no code makes twice.

mod calls;
mod clients;
mod entries;
mod events;
mod executors;
mod files;
mod parts;
mod peers;
mod raft;
mod workers;

pub use files::zip;

/// Beginning of the names of files that are made here.
pub const PREFIX: &str = "seed-";

/// A seed: what it is, in a word, and its bytes.
pub type Seed = (&'static str, Vec<u8>);

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Seed> {
    match target {
        "worker_report" => workers::worker_reports(),
        "worker_command" => workers::worker_commands(),
        "client_request" => clients::client_requests(),
        "client_reply" => clients::client_replies(),
        "executor_command" => executors::executor_commands(),
        "executor_report" => executors::executor_reports(),
        "peer_message" => peers::peer_messages(),
        "peer_reply" => peers::peer_replies(),
        "snapshot_pieces" => peers::snapshots(),
        "raft_message" => raft::raft_messages(),
        "log_record" => raft::logs(),
        "frames" => clients::frames(),
        "batch" => entries::batches(),
        "state" => entries::states(),
        "event" => events::events(),
        "call" => calls::calls(),
        "job_file" => files::job_files(),
        "driver" => files::answers(),
        "text" => files::texts(),
        "cluster_file" => files::cluster_files(),
        "report_file" => files::report_files(),
        "population" => files::populations(),
        "pictures_of_results" => files::results(),
        "npy" => files::arrays(),
        "npz" => files::archives(),
        "idx" => files::idx(),
        "picture" => files::pictures(),
        "weights" => files::weights(),
        "checkpoint" => files::checkpoints(),
        _ => Vec::new(),
    }
}
