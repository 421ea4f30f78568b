//! Raft without IO: events in, actions out.
//!
//! Wraps `raft` 0.7, whose defaults are unsafe, and whose rules about what must be durable before
//! what are easy to break:
//!
//! - `RAFT-1`: nothing that depends on a write (votes, acknowledgements, commits) leaves before
//!   [`Event::Persisted`] for it; writes are reported in order.
//! - `RAFT-2`: a snapshot is written in one transaction with a commit index that covers it.
//! - `RAFT-3`: a proposal's fate is known only from [`Action::Apply`]; a proposal that is neither
//!   applied nor refused is unknown, never absent.
//! - `RAFT-4`: `raft` panics on broken invariants; the shell ends the process then.
//!
//! A group of one voter is all that exists yet; messages between voters and the installation of
//! snapshots come with groups.

mod logger;
mod view;

use crate::storage::{LogWrite, SnapshotRecord, Stored};
use raft::eraftpb::{ConfChange, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};
use view::LogView;

/// Ticks between heartbeats of a leader, and after which a silent leader is given up; the shell
/// ticks every 100 ms, so these are 100 ms and 1 s, as in etcd.
const HEARTBEAT_TICKS: usize = 1;
const ELECTION_TICKS: usize = 10;
/// Entries that travel in one message.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Messages on their way to one follower.
const INFLIGHT_MESSAGES: usize = 256;
/// Proposals that are not committed yet; more are refused.
const UNCOMMITTED_BYTES: u64 = 64 << 20;
/// Committed entries that are handed out at once.
const COMMITTED_BYTES: u64 = 8 << 20;

/// What happens to consensus.
#[derive(Debug)]
pub enum Event {
    /// Time passes; every 100 ms.
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
    /// Apply, in order.
    Apply(Vec<Committed>),
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
    /// Too much is uncommitted.
    #[error("more than {UNCOMMITTED_BYTES} bytes wait to be committed")]
    Full,
}

/// Who this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeConfig {
    /// Number of the voter, not 0.
    pub id: u64,
    /// Random number of this process: proposals of an earlier one are not mistaken for its own.
    pub boot: u64,
}

/// A log that cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// The store was never initialized.
    #[error("the log has no snapshot to begin with")]
    Empty,
    /// `raft` refuses the stored state.
    #[error("raft refuses the stored log: {0}")]
    Raft(#[from] raft::Error),
}

/// First contents of the store of a group of one.
pub fn first_write(id: u64, state: Vec<u8>) -> LogWrite {
    let membership = ConfState {
        voters: vec![id],
        ..ConfState::default()
    };
    LogWrite {
        entries: Vec::new(),
        // Raft's convention: a log begins after index 1 of term 1.
        hard_state: Some(HardState {
            term: 1,
            vote: 0,
            commit: 1,
        }),
        snapshot: Some(SnapshotRecord {
            index: 1,
            term: 1,
            membership,
            data: state,
        }),
    }
}

/// One node's consensus.
pub struct Consensus {
    node: RawNode<LogView>,
    config: NodeConfig,
    was_leader: bool,
    /// Hard state that needs no sync of its own; goes with the next write.
    lazy_hard_state: Option<HardState>,
    /// Tokens of writes that are not durable yet, with the messages that wait for them.
    pending: std::collections::VecDeque<Pending>,
    next_token: u64,
    membership: ConfState,
}

struct Pending {
    token: u64,
    /// Number of the ready, if the write came from one.
    ready: Option<u64>,
    /// Snapshot to cut the log at.
    compact_to: Option<u64>,
    messages: Vec<Message>,
}

impl Consensus {
    /// Takes up what is stored. Entries after the snapshot are applied again.
    pub fn new(config: NodeConfig, stored: Stored) -> Result<Self, ConsensusError> {
        let snapshot = stored.snapshot.as_ref().ok_or(ConsensusError::Empty)?;
        let (applied, membership) = (snapshot.index, snapshot.membership.clone());
        let raft_config = Config {
            id: config.id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: INFLIGHT_MESSAGES,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            batch_append: true,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            max_committed_size_per_ready: COMMITTED_BYTES,
            ..Config::default()
        };
        let node = RawNode::new(&raft_config, LogView::new(stored), &logger::to_tracing())?;
        Ok(Self {
            node,
            config,
            was_leader: false,
            lazy_hard_state: None,
            pending: std::collections::VecDeque::new(),
            next_token: 1,
            membership,
        })
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {
                self.node.tick();
            }
            Event::Campaign => {
                // Refused only while an unapplied membership change is in the log; ticks try again.
                let _ = self.node.campaign();
            }
            Event::Propose { token, data } => self.propose(token, data, &mut actions),
            Event::Persisted { token } => self.persisted(token, &mut actions),
            Event::Applied { index } => self.node.advance_apply_to(index),
            Event::Snapshot { index, data } => self.snapshot(index, data, &mut actions),
        }
        while self.node.has_ready() {
            self.drain(&mut actions);
        }
        self.report_leadership(&mut actions);
        actions
    }

    fn propose(&mut self, token: u64, data: Vec<u8>, actions: &mut Vec<Action>) {
        // A follower would forward it and never tell what became of it.
        if !self.is_leader() {
            actions.push(Action::Refused {
                token,
                reason: Refusal::NotLeader,
            });
            return;
        }
        if self.node.propose(self.context(token), data).is_err() {
            actions.push(Action::Refused {
                token,
                reason: Refusal::Full,
            });
        }
    }

    fn context(&self, token: u64) -> Vec<u8> {
        [self.config.id, self.config.boot, token]
            .iter()
            .flat_map(|part| part.to_le_bytes())
            .collect()
    }

    fn proposal(&self, entry: &Entry) -> Option<u64> {
        let token = entry.context.get(16..24)?.first_chunk::<8>()?;
        let token = u64::from_le_bytes(*token);
        (entry.context == self.context(token)).then_some(token)
    }

    fn persisted(&mut self, token: u64, actions: &mut Vec<Action>) {
        while self
            .pending
            .front()
            .is_some_and(|pending| pending.token <= token)
        {
            let Some(pending) = self.pending.pop_front() else {
                break;
            };
            if let Some(number) = pending.ready {
                self.node.on_persist_ready(number);
            }
            if let Some(index) = pending.compact_to {
                self.node.mut_store().compact(index);
            }
            actions.extend(
                pending
                    .messages
                    .into_iter()
                    .map(|m| Action::Send(Box::new(m))),
            );
        }
    }

    fn snapshot(&mut self, index: u64, data: Vec<u8>, actions: &mut Vec<Action>) {
        let Some(term) = self.node.store().known_term(index) else {
            return;
        };
        let log = &self.node.raft.raft_log;
        if index > log.applied || index <= self.node.store().snapshot_index() {
            return;
        }
        let snapshot = SnapshotRecord {
            index,
            term,
            membership: self.membership.clone(),
            data,
        };
        // RAFT-2: the newest hard state covers the index, since it is applied.
        let hard_state = Some(self.node.raft.hard_state());
        self.lazy_hard_state = None;
        let write = LogWrite {
            entries: Vec::new(),
            hard_state,
            snapshot: Some(snapshot),
        };
        self.persist(write, None, Some(index), Vec::new(), actions);
    }

    fn persist(
        &mut self,
        write: LogWrite,
        ready: Option<u64>,
        compact_to: Option<u64>,
        messages: Vec<Message>,
        actions: &mut Vec<Action>,
    ) {
        let token = self.next_token;
        self.next_token += 1;
        self.pending.push_back(Pending {
            token,
            ready,
            compact_to,
            messages,
        });
        actions.push(Action::Persist { token, write });
    }

    fn drain(&mut self, actions: &mut Vec<Action>) {
        let mut ready = self.node.ready();
        actions.extend(
            ready
                .take_messages()
                .into_iter()
                .map(|m| Action::Send(Box::new(m))),
        );
        let waiting = ready.take_persisted_messages();
        if let Some(hard_state) = ready.hs() {
            self.node.mut_store().set_hard_state(hard_state.clone());
            self.lazy_hard_state = Some(hard_state.clone());
        }
        let entries = ready.take_entries();
        self.node.mut_store().append(&entries);
        if ready.must_sync() || !waiting.is_empty() {
            let write = LogWrite {
                entries,
                hard_state: self.lazy_hard_state.take(),
                snapshot: None,
            };
            self.persist(write, Some(ready.number()), None, waiting, actions);
        }
        let committed = self.committed(ready.take_committed_entries());
        if !committed.is_empty() {
            actions.push(Action::Apply(committed));
        }
        self.node.advance_append_async(ready);
    }

    fn committed(&mut self, entries: Vec<Entry>) -> Vec<Committed> {
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            let proposal = self.proposal(&entry);
            let data = match entry.entry_type() {
                EntryType::EntryNormal => entry.data,
                EntryType::EntryConfChange => {
                    let change = decoded::<ConfChange>(&entry);
                    self.membership = changed(self.node.apply_conf_change(&change));
                    Vec::new()
                }
                EntryType::EntryConfChangeV2 => {
                    let change = decoded::<ConfChangeV2>(&entry);
                    self.membership = changed(self.node.apply_conf_change(&change));
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

    fn report_leadership(&mut self, actions: &mut Vec<Action>) {
        let is_leader = self.is_leader();
        if is_leader && !self.was_leader {
            actions.push(Action::Elected { term: self.term() });
        } else if !is_leader && self.was_leader {
            actions.push(Action::SteppedDown);
        }
        self.was_leader = is_leader;
    }
}

// A committed change that cannot be taken would let the voters disagree (`RAFT-4`).

fn decoded<M: prost::Message + Default>(entry: &Entry) -> M {
    M::decode(entry.data.as_slice()).unwrap_or_else(|e| {
        panic!(
            "entry {}: a committed change of membership is malformed: {e}",
            entry.index
        )
    })
}

fn changed(outcome: raft::Result<ConfState>) -> ConfState {
    outcome.unwrap_or_else(|e| panic!("a committed change of membership cannot be applied: {e}"))
}

#[cfg(test)]
mod tests;
