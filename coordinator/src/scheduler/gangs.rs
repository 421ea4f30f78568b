//! Gangs get all their slots at once, on one host.

use super::{Action, Context, Scheduler, Use};
use crate::state::{Command, GangState};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::{
    Checkpoint, FailureCause, HeldRank, Member, Roster, TrainingProgress,
};
use evoring_protocol::worker::WorkerCommand;
use evoring_protocol::{DemandId, JobId, Rank, RosterNumber, SlotIndex, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// A gang that could have more slots soon (they run short leases) waits this long for them.
const SETTLE_MS: u64 = 1_000;
/// While gangs wait, places are looked for this often, beside the moments when gangs or workers come
/// and go: looking at every slot after each report would be too much for many workers.
const RETRY_MS: u64 = 20;
/// A rank that lost a peer may be heard before that peer, which knows why it ended (a broken file, a
/// signal): its own report, or its agent's, is awaited so long.
const SUSPECTED_MS: u64 = 500;
/// Rosters whose members are remembered.
const KEPT_ROSTERS: usize = 2;
/// A gang past this part of its steps does not grow any more.
const GROWS_UNTIL: f64 = 0.8;

/// Soft state of a gang.
#[derive(Debug)]
pub(super) struct GangWork {
    /// Monotonic time since when it waits.
    pub waiting_since_ms: u64,
    /// A roster is proposed.
    pub is_proposed: bool,
    /// The end of its roster is proposed.
    pub is_breaking: bool,
    /// A rank of its roster was lost, or lost a peer, and nothing is known yet of what became of the
    /// peer.
    pub suspicion: Option<Suspicion>,
    /// Its roster ends on such a suspicion alone: most likely a member has just died and counts as
    /// present for a moment longer.
    pub is_puzzling: bool,
    /// Only workers that were heard since this moment get its ranks: the dead one is not among them.
    pub heard_since_ms: u64,
    /// Its work failed: it waits until this monotonic time.
    pub not_before_ms: u64,
    /// The last rosters, newest first, and their members: a failure that comes after a roster's end
    /// counts if one of them reports it.
    pub rosters: Vec<(RosterNumber, Vec<Member>)>,
    /// The last roster of which a rank said that its work failed.
    pub blamed: RosterNumber,
    /// Workers on which its work failed since its newest checkpoint.
    pub failed_on: BTreeSet<WorkerId>,
    /// Where its training stands.
    pub progress: Option<TrainingProgress>,
}

/// What a rank says of a peer that it lost.
#[derive(Debug)]
pub(super) struct Suspicion {
    /// What ended the roster if nothing better is known by then.
    pub reason: String,
    /// Monotonic time until which the peer's own report, or that of its agent, is awaited.
    pub until_ms: u64,
    /// It was given more time, because this process stood still.
    pub is_prolonged: bool,
}

impl GangWork {
    pub(super) fn waiting(now_ms: u64) -> Self {
        Self {
            waiting_since_ms: now_ms,
            is_proposed: false,
            is_breaking: false,
            suspicion: None,
            is_puzzling: false,
            heard_since_ms: 0,
            not_before_ms: 0,
            rosters: Vec::new(),
            blamed: RosterNumber(0),
            failed_on: BTreeSet::new(),
            progress: None,
        }
    }

    /// Notes the newest roster.
    pub(super) fn note(&mut self, roster: &Roster) {
        self.rosters.truncate(KEPT_ROSTERS - 1);
        self.rosters
            .insert(0, (roster.number, roster.members.clone()));
    }

    /// Whether a worker is the rank that it says it is, of one of the last rosters.
    pub(super) fn was_member(&self, worker: &WorkerId, held: &HeldRank) -> bool {
        self.rosters.iter().any(|(number, members)| {
            let member = members.get(held.rank.0 as usize);
            *number == held.roster
                && member.is_some_and(|member| member.worker == *worker && member.slot == held.slot)
        })
    }
}

/// Slots of one host and class.
#[derive(Debug, Default)]
pub(super) struct HostSlots {
    /// Idle and not reserved.
    pub idle: Vec<(WorkerId, SlotIndex)>,
    /// All but those that other gangs hold and those that are reserved.
    pub usable: u32,
}

/// What can be done for a waiting gang.
enum Placement {
    /// These slots are its.
    Now(Vec<Member>),
    /// As many slots of this host will be its soon.
    Soon(String, u32),
    /// Nothing.
    Never,
}

impl Scheduler {
    /// Places waiting gangs, the oldest first; reserves slots for those that must wait.
    pub(super) fn place_gangs(&mut self, context: Context<'_>) {
        let mut waiting: Vec<(u64, (JobId, DemandId))> = self
            .gangs
            .iter()
            .filter(|(_, gang)| !gang.is_proposed && gang.not_before_ms <= context.now.mono_ms)
            .filter_map(|(&key, _)| {
                let demand = context.state.demand(key.0, key.1)?;
                demand
                    .gang()?
                    .roster
                    .is_none()
                    .then_some((demand.since, key))
            })
            .collect();
        if waiting.is_empty() {
            self.reserved.clear();
            return;
        }
        if context.now.mono_ms < self.gangs_tried_ms + RETRY_MS && !self.gangs_changed {
            return;
        }
        self.gangs_changed = false;
        self.gangs_tried_ms = context.now.mono_ms;
        self.reserved.clear();
        waiting.sort_unstable();
        for position in 0..waiting.len() {
            let (_, key) = waiting[position];
            let Some(class) = self.class_for_gang(context, key) else {
                continue;
            };
            let siblings = waiting[position..]
                .iter()
                .filter(|(_, other)| other.0 == key.0)
                .count() as u32;
            self.place_gang(context, key, &class, siblings);
        }
    }

    /// Class of a gang's job; proposes one that has a host large enough for a job that has none.
    fn class_for_gang(
        &mut self,
        context: Context<'_>,
        (job, demand): (JobId, DemandId),
    ) -> Option<NumericsClass> {
        if let Some(class) = &context.state.jobs().get(&job)?.numerics {
            return Some(class.clone());
        }
        if self.classes_proposed.contains(&job) {
            return None;
        }
        let gang = context.state.demand(job, demand)?.gang()?;
        let classes: BTreeSet<NumericsClass> = self
            .workers
            .connected()
            .map(|(_, worker)| worker.numerics.clone())
            .collect();
        let largest = |class: &NumericsClass| {
            self.host_slots(class, 0, &BTreeSet::new())
                .values()
                .map(|host| host.usable)
                .max()
                .unwrap_or(0)
        };
        let (_, class) = classes
            .into_iter()
            .map(|class| (largest(&class), class))
            .filter(|(slots, _)| *slots >= gang.min)
            .max_by_key(|(slots, _)| *slots)?;
        self.classes_proposed.insert(job);
        self.propose(Command::AssignClass { job, class });
        None
    }

    fn place_gang(
        &mut self,
        context: Context<'_>,
        key: (JobId, DemandId),
        class: &NumericsClass,
        siblings: u32,
    ) {
        let Some(gang) = context
            .state
            .demand(key.0, key.1)
            .and_then(|demand| demand.gang())
        else {
            return;
        };
        let Some(work) = self.gangs.get(&key) else {
            return;
        };
        let waited_ms = context.now.mono_ms.saturating_sub(work.waiting_since_ms);
        let place = |avoided: &BTreeSet<WorkerId>| {
            let heard_since_ms = work.heard_since_ms;
            let hosts = self.host_slots(class, heard_since_ms, avoided);
            placement(gang, &hosts, siblings, waited_ms)
        };
        let placement = match place(&work.failed_on) {
            // Better where it failed than nowhere.
            Placement::Never if !work.failed_on.is_empty() => place(&BTreeSet::new()),
            placement => placement,
        };
        match placement {
            Placement::Now(members) => {
                for member in &members {
                    self.workers
                        .set(&member.worker, member.slot, Use::Promised(key.0, key.1));
                }
                if let Some(work) = self.gangs.get_mut(&key) {
                    work.is_proposed = true;
                }
                let number = RosterNumber(gang.last_roster.0 + 1);
                self.out.push(Action::ProposeRoster {
                    job: key.0,
                    demand: key.1,
                    number,
                    members,
                });
            }
            Placement::Soon(host, slots) => *self.reserved.entry(host).or_default() += slots,
            Placement::Never => {}
        }
    }

    /// Slots of a class by host, less what is reserved and those of avoided workers; idle ones of
    /// workers that are in quarantine or were not heard since a moment are usable, but not yet.
    pub(super) fn host_slots(
        &self,
        class: &NumericsClass,
        heard_since_ms: u64,
        avoided: &BTreeSet<WorkerId>,
    ) -> BTreeMap<String, HostSlots> {
        let mut hosts: BTreeMap<String, HostSlots> = BTreeMap::new();
        for (name, worker) in self
            .workers
            .connected()
            .filter(|(name, worker)| worker.numerics == *class && !avoided.contains(*name))
        {
            let is_ready =
                worker.heard_ms >= heard_since_ms && worker.failures.quarantined_until_ms.is_none();
            let host = hosts.entry(worker.host.clone()).or_default();
            for (slot, index) in worker.slots.iter().zip(0u32..) {
                match slot.does {
                    Use::Idle if !is_ready => host.usable += 1,
                    Use::Idle => {
                        host.usable += 1;
                        host.idle.push((name.clone(), SlotIndex(index)));
                    }
                    Use::Lease(..) | Use::Restarting { .. } => host.usable += 1,
                    Use::Rank(_) | Use::Promised(..) => {}
                }
            }
        }
        for (host, &reserved) in &self.reserved {
            if let Some(slots) = hosts.get_mut(host) {
                slots.usable = slots.usable.saturating_sub(reserved);
                let left = slots.idle.len().saturating_sub(reserved as usize);
                slots.idle.truncate(left);
            }
        }
        hosts
    }

    /// Tells the members of a committed roster to start.
    pub(super) fn start_roster(&mut self, context: Context<'_>, job: JobId, demand: DemandId) {
        if let Some(work) = self.gangs.get_mut(&(job, demand)) {
            work.is_proposed = false;
            work.is_breaking = false;
        }
        let Some(state) = context.state.demand(job, demand) else {
            return;
        };
        let Some(roster) = state.gang().and_then(|gang| gang.roster.as_ref()) else {
            return;
        };
        let promised = Use::Promised(job, demand);
        let is_ready = |member: &Member| {
            self.workers
                .slot(&member.worker, member.slot)
                .is_some_and(|slot| slot.does == promised)
                && self.workers.is_connected(&member.worker)
        };
        if let Some(absent) = roster.members.iter().find(|member| !is_ready(member)) {
            let reason = format!("worker {} was lost before the gang started", absent.worker);
            self.free_promised(job, demand);
            self.void(job, demand, roster.number, reason, Some(FailureCause::Lost));
            return;
        }
        if let Some(work) = self.gangs.get_mut(&(job, demand)) {
            work.note(roster);
        }
        let assignment = state.assignment(job, demand);
        for (member, rank) in roster.members.iter().zip(0u32..) {
            let held = HeldRank {
                job,
                demand,
                roster: roster.number,
                rank: Rank(rank),
                slot: member.slot,
            };
            self.workers
                .set(&member.worker, member.slot, Use::Rank(held.clone()));
            if let Some(connection) = self.workers.connection(&member.worker) {
                let (roster, assignment) = (roster.clone(), assignment.clone());
                self.send(
                    connection,
                    WorkerCommand::StartRank {
                        held,
                        roster,
                        assignment,
                    },
                );
            }
        }
    }

    fn free_promised(&mut self, job: JobId, demand: DemandId) {
        let promised = Use::Promised(job, demand);
        for (name, slot) in self.slots_that(|does| *does == promised) {
            self.workers.set(&name, slot, Use::Idle);
        }
    }

    fn slots_that(&self, condition: impl Fn(&Use) -> bool) -> Vec<(WorkerId, SlotIndex)> {
        let mut found = Vec::new();
        for (name, worker) in self.workers.connected() {
            for (slot, index) in worker.slots.iter().zip(0u32..) {
                if condition(&slot.does) {
                    found.push((name.clone(), SlotIndex(index)));
                }
            }
        }
        found
    }

    /// What a voided gang is until its next roster.
    pub(super) fn wait_again(&mut self, context: Context<'_>, job: JobId, demand: DemandId) {
        let now_ms = context.now.mono_ms;
        if let Some(work) = self.gangs.get_mut(&(job, demand)) {
            *work = GangWork {
                progress: work.progress.take(),
                // A loss that came while another end of the roster was on its way is a puzzle too.
                heard_since_ms: match work.is_puzzling || work.suspicion.is_some() {
                    true => now_ms,
                    false => 0,
                },
                not_before_ms: work.not_before_ms,
                rosters: std::mem::take(&mut work.rosters),
                blamed: work.blamed,
                failed_on: std::mem::take(&mut work.failed_on),
                ..GangWork::waiting(now_ms)
            };
        }
    }

    /// Proposes the end of a roster, once.
    pub(super) fn void(
        &mut self,
        job: JobId,
        demand: DemandId,
        number: RosterNumber,
        reason: String,
        cause: Option<FailureCause>,
    ) {
        let Some(work) = self.gangs.get_mut(&(job, demand)) else {
            return;
        };
        work.is_puzzling = false;
        if !std::mem::replace(&mut work.is_breaking, true) {
            self.propose(Command::BreakRoster {
                job,
                demand,
                number,
                reason,
                cause,
            });
        }
    }

    /// A rank lost a peer.
    pub(super) fn suspect(&mut self, context: Context<'_>, held: &HeldRank, message: &str) {
        if let Some(work) = self.gangs.get_mut(&(held.job, held.demand)) {
            work.suspicion.get_or_insert(Suspicion {
                reason: format!("rank {}: {message}", held.rank),
                until_ms: context.now.mono_ms + SUSPECTED_MS,
                is_prolonged: false,
            });
        }
    }

    /// This process stood still: what its workers said meanwhile is heard first. Once for each
    /// suspicion, so that it ends on a machine that stands still all the time.
    pub(super) fn prolong_suspicions(&mut self, now_ms: u64) {
        for suspicion in self.gangs.values_mut().flat_map(|work| &mut work.suspicion) {
            if !std::mem::replace(&mut suspicion.is_prolonged, true) {
                suspicion.until_ms = now_ms + SUSPECTED_MS;
            }
        }
    }

    /// Ends the rosters whose lost peers nobody explained.
    pub(super) fn end_suspicions(&mut self, context: Context<'_>) {
        let is_due = |suspicion: &mut Suspicion| suspicion.until_ms <= context.now.mono_ms;
        let mut due = Vec::new();
        for (&(job, demand), work) in &mut self.gangs {
            if let Some(suspicion) = work.suspicion.take_if(is_due) {
                due.push((job, demand, suspicion.reason));
            }
        }
        for (job, demand, reason) in due {
            let state = context.state.demand(job, demand);
            let roster = state.and_then(|state| state.gang()?.roster.as_ref());
            let Some(number) = roster.map(|roster| roster.number) else {
                continue;
            };
            let is_breaking = |work: &GangWork| work.is_breaking;
            if self.gangs.get(&(job, demand)).is_some_and(is_breaking) {
                continue;
            }
            self.void(job, demand, number, reason, Some(FailureCause::Lost));
            if let Some(work) = self.gangs.get_mut(&(job, demand)) {
                work.is_puzzling = true;
            }
        }
    }

    /// Stops what still runs of a gang (`SCHED-5`).
    pub(super) fn stop_ranks(&mut self, job: JobId, demand: DemandId) {
        self.free_promised(job, demand);
        let is_of_gang = |does: &Use| match does {
            Use::Rank(held)
            | Use::Restarting {
                ran: Some(held), ..
            } => (held.job, held.demand) == (job, demand),
            _ => false,
        };
        for (name, slot) in self.slots_that(is_of_gang) {
            let (next, held) = match self.workers.slot(&name, slot).map(|slot| slot.does.clone()) {
                // The agent ends the rank before it starts what comes next on this slot.
                Some(Use::Rank(held)) => (Use::Idle, held),
                // It may have kept the rank for its next executor.
                Some(Use::Restarting {
                    until_ms,
                    ran: Some(held),
                }) => (
                    Use::Restarting {
                        until_ms,
                        ran: None,
                    },
                    held,
                ),
                _ => continue,
            };
            self.workers.set(&name, slot, next);
            if let Some(connection) = self.workers.connection(&name) {
                self.send(connection, WorkerCommand::StopRank { held });
            }
        }
    }

    /// A checkpoint is the moment at which a gang can take more slots and lose nothing.
    pub(super) fn grow(&mut self, context: Context<'_>, job: JobId, demand: DemandId) {
        if let Some(work) = self.gangs.get_mut(&(job, demand)) {
            // Where it failed before, it may come this far next time.
            work.failed_on.clear();
        }
        let Some(gang) = context
            .state
            .demand(job, demand)
            .and_then(|demand| demand.gang())
        else {
            return;
        };
        // A roster that lost a member does not end as one that merely grows.
        let work = self.gangs.get(&(job, demand));
        if work.is_some_and(|work| work.suspicion.is_some() || work.is_breaking) {
            return;
        }
        let (Some(roster), Some(Checkpoint { step, .. })) = (&gang.roster, gang.checkpoint) else {
            return;
        };
        let Some(class) = context
            .state
            .jobs()
            .get(&job)
            .and_then(|job| job.numerics.clone())
        else {
            return;
        };
        let size = roster.members.len() as u32;
        let is_late = self
            .gangs
            .get(&(job, demand))
            .and_then(|work| work.progress.as_ref())
            .is_none_or(|progress| {
                progress.steps == 0 || step.0 as f64 > GROWS_UNTIL * progress.steps as f64
            });
        let others_wait =
            self.maps.values().any(|map| map.waiting() > 0) || !self.reserved.is_empty();
        if size >= gang.max || is_late || others_wait || self.in_grace {
            return;
        }
        let host = roster
            .members
            .first()
            .and_then(|member| self.workers.by_name(&member.worker))
            .map(|worker| &worker.host);
        let hosts = self.host_slots(&class, 0, &BTreeSet::new());
        let idle = host
            .and_then(|host| hosts.get(host))
            .map_or(0, |slots| slots.idle.len() as u32);
        if idle > 0 {
            let more = (size + idle).min(gang.max);
            let reason = format!(
                "the gang grows from {size} to {more} ranks at its checkpoint of step {step}"
            );
            self.void(job, demand, roster.number, reason, None);
        }
    }
}

/// What can be done for a gang on these hosts.
fn placement(
    gang: &GangState,
    hosts: &BTreeMap<String, HostSlots>,
    siblings: u32,
    waited_ms: u64,
) -> Placement {
    let best = hosts
        .iter()
        .max_by_key(|(_, slots)| (slots.usable.min(gang.max), slots.idle.len()));
    let Some((host, slots)) = best.filter(|(_, slots)| slots.usable >= gang.min) else {
        return Placement::Never;
    };
    // Gangs of one job that wait together run side by side.
    let target = (slots.usable / siblings.max(1)).clamp(gang.min, gang.max);
    let idle = slots.idle.len() as u32;
    let take = if idle >= target {
        target
    } else if idle >= gang.min && waited_ms >= SETTLE_MS {
        idle
    } else {
        return Placement::Soon(host.clone(), target);
    };
    let member = |(worker, slot): &(WorkerId, SlotIndex)| Member {
        worker: worker.clone(),
        slot: *slot,
    };
    Placement::Now(slots.idle.iter().take(take as usize).map(member).collect())
}
