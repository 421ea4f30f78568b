//! Messages between a client (the command line) and the coordinator: one request or several on a
//! stream, each answered before the next is read; only the last may have several replies.

use crate::bounded::{at_most, bytes};
use crate::event::{Event, GenerationSummary};
use crate::limits::{
    ADDRESS_BYTES, ARTIFACTS, CLIENT_REPLY_BYTES, LABELS, LISTED_JOBS, LISTED_MEMBERS,
    LISTED_WORKERS, PAGE_ITEMS, SENTENCES, STAGES,
};
use crate::peer::PeerHealth;
use crate::work::TrainingProgress;
use crate::{Digest, JobId, RemoteError, RequestKey, SubmissionKey, WorkerId};
use serde::{Deserialize, Serialize};

/// What a client asks.
#[expect(
    missing_docs,
    reason = "fields of one id or flag are named as they read"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientRequest {
    /// Accept a job. Reply: [`ClientReply::Submitted`].
    Submit {
        /// Makes a repeated submission harmless.
        key: SubmissionKey,
        /// Name of the job file, for messages.
        file: String,
        /// The job file.
        text: String,
        /// Refuse a job whose gangs need more slots than there are (`run`), or queue it (`submit`).
        refuse_unless_fits: bool,
    },
    /// All jobs. Reply: [`ClientReply::Jobs`].
    Jobs,
    /// One job. Reply: [`ClientReply::Job`].
    Show { job: JobId },
    /// Why a job waits. Reply: [`ClientReply::Explanation`].
    Explain { job: JobId },
    /// Stop a job. Reply: [`ClientReply::Done`].
    Cancel { job: JobId },
    /// Lines of a job. Replies: [`ClientReply::LogLines`] until the end of the stream.
    Logs { job: JobId, follow: bool },
    /// Events. Replies: [`ClientReply::Events`] until the end of the stream.
    Events {
        /// Number of the first wanted, in the file of the coordinator `of`.
        from: u64,
        /// Go on with new ones.
        follow: bool,
        /// Whose numbers these are: another coordinator numbers its events differently, and sends
        /// those after the log entry `after`. Absent: the answering one's.
        of: Option<EventsPlace>,
    },
    /// A job's state, several times a second until it ends. Replies: [`ClientReply::Job`].
    Follow { job: JobId },
    /// All workers. Reply: [`ClientReply::Workers`].
    Workers,
    /// A blob. Replies: [`ClientReply::BlobStart`], then [`ClientReply::BlobChunk`] to its end.
    Blob { digest: Digest },
    /// The coordinator itself. Reply: [`ClientReply::Status`].
    Status,
    /// [`ClientRequest::LabelOnce`] of protocol 3: a late copy may undo what another client set.
    Label {
        job: JobId,
        /// At most [`crate::limits::LABEL_KEY_BYTES`].
        key: String,
        /// At most [`crate::limits::LABEL_BYTES`].
        value: String,
    },
    /// The group of coordinators, as this one knows it; answered by any. Reply:
    /// [`ClientReply::Cluster`].
    Cluster,
    /// Add a coordinator process, which waits at `address`, to the group. Reply:
    /// [`ClientReply::MemberAdded`].
    AddMember {
        /// Name in its certificate.
        name: String,
        /// `HOST:PORT`.
        address: String,
    },
    /// Remove a coordinator from the group. Reply: [`ClientReply::Done`].
    RemoveMember { id: u64 },
    /// Make another coordinator the leader, for maintenance. Reply: [`ClientReply::Done`].
    TransferLeadership,
    /// Attach a label to a job, or replace its value; a copy that comes later changes nothing. Reply:
    /// [`ClientReply::Done`]. Since protocol 4.
    LabelOnce {
        job: JobId,
        /// At most [`crate::limits::LABEL_KEY_BYTES`].
        key: String,
        /// At most [`crate::limits::LABEL_BYTES`].
        value: String,
        /// Of this request and all its copies.
        request: RequestKey,
    },
}

impl ClientRequest {
    /// Whether it may have more than one reply, and so must be the last one of its stream.
    pub fn has_many_replies(&self) -> bool {
        matches!(
            self,
            Self::Logs { .. } | Self::Events { .. } | Self::Follow { .. } | Self::Blob { .. }
        )
    }
}

/// How far a client has come in the events of one coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsPlace {
    /// Name of that coordinator.
    pub coordinator: String,
    /// Index of the last log entry whose events came.
    pub after: u64,
}

/// What the coordinator answers.
#[expect(
    missing_docs,
    reason = "fields of one id or flag are named as they read"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ClientReply {
    /// The job is durable.
    Submitted { job: JobId, already_known: bool },
    /// All jobs, by id, at most [`LISTED_JOBS`]: the newest.
    Jobs(#[serde(deserialize_with = "at_most::<_, _, LISTED_JOBS>")] Vec<JobView>),
    /// One job.
    Job(Box<JobView>),
    /// Why a job waits, sentence by sentence, at most [`SENTENCES`].
    Explanation(#[serde(deserialize_with = "at_most::<_, _, SENTENCES>")] Vec<String>),
    /// The request is carried out and durable.
    Done,
    /// Some lines, at most [`PAGE_ITEMS`].
    LogLines(#[serde(deserialize_with = "at_most::<_, _, PAGE_ITEMS>")] Vec<LogLine>),
    /// Some events, in the numbers of this coordinator.
    Events {
        /// Its name.
        coordinator: String,
        /// By number, at most [`PAGE_ITEMS`].
        #[serde(deserialize_with = "at_most::<_, _, PAGE_ITEMS>")]
        events: Vec<Event>,
    },
    /// All workers, at most [`LISTED_WORKERS`].
    Workers(#[serde(deserialize_with = "at_most::<_, _, LISTED_WORKERS>")] Vec<WorkerView>),
    /// A blob follows.
    BlobStart { bytes: u64 },
    /// The next piece of at most [`crate::limits::BLOB_CHUNK_BYTES`].
    BlobChunk(
        #[serde(serialize_with = "bytes::serialize")]
        #[serde(deserialize_with = "bytes::at_most::<_, CLIENT_REPLY_BYTES>")]
        Vec<u8>,
    ),
    /// The coordinator itself.
    Status(CoordinatorView),
    /// Refused.
    Error(RemoteError),
    /// This coordinator does not lead; ask that one, or another if none is known.
    NotLeader { leader: Option<LeaderHint> },
    /// The group.
    Cluster(Box<ClusterView>),
    /// The member's id; it takes part once it has caught up.
    MemberAdded { id: u64 },
}

/// Who leads, as a coordinator that does not lead knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderHint {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
}

/// The group of coordinators as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// Name of the coordinator that answers.
    pub answered_by: String,
    /// The group's random number, as text.
    pub group: String,
    /// Version of the replicated records in force.
    pub version: u16,
    /// Current term.
    pub term: u64,
    /// Id of the leader, if one is known.
    pub leader: Option<u64>,
    /// Committed index.
    pub commit: u64,
    /// Members by id; what only a leader knows is absent if a follower answers.
    #[serde(deserialize_with = "at_most::<_, _, LISTED_MEMBERS>")]
    pub members: Vec<MemberView>,
}

/// What a member of the group may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRole {
    /// It leads.
    Leader,
    /// It votes.
    Voter,
    /// It catches up.
    Learner,
    /// It is accepted and not in the group's configuration yet.
    Joining,
    /// It is removed and still in the configuration.
    Leaving,
}

impl MemberRole {
    /// Stable name, as in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Joining => "joining",
            Self::Leaving => "leaving",
        }
    }
}

/// A coordinator of the group as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Number, never used again.
    pub id: u64,
    /// Name in its certificate.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// What it may do.
    pub role: MemberRole,
    /// Last index that it is known to hold.
    pub matched: Option<u64>,
    /// What it last told of itself.
    pub health: Option<PeerHealth>,
    /// Age of that, milliseconds.
    pub heard_ms: Option<u64>,
    /// Why it cannot be talked to.
    pub problem: Option<String>,
}

/// State of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobStatus {
    /// Accepted, nothing runs.
    Queued,
    /// Something runs.
    Running,
    /// Ended with a result.
    Finished,
    /// Ended without one.
    Failed,
    /// Stopped by its owner.
    Cancelled,
}

impl JobStatus {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled)
    }
}

/// A job as people see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// The job.
    pub job: JobId,
    /// Name in the job file.
    pub name: String,
    /// Kind in the job file (`evolve.prune`).
    pub kind: String,
    /// State.
    pub status: JobStatus,
    /// Stage that runs now.
    pub stage: String,
    /// All stages in order.
    #[serde(deserialize_with = "at_most::<_, _, STAGES>")]
    pub stages: Vec<String>,
    /// Replicated time of submission, milliseconds since 1970.
    pub submitted_ms: u64,
    /// Replicated time of the first work.
    pub started_ms: Option<u64>,
    /// Replicated time of the end.
    pub ended_ms: Option<u64>,
    /// Why it failed.
    pub error: Option<String>,
    /// Slots that compute for it now.
    pub slots: u32,
    /// Items of running maps: recorded and in all.
    pub items: (u64, u64),
    /// Evaluations computed.
    pub evaluated: u64,
    /// Evaluations answered from the cache.
    pub cache_hits: u64,
    /// Items and gangs that were run again.
    pub retries: u64,
    /// The gang that trains now: what it trains, and where it stands.
    pub training: Option<(String, TrainingProgress)>,
    /// The latest generation.
    pub generation: Option<GenerationSummary>,
    /// The driver's summary (JSON text) once the job has finished.
    pub summary: Option<String>,
    /// Blobs that the job wrote, by name.
    #[serde(deserialize_with = "at_most::<_, _, ARTIFACTS>")]
    pub artifacts: Vec<(String, Digest)>,
    /// Labels that people or programs attached.
    #[serde(deserialize_with = "at_most::<_, _, LABELS>")]
    pub labels: Vec<(String, String)>,
}

/// A line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Wall clock of the coordinator, milliseconds since 1970.
    pub time_ms: u64,
    /// Who wrote it.
    pub worker: Option<WorkerId>,
    /// The text.
    pub text: String,
}

/// A worker as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Name.
    pub worker: WorkerId,
    /// Whether its session stands.
    pub connected: bool,
    /// Process id of the agent.
    pub process: u32,
    /// Process ids of the executors by slot.
    pub executors: Vec<u32>,
    /// Host.
    pub host: String,
    /// Slots.
    pub slots: u32,
    /// Slots that run a lease or a rank.
    pub busy: u32,
    /// Numerics class.
    pub numerics: String,
    /// Address of its metrics.
    pub metrics: Option<String>,
}

/// The coordinator as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorView {
    /// [`crate::version::build_id`].
    pub build: String,
    /// Process id.
    pub process: u32,
    /// Term.
    pub term: u64,
    /// Applied index.
    pub applied: u64,
    /// Why it only reads, if it does.
    pub read_only: Option<String>,
    /// Where it serves metrics.
    pub metrics: Option<String>,
}

/// Whether this is an address as `HOST:PORT`, or `[IPV6]:PORT`.
pub fn is_address(text: &str) -> bool {
    text.len() <= ADDRESS_BYTES
        && text.rsplit_once(':').is_some_and(|(host, port)| {
            let is_ipv6 = host.starts_with('[') && host.ends_with(']');
            let is_host = !host.is_empty() && (is_ipv6 || !host.contains(':'));
            let has_space = host.chars().any(|c| c.is_whitespace() || c.is_control());
            is_host && !has_space && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: what names a host and a port is an address, and nothing else.
    /// Method: some of both.
    #[test]
    fn addresses() {
        let longest = "h".repeat(ADDRESS_BYTES - 6);
        for good in ["a:1", "10.0.0.1:7400", "host-d.example:65535", "[::1]:7400"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "", "a", ":1", "a:", "a:0", "a:65536", "::1", "::1:7400", "a b:1", "a:1 ",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
        assert!(is_address(&format!("{longest}:65535")));
        assert!(!is_address(&format!("{longest}h:65535")));
    }
}
