//! Who computes what now: the leader's soft state, rebuilt from the replicated state on taking
//! office. Pure: events and the time in, actions out.
//!
//! - `SCHED-1`: nothing is granted to a slot before its worker's hello, and nothing at all before
//!   the workers that the cluster knows are back or the grace is over.
//! - `SCHED-2`: a slot runs one lease or one rank; a gang gets all its slots at once or none.
//! - `SCHED-3`: the first result of an item counts; delivery is welcome from any lease whose MAC
//!   is right, however old.
//! - `SCHED-4`: a report is acknowledged only when what it says is applied, hence durable, or
//!   when it changes nothing, or when the worker's next hello says the same (a lost peer).
//! - `SCHED-5`: a roster that lost a member is voided before any member gets other work.
//! - `SCHED-6`: a gang's ranks share a host, because only the collective over shared memory exists.
//! - `SCHED-7`: what failed waits a moment, and goes to another worker while one could take it; a
//!   worker on which everything fails gets nothing for a while.

mod effects;
mod explain;
mod gangs;
mod mac;
mod maps;
mod reports;
mod retries;
mod table;
mod view;
mod workers;

pub use table::{Failures, Use, Worker};

use crate::state::{Command, Effect, State};
use evoring_protocol::event::EventKind;
use evoring_protocol::work::{Kernel, Member};
use evoring_protocol::worker::{Hello, RECONNECT_MS, ROUND_MS, WorkerCommand, WorkerReport};
use evoring_protocol::{DemandId, JobId, RosterNumber, Term, WorkerId};
use gangs::GangWork;
use maps::{MapWork, Running};
use std::collections::{BTreeMap, BTreeSet};
use table::Workers;

/// Agents send a sign of life this often.
pub const HEARTBEAT_MS: u64 = 500;
/// A worker that is silent for this long is lost.
pub const LOST_MS: u64 = 2_000;
/// After taking office, known workers have this long to come back before their work goes to others:
/// a round of attempts that began too early to succeed, the pause after it, and a second for the next.
pub const GRACE_MS: u64 = ROUND_MS + RECONNECT_MS + 1_000;
/// The scheduler wants [`Event::Tick`] this often.
pub const TICK_MS: u64 = 50;
/// A tick that comes later than this after the last one says that this process stood still, and
/// nothing about the workers.
const LATE_TICK_MS: u64 = HEARTBEAT_MS;

/// Names one connection of one worker; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic clock, milliseconds since some moment of this process.
    pub mono_ms: u64,
    /// Wall clock, milliseconds since 1970.
    pub wall_ms: u64,
}

/// What happens to the scheduler.
#[derive(Debug)]
pub enum Event<'a> {
    /// A worker said hello on a new connection.
    Hello {
        /// The connection.
        connection: ConnectionId,
        /// The hello; its name has been checked against the certificate.
        hello: Hello,
    },
    /// A worker said something else.
    Report {
        /// The connection.
        connection: ConnectionId,
        /// What.
        report: WorkerReport,
    },
    /// A connection ended.
    Disconnected {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        reason: String,
    },
    /// Effects of an applied entry.
    Applied(&'a [Effect]),
    /// The store takes writes, or does not: then nothing new is granted.
    Writable(bool),
    /// Time passes.
    Tick,
}

/// What the scheduler wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Say something to a worker.
    Send {
        /// Its connection.
        connection: ConnectionId,
        /// What.
        command: WorkerCommand,
    },
    /// End a connection.
    Close {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: String,
    },
    /// Put a command into the log; acknowledge the report once it is applied.
    Propose {
        /// The command.
        command: Command,
        /// Connection and number of the report.
        acknowledge: Option<(ConnectionId, u64)>,
    },
    /// Put [`Command::CommitRoster`] into the log, with a secret from true randomness.
    ProposeRoster {
        /// The job.
        job: JobId,
        /// The gang.
        demand: DemandId,
        /// The roster's number.
        number: RosterNumber,
        /// Members by rank.
        members: Vec<Member>,
    },
    /// Append to the event file.
    Event(EventKind),
    /// Append to a job's log.
    Log {
        /// The job.
        job: JobId,
        /// Who says it.
        worker: WorkerId,
        /// What.
        lines: Vec<String>,
    },
}

/// What every method needs beside the soft state.
#[derive(Clone, Copy)]
struct Context<'a> {
    state: &'a State,
    now: Now,
}

/// The soft state.
#[derive(Debug)]
pub struct Scheduler {
    term: Term,
    /// Where agents find blobs.
    blobs: String,
    next_lease: u64,
    workers: Workers,
    maps: BTreeMap<(JobId, DemandId), MapWork>,
    gangs: BTreeMap<(JobId, DemandId), GangWork>,
    leases: BTreeMap<(Term, u64), Running>,
    /// Measured time of one item, by job and kernel.
    item_times: BTreeMap<(JobId, Kernel), f64>,
    /// Jobs whose class is proposed.
    classes_proposed: BTreeSet<JobId>,
    /// Slots of a host that wait for a gang: maps keep away from as many idle ones.
    reserved: BTreeMap<String, u32>,
    office_since_ms: u64,
    ticked_ms: u64,
    in_grace: bool,
    is_writable: bool,
    gangs_tried_ms: u64,
    /// Something changed for waiting gangs since they were tried.
    gangs_changed: bool,
    out: Vec<Action>,
}

impl Scheduler {
    /// Takes office in `term`: everything that the state wants is unassigned until workers say
    /// what they hold.
    pub fn new(term: Term, blobs: String, state: &State, now: Now) -> Self {
        let mut scheduler = Self {
            term,
            blobs,
            next_lease: 1,
            workers: Workers::default(),
            maps: BTreeMap::new(),
            gangs: BTreeMap::new(),
            leases: BTreeMap::new(),
            item_times: BTreeMap::new(),
            classes_proposed: BTreeSet::new(),
            reserved: BTreeMap::new(),
            office_since_ms: now.mono_ms,
            ticked_ms: now.mono_ms,
            in_grace: true,
            is_writable: true,
            gangs_tried_ms: 0,
            gangs_changed: true,
            out: Vec::new(),
        };
        let context = Context { state, now };
        for (job, _, work) in state.active_jobs() {
            for &demand in work.demands.keys() {
                scheduler.demand_started(context, job, demand);
            }
        }
        scheduler
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event<'_>, state: &State, now: Now) -> Vec<Action> {
        let context = Context { state, now };
        match event {
            Event::Hello { connection, hello } => self.hello(context, connection, hello),
            Event::Report { connection, report } => self.report(context, connection, report),
            Event::Disconnected { connection, reason } => {
                self.disconnected(context, connection, &reason)
            }
            Event::Applied(effects) => effects
                .iter()
                .for_each(|effect| self.applied(context, effect)),
            Event::Writable(is_writable) => self.is_writable = is_writable,
            Event::Tick => self.tick(context),
        }
        self.end_grace(context);
        self.place(context);
        std::mem::take(&mut self.out)
    }

    fn tick(&mut self, context: Context<'_>) {
        let now_ms = context.now.mono_ms;
        // What workers said while this process stood still waits behind this tick.
        if now_ms.saturating_sub(self.ticked_ms) > LATE_TICK_MS {
            self.workers.all_heard(now_ms);
            self.prolong_suspicions(now_ms);
        }
        self.ticked_ms = now_ms;
        let silent = self.workers.silent_since(now_ms.saturating_sub(LOST_MS));
        for connection in silent {
            let reason = format!("no sign of life for {LOST_MS} ms");
            self.out.push(Action::Close {
                connection,
                reason: reason.clone(),
            });
            self.disconnected(context, connection, &reason);
        }
        self.workers.end_restarting(now_ms);
        self.workers.end_quarantines(now_ms);
        for map in self.maps.values_mut() {
            map.end_delays(now_ms);
        }
        self.expire_leases(context);
        self.end_suspicions(context);
        if !self.in_grace && self.is_writable {
            self.place_copies(context);
        }
    }

    /// The grace ends when every known worker is back, or by time; rosters with absent members
    /// are voided then (`SCHED-1`).
    fn end_grace(&mut self, context: Context<'_>) {
        if !self.in_grace {
            return;
        }
        let is_over = context.now.mono_ms >= self.office_since_ms + GRACE_MS;
        if is_over
            || context
                .state
                .workers()
                .keys()
                .all(|worker| self.workers.is_connected(worker))
        {
            self.in_grace = false;
            self.void_absent(context);
            self.tell_absent(context);
        }
    }

    /// Fills idle slots.
    fn place(&mut self, context: Context<'_>) {
        if self.in_grace || !self.is_writable {
            return;
        }
        self.place_gangs(context);
        self.place_maps(context);
    }

    fn send(&mut self, connection: ConnectionId, command: WorkerCommand) {
        self.out.push(Action::Send {
            connection,
            command,
        });
    }

    fn propose(&mut self, command: Command) {
        self.out.push(Action::Propose {
            command,
            acknowledge: None,
        });
    }

    fn event(&mut self, event: EventKind) {
        self.out.push(Action::Event(event));
    }

    /// Whether known workers are still awaited.
    pub fn is_in_grace(&self) -> bool {
        self.in_grace
    }

    /// The workers.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter()
    }
}

#[cfg(test)]
mod tests;
