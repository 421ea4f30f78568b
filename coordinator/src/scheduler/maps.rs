//! Items go to slots in batches, and what is lost comes back.

use super::retries::FailedItem;
use super::{Context, Now, Scheduler, Use, mac};
use crate::state::{Command, ItemReport};
use evoring_protocol::event::EventKind;
use evoring_protocol::numerics::NumericsClass;
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use evoring_protocol::work::{FailureCause, Kernel, Lease, LeasedItem, WorkError};
use evoring_protocol::worker::WorkerCommand;
use evoring_protocol::{DemandId, ItemIndex, JobId, SlotIndex, Term, WorkerId, limits};
use std::collections::{BTreeMap, BTreeSet};

/// A batch aims at this much work, so that a leader of many workers is not asked too often.
const BATCH_MS: f64 = 200.0;
/// Towards a map's end batches shrink so that all slots finish together, down to this.
const SMALLEST_BATCH_MS: f64 = 25.0;
/// Items of one lease.
const BATCH_ITEMS: usize = limits::LEASE_ITEMS;
/// Bytes of items in one lease, below the frame's limit with its payload and overhead.
const BATCH_BYTES: usize = limits::WORKER_COMMAND_BYTES / 2;
/// Pending items that are looked at for one lease: some may have to wait for another worker.
const SEEN_ITEMS: usize = 4 * BATCH_ITEMS;
/// First batch of a map whose items' time is unknown: at most this many items.
const FIRST_BATCH_ITEMS: usize = 8;
/// Weight of the newest measurement of an item's time.
const NEWEST: f64 = 0.3;
/// A measurement counts as at most this many times the estimate, so that one slow worker does not
/// make everybody look fast.
const OUTLIER: f64 = 3.0;
/// A lease is run a second time once it takes this many times as long as expected …
const SLOW: f64 = 2.0;
/// … and at least this long; a lease of unknown time, this long.
const SLOW_MS: f64 = 500.0;
const SLOW_UNKNOWN_MS: f64 = 60_000.0;
/// A lease expires after this many times the expected time, within these bounds.
const EXPIRY: f64 = 20.0;
const EXPIRY_MS: std::ops::RangeInclusive<f64> = 60_000.0..=900_000.0;
/// A lease of items that were tried before may take twice as long for each earlier attempt, up to
/// this many doublings: what never fits into a lease must not expire for ever.
const EXPIRY_DOUBLINGS: u32 = 8;

/// Bytes of why a lease was lost that each of its items but the first one repeats.
const REPEATED_REASON_BYTES: usize = 200;

/// Soft state of a map.
#[derive(Debug)]
pub(super) struct MapWork {
    /// What its items run.
    pub kernel: Kernel,
    /// Items that no slot runs.
    pub pending: BTreeSet<ItemIndex>,
    /// Items that no slot runs and that failed a moment ago, by the time when they are pending again.
    pub delayed: BTreeSet<(u64, ItemIndex)>,
    /// Items that failed and have no result yet.
    pub failed: BTreeMap<ItemIndex, FailedItem>,
    /// Number of leases that run.
    pub running: usize,
    /// Leases that run an item.
    pub holders: BTreeMap<ItemIndex, Vec<(Term, u64)>>,
    /// Items whose result is on its way into the log.
    pub reported: BTreeSet<ItemIndex>,
    /// Measured time of one item; begins with that of the job's last map of the same kernel.
    pub item_ms: Option<f64>,
    /// The longest that was measured.
    pub largest_ms: f64,
}

/// A lease that some slot runs.
#[derive(Debug)]
pub(super) struct Running {
    pub job: JobId,
    pub demand: DemandId,
    pub worker: WorkerId,
    pub slot: SlotIndex,
    /// Items without a report.
    pub open: BTreeSet<ItemIndex>,
    /// Monotonic time of the grant.
    pub granted_ms: u64,
    /// Monotonic time of the grant or of the last report; not known of a lease that another leader
    /// granted, before its first report.
    pub measured_ms: Option<u64>,
    /// Items of the lease.
    pub items: usize,
    /// Monotonic time of its expiry.
    pub expires_ms: u64,
    /// The lease that runs the same items, if this one was slow or is itself a second run.
    pub twin: Option<(Term, u64)>,
}

impl MapWork {
    /// A map with these items to do.
    pub(super) fn new(kernel: Kernel, pending: BTreeSet<ItemIndex>, item_ms: Option<f64>) -> Self {
        Self {
            kernel,
            pending,
            delayed: BTreeSet::new(),
            failed: BTreeMap::new(),
            running: 0,
            holders: BTreeMap::new(),
            reported: BTreeSet::new(),
            item_ms,
            largest_ms: 0.0,
        }
    }
}

impl Running {
    /// A lease that a slot runs from now on.
    pub(super) fn new(lease: &Lease, open: BTreeSet<ItemIndex>, now_ms: u64, left_ms: u64) -> Self {
        Self {
            job: lease.job,
            demand: lease.demand,
            worker: lease.worker.clone(),
            slot: lease.slot,
            items: open.len(),
            open,
            granted_ms: now_ms,
            measured_ms: Some(now_ms),
            expires_ms: now_ms + left_ms,
            twin: None,
        }
    }

    /// A lease that an earlier leader granted and a slot still runs.
    pub(super) fn taken_up(lease: &Lease, open: BTreeSet<ItemIndex>, now: Now) -> Self {
        let left_ms = lease.expiry_ms.saturating_sub(now.wall_ms);
        Self {
            measured_ms: None,
            ..Self::new(
                lease,
                open,
                now.mono_ms,
                left_ms.max(*EXPIRY_MS.start() as u64),
            )
        }
    }
}

/// A slot chosen for work.
type Place = (WorkerId, SlotIndex);

impl Scheduler {
    /// Puts a lease into the table and takes its items out of the queue.
    pub(super) fn note_lease(&mut self, key: (Term, u64), running: Running) {
        if let Some(map) = self.maps.get_mut(&(running.job, running.demand)) {
            for &item in &running.open {
                map.take_out(item);
                let holders = map.holders.entry(item).or_default();
                if !holders.contains(&key) {
                    holders.push(key);
                }
            }
        }
        let place = (running.job, running.demand);
        if self.leases.insert(key, running).is_none()
            && let Some(map) = self.maps.get_mut(&place)
        {
            map.running += 1;
        }
    }

    /// Takes a lease out of the table; gives what it was.
    pub(super) fn drop_lease(&mut self, key: (Term, u64)) -> Option<Running> {
        let running = self.leases.remove(&key)?;
        if let Some(map) = self.maps.get_mut(&(running.job, running.demand)) {
            map.running = map.running.saturating_sub(1);
            for item in &running.open {
                if let Some(holders) = map.holders.get_mut(item) {
                    holders.retain(|holder| *holder != key);
                    if holders.is_empty() {
                        map.holders.remove(item);
                    }
                }
            }
        }
        // The other run goes on alone, and may be run a second time again.
        if let Some(twin) = running.twin.and_then(|twin| self.leases.get_mut(&twin))
            && twin.twin == Some(key)
        {
            twin.twin = None;
        }
        self.workers
            .free(&running.worker, running.slot, &Use::Lease(key.0, key.1));
        Some(running)
    }

    /// A lease will not be delivered: items that nobody else runs get a new attempt. `cause` is that
    /// of the item that ran; those behind it were lost with it.
    pub(super) fn lose_lease(
        &mut self,
        context: Context<'_>,
        key: (Term, u64),
        reason: &str,
        cause: FailureCause,
    ) {
        let Some(running) = self.drop_lease(key) else {
            return;
        };
        #[cfg(evoring_plants)]
        if is_planted(Plant::LostItemsForgotten) {
            return;
        }
        let (job, demand) = (running.job, running.demand);
        let Some(work) = self.maps.get_mut(&(job, demand)) else {
            return;
        };
        let Some(map) = context
            .state
            .demand(job, demand)
            .and_then(|demand| demand.map())
        else {
            return;
        };
        let mut outcomes = Vec::new();
        let causes = std::iter::once(cause).chain(std::iter::repeat(FailureCause::Lost));
        for (&index, cause) in running.open.iter().zip(causes) {
            let Some(tries) = map.tries(index) else {
                continue;
            };
            if work.holders.contains_key(&index) || work.reported.contains(&index) {
                continue;
            }
            if cause == FailureCause::Failed {
                let now_ms = context.now.mono_ms;
                work.item_failed(index, &running.worker, tries.failures + 1, now_ms);
            }
            // The whole reason once: an executor's last lines for each of thousands of items would be
            // an entry of megabytes.
            let message = match outcomes.is_empty() {
                true => reason.to_owned(),
                false => reason[..reason.floor_char_boundary(REPEATED_REASON_BYTES)].to_owned(),
            };
            outcomes.push(ItemReport {
                index,
                attempt: tries.attempt,
                outcome: Err(WorkError { message, cause }),
            });
        }
        if !outcomes.is_empty() {
            self.propose(Command::Record {
                job,
                demand,
                outcomes,
            });
        }
    }

    /// Leases that are overdue on workers that live: their items go to others.
    pub(super) fn expire_leases(&mut self, context: Context<'_>) {
        let now_ms = context.now.mono_ms;
        let overdue: Vec<(Term, u64)> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.expires_ms <= now_ms)
            .map(|(&key, _)| key)
            .collect();
        for key in overdue {
            let Some(running) = self.leases.get(&key) else {
                continue;
            };
            let reason = format!(
                "the lease of worker {} expired after {} ms",
                running.worker,
                now_ms.saturating_sub(running.granted_ms)
            );
            if let Some(connection) = self.workers.connection(&running.worker) {
                self.send(
                    connection,
                    WorkerCommand::StopLease {
                        term: key.0,
                        number: key.1,
                    },
                );
            }
            self.lose_lease(context, key, &reason, FailureCause::Lost);
        }
    }

    /// Gives pending items to idle slots, the oldest map first.
    pub(super) fn place_maps(&mut self, context: Context<'_>) {
        if self.workers.idle_count() == 0 {
            return;
        }
        let mut waiting: Vec<(u64, (JobId, DemandId))> = self
            .maps
            .iter()
            .filter(|(_, map)| !map.pending.is_empty())
            .filter_map(|(&key, _)| Some((context.state.demand(key.0, key.1)?.since, key)))
            .collect();
        waiting.sort_unstable();
        for (_, key) in waiting {
            let Some(class) = self.class_of(context, key.0) else {
                continue;
            };
            // Slots of workers on which all that is pending has failed are passed over.
            let mut passed = 0;
            while let Some(place) = self.unreserved_slot(&class, passed) {
                if self.grant_pending(context, key, &class, place) {
                    continue;
                }
                let has_failed = |map: &MapWork| !map.pending.is_empty() && !map.failed.is_empty();
                if !self.maps.get(&key).is_some_and(has_failed) {
                    break;
                }
                passed += 1;
            }
        }
    }

    /// Class of a job; proposes one for a job that has none.
    pub(super) fn class_of(&mut self, context: Context<'_>, job: JobId) -> Option<NumericsClass> {
        if let Some(class) = &context.state.jobs().get(&job)?.numerics {
            return Some(class.clone());
        }
        if !self.classes_proposed.contains(&job) {
            let class = self.workers.class_of_most_idle()?.clone();
            self.classes_proposed.insert(job);
            self.propose(Command::AssignClass { job, class });
        }
        None
    }

    /// Idle slots of the class that no waiting gang needs.
    fn unreserved_slots(&self, class: &NumericsClass) -> impl Iterator<Item = &Place> {
        self.workers.idle(class).flat_map(|(host, slots)| {
            let reserved = self.reserved.get(host).copied().unwrap_or(0) as usize;
            // Gangs take the first ones.
            slots
                .iter()
                .rev()
                .take(slots.len().saturating_sub(reserved))
        })
    }

    fn unreserved_slot(&self, class: &NumericsClass, passed: usize) -> Option<Place> {
        self.unreserved_slots(class).nth(passed).cloned()
    }

    fn unreserved_count(&self, class: &NumericsClass) -> usize {
        let held = |(host, &reserved): (&String, &u32)| {
            self.workers.idle_on(class, host).min(reserved as usize)
        };
        self.workers.idle_of(class) - self.reserved.iter().map(held).sum::<usize>()
    }

    fn grant_pending(
        &mut self,
        context: Context<'_>,
        key: (JobId, DemandId),
        class: &NumericsClass,
        place: Place,
    ) -> bool {
        let idle = self.unreserved_count(class);
        let Some(work) = self.maps.get(&key) else {
            return false;
        };
        let count = batch_size(work.pending.len(), idle + work.running, work.item_ms);
        let Some(map) = context
            .state
            .demand(key.0, key.1)
            .and_then(|demand| demand.map())
        else {
            return false;
        };
        let (mut items, mut done) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for &item in work.pending.iter().take(SEEN_ITEMS) {
            let size = map.items.get(item.0 as usize).map_or(0, Vec::len);
            if items.len() >= count.min(BATCH_ITEMS)
                || !items.is_empty() && bytes + size > BATCH_BYTES
            {
                break;
            }
            if map.attempt(item).is_none() {
                done.push(item);
            } else if !self.keeps_away(work, item, &place.0, class) {
                bytes += size;
                items.push(item);
            }
        }
        if let Some(work) = self.maps.get_mut(&key) {
            done.iter().for_each(|&item| work.take_out(item));
        }
        !items.is_empty() && self.grant(context, key, items, place, None)
    }

    /// How long a lease of so many items may take before they go to others.
    fn expiry_ms(&self, map: (JobId, DemandId), items: usize) -> u64 {
        let work = self.maps.get(&map);
        let largest_ms = work.map_or(0.0, |work| work.largest_ms);
        let longest_ms = EXPIRY_MS.end().max(EXPIRY * largest_ms);
        let expiry_ms = work
            .and_then(|work| work.item_ms)
            .map_or(longest_ms, |item_ms| {
                (EXPIRY * item_ms * items as f64).clamp(*EXPIRY_MS.start(), longest_ms)
            });
        expiry_ms as u64
    }

    /// A holder that reports gets more time for the rest.
    pub(super) fn extend_lease(&mut self, key: (Term, u64), now_ms: u64) {
        let Some(running) = self.leases.get(&key) else {
            return;
        };
        let expiry_ms = self.expiry_ms((running.job, running.demand), running.open.len());
        if let Some(running) = self.leases.get_mut(&key) {
            running.expires_ms = running.expires_ms.max(now_ms + expiry_ms);
        }
    }

    /// Grants items to a slot, as a second run of `twin` perhaps.
    fn grant(
        &mut self,
        context: Context<'_>,
        (job, demand): (JobId, DemandId),
        items: Vec<ItemIndex>,
        (worker, slot): Place,
        twin: Option<(Term, u64)>,
    ) -> bool {
        let Some(connection) = self.workers.connection(&worker) else {
            return false;
        };
        let Some(state) = context.state.demand(job, demand) else {
            return false;
        };
        let place = (worker, slot);
        let Some((lease, running)) = self.new_lease(context, (job, demand), &items, place) else {
            return false;
        };
        let key = (lease.term, lease.number);
        let does = Use::Lease(lease.term, lease.number);
        self.workers.set(&lease.worker, slot, does);
        self.note_lease(key, Running { twin, ..running });
        if let Some(twin) = twin.and_then(|twin| self.leases.get_mut(&twin)) {
            twin.twin = Some(key);
        }
        let granted = lease.items.iter().map(|item| (item.index, item.attempt));
        self.event(EventKind::LeaseGranted {
            job,
            demand,
            stage: state.stage.clone(),
            worker: lease.worker.clone(),
            slot,
            items: granted.collect(),
            is_copy: twin.is_some(),
        });
        let payloads = state.map().map_or(&[][..], |map| &map.items);
        let items = lease.items.iter();
        let items = items.filter_map(|item| payloads.get(item.index.0 as usize).cloned());
        let command = WorkerCommand::Grant {
            items: items.collect(),
            assignment: state.assignment(job, demand),
            lease,
        };
        self.send(connection, command);
        true
    }

    /// A signed lease with the next number.
    fn new_lease(
        &mut self,
        context: Context<'_>,
        (job, demand): (JobId, DemandId),
        items: &[ItemIndex],
        (worker, slot): Place,
    ) -> Option<(Lease, Running)> {
        let map = context.state.demand(job, demand)?.map()?;
        let secret = context.state.lease_key()?;
        let leased = |&index: &ItemIndex| {
            let attempt = map.attempt(index)?;
            Some(LeasedItem { index, attempt })
        };
        let leased: Vec<LeasedItem> = items.iter().filter_map(leased).collect();
        let attempts = leased.iter().map(|item| item.attempt.0).max()?;
        let doublings = (attempts - 1).min(EXPIRY_DOUBLINGS);
        let left_ms = self.expiry_ms((job, demand), items.len()) << doublings;
        let number = self.next_lease;
        self.next_lease += 1;
        let lease = Lease {
            job,
            demand,
            items: leased,
            worker,
            slot,
            term: self.term,
            number,
            expiry_ms: context.now.wall_ms + left_ms,
            mac: [0; 32],
        };
        let open = lease.items.iter().map(|item| item.index).collect();
        let running = Running::new(&lease, open, context.now.mono_ms, left_ms);
        Some((mac::sign(secret, lease), running))
    }

    /// Runs slow leases a second time on slots that have nothing else to do.
    pub(super) fn place_copies(&mut self, context: Context<'_>) {
        if self.workers.idle_count() == 0 {
            return;
        }
        let now_ms = context.now.mono_ms;
        let mut slow: Vec<(u64, (Term, u64))> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.twin.is_none() && self.is_slow(lease, now_ms))
            .map(|(&key, lease)| (lease.granted_ms, key))
            .collect();
        slow.sort_unstable();
        for (_, key) in slow {
            let Some(running) = self.leases.get(&key) else {
                continue;
            };
            let (map_key, own) = ((running.job, running.demand), running.worker.clone());
            let items: Vec<ItemIndex> = running.open.iter().copied().collect();
            let Some(class) = self.class_of(context, map_key.0) else {
                continue;
            };
            // Another worker if there is one: what slows this one down would slow the copy too.
            let place = self
                .unreserved_slots(&class)
                .find(|(worker, _)| *worker != own)
                .or_else(|| self.unreserved_slots(&class).next());
            let Some(place) = place.cloned() else {
                continue;
            };
            self.grant(context, map_key, items, place, Some(key));
        }
    }

    fn is_slow(&self, lease: &Running, now_ms: u64) -> bool {
        let elapsed_ms = now_ms.saturating_sub(lease.granted_ms) as f64;
        let item_ms = self
            .maps
            .get(&(lease.job, lease.demand))
            .and_then(|map| map.item_ms);
        let limit_ms = item_ms.map_or(SLOW_UNKNOWN_MS, |item_ms| {
            (SLOW * item_ms * lease.items as f64).max(SLOW_MS)
        });
        elapsed_ms > limit_ms
    }

    /// Learns an item's time from a report of so many results and so many failures. Failures are no
    /// work done, and how long they took says nothing about the results beside them.
    pub(super) fn measure(&mut self, key: (Term, u64), results: usize, failed: usize, now_ms: u64) {
        let Some(running) = self.leases.get_mut(&key) else {
            return;
        };
        let Some(since_ms) = running.measured_ms.replace(now_ms) else {
            return;
        };
        let elapsed_ms = now_ms.saturating_sub(since_ms) as f64;
        let Some(map) = self.maps.get_mut(&(running.job, running.demand)) else {
            return;
        };
        if results > 0 && failed == 0 {
            let item_ms = elapsed_ms / results as f64;
            map.largest_ms = map.largest_ms.max(item_ms);
            let learnt = map.item_ms.map_or(item_ms, |old| {
                old + NEWEST * (item_ms.min(OUTLIER * old) - old)
            });
            map.item_ms = Some(learnt);
            self.item_times.insert((running.job, map.kernel), learnt);
        }
    }
}

/// Items of the next batch: at least [`BATCH_MS`] of work while there is plenty, then an equal
/// part for each of `slots`, so that all finish together.
fn batch_size(pending: usize, slots: usize, item_ms: Option<f64>) -> usize {
    let slots = slots.max(1);
    let equal = pending.div_ceil(slots).max(1);
    let Some(item_ms) = item_ms.map(|ms| ms.max(0.001)) else {
        return pending.div_ceil(8 * slots).clamp(1, FIRST_BATCH_ITEMS);
    };
    let items = |ms: f64| (ms / item_ms).ceil().clamp(1.0, BATCH_ITEMS as f64) as usize;
    if equal <= items(2.0 * SMALLEST_BATCH_MS) {
        return equal;
    }
    let shrinking = pending.div_ceil(2 * slots);
    shrinking.clamp(items(SMALLEST_BATCH_MS), items(BATCH_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: batches hold about 200 ms of work while there is plenty, shrink towards the end,
    // never below 25 ms of work unless nothing more is left, and are never empty.
    // Method: walk a map of 1,000 items of 10 ms over 4 slots, then extremes.
    #[test]
    fn batches_shrink_towards_the_end() {
        assert_eq!(batch_size(1_000, 4, Some(10.0)), 20);
        assert_eq!(batch_size(100, 4, Some(10.0)), 13);
        assert_eq!(batch_size(16, 4, Some(10.0)), 4);
        assert_eq!(batch_size(1, 4, Some(10.0)), 1);
        assert_eq!(batch_size(32, 2, None), 2);
        assert_eq!(batch_size(1_000_000, 1, None), FIRST_BATCH_ITEMS);
        assert_eq!(batch_size(50, 2, Some(5_000.0)), 1);
        assert_eq!(batch_size(1_000_000, 1, Some(0.0)), BATCH_ITEMS);
        assert_eq!(batch_size(1, 0, Some(f64::INFINITY)), 1);
    }
}
