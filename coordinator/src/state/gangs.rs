//! Commands about gangs.

use super::{Command, Effect, GangState, Job, Phase, State};
use evoring_jobs::driver::DriverEvent;
use evoring_protocol::event::EventKind;
use evoring_protocol::work::{Checkpoint, FailureCause, Member, WorkError};
use evoring_protocol::{DemandId, JobId, Rank, RosterNumber, limits};

/// A roster, as commands name it, and the entry that does.
#[derive(Clone, Copy)]
struct At {
    index: u64,
    job: JobId,
    demand: DemandId,
    number: RosterNumber,
}

impl State {
    /// Takes one of the commands that name a roster.
    pub(super) fn gang_command(&mut self, index: u64, command: Command, effects: &mut Vec<Effect>) {
        let at = |job, demand, number| At {
            index,
            job,
            demand,
            number,
        };
        match command {
            Command::CommitRoster {
                job,
                demand,
                number,
                members,
                secret,
            } => {
                self.commit_roster(at(job, demand, number), &members, secret, effects);
            }
            Command::BreakRoster {
                job,
                demand,
                number,
                reason,
                cause,
            } => {
                self.break_roster(at(job, demand, number), reason, cause, effects);
            }
            Command::RankFailed {
                job,
                demand,
                number,
                rank,
                error,
            } => {
                self.rank_failed(at(job, demand, number), rank, error, effects);
            }
            Command::RankFinished {
                job,
                demand,
                number,
                rank,
                result,
            } => {
                self.rank_finished(at(job, demand, number), rank, &result, effects);
            }
            Command::Checkpoint {
                job,
                demand,
                number,
                checkpoint,
            } => {
                self.checkpoint(at(job, demand, number), checkpoint, effects);
            }
            // All others are taken elsewhere.
            _ => {}
        }
    }

    fn gang_mut(&mut self, job: JobId, demand: DemandId) -> Option<&mut GangState> {
        self.jobs
            .get_mut(&job)?
            .work_mut()?
            .demands
            .get_mut(&demand)?
            .gang_mut()
    }

    fn commit_roster(
        &mut self,
        at: At,
        members: &[Member],
        secret: [u8; 32],
        effects: &mut Vec<Effect>,
    ) {
        let At {
            job: id,
            demand,
            number,
            ..
        } = at;
        let time_ms = self.time_ms;
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let Some(state) = job
            .work_mut()
            .and_then(|work| work.demands.get_mut(&demand))
        else {
            return;
        };
        let stage = state.stage.clone();
        let Some(roster) = state
            .gang_mut()
            .and_then(|gang| gang.commit(number, members, secret))
        else {
            return;
        };
        effects.push(Effect::Event(EventKind::RosterCommitted {
            job: id,
            demand,
            stage,
            roster: number,
            members: members
                .iter()
                .map(|member| (member.worker.clone(), member.slot))
                .collect(),
            resume_step: roster.resume.map_or(0, |checkpoint| checkpoint.step.0),
        }));
        effects.push(Effect::RosterCommitted { job: id, demand });
        job.started_ms.get_or_insert(time_ms);
    }

    fn break_roster(
        &mut self,
        at: At,
        reason: String,
        cause: Option<FailureCause>,
        effects: &mut Vec<Effect>,
    ) {
        let At {
            job: id,
            demand,
            number,
            ..
        } = at;
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let Some(state) = job
            .work_mut()
            .and_then(|work| work.demands.get_mut(&demand))
        else {
            return;
        };
        let stage = state.stage.clone();
        let Some(gang) = state.gang_mut() else { return };
        if gang.current(number).is_none() {
            return;
        }
        let given_up = gang.void(cause, &reason);
        job.retries += u64::from(cause.is_some());
        effects.push(Effect::Event(EventKind::RosterBroken {
            job: id,
            demand,
            stage,
            roster: number,
            reason,
        }));
        effects.push(Effect::RosterBroken { job: id, demand });
        if let Some(message) = given_up {
            self.fail_demand(
                at.index,
                id,
                demand,
                WorkError {
                    message,
                    cause: FailureCause::Final,
                },
                effects,
            );
        }
    }

    fn rank_failed(&mut self, at: At, rank: Rank, error: WorkError, effects: &mut Vec<Effect>) {
        let message = format!("rank {rank}: {}", error.message);
        let Some(gang) = self.gang_mut(at.job, at.demand) else {
            return;
        };
        let given_up = match error.cause {
            // From an older roster too: a peer that noticed the loss first may have broken that one.
            FailureCause::Final => Some(message),
            FailureCause::Failed if gang.current(at.number).is_none() => {
                gang.blame(at.number, &message)
            }
            FailureCause::Failed | FailureCause::Lost => {
                return self.break_roster(at, message, Some(error.cause), effects);
            }
        };
        if let Some(message) = given_up {
            let cause = FailureCause::Final;
            let error = WorkError { message, cause };
            self.fail_demand(at.index, at.job, at.demand, error, effects);
        }
    }

    fn rank_finished(&mut self, at: At, rank: Rank, result: &[u8], effects: &mut Vec<Effect>) {
        let At {
            index,
            job: id,
            demand,
            number,
        } = at;
        if result.len() > limits::RESULT_BYTES {
            let message = format!(
                "a result of {} bytes, at most {} are allowed",
                result.len(),
                limits::RESULT_BYTES
            );
            return self.rank_failed(
                at,
                rank,
                WorkError {
                    message,
                    cause: FailureCause::Final,
                },
                effects,
            );
        }
        let Some(agreed) = self
            .gang_mut(id, demand)
            .and_then(|gang| gang.finish(number, rank, result))
        else {
            return;
        };
        match agreed {
            Ok(result) => {
                if let Some(work) = self.jobs.get_mut(&id).and_then(Job::work_mut) {
                    work.demands.remove(&demand);
                }
                effects.push(Effect::DemandEnded { job: id, demand });
                self.step(
                    index,
                    id,
                    DriverEvent::GangFinished { demand, result },
                    effects,
                );
            }
            Err(message) => {
                // Not left to the driver: numbers that do not repeat are a defect, never a result.
                let error = format!("gang {demand} of job {id}: {message}");
                self.end(id, Phase::Failed { error }, effects);
            }
        }
    }

    fn checkpoint(&mut self, at: At, checkpoint: Checkpoint, effects: &mut Vec<Effect>) {
        let At {
            job,
            demand,
            number,
            ..
        } = at;
        if self
            .gang_mut(job, demand)
            .is_some_and(|gang| gang.checkpoint(number, checkpoint))
        {
            let (step, digest) = (checkpoint.step.0, checkpoint.digest);
            effects.push(Effect::Event(EventKind::Checkpointed {
                job,
                demand,
                step,
                digest,
            }));
            effects.push(Effect::Checkpointed { job, demand });
        }
    }
}
