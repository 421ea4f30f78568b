//! What fails, when, and how it is mended.

use super::agents::AgentEvent;
use super::counters::Sometimes;
use super::hosts::Absence;
use super::invariants::Checked;
use super::network::{Place, Weather};
use super::process::Input;
use super::world::{Happening, MS, SECOND, World};
use evoring_coordinator::consensus;
use evoring_coordinator::scheduler::{ConnectionId, HEARTBEAT_MS, LOST_MS};
use evoring_coordinator::state::NEWEST_RECORDS;
use evoring_coordinator::storage::DiskFaults;
use std::collections::{BTreeMap, BTreeSet};

/// Of the damages, one in so many is a write that went astray instead of a flipped bit.
const MISDIRECTED_EVERY: u64 = 5;
/// Shares of a run, in percent, at which a disk is damaged.
const DAMAGES_AT: [u64; 7] = [5, 13, 22, 31, 39, 48, 56];
/// … at which the power of all fails …
const CUTS_AT: [u64; 3] = [18, 40, 62];
/// Of these, so many in a million wait for a write of any coordinator, and come in the middle of it:
/// between writes there is little to lose …
const CUTS_IN_WRITES: u64 = 750_000;
/// … and of those that end one coordinator's process, so many, for a write of its.
const ENDS_IN_WRITES: u64 = 500_000;
/// … and at which processes are replaced by those of a newer build.
const UPGRADE_FROM: u64 = 15;

/// A pause that a coordinator notices, as in its shell.
const NOTICED_PAUSE_US: u64 = (LOST_MS - 2 * HEARTBEAT_MS) * MS;

/// A fault, or its end.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The next fault is chosen.
    Next,
    Mend(Vec<(Place, Place)>),
    Flap(Vec<(Place, Place)>, u32),
    GoodWeather,
    DiskWorks(usize),
    /// A process whose store failed for good is started again.
    Replug(usize, u64),
    CutAll,
    /// … now.
    CutAllNow,
    /// A process ends, with the power of its machine or without.
    Ends(usize, bool),
    Damage,
    Upgrade(usize),
    /// Members come and go.
    Churn,
    /// A member loses its disk.
    Wipe,
    /// All coordinators are away.
    AllAway,
    AgentDies(usize),
    LateJob,
    LosesConnection,
    /// Queues are looked at.
    Look,
}

/// What is going on.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// What failed so far; a fault that met nothing, such as the death of a process that was dead, is none.
    pub count: u64,
    is_calm: bool,
    /// No coordinator's process starts before.
    pub away_until: u64,
    /// The power of all fails in the middle of the next write.
    cuts_next_write: bool,
    /// Machines whose process ends in the middle of its next write, with the power or without.
    ends_next_write: BTreeMap<usize, bool>,
}

/// What may fail, with its weight.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Kill,
    Partition,
    OneWay,
    Flap,
    Weather,
    Pause,
    HandOver,
    KillAgent,
    PauseAgent,
    KillExecutor,
    BreakLink,
    ClockJump,
    DiskStall,
    DiskFull,
    SyncFails,
    Power,
}

const KINDS: [Kind; 11] = [
    Kind::Kill,
    Kind::Partition,
    Kind::OneWay,
    Kind::Flap,
    Kind::Weather,
    Kind::Pause,
    Kind::HandOver,
    Kind::KillAgent,
    Kind::PauseAgent,
    Kind::KillExecutor,
    Kind::BreakLink,
];

impl World {
    pub(super) fn make_faults(&mut self) {
        let end_us = self.plan.end_us;
        let share = |percent: u64| end_us / 100 * percent;
        let mut planned: Vec<(u64, Fault)> = Vec::new();
        if self.plan.power_cuts {
            planned.extend(CUTS_AT.map(|percent| (share(percent), Fault::CutAll)));
        }
        if self.plan.bit_flips {
            planned.extend(DAMAGES_AT.map(|percent| (share(percent), Fault::Damage)));
        }
        if self.plan.upgrade {
            let hosts = 0..self.plan.members as usize;
            planned.extend(hosts.map(|host| {
                let percent = UPGRADE_FROM + 6 * host as u64;
                (share(percent), Fault::Upgrade(host))
            }));
        }
        if self.plan.membership {
            let times = [5, 15, 25, 35, 45, 55];
            planned.extend(times.map(|percent| (share(percent), Fault::Churn)));
            planned.push((share(self.dice.between(10, 60)), Fault::Wipe));
        }
        if self.plan.load.is_heavy {
            self.make_outages();
        }
        for (time, fault) in planned {
            let time = time + self.dice.below(5 * SECOND);
            self.after(time, Happening::Fault(fault));
        }
        if let Some(mean) = self.plan.fault_every_us {
            let wait = self.dice.wait(mean);
            self.after(wait, Happening::Fault(Fault::Next));
        }
        self.after(SECOND, Happening::Fault(Fault::Look));
        self.after(self.plan.calm_us, Happening::Calm);
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Checked {
        match fault {
            Fault::Next if !self.faults.is_calm => {
                if let Some(mean) = self.plan.fault_every_us {
                    let wait = self.dice.wait(mean);
                    self.after(wait, Happening::Fault(Fault::Next));
                }
                self.next_fault()
            }
            Fault::Next => Ok(()),
            Fault::Mend(paths) => {
                for (from, to) in paths {
                    self.network.mend(from, to);
                }
                Ok(())
            }
            Fault::Flap(paths, left) => {
                self.flap(paths, left);
                Ok(())
            }
            Fault::GoodWeather => {
                self.network.weather = Weather::CALM;
                Ok(())
            }
            Fault::DiskWorks(host) => {
                self.set_disk(host, false, false);
                Ok(())
            }
            Fault::Replug(host, boot) => {
                if self.hosts[host].boot() == boot {
                    self.end_process(host, None);
                    self.set_disk(host, false, false);
                    self.after(SECOND, Happening::Start(host));
                }
                Ok(())
            }
            Fault::CutAll if !self.faults.is_calm && self.dice.chance(CUTS_IN_WRITES) => {
                self.faults.cuts_next_write = true;
                Ok(())
            }
            Fault::CutAll | Fault::CutAllNow if !self.faults.is_calm => self.cut_all(),
            Fault::Damage if !self.faults.is_calm => self.damage(),
            Fault::Wipe if !self.faults.is_calm => {
                self.wipe_one();
                Ok(())
            }
            Fault::Ends(host, with_power) if !self.faults.is_calm => {
                self.ends(host, with_power);
                Ok(())
            }
            Fault::CutAll | Fault::CutAllNow | Fault::Ends(..) => Ok(()),
            Fault::Damage | Fault::Wipe => Ok(()),
            Fault::Upgrade(host) => self.upgrade(host),
            Fault::Churn => {
                self.churn();
                Ok(())
            }
            Fault::AllAway | Fault::AgentDies(_) | Fault::LateJob | Fault::LosesConnection => {
                self.outage(&fault);
                Ok(())
            }
            Fault::Look => {
                self.after(SECOND, Happening::Fault(Fault::Look));
                super::invariants::bounds::now(self)
            }
        }
    }

    /// Something fails.
    pub(super) fn strikes(&mut self, what: Sometimes) {
        self.watch.counters.hit(what);
        self.faults.count += 1;
    }

    fn next_fault(&mut self) -> Checked {
        let mut kinds = KINDS.to_vec();
        if self.plan.clock_faults {
            kinds.push(Kind::ClockJump);
        }
        if self.plan.disk_faults {
            kinds.extend([Kind::DiskStall, Kind::DiskFull, Kind::SyncFails]);
        }
        if self.uses_redb() {
            kinds.push(Kind::Power);
        }
        let host = self.dice.below(self.hosts.len() as u64) as usize;
        let length = self.dice.wait(4 * SECOND);
        let kind = self.dice.pick(&kinds).unwrap_or(Kind::Kill);
        if matches!(kind, Kind::Partition | Kind::OneWay | Kind::Pause) {
            self.clients_hurry();
        }
        match kind {
            Kind::Kill | Kind::Power if self.dice.chance(ENDS_IN_WRITES) => {
                let with_power = matches!(kind, Kind::Power);
                self.faults.ends_next_write.insert(host, with_power);
            }
            Kind::Kill | Kind::Power => self.ends(host, matches!(kind, Kind::Power)),
            Kind::Partition => self.partition(length),
            Kind::OneWay => {
                self.strikes(Sometimes::OneWayPartition);
                let to_all = self.dice.chance(500_000);
                let paths = self.paths_of(host, to_all, !to_all);
                self.cut_paths(paths, length);
            }
            Kind::Flap => {
                self.strikes(Sometimes::FlappingPath);
                let paths = self.paths_of(host, true, true);
                let times = self.dice.between(4, 30) as u32;
                self.flap(paths, times);
            }
            Kind::Weather => self.bad_weather(length),
            Kind::Pause => self.pause(host),
            Kind::HandOver => {
                self.watch.counters.hit(Sometimes::HandOver);
                for host in 0..self.hosts.len() {
                    if self.hosts[host].backlog.is_none() {
                        self.feed(host, Input::Raft(consensus::Event::HandOver))?;
                    }
                }
            }
            Kind::KillAgent => {
                let agent = self.dice.below(self.agents.len() as u64) as usize;
                self.agent_dies(agent);
            }
            Kind::PauseAgent => {
                let agent = self.dice.below(self.agents.len() as u64) as usize;
                if self.pause_agent(agent, length.min(30 * SECOND)) {
                    self.strikes(Sometimes::AgentPaused);
                }
            }
            Kind::KillExecutor => return self.kill_executor(),
            Kind::BreakLink => {
                self.loses_connection();
            }
            kind if self.hosts[host].process.is_some() => self.machine_fault(kind, host, length),
            _ => {}
        }
        Ok(())
    }

    /// A worker loses its connection, with what is on its way.
    pub(super) fn loses_connection(&mut self) {
        let links: Vec<ConnectionId> = self.links.keys().copied().collect();
        if let Some(connection) = self.dice.pick(&links) {
            self.faults.count += 1;
            self.break_link(connection);
        }
    }

    /// A clock or a disk fails.
    fn machine_fault(&mut self, kind: Kind, host: usize, length: u64) {
        match kind {
            Kind::ClockJump => {
                self.strikes(Sometimes::ClockJumped);
                let jump = self.dice.between(0, 7_200_000) as i64 - 3_600_000;
                self.hosts[host].wall_offset_ms = jump;
            }
            Kind::DiskStall => {
                self.strikes(Sometimes::DiskStalled);
                let stall = self.dice.wait(5 * SECOND).min(60 * SECOND);
                self.hosts[host].stalled_until = self.now + stall;
            }
            Kind::DiskFull => {
                self.faults.count += 1;
                self.set_disk(host, true, false);
                self.after(length, Happening::Fault(Fault::DiskWorks(host)));
            }
            Kind::SyncFails => {
                self.faults.count += 1;
                self.set_disk(host, false, true);
                self.after(length, Happening::Fault(Fault::DiskWorks(host)));
            }
            _ => {}
        }
    }

    /// A process is killed, or its machine loses its power.
    fn ends(&mut self, host: usize, with_power: bool) {
        if with_power {
            let seed = self.dice.next();
            self.strikes(Sometimes::PowerCut);
            self.end_process(host, Some(seed));
        } else if self.hosts[host].process.is_some() {
            self.strikes(Sometimes::ProcessKilled);
            self.end_process(host, None);
        }
        self.start_soon(host);
    }

    fn start_soon(&mut self, host: usize) {
        let wait = self.dice.wait(1_500 * MS);
        self.after(wait, Happening::Start(host));
    }

    fn kill_executor(&mut self) -> Checked {
        let agent = self.dice.below(self.agents.len() as u64) as usize;
        let slot = self.dice.below(u64::from(self.plan.slots)) as usize;
        let incarnation = self.agents[agent].incarnation;
        let Some(executor) = self.agents[agent].executors.get(slot) else {
            return Ok(());
        };
        let process = executor.process;
        self.strikes(Sometimes::ExecutorKilled);
        self.agent_event(agent, incarnation, AgentEvent::ExecutorDies(slot, process))
    }

    /// Paths from a machine to all others, and back.
    fn paths_of(&self, host: usize, there: bool, back: bool) -> Vec<(Place, Place)> {
        let place = Place::host(host);
        let mut paths = Vec::new();
        for other in self.places().into_iter().filter(|other| *other != place) {
            paths.extend(there.then_some((place, other)));
            paths.extend(back.then_some((other, place)));
        }
        paths
    }

    fn places(&self) -> Vec<Place> {
        let hosts = (0..self.hosts.len()).map(Place::host);
        let agents = (0..self.agents.len()).map(Place::agent);
        let clients = (0..self.clients.len()).map(Place::client);
        hosts.chain(agents).chain(clients).collect()
    }

    fn partition(&mut self, length: u64) {
        self.strikes(Sometimes::Partition);
        let places = self.places();
        let side: BTreeSet<Place> = places
            .iter()
            .copied()
            .filter(|_| self.dice.chance(500_000))
            .collect();
        let mut paths = Vec::new();
        for from in &places {
            for to in &places {
                if side.contains(from) != side.contains(to) {
                    paths.push((*from, *to));
                }
            }
        }
        self.cut_paths(paths, length);
    }

    fn cut_paths(&mut self, paths: Vec<(Place, Place)>, length: u64) {
        for (from, to) in &paths {
            self.network.cut(*from, *to);
        }
        self.after(length, Happening::Fault(Fault::Mend(paths)));
    }

    /// Paths that work and do not, in turn.
    fn flap(&mut self, paths: Vec<(Place, Place)>, left: u32) {
        if left == 0 || self.faults.is_calm {
            return;
        }
        let length = self.dice.between(50 * MS, 500 * MS);
        self.cut_paths(paths.clone(), length);
        let wait = length + self.dice.between(50 * MS, 500 * MS);
        self.after(wait, Happening::Fault(Fault::Flap(paths, left - 1)));
    }

    fn bad_weather(&mut self, length: u64) {
        self.strikes(Sometimes::BadWeather);
        self.network.weather = Weather {
            loss: self.dice.below(200_000),
            doubling: self.dice.below(100_000),
            slowness: self.dice.below(200_000),
            latency_us: self.dice.between(100, 20_000),
            jitter_us: self.dice.between(100, 60_000),
        };
        self.after(2 * length, Happening::Fault(Fault::GoodWeather));
    }

    /// A machine stands still; what comes meanwhile waits.
    fn pause(&mut self, mut host: usize) {
        let mut length = self.dice.wait(4 * SECOND).min(30 * SECOND);
        if self.plan.hurry && self.dice.chance(500_000) {
            // A leader, so short that it may not notice it, and so long that others elect one.
            host = self.leads().unwrap_or(host);
            length = self.dice.between(300 * MS, 1_200 * MS);
        }
        if self.pause_for(host, length) {
            self.strikes(Sometimes::ProcessPaused);
        }
    }

    fn leads(&self) -> Option<usize> {
        let leads = |host: &super::hosts::Host| {
            let process = host.process.as_ref();
            process.is_some_and(|process| process.consensus.is_leader())
        };
        self.hosts.iter().position(leads)
    }

    /// Whether it did not stand still before.
    pub(super) fn pause_for(&mut self, host: usize, length: u64) -> bool {
        let machine = &mut self.hosts[host];
        if machine.backlog.is_some() || machine.process.is_none() {
            return false;
        }
        machine.backlog = Some(Vec::new());
        machine.paused_at = self.now;
        self.after(length, Happening::Resume(host));
        true
    }

    /// Keeps what happens to a machine that stands still.
    pub(super) fn held_back(&mut self, what: Happening) -> Option<Happening> {
        let host = match &what {
            Happening::Process(host, ..)
            | Happening::Peer(host, _)
            | Happening::Request(host, ..) => *host,
            Happening::Link(connection, true) => self.links.get(connection)?.host,
            _ => return Some(what),
        };
        match self
            .hosts
            .get_mut(host)
            .and_then(|host| host.backlog.as_mut())
        {
            Some(backlog) => {
                backlog.push(what);
                None
            }
            None => Some(what),
        }
    }

    pub(super) fn resume(&mut self, host: usize) -> Checked {
        let Some(machine) = self.hosts.get_mut(host) else {
            return Ok(());
        };
        let paused = self.now.saturating_sub(machine.paused_at);
        let mut backlog = machine.backlog.take().unwrap_or_default();
        if paused > NOTICED_PAUSE_US {
            let process = machine.process.as_ref();
            if process.is_some_and(|process| process.consensus.is_leader()) {
                self.watch.counters.hit(Sometimes::PausedResigned);
            }
            self.feed(host, Input::Raft(consensus::Event::Paused))?;
        }
        // Between connections there is no order: clients may be heard before the other coordinators.
        if self.dice.chance(500_000) {
            backlog.sort_by_key(|what| matches!(what, Happening::Peer(..)));
        }
        for what in backlog {
            self.happen(what)?;
        }
        Ok(())
    }

    /// How a disk fails from now on.
    fn set_disk(&mut self, host: usize, is_full: bool, syncs_fail: bool) {
        self.hosts[host].disk.set_faults(DiskFaults {
            is_full,
            syncs_fail,
            syncs_lie: self.plan.disks_lie,
            ..DiskFaults::default()
        });
    }

    /// A coordinator has begun a write, which takes so long.
    pub(super) fn write_begins(&mut self, host: usize, takes_us: u64) {
        if let Some(with_power) = self.faults.ends_next_write.remove(&host) {
            let wait = self.dice.below(takes_us);
            self.after(wait, Happening::Fault(Fault::Ends(host, with_power)));
        }
        if std::mem::take(&mut self.faults.cuts_next_write) {
            let wait = self.dice.below(takes_us);
            self.after(wait, Happening::Fault(Fault::CutAllNow));
        }
    }

    /// The power of all machines fails at once.
    fn cut_all(&mut self) -> Checked {
        self.strikes(Sometimes::GroupPowerCut);
        let mut processes = self.hosts.iter().filter_map(|host| host.process.as_ref());
        if processes.any(super::process::Process::is_writing) {
            self.watch
                .counters
                .hit(Sometimes::GroupPowerCutWhileWriting);
        }
        for host in 0..self.hosts.len() {
            let seed = self.dice.next();
            self.hosts[host].backlog = None;
            self.end_process(host, Some(seed));
            self.start_soon(host);
        }
        Ok(())
    }

    /// A bit of one machine's disk flips, or a write of it goes astray, while all others are well.
    fn damage(&mut self) -> Checked {
        let Some(host) = self.expendable().filter(|_| self.has_spare()) else {
            // Later, when all are well.
            self.after(2 * SECOND, Happening::Fault(Fault::Damage));
            return Ok(());
        };
        self.end_process(host, None);
        let seed = self.dice.next();
        let disk = &self.hosts[host].disk;
        disk.settle();
        let is_misdirected = seed.is_multiple_of(MISDIRECTED_EVERY);
        let is_damaged = match is_misdirected {
            true => disk.misdirect(seed).is_some(),
            false => disk.flip_bit(seed).is_some(),
        };
        if is_damaged {
            self.strikes(match is_misdirected {
                true => Sometimes::WriteMisdirected,
                false => Sometimes::BitFlipped,
            });
            self.hosts[host].was_damaged = true;
            self.hosts[host].is_suspect = true;
        }
        self.start_soon(host);
        Ok(())
    }

    /// A member that can be lost: there are two more, all are well, and nobody comes or goes.
    fn expendable(&mut self) -> Option<usize> {
        let is_well = |host: &super::hosts::Host| {
            host.id.is_none()
                || host.absence == Absence::Retired
                || (host.process.is_some() && !host.is_suspect)
                || (host.absence == Absence::Corrupt && host.is_replaced)
        };
        let members: Vec<usize> = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].process.is_some())
            .collect();
        let wanted = self.watch.log.reference().members();
        let is_settled = members.len() == wanted.len()
            && members.iter().all(|host| {
                let process = self.hosts[*host].process.as_ref();
                process.is_some_and(|process| {
                    let conf = process.consensus.membership();
                    conf.voters.len() == wanted.len() && conf.voters_outgoing.is_empty()
                })
            });
        let is_idle = self
            .clients
            .last()
            .is_some_and(|operator| operator.tasks.is_empty() && operator.asking.is_none());
        if !self.hosts.iter().all(is_well) || members.len() < 3 || !is_settled || !is_idle {
            return None;
        }
        self.dice.pick(&members)
    }

    fn has_spare(&self) -> bool {
        let is_spare =
            |host: &super::hosts::Host| host.absence == Absence::Spare && !host.is_reserved;
        self.hosts.iter().any(is_spare)
    }

    /// A member loses its disk; an operator removes it and adds the machine again.
    fn wipe_one(&mut self) {
        let Some(host) = self.expendable() else {
            self.after(2 * SECOND, Happening::Fault(Fault::Wipe));
            return;
        };
        let Some(id) = self.hosts[host].id else {
            return;
        };
        self.strikes(Sometimes::DiskLost);
        self.wipe(host);
        self.tell_operator(super::clients::Request::RemoveMember { id });
        self.tell_operator(super::clients::Request::AddMember { host });
    }

    /// An operator replaces a damaged member by a machine that was not one before.
    pub(super) fn replace(&mut self, host: usize) {
        let Some(id) = self.hosts[host].id else {
            return;
        };
        self.watch.counters.hit(Sometimes::MemberReplaced);
        self.hosts[host].is_replaced = true;
        let spare = self.spare();
        self.tell_operator(super::clients::Request::RemoveMember { id });
        if let Some(host) = spare {
            self.tell_operator(super::clients::Request::AddMember { host });
        }
    }

    /// A machine that is not a member and not about to be one.
    fn spare(&mut self) -> Option<usize> {
        let host = (0..self.hosts.len()).find(|host| {
            let host = &self.hosts[*host];
            host.absence == Absence::Spare && host.id.is_none() && !host.is_reserved
        })?;
        self.hosts[host].is_reserved = true;
        Some(host)
    }

    /// A process is replaced by one of a newer build.
    fn upgrade(&mut self, host: usize) -> Checked {
        self.hosts[host].reads = NEWEST_RECORDS;
        self.end_process(host, None);
        self.start_soon(host);
        Ok(())
    }

    /// Somebody wants a member more, or one less.
    fn churn(&mut self) {
        let members = self.watch.log.reference().members().clone();
        let is_small = members.len() < 3;
        if is_small || (members.len() < 6 && self.dice.chance(500_000)) {
            if let Some(host) = self.spare() {
                self.tell_operator(super::clients::Request::AddMember { host });
            }
            return;
        }
        let ids: Vec<u64> = members.keys().copied().collect();
        if let Some(id) = self.dice.pick(&ids) {
            self.tell_operator(super::clients::Request::RemoveMember { id });
        }
    }

    fn tell_operator(&mut self, request: super::clients::Request) {
        if let Some(operator) = self.operator() {
            operator.tasks.push_back(request);
        }
    }

    /// From now on nothing fails; what is broken is mended.
    pub(super) fn calm_down(&mut self) {
        self.faults.is_calm = true;
        self.network.mend_all();
        for host in 0..self.hosts.len() {
            self.set_disk(host, false, false);
            let machine = &mut self.hosts[host];
            machine.stalled_until = 0;
            machine.wall_offset_ms = 0;
            if machine.backlog.is_some() {
                self.after(0, Happening::Resume(host));
            }
            self.start_soon(host);
            let is_old = |process: &super::process::Process| process.birth.reads < NEWEST_RECORDS;
            self.hosts[host].reads = NEWEST_RECORDS;
            if self.hosts[host].process.as_ref().is_some_and(is_old) {
                self.after(0, Happening::Fault(Fault::Upgrade(host)));
            }
        }
    }
}
