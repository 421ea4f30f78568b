//! What executors say, how they end, and what is done with their files.

use super::reports::fitting;
use super::{Core, Slot};
use crate::agent::describe::{describe_exit, missing_library, restart_wait};
use crate::agent::work::{Action, Counter, Purpose, Running, Work};
use crate::text::{bounded, cut};
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::{Checkpoint, FailureCause, HeldRank, ItemOutcome, WorkError};
use evoring_protocol::worker::{RankEvent, WorkerReport};
use evoring_protocol::{Digest, SlotIndex};
use std::path::PathBuf;
use std::time::Duration;

/// Deaths of one executor within [`DEATH_WINDOW`], without being ready in between, that end the
/// agent. One that becomes ready can compute: what kills it then is its work or a person.
const DEATHS: usize = 5;
const DEATH_WINDOW: Duration = Duration::from_secs(60);

/// An executor's end.
pub(super) struct Exit<'a> {
    pub slot: SlotIndex,
    pub process: u32,
    pub status: &'a str,
    pub last_lines: String,
}

/// Which piece of work a report is about.
fn task_of(report: &ExecutorReport) -> Option<u64> {
    match report {
        ExecutorReport::Ready { .. } => None,
        ExecutorReport::Items { task, .. }
        | ExecutorReport::ItemsDone { task }
        | ExecutorReport::Progress { task, .. }
        | ExecutorReport::Checkpoint { task, .. }
        | ExecutorReport::RankFinished { task, .. }
        | ExecutorReport::RankFailed { task, .. }
        | ExecutorReport::Panicked { task }
        | ExecutorReport::Log { task, .. } => Some(*task),
    }
}

impl Core {
    pub(super) fn report(&mut self, index: SlotIndex, report: ExecutorReport, now: Duration) {
        let Some(slot) = self.slots.get_mut(index.0 as usize) else {
            return;
        };
        if let ExecutorReport::Ready { numerics } = report {
            slot.is_ready = true;
            slot.deaths.clear();
            self.ready(index, numerics);
            return;
        }
        let Some(running) = &mut slot.running else {
            return;
        };
        // A report of work that was given up in the meantime.
        if task_of(&report) != Some(running.task) {
            return;
        }
        let is_stopping = running.stopping_since.is_some();
        let is_error = matches!(&report, ExecutorReport::Items { outcomes, .. }
            if outcomes.iter().any(|outcome| outcome.result.is_err()));
        running.has_told_panic |= running.has_panicked && is_error;
        match (report, &mut running.work) {
            (ExecutorReport::Items { mut outcomes, .. }, Work::Items { lease, pending, .. }) => {
                outcomes.retain(|outcome| pending.remove(&outcome.index));
                let lease = lease.clone();
                self.results(lease, outcomes);
            }
            (ExecutorReport::ItemsDone { .. }, Work::Items { .. }) => {
                // Items that an executor left out without being stopped would otherwise be lost.
                let message = "the executor ended a batch without these items".to_owned();
                let cause = FailureCause::Failed;
                self.ended(index, Some(WorkError { message, cause }));
            }
            (ExecutorReport::Progress { progress, .. }, Work::Rank { held, .. }) => {
                let held = held.clone();
                self.send_soft(WorkerReport::Progress { held, progress });
            }
            (ExecutorReport::Checkpoint { step, path, .. }, Work::Rank { held, .. }) => {
                let (held, purpose) = (held.clone(), Purpose::Checkpoint(step));
                let files = vec![path];
                self.actions.push(Action::Store {
                    held,
                    purpose,
                    files,
                });
            }
            (ExecutorReport::RankFinished { result, blobs, .. }, Work::Rank { held, .. }) => {
                let held = held.clone();
                match fitting(result) {
                    Ok(result) if !is_stopping => self.store_result(held, result, blobs),
                    Ok(_) => {}
                    Err(error) => return self.ended(index, Some(error)),
                }
                self.ended(index, None);
            }
            (ExecutorReport::RankFailed { error, .. }, Work::Rank { .. }) => {
                self.ended(index, Some(error));
            }
            (ExecutorReport::Panicked { .. }, _) => {
                running.has_panicked = true;
                slot.is_ready = false;
                slot.dying_since = Some(now);
            }
            (ExecutorReport::Log { line, .. }, work) => {
                let (job, lines) = (work.job(), vec![cut(line)]);
                self.send_soft(WorkerReport::Log { job, lines });
            }
            // An executor that answers what it was not asked.
            _ => {}
        }
    }

    /// The slot's work has ended; what is open of it failed with `error`, unless it was stopped.
    fn ended(&mut self, index: SlotIndex, error: Option<WorkError>) {
        let Some(slot) = self.slots.get_mut(index.0 as usize) else {
            return;
        };
        let finished = slot.running.take();
        let finished = finished.filter(|running| running.stopping_since.is_none());
        if let (Some(finished), Some(error)) = (finished, error) {
            self.fail(finished.work, error);
        }
        self.start_next(index);
    }

    fn store_result(&mut self, held: HeldRank, result: Vec<u8>, files: Vec<PathBuf>) {
        self.storing.push(held.clone());
        let purpose = Purpose::Result(result);
        self.actions.push(Action::Store {
            held,
            purpose,
            files,
        });
    }

    fn ready(&mut self, index: SlotIndex, numerics: NumericsClass) {
        match &self.numerics {
            Some(known) if *known != numerics => {
                let message = format!(
                    "executors of two numerics classes on one host: {known} and {numerics}; build again"
                );
                self.actions.push(Action::Exit {
                    message,
                    is_hopeless: true,
                });
            }
            _ => self.numerics = Some(numerics),
        }
        self.heartbeat_now();
        self.start_next(index);
    }

    pub(super) fn executor_exited(&mut self, exit: Exit<'_>, now: Duration) {
        let Exit {
            slot: index,
            process,
            status,
            last_lines,
        } = exit;
        let Some(slot) = self.slots.get_mut(index.0 as usize) else {
            return;
        };
        slot.process = 0;
        slot.is_ready = false;
        slot.dying_since = None;
        slot.deaths.push_back(now);
        slot.deaths
            .retain(|death| now.saturating_sub(*death) < DEATH_WINDOW);
        let deaths = slot.deaths.len();
        let running = slot.running.take();
        let status = cut(describe_exit(status, &last_lines));
        let message = format!(
            "worker {}: the executor of slot {index} ended: {status}",
            self.profile.worker
        );
        self.actions.push(Action::Count(Counter::ExecutorDied));
        self.actions.push(Action::Log(message.clone()));
        // What an executor that panicked ran is told by its own reports, and blamed once.
        let given = running
            .as_ref()
            .filter(|running| running.is_delivered && !running.has_told_panic);
        self.send_soft(WorkerReport::ExecutorExited {
            slot: index,
            process,
            status,
            last_lines: cut(last_lines.clone()),
            ran: given.map(|running| running.work.ran()),
        });
        if let Some(running) = running.filter(|running| running.stopping_since.is_none()) {
            self.died(running, &message);
        }
        if missing_library(&last_lines).is_some() {
            self.actions.push(Action::Exit {
                message,
                is_hopeless: true,
            });
        } else if deaths >= DEATHS {
            let message = format!(
                "{message}; {deaths} deaths within a minute. Its last lines:\n{last_lines}"
            );
            self.actions.push(Action::Exit {
                message,
                is_hopeless: false,
            });
        } else {
            self.actions.push(Action::Start {
                slot: index,
                wait: restart_wait(deaths),
            });
        }
    }

    /// Reports the work of a dead executor (`AGENT-3`). It computes items in the order of their
    /// lease, so the first open one is what it died with, unless it told of a panic: then it has
    /// reported the item that it died with.
    fn died(&mut self, running: Running, message: &str) {
        let error = |cause| WorkError {
            message: cut(message.to_owned()),
            cause,
        };
        let cause = if running.is_delivered && !running.has_told_panic {
            FailureCause::Failed
        } else {
            FailureCause::Lost
        };
        let Work::Items { lease, pending, .. } = running.work else {
            return self.fail(running.work, error(cause));
        };
        let open = lease.items.iter().filter(|i| pending.contains(&i.index));
        let causes = std::iter::once(cause).chain(std::iter::repeat(FailureCause::Lost));
        let outcomes = open.zip(causes).map(|(item, cause)| ItemOutcome {
            index: item.index,
            result: Err(error(cause)),
        });
        let outcomes = outcomes.collect();
        self.results(lease, outcomes);
    }

    /// Hands work over, unless it was stopped in the meantime.
    pub(super) fn prepared(
        &mut self,
        index: SlotIndex,
        process: u32,
        command: Box<ExecutorCommand>,
    ) {
        let (ExecutorCommand::RunItems { task, .. }
        | ExecutorCommand::RunRank { task, .. }
        | ExecutorCommand::Stop { task }) = &*command;
        let Some(slot) = self.slots.get_mut(index.0 as usize) else {
            return;
        };
        if let Some(running) = &mut slot.running
            && running.task == *task
        {
            running.is_delivered = true;
            self.actions.push(Action::Deliver {
                slot: index,
                process,
                command,
            });
        }
    }

    pub(super) fn not_prepared(&mut self, task: u64, error: WorkError) {
        let has_task = |slot: &Slot| slot.running.as_ref().is_some_and(|r| r.task == task);
        if let Some(place) = self.slots.iter().position(has_task) {
            self.ended(SlotIndex(place as u32), Some(error));
        }
    }

    pub(super) fn stored(
        &mut self,
        held: HeldRank,
        purpose: Purpose,
        outcome: Result<Option<Digest>, WorkError>,
    ) {
        match (purpose, outcome) {
            (Purpose::Checkpoint(step), Ok(Some(digest))) => {
                self.rank_event(held, RankEvent::Checkpointed(Checkpoint { step, digest }));
            }
            // The training goes on without this checkpoint; the next one may be stored.
            (Purpose::Checkpoint(step), outcome) => {
                let why = outcome
                    .err()
                    .map_or_else(|| "there was no file".to_owned(), |error| error.message);
                self.actions.push(Action::Log(format!(
                    "job {}: checkpoint of step {step} is not stored: {why}",
                    held.job
                )));
            }
            (Purpose::Result(result), Ok(_)) => {
                self.storing.retain(|storing| *storing != held);
                self.actions.push(Action::Count(Counter::RankDone));
                self.rank_event(held, RankEvent::Finished { result });
            }
            (Purpose::Result(_), Err(error)) => {
                self.storing.retain(|storing| *storing != held);
                self.actions.push(Action::Count(Counter::RankFailed));
                let error = WorkError {
                    message: format!("the result cannot be stored: {}", error.message),
                    cause: error.cause,
                };
                self.rank_event(held, RankEvent::Failed(bounded(error)));
            }
        }
    }
}
