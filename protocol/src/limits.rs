//! Every bound on what comes from outside, each checked before memory is taken.

/// A job file.
pub const JOB_FILE_BYTES: usize = 1 << 20;
/// A frame from a client to the coordinator: a job file and room for the rest.
pub const CLIENT_REQUEST_BYTES: usize = JOB_FILE_BYTES + (64 << 10);
/// A frame from the coordinator to a client: a page of events or jobs, or a piece of a blob.
pub const CLIENT_REPLY_BYTES: usize = 4 << 20;
/// A frame from an agent: a batch of results, or the leases that it holds.
pub const WORKER_REPORT_BYTES: usize = 4 << 20;
/// A frame to an agent: a batch of items with their payload.
pub const WORKER_COMMAND_BYTES: usize = 8 << 20;
/// A frame between agent and executor.
pub const EXECUTOR_FRAME_BYTES: usize = 8 << 20;
/// A frame to another coordinator: some messages of Raft.
pub const PEER_MESSAGE_BYTES: usize = 8 << 20;
/// A frame from another coordinator that answers.
pub const PEER_REPLY_BYTES: usize = 64 << 10;
/// A snapshot that a coordinator takes from another.
pub const SNAPSHOT_BYTES: u64 = 2 << 30;
/// Coordinators of one group.
pub const MEMBERS: usize = 9;
/// Where a process listens, as `HOST:PORT`: a name of DNS has at most 253 bytes.
pub const ADDRESS_BYTES: usize = 259;
/// Labels of one job.
pub const LABELS: usize = 32;
/// A label's name.
pub const LABEL_KEY_BYTES: usize = 64;
/// A label's value.
pub const LABEL_BYTES: usize = 1 << 10;
/// Latest requests that labelled a job of which copies are recognized.
pub const LABEL_REQUESTS: usize = 64;
/// A piece of a blob on its way to a client.
pub const BLOB_CHUNK_BYTES: usize = 1 << 20;
/// A whole blob that a client or an agent will take.
pub const BLOB_BYTES: u64 = 8 << 30;
/// A result in the log: integers or the digest of a blob.
pub const RESULT_BYTES: usize = 256;
/// A finished job's summary in the replicated state.
pub const SUMMARY_BYTES: usize = 4 << 10;
/// An item of a map (a chromosome, a task description).
pub const ITEM_BYTES: usize = 64 << 10;
/// Items of one map.
pub const MAP_ITEMS: usize = 1 << 20;
/// A demand's payload.
pub const PAYLOAD_BYTES: usize = 1 << 20;
/// A blob that a driver writes (a generation, a report).
pub const DRIVER_BLOB_BYTES: usize = 16 << 20;
/// Blobs that one demand reads.
pub const INPUTS: usize = 64;
/// Ranks of a gang.
pub const GANG_RANKS: u32 = 4096;
/// Slots of one worker.
pub const WORKER_SLOTS: u32 = 1024;
/// Text of one error, one log line or one name coming from a worker or a client.
pub const TEXT_BYTES: usize = 4 << 10;
/// Log lines kept for each job.
pub const JOB_LOG_LINES: usize = 10_000;
/// Times an item, or a gang without a new checkpoint, may fail before its job fails. What fails for
/// a passing reason (a full disk, no memory) gets three more chances, on other workers if there are
/// any; what always fails is not repeated for long.
pub const FAILURES: u32 = 4;
/// Times an item, or a gang without a new checkpoint, may be lost with a process or a connection
/// before its job fails. The work is not to blame, so this only ends what would never end: far more
/// than a day of restarts loses.
pub const LOSSES: u32 = 1_000;
/// Items of one lease, and outcomes of one report about it.
pub const LEASE_ITEMS: usize = 4_096;
/// Log lines of one report.
pub const REPORT_LINES: usize = 1_000;
/// Leases in a hello. Each counts as 256 bytes and more against the half of a report that they may
/// take together.
pub const HELLO_LEASES: usize = WORKER_REPORT_BYTES / 2 / 256;
/// Items of all leases in a hello: each counts as 10 bytes and more against the same half.
pub const HELLO_ITEMS: usize = WORKER_REPORT_BYTES / 2 / 10;
/// Ranks in a hello: what all slots of a worker run and queue, and results on their way.
pub const HELLO_RANKS: usize = 16 * WORKER_SLOTS as usize;
/// Jobs in one list.
pub const LISTED_JOBS: usize = 4_000;
/// Stages of one job.
pub const STAGES: usize = 64;
/// Artifacts of one job.
pub const ARTIFACTS: usize = 1_024;
/// Demands that a job may have open at once.
pub const DEMANDS: usize = 4_096;
/// Sentences about why a job waits: one for each demand, and some about the cluster.
pub const SENTENCES: usize = DEMANDS + 64;
/// Workers in one list. Names, hosts and classes take some 80 bytes of each, so that a reply has no
/// room for more.
pub const LISTED_WORKERS: usize = CLIENT_REPLY_BYTES / 64;
/// Events or log lines in one reply.
pub const PAGE_ITEMS: usize = 10_000;
/// Coordinators in a list, those included that are on their way out of the group.
pub const LISTED_MEMBERS: usize = 64;
