//! 7: a checkpoint counts once it is stored, whole and of the step that it names; the next roster
//! resumes from the newest that counts, and its ranks are given the very same.

use super::rosters::Gang;
use super::{Checked, Violation};
use evoring_coordinator::state::{Applied, Command, Effect};
use evoring_protocol::event::EventKind;
use evoring_protocol::work::{Checkpoint, Roster};
use evoring_protocol::{Digest, RosterNumber, Step};
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "checkpoints";

/// Checkpoints of gangs.
#[derive(Debug, Default)]
pub(in super::super) struct Checkpoints {
    /// What a worker stored.
    stored: BTreeSet<Digest>,
    /// The newest of each gang that is committed.
    committed: BTreeMap<Gang, Checkpoint>,
    /// Where a roster resumes, as it was committed.
    resumes: BTreeMap<(Gang, RosterNumber), Option<Checkpoint>>,
}

/// The file of a step: a training repeats bit for bit, whoever runs it.
pub(in super::super) fn file(gang: Gang, step: Step) -> Digest {
    Digest::of(format!("{gang:?} {step:?}").as_bytes())
}

impl Checkpoints {
    /// A worker has stored the file of this step.
    pub(in super::super) fn stored(&mut self, gang: Gang, step: Step) -> Digest {
        let digest = file(gang, step);
        self.stored.insert(digest);
        digest
    }

    /// An entry was applied for the first time.
    pub(super) fn applied(&mut self, commands: &[Command], applied: &Applied) -> Checked {
        for effect in &applied.effects {
            let Effect::Event(event) = effect else {
                continue;
            };
            match event {
                EventKind::Checkpointed {
                    job, demand, step, ..
                } => self.counts((*job, *demand), Step(*step), commands)?,
                EventKind::RosterCommitted {
                    job,
                    demand,
                    roster,
                    resume_step,
                    ..
                } => {
                    let gang = (*job, *demand);
                    let newest = self.committed.get(&gang).copied();
                    let expected = newest.map_or(0, |newest| newest.step.0);
                    if *resume_step != expected {
                        let what = format!(
                            "roster {roster} of gang {gang:?} resumes at step {resume_step}, the newest \
                             checkpoint is of {expected}"
                        );
                        return Err(Violation::new(NAME, what));
                    }
                    self.resumes.insert((gang, *roster), newest);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn counts(&mut self, gang: Gang, step: Step, commands: &[Command]) -> Checked {
        let named = commands.iter().find_map(|command| match command {
            Command::Checkpoint {
                job,
                demand,
                checkpoint,
                ..
            } if (*job, *demand) == gang && checkpoint.step == step => Some(*checkpoint),
            _ => None,
        });
        let is_whole = named.is_some_and(|checkpoint| {
            checkpoint.digest == file(gang, step) && self.stored.contains(&checkpoint.digest)
        });
        let Some(checkpoint) = named.filter(|_| is_whole) else {
            let what =
                format!("{named:?} of gang {gang:?} counts for step {step:?}: not stored so");
            return Err(Violation::new(NAME, what));
        };
        self.committed.insert(gang, checkpoint);
        Ok(())
    }

    /// A worker is told to run a rank of a roster.
    pub(in super::super) fn resumes(&self, gang: Gang, roster: &Roster) -> Checked {
        let committed = self.resumes.get(&(gang, roster.number));
        if committed == Some(&roster.resume) {
            return Ok(());
        }
        let what = format!(
            "a rank of roster {} of gang {gang:?} is to resume from {:?}, committed was {committed:?}",
            roster.number, roster.resume
        );
        Err(Violation::new(NAME, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_protocol::{DemandId, JobId};

    const GANG: Gang = (JobId(1), DemandId(1));

    fn commits(checkpoints: &mut Checkpoints, step: u64, digest: Digest) -> Checked {
        let command = Command::Checkpoint {
            job: GANG.0,
            demand: GANG.1,
            number: RosterNumber(1),
            checkpoint: Checkpoint {
                step: Step(step),
                digest,
            },
        };
        let event = EventKind::Checkpointed {
            job: GANG.0,
            demand: GANG.1,
            step,
            digest,
        };
        checkpoints.applied(&[command], &told(event))
    }

    fn told(event: EventKind) -> Applied {
        Applied {
            effects: vec![Effect::Event(event)],
            ..Applied::default()
        }
    }

    fn forms(checkpoints: &mut Checkpoints, resume_step: u64) -> Checked {
        let event = EventKind::RosterCommitted {
            job: GANG.0,
            demand: GANG.1,
            stage: "train".into(),
            roster: RosterNumber(2),
            members: Vec::new(),
            resume_step,
        };
        checkpoints.applied(&[], &told(event))
    }

    // Claim: what is not stored, or is of another step, does not count; a roster that resumes elsewhere
    // than at the newest, and a rank that is given something else, are found.
    // Method: each once, beside what is right.
    #[test]
    fn bad_histories_are_found() {
        let mut checkpoints = Checkpoints::default();
        let ten = file(GANG, Step(10));
        assert!(commits(&mut checkpoints, 10, ten).is_err());
        assert_eq!(checkpoints.stored(GANG, Step(10)), ten);
        assert!(commits(&mut checkpoints, 20, ten).is_err());
        assert!(forms(&mut checkpoints, 10).is_err());
        commits(&mut checkpoints, 10, ten).unwrap();
        assert!(forms(&mut checkpoints, 0).is_err());
        forms(&mut checkpoints, 10).unwrap();
        let mut roster = Roster {
            number: RosterNumber(2),
            members: Vec::new(),
            secret: [0; 32],
            resume: None,
        };
        assert!(checkpoints.resumes(GANG, &roster).is_err());
        roster.resume = Some(Checkpoint {
            step: Step(10),
            digest: ten,
        });
        checkpoints.resumes(GANG, &roster).unwrap();
        roster.number = RosterNumber(3);
        assert!(checkpoints.resumes(GANG, &roster).is_err());
    }
}
