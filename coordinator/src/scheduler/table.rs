//! Workers and their slots.

use super::ConnectionId;
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::HeldRank;
use evoring_protocol::worker::Hello;
use evoring_protocol::{DemandId, JobId, SlotIndex, Term, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// An executor that ended is back after this, or its slot is used all the same.
const RESTART_MS: u64 = 10_000;

/// After this many failures in a row, without one success, a worker is the likely cause: a full disk,
/// a data set that it does not have.
pub(super) const FAILURES_IN_ROW: u32 = 8;
/// Its first quarantine; each next one is twice as long …
const QUARANTINE_MS: u64 = 1_000;
/// … up to this.
const LONGEST_QUARANTINE_MS: u64 = 60_000;

/// What a slot does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// Nothing.
    Idle,
    /// It runs the lease of this name.
    Lease(Term, u64),
    /// A roster with it is proposed.
    Promised(JobId, DemandId),
    /// It runs a rank.
    Rank(HeldRank),
    /// Its executor ended and is being started again.
    Restarting {
        /// When it counts as back.
        until_ms: u64,
        /// The rank that the executor ran; its gang's end is on its way.
        ran: Option<HeldRank>,
    },
}

/// A slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Process id of the executor; 0 = not known or starting.
    pub executor: u32,
    /// What it does.
    pub does: Use,
}

/// A worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Its connection, while there is one.
    pub connection: Option<ConnectionId>,
    /// Random number of its process.
    pub incarnation: u64,
    /// Process id.
    pub process: u32,
    /// Host.
    pub host: String,
    /// Class.
    pub numerics: NumericsClass,
    /// Where it serves metrics.
    pub metrics: Option<SocketAddr>,
    /// Slots.
    pub slots: Vec<Slot>,
    /// Monotonic time of the last message.
    pub heard_ms: u64,
    /// What failed here in a row.
    pub failures: Failures,
}

/// What failed on a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failures {
    /// Failures since the last success.
    pub in_row: u32,
    /// Quarantines since the last success.
    pub quarantines: u32,
    /// Until this monotonic time it gets nothing.
    pub quarantined_until_ms: Option<u64>,
}

/// All workers that this leader has seen.
#[derive(Debug, Default)]
pub(super) struct Workers {
    workers: BTreeMap<WorkerId, Worker>,
    connections: BTreeMap<ConnectionId, WorkerId>,
    /// Idle slots of connected workers, by class and host; no set is empty.
    idle: BTreeMap<(NumericsClass, String), BTreeSet<(WorkerId, SlotIndex)>>,
    /// Their numbers.
    idle_counts: BTreeMap<NumericsClass, usize>,
}

impl Workers {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter()
    }

    pub(super) fn connected(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers
            .iter()
            .filter(|(_, worker)| worker.connection.is_some())
    }

    pub(super) fn by_name(&self, worker: &WorkerId) -> Option<&Worker> {
        self.workers.get(worker)
    }

    pub(super) fn by_connection(&self, connection: ConnectionId) -> Option<(&WorkerId, &Worker)> {
        self.workers
            .get_key_value(self.connections.get(&connection)?)
    }

    pub(super) fn is_connected(&self, worker: &WorkerId) -> bool {
        self.connection(worker).is_some()
    }

    pub(super) fn connection(&self, worker: &WorkerId) -> Option<ConnectionId> {
        self.workers.get(worker)?.connection
    }

    pub(super) fn heard(&mut self, connection: ConnectionId, now_ms: u64) {
        if let Some(worker) = self
            .connections
            .get(&connection)
            .and_then(|name| self.workers.get_mut(name))
        {
            worker.heard_ms = now_ms;
        }
    }

    /// Connections of workers that were last heard before `since_ms`.
    pub(super) fn silent_since(&self, since_ms: u64) -> Vec<ConnectionId> {
        self.workers
            .values()
            .filter(|worker| worker.heard_ms < since_ms)
            .filter_map(|worker| worker.connection)
            .collect()
    }

    /// Takes a worker up with idle slots; whatever it was before is forgotten.
    pub(super) fn connect(&mut self, connection: ConnectionId, hello: &Hello, now_ms: u64) {
        self.disconnect(&hello.worker);
        let slots = (0..hello.slots)
            .map(|_| Slot {
                executor: 0,
                does: Use::Idle,
            })
            .collect();
        let worker = Worker {
            connection: Some(connection),
            incarnation: hello.incarnation,
            process: hello.process,
            host: hello.host.clone(),
            numerics: hello.numerics.clone(),
            metrics: hello.metrics,
            slots,
            heard_ms: now_ms,
            failures: Failures::default(),
        };
        self.workers.insert(hello.worker.clone(), worker);
        self.connections.insert(connection, hello.worker.clone());
        for slot in 0..hello.slots {
            self.set(&hello.worker, SlotIndex(slot), Use::Idle);
        }
    }

    /// Forgets a worker's connection; its slots do nothing any more.
    pub(super) fn disconnect(&mut self, name: &WorkerId) {
        let Some(worker) = self.workers.get_mut(name) else {
            return;
        };
        if let Some(connection) = worker.connection.take() {
            self.connections.remove(&connection);
        }
        for slot in &mut worker.slots {
            *slot = Slot {
                executor: 0,
                does: Use::Idle,
            };
        }
        let key = (worker.numerics.clone(), worker.host.clone());
        for index in 0..worker.slots.len() as u32 {
            self.note(&key, (name.clone(), SlotIndex(index)), false);
        }
    }

    /// Keeps the sets of idle slots and their numbers.
    fn note(&mut self, key: &(NumericsClass, String), place: (WorkerId, SlotIndex), is_idle: bool) {
        let count = self.idle_counts.entry(key.0.clone()).or_default();
        if is_idle {
            let set = self.idle.entry(key.clone()).or_default();
            *count += usize::from(set.insert(place));
        } else if let Some(set) = self.idle.get_mut(key) {
            *count -= usize::from(set.remove(&place));
            if set.is_empty() {
                self.idle.remove(key);
            }
        }
    }

    pub(super) fn slot(&self, worker: &WorkerId, slot: SlotIndex) -> Option<&Slot> {
        self.workers.get(worker)?.slots.get(slot.0 as usize)
    }

    /// Changes what a slot does.
    pub(super) fn set(&mut self, name: &WorkerId, index: SlotIndex, does: Use) {
        let Some(worker) = self.workers.get_mut(name) else {
            return;
        };
        let is_idle = does == Use::Idle
            && worker.connection.is_some()
            && worker.failures.quarantined_until_ms.is_none();
        let Some(slot) = worker.slots.get_mut(index.0 as usize) else {
            return;
        };
        slot.does = does;
        let key = (worker.numerics.clone(), worker.host.clone());
        self.note(&key, (name.clone(), index), is_idle);
    }

    /// Frees a slot if it still does `does`.
    pub(super) fn free(&mut self, name: &WorkerId, index: SlotIndex, does: &Use) {
        if self
            .slot(name, index)
            .is_some_and(|slot| slot.does == *does)
        {
            self.set(name, index, Use::Idle);
        }
    }

    /// Notes an executor's process; true if it is a new one.
    pub(super) fn executor(&mut self, name: &WorkerId, index: SlotIndex, process: u32) -> bool {
        let Some(slot) = self
            .workers
            .get_mut(name)
            .and_then(|worker| worker.slots.get_mut(index.0 as usize))
        else {
            return false;
        };
        let is_new = process != 0 && slot.executor != process;
        slot.executor = process;
        if is_new && matches!(slot.does, Use::Restarting { .. }) {
            self.set(name, index, Use::Idle);
        }
        is_new
    }

    /// Notes that an executor ended, which ran a rank perhaps. A slot that is booked for other work
    /// stays so: the agent keeps that work until the next executor is there.
    pub(super) fn restart(
        &mut self,
        name: &WorkerId,
        index: SlotIndex,
        now_ms: u64,
        ran: Option<HeldRank>,
    ) {
        let Some(slot) = self
            .workers
            .get_mut(name)
            .and_then(|worker| worker.slots.get_mut(index.0 as usize))
        else {
            return;
        };
        slot.executor = 0;
        let is_free = match &slot.does {
            Use::Idle => true,
            Use::Rank(held) => ran.as_ref() == Some(held),
            Use::Lease(..) | Use::Promised(..) | Use::Restarting { .. } => false,
        };
        if is_free {
            let until_ms = now_ms + RESTART_MS;
            self.set(name, index, Use::Restarting { until_ms, ran });
        }
    }

    /// All connected workers count as heard now.
    pub(super) fn all_heard(&mut self, now_ms: u64) {
        for worker in self.workers.values_mut() {
            worker.heard_ms = now_ms;
        }
    }

    /// Something succeeded on a worker.
    pub(super) fn succeeded(&mut self, name: &WorkerId) {
        if let Some(worker) = self.workers.get_mut(name) {
            worker.failures.in_row = 0;
            worker.failures.quarantines = 0;
        }
    }

    /// Something failed on a worker: after a few failures in a row it gets nothing for a while, after
    /// each further one for twice as long.
    pub(super) fn failed(&mut self, name: &WorkerId, now_ms: u64) {
        let Some(worker) = self.workers.get_mut(name) else {
            return;
        };
        let failures = &mut worker.failures;
        failures.in_row += 1;
        if failures.in_row < FAILURES_IN_ROW || failures.quarantined_until_ms.is_some() {
            return;
        }
        let wait_ms = (QUARANTINE_MS << failures.quarantines.min(16)).min(LONGEST_QUARANTINE_MS);
        failures.quarantined_until_ms = Some(now_ms + wait_ms);
        failures.quarantines += 1;
        self.set_again(name);
    }

    /// Ends quarantines whose time is over.
    pub(super) fn end_quarantines(&mut self, now_ms: u64) {
        let is_over = |worker: &&Worker| {
            let until_ms = worker.failures.quarantined_until_ms;
            until_ms.is_some_and(|until_ms| now_ms >= until_ms)
        };
        let over: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| is_over(worker))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            if let Some(worker) = self.workers.get_mut(&name) {
                worker.failures.quarantined_until_ms = None;
            }
            self.set_again(&name);
        }
    }

    /// Notes anew which slots of a worker are idle.
    fn set_again(&mut self, name: &WorkerId) {
        let slots = self.by_name(name).map(|worker| worker.slots.clone());
        for (slot, index) in slots.unwrap_or_default().into_iter().zip(0u32..) {
            self.set(name, SlotIndex(index), slot.does);
        }
    }

    /// Frees slots whose waiting time is over.
    pub(super) fn end_restarting(&mut self, now_ms: u64) {
        let is_over = |slot: &Slot| match slot.does {
            Use::Restarting { until_ms, .. } => now_ms >= until_ms,
            _ => false,
        };
        let mut over = Vec::new();
        for (name, worker) in &self.workers {
            for (slot, index) in worker.slots.iter().zip(0u32..) {
                if is_over(slot) {
                    over.push((name.clone(), SlotIndex(index)));
                }
            }
        }
        for (name, index) in over {
            self.set(&name, index, Use::Idle);
        }
    }

    /// Idle slots of a class, host by host.
    pub(super) fn idle(
        &self,
        class: &NumericsClass,
    ) -> impl Iterator<Item = (&String, &BTreeSet<(WorkerId, SlotIndex)>)> {
        let from = (class.clone(), String::new());
        let class = class.clone();
        self.idle
            .range(from..)
            .take_while(move |((other, _), _)| *other == class)
            .map(|((_, host), slots)| (host, slots))
    }

    /// Number of idle slots of a class on one host.
    pub(super) fn idle_on(&self, class: &NumericsClass, host: &str) -> usize {
        let key = (class.clone(), host.to_owned());
        self.idle.get(&key).map_or(0, BTreeSet::len)
    }

    /// Number of idle slots of a class.
    pub(super) fn idle_of(&self, class: &NumericsClass) -> usize {
        self.idle_counts.get(class).copied().unwrap_or(0)
    }

    /// Number of idle slots of any class.
    pub(super) fn idle_count(&self) -> usize {
        self.idle_counts.values().sum()
    }

    /// Class of some idle slot, the one with the most of them.
    pub(super) fn class_of_most_idle(&self) -> Option<&NumericsClass> {
        self.idle_counts
            .iter()
            .filter(|&(_, &count)| count > 0)
            .max_by_key(|&(_, &count)| count)
            .map(|(class, _)| class)
    }
}
