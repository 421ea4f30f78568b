//! What workers report.

use super::retries::delay_ms;
use super::workers::is_current;
use super::{Action, ConnectionId, Context, Scheduler, Use, mac};
use crate::state::{Command, ItemReport};
use evoring_protocol::event::EventKind;
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use evoring_protocol::work::{
    FailureCause, HeldRank, ItemOutcome, Lease, TrainingProgress, WorkError,
};
use evoring_protocol::worker::{Ran, RankEvent, WorkerCommand, WorkerReport};
use evoring_protocol::{Attempt, ItemIndex, SlotIndex, Term, WorkerId, limits};
use std::collections::BTreeMap;

/// What is known of an item when its holder reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Released {
    /// The lease is not in the table, or not with this item.
    Unknown,
    /// Nobody else runs it.
    Last,
    /// Another lease runs it.
    RunsElsewhere,
}

/// The end of an executor.
struct Exit {
    slot: SlotIndex,
    process: u32,
    status: String,
    last_lines: String,
}

impl Scheduler {
    pub(super) fn report(
        &mut self,
        context: Context<'_>,
        connection: ConnectionId,
        report: WorkerReport,
    ) {
        let Some((name, _)) = self.workers.by_connection(connection) else {
            // The worker was given up; it must say hello again.
            self.out.push(Action::Close {
                connection,
                reason: "this worker counts as lost; connect again".to_owned(),
            });
            return;
        };
        let name = name.clone();
        self.workers.heard(connection, context.now.mono_ms);
        match report {
            WorkerReport::Hello(_) => {
                let reason = "a second hello on one connection".to_owned();
                self.out.push(Action::Close {
                    connection,
                    reason: reason.clone(),
                });
                self.disconnected(context, connection, &reason);
            }
            WorkerReport::Heartbeat { executors } => self.heartbeat(&name, &executors),
            WorkerReport::Results {
                sequence,
                lease,
                outcomes,
            } => {
                self.results(context, connection, &name, sequence, &lease, outcomes);
            }
            WorkerReport::Rank {
                sequence,
                held,
                event,
            } => {
                self.rank(context, connection, &name, sequence, held, event);
            }
            WorkerReport::Progress { held, progress } => self.progress(&name, &held, progress),
            WorkerReport::ExecutorExited {
                slot,
                process,
                status,
                last_lines,
                ran,
            } => {
                let exit = Exit {
                    slot,
                    process,
                    status: cut(&status),
                    last_lines: cut(&last_lines),
                };
                self.executor_exited(context, &name, exit, ran);
            }
            WorkerReport::Log { job, lines } => {
                let lines = lines.iter().map(|line| cut(line)).collect();
                self.out.push(Action::Log {
                    job,
                    worker: name,
                    lines,
                });
            }
        }
    }

    fn progress(&mut self, name: &WorkerId, held: &HeldRank, progress: TrainingProgress) {
        if self.holds(name, held)
            && let Some(gang) = self.gangs.get_mut(&(held.job, held.demand))
        {
            gang.progress = Some(progress);
        }
    }

    fn heartbeat(&mut self, name: &WorkerId, executors: &[u32]) {
        for (&process, index) in executors.iter().zip(0u32..) {
            let slot = SlotIndex(index);
            if self.workers.executor(name, slot, process) {
                self.event(EventKind::ExecutorStarted {
                    worker: name.clone(),
                    slot,
                    process,
                });
            }
        }
    }

    fn acknowledge(&mut self, connection: ConnectionId, sequence: u64) {
        self.send(connection, WorkerCommand::Acknowledge { sequence });
    }

    fn results(
        &mut self,
        context: Context<'_>,
        connection: ConnectionId,
        name: &WorkerId,
        sequence: u64,
        lease: &Lease,
        outcomes: Vec<ItemOutcome>,
    ) {
        let is_ours = lease.worker == *name
            && context
                .state
                .lease_key()
                .is_some_and(|key| mac::is_valid(key, lease));
        #[cfg(evoring_plants)]
        let is_ours = is_ours || is_planted(Plant::ForeignLeaseCounts);
        let refusal = if !is_ours {
            Some("which was not granted".to_owned())
        } else if outcomes.len() > lease.items.len() {
            let (got, most) = (outcomes.len(), lease.items.len());
            Some(format!("{got} outcomes, at most {most} are expected"))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            let reason = format!(
                "results for lease {} of term {}: {refusal}",
                lease.number, lease.term
            );
            self.out.push(Action::Close {
                connection,
                reason: reason.clone(),
            });
            self.disconnected(context, connection, &reason);
            return;
        }
        let reports = self.take_outcomes(context, lease, outcomes);
        if reports.is_empty() {
            // SCHED-4: what this says is durable already, or changes nothing.
            self.acknowledge(connection, sequence);
            return;
        }
        self.out.push(Action::Propose {
            command: Command::Record {
                job: lease.job,
                demand: lease.demand,
                outcomes: reports,
            },
            acknowledge: Some((connection, sequence)),
        });
    }

    /// Updates the soft state; gives what must go into the log.
    fn take_outcomes(
        &mut self,
        context: Context<'_>,
        lease: &Lease,
        outcomes: Vec<ItemOutcome>,
    ) -> Vec<ItemReport> {
        let key = (lease.term, lease.number);
        self.learn(context, key, &lease.worker, &outcomes);
        let items = lease.items.iter().map(|item| (item.index, item.attempt));
        let mut leased: BTreeMap<ItemIndex, Attempt> = items.collect();
        let reports = outcomes
            .into_iter()
            .filter_map(|outcome| {
                // Each item of the lease counts once.
                let attempt = leased.remove(&outcome.index)?;
                self.take_outcome(context, lease, attempt, outcome)
            })
            .collect();
        self.extend_lease(key, context.now.mono_ms);
        if self
            .leases
            .get(&key)
            .is_some_and(|running| running.open.is_empty())
        {
            self.drop_lease(key);
        }
        reports
    }

    /// Learns the time of an item, and whether work succeeds on a worker.
    fn learn(
        &mut self,
        context: Context<'_>,
        key: (Term, u64),
        worker: &WorkerId,
        outcomes: &[ItemOutcome],
    ) {
        let now_ms = context.now.mono_ms;
        // What an executor's end took off the table was counted then.
        let is_running = self.leases.contains_key(&key);
        for outcome in outcomes {
            match &outcome.result {
                Ok(_) => self.workers.succeeded(worker),
                Err(error) if error.cause == FailureCause::Failed && is_running => {
                    self.workers.failed(worker, now_ms);
                }
                Err(_) => {}
            }
        }
        let failed = outcomes.iter().filter(|outcome| outcome.result.is_err());
        let failed = failed.count();
        self.measure(key, outcomes.len() - failed, failed, now_ms);
    }

    fn take_outcome(
        &mut self,
        context: Context<'_>,
        lease: &Lease,
        attempt: Attempt,
        ItemOutcome { index, result }: ItemOutcome,
    ) -> Option<ItemReport> {
        let released = self.release((lease.term, lease.number), index);
        let work = self.maps.get_mut(&(lease.job, lease.demand))?;
        let state = context.state.demand(lease.job, lease.demand)?;
        #[cfg(evoring_plants)]
        if result.is_ok() && is_planted(Plant::ResultCountsTwice) {
            let outcome = result;
            return Some(ItemReport {
                index,
                attempt,
                outcome,
            });
        }
        let tries = state.map()?.tries(index)?;
        let error = match result {
            Ok(result) => {
                work.reported.insert(index);
                return Some(ItemReport {
                    index,
                    attempt,
                    outcome: Ok(result),
                });
            }
            Err(error) => error,
        };
        // A failed copy costs nothing while the other one runs, also where its lease was taken off the
        // table before it reported (its executor died, its worker was given up).
        let runs_elsewhere = released == Released::RunsElsewhere
            || (released == Released::Unknown && work.holders.contains_key(&index));
        let is_moot = runs_elsewhere || work.reported.contains(&index);
        if is_moot && error.cause.can_retry() {
            return None;
        }
        // After the last holder nobody runs the item, whatever attempt its lease names: a lease that
        // was given up and then taken up again names an older one.
        let attempt = match released {
            Released::Last => tries.attempt,
            Released::Unknown | Released::RunsElsewhere => attempt,
        };
        if error.cause == FailureCause::Failed && attempt == tries.attempt {
            let now_ms = context.now.mono_ms;
            work.item_failed(index, &lease.worker, tries.failures + 1, now_ms);
        }
        Some(ItemReport {
            index,
            attempt,
            outcome: Err(bounded(error)),
        })
    }

    /// Takes an item off a lease.
    fn release(&mut self, key: (Term, u64), index: ItemIndex) -> Released {
        let Some(running) = self.leases.get_mut(&key) else {
            return Released::Unknown;
        };
        running.open.remove(&index);
        let Some(map) = self.maps.get_mut(&(running.job, running.demand)) else {
            return Released::Unknown;
        };
        let Some(holders) = map.holders.get_mut(&index) else {
            return Released::Unknown;
        };
        holders.retain(|holder| *holder != key);
        if holders.is_empty() {
            map.holders.remove(&index);
            Released::Last
        } else {
            Released::RunsElsewhere
        }
    }

    fn holds(&self, name: &WorkerId, held: &HeldRank) -> bool {
        self.workers
            .slot(name, held.slot)
            .is_some_and(|slot| matches!(&slot.does, Use::Rank(other) if other == held))
    }

    fn rank(
        &mut self,
        context: Context<'_>,
        connection: ConnectionId,
        name: &WorkerId,
        sequence: u64,
        held: HeldRank,
        event: RankEvent,
    ) {
        let is_current = is_current(context, name, &held);
        let is_lost =
            matches!(&event, RankEvent::Failed(error) if error.cause == FailureCause::Lost);
        let is_end = matches!(event, RankEvent::Finished { .. } | RankEvent::Failed(_));
        // The slot of a rank that lost a peer stays the gang's until its roster ends (`SCHED-5`).
        if is_end && !(is_lost && is_current) {
            self.rank_ended(name, &held);
        }
        // A failure counts from an older roster too: one that came late may find that roster broken by
        // a peer's suspicion.
        let was_member = || {
            let gang = self.gangs.get(&(held.job, held.demand));
            gang.is_some_and(|gang| gang.was_member(name, &held))
        };
        let is_to_blame = matches!(event, RankEvent::Failed(_)) && !is_lost && was_member();
        let command = if is_current || is_to_blame {
            self.rank_command(context, name, &held, event, is_current)
        } else {
            None
        };
        match command {
            Some(command) => self.out.push(Action::Propose {
                command,
                acknowledge: Some((connection, sequence)),
            }),
            None => self.acknowledge(connection, sequence),
        }
    }

    /// What a rank's event means for the log.
    fn rank_command(
        &mut self,
        context: Context<'_>,
        name: &WorkerId,
        held: &HeldRank,
        event: RankEvent,
        is_current: bool,
    ) -> Option<Command> {
        let (job, demand, number, rank) = (held.job, held.demand, held.roster, held.rank);
        match event {
            RankEvent::Started => None,
            RankEvent::Checkpointed(checkpoint) => Some(Command::Checkpoint {
                job,
                demand,
                number,
                checkpoint,
            }),
            RankEvent::Finished { result } => {
                self.workers.succeeded(name);
                Some(Command::RankFinished {
                    job,
                    demand,
                    number,
                    rank,
                    result,
                })
            }
            // Acknowledged with nothing durable: a leader that comes next hears that the worker has not
            // the rank, which says as much.
            RankEvent::Failed(error) if error.cause == FailureCause::Lost => {
                self.suspect(context, held, &cut(&error.message));
                None
            }
            RankEvent::Failed(error) => {
                self.rank_failed(context, name, held, error.cause, is_current);
                Some(Command::RankFailed {
                    job,
                    demand,
                    number,
                    rank,
                    error: bounded(error),
                })
            }
        }
    }

    fn rank_failed(
        &mut self,
        context: Context<'_>,
        name: &WorkerId,
        held: &HeldRank,
        cause: FailureCause,
        is_current: bool,
    ) {
        let Some(gang) = self.gangs.get_mut(&(held.job, held.demand)) else {
            return;
        };
        gang.is_breaking |= is_current;
        if cause == FailureCause::Failed && self.blame(context, name, held) {
            let gang = self.gangs.get_mut(&(held.job, held.demand));
            gang.map(|gang| gang.failed_on.insert(name.clone()));
        }
    }

    /// A rank's work failed on a worker: its gang waits a moment. Whether it is the first of its roster
    /// to say so.
    fn blame(&mut self, context: Context<'_>, name: &WorkerId, held: &HeldRank) -> bool {
        let state = context.state.demand(held.job, held.demand);
        let failures = state
            .and_then(|state| state.gang())
            .map_or(0, |gang| gang.failures);
        let Some(gang) = self
            .gangs
            .get_mut(&(held.job, held.demand))
            .filter(|gang| gang.blamed < held.roster)
        else {
            return false;
        };
        gang.blamed = held.roster;
        gang.not_before_ms = context.now.mono_ms + delay_ms(failures + 1);
        self.workers.failed(name, context.now.mono_ms);
        true
    }

    fn rank_ended(&mut self, name: &WorkerId, held: &HeldRank) {
        self.workers.free(name, held.slot, &Use::Rank(held.clone()));
    }

    /// An executor is gone: what it ran is lost, and nothing else; what its slot is booked for now may
    /// be something that the agent still keeps for the next executor.
    fn executor_exited(
        &mut self,
        context: Context<'_>,
        name: &WorkerId,
        exit: Exit,
        ran: Option<Ran>,
    ) {
        let Exit { slot, process, .. } = exit;
        if self.workers.slot(name, slot).is_none() {
            return;
        }
        let lease = match ran {
            Some(Ran::Lease { term, number }) => self
                .leases
                .get(&(term, number))
                .filter(|lease| lease.worker == *name && lease.slot == slot)
                .map(|lease| ((term, number), lease.open.len() as u32)),
            _ => None,
        };
        let rank = match ran {
            Some(Ran::Rank(held)) if held.slot == slot && self.holds(name, &held) => Some(held),
            _ => None,
        };
        self.event(EventKind::ExecutorExited {
            worker: name.clone(),
            slot,
            process,
            held_items: lease.map_or(0, |(_, items)| items),
            held_ranks: u32::from(rank.is_some()),
            status: exit.status.clone(),
        });
        let mut reason = format!(
            "the executor of worker {name} slot {slot} ended ({})",
            exit.status
        );
        if !exit.last_lines.is_empty() {
            reason = format!("{reason}: {}", exit.last_lines);
        }
        if let Some((key, _)) = lease {
            self.workers.failed(name, context.now.mono_ms);
            self.lose_lease(context, key, &reason, FailureCause::Failed);
        }
        if let Some(held) = &rank {
            let reason = format!("rank {}: {reason}", held.rank);
            let cause = FailureCause::Failed;
            self.blame(context, name, held);
            self.void(held.job, held.demand, held.roster, reason, Some(cause));
        }
        self.gangs_changed = true;
        self.workers.restart(name, slot, context.now.mono_ms, rank);
    }
}

/// Bounds an error that comes from a worker.
fn bounded(error: WorkError) -> WorkError {
    WorkError {
        message: cut(&error.message),
        ..error
    }
}

/// Bounds a text that comes from a worker.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(limits::TEXT_BYTES)].to_owned()
}
