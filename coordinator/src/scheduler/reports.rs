//! What workers report.

use super::{Action, ConnectionId, Context, Scheduler, Use, mac};
use crate::state::{Command, ItemReport};
use evoring_protocol::event::EventKind;
use evoring_protocol::work::{HeldRank, ItemOutcome, Lease, WorkError};
use evoring_protocol::worker::{RankEvent, WorkerCommand, WorkerReport};
use evoring_protocol::{SlotIndex, WorkerId, limits};
use std::collections::BTreeSet;

/// Log lines that one report may bring.
const LOG_LINES: usize = 1_000;

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
            WorkerReport::Progress { held, progress } => {
                let is_current = self.holds(&name, &held);
                if let Some(gang) = self
                    .gangs
                    .get_mut(&(held.job, held.demand))
                    .filter(|_| is_current)
                {
                    gang.progress = Some(progress);
                }
            }
            WorkerReport::ExecutorExited {
                slot,
                process,
                status,
                last_lines,
            } => {
                self.executor_exited(context, &name, slot, process, &status, &last_lines);
            }
            WorkerReport::Log { job, lines } => {
                let lines = lines.iter().take(LOG_LINES).map(|line| cut(line)).collect();
                self.out.push(Action::Log {
                    job,
                    worker: name,
                    lines,
                });
            }
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
        if !is_ours {
            let reason = format!(
                "results for lease {} of term {}, which was not granted",
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
        let map = context
            .state
            .demand(lease.job, lease.demand)
            .and_then(|demand| demand.map());
        let mut seen = BTreeSet::new();
        let mut reports = Vec::new();
        self.measure(key, outcomes.len(), context.now.mono_ms);
        for ItemOutcome { index, result } in outcomes {
            let Some(leased) = lease.items.iter().find(|item| item.index == index) else {
                continue;
            };
            if !seen.insert(index) {
                continue;
            }
            let runs_elsewhere = self.release(key, index);
            let Some(work) = self.maps.get_mut(&(lease.job, lease.demand)) else {
                continue;
            };
            let is_open = map.is_some_and(|map| map.attempt(index).is_some());
            let outcome = result.map_err(|error| WorkError {
                message: cut(&error.message),
                ..error
            });
            let is_failure = outcome.is_err();
            // A failed copy costs nothing while the other one runs.
            let is_moot = is_failure && (runs_elsewhere || work.reported.contains(&index));
            if is_open && !(is_moot && outcome.as_ref().is_err_and(|error| error.can_retry)) {
                if !is_failure {
                    work.reported.insert(index);
                }
                reports.push(ItemReport {
                    index,
                    attempt: leased.attempt,
                    outcome,
                });
            }
        }
        if self
            .leases
            .get(&key)
            .is_some_and(|running| running.open.is_empty())
        {
            self.drop_lease(key);
        }
        reports
    }

    /// Takes an item off a lease; whether another lease runs it.
    fn release(
        &mut self,
        key: (evoring_protocol::Term, u64),
        index: evoring_protocol::ItemIndex,
    ) -> bool {
        let Some(running) = self.leases.get_mut(&key) else {
            return false;
        };
        running.open.remove(&index);
        let Some(map) = self.maps.get_mut(&(running.job, running.demand)) else {
            return false;
        };
        let Some(holders) = map.holders.get_mut(&index) else {
            return false;
        };
        holders.retain(|holder| *holder != key);
        let runs_elsewhere = !holders.is_empty();
        if !runs_elsewhere {
            map.holders.remove(&index);
        }
        runs_elsewhere
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
        let is_current = self.is_roster_current(context, name, &held);
        let HeldRank {
            job,
            demand,
            roster: number,
            rank,
            slot,
        } = held;
        let ended = matches!(event, RankEvent::Finished { .. } | RankEvent::Failed(_));
        if ended {
            self.rank_ended(name, slot, &held);
        }
        // A failure that no retry mends counts from an older roster too: a peer that noticed the
        // loss first may have broken that roster already.
        let is_final = matches!(&event, RankEvent::Failed(error) if !error.can_retry);
        let command = match event {
            _ if !is_current && !is_final => None,
            RankEvent::Started => None,
            RankEvent::Checkpointed(checkpoint) => Some(Command::Checkpoint {
                job,
                demand,
                number,
                checkpoint,
            }),
            RankEvent::Finished { result } => Some(Command::RankFinished {
                job,
                demand,
                number,
                rank,
                result,
            }),
            RankEvent::Failed(error) => {
                let error = WorkError {
                    message: cut(&error.message),
                    ..error
                };
                if let Some(gang) = self.gangs.get_mut(&(job, demand)) {
                    gang.is_puzzling |= !gang.is_breaking;
                    gang.is_breaking = true;
                }
                Some(Command::RankFailed {
                    job,
                    demand,
                    number,
                    rank,
                    error,
                })
            }
        };
        match command {
            Some(command) => self.out.push(Action::Propose {
                command,
                acknowledge: Some((connection, sequence)),
            }),
            None => self.acknowledge(connection, sequence),
        }
    }

    /// Whether this worker is this rank of the gang's current roster.
    fn is_roster_current(&self, context: Context<'_>, name: &WorkerId, held: &HeldRank) -> bool {
        let gang = context
            .state
            .demand(held.job, held.demand)
            .and_then(|demand| demand.gang());
        let member =
            gang.and_then(|gang| gang.current(held.roster)?.members.get(held.rank.0 as usize));
        member.is_some_and(|member| member.worker == *name && member.slot == held.slot)
    }

    fn rank_ended(&mut self, name: &WorkerId, slot: SlotIndex, held: &HeldRank) {
        let does = self.workers.slot(name, slot).map(|slot| slot.does.clone());
        if let Some(Use::Rank(other)) = does
            && other == *held
        {
            self.workers.set(name, slot, Use::Idle);
        }
    }

    fn executor_exited(
        &mut self,
        context: Context<'_>,
        name: &WorkerId,
        slot: SlotIndex,
        process: u32,
        status: &str,
        last_lines: &str,
    ) {
        let Some(does) = self.workers.slot(name, slot).map(|slot| slot.does.clone()) else {
            return;
        };
        let (held_items, held_ranks) = match &does {
            Use::Lease(term, number) => (
                self.leases
                    .get(&(*term, *number))
                    .map_or(0, |lease| lease.open.len() as u32),
                0,
            ),
            Use::Rank(_) => (0, 1),
            _ => (0, 0),
        };
        let status = cut(status);
        self.event(EventKind::ExecutorExited {
            worker: name.clone(),
            slot,
            process,
            held_items,
            held_ranks,
            status: status.clone(),
        });
        let mut reason = format!("the executor of worker {name} slot {slot} ended ({status})");
        if !last_lines.is_empty() {
            reason = format!("{reason}: {}", cut(last_lines));
        }
        match does {
            Use::Lease(term, number) => self.lose_lease(context, (term, number), &reason),
            Use::Rank(held) => {
                self.void(
                    held.job,
                    held.demand,
                    held.roster,
                    format!("rank {}: {reason}", held.rank),
                    true,
                );
            }
            _ => {}
        }
        self.gangs_changed = true;
        self.workers.restart(name, slot, context.now.mono_ms);
    }
}

/// Bounds a text that comes from a worker.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(limits::TEXT_BYTES)].to_owned()
}
