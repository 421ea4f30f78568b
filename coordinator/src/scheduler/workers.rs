//! Workers come, reconnect and go.

use super::maps::Running;
use super::{Action, ConnectionId, Context, HEARTBEAT_MS, Scheduler, Use, mac};
use crate::state::{Admission, Command};
use evoring_protocol::event::EventKind;
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use evoring_protocol::version::{BuildError, spoken_with};
use evoring_protocol::work::{FailureCause, HeldRank, Lease, Member, Roster};
use evoring_protocol::worker::{Hello, WorkerCommand};
use evoring_protocol::{
    DemandId, ErrorCode, JobId, Rank, RemoteError, RosterNumber, SlotIndex, Term, WorkerId, limits,
};
use std::collections::BTreeSet;

impl Scheduler {
    pub(super) fn hello(&mut self, context: Context<'_>, connection: ConnectionId, hello: Hello) {
        if let Err(error) = check(&hello) {
            self.send(connection, WorkerCommand::Refuse(error.clone()));
            self.out.push(Action::Close {
                connection,
                reason: error.message,
            });
            return;
        }
        self.gangs_changed = true;
        let name = hello.worker.clone();
        let kept_leases: Vec<Lease> = hello
            .leases
            .iter()
            .filter(|lease| self.is_wanted(context, &name, lease))
            .cloned()
            .collect();
        let kept_ranks: Vec<HeldRank> = hello
            .ranks
            .iter()
            .filter(|held| is_current(context, &name, held))
            .cloned()
            .collect();
        self.replace(context, &hello, &kept_leases, &kept_ranks);
        self.workers
            .connect(connection, &hello, context.now.mono_ms);
        let mut held_items = 0;
        for lease in &kept_leases {
            held_items += self.take_up(context, lease);
        }
        for held in &kept_ranks {
            // A rank whose result is recorded runs no more.
            if !has_result(context, held.job, held.demand, held.rank) {
                self.workers.set(&name, held.slot, Use::Rank(held.clone()));
            }
        }
        self.send(
            connection,
            WorkerCommand::Welcome {
                term: self.term,
                heartbeat_ms: HEARTBEAT_MS,
                blobs: self.blobs.clone(),
                leases_to_keep: kept_leases
                    .iter()
                    .map(|lease| (lease.term, lease.number))
                    .collect(),
                ranks_to_keep: kept_ranks.clone(),
            },
        );
        self.event(EventKind::WorkerJoined {
            worker: name.clone(),
            process: hello.process,
            slots: hello.slots,
            held_items,
            held_ranks: kept_ranks.len() as u32,
        });
        self.void_unheld(context, &name, &kept_ranks);
        let admission = Admission {
            host: hello.host,
            slots: hello.slots,
            numerics: hello.numerics,
        };
        if context.state.workers().get(&name) != Some(&admission) {
            self.propose(Command::AdmitWorker {
                worker: name,
                admission,
            });
        }
    }

    /// Whether a lease of a hello still waits for a result (`SCHED-3`).
    fn is_wanted(&self, context: Context<'_>, worker: &WorkerId, lease: &Lease) -> bool {
        let is_ours = lease.worker == *worker
            && context
                .state
                .lease_key()
                .is_some_and(|key| mac::is_valid(key, lease));
        let map = context
            .state
            .demand(lease.job, lease.demand)
            .and_then(|demand| demand.map());
        is_ours
            && map.is_some_and(|map| {
                lease
                    .items
                    .iter()
                    .any(|item| map.attempt(item.index).is_some())
            })
    }

    /// Ends what an earlier connection of the same worker held and the hello does not list.
    fn replace(
        &mut self,
        context: Context<'_>,
        hello: &Hello,
        leases: &[Lease],
        ranks: &[HeldRank],
    ) {
        let Some(old) = self.workers.by_name(&hello.worker) else {
            return;
        };
        let Some(connection) = old.connection else {
            return;
        };
        let is_same_process = old.incarnation == hello.incarnation;
        let (reason, why) = if is_same_process {
            (
                "it connected again",
                "a newer connection of the same agent took its place",
            )
        } else {
            (
                "its agent was started again",
                "a newer agent of the same name took its place",
            )
        };
        self.out.push(Action::Close {
            connection,
            reason: why.to_owned(),
        });
        if !is_same_process {
            let (held_items, held_ranks) = self.held(&hello.worker);
            self.event(EventKind::WorkerLost {
                worker: hello.worker.clone(),
                held_items,
                held_ranks,
                reason: reason.to_owned(),
            });
        }
        let listed: BTreeSet<(Term, u64)> = leases
            .iter()
            .map(|lease| (lease.term, lease.number))
            .collect();
        self.lose(context, &hello.worker, &listed, ranks, reason);
    }

    /// Notes a lease that a worker already runs; gives its number of open items.
    fn take_up(&mut self, context: Context<'_>, lease: &Lease) -> u32 {
        let Some(map) = context
            .state
            .demand(lease.job, lease.demand)
            .and_then(|demand| demand.map())
        else {
            return 0;
        };
        let open: BTreeSet<_> = lease
            .items
            .iter()
            .map(|item| item.index)
            .filter(|&item| map.attempt(item).is_some())
            .collect();
        let count = open.len() as u32;
        let running = Running::taken_up(lease, open, context.now);
        self.note_lease((lease.term, lease.number), running);
        // SCHED-2: the first of a slot's leases is the one that runs, the others only have results on
        // their way.
        let slot = self.workers.slot(&lease.worker, lease.slot);
        if slot.is_some_and(|slot| slot.does == Use::Idle) {
            let does = Use::Lease(lease.term, lease.number);
            self.workers.set(&lease.worker, lease.slot, does);
        }
        count
    }

    pub(super) fn disconnected(
        &mut self,
        context: Context<'_>,
        connection: ConnectionId,
        reason: &str,
    ) {
        let Some((name, _)) = self.workers.by_connection(connection) else {
            return;
        };
        let name = name.clone();
        self.gangs_changed = true;
        let (held_items, held_ranks) = self.held(&name);
        self.event(EventKind::WorkerLost {
            worker: name.clone(),
            held_items,
            held_ranks,
            reason: reason.to_owned(),
        });
        self.lose(
            context,
            &name,
            &BTreeSet::new(),
            &[],
            &format!("worker {name} was lost: {reason}"),
        );
        self.workers.disconnect(&name);
    }

    /// Numbers of open items and ranks that a worker holds.
    pub(super) fn held(&self, name: &WorkerId) -> (u32, u32) {
        let items = self
            .leases
            .values()
            .filter(|lease| lease.worker == *name)
            .map(|lease| lease.open.len() as u32)
            .sum();
        let is_rank = |slot: &&super::table::Slot| matches!(slot.does, Use::Rank(_));
        let ranks = self.workers.by_name(name).map_or(0, |worker| {
            worker.slots.iter().filter(is_rank).count() as u32
        });
        (items, ranks)
    }

    /// Gives up what a worker held, but for the listed leases and ranks.
    fn lose(
        &mut self,
        context: Context<'_>,
        name: &WorkerId,
        leases: &BTreeSet<(Term, u64)>,
        ranks: &[HeldRank],
        reason: &str,
    ) {
        let lost: Vec<(Term, u64)> = self
            .leases
            .iter()
            .filter(|(key, lease)| lease.worker == *name && !leases.contains(key))
            .map(|(&key, _)| key)
            .collect();
        for key in lost {
            self.lose_lease(context, key, reason, FailureCause::Lost);
        }
        for held in self.ranks_of(name) {
            if !ranks.contains(&held) {
                let reason = format!("rank {}: {reason}", held.rank);
                let cause = Some(FailureCause::Lost);
                self.void(held.job, held.demand, held.roster, reason, cause);
            }
        }
    }

    fn ranks_of(&self, name: &WorkerId) -> Vec<HeldRank> {
        let slots = self
            .workers
            .by_name(name)
            .map(|worker| worker.slots.as_slice())
            .unwrap_or_default();
        let rank = |slot: &super::table::Slot| match &slot.does {
            Use::Rank(held) => Some(held.clone()),
            _ => None,
        };
        slots.iter().filter_map(rank).collect()
    }

    /// Voids rosters that count on a rank of this worker which it does not run.
    fn void_unheld(&mut self, context: Context<'_>, name: &WorkerId, ranks: &[HeldRank]) {
        #[cfg(evoring_plants)]
        if is_planted(Plant::GangWaitsForGone) {
            return;
        }
        let mut broken: Vec<(JobId, DemandId, RosterNumber)> = Vec::new();
        for &(job, demand) in self.gangs.keys() {
            let gang = context
                .state
                .demand(job, demand)
                .and_then(|demand| demand.gang());
            let Some(roster) = gang.and_then(|gang| gang.roster.as_ref()) else {
                continue;
            };
            let is_held = |slot: SlotIndex| {
                ranks.iter().any(|held| {
                    (held.job, held.demand, held.roster, held.slot)
                        == (job, demand, roster.number, slot)
                })
            };
            if unfinished(context, job, demand, roster)
                .any(|member| member.worker == *name && !is_held(member.slot))
            {
                broken.push((job, demand, roster.number));
            }
        }
        for (job, demand, number) in broken {
            self.void(
                job,
                demand,
                number,
                format!("worker {name} came back without its rank"),
                Some(FailureCause::Lost),
            );
        }
    }

    /// Voids rosters with members that did not come back in time.
    pub(super) fn void_absent(&mut self, context: Context<'_>) {
        let mut broken = Vec::new();
        for &(job, demand) in self.gangs.keys() {
            let gang = context
                .state
                .demand(job, demand)
                .and_then(|demand| demand.gang());
            let Some(roster) = gang.and_then(|gang| gang.roster.as_ref()) else {
                continue;
            };
            if let Some(absent) = unfinished(context, job, demand, roster)
                .find(|member| !self.workers.is_connected(&member.worker))
            {
                let reason = format!(
                    "worker {} did not come back within {} ms",
                    absent.worker,
                    super::GRACE_MS
                );
                broken.push((job, demand, roster.number, reason));
            }
        }
        for (job, demand, number, reason) in broken {
            self.void(job, demand, number, reason, Some(FailureCause::Lost));
        }
    }

    /// Says which workers did not come back in time.
    pub(super) fn tell_absent(&mut self, context: Context<'_>) {
        for worker in context.state.workers().keys() {
            if !self.workers.is_connected(worker) {
                self.event(EventKind::WorkerLost {
                    worker: worker.clone(),
                    held_items: 0,
                    held_ranks: 0,
                    reason: format!(
                        "it did not come back within {} ms after the coordinator's start",
                        super::GRACE_MS
                    ),
                });
            }
        }
    }
}

/// Whether the result of a rank of the gang's current roster is recorded.
fn has_result(context: Context<'_>, job: JobId, demand: DemandId, rank: Rank) -> bool {
    let state = context.state.demand(job, demand);
    state
        .and_then(|state| state.gang())
        .is_some_and(|gang| gang.results.contains_key(&rank))
}

/// Members of a gang's current roster whose rank has no result yet: the others may go.
fn unfinished<'a>(
    context: Context<'a>,
    job: JobId,
    demand: DemandId,
    roster: &'a Roster,
) -> impl Iterator<Item = &'a Member> {
    let is_open = move |rank: u32| !has_result(context, job, demand, Rank(rank));
    let members = roster.members.iter().zip(0u32..);
    members.filter_map(move |(member, rank)| is_open(rank).then_some(member))
}

/// Whether a rank of a hello belongs to its gang's current roster.
pub(super) fn is_current(context: Context<'_>, worker: &WorkerId, held: &HeldRank) -> bool {
    let gang = context
        .state
        .demand(held.job, held.demand)
        .and_then(|demand| demand.gang());
    let member = gang.and_then(|gang| gang.current(held.roster)?.members.get(held.rank.0 as usize));
    member.is_some_and(|member| member.worker == *worker && member.slot == held.slot)
}

fn check(hello: &Hello) -> Result<(), RemoteError> {
    let invalid = |message: String| Err(RemoteError::new(ErrorCode::Invalid, message));
    // Another version of the same messages is welcome: what it computes is of a class of its own.
    if let Err(error) = spoken_with(&hello.build) {
        let advice = match error {
            BuildError::TooNew { .. } => "upgrade the coordinators first",
            BuildError::TooOld { .. } => "upgrade the worker",
            BuildError::Malformed(_) => "run a build of Evoring there",
        };
        let message = format!("worker {}: {error}; {advice}", hello.worker);
        return Err(RemoteError::new(ErrorCode::VersionMismatch, message));
    }
    if hello.slots == 0 || hello.slots > limits::WORKER_SLOTS {
        return invalid(format!(
            "worker {} has {} slots, expected 1 to {}",
            hello.worker,
            hello.slots,
            limits::WORKER_SLOTS
        ));
    }
    for (what, text) in [("host", &hello.host), ("numerics class", &hello.numerics.0)] {
        if text.is_empty() || text.len() > 256 {
            return invalid(format!(
                "worker {}: {what} of {} bytes, expected 1 to 256",
                hello.worker,
                text.len()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_protocol::numerics::NumericsClass;
    use evoring_protocol::version::{PROTOCOL_VERSION, build_id};

    fn refusal(build: &str) -> Option<RemoteError> {
        let hello = Hello {
            build: build.to_owned(),
            worker: WorkerId::new("w0").unwrap(),
            incarnation: 1,
            process: 10,
            host: "h".to_owned(),
            slots: 1,
            numerics: NumericsClass("cpu".to_owned()),
            metrics: None,
            leases: Vec::new(),
            ranks: Vec::new(),
        };
        check(&hello).err()
    }

    // VERSION-1. Claim: a worker of another version that speaks this protocol is taken, and one that
    // does not is told what to upgrade. Method: made-up builds.
    #[test]
    fn other_versions_of_one_protocol_are_taken() {
        assert_eq!(refusal(&build_id()), None);
        assert_eq!(refusal(&format!("9.8.7+protocol.{PROTOCOL_VERSION}")), None);
        for (build, advice) in [
            (
                format!("9.8.7+protocol.{}", PROTOCOL_VERSION + 1),
                "upgrade the coordinators first",
            ),
            ("0.0.1+protocol.0".to_owned(), "upgrade the worker"),
            ("0.1.0".to_owned(), "run a build of Evoring there"),
        ] {
            let error = refusal(&build).unwrap();
            assert_eq!(error.code, ErrorCode::VersionMismatch);
            assert!(error.message.starts_with("worker w0: "), "{error:?}");
            assert!(error.message.ends_with(advice), "{error:?}");
        }
    }
}
