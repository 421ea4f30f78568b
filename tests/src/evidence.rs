//! What the events of a run prove: that a victim held work when it died, that this work was run
//! again, and that nothing with a result was.
//!
//! An agent or executor that dies alone is reported with what it held. Leases are soft state, so
//! that a coordinator that dies tells nobody what its workers hold; for it the proof is what was
//! granted and had no result when its successor took office. A gang counts as held if its roster
//! stood at that moment and the same demand wrote a checkpoint, or broke, later on.

use crate::cluster::stage_of;
use crate::scenario::{Struck, Victim};
use evoring_protocol::event::{Event, EventKind};
use evoring_protocol::{DemandId, ItemIndex, JobId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// An item of a map of a job.
type Item = (JobId, DemandId, ItemIndex);

/// Whether the events show that a victim died within the stage while it held work.
pub fn kill_counts(events: &[Event], stage: &str, victim: Victim, struck: &[Struck]) -> bool {
    let events = within(events, stage);
    let is_worker = |worker: &WorkerId| struck.iter().any(|s| s.worker == *worker);
    let is_executor = |process: u32| struck.iter().any(|s| s.executor == i64::from(process));
    match victim {
        // The other ranks may notice a death before the coordinator does, and break the roster.
        Victim::Agent => events.iter().any(|event| match &event.kind {
            EventKind::WorkerLost {
                worker,
                held_items,
                held_ranks,
                ..
            } => is_worker(worker) && held_items + held_ranks > 0,
            _ => is_loss(event, stage),
        }),
        Victim::Executor => events.iter().any(|event| match &event.kind {
            EventKind::ExecutorExited {
                process,
                held_items,
                held_ranks,
                ..
            } => is_executor(*process) && held_items + held_ranks > 0,
            _ => false,
        }),
        Victim::Coordinator => held_at_starts(events)
            .iter()
            .any(|held| held.has_items() || held.has_gang()),
        Victim::AgentAndCoordinator => {
            let mut orphans = orphans(events, struck);
            orphans.any(|(items, _)| !items.is_empty()) || events.iter().any(|e| is_loss(e, stage))
        }
    }
}

/// Whether what the victim held was run again (a coordinator that died alone needs none of that:
/// its workers go on).
pub fn was_tried_again(events: &[Event], stage: &str, victim: Victim, struck: &[Struck]) -> bool {
    let events = within(events, stage);
    let retried = |event: &Event| matches!(event.kind, EventKind::ItemsRetried { .. });
    let is_formed_again = |broken: &Event| {
        events
            .iter()
            .any(|event| match (&event.kind, &broken.kind) {
                (
                    EventKind::RosterCommitted { demand, roster, .. },
                    EventKind::RosterBroken {
                        demand: d,
                        roster: r,
                        ..
                    },
                ) => demand == d && roster > r,
                _ => false,
            })
    };
    let gang = || {
        let mut lost = events.iter().filter(|event| is_loss(event, stage));
        lost.any(is_formed_again)
    };
    match victim {
        Victim::Coordinator => true,
        Victim::Agent | Victim::Executor => events.iter().any(retried) || gang(),
        Victim::AgentAndCoordinator => {
            let mut orphans = orphans(events, struck);
            orphans.any(|(items, later)| was_granted(later, &items)) || gang()
        }
    }
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

/// What workers held when a coordinator took office.
struct Held<'a> {
    /// Who runs each item: two workers where a slow one was copied.
    items: BTreeMap<Item, BTreeSet<&'a WorkerId>>,
    /// Gangs with a roster; some may have ended without a word.
    gangs: BTreeSet<(JobId, DemandId)>,
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
            EventKind::CoordinatorStarted { .. } => found.push(Held {
                items: items.clone(),
                gangs: gangs.clone(),
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

/// For each agent that died with a coordinator: the items that it alone held when the next
/// coordinator took office, and what happened since.
fn orphans<'a>(
    events: &'a [Event],
    struck: &'a [Struck],
) -> impl Iterator<Item = (BTreeSet<Item>, &'a [Event])> {
    held_at_starts(events)
        .into_iter()
        .zip(struck)
        .map(|(held, dead)| {
            let alone = BTreeSet::from([&dead.worker]);
            let items = held.items.iter().filter(|(_, holders)| **holders == alone);
            (items.map(|(item, _)| *item).collect(), held.later)
        })
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

/// Whether a gang of the stage lost a member (and did not merely grow).
fn is_loss(event: &Event, stage: &str) -> bool {
    matches!(&event.kind, EventKind::RosterBroken { stage: s, .. } if s == stage)
        && !is_growth(&event.kind)
}

/// Whether a gang that began on the slots there were takes those that came since.
pub fn is_growth(kind: &EventKind) -> bool {
    matches!(kind, EventKind::RosterBroken { reason, .. } if reason.starts_with("the gang grows"))
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
mod tests {
    use super::*;
    use evoring_protocol::{Attempt, Digest, RosterNumber, SlotIndex};

    const JOB: JobId = JobId(1);
    const DEMAND: DemandId = DemandId(3);
    const STAGE: &str = "search";

    fn worker(name: &str) -> WorkerId {
        WorkerId::new(name).expect("a valid name")
    }

    fn struck(name: &str) -> Struck {
        Struck {
            worker: worker(name),
            agent: 10,
            executor: 11,
        }
    }

    fn start() -> EventKind {
        EventKind::CoordinatorStarted {
            process: 1,
            term: 1,
        }
    }

    fn granted(name: &str, items: &[u32], is_copy: bool) -> EventKind {
        EventKind::LeaseGranted {
            job: JOB,
            demand: DEMAND,
            stage: STAGE.to_owned(),
            worker: worker(name),
            slot: SlotIndex(0),
            items: items
                .iter()
                .map(|index| (ItemIndex(*index), Attempt(1)))
                .collect(),
            is_copy,
        }
    }

    fn recorded(items: &[u32]) -> EventKind {
        EventKind::ItemsRecorded {
            job: JOB,
            demand: DEMAND,
            stage: STAGE.to_owned(),
            items: items.iter().map(|index| ItemIndex(*index)).collect(),
        }
    }

    fn committed() -> EventKind {
        EventKind::RosterCommitted {
            job: JOB,
            demand: DEMAND,
            stage: STAGE.to_owned(),
            roster: RosterNumber(1),
            members: vec![(worker("w1"), SlotIndex(0))],
            resume_step: 0,
        }
    }

    fn checkpointed(demand: DemandId) -> EventKind {
        EventKind::Checkpointed {
            job: JOB,
            demand,
            step: 10,
            digest: Digest([0; 32]),
        }
    }

    /// The stage's events: its start, then `kinds`.
    fn events(kinds: Vec<EventKind>) -> Vec<Event> {
        let stage = STAGE.to_owned();
        let begin = EventKind::StageStarted { job: JOB, stage };
        let numbered = std::iter::once(begin).chain(kinds).zip(1..);
        numbered
            .map(|(kind, number)| Event {
                number,
                time_ms: 0,
                kind,
            })
            .collect()
    }

    // Claim: a coordinator's death counts only if something was granted and had no result, or a
    // gang went on. Method: the same stage with and without it.
    #[test]
    fn coordinator_must_hold_work() {
        let counts = |kinds| kill_counts(&events(kinds), STAGE, Victim::Coordinator, &[]);
        assert!(counts(vec![
            granted("w1", &[0, 1], false),
            recorded(&[0]),
            start()
        ]));
        assert!(!counts(vec![
            granted("w1", &[0], false),
            recorded(&[0]),
            start()
        ]));
        assert!(!counts(vec![start(), granted("w1", &[0], false)]));
        assert!(counts(vec![committed(), start(), checkpointed(DEMAND)]));
        assert!(!counts(vec![
            committed(),
            start(),
            checkpointed(DemandId(9))
        ]));
        assert!(!counts(vec![committed(), checkpointed(DEMAND), start()]));
    }

    // Claim: an agent that died with its coordinator counts if it alone held an item, and the item
    // must be granted again, not merely copied. Method: two workers, one of them dead.
    #[test]
    fn orphans_are_granted_again() {
        let (dead, victim) = ([struck("w1")], Victim::AgentAndCoordinator);
        let before = |more: Vec<EventKind>| {
            let mut kinds = vec![granted("w1", &[0], false), granted("w2", &[1], false)];
            kinds.extend(more);
            events(kinds)
        };
        let counts = |more| kill_counts(&before(more), STAGE, victim, &dead);
        assert!(counts(vec![start()]));
        assert!(!counts(vec![recorded(&[0]), start()]));
        assert!(!counts(vec![granted("w2", &[0], true), start()]));
        let again = |more| was_tried_again(&before(more), STAGE, victim, &dead);
        assert!(again(vec![start(), granted("w2", &[0], false)]));
        assert!(!again(vec![start(), granted("w2", &[0], true)]));
        assert!(!again(vec![start(), granted("w1", &[1], false)]));
    }

    // Claim: an executor's death counts for the process that was killed alone. Method: the same
    // event with another process.
    #[test]
    fn executor_is_the_one_that_was_killed() {
        let exited = |process| EventKind::ExecutorExited {
            worker: worker("w1"),
            slot: SlotIndex(0),
            process,
            held_items: 1,
            held_ranks: 0,
            status: "signal: 9".to_owned(),
        };
        let counts = |kind| {
            kill_counts(
                &events(vec![kind]),
                STAGE,
                Victim::Executor,
                &[struck("w1")],
            )
        };
        assert!(counts(exited(11)));
        assert!(!counts(exited(12)));
    }

    // Claim: a grant after a result is found. Method: the same item before and after its result.
    #[test]
    #[should_panic(expected = "granted again with a result")]
    fn repetition_is_found() {
        let grant = || granted("w1", &[0], false);
        assert_nothing_recorded_is_repeated(&events(vec![grant(), recorded(&[0]), grant()]));
    }
}
