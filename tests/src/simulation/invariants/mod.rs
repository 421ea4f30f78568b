//! What must hold, whatever fails: one file for each of the invariants.
//!
//! Each is told what happens and says at once what is wrong. `start`, `apply` and `store` are the
//! names of violations that the cores themselves report.

pub(super) mod bounds;
pub(super) mod checkpoints;
mod history;
mod identity;
mod items;
mod jobs;
mod liveness;
mod log;
mod membership;
pub(super) mod rosters;
pub(super) mod slots;
mod stores;
mod terms;
mod time;

pub(super) use log::FIRST_INDEX;

use super::counters::{Counters, Sometimes};
use super::process::Birth;
use super::trace::Trace;
use super::world::World;
use evoring_coordinator::consensus::{Consensus, Refusal, Rejection};
use evoring_coordinator::leader;
use evoring_coordinator::state::{Batch, NEWEST_RECORDS, State};
use evoring_coordinator::storage::{LogWrite, Stored};
use evoring_protocol::worker::WorkerCommand;
use raft::eraftpb::{ConfState, Message};

/// Something that must not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {what}")]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// What happened.
    pub what: String,
}

impl Violation {
    pub(super) fn new(invariant: &'static str, what: String) -> Self {
        Self { invariant, what }
    }
}

/// Whether an invariant holds.
pub(super) type Checked = Result<(), Violation>;

/// All invariants, and what else is told of every event.
pub(super) struct Watch {
    pub trace: Trace,
    pub counters: Counters,
    pub terms: terms::Terms,
    pub log: log::AppliedLog,
    pub jobs: jobs::Jobs,
    pub items: items::Items,
    pub rosters: rosters::Rosters,
    pub checkpoints: checkpoints::Checkpoints,
    pub membership: membership::Membership,
    pub stores: stores::Stores,
    pub history: history::History,
    /// Whether a worker makes things up.
    has_rogue: bool,
    version: u16,
    time: time::Time,
}

impl Watch {
    pub(super) fn new(first: State, has_rogue: bool) -> Self {
        Self {
            trace: Trace::default(),
            counters: Counters::default(),
            terms: terms::Terms::default(),
            jobs: jobs::Jobs::default(),
            items: items::Items::default(),
            rosters: rosters::Rosters::default(),
            checkpoints: checkpoints::Checkpoints::default(),
            membership: membership::Membership::default(),
            stores: stores::Stores::default(),
            history: history::History::default(),
            has_rogue,
            version: first.version(),
            time: time::Time::since(&first),
            log: log::AppliedLog::new(first),
        }
    }

    pub(super) fn started(&mut self, birth: &Birth, stored: &Stored, state: &State) -> Checked {
        self.stores.opened(birth.host, stored)?;
        self.log.started(birth.host, stored, state)
    }

    pub(super) fn after_consensus(&mut self, birth: &Birth, consensus: &Consensus) -> Checked {
        self.terms.stands(birth.id, consensus)?;
        self.log.committed(birth.host, consensus.committed())
    }

    /// Whether the state will have changed after this event.
    pub(super) fn before_leader(
        &mut self,
        birth: &Birth,
        term: u64,
        event: &leader::Event,
    ) -> Result<bool, Violation> {
        match event {
            leader::Event::Committed(entries) => {
                for entry in entries {
                    let digest = self.log.applies(birth.host, term, entry)?;
                    self.trace.note([birth.id, entry.index, digest]);
                }
            }
            leader::Event::Installed { .. } => self.counters.hit(Sometimes::SnapshotInstalled),
            leader::Event::SteppedDown => {
                self.counters.hit(Sometimes::SteppedDown);
                return Ok(false);
            }
            leader::Event::Refused { reason, .. } => {
                self.counters.hit(match reason {
                    Refusal::NotLeader => Sometimes::ProposalRefused,
                    Refusal::NotNow => Sometimes::ProposalPutOff,
                });
                return Ok(false);
            }
            leader::Event::ReadReady { .. } => {
                self.counters.hit(Sometimes::ReadAnswered);
                return Ok(false);
            }
            leader::Event::ReadFailed { .. } => {
                self.counters.hit(Sometimes::ReadFailed);
                return Ok(false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn after_apply(&mut self, birth: &Birth, state: &State) -> Checked {
        self.log.state(birth.host, state)
    }

    pub(super) fn elected(&mut self, birth: &Birth, consensus: &Consensus) -> Checked {
        self.counters.hit(Sometimes::Elected);
        self.membership
            .elected(consensus.term(), consensus.membership());
        self.log.elected(birth.host, consensus)
    }

    pub(super) fn sends(&mut self, birth: &Birth, message: &Message) -> Checked {
        self.terms.sends(birth.id, message)?;
        self.stores.sends(birth.host, message)
    }

    pub(super) fn rejected(&mut self, birth: &Birth, rejection: &Rejection) -> Checked {
        let what = format!("member {} refused a message: {rejection}", birth.id);
        Err(Violation::new("rejected", what))
    }

    pub(super) fn membership(
        &mut self,
        birth: &Birth,
        consensus: &Consensus,
        membership: &ConfState,
    ) -> Checked {
        if consensus.is_leader() {
            let term = consensus.term();
            self.membership
                .led(birth, term, membership, &mut self.counters);
        }
        self.membership.changed(birth, membership)
    }

    /// A process has ended; `written` may be on its disk or not.
    pub(super) fn ended(&mut self, host: usize, written: Option<LogWrite>) {
        self.stores.ended(host, written);
    }

    pub(super) fn durable(&mut self, birth: &Birth, write: &LogWrite) -> Checked {
        if write.snapshot.is_some() && !write.installs {
            self.counters.hit(Sometimes::SnapshotTaken);
        }
        if self.stores.is_replaced_by(birth.host, write) {
            self.counters.hit(Sometimes::TailOverwritten);
        }
        if let Some(snapshot) = &write.snapshot {
            self.log.stored(birth.host, snapshot)?;
        }
        self.stores.durable(birth.host, write)
    }

    pub(super) fn snapshot(&mut self, birth: &Birth, index: u64, data: &[u8]) -> Checked {
        self.log.snapshot(birth.host, index, data)
    }

    pub(super) fn commands(
        &mut self,
        _: &Birth,
        command: &WorkerCommand,
        state: &State,
    ) -> Checked {
        self.items.commands(command, state)
    }

    /// Looks at what the entries led to that were applied for the first time just now.
    pub(super) fn news(&mut self) -> Checked {
        if self.log.news.is_empty() {
            return Ok(());
        }
        let counters = &mut self.counters;
        for (index, data, applied) in std::mem::take(&mut self.log.news) {
            if data.is_empty() {
                continue;
            }
            if self.has_rogue {
                identity::applied(index, &data)?;
            }
            let batch = Batch::decode(&data, NEWEST_RECORDS).map_err(|error| {
                Violation::new("log", format!("entry {index} does not decode: {error}"))
            })?;
            // The state is that after the last of them: what is asked of it is true from then on.
            let state = self.log.reference();
            self.items
                .applied(&batch.commands, &applied, state, counters)?;
            self.rosters.applied(&batch.commands, &applied, counters)?;
            self.checkpoints.applied(&batch.commands, &applied)?;
        }
        let state = self.log.reference();
        self.time.passed(state)?;
        self.rosters.results(state)?;
        self.jobs.changed(state, counters)?;
        if state.version() != self.version {
            self.version = state.version();
            self.counters.hit(Sometimes::VersionRaised);
        }
        Ok(())
    }
}

/// What must be true when all is over.
pub(super) fn at_end(world: &World) -> Checked {
    for (index, host) in world.hosts.iter().enumerate() {
        if let Some(process) = &host.process {
            world.watch.log.equals(index, process.leader.state())?;
        }
    }
    bounds::now(world)?;
    world.watch.history.explained()?;
    liveness::at_end(world)?;
    membership::at_end(world)
}
