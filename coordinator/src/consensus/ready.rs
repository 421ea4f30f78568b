//! What follows from what `raft` has ready: messages, writes, committed entries (`RAFT-1`, `RAFT-2`).

use super::{Action, Committed, Consensus, Pending, StopReason, is_member};
use crate::storage::{LogWrite, SnapshotRecord};
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use raft::Ready;
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};

impl Consensus {
    pub(super) fn drain(&mut self, actions: &mut Vec<Action>) {
        let mut ready = self.node.ready();
        for message in ready.take_messages() {
            self.send(message, actions);
        }
        let reads = ready.take_read_states();
        let mut pending = self.next_pending();
        pending.messages = ready.take_persisted_messages();
        #[cfg(evoring_plants)]
        self.send_early(&mut pending.messages, actions);
        if let Some(hard_state) = ready.hs() {
            let last = self.node.store().hard_state();
            pending.has_vote = (last.term, last.vote) != (hard_state.term, hard_state.vote);
            self.node.mut_store().set_hard_state(hard_state.clone());
            self.lazy_hard_state = Some(hard_state.clone());
        }
        self.send_free(&mut pending, actions);
        let write = self.write_of(&mut ready, &mut pending, actions);
        let committed = ready.take_committed_entries();
        let changes = committed
            .iter()
            .any(|entry| entry.entry_type() != EntryType::EntryNormal);
        let number = ready.number();
        let mut is_durable = false;
        if ready.must_sync() || changes {
            pending.ready = Some(number);
            self.persist_all(write, pending, actions);
        } else if let Some(last) = self.pending.back_mut() {
            last.messages.append(&mut pending.messages);
            last.ready = Some(number);
        } else {
            is_durable = true;
            for message in pending.messages {
                self.send(message, actions);
            }
        }
        let committed = self.take_committed(committed, actions);
        // RAFT-7
        if let Some(pending) = self.pending.back_mut().filter(|_| changes) {
            pending.membership = Some(self.applied_membership.clone());
        }
        if !committed.is_empty() {
            actions.push(Action::Apply(committed));
        }
        for read in reads {
            let tokens = self.reads.answered(&read.request_ctx);
            let index = read.index;
            actions.extend(tokens.map(|token| Action::ReadReady { token, index }));
        }
        self.node.advance_append_async(ready);
        if is_durable {
            self.node.on_persist_ready(number);
        }
    }

    /// Sends what says nothing about the log, unless a term or a vote is on its way to the disk
    /// (`RAFT-1`).
    fn send_free(&mut self, pending: &mut Pending, actions: &mut Vec<Action>) {
        if pending.has_vote || self.pending.iter().any(|earlier| earlier.has_vote) {
            return;
        }
        let is_free = |message: &Message| {
            matches!(
                message.msg_type(),
                MessageType::MsgHeartbeatResponse | MessageType::MsgRequestPreVoteResponse
            )
        };
        let messages = std::mem::take(&mut pending.messages).into_iter();
        let (free, bound): (Vec<Message>, Vec<Message>) = messages.partition(is_free);
        pending.messages = bound;
        for message in free {
            self.send(message, actions);
        }
    }

    /// What must be written, but for the hard state. A snapshot of the leader's is a write of its own
    /// if entries came after it.
    fn write_of(
        &mut self,
        ready: &mut Ready,
        pending: &mut Pending,
        actions: &mut Vec<Action>,
    ) -> LogWrite {
        let entries = ready.take_entries();
        let snapshot = ready.snapshot();
        if snapshot.is_empty() {
            self.node.mut_store().append(&entries);
            return LogWrite {
                entries,
                ..LogWrite::default()
            };
        }
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        let (index, term) = (metadata.index, metadata.term);
        let membership = metadata.conf_state.clone().unwrap_or_default();
        let data = snapshot.data.clone();
        self.node.mut_store().install(metadata);
        self.node.mut_store().append(&entries);
        self.set_membership(membership.clone(), actions);
        pending.install = Some((index, term, data.clone()));
        pending.membership = Some(membership.clone());
        self.installs = Some(index);
        // RAFT-2
        let hard_state = self.node.raft.hard_state();
        self.lazy_hard_state = Some(hard_state.clone());
        let write = LogWrite {
            installs: true,
            snapshot: Some(SnapshotRecord {
                index,
                term,
                membership,
                data,
            }),
            ..LogWrite::default()
        };
        if entries.is_empty() {
            return write;
        }
        let mut first = self.next_pending();
        std::mem::swap(&mut first.token, &mut pending.token);
        first.has_vote = pending.has_vote;
        let write = LogWrite {
            hard_state: Some(HardState {
                commit: index,
                ..hard_state
            }),
            ..write
        };
        self.persist(write, first, actions);
        LogWrite {
            entries,
            ..LogWrite::default()
        }
    }

    /// Hands out a write with the newest hard state.
    fn persist_all(&mut self, mut write: LogWrite, pending: Pending, actions: &mut Vec<Action>) {
        write.hard_state = self.lazy_hard_state.take();
        #[cfg(evoring_plants)]
        if let Some(hard_state) = &mut write.hard_state
            && is_planted(Plant::VoteNotStored)
        {
            hard_state.vote = raft::INVALID_ID;
        }
        self.persist(write, pending, actions);
    }

    fn take_committed(&mut self, entries: Vec<Entry>, actions: &mut Vec<Action>) -> Vec<Committed> {
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            let proposal = self.proposal(&entry);
            let data = match entry.entry_type() {
                EntryType::EntryNormal => entry.data,
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    if let Err(what) = self.apply_change(&entry, actions) {
                        let index = entry.index;
                        self.has_stopped = true;
                        actions.push(Action::Stop(StopReason::Membership { index, what }));
                        return committed;
                    }
                    Vec::new()
                }
            };
            committed.push(Committed {
                index: entry.index,
                term: entry.term,
                proposal,
                data,
            });
        }
        committed
    }

    /// `raft` at the receiver drops a snapshot whose membership lacks it, without a word.
    pub(super) fn send(&mut self, message: Message, actions: &mut Vec<Action>) {
        if message.msg_type() != MessageType::MsgSnapshot {
            actions.push(Action::Send(Box::new(message)));
            return;
        }
        let log = self.node.store();
        if is_member(&log.membership(log.snapshot_index()), message.to) {
            actions.push(Action::SendSnapshot(Box::new(message)));
        } else {
            self.unsent_snapshots.push(message.to);
            let index = log.last_change();
            actions.push(Action::WantSnapshot { index });
        }
    }
}
