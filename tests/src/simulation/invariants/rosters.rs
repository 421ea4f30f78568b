//! 5: a gang has one roster at a time, with growing numbers; once one is voided, nothing of it counts,
//! and a worker that knows a newer one soon stops its ranks.

use super::super::counters::{Counters, Sometimes};
use super::super::world::MS;
use super::{Checked, Violation};
use evoring_coordinator::state::{Applied, Command, Effect, State};
use evoring_protocol::event::EventKind;
use evoring_protocol::{DemandId, JobId, Rank, RosterNumber, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "rosters";

/// A gang.
pub(in super::super) type Gang = (JobId, DemandId);

/// A worker that knows a newer roster has stopped the ranks of older ones by then: a stop that is not
/// obeyed within two seconds becomes a kill.
const STOPS_US: u64 = 2_500 * MS;

/// A rank that has just taken a step.
#[derive(Debug)]
pub(in super::super) struct RankSteps<'a> {
    pub worker: &'a WorkerId,
    pub gang: Gang,
    pub roster: RosterNumber,
    /// The newest roster that its worker was told of, and when.
    pub told: Option<(RosterNumber, u64)>,
    pub now: u64,
}

/// Gangs, as their events tell.
#[derive(Debug, Default)]
pub(in super::super) struct Rosters {
    newest: BTreeMap<Gang, RosterNumber>,
    /// The last roster of each that was voided.
    broken: BTreeMap<Gang, RosterNumber>,
    steps: BTreeMap<Gang, u64>,
    /// The newest roster of which a rank has taken a step.
    stepped: BTreeMap<Gang, RosterNumber>,
    /// Ranks that may have finished in the newest roster.
    finished: BTreeMap<Gang, BTreeSet<Rank>>,
}

impl Rosters {
    /// An entry was applied for the first time.
    pub(super) fn applied(
        &mut self,
        commands: &[Command],
        applied: &Applied,
        counters: &mut Counters,
    ) -> Checked {
        let before = self.newest.clone();
        let broken = self.broken.clone();
        for effect in &applied.effects {
            if let Effect::Event(event) = effect {
                self.event(event, commands, &before, counters)?;
            }
        }
        for command in commands {
            let (gang, number, rank) = match command {
                Command::RankFinished {
                    job,
                    demand,
                    number,
                    rank,
                    ..
                } => ((*job, *demand), *number, Some(*rank)),
                Command::Checkpoint {
                    job,
                    demand,
                    number,
                    ..
                } => ((*job, *demand), *number, None),
                _ => continue,
            };
            let is_old = self
                .newest
                .get(&gang)
                .is_some_and(|newest| number < *newest);
            if is_old || broken.get(&gang).is_some_and(|broken| number <= *broken) {
                counters.hit(Sometimes::OldRosterIgnored);
            } else if let Some(rank) = rank {
                self.finished.entry(gang).or_default().insert(rank);
            }
        }
        Ok(())
    }

    fn event(
        &mut self,
        event: &EventKind,
        commands: &[Command],
        before: &BTreeMap<Gang, RosterNumber>,
        counters: &mut Counters,
    ) -> Checked {
        match event {
            EventKind::RosterCommitted {
                job,
                demand,
                roster,
                ..
            } => {
                let gang = (*job, *demand);
                let old = self.newest.insert(gang, *roster);
                self.finished.remove(&gang);
                if old.is_some() {
                    counters.hit(Sometimes::RosterReplaced);
                }
                if old.is_some_and(|old| old >= *roster) {
                    let what = format!("gang {gang:?} got roster {roster} after {old:?}");
                    return Err(Violation::new(NAME, what));
                }
            }
            EventKind::RosterBroken {
                job,
                demand,
                roster,
                ..
            } => {
                let gang = (*job, *demand);
                let grows = |command: &Command| matches!(command, Command::BreakRoster { cause: None, number, .. } if number == roster);
                if commands.iter().any(grows) {
                    counters.hit(Sometimes::GangGrown);
                }
                if self.newest.get(&gang) != Some(roster) {
                    let what = format!("roster {roster} of gang {gang:?} broke, not the newest");
                    return Err(Violation::new(NAME, what));
                }
                self.broken.insert(gang, *roster);
            }
            EventKind::Checkpointed {
                job, demand, step, ..
            } => {
                counters.hit(Sometimes::Checkpointed);
                let gang = (*job, *demand);
                let is_of_newest = commands.iter().any(|command| {
                    matches!(command, Command::Checkpoint { job, demand, number, checkpoint }
                        if (*job, *demand) == gang && checkpoint.step.0 == *step
                            && before.get(&gang).is_none_or(|newest| number >= newest))
                });
                let old = self.steps.insert(gang, *step);
                if !is_of_newest || old.is_some_and(|old| old >= *step) {
                    let what = format!(
                        "gang {gang:?} was checkpointed at step {step} after {old:?}, of its newest \
                         roster: {is_of_newest}"
                    );
                    return Err(Violation::new(NAME, what));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A worker that was told of a newer roster works for no older one for long. Others may: nobody
    /// waits for them, and what they say does not count.
    pub(in super::super) fn steps(
        &mut self,
        step: &RankSteps<'_>,
        counters: &mut Counters,
    ) -> Checked {
        let RankSteps {
            worker,
            gang,
            roster,
            told,
            now,
        } = step;
        let newest = self.stepped.entry(*gang).or_insert(*roster);
        if *newest > *roster {
            counters.hit(Sometimes::OldRosterStepped);
        }
        *newest = (*newest).max(*roster);
        let is_late =
            |(newer, since): &(RosterNumber, u64)| newer > roster && now - since > STOPS_US;
        let Some((newer, since)) = told.filter(is_late) else {
            return Ok(());
        };
        let what = format!(
            "worker {worker} takes a step of roster {roster} of gang {gang:?}, {} ms after it was told \
             of roster {newer}",
            (now - since) / MS
        );
        Err(Violation::new(NAME, what))
    }

    /// The state after all of that holds no result that does not count.
    pub(super) fn results(&self, state: &State) -> Checked {
        for (job, _, work) in state.active_jobs() {
            for (&demand, body) in &work.demands {
                let Some(gang) = body.gang() else { continue };
                let known = self.finished.get(&(job, demand));
                let is_known = |rank| known.is_some_and(|known| known.contains(rank));
                if let Some(rank) = gang.results.keys().find(|rank| !is_known(rank)) {
                    let what = format!("rank {rank} of gang {job}/{demand} finished in no roster");
                    return Err(Violation::new(NAME, what));
                }
            }
        }
        Ok(())
    }
}
