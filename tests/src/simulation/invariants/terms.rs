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
    pub(super) fn leads(&mut self, id: u64, consensus: &Consensus) -> Checked {
        if !consensus.is_leader() {
            return Ok(());
        }
        let leader = *self.leaders.entry(consensus.term()).or_insert(id);
        if leader != id {
            let what = format!(
                "members {leader} and {id} both lead in term {}",
                consensus.term()
            );
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
