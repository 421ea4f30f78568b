//! Planted bugs that need more than a line where they stand.

use super::{Action, Consensus};
use crate::storage::SnapshotRecord;
use evoring_protocol::plants::{Plant, is_planted};
use raft::eraftpb::{Message, MessageType};

impl Consensus {
    /// Sends what should wait for a write.
    pub(super) fn send_early(&mut self, waiting: &mut Vec<Message>, actions: &mut Vec<Action>) {
        let is_early = |message: &mut Message| match message.msg_type() {
            MessageType::MsgRequestVoteResponse => is_planted(Plant::VotesBeforeDurable),
            MessageType::MsgAppendResponse => is_planted(Plant::AppendsBeforeDurable),
            _ => false,
        };
        for message in waiting.extract_if(.., is_early) {
            self.send(message, actions);
        }
    }

    /// Answers reads at once, as if nobody else could lead by now.
    pub(super) fn answer_unasked(&mut self, actions: &mut Vec<Action>) {
        let leads = self.is_leader() && self.node.raft.commit_to_current_term();
        if leads && is_planted(Plant::ReadsUnasked) {
            let (index, tokens) = (self.committed(), self.reads.abandon());
            actions.extend(tokens.map(|token| Action::ReadReady { token, index }));
        }
    }

    /// What a snapshot's record should not say.
    pub(super) fn spoilt(&self, mut snapshot: SnapshotRecord) -> SnapshotRecord {
        let log = self.node.store();
        if is_planted(Plant::SnapshotMembershipStale) {
            snapshot.membership = log.membership(log.snapshot_index());
        }
        if is_planted(Plant::SnapshotTermIsCurrent) {
            snapshot.term = self.term();
        }
        snapshot
    }
}
