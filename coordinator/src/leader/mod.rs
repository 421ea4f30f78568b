//! One coordinator's decisions in one place: the replicated state, the scheduler while this node
//! leads, and the commands on their way into the log. Pure: events and the time in, actions out.
//!
//! - `LEAD-1`: nothing is acknowledged or answered before the entry with its command is applied.
//! - `LEAD-2`: the scheduler exists only while this node leads and has applied everything that
//!   earlier leaders committed.
//! - `LEAD-3`: while the store takes no writes, writes are refused, and what workers deliver waits;
//!   while space is merely low, running jobs go on and new ones are refused.

mod proposals;
mod questions;
mod secrets;

pub use proposals::{BATCH_MS, IN_FLIGHT};
pub use questions::{Answer, Question};
pub use secrets::Secrets;

use crate::consensus::{Committed, Refusal};
use crate::scheduler::{self, ConnectionId, Now, Scheduler};
use crate::state::{Applied, BatchError, Command, Effect, Outcome, State, Submission};
use evoring_protocol::event::EventKind;
use evoring_protocol::worker::{Hello, WorkerCommand, WorkerReport};
use evoring_protocol::{Digest, ErrorCode, JobId, RemoteError, Term, WorkerId};
use proposals::{Proposals, Waiter};
use std::collections::BTreeMap;

/// A snapshot is taken after this many entries …
const SNAPSHOT_ENTRIES: u64 = 4_096;
/// … or bytes of entries.
const SNAPSHOT_BYTES: usize = 32 << 20;
/// Hellos that wait for this node to take office.
const EARLY_HELLOS: usize = 16_384;

/// Names a client's request that waits for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What happens to a leader.
#[derive(Debug)]
pub enum Event {
    /// Entries are committed.
    Committed(Vec<Committed>),
    /// This node leads.
    Elected {
        /// Since this term.
        term: u64,
    },
    /// It leads no more.
    SteppedDown,
    /// A proposal is not in the log.
    Refused {
        /// Which.
        token: u64,
        /// Why.
        reason: Refusal,
    },
    /// The store takes no writes, for this reason; or takes them again.
    Store(Result<(), String>),
    /// Space is so low, for this reason, that no new jobs can be taken; or it is not.
    Space(Option<String>),
    /// A worker said hello.
    Hello {
        /// On this connection.
        connection: ConnectionId,
        /// What.
        hello: Hello,
    },
    /// A worker said something else.
    Report {
        /// On this connection.
        connection: ConnectionId,
        /// What.
        report: WorkerReport,
    },
    /// A worker's connection ended.
    Disconnected {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: String,
    },
    /// A client submits a job.
    Submit {
        /// To be answered.
        ticket: Ticket,
        /// The job.
        submission: Box<Submission>,
        /// Refuse it if its gangs need more slots than there are.
        refuse_unless_fits: bool,
    },
    /// A client cancels a job.
    Cancel {
        /// To be answered.
        ticket: Ticket,
        /// The job.
        job: JobId,
    },
    /// The blob store has a driver's blob.
    BlobStored(Digest),
    /// Time passes.
    Tick,
}

/// What a leader wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Propose an entry.
    Propose {
        /// Names the proposal.
        token: u64,
        /// The entry.
        data: Vec<u8>,
    },
    /// Entries up to here are applied.
    Applied(u64),
    /// The encoded state at this index.
    Snapshot {
        /// Last index that it contains.
        index: u64,
        /// The state.
        data: Vec<u8>,
    },
    /// Say something to a worker.
    Send {
        /// On this connection.
        connection: ConnectionId,
        /// What.
        command: WorkerCommand,
    },
    /// End a worker's connection.
    Close {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: String,
    },
    /// Answer a client.
    Reply {
        /// Whom.
        ticket: Ticket,
        /// What.
        outcome: Result<Outcome, RemoteError>,
    },
    /// Append to the event file; events of entries that it already holds are skipped.
    Event {
        /// Index of the entry, for events that every replay of the log gives again.
        index: Option<u64>,
        /// What happened.
        kind: EventKind,
    },
    /// Append to a job's log.
    Log {
        /// The job.
        job: JobId,
        /// Who says it.
        worker: WorkerId,
        /// What.
        lines: Vec<String>,
    },
    /// Write a blob to the blob store.
    StoreBlob {
        /// Its name.
        digest: Digest,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

/// An entry that this build cannot apply: the coordinator must stop.
#[derive(Debug, thiserror::Error)]
#[error("entry {index} of the log cannot be applied: {source}")]
pub struct ApplyError {
    /// Its index.
    pub index: u64,
    /// Why.
    pub source: BatchError,
}

/// What a leader knows about itself, fixed at its start.
#[derive(Debug, Clone)]
pub struct LeaderConfig {
    /// Process id, for people and tests.
    pub process: u32,
    /// URL of the blob store, for agents.
    pub blobs: String,
}

/// One coordinator's decisions.
#[derive(Debug)]
pub struct Leader {
    config: LeaderConfig,
    state: State,
    scheduler: Option<Scheduler>,
    proposals: Proposals,
    secrets: Secrets,
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
    snapshot_index: u64,
    bytes_since_snapshot: usize,
    out: Vec<Action>,
}

impl Leader {
    /// Takes up a state; entries after it follow as [`Event::Committed`].
    pub fn new(config: LeaderConfig, state: State, secrets: Secrets) -> Self {
        Self {
            config,
            snapshot_index: state.applied(),
            state,
            scheduler: None,
            proposals: Proposals::default(),
            secrets,
            leads: None,
            applied_term: 0,
            key_proposed: false,
            store_failure: None,
            low_space: None,
            says_read_only: false,
            early: BTreeMap::new(),
            next_tick_ms: 0,
            bytes_since_snapshot: 0,
            out: Vec::new(),
        }
    }

    /// The replicated state.
    pub fn state(&self) -> &State {
        &self.state
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
        let flush_ms = self.proposals.deadline_ms().unwrap_or(u64::MAX);
        flush_ms.min(self.next_tick_ms)
    }

    /// Takes one event.
    ///
    /// # Errors
    /// [`ApplyError`] if the log holds what this build cannot apply.
    pub fn handle(&mut self, event: Event, now: Now) -> Result<Vec<Action>, ApplyError> {
        match event {
            Event::Committed(entries) => self.committed(entries, now)?,
            Event::Elected { term } => {
                self.leads = Some(term);
                self.key_proposed = false;
            }
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
            Event::Cancel { ticket, job } => self.write(ticket, Command::Cancel { job }, now),
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
                self.schedule(scheduler::Event::Tick, now);
            }
        }
        self.take_office(now);
        self.flush(now);
        Ok(std::mem::take(&mut self.out))
    }

    fn committed(&mut self, entries: Vec<Committed>, now: Now) -> Result<(), ApplyError> {
        let Some(last) = entries.last().map(|entry| entry.index) else {
            return Ok(());
        };
        for entry in entries {
            let applied = self
                .state
                .apply(entry.index, &entry.data)
                .map_err(|source| ApplyError {
                    index: entry.index,
                    source,
                })?;
            self.applied_term = entry.term;
            self.bytes_since_snapshot += entry.data.len();
            self.resolve(entry.proposal, &applied);
            self.effects(entry.index, applied, now);
        }
        self.out.push(Action::Applied(last));
        let is_due = last - self.snapshot_index >= SNAPSHOT_ENTRIES
            || self.bytes_since_snapshot >= SNAPSHOT_BYTES;
        if is_due && self.store_failure.is_none() {
            self.snapshot_index = last;
            self.bytes_since_snapshot = 0;
            self.out.push(Action::Snapshot {
                index: last,
                data: self.state.encode(),
            });
        }
        Ok(())
    }

    /// Answers those who waited for an entry of ours (`LEAD-1`).
    fn resolve(&mut self, proposal: Option<u64>, applied: &Applied) {
        let waiters = proposal
            .and_then(|token| self.proposals.applied(token))
            .unwrap_or_default();
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
    }

    fn step_down(&mut self, reason: &str) {
        self.leads = None;
        let connections: Vec<ConnectionId> = self
            .scheduler
            .take()
            .iter()
            .flat_map(Scheduler::workers)
            .filter_map(|(_, worker)| worker.connection)
            .chain(std::mem::take(&mut self.early).into_keys())
            .collect();
        for connection in connections {
            self.out.push(Action::Close {
                connection,
                reason: reason.to_owned(),
            });
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
        // What ends work, and makes room, is still taken while space is low.
        let refuses = match &command {
            Command::Cancel { .. } => self.store_failure.as_deref(),
            _ => self.read_only(),
        };
        if let Some(reason) = refuses {
            let message = format!("the coordinator only reads: {reason}");
            self.reply_error(ticket, ErrorCode::ReadOnly, message);
        } else if self.scheduler.is_none() {
            let message = "the coordinator is taking office; ask again".to_owned();
            self.reply_error(ticket, ErrorCode::NotReady, message);
        } else {
            self.proposals.add(command, Waiter::Client(ticket), now);
        }
    }

    fn reply_error(&mut self, ticket: Ticket, code: ErrorCode, message: String) {
        self.out.push(Action::Reply {
            ticket,
            outcome: Err(RemoteError::new(code, message)),
        });
    }

    fn refused(&mut self, token: u64, reason: Refusal, now: Now) {
        match reason {
            Refusal::NotLeader => self.step_down("this coordinator lost its office"),
            Refusal::Full => self.proposals.again(token, now),
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
        while let Some((token, data)) = self.proposals.take_batch(now, time_ms) {
            self.out.push(Action::Propose { token, data });
        }
    }
}

#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
