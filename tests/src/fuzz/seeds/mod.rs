//! The inputs that mutations start from, made by the same code that writes such bytes in earnest.
//!
//! They lie in `fuzz/corpus/TARGET/` under names that begin with [`PREFIX`], so that any fuzzer can
//! use them; a test compares them with what is made here. Other files there are inputs that were
//! found once, and an identity, whose key no code makes twice.

mod files;
mod raft;
mod values;

pub use files::zip;

/// Beginning of the names of files that are made here.
pub const PREFIX: &str = "seed-";

/// A seed: what it is, in a word, and its bytes.
pub type Seed = (&'static str, Vec<u8>);

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Seed> {
    match target {
        "worker_report" => values::worker_reports(),
        "worker_command" => values::worker_commands(),
        "client_request" => values::client_requests(),
        "client_reply" => values::client_replies(),
        "executor_command" => values::executor_commands(),
        "executor_report" => values::executor_reports(),
        "peer_message" => values::peer_messages(),
        "peer_reply" => values::peer_replies(),
        "raft_message" => raft::raft_messages(),
        "log_record" => raft::logs(),
        "frames" => values::frames(),
        "batch" => values::batches(),
        "state" => values::states(),
        "event" => values::events(),
        "call" => values::calls(),
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
