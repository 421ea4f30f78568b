//! What another coordinator may say, checked before `raft` sees it: `raft` panics on what it does
//! not expect, and takes a message of term 0 for its own.

use super::view::LogView;
use raft::eraftpb::{Message, MessageType};

/// Bytes of the entries of one message; the sender keeps far below, but one entry may be long.
const ENTRIES_BYTES: usize = evoring_protocol::peer::RAFT_MESSAGE_BYTES;
/// Terms grow by one an election; more than this at once comes from no working coordinator.
const TERM_JUMP: u64 = 1 << 32;
/// Bytes of the context of a message.
const CONTEXT_BYTES: usize = 64;

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It claims another sender than its certificate.
    #[error("sent by {from}, but says that it is from {claimed}")]
    Sender {
        /// Id of the sender, as its connection says.
        from: u64,
        /// Id in the message.
        claimed: u64,
    },
    /// It is for somebody else.
    #[error("for {to}, not for {id}")]
    Receiver {
        /// Id in the message.
        to: u64,
        /// This node.
        id: u64,
    },
    /// Only a node itself says such a thing, or followers that forward, which ours never do.
    #[error("{0:?} is not for other coordinators")]
    Kind(MessageType),
    /// Its term is impossible.
    #[error("term {got}, while this coordinator is in term {own}")]
    Term {
        /// In the message.
        got: u64,
        /// Here.
        own: u64,
    },
    /// It is too large.
    #[error("{what} of {got} bytes, at most {limit} are allowed")]
    Size {
        /// Which part.
        what: &'static str,
        /// Its size.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// Indices or terms of its entries contradict each other or what is committed here.
    #[error("{0}")]
    Entries(String),
    /// It proves that this node forgot what it had acknowledged.
    #[error(
        "this coordinator acknowledged the log up to {acknowledged}, but holds it only up to {last}"
    )]
    LogTooShort {
        /// What the leader was told.
        acknowledged: u64,
        /// What is here.
        last: u64,
    },
}

/// What a message is held against.
pub(super) struct Own<'a> {
    pub id: u64,
    pub term: u64,
    pub committed: u64,
    pub last: u64,
    pub log: &'a LogView,
}

impl Own<'_> {
    /// Checks a message that came over the connection of `from`.
    pub(super) fn check(&self, from: u64, message: &Message) -> Result<(), Rejection> {
        if message.from != from || from == 0 || from == self.id {
            let claimed = message.from;
            return Err(Rejection::Sender { from, claimed });
        }
        if message.to != self.id {
            let (to, id) = (message.to, self.id);
            return Err(Rejection::Receiver { to, id });
        }
        if message.term == 0 || message.term > self.term.saturating_add(TERM_JUMP) {
            let (got, own) = (message.term, self.term);
            return Err(Rejection::Term { got, own });
        }
        check_sizes(message)?;
        match message.msg_type() {
            MessageType::MsgAppend => self.check_append(message),
            MessageType::MsgHeartbeat => self.check_heartbeat(message),
            MessageType::MsgSnapshot => self.check_snapshot(message),
            MessageType::MsgAppendResponse => self.check_acknowledgement(message),
            MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgTimeoutNow => check_is_bare(message),
            other => Err(Rejection::Kind(other)),
        }
    }

    fn check_append(&self, message: &Message) -> Result<(), Rejection> {
        let mut before = (message.index, message.log_term);
        for entry in &message.entries {
            let follows = Some(entry.index) == before.0.checked_add(1);
            if !follows || entry.term < before.1 || entry.term > message.term || entry.term == 0 {
                return Err(Rejection::Entries(format!(
                    "entry {} of term {} after entry {} of term {} in a message of term {}",
                    entry.index, entry.term, before.0, before.1, message.term
                )));
            }
            let committed = (entry.index <= self.committed)
                .then(|| self.log.known_term(entry.index))
                .flatten();
            if committed.is_some_and(|term| term != entry.term) && message.index <= self.committed {
                return Err(Rejection::Entries(format!(
                    "entry {} of term {} would replace a committed one",
                    entry.index, entry.term
                )));
            }
            before = (entry.index, entry.term);
        }
        Ok(())
    }

    /// A leader names no commit beyond what this node acknowledged to it in its term.
    fn check_heartbeat(&self, message: &Message) -> Result<(), Rejection> {
        check_is_bare(message)?;
        if message.term >= self.term && message.commit > self.last {
            return Err(Rejection::LogTooShort {
                acknowledged: message.commit,
                last: self.last,
            });
        }
        Ok(())
    }

    fn check_snapshot(&self, message: &Message) -> Result<(), Rejection> {
        let snapshot = message.snapshot.as_ref();
        let Some(metadata) = snapshot.and_then(|snapshot| snapshot.metadata.as_ref()) else {
            return Err(Rejection::Entries("a snapshot without its place".into()));
        };
        let voters = metadata
            .conf_state
            .as_ref()
            .map_or(0, |membership| membership.voters.len());
        if metadata.index == 0
            || metadata.term == 0
            || metadata.term > message.term
            || voters == 0
            || !message.entries.is_empty()
        {
            return Err(Rejection::Entries(format!(
                "a snapshot at index {} of term {} with {voters} voters in a message of term {}",
                metadata.index, metadata.term, message.term
            )));
        }
        Ok(())
    }

    fn check_acknowledgement(&self, message: &Message) -> Result<(), Rejection> {
        check_is_bare(message)?;
        if !message.reject && message.term == self.term && message.index > self.last {
            return Err(Rejection::Entries(format!(
                "acknowledges the log up to {}, which ends at {}",
                message.index, self.last
            )));
        }
        Ok(())
    }
}

fn check_sizes(message: &Message) -> Result<(), Rejection> {
    let entries = message
        .entries
        .iter()
        .map(|entry| entry.data.len() + entry.context.len())
        .sum();
    for (what, got, limit) in [
        ("entries", entries, ENTRIES_BYTES),
        ("a context", message.context.len(), CONTEXT_BYTES),
    ] {
        if got > limit {
            return Err(Rejection::Size { what, got, limit });
        }
    }
    Ok(())
}

/// No entries, no snapshot, and no request for one, which followers of ours never make.
fn check_is_bare(message: &Message) -> Result<(), Rejection> {
    if message.entries.is_empty() && message.request_snapshot == 0 {
        return Ok(());
    }
    Err(Rejection::Entries(format!(
        "a {:?} with {} entries and request_snapshot {}",
        message.msg_type(),
        message.entries.len(),
        message.request_snapshot
    )))
}
