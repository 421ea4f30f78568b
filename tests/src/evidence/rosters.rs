//! Which rosters stood at a moment, and which of them broke because a member was lost.

use evoring_protocol::event::{Event, EventKind};
use evoring_protocol::{DemandId, JobId, RosterNumber, WorkerId};
use std::collections::BTreeMap;

/// A gang of a job.
type Gang = (JobId, DemandId);

/// A roster that broke.
#[derive(Debug)]
pub(super) struct LostRoster<'a> {
    gang: Gang,
    roster: RosterNumber,
    /// What happened since.
    later: &'a [Event],
}

impl LostRoster<'_> {
    /// Whether the gang got a roster after this one.
    pub(super) fn is_formed_again(&self) -> bool {
        self.later.iter().any(|event| match &event.kind {
            EventKind::RosterCommitted {
                job,
                demand,
                roster,
                ..
            } => (*job, *demand) == self.gang && *roster > self.roster,
            _ => false,
        })
    }
}

/// The rosters of the stage that stood when the event numbered `moment` had happened, with `worker`
/// among their members, and that broke later on (and did not merely grow).
pub(super) fn lost<'a>(
    events: &'a [Event],
    stage: &str,
    worker: &WorkerId,
    moment: u64,
) -> impl Iterator<Item = LostRoster<'a>> {
    let at = events.partition_point(|event| event.number <= moment);
    let standing = standing(&events[..at], stage, worker);
    let position_of_break = move |gang: Gang, roster: RosterNumber| {
        let mut rest = events.iter().enumerate().skip(at);
        let (position, broken) = rest.find(|(_, event)| breaks(&event.kind, gang, roster))?;
        (!is_growth(&broken.kind)).then_some(position)
    };
    standing.into_iter().filter_map(move |(gang, roster)| {
        let position = position_of_break(gang, roster)?;
        Some(LostRoster {
            gang,
            roster,
            later: &events[position + 1..],
        })
    })
}

/// The roster of each gang of the stage that has one with `worker` in it after `events`; some may have
/// ended without a word.
fn standing(events: &[Event], stage: &str, worker: &WorkerId) -> BTreeMap<Gang, RosterNumber> {
    let mut standing = BTreeMap::new();
    for event in events {
        match &event.kind {
            EventKind::RosterCommitted {
                job,
                demand,
                stage: s,
                roster,
                members,
                ..
            } if s == stage => {
                // A later roster takes the place of an earlier one, whoever is in it.
                standing.remove(&(*job, *demand));
                if members.iter().any(|(member, _)| member == worker) {
                    standing.insert((*job, *demand), *roster);
                }
            }
            EventKind::RosterBroken { job, demand, .. } => {
                standing.remove(&(*job, *demand));
            }
            _ => {}
        }
    }
    standing
}

fn breaks(kind: &EventKind, gang: Gang, number: RosterNumber) -> bool {
    matches!(kind, EventKind::RosterBroken { job, demand, roster, .. }
        if (*job, *demand) == gang && *roster == number)
}

/// Whether a gang that began on the slots there were takes those that came since.
///
/// Events say so in the reason alone: a gang that is formed again after a loss, on more slots and
/// from its last checkpoint, leaves the same members and steps behind as one that grew.
pub fn is_growth(kind: &EventKind) -> bool {
    matches!(kind, EventKind::RosterBroken { reason, .. } if reason.starts_with("the gang grows"))
}
