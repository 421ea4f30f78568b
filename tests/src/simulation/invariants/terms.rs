//! 1: a term has at most one leader; a vote never changes within a term, across restarts too.

use super::{Checked, Violation};
use evoring_coordinator::consensus::Consensus;
use raft::eraftpb::{Message, MessageType};
use std::collections::BTreeMap;

const NAME: &str = "terms";

/// Who leads and votes.
#[derive(Debug, Default)]
pub(in super::super) struct Terms {
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
}

impl Terms {
    pub(super) fn stands(&mut self, id: u64, consensus: &Consensus) -> Checked {
        match consensus.is_leader() {
            true => self.leads(id, consensus.term()),
            false => Ok(()),
        }
    }

    fn leads(&mut self, id: u64, term: u64) -> Checked {
        let leader = *self.leaders.entry(term).or_insert(id);
        if leader != id {
            let what = format!("members {leader} and {id} both lead in term {term}");
            return Err(Violation::new(NAME, what));
        }
        Ok(())
    }

    /// A vote counts once it is sent.
    pub(super) fn sends(&mut self, id: u64, message: &Message) -> Checked {
        let vote = match message.msg_type() {
            MessageType::MsgRequestVoteResponse if !message.reject => message.to,
            MessageType::MsgRequestVote => id,
            _ => return Ok(()),
        };
        let known = *self.votes.entry((id, message.term)).or_insert(vote);
        if known != vote {
            let what = format!(
                "member {id} voted for {known} and for {vote} in term {}",
                message.term
            );
            return Err(Violation::new(NAME, what));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType, to: u64, term: u64) -> Message {
        Message {
            msg_type: kind.into(),
            to,
            term,
            ..Message::default()
        }
    }

    // Claim: two leaders of a term, and two votes of a member in a term, are found; the same again, a
    // refusal, and another term are none. Method: each once.
    #[test]
    fn second_leaders_and_votes_are_found() {
        let mut terms = Terms::default();
        terms.leads(1, 4).unwrap();
        terms.leads(1, 4).unwrap();
        terms.leads(2, 5).unwrap();
        assert!(terms.leads(2, 4).is_err());
        let answer = MessageType::MsgRequestVoteResponse;
        terms.sends(3, &message(answer, 1, 4)).unwrap();
        terms.sends(3, &message(answer, 1, 4)).unwrap();
        terms.sends(3, &message(answer, 2, 5)).unwrap();
        let refusal = Message {
            reject: true,
            ..message(answer, 2, 4)
        };
        terms.sends(3, &refusal).unwrap();
        assert!(terms.sends(3, &message(answer, 2, 4)).is_err());
        // Who asks for votes has given its own.
        let asks = message(MessageType::MsgRequestVote, 1, 4);
        assert!(terms.sends(3, &asks).is_err());
    }
}
