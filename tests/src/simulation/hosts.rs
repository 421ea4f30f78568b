//! The machines of coordinators: their processes, disks and clocks.

use super::agents::Down;
use super::counters::Sometimes;
use super::dice::Dice;
use super::invariants::{Checked, Violation};
use super::peers::PeerNote;
use super::plan;
use super::process::{Birth, Broken, Input, Output, Process, Thread};
use super::world::{Happening, MS, OfProcess, SECOND, World};
use evoring_coordinator::consensus::{self, StopReason};
use evoring_coordinator::leader;
use evoring_coordinator::scheduler::Now;
use evoring_coordinator::state::{NEWEST_RECORDS, State};
use evoring_coordinator::storage::{
    DiskFaults, LogStore, LogWrite, RedbStore, SectorStore, SimDisk, StorageError,
};
use raft::eraftpb::ConfState;
use std::sync::Arc;

/// Wall clock at the beginning.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// A coordinator tells the others how it is this often.
const HEALTH_US: u64 = 500 * MS;
/// A full disk is tried again this often.
const RETRY_US: u64 = 500 * MS;
/// A process that cannot go on is started again after this, by whoever watches it.
const SUPERVISOR_US: u64 = 5 * SECOND;

/// What keeps logs, on a simulated disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    /// The quick one, for simulations.
    Sector,
    /// The one that coordinators use.
    Redb,
}

impl Store {
    fn open(self, disk: &SimDisk) -> Result<Box<dyn LogStore>, StorageError> {
        let disk = Arc::new(disk.clone());
        Ok(match self {
            Self::Sector => Box::new(SectorStore::open_on(disk)?),
            Self::Redb => Box::new(RedbStore::open_on(disk)?),
        })
    }
}

/// Why a machine has no process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// It was never told to be a member.
    Spare,
    /// It will be started.
    Down,
    /// It was removed from the group.
    Retired,
    /// Its store is damaged; an operator must replace it.
    Corrupt,
}

/// A machine.
pub(super) struct Host {
    pub name: String,
    pub address: String,
    pub id: Option<u64>,
    pub process: Option<Process>,
    pub absence: Absence,
    pub disk: SimDisk,
    pub reads: u16,
    /// Whether bits of its disk were flipped.
    pub was_damaged: bool,
    /// … and it was not opened since.
    pub is_suspect: bool,
    /// Its clock is faster by this many millionths.
    pub drift: i64,
    pub wall_offset_ms: i64,
    /// What came while it stood still.
    pub backlog: Option<Vec<Happening>>,
    /// … since when.
    pub paused_at: u64,
    /// Until when its disk stands still.
    pub stalled_until: u64,
    /// It was chosen to become a member.
    pub is_reserved: bool,
    /// Another machine takes its place.
    pub is_replaced: bool,
}

impl Host {
    /// Milliseconds of its monotonic clock since a moment.
    fn elapsed_ms(&self, since: u64, now: u64) -> u64 {
        let real = now.saturating_sub(since) as i128;
        (real * (1_000_000 + i128::from(self.drift)) / 1_000_000_000) as u64
    }

    pub(super) fn clock(&self, now: u64) -> Now {
        let started = self
            .process
            .as_ref()
            .map_or(0, |process| process.started_us);
        let wall = (EPOCH_MS + self.elapsed_ms(0, now)) as i64 + self.wall_offset_ms;
        Now {
            mono_ms: self.elapsed_ms(started, now),
            wall_ms: wall.max(0) as u64,
        }
    }

    pub(super) fn boot(&self) -> u64 {
        self.process
            .as_ref()
            .map_or(0, |process| process.birth.boot)
    }
}

impl World {
    pub(super) fn make_hosts(&mut self, first: &State) -> Checked {
        let count = self.plan.members + self.plan.spares;
        for index in 0..count as usize {
            let is_member = (index as u64) < self.plan.members;
            let mut host = Host {
                name: plan::name(index),
                address: plan::address(index),
                id: is_member.then_some(index as u64 + 1),
                process: None,
                absence: if is_member {
                    Absence::Down
                } else {
                    Absence::Spare
                },
                disk: SimDisk::new(),
                // New machines come with the new build.
                reads: if is_member {
                    self.plan.first_reads()
                } else {
                    NEWEST_RECORDS
                },
                was_damaged: false,
                is_suspect: false,
                drift: 0,
                wall_offset_ms: 0,
                backlog: None,
                paused_at: 0,
                stalled_until: 0,
                is_reserved: false,
                is_replaced: false,
            };
            if self.plan.clock_faults {
                host.drift = self.dice.between(0, 200_000) as i64 - 100_000;
            }
            if is_member {
                let write = first_write(self.plan.members, first.encode());
                let store = self.plan.store.open(&host.disk);
                let stored = store.and_then(|mut store| store.write(&write));
                stored.map_err(|error| Violation::new("store", error.to_string()))?;
                self.watch.stores.begins(index, &write)?;
                host.disk.end_process();
                host.disk.settle();
                host.disk.set_faults(DiskFaults {
                    syncs_lie: self.plan.disks_lie,
                    ..DiskFaults::default()
                });
                let delay = self.dice.below(300 * MS);
                self.after(delay, Happening::Start(index));
            }
            self.hosts.push(host);
        }
        Ok(())
    }

    pub(super) fn start_host(&mut self, index: usize) -> Checked {
        let (seed, snapshot_entries) = (self.plan.seed, self.plan.snapshot_entries);
        self.last_boot += 1;
        let boot = self.last_boot;
        let Some(host) = self.hosts.get_mut(index) else {
            return Ok(());
        };
        let Some(id) = host.id.filter(|_| host.process.is_none()) else {
            return Ok(());
        };
        let is_away = self.now < self.faults.away_until;
        if is_away || matches!(host.absence, Absence::Retired | Absence::Corrupt) {
            return Ok(());
        }
        let birth = Birth {
            host: index,
            id,
            boot,
            seed,
            name: host.name.clone(),
            address: host.address.clone(),
            reads: host.reads,
            snapshot_entries,
            is_slow: self.plan.slow_threads,
        };
        let mut store = match self.plan.store.open(&host.disk) {
            Ok(store) => store,
            Err(StorageError::Corrupt { .. }) if host.was_damaged => {
                return self.found_corrupt(index);
            }
            Err(StorageError::Io { .. } | StorageError::Full { .. })
                if host.disk.faults().is_full || host.disk.faults().syncs_fail =>
            {
                // Whoever watches it starts it again.
                host.disk.end_process();
                self.after(SUPERVISOR_US, Happening::Start(index));
                return Ok(());
            }
            Err(error) => return Err(Violation::new("store", error.to_string())),
        };
        store.expect_space(self.plan.expects_space);
        let process = match Process::start(birth, store, self.now, &mut self.watch) {
            Ok(process) => process,
            Err(violation) if host.was_damaged && violation.invariant == "corrupt" => {
                return self.found_corrupt(index);
            }
            Err(violation) => return Err(violation),
        };
        if std::mem::take(&mut host.is_suspect) {
            // What was damaged is no live data: all that was confirmed is there.
            self.watch.counters.hit(Sometimes::HarmlessDamage);
        }
        host.process = Some(process);
        host.absence = Absence::Down;
        let phase = self.dice.below(20 * MS);
        self.after_of(phase, index, boot, OfProcess::RaftTick);
        self.after_of(0, index, boot, OfProcess::TellHealth);
        let is_alone = |process: &Process| process.consensus.membership().voters == [id];
        match &self.hosts[index].process {
            Some(process) if is_alone(process) => {
                self.feed(index, Input::Raft(consensus::Event::Campaign))
            }
            _ => self.feed(index, Input::Raft(consensus::Event::Tick)),
        }
    }

    /// A damaged store was recognized: the machine stays down until it is replaced.
    fn found_corrupt(&mut self, index: usize) -> Checked {
        if !self.hosts[index].was_damaged {
            let what = format!("host {index} finds damage that nobody did");
            return Err(Violation::new("stores", what));
        }
        self.watch.counters.hit(Sometimes::CorruptionFound);
        self.hosts[index].absence = Absence::Corrupt;
        self.hosts[index].is_suspect = false;
        self.replace(index);
        Ok(())
    }

    /// Feeds a process, and carries out what it wants.
    pub(super) fn feed(&mut self, index: usize, input: Input) -> Checked {
        let mut outputs = std::mem::take(&mut self.outputs);
        if let Some(host) = self.hosts.get_mut(index) {
            let clock = host.clock(self.now);
            if let Some(process) = &mut host.process {
                process.feed(input, clock, &mut self.watch, &mut outputs)?;
            }
        }
        let outcome = self.carry_out(index, &mut outputs);
        self.outputs = outputs;
        outcome?;
        self.schedule(index);
        Ok(())
    }

    /// A thread of a process has its turn.
    fn turn(&mut self, index: usize, thread: Thread) -> Checked {
        let mut outputs = std::mem::take(&mut self.outputs);
        if let Some(host) = self.hosts.get_mut(index) {
            let clock = host.clock(self.now);
            if let Some(process) = &mut host.process {
                process.turn_planned[thread as usize] = false;
                process.turn(thread, clock, &mut self.watch, &mut outputs)?;
            }
        }
        let outcome = self.carry_out(index, &mut outputs);
        self.outputs = outputs;
        outcome?;
        self.schedule(index);
        Ok(())
    }

    /// Plans the turns of threads that have something to do.
    fn plan_turns(&mut self, index: usize) {
        for thread in Thread::ALL {
            let Some(process) = self
                .hosts
                .get_mut(index)
                .and_then(|host| host.process.as_mut())
            else {
                return;
            };
            let (boot, is_planned) = (process.birth.boot, process.turn_planned[thread as usize]);
            if process.birth.is_slow && !is_planned && process.has_work(thread) {
                process.turn_planned[thread as usize] = true;
                let is_late = self.dice.chance(50_000);
                let longest = if is_late { 20 * MS } else { MS };
                let wait = self.dice.below(longest);
                self.after_of(wait, index, boot, OfProcess::Turn(thread));
            }
        }
    }

    /// Begins the write that waits, and plans the leader's next tick.
    fn schedule(&mut self, index: usize) {
        self.plan_turns(index);
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        let (now, drift) = (self.now, host.drift);
        let stalled = host.stalled_until.saturating_sub(now);
        let mono_ms = host.clock(now).mono_ms;
        let Some(process) = &mut host.process else {
            return;
        };
        let boot = process.birth.boot;
        let begins = process.begin_write();
        let tick_at = process.leader.deadline_ms();
        // One that the leader has yet to take is not planned again.
        let is_idle = !process.has_work(Thread::Leader);
        let must_tick = is_idle && (tick_at < process.tick_at_ms || process.tick_at_ms == 0);
        if must_tick {
            process.tick_at_ms = tick_at;
            let wait_us = tick_at.saturating_sub(mono_ms) * MS;
            let real = (i128::from(wait_us) * 1_000_000 / (1_000_000 + i128::from(drift))) as u64;
            self.after_of(real + 1, index, boot, OfProcess::LeaderTick(tick_at));
        }
        if begins {
            let delay = stalled + self.plan.write_us / 2 + self.dice.below(self.plan.write_us);
            self.after_of(delay, index, boot, OfProcess::WriteEnds);
            self.write_begins(index, delay);
        }
    }

    pub(super) fn of_process(&mut self, index: usize, boot: u64, what: OfProcess) -> Checked {
        let Some(host) = self.hosts.get_mut(index) else {
            return Ok(());
        };
        if host.boot() != boot {
            return Ok(());
        }
        let drift = host.drift;
        let Some(process) = &mut host.process else {
            return Ok(());
        };
        match what {
            OfProcess::RaftTick => {
                let tick = i128::from(consensus::TICK_MS * MS) * 1_000_000;
                let next = (tick / (1_000_000 + i128::from(drift))) as u64;
                self.after_of(next, index, boot, OfProcess::RaftTick);
                self.feed(index, Input::Raft(consensus::Event::Tick))
            }
            OfProcess::LeaderTick(at) if process.tick_at_ms == at => {
                process.tick_at_ms = 0;
                self.feed(index, Input::Lead(leader::Event::Tick))
            }
            OfProcess::LeaderTick(_) => Ok(()),
            OfProcess::Turn(thread) => self.turn(index, thread),
            OfProcess::WriteEnds => {
                let input = process.end_write(&mut self.watch)?;
                self.after_write(index, boot)?;
                match input {
                    Some(input) => self.feed(index, input),
                    None => Ok(()),
                }
            }
            OfProcess::RetryStore => {
                let inputs = process.retry(&mut self.watch)?;
                self.after_write(index, boot)?;
                inputs
                    .into_iter()
                    .try_for_each(|input| self.feed(index, input))
            }
            OfProcess::TellHealth => {
                let report = process.report();
                self.after_of(HEALTH_US, index, boot, OfProcess::TellHealth);
                self.feed(index, Input::Lead(report))?;
                self.tell_health(index);
                Ok(())
            }
            OfProcess::BlobStored(digest) => {
                self.feed(index, Input::Lead(leader::Event::BlobStored(digest)))
            }
            OfProcess::SnapshotSent(to, arrived) => self.feed(
                index,
                Input::Raft(consensus::Event::SnapshotSent { to, arrived }),
            ),
            OfProcess::Unreachable(id) => {
                self.feed(index, Input::Raft(consensus::Event::Unreachable { id }))
            }
            OfProcess::Disconnected(connection) => {
                if !process.links.remove(&connection) {
                    return Ok(());
                }
                let reason = "the connection was lost".to_owned();
                let event = leader::Event::Disconnected { connection, reason };
                self.feed(index, Input::Lead(event))
            }
        }
    }

    fn after_write(&mut self, index: usize, boot: u64) -> Checked {
        let broken = self.hosts[index]
            .process
            .as_ref()
            .and_then(|process| process.broken);
        match broken {
            None => {}
            Some(Broken::Full) => {
                self.watch.counters.hit(Sometimes::DiskFull);
                self.after_of(RETRY_US, index, boot, OfProcess::RetryStore);
            }
            Some(Broken::Corrupt) => {
                self.end_process(index, None);
                return self.found_corrupt(index);
            }
            Some(Broken::ForGood) => {
                self.watch.counters.hit(Sometimes::SyncFailed);
                let replug = super::faults::Fault::Replug(index, boot);
                self.after(SUPERVISOR_US, Happening::Fault(replug));
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, index: usize, outputs: &mut Vec<Output>) -> Checked {
        let boot = self.hosts[index].boot();
        let mut stop = None;
        for output in outputs.drain(..) {
            match output {
                Output::Send(message) => self.send_raft(index, message),
                Output::SendSnapshot(message) => self.send_snapshot(index, message),
                Output::Command(connection, command) => {
                    self.link_down(connection, Down::Command(Box::new(command)));
                }
                Output::Close(connection) => {
                    if let Some(process) = &mut self.hosts[index].process {
                        process.links.remove(&connection);
                    }
                    self.link_down(connection, Down::Close);
                }
                Output::Reply(ticket, outcome) => self.reply(index, ticket, outcome),
                Output::Answer(ticket, answer) => self.answer(index, ticket, answer),
                Output::StoreBlob(digest) => {
                    let delay = self.dice.between(MS, 50 * MS);
                    self.after_of(delay, index, boot, OfProcess::BlobStored(digest));
                }
                Output::Stop(reason) => stop = Some(reason),
            }
        }
        match stop {
            Some(reason) => self.stopped(index, &reason),
            None => Ok(()),
        }
    }

    /// A process ends by its own decision.
    pub(super) fn stopped(&mut self, index: usize, reason: &StopReason) -> Checked {
        match reason {
            StopReason::Removed => {
                self.watch.counters.hit(Sometimes::RemovedStopped);
                self.end_process(index, None);
                self.hosts[index].absence = Absence::Retired;
                Ok(())
            }
            StopReason::Forgot(_) => {
                let what = format!("host {index} stops: {reason}");
                Err(Violation::new("stores", what))
            }
            StopReason::Membership { .. } => {
                let what = format!("host {index} stops: {reason}");
                Err(Violation::new("membership", what))
            }
        }
    }

    /// A process ends: by a signal, or with the power of its machine if `power` is given, which
    /// decides what is left of what was not synced.
    pub(super) fn end_process(&mut self, index: usize, power: Option<u64>) {
        let mut dice = Dice::new(self.dice.next());
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        let links = host.process.as_ref().map(|process| process.links.clone());
        if let Some(process) = host.process.take() {
            let (writing, store) = process.end();
            if writing.is_some() {
                self.watch.counters.hit(Sometimes::KilledWhileWriting);
            }
            let written = end_disk(&host.disk, store, writing, power, &mut dice);
            self.watch.ended(index, written);
        } else {
            end_machine(&host.disk, power);
        }
        for connection in links.into_iter().flatten() {
            self.host_gone(connection);
        }
    }

    /// A machine loses its disk: an empty one takes its place, and its process waits to be added to
    /// a group.
    pub(super) fn wipe(&mut self, index: usize) {
        self.end_process(index, None);
        self.watch.stores.is_empty(index);
        let host = &mut self.hosts[index];
        host.disk = SimDisk::new();
        host.was_damaged = false;
        host.is_suspect = false;
        host.id = None;
        host.reads = NEWEST_RECORDS;
        host.absence = Absence::Spare;
        host.is_reserved = true;
    }

    pub(super) fn send_note(&mut self, from: usize, to: usize, make: impl Fn() -> PeerNote) {
        let (from, to_place) = (self.place_of(from), self.place_of(to));
        let times = self
            .network
            .route(from, to_place, &mut self.dice, &mut self.watch.counters);
        for time in times.into_iter().flatten() {
            self.after(time, Happening::Peer(to, make()));
        }
    }
}

/// Ends a process, maybe in the middle of a write; gives the write if it may be stored. The disk is
/// dead to the process before its store is dropped: a killed process closes nothing.
fn end_disk(
    disk: &SimDisk,
    mut store: Box<dyn LogStore>,
    writing: Option<LogWrite>,
    power: Option<u64>,
    dice: &mut Dice,
) -> Option<LogWrite> {
    if let Some(write) = &writing {
        disk.power_fails_after(dice.below(12));
        // It may have been written wholly before that, or in part.
        let _ = store.write(write);
    }
    end_machine(disk, power);
    drop(store);
    writing
}

/// A process is gone: what it wrote is the kernel's, or with the power lost in part.
fn end_machine(disk: &SimDisk, power: Option<u64>) {
    match power {
        Some(seed) => disk.power_cut(seed),
        None => disk.end_process(),
    }
}

/// First contents of each store of a group of so many.
fn first_write(members: u64, state: Vec<u8>) -> LogWrite {
    let mut write = consensus::first_write(1, state);
    if let Some(snapshot) = &mut write.snapshot {
        snapshot.membership = ConfState {
            voters: (1..=members).collect(),
            ..ConfState::default()
        };
    }
    write
}
