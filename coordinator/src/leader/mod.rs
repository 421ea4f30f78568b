//! One coordinator's decisions in one place: the replicated state, the scheduler while this node
//! leads, and the commands on their way into the log. Pure: events and the time in, actions out.
//!
//! - `LEAD-1`: nothing is acknowledged or answered before the entry with its command is applied.
//! - `LEAD-2`: the scheduler exists only while this node leads and has applied everything that
//!   earlier leaders committed.
//! - `LEAD-3`: while the store takes no writes, writes are refused, and what workers deliver waits;
//!   while space is merely low, running jobs go on and new ones are refused.
//! - `LEAD-4`: a question about jobs and workers is answered from a state that contains everything
//!   acknowledged before it was asked, whoever acknowledged it.

mod events;
mod group;
mod proposals;
mod questions;
mod secrets;

pub use events::{Action, ApplyError, Denial, Event, LeaderConfig, Ticket};
pub use group::GroupReport;
pub use proposals::{BATCH_MS, IN_FLIGHT};
pub use questions::{Answer, Question};
pub use secrets::Secrets;

use crate::consensus::{Committed, Refusal};
use crate::scheduler::{self, ConnectionId, Now, Scheduler};
use crate::state::{Applied, Command, Effect, State, Submission};
use evoring_protocol::event::EventKind;
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use evoring_protocol::worker::{Hello, WorkerCommand};
use evoring_protocol::{Digest, ErrorCode, RemoteError, Term};
use group::Group;
use proposals::{Proposals, Waiter};
use questions::Reads;
use std::collections::BTreeMap;

/// A snapshot is taken after this many entries, if they have an eighth of the last one's bytes: a
/// large state is not written for few changes …
const SNAPSHOT_ENTRIES: u64 = 4_096;
/// … or after this many, which a start replays in about a second …
const SNAPSHOT_ENTRIES_AT_MOST: u64 = 32_768;
/// … or after this many bytes of entries.
const SNAPSHOT_BYTES: usize = 32 << 20;
/// Hellos that wait for this node to take office.
const EARLY_HELLOS: usize = 16_384;

/// One coordinator's decisions.
#[derive(Debug)]
pub struct Leader {
    config: LeaderConfig,
    state: State,
    scheduler: Option<Scheduler>,
    proposals: Proposals,
    secrets: Secrets,
    reads: Reads,
    group: Group,
    /// Term in which this node leads.
    leads: Option<u64>,
    /// Term of the last applied entry.
    applied_term: u64,
    /// Whether the lease key is proposed in this term.
    key_proposed: bool,
    /// Why the store takes no writes.
    store_failure: Option<String>,
    /// Why no new jobs are taken although the store works.
    low_space: Option<String>,
    /// The event file says that only reads are answered.
    says_read_only: bool,
    early: BTreeMap<ConnectionId, Hello>,
    /// Monotonic time of the next tick.
    next_tick_ms: u64,
    snapshot_entries: u64,
    snapshot_index: u64,
    snapshot_bytes: usize,
    /// A snapshot before this index is not good enough for a new member.
    snapshot_wanted: u64,
    bytes_since_snapshot: usize,
    out: Vec<Action>,
}

impl Leader {
    /// Takes up a state; entries after it follow as [`Event::Committed`].
    pub fn new(config: LeaderConfig, state: State, secrets: Secrets) -> Self {
        Self {
            config,
            snapshot_entries: SNAPSHOT_ENTRIES,
            snapshot_index: state.applied(),
            state,
            scheduler: None,
            proposals: Proposals::default(),
            secrets,
            reads: Reads::default(),
            group: Group::default(),
            leads: None,
            applied_term: 0,
            key_proposed: false,
            store_failure: None,
            low_space: None,
            says_read_only: false,
            early: BTreeMap::new(),
            next_tick_ms: 0,
            snapshot_bytes: 0,
            snapshot_wanted: 0,
            bytes_since_snapshot: 0,
            out: Vec::new(),
        }
    }

    /// Takes snapshots after so many entries, if they are worth it: for simulations, which hardly
    /// reach the usual number.
    pub fn snapshot_every(&mut self, entries: u64) {
        self.snapshot_entries = entries.max(1);
    }

    /// The replicated state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// This node's number in the group.
    pub fn id(&self) -> u64 {
        self.config.id
    }

    /// Whether this node was elected, and is in office or about to take it.
    pub fn is_elected(&self) -> bool {
        self.leads.is_some()
    }

    /// The scheduler, in office.
    pub fn scheduler(&self) -> Option<&Scheduler> {
        self.scheduler.as_ref()
    }

    /// Why no new jobs are taken.
    pub fn read_only(&self) -> Option<&str> {
        self.store_failure.as_deref().or(self.low_space.as_deref())
    }

    /// The term that is led; 0 if none is.
    pub fn term(&self) -> u64 {
        self.leads.unwrap_or(0)
    }

    /// Whether [`Event::Tick`] is due, whatever other events wait.
    pub fn is_tick_due(&self, now: Now) -> bool {
        now.mono_ms >= self.next_tick_ms
    }

    /// Monotonic time at which [`Event::Tick`] is wanted if nothing happens until then.
    pub fn deadline_ms(&self) -> u64 {
        // A store that takes nothing is not waited for.
        let flushes = self.leads.is_some() && self.store_failure.is_none();
        let flush_ms = self.proposals.deadline_ms().filter(|_| flushes);
        flush_ms.unwrap_or(u64::MAX).min(self.next_tick_ms)
    }

    /// Takes one event.
    ///
    /// # Errors
    /// [`ApplyError`] if the log holds what this build cannot apply.
    pub fn handle(&mut self, event: Event, now: Now) -> Result<Vec<Action>, ApplyError> {
        self.handle_all([event], now)
    }

    /// Takes events that came together, in their order. What clients and workers want written shares
    /// entries, as if it had come at the same moment.
    ///
    /// # Errors
    /// Those of [`handle`](Self::handle).
    pub fn handle_all(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        now: Now,
    ) -> Result<Vec<Action>, ApplyError> {
        for event in events {
            self.take(event, now)?;
            self.take_office(now);
        }
        self.flush(now);
        Ok(std::mem::take(&mut self.out))
    }

    fn take(&mut self, event: Event, now: Now) -> Result<(), ApplyError> {
        match event {
            Event::Committed(entries) => self.committed(entries, now)?,
            Event::Installed { index, term, data } => {
                self.installed(index, term, &data)?;
                self.answer_reads(now);
            }
            Event::Elected { term } => {
                self.leads = Some(term);
                self.key_proposed = false;
            }
            Event::Leader(leader) => self.leader_changed(leader),
            Event::ReadReady { token, index } => self.read_ready(token, index, now),
            Event::ReadFailed { token } => self.read_failed(token),
            Event::SnapshotWanted { index } => {
                self.snapshot_wanted = index;
                self.take_snapshot();
            }
            Event::Group(report) => self.group.stands(*report, self.state.members()),
            Event::Health { id, health } => self.group.heard(id, health, now),
            Event::Contact { id, problem } => self.group.contact(id, problem),
            Event::Joined { id } => self.joined(id, now),
            Event::SteppedDown => self.step_down("this coordinator lost its office"),
            Event::Refused { token, reason } => self.refused(token, reason, now),
            Event::Store(outcome) => self.store(outcome, now),
            Event::Space(reason) => {
                self.low_space = reason;
                self.announce_writability();
            }
            Event::Hello { connection, hello } => self.hello(connection, hello, now),
            Event::Report { connection, report } => {
                self.schedule(scheduler::Event::Report { connection, report }, now);
            }
            Event::Disconnected { connection, reason } => {
                self.early.remove(&connection);
                self.schedule(scheduler::Event::Disconnected { connection, reason }, now);
            }
            Event::Submit {
                ticket,
                submission,
                refuse_unless_fits,
            } => {
                self.submit(ticket, submission, refuse_unless_fits, now);
            }
            Event::Write { ticket, command } => self.write(ticket, command, now),
            Event::Ask { ticket, question } => self.ask(ticket, question, now),
            Event::BlobStored(digest) => {
                if self.leads.is_some() {
                    self.proposals
                        .add(Command::BlobStored { digest }, Waiter::Nobody, now);
                }
            }
            Event::Tick => {
                // One that comes early, to flush, does not put off the next one.
                if self.is_tick_due(now) {
                    self.next_tick_ms = now.mono_ms + scheduler::TICK_MS;
                }
                self.raise_version(now);
                self.give_way(now);
                self.schedule(scheduler::Event::Tick, now);
            }
        }
        Ok(())
    }

    fn committed(&mut self, entries: Vec<Committed>, now: Now) -> Result<(), ApplyError> {
        let Some(last) = entries.last().map(|entry| entry.index) else {
            return Ok(());
        };
        let members = self.state.members().clone();
        for entry in entries {
            let applied = self
                .state
                .apply(entry.index, &entry.data)
                .map_err(|source| ApplyError::Entry {
                    index: entry.index,
                    source,
                })?;
            self.applied_term = entry.term;
            self.bytes_since_snapshot += entry.data.len();
            self.resolve(entry.proposal, &applied);
            self.effects(entry.index, applied, now);
        }
        // Before `Applied`: consensus must not change the membership by an older list.
        if *self.state.members() != members {
            self.out.push(Action::Members(self.state.members().clone()));
        }
        self.out.push(Action::Applied(last));
        self.answer_reads(now);
        self.take_snapshot();
        Ok(())
    }

    /// Takes a snapshot if it is time for one.
    fn take_snapshot(&mut self) {
        let index = self.state.applied();
        if self.is_snapshot_due(index) && self.store_failure.is_none() {
            let data = self.state.encode();
            self.snapshot_index = index;
            self.snapshot_bytes = data.len();
            self.bytes_since_snapshot = 0;
            self.out.push(Action::Snapshot { index, data });
        }
    }

    fn is_snapshot_due(&self, last: u64) -> bool {
        if (self.snapshot_index + 1..=last).contains(&self.snapshot_wanted) {
            return true;
        }
        let entries = last.saturating_sub(self.snapshot_index);
        let is_worth_it = self.bytes_since_snapshot >= self.snapshot_bytes / 8;
        (entries >= self.snapshot_entries && is_worth_it)
            || entries >= SNAPSHOT_ENTRIES_AT_MOST
            || self.bytes_since_snapshot >= SNAPSHOT_BYTES
    }

    /// Takes another leader's whole state in place of its own, which is older.
    fn installed(&mut self, index: u64, term: u64, data: &[u8]) -> Result<(), ApplyError> {
        let reads = self.state.reads();
        let mut state =
            State::decode(data).map_err(|source| ApplyError::Snapshot { index, source })?;
        state.hold_version(reads);
        state.begin_after(index);
        self.state = state;
        self.applied_term = term;
        self.snapshot_index = index;
        self.snapshot_bytes = data.len();
        self.bytes_since_snapshot = 0;
        self.out.push(Action::Members(self.state.members().clone()));
        self.out.push(Action::Applied(index));
        Ok(())
    }

    /// Answers those who waited for an entry of ours (`LEAD-1`).
    fn resolve(&mut self, proposal: Option<u64>, applied: &Applied) {
        let waiters = proposal
            .and_then(|token| self.proposals.applied(token))
            .unwrap_or_default();
        #[cfg(evoring_plants)]
        let waiters = match is_planted(Plant::AnswersMixedUp) {
            true => waiters.into_iter().rev().collect(),
            false => waiters,
        };
        for (waiter, outcome) in waiters.into_iter().zip(&applied.outcomes) {
            match waiter {
                Waiter::Nobody => {}
                Waiter::Worker(connection, sequence) => {
                    self.out.push(Action::Send {
                        connection,
                        command: WorkerCommand::Acknowledge { sequence },
                    });
                }
                Waiter::Client(ticket) => self.out.push(Action::Reply {
                    ticket,
                    outcome: Ok(outcome.clone()),
                }),
            }
        }
    }

    fn effects(&mut self, index: u64, applied: Applied, now: Now) {
        for effect in &applied.effects {
            match effect {
                Effect::Event(kind) => self.out.push(Action::Event {
                    index: Some(index),
                    kind: kind.clone(),
                }),
                // A node that takes office stores all blobs that are still pending then.
                Effect::StoreBlob(digest) if self.scheduler.is_some() => self.store_blob(*digest),
                _ => {}
            }
        }
        self.schedule(scheduler::Event::Applied(&applied.effects), now);
    }

    fn store_blob(&mut self, digest: Digest) {
        if let Some(bytes) = self.state.blobs().get(&digest) {
            self.out.push(Action::StoreBlob {
                digest,
                bytes: bytes.clone(),
            });
        }
    }

    /// Starts to schedule once everything that earlier leaders committed is applied (`LEAD-2`).
    fn take_office(&mut self, now: Now) {
        let Some(term) = self.leads else { return };
        if self.scheduler.is_some() || self.applied_term != term {
            return;
        }
        if self.state.lease_key().is_none() {
            if !std::mem::replace(&mut self.key_proposed, true) {
                let key = self.secrets.next_secret();
                self.proposals
                    .add(Command::SetLeaseKey { key }, Waiter::Nobody, now);
            }
            return;
        }
        let kind = EventKind::CoordinatorStarted {
            process: self.config.process,
            term,
        };
        self.out.push(Action::Event { index: None, kind });
        self.scheduler = Some(Scheduler::new(
            Term(term),
            self.config.blobs.clone(),
            &self.state,
            now,
        ));
        self.schedule(
            scheduler::Event::Writable(self.store_failure.is_none()),
            now,
        );
        let pending: Vec<Digest> = self.state.blobs().keys().copied().collect();
        pending
            .into_iter()
            .for_each(|digest| self.store_blob(digest));
        for (connection, hello) in std::mem::take(&mut self.early) {
            self.schedule(scheduler::Event::Hello { connection, hello }, now);
        }
        self.record_own_address(now);
    }

    fn step_down(&mut self, reason: &str) {
        self.leads = None;
        self.abandon_reads();
        let connections: Vec<ConnectionId> = self
            .scheduler
            .take()
            .iter()
            .flat_map(Scheduler::workers)
            .filter_map(|(_, worker)| worker.connection)
            .chain(std::mem::take(&mut self.early).into_keys())
            .collect();
        for connection in connections {
            self.send_elsewhere(connection, reason);
        }
        for ticket in self.proposals.abandon() {
            let message =
                format!("{reason}; whether the request was carried out is not known: repeat it");
            self.reply_error(ticket, ErrorCode::NotReady, message);
        }
    }

    fn hello(&mut self, connection: ConnectionId, hello: Hello, now: Now) {
        if self.scheduler.is_some() {
            self.schedule(scheduler::Event::Hello { connection, hello }, now);
        } else if self.is_elsewhere() {
            self.send_elsewhere(connection, "another coordinator leads");
        } else if self.early.len() < EARLY_HELLOS {
            self.early.insert(connection, hello);
        } else {
            let reason = "the coordinator is taking office; connect again".to_owned();
            self.out.push(Action::Close { connection, reason });
        }
    }

    fn schedule(&mut self, event: scheduler::Event<'_>, now: Now) {
        let Some(scheduler) = &mut self.scheduler else {
            return;
        };
        for action in scheduler.handle(event, &self.state, now) {
            match action {
                scheduler::Action::Send {
                    connection,
                    command,
                } => self.out.push(Action::Send {
                    connection,
                    command,
                }),
                scheduler::Action::Close { connection, reason } => {
                    self.out.push(Action::Close { connection, reason })
                }
                scheduler::Action::Propose {
                    command,
                    acknowledge,
                } => {
                    let waiter = acknowledge.map_or(Waiter::Nobody, |(connection, sequence)| {
                        Waiter::Worker(connection, sequence)
                    });
                    self.proposals.add(command, waiter, now);
                }
                scheduler::Action::ProposeRoster {
                    job,
                    demand,
                    number,
                    members,
                } => {
                    let secret = self.secrets.next_secret();
                    let command = Command::CommitRoster {
                        job,
                        demand,
                        number,
                        members,
                        secret,
                    };
                    self.proposals.add(command, Waiter::Nobody, now);
                }
                scheduler::Action::Event(kind) => {
                    self.out.push(Action::Event { index: None, kind })
                }
                scheduler::Action::Log { job, worker, lines } => {
                    self.out.push(Action::Log { job, worker, lines })
                }
            }
        }
    }

    fn submit(
        &mut self,
        ticket: Ticket,
        submission: Box<Submission>,
        refuse_unless_fits: bool,
        now: Now,
    ) {
        let is_known = self.state.submission(&submission.key).is_some();
        if let Some(scheduler) = self
            .scheduler
            .as_ref()
            .filter(|_| refuse_unless_fits && !is_known)
            && let Err(shortage) = scheduler.fits(submission.min_ranks)
        {
            let message = format!("job {:?} {shortage}", submission.name);
            self.reply_error(ticket, ErrorCode::Invalid, message);
            return;
        }
        self.write(ticket, Command::Submit(submission), now);
    }

    fn write(&mut self, ticket: Ticket, command: Command, now: Now) {
        let command = command.as_of(self.state.version());
        // What ends work, and makes room, is still taken while space is low.
        let refuses = match &command {
            Command::Submit(_) | Command::Label { .. } | Command::LabelOnce { .. } => {
                self.read_only()
            }
            _ => self.store_failure.as_deref(),
        };
        if self.is_elsewhere() {
            self.deny(ticket);
        } else if command.since() > self.state.version() {
            let message = format!(
                "the group still has coordinators of a build that cannot do this (version {} of the \
                 records is in force, {} is needed): upgrade them all, then repeat it",
                self.state.version(),
                command.since()
            );
            self.reply_error(ticket, ErrorCode::NotReady, message);
        } else if let Some(reason) = refuses {
            let message = format!("the coordinator only reads: {reason}");
            self.reply_error(ticket, ErrorCode::ReadOnly, message);
        } else if self.scheduler.is_none() {
            let message = "the coordinator is taking office; ask again".to_owned();
            self.reply_error(ticket, ErrorCode::NotReady, message);
        } else {
            #[cfg(evoring_plants)]
            let is_label = matches!(command, Command::Label { .. } | Command::LabelOnce { .. });
            #[cfg(evoring_plants)]
            if is_label && is_planted(Plant::AnswersAtPropose) {
                let outcome = Ok(crate::state::Outcome::Done);
                self.out.push(Action::Reply { ticket, outcome });
                return self.proposals.add(command, Waiter::Nobody, now);
            }
            self.proposals.add(command, Waiter::Client(ticket), now);
        }
    }

    fn reply_error(&mut self, ticket: Ticket, code: ErrorCode, message: String) {
        self.out.push(Action::Reply {
            ticket,
            outcome: Err(RemoteError::new(code, message).into()),
        });
    }

    fn deny(&mut self, ticket: Ticket) {
        let outcome = Err(Denial::NotLeader(self.leader_hint()));
        self.out.push(Action::Reply { ticket, outcome });
    }

    fn refused(&mut self, token: u64, reason: Refusal, now: Now) {
        match reason {
            Refusal::NotLeader => self.step_down("this coordinator lost its office"),
            Refusal::NotNow => self.proposals.again(token, now),
        }
    }

    /// The store failed, or takes writes again (`LEAD-3`).
    fn store(&mut self, outcome: Result<(), String>, now: Now) {
        let had_failed = self.store_failure.is_some();
        self.store_failure = outcome.err();
        if let Some(reason) = self.store_failure.clone().filter(|_| !had_failed) {
            for ticket in self.proposals.clients() {
                let message = format!(
                    "the coordinator only reads: {reason}; the request may still be carried out when it writes again"
                );
                self.reply_error(ticket, ErrorCode::ReadOnly, message);
            }
        }
        self.announce_writability();
        if had_failed != self.store_failure.is_some() {
            self.schedule(scheduler::Event::Writable(had_failed), now);
        }
    }

    /// Says in an event when writes begin or cease to be refused.
    fn announce_writability(&mut self) {
        let reason = self.read_only().map(str::to_owned);
        if reason.is_some() == self.says_read_only {
            return;
        }
        self.says_read_only = reason.is_some();
        let kind = match reason {
            Some(reason) => EventKind::CoordinatorReadOnly { reason },
            None => EventKind::CoordinatorWritable,
        };
        self.out.push(Action::Event { index: None, kind });
    }

    fn flush(&mut self, now: Now) {
        if self.leads.is_none() || self.store_failure.is_some() {
            return;
        }
        // Replicated time never goes back, whatever the leader's clock does.
        let time_ms = now.wall_ms.max(self.state.time_ms());
        #[cfg(evoring_plants)]
        let time_ms = match is_planted(Plant::TimeGoesBack) {
            true => now.wall_ms,
            false => time_ms,
        };
        let version = self.state.version();
        while let Some((token, data)) = self.proposals.take_batch(now, time_ms, version) {
            self.out.push(Action::Propose { token, data });
        }
    }
}

#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
