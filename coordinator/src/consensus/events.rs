//! What consensus is told, and what it wants done.

use super::UNCOMMITTED_BYTES;
use super::membership::Goal;
use super::validate::Rejection;
use crate::storage::LogWrite;
use raft::eraftpb::{ConfState, Message};
use std::collections::BTreeMap;

/// What happens to consensus.
#[derive(Debug)]
pub enum Event {
    /// Time passes; every [`super::TICK_MS`].
    Tick,
    /// Become leader now if possible; for a group of one, at its start.
    Campaign,
    /// Put a command into the log.
    Propose {
        /// Names the proposal in [`Action::Refused`] and [`Committed::proposal`].
        token: u64,
        /// The command.
        data: Vec<u8>,
    },
    /// The write of this token, and all before it, are durable.
    Persisted {
        /// Token of [`Action::Persist`].
        token: u64,
    },
    /// The state machine has applied entries up to here.
    Applied {
        /// Index of the last.
        index: u64,
    },
    /// The state machine's encoded state at an applied index; replaces the log up to there.
    Snapshot {
        /// Last index that it contains.
        index: u64,
        /// The encoded state.
        data: Vec<u8>,
    },
    /// Another coordinator says something. A snapshot is complete.
    Receive {
        /// Who, as its connection says.
        from: u64,
        /// What.
        message: Box<Message>,
    },
    /// Somebody wants to read what is committed by now.
    Read {
        /// Names the read.
        token: u64,
    },
    /// Who shall be in the group, as of what is applied.
    Members(BTreeMap<u64, Goal>),
    /// What became of a snapshot on its way.
    SnapshotSent {
        /// To whom.
        to: u64,
        /// Whether it arrived.
        arrived: bool,
    },
    /// Messages to this node are lost.
    Unreachable {
        /// Which.
        id: u64,
    },
    /// Give leadership to somebody else, if this node has it and anybody can take it.
    HandOver,
    /// This node shall not lead, and this one shall.
    HandOverTo {
        /// Which.
        id: u64,
    },
    /// This process did not run for so long that workers may have lost it, and it them: a leader gives
    /// up its office, and takes the next one, if it gets it, as any new leader does.
    Paused,
}

/// A committed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Its proposal, if this process proposed it.
    pub proposal: Option<u64>,
    /// The command; empty for entries of Raft's own.
    pub data: Vec<u8>,
}

/// What consensus wants done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Write and sync, then report [`Event::Persisted`].
    Persist {
        /// Names the write; tokens grow.
        token: u64,
        /// What to write.
        write: LogWrite,
    },
    /// Send to another voter.
    Send(Box<Message>),
    /// Send the newest stored snapshot to another node, in this message, whose snapshot lacks its
    /// state; then report [`Event::SnapshotSent`].
    SendSnapshot(Box<Message>),
    /// A new member waits for a snapshot that knows it: take one at this index or a later one.
    WantSnapshot {
        /// The change that made it a member.
        index: u64,
    },
    /// Apply, in order.
    Apply(Vec<Committed>),
    /// Replace the state by this one, then report [`Event::Applied`].
    Install {
        /// Last index that it contains.
        index: u64,
        /// Term of that index.
        term: u64,
        /// The encoded state.
        data: Vec<u8>,
    },
    /// The read may be answered once everything up to `index` is applied.
    ReadReady {
        /// Which.
        token: u64,
        /// What it must see.
        index: u64,
    },
    /// This node cannot tell what is committed: it does not lead.
    ReadFailed {
        /// Which.
        token: u64,
    },
    /// The membership in force.
    Membership(ConfState),
    /// Who leads now, if that is known.
    Leader(Option<u64>),
    /// A message of another coordinator was not taken.
    Rejected(Rejection),
    /// This node must stop for good, for this reason.
    Stop(StopReason),
    /// This node leads since this term. Its state is complete once an entry of that term has
    /// been applied.
    Elected {
        /// The term.
        term: u64,
    },
    /// This node no longer leads.
    SteppedDown,
    /// The proposal is not in the log and never will be.
    Refused {
        /// Which.
        token: u64,
        /// Why.
        reason: Refusal,
    },
}

/// Why a proposal is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node does not lead.
    #[error("this coordinator does not lead")]
    NotLeader,
    /// It takes nothing more for the moment.
    #[error(
        "more than {UNCOMMITTED_BYTES} bytes wait to be committed, or another coordinator is taking the office"
    )]
    NotNow,
}

/// Why a node must not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// The group goes on without it.
    #[error(
        "this coordinator was removed from its group; its folder is of no use any more (to take part \
         again, start with an empty one and `evoring cluster add` it)"
    )]
    Removed,
    /// It forgot what it had acknowledged (`RAFT-5`).
    #[error(
        "{0}: its disk lost what it had confirmed; remove it from the group (`evoring cluster \
         remove`), start it with an empty folder and add it anew"
    )]
    Forgot(Rejection),
    /// The group agreed on a change of membership that cannot be (`RAFT-4`).
    #[error("entry {index} {what}; every coordinator stops there: restore the group from a copy")]
    Membership {
        /// Index of the entry.
        index: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// Who this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeConfig {
    /// Number of the node, not 0.
    pub id: u64,
    /// Random number of this process: proposals of an earlier one are not mistaken for its own.
    pub boot: u64,
    /// Decides the election timeouts.
    pub seed: u64,
}

/// Where another node of the group stands, as the leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerProgress {
    /// Last index that it holds for certain.
    pub matched: u64,
    /// Whether it was heard within the last election timeout.
    pub is_active: bool,
}

/// A log that cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// `raft` refuses the stored state.
    #[error("raft refuses the stored log: {0}")]
    Raft(#[from] raft::Error),
}
