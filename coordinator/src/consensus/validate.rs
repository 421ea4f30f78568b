//! What another coordinator may say, checked before `raft` sees it: `raft` panics on what it does
//! not expect, and takes a message of term 0 for its own.

use super::membership;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

/// Bytes of the entries of one message; the sender keeps far below, but one entry may be long.
const ENTRIES_BYTES: usize = evoring_protocol::peer::RAFT_MESSAGE_BYTES;
/// Terms grow by one an election; more than this at once comes from no working coordinator.
const TERM_JUMP: u64 = 1 << 32;
/// Bytes of the context of a message.
const CONTEXT_BYTES: usize = 64;
/// Far more than a log will ever have, and far enough from where numbers end.
const MOST_INDEX: u64 = 1 << 62;

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// What is wrong with a coordinator's message of this kind.
    #[error("a {kind:?} of coordinator {from}: {problem}")]
    Message {
        /// Who sent it, as its connection says.
        from: u64,
        /// Its kind.
        kind: MessageType,
        /// What is wrong.
        problem: Box<Rejection>,
    },
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

impl Rejection {
    /// Who sent the message, as its connection says; unknown for [`Rejection::LogTooShort`].
    pub fn sender(&self) -> Option<u64> {
        match self {
            Self::Message { from, .. } => Some(*from),
            _ => None,
        }
    }
}

/// What a message is held against.
pub(super) struct Own<'a> {
    pub id: u64,
    pub leads: bool,
    pub campaigns: bool,
    pub term: u64,
    pub committed: u64,
    pub last: u64,
    /// How far the log is durable.
    pub persisted: u64,
    /// The term of an entry that this node has, durable or not.
    pub known_term: &'a dyn Fn(u64) -> Option<u64>,
}

impl Own<'_> {
    /// Checks a message that came over the connection of `from`.
    pub(super) fn check(&self, from: u64, message: &Message) -> Result<(), Rejection> {
        self.verdict(from, message)
            .map_err(|problem| match problem {
                Rejection::LogTooShort { .. } => problem,
                _ => Rejection::Message {
                    from,
                    kind: message.msg_type(),
                    problem: Box::new(problem),
                },
            })
    }

    fn verdict(&self, from: u64, message: &Message) -> Result<(), Rejection> {
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
            MessageType::MsgRequestVoteResponse => self.check_vote(message),
            MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgTimeoutNow => check_is_bare(message),
            other => Err(Rejection::Kind(other)),
        }
    }

    fn check_append(&self, message: &Message) -> Result<(), Rejection> {
        let mut before = (message.index, message.log_term);
        // A log begins after index 1 of term 1, and `raft` takes term 0 for whatever it lacks.
        if before.0 == 0 || before.0 > MOST_INDEX || before.1 == 0 || before.1 > message.term {
            return Err(Rejection::Entries(format!(
                "entries after entry {} of term {} in a message of term {}",
                before.0, before.1, message.term
            )));
        }
        for entry in &message.entries {
            let follows = Some(entry.index) == before.0.checked_add(1);
            if !follows || entry.term < before.1 || entry.term > message.term || entry.term == 0 {
                return Err(Rejection::Entries(format!(
                    "entry {} of term {} after entry {} of term {} in a message of term {}",
                    entry.index, entry.term, before.0, before.1, message.term
                )));
            }
            // An older leader may have had other plans; what it says is too late anyway.
            let committed = (entry.index <= self.committed && message.term >= self.term)
                .then(|| (self.known_term)(entry.index))
                .flatten();
            if committed.is_some_and(|term| term != entry.term) && message.index <= self.committed {
                return Err(Rejection::Entries(format!(
                    "entry {} of term {} would replace a committed one",
                    entry.index, entry.term
                )));
            }
            check_kind(entry)?;
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
        let members = metadata.conf_state.clone().unwrap_or_default();
        if metadata.index == 0
            || metadata.index > MOST_INDEX
            || metadata.term == 0
            || metadata.term > message.term
            || !message.entries.is_empty()
        {
            return Err(Rejection::Entries(format!(
                "a snapshot at index {} of term {} with {} entries in a message of term {}",
                metadata.index,
                metadata.term,
                message.entries.len(),
                message.term
            )));
        }
        membership::check(&members)
            .map_err(|what| Rejection::Entries(format!("a snapshot whose membership {what}")))
    }

    /// Votes are asked for once the log is durable, so an earlier one answers nothing.
    fn check_vote(&self, message: &Message) -> Result<(), Rejection> {
        check_is_bare(message)?;
        // One that won already, or gave up, hears the votes that come late and ignores them.
        let is_heard = self.campaigns && message.term == self.term && !message.reject;
        if is_heard && self.persisted < self.last {
            return Err(Rejection::Entries(format!(
                "a vote that was not asked for: the log ends at {} and is durable up to {}",
                self.last, self.persisted
            )));
        }
        Ok(())
    }

    fn check_acknowledgement(&self, message: &Message) -> Result<(), Rejection> {
        check_is_bare(message)?;
        // One that led may have lost what it had sent before it was durable; it leads no more in that
        // term, and what comes late to it is not heard.
        let is_heard = self.leads && message.term == self.term;
        // A hint is where the sender's log ends, or before that, if it is shorter than what was sent.
        let most = message.index.max(message.reject_hint);
        if is_heard && most > self.last {
            return Err(Rejection::Entries(format!(
                "acknowledges the log up to {most}, which ends at {}",
                self.last
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

/// An entry of a known kind; a change of membership can be decoded.
fn check_kind(entry: &Entry) -> Result<(), Rejection> {
    let outcome = match EntryType::from_i32(entry.entry_type) {
        Some(EntryType::EntryNormal) => return Ok(()),
        Some(_) => membership::decoded(entry).map(drop),
        None => Err(format!("is of the unknown kind {}", entry.entry_type)),
    };
    outcome.map_err(|what| Rejection::Entries(format!("entry {} {what}", entry.index)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index,
            term,
            ..Entry::default()
        }
    }

    /// Claim: what comes late is not suspicious: an acknowledgement of what a leader had sent and lost
    /// by a crash before it was durable, and an older leader's plans for entries that were committed
    /// otherwise. The same to a leader in office, or from one, is.
    /// Method: messages held against a node in term 5 whose log ends at 2, all of it committed.
    #[test]
    fn late_messages_are_not_suspicious() {
        let known_term = |index| match index {
            1 => Some(1),
            2 => Some(5),
            _ => None,
        };
        let own = |leads| Own {
            id: 1,
            leads,
            campaigns: false,
            term: 5,
            committed: 2,
            last: 2,
            persisted: 2,
            known_term: &known_term,
        };
        let message = |kind: MessageType, term, index| {
            let mut message = Message {
                from: 2,
                to: 1,
                term,
                index,
                ..Message::default()
            };
            message.set_msg_type(kind);
            message
        };
        let acknowledgement = message(MessageType::MsgAppendResponse, 5, 3);
        assert_eq!(own(false).check(2, &acknowledgement), Ok(()));
        assert!(own(true).check(2, &acknowledgement).is_err());
        for (term, is_taken) in [(4, true), (5, false)] {
            let mut append = message(MessageType::MsgAppend, term, 1);
            append.log_term = 1;
            append.entries = vec![entry(2, 4)];
            assert_eq!(own(false).check(2, &append).is_ok(), is_taken, "{term}");
        }
    }

    /// Claim: whoever reads of a message that is not taken learns whose it is, and of what kind.
    /// Method: a message of an impossible term, and one that says to be of somebody else.
    #[test]
    fn rejections_name_the_sender() {
        let known_term = |_| None;
        let own = Own {
            id: 1,
            leads: false,
            campaigns: false,
            term: 5,
            committed: 1,
            last: 1,
            persisted: 1,
            known_term: &known_term,
        };
        for (claimed, expected) in [
            (2, "a MsgHeartbeat of coordinator 2: term 0, while"),
            (3, "a MsgHeartbeat of coordinator 2: sent by 2, but says"),
        ] {
            let mut message = Message {
                from: claimed,
                to: 1,
                ..Message::default()
            };
            message.set_msg_type(MessageType::MsgHeartbeat);
            let rejection = own.check(2, &message).unwrap_err();
            assert_eq!(rejection.sender(), Some(2));
            assert!(rejection.to_string().starts_with(expected), "{rejection}");
        }
    }
}
