//! Raft without IO: events in, actions out.
//!
//! Wraps `raft` 0.7, whose defaults are unsafe, and whose rules about what must be durable before
//! what are easy to break:
//!
//! - `RAFT-1`: nothing that depends on a write (votes, acknowledgements, commits) leaves before
//!   [`Event::Persisted`] for it; writes are reported in order. What says nothing about the log, as
//!   answers to heartbeats do, waits for no entries, only for a term or a vote on their way to the
//!   disk: a leader whose followers' disks stall stays in office.
//! - `RAFT-2`: a snapshot is written in one transaction with a commit index that covers it, and with
//!   the membership in force at its index. No write has a commit index beyond the entries that were
//!   handed out before it or with it.
//! - `RAFT-3`: a proposal's fate is known only from [`Action::Apply`]; a proposal that is neither
//!   applied nor refused is unknown, never absent.
//! - `RAFT-4`: `raft` panics on broken invariants; the shell ends the process then. What comes from
//!   others is checked before ([`Rejection`]). A committed change of membership that cannot be taken
//!   would let the voters disagree: the node stops.
//! - `RAFT-5`: a node that forgot what it had acknowledged stops, whoever finds out.
//! - `RAFT-6`: everything follows from the events and [`NodeConfig`]: the election timeouts, which
//!   `raft` draws from a generator of the process, are set anew.
//! - `RAFT-7`: a change of membership is told to others once its commit is durable here, and a voter
//!   that was removed answers for a while: a node that forgot the commit in a crash needs the old
//!   majority once more.

mod assembly;
mod events;
mod logger;
mod membership;
#[cfg(evoring_plants)]
mod plants;
mod reads;
mod ready;
mod validate;
mod view;

pub use assembly::{Assembly, AssemblyError, NoMessage, decode_message};
pub use events::{
    Action, Committed, ConsensusError, Event, NodeConfig, PeerProgress, Refusal, StopReason,
};
pub use membership::Goal;
pub use validate::Rejection;

use crate::storage::{LogWrite, SnapshotRecord, Stored};
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use membership::{Next, Standing};
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use reads::Reads;
use std::collections::BTreeMap;
use validate::Own;
use view::LogView;

/// The shell ticks this often; everything below counts in ticks.
pub const TICK_MS: u64 = 20;
/// Between heartbeats of a leader: 40 ms.
const HEARTBEAT_TICKS: usize = 2;
/// After which a silent leader is given up: 240 ms, and up to twice as many, so that a killed leader
/// is replaced within half a second. A false alarm costs little: with pre-vote and check-quorum
/// nobody is disturbed who still hears the leader.
const ELECTION_TICKS: usize = 12;
/// A leader whose oldest write is not durable after 1 s hands over: others have better disks.
const SLOW_WRITE_TICKS: u64 = 50;
/// Whoever is asked to hand over tries again for 2 s: just after a check of the quorum nobody counts
/// as active, and Raft gives up a transfer that takes an election timeout.
const HAND_OVER_TICKS: u64 = 100;
/// A learner that lacks no more entries than this has caught up.
const CAUGHT_UP_ENTRIES: u64 = 256;
/// Whoever was not heard for 5 s is silent: changes of membership do not wait for it.
const SILENT_TICKS: u64 = 250;
/// A voter that was removed stays for 10 s, unless it is told that nobody needs it (`RAFT-7`).
const FAREWELL_TICKS: u64 = 500;
/// Entries that travel in one message.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Messages on their way to one follower.
const INFLIGHT_MESSAGES: usize = 256;
/// Proposals that are not committed yet; more are refused.
const UNCOMMITTED_BYTES: u64 = 64 << 20;
/// Entries that wait for this node's own disk; what a leader sends beyond them is not taken, and comes
/// again. It sends more with each answer to a heartbeat, which waits for no disk.
const UNWRITTEN_BYTES: usize = 64 << 20;
/// Committed entries that are handed out at once.
const COMMITTED_BYTES: u64 = 8 << 20;

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
        installs: false,
    }
}

/// One node's consensus.
pub struct Consensus {
    node: RawNode<LogView>,
    config: NodeConfig,
    was_leader: bool,
    known_leader: u64,
    /// Hard state that needs no sync of its own; goes with the next write.
    lazy_hard_state: Option<HardState>,
    /// Tokens of writes that are not durable yet, with what waits for them.
    pending: std::collections::VecDeque<Pending>,
    /// Bytes of the entries in those writes.
    unwritten_bytes: usize,
    next_token: u64,
    reads: Reads,
    /// Ticks when each member was heard last, or when that began to count.
    heard: BTreeMap<u64, u64>,
    /// Receivers of snapshots that are not good enough for them.
    unsent_snapshots: Vec<u64>,
    goals: BTreeMap<u64, Goal>,
    /// The membership in force.
    applied_membership: ConfState,
    /// The same as far as its commit is durable.
    membership: ConfState,
    /// Ticks when this node was removed; no id comes back.
    left_at: Option<u64>,
    /// Index of the leader's snapshot that is not applied yet.
    installs: Option<u64>,
    has_stopped: bool,
    ticks: u64,
    hands_over_until: u64,
}

struct Pending {
    token: u64,
    /// Ticks when it was handed out.
    since: u64,
    /// Of its entries.
    bytes: usize,
    /// Number of the ready, if the write came from one.
    ready: Option<u64>,
    /// Snapshot to cut the log at.
    compact_to: Option<u64>,
    /// Whether it has a new term or vote.
    has_vote: bool,
    /// State of the leader's to install.
    install: Option<(u64, u64, Vec<u8>)>,
    /// Membership whose commit is durable with it.
    membership: Option<ConfState>,
    messages: Vec<Message>,
}

impl Consensus {
    /// Takes up what is stored. Entries after the snapshot are applied again. A store without a
    /// snapshot is that of a node which waits for the leader's.
    pub fn new(config: NodeConfig, stored: Stored) -> Result<Self, ConsensusError> {
        let (applied, membership) = match &stored.snapshot {
            Some(snapshot) => (snapshot.index, snapshot.membership.clone()),
            None => (0, ConfState::default()),
        };
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
            // Batched entries go to a message that names another place, and no size bounds it.
            #[cfg(not(evoring_plants))]
            batch_append: false,
            #[cfg(evoring_plants)]
            batch_append: is_planted(Plant::AppendsBatched),
            // The next append or heartbeat says what is committed.
            skip_bcast_commit: true,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            max_committed_size_per_ready: COMMITTED_BYTES,
            ..Config::default()
        };
        let node = RawNode::new(&raft_config, LogView::new(stored), &logger::to_tracing())?;
        let mut consensus = Self {
            node,
            config,
            was_leader: false,
            known_leader: raft::INVALID_ID,
            lazy_hard_state: None,
            pending: std::collections::VecDeque::new(),
            unwritten_bytes: 0,
            next_token: 1,
            reads: Reads::new(config),
            heard: BTreeMap::new(),
            unsent_snapshots: Vec::new(),
            goals: BTreeMap::new(),
            membership: membership.clone(),
            applied_membership: membership,
            left_at: None,
            installs: None,
            has_stopped: false,
            ticks: 0,
            hands_over_until: 0,
        };
        consensus.set_election_timeout();
        Ok(consensus)
    }

    /// Keeps so many entries before a snapshot for followers that are behind; the others get the
    /// whole state. For simulations, where the usual number would hide that.
    pub fn keep_entries(&mut self, entries: u64) {
        self.node.mut_store().keep_entries(entries);
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Whom it voted for in this term; 0 for nobody.
    pub fn vote(&self) -> u64 {
        self.node.raft.vote
    }

    /// The committed index, as far as this node knows.
    pub fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// Index of the last entry.
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// The membership in force, as of what is durable here.
    pub fn membership(&self) -> &ConfState {
        &self.membership
    }

    /// The membership as of what was handed out to be applied.
    pub fn applied_membership(&self) -> &ConfState {
        &self.applied_membership
    }

    /// Where the others stand, for a leader.
    pub fn progress(&self) -> BTreeMap<u64, PeerProgress> {
        if !self.is_leader() {
            return BTreeMap::new();
        }
        let progress = self.node.raft.prs().iter();
        progress
            .map(|(&id, progress)| {
                let (matched, is_active) = (progress.matched, progress.recent_active);
                (id, PeerProgress { matched, is_active })
            })
            .collect()
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        self.handle_all([event])
    }

    /// Takes events in order and says once what follows from all of them: proposals that come
    /// together travel together and share a write.
    pub fn handle_all(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        let mut actions = Vec::new();
        for event in events {
            if self.has_stopped {
                return actions;
            }
            self.take(event, &mut actions);
        }
        #[cfg(evoring_plants)]
        self.answer_unasked(&mut actions);
        self.begin_reads();
        while self.node.has_ready() {
            self.drain(&mut actions);
            self.leave_office();
            // `raft` must not be told so between a ready and its end.
            for id in std::mem::take(&mut self.unsent_snapshots) {
                self.node.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
        self.set_election_timeout();
        self.report_leadership(&mut actions);
        actions
    }

    fn take(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => self.tick(actions),
            Event::Campaign if self.may_campaign() => {
                // Refused only while an unapplied membership change is in the log; ticks try again.
                let _ = self.node.campaign();
            }
            Event::Campaign => {}
            Event::Propose { token, data } => self.propose(token, data, actions),
            Event::Persisted { token } => self.persisted(token, actions),
            Event::Applied { index } => {
                self.installs = self.installs.filter(|&installs| installs > index);
                self.node.advance_apply_to(index);
            }
            Event::Snapshot { index, data } => self.snapshot(index, data, actions),
            Event::Receive { from, message } => self.receive(from, *message, actions),
            Event::Read { token } if self.is_leader() => self.reads.add(token),
            Event::Read { token } => actions.push(Action::ReadFailed { token }),
            Event::Members(goals) => self.goals = goals,
            Event::SnapshotSent { to, arrived } => {
                let status = match arrived {
                    true => SnapshotStatus::Finish,
                    false => SnapshotStatus::Failure,
                };
                self.node.report_snapshot(to, status);
            }
            Event::Unreachable { id } => self.node.report_unreachable(id),
            Event::HandOver => {
                self.hands_over_until = self.ticks + HAND_OVER_TICKS;
                self.hand_over();
            }
            Event::HandOverTo { id } => self.hand_over_to(id),
            Event::Paused if self.is_leader() => {
                let term = self.term();
                self.node.raft.become_follower(term, raft::INVALID_ID);
            }
            Event::Paused => {}
        }
    }

    /// `raft` panics if it campaigns before a snapshot of the leader's is applied, or wins before its
    /// log is durable.
    fn may_campaign(&self) -> bool {
        let log = &self.node.raft.raft_log;
        self.installs.is_none() && log.persisted == log.last_index()
    }

    fn tick(&mut self, actions: &mut Vec<Action>) {
        self.ticks += 1;
        let raft = &self.node.raft;
        let campaigns = raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if self.is_leader() || !campaigns || self.may_campaign() {
            self.node.tick();
        }
        let is_over = |since: u64| self.ticks - since > FAREWELL_TICKS;
        if self.left_at.is_some_and(is_over) {
            self.stop(StopReason::Removed, actions);
        }
        if !self.is_leader() {
            return;
        }
        let is_slow = |pending: &Pending| self.ticks - pending.since > SLOW_WRITE_TICKS;
        let is_asked = self.ticks < self.hands_over_until;
        if is_asked || self.pending.front().is_some_and(is_slow) {
            self.hand_over();
        }
        self.change_membership();
        self.reads.tick();
    }

    fn receive(&mut self, from: u64, message: Message, actions: &mut Vec<Action>) {
        self.heard.insert(from, self.ticks);
        let raft = &self.node.raft;
        let known_term = |index: u64| raft.raft_log.term(index).ok().filter(|term| *term > 0);
        let own = Own {
            id: self.config.id,
            leads: raft.state == StateRole::Leader,
            campaigns: raft.state == StateRole::Candidate,
            term: raft.term,
            committed: raft.raft_log.committed,
            last: raft.raft_log.last_index(),
            persisted: raft.raft_log.persisted,
            known_term: &known_term,
        };
        match own.check(from, &message) {
            // The leader takes its leadership back if it hears nothing.
            Ok(()) if message.msg_type() == MessageType::MsgTimeoutNow && !self.may_campaign() => {}
            Ok(()) if self.is_too_much(&message) => {}
            // Answers of nodes that have left, and votes for a term that is over, are of no use.
            Ok(()) => drop(self.node.step(message)),
            Err(rejection @ Rejection::LogTooShort { .. }) => {
                self.stop(StopReason::Forgot(rejection), actions);
            }
            Err(rejection) => actions.push(Action::Rejected(rejection)),
        }
    }

    /// Whether a message brings more entries than the disk lets this node take.
    fn is_too_much(&self, message: &Message) -> bool {
        let is_append = message.msg_type() == MessageType::MsgAppend;
        is_append && !message.entries.is_empty() && self.unwritten_bytes >= UNWRITTEN_BYTES
    }

    /// A leader that has removed itself leads no more: `raft` panics when its next entry is durable.
    fn leave_office(&mut self) {
        let is_gone = self.node.raft.prs().get(self.config.id).is_none();
        if self.is_leader() && is_gone {
            let term = self.term();
            self.node.raft.become_follower(term, raft::INVALID_ID);
        }
    }

    /// Gives leadership to the voter that holds most.
    fn hand_over(&mut self) {
        let raft = &self.node.raft;
        if !self.is_leader() || raft.lead_transferee.is_some() {
            return;
        }
        let can_lead =
            |id: u64| id != self.config.id && self.applied_membership.voters.contains(&id);
        let best = raft
            .prs()
            .iter()
            .filter(|(id, progress)| can_lead(**id) && progress.recent_active)
            .max_by_key(|(id, progress)| (progress.matched, **id))
            .map(|(id, _)| *id);
        if let Some(id) = best {
            self.node.transfer_leader(id);
        }
    }

    /// Gives leadership to this voter, if it answers.
    fn hand_over_to(&mut self, id: u64) {
        let raft = &self.node.raft;
        let is_there = raft
            .prs()
            .get(id)
            .is_some_and(|progress| progress.recent_active);
        let can_lead = is_there && self.applied_membership.voters.contains(&id);
        if self.is_leader() && can_lead {
            self.node.transfer_leader(id);
        }
    }

    /// Moves the membership towards the goals (`MEMBER-3`).
    fn change_membership(&mut self) {
        let raft = &self.node.raft;
        // This leader has committed in its own term, and no change is in flight: not one of its own, nor
        // one of an earlier leader's, for which it waited when it was elected.
        let is_settled = raft.commit_to_current_term()
            && !raft.has_pending_conf()
            && raft.lead_transferee.is_none();
        if !is_settled {
            return;
        }
        let committed = raft.raft_log.committed;
        let is_heard = |node: u64| {
            let heard = self.heard.get(&node);
            heard.is_some_and(|heard| self.ticks - heard <= SILENT_TICKS)
        };
        let standing = |node: u64| match raft.prs().get(node) {
            _ if !is_heard(node) => Standing::Silent,
            // It answers now, too: with its vote, the group may need it at once.
            Some(progress)
                if progress.recent_active && progress.matched + CAUGHT_UP_ENTRIES >= committed =>
            {
                Standing::CaughtUp
            }
            _ => Standing::Behind,
        };
        match membership::next(
            self.config.id,
            &self.goals,
            &self.applied_membership,
            standing,
        ) {
            Next::Settled => {}
            // That it takes effect is seen in the membership; until then it is proposed again.
            Next::Change(change) => drop(self.node.propose_conf_change(Vec::new(), change)),
            Next::HandOver => self.hand_over(),
        }
    }

    /// Asks the others whether this node still leads, once for all reads that wait.
    fn begin_reads(&mut self) {
        if !self.is_leader() || !self.node.raft.commit_to_current_term() {
            return;
        }
        if let Some(context) = self.reads.begin() {
            self.node.read_index(context);
        }
    }

    /// `RAFT-6`: a function of the node, its term and its role instead of a random number.
    fn set_election_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let parts = [
            self.config.seed,
            self.config.id,
            raft.term,
            raft.state as u64,
        ];
        let ticks = ELECTION_TICKS as u64 + mixed(&parts) % ELECTION_TICKS as u64;
        raft.set_randomized_election_timeout(ticks as usize);
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
                reason: Refusal::NotNow,
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
            self.unwritten_bytes -= pending.bytes;
            if let Some(number) = pending.ready {
                self.node.on_persist_ready(number);
            }
            if let Some(index) = pending.compact_to {
                self.node.mut_store().compact(index);
            }
            if let Some((index, term, data)) = pending.install {
                actions.push(Action::Install { index, term, data });
            }
            if let Some(membership) = pending.membership {
                self.membership = membership;
            }
            for message in pending.messages {
                self.send(message, actions);
            }
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
            // RAFT-2: changes after the index may be in force already.
            membership: self.node.store().membership(index),
            data,
        };
        #[cfg(evoring_plants)]
        let snapshot = self.spoilt(snapshot);
        // RAFT-2: what was handed out last covers the index, since it is applied, and no entry that
        // was not handed out.
        let hard_state = Some(self.node.store().hard_state().clone());
        #[cfg(evoring_plants)]
        let hard_state = hard_state.filter(|_| !is_planted(Plant::SnapshotWithoutCommit));
        self.lazy_hard_state = None;
        let write = LogWrite {
            hard_state,
            snapshot: Some(snapshot),
            ..LogWrite::default()
        };
        let mut pending = self.next_pending();
        pending.compact_to = Some(index);
        self.persist(write, pending, actions);
    }

    fn next_pending(&mut self) -> Pending {
        let token = self.next_token;
        self.next_token += 1;
        Pending {
            token,
            since: self.ticks,
            bytes: 0,
            ready: None,
            compact_to: None,
            has_vote: false,
            install: None,
            membership: None,
            messages: Vec::new(),
        }
    }

    fn persist(&mut self, write: LogWrite, mut pending: Pending, actions: &mut Vec<Action>) {
        let token = pending.token;
        pending.bytes = write.entries.iter().map(|entry| entry.data.len()).sum();
        self.unwritten_bytes += pending.bytes;
        self.pending.push_back(pending);
        actions.push(Action::Persist { token, write });
    }

    fn apply_change(&mut self, entry: &Entry, actions: &mut Vec<Action>) -> Result<(), String> {
        let change = membership::decoded(entry)?;
        let outcome = self.node.apply_conf_change(&change);
        let membership =
            outcome.map_err(|e| format!("is an impossible change of membership: {e}"))?;
        self.node
            .mut_store()
            .changed(entry.index, membership.clone());
        self.set_membership(membership, actions);
        Ok(())
    }

    /// Takes note of the membership in force. A node that is in it no more stops, at once if it had
    /// no vote (`RAFT-7`).
    fn set_membership(&mut self, membership: ConfState, actions: &mut Vec<Action>) {
        let id = self.config.id;
        let was_member = is_member(&self.applied_membership, id);
        let had_vote = [
            &self.applied_membership.voters,
            &self.applied_membership.voters_outgoing,
        ]
        .iter()
        .any(|voters| voters.contains(&id));
        self.applied_membership = membership;
        // Whoever is new has time to be heard.
        self.heard
            .retain(|node, _| is_member(&self.applied_membership, *node));
        for node in nodes(&self.applied_membership) {
            self.heard.entry(node).or_insert(self.ticks);
        }
        actions.push(Action::Membership(self.applied_membership.clone()));
        if is_member(&self.applied_membership, id) || !was_member {
            return;
        }
        match had_vote {
            true => self.left_at = Some(self.ticks),
            false => self.stop(StopReason::Removed, actions),
        }
    }

    fn stop(&mut self, reason: StopReason, actions: &mut Vec<Action>) {
        self.has_stopped = true;
        actions.push(Action::Stop(reason));
    }

    fn report_leadership(&mut self, actions: &mut Vec<Action>) {
        let is_leader = self.is_leader();
        if is_leader && !self.was_leader {
            // Who is silent shows from now on.
            let nodes: Vec<u64> = nodes(&self.applied_membership).collect();
            self.heard = nodes.into_iter().map(|node| (node, self.ticks)).collect();
            actions.push(Action::Elected { term: self.term() });
        } else if !is_leader && self.was_leader {
            self.hands_over_until = 0;
            actions.push(Action::SteppedDown);
            let failed = self.reads.abandon();
            actions.extend(failed.map(|token| Action::ReadFailed { token }));
        }
        self.was_leader = is_leader;
        let leader = self.node.raft.leader_id;
        if leader != self.known_leader {
            self.known_leader = leader;
            let known = (leader != raft::INVALID_ID).then_some(leader);
            actions.push(Action::Leader(known));
        }
    }
}

/// All nodes of a membership, whatever they may do; some more than once.
fn nodes(membership: &ConfState) -> impl Iterator<Item = u64> {
    let nodes = [
        &membership.voters,
        &membership.voters_outgoing,
        &membership.learners,
        &membership.learners_next,
    ];
    nodes.into_iter().flatten().copied()
}

fn is_member(membership: &ConfState, id: u64) -> bool {
    nodes(membership).any(|node| node == id)
}

/// A number that looks random and follows from `parts` (the finalizer of SplitMix64, chained).
fn mixed(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |hash, part| {
        let mut mixed = (hash ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod tests;
