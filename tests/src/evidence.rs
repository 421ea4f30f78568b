//! What the events of a run prove: that a victim held work when it died, that this work was run
//! again, and that nothing with a result was.
//!
//! An agent or executor that dies alone is reported with what it held. Leases are soft state, so
//! that a coordinator that dies tells nobody what its workers hold; for it the proof is what was
//! granted and had no result when its successor took office. A rank counts as held if the victim was
//! a member of the roster that stood when it was struck, and that very roster broke (see `rosters`).
//! Of a coordinator that died alone, a gang counts as held if its roster stood at that moment and the
//! same demand wrote a checkpoint, or broke, later on.

mod merged;
mod rosters;

use crate::cluster::stage_of;
use crate::scenario::{Struck, Victim};
use evoring_protocol::event::{Event, EventKind};
use evoring_protocol::{DemandId, ItemIndex, JobId, WorkerId};
use rosters::LostRoster;
use std::collections::{BTreeMap, BTreeSet};

pub use merged::merged;
pub use rosters::is_growth;

/// An item of a map of a job.
pub type Item = (JobId, DemandId, ItemIndex);

/// Whether the events show that a victim died within the stage while it held work.
pub fn kill_counts(events: &[Event], stage: &str, victim: Victim, struck: &[Struck]) -> bool {
    let has_rank = |dead| lost_rosters(events, stage, victim, dead).next().is_some();
    let has_items = |(dead, since): (&Struck, &[Event])| {
        died(since, dead, victim).is_some_and(|held| held.items > 0)
    };
    let within = within(events, stage);
    match victim {
        // The other ranks may notice a death before the coordinator does, and break the roster:
        // what the coordinator then says of ranks proves nothing, that the agent is gone does.
        Victim::Agent => {
            let has_died = |(dead, since)| died(since, dead, victim).is_some() && has_rank(dead);
            strikes(within, struck).any(has_items) || strikes(events, struck).any(has_died)
        }
        Victim::Executor => {
            let has_ranks = |(dead, since)| {
                died(since, dead, victim).is_some_and(|held| held.ranks > 0) && has_rank(dead)
            };
            strikes(within, struck).any(|strike| has_items(strike) || has_ranks(strike))
        }
        Victim::Coordinator => held_at_starts(within)
            .iter()
            .any(|held| held.has_items() || held.has_gang()),
        Victim::AgentAndCoordinator => struck.iter().any(|dead| {
            let orphans = || orphans(within, dead).is_some_and(|(items, _)| !items.is_empty());
            !came_back(events, dead) && (orphans() || has_rank(dead))
        }),
    }
}

/// Whether what the victim held was run again (a coordinator that died alone needs none of that:
/// its workers go on).
pub fn was_tried_again(events: &[Event], stage: &str, victim: Victim, struck: &[Struck]) -> bool {
    let within = within(events, stage);
    let has_retry = |dead: &Struck| {
        // Of work handed out before the strike: two workers where a slow one was copied.
        let mut holders: BTreeMap<Item, BTreeSet<&WorkerId>> = BTreeMap::new();
        within.iter().any(|event| match &event.kind {
            EventKind::LeaseGranted {
                job,
                demand,
                worker,
                items,
                is_copy,
                ..
            } if event.number <= dead.seen => {
                for (index, _) in items {
                    let holders = holders.entry((*job, *demand, *index)).or_default();
                    if !is_copy {
                        holders.clear();
                    }
                    holders.insert(worker);
                }
                false
            }
            EventKind::ItemsRetried {
                job,
                demand,
                stage: s,
                items,
                ..
            } if s == stage && event.number > dead.seen => items.iter().any(|(index, _)| {
                let holder = holders.get(&(*job, *demand, *index));
                holder.is_some_and(|holders| holders.contains(&dead.worker))
            }),
            _ => false,
        })
    };
    let has_new_roster = |dead: &Struck| {
        let mut lost = lost_rosters(events, stage, victim, dead);
        lost.any(|roster| roster.is_formed_again())
    };
    let was_granted = |dead: &Struck| {
        orphans(within, dead).is_some_and(|(items, later)| was_granted(later, &items))
    };
    match victim {
        Victim::Coordinator => true,
        Victim::Agent | Victim::Executor => struck
            .iter()
            .any(|dead| has_retry(dead) || has_new_roster(dead)),
        Victim::AgentAndCoordinator => struck
            .iter()
            .any(|dead| was_granted(dead) || has_new_roster(dead)),
    }
}

/// Rosters of the stage that broke without the victim, one of their members: those that stood when
/// it was struck or, as nobody tells of a worker that dies with its coordinator, when the next
/// coordinator took office.
fn lost_rosters<'a>(
    events: &'a [Event],
    stage: &'a str,
    victim: Victim,
    dead: &'a Struck,
) -> impl Iterator<Item = LostRoster<'a>> {
    let is_start = |event: &&Event| matches!(event.kind, EventKind::CoordinatorStarted { .. });
    let moment = match victim {
        Victim::Agent | Victim::Executor => Some(dead.seen),
        Victim::Coordinator => None,
        Victim::AgentAndCoordinator => after(events, dead.seen)
            .iter()
            .find(is_start)
            .map(|start| start.number),
    };
    let lost = moment.map(|moment| rosters::lost(events, stage, &dead.worker, moment));
    lost.into_iter().flatten()
}

/// What a dead agent or executor held, by the report of its death.
struct HeldAtDeath {
    items: u32,
    ranks: u32,
}

/// The report of the death of the struck agent or executor, if there is one.
fn died(events: &[Event], dead: &Struck, victim: Victim) -> Option<HeldAtDeath> {
    events
        .iter()
        .find_map(|event| match (&event.kind, victim) {
            (
                EventKind::WorkerLost {
                    worker,
                    held_items: items,
                    held_ranks: ranks,
                    ..
                },
                Victim::Agent,
            ) if *worker == dead.worker => Some((*items, *ranks)),
            (
                EventKind::ExecutorExited {
                    worker,
                    process,
                    held_items: items,
                    held_ranks: ranks,
                    ..
                },
                Victim::Executor,
            ) if *worker == dead.worker && i64::from(*process) == dead.executor => {
                Some((*items, *ranks))
            }
            _ => None,
        })
        .map(|(items, ranks)| HeldAtDeath { items, ranks })
}

/// Each victim with the events from its strike to the next one: a later strike at the same worker
/// proves nothing about an earlier one.
fn strikes<'a>(
    events: &'a [Event],
    struck: &'a [Struck],
) -> impl Iterator<Item = (&'a Struck, &'a [Event])> {
    let ends = struck.iter().skip(1).map(|next| next.seen);
    let strikes = struck.iter().zip(ends.chain([u64::MAX]));
    strikes.map(|(dead, end)| {
        let since = after(events, dead.seen);
        let count = since.partition_point(|event| event.number <= end);
        (dead, &since[..count])
    })
}

/// Events with a higher number.
fn after(events: &[Event], number: u64) -> &[Event] {
    &events[events.partition_point(|event| event.number <= number)..]
}

/// Nothing is computed twice that was acknowledged: no item is granted after its result was
/// recorded.
///
/// # Panics
/// If one is, or if the events name no result at all.
pub fn assert_nothing_recorded_is_repeated(events: &[Event]) {
    let mut recorded: BTreeSet<Item> = BTreeSet::new();
    for event in events {
        match &event.kind {
            EventKind::ItemsRecorded {
                job, demand, items, ..
            } => recorded.extend(items.iter().map(|index| (*job, *demand, *index))),
            EventKind::LeaseGranted {
                job, demand, items, ..
            } => {
                let repeated = items
                    .iter()
                    .find(|(index, _)| recorded.contains(&(*job, *demand, *index)));
                assert_eq!(repeated, None, "granted again with a result: {event:?}");
            }
            _ => {}
        }
    }
    assert!(!recorded.is_empty(), "the events name no recorded item");
}

/// Whether work of the stage was handed out.
pub fn is_work(event: &Event, stage: &str) -> bool {
    let is_grant = matches!(
        event.kind,
        EventKind::LeaseGranted { .. } | EventKind::RosterCommitted { .. }
    );
    is_grant && stage_of(&event.kind) == Some(stage)
}

/// Whether the stage ended.
pub fn is_end(event: &Event, stage: &str) -> bool {
    matches!(&event.kind, EventKind::StageFinished { stage: s, .. } if s == stage)
}

/// The process that took office last.
pub fn in_office(events: &[Event]) -> Option<u32> {
    let mut latest = events.iter().rev();
    latest.find_map(|event| match event.kind {
        EventKind::CoordinatorStarted { process, .. } => Some(process),
        _ => None,
    })
}

/// Whether `process` lost its office to another within the stage, while work was held.
pub fn lost_office_at_work(events: &[Event], stage: &str, process: u32) -> bool {
    let is_followed = |held: &&Held<'_>| {
        let before = events.partition_point(|event| event.number < held.start);
        held.process != process && in_office(&events[..before]) == Some(process)
    };
    let held = held_at_starts(within(events, stage));
    held.iter()
        .filter(is_followed)
        .any(|held| held.has_items() || held.has_gang())
}

/// What workers held when a coordinator took office.
struct Held<'a> {
    /// The process that took it.
    process: u32,
    /// Who runs each item: two workers where a slow one was copied.
    items: BTreeMap<Item, BTreeSet<&'a WorkerId>>,
    /// Gangs with a roster; some may have ended without a word.
    gangs: BTreeSet<(JobId, DemandId)>,
    /// Number of the event of the start.
    start: u64,
    /// What happened since.
    later: &'a [Event],
}

impl Held<'_> {
    fn has_items(&self) -> bool {
        !self.items.is_empty()
    }

    /// Whether one of the gangs is known to have gone on.
    fn has_gang(&self) -> bool {
        self.later.iter().any(|event| match &event.kind {
            EventKind::Checkpointed { job, demand, .. }
            | EventKind::RosterBroken { job, demand, .. } => self.gangs.contains(&(*job, *demand)),
            _ => false,
        })
    }
}

/// What was held at each start of a coordinator, the first one left out where `events` begin later.
fn held_at_starts(events: &[Event]) -> Vec<Held<'_>> {
    let mut items: BTreeMap<Item, BTreeSet<&WorkerId>> = BTreeMap::new();
    let mut gangs = BTreeSet::new();
    let mut found = Vec::new();
    for (position, event) in events.iter().enumerate() {
        match &event.kind {
            EventKind::CoordinatorStarted { process, .. } => found.push(Held {
                process: *process,
                items: items.clone(),
                gangs: gangs.clone(),
                start: event.number,
                later: &events[position + 1..],
            }),
            EventKind::LeaseGranted {
                job,
                demand,
                worker,
                items: granted,
                is_copy,
                ..
            } => {
                for (index, _) in granted {
                    let holders = items.entry((*job, *demand, *index)).or_default();
                    if !is_copy {
                        holders.clear();
                    }
                    holders.insert(worker);
                }
            }
            EventKind::ItemsRecorded {
                job,
                demand,
                items: done,
                ..
            } => items.retain(|(j, d, index), _| (j, d) != (job, demand) || !done.contains(index)),
            EventKind::ItemsRetried {
                job,
                demand,
                items: open,
                ..
            } => items.retain(|(j, d, index), _| {
                (j, d) != (job, demand) || !open.iter().any(|(retried, _)| retried == index)
            }),
            EventKind::RosterCommitted { job, demand, .. } => {
                gangs.insert((*job, *demand));
            }
            EventKind::RosterBroken { job, demand, .. } => {
                gangs.remove(&(*job, *demand));
            }
            _ => {}
        }
    }
    found
}

/// The items that an agent, dead with its coordinator, alone held when the next one took office, and
/// what happened since.
fn orphans<'a>(events: &'a [Event], dead: &Struck) -> Option<(BTreeSet<Item>, &'a [Event])> {
    let starts = held_at_starts(events);
    let held = starts.iter().find(|held| held.start > dead.seen)?;
    let alone = BTreeSet::from([&dead.worker]);
    let items = held.items.iter().filter(|(_, holders)| **holders == alone);
    Some((items.map(|(item, _)| *item).collect(), held.later))
}

/// Whether the agent's process joined again: then it is another one that died.
fn came_back(events: &[Event], dead: &Struck) -> bool {
    let is_its = |event: &Event| {
        matches!(&event.kind, EventKind::WorkerJoined { worker, process, .. }
            if *worker == dead.worker && i64::from(*process) == dead.agent)
    };
    after(events, dead.seen).iter().any(is_its)
}

/// Whether one of `wanted` was granted, and not as a copy of one that runs.
fn was_granted(events: &[Event], wanted: &BTreeSet<Item>) -> bool {
    events.iter().any(|event| match &event.kind {
        EventKind::LeaseGranted {
            job,
            demand,
            items,
            is_copy: false,
            ..
        } => {
            let mut items = items.iter();
            items.any(|(index, _)| wanted.contains(&(*job, *demand, *index)))
        }
        _ => false,
    })
}

/// Events from the start of a stage to its end.
fn within<'a>(events: &'a [Event], stage: &str) -> &'a [Event] {
    let begin = events
        .iter()
        .position(|e| matches!(&e.kind, EventKind::StageStarted { stage: s, .. } if s == stage));
    let end = events.iter().position(|e| is_end(e, stage));
    begin.map_or(&[], |begin| {
        &events[begin..end.unwrap_or(events.len()).max(begin)]
    })
}

#[cfg(test)]
mod tests;
