//! Decisions of the agent: an event and the time in, actions out.
//!
//! - `AGENT-1`: a report with a sequence number is kept until it is acknowledged, and sent again on
//!   every new connection.
//! - `AGENT-2`: a slot runs one piece of work at a time, in the order of arrival.
//! - `AGENT-3`: work whose executor dies may be tried again: what it was computing is reported as
//!   failed, what was still to come as lost.
//! - `AGENT-4`: without a coordinator, work goes on and reports wait.
//! - `AGENT-5`: every report carries the number of the session that it is meant for; no other
//!   session sends it.
//! - `AGENT-6`: every report fits into a frame, whatever an executor says.

mod executor;
mod reports;

use super::outbox::Outbox;
use super::work::{Action, Class, Event, Profile, Running, Work};
use evoring_protocol::SlotIndex;
use evoring_protocol::limits::{HELLO_ITEMS, HELLO_LEASES, HELLO_RANKS, WORKER_REPORT_BYTES};
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use evoring_protocol::version::build_id;
use evoring_protocol::work::{Assignment, FailureCause, HeldRank, Lease, WorkError};
use evoring_protocol::worker::{Hello, RankEvent, WorkerCommand, WorkerReport};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// How long an executor may take to stop a piece of work before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Pieces of work that may wait for one slot.
const QUEUED_WORK: usize = 8;
/// Bytes of leases in a hello; the rest of it needs room beside them.
const HELLO_LEASE_BYTES: usize = WORKER_REPORT_BYTES / 2;
/// Upper bounds of a lease's encoded size: what is in each, and one item.
const LEASE_BYTES: usize = 256;
const LEASED_ITEM_BYTES: usize = 10;
const _: () = assert!(HELLO_LEASE_BYTES / LEASE_BYTES <= HELLO_LEASES);
const _: () = assert!(HELLO_LEASE_BYTES / LEASED_ITEM_BYTES <= HELLO_ITEMS);

#[derive(Debug, Default)]
struct Slot {
    process: u32,
    is_ready: bool,
    /// Its executor panicked at this time, and is about to end.
    dying_since: Option<Duration>,
    running: Option<Running>,
    queue: VecDeque<Work>,
    deaths: VecDeque<Duration>,
}

/// The agent's state.
#[derive(Debug)]
pub struct Core {
    profile: Profile,
    numerics: Class,
    slots: Vec<Slot>,
    outbox: Outbox,
    /// Ranks whose files are on their way into the blob store.
    storing: Vec<HeldRank>,
    next_task: u64,
    /// Number of the newest session.
    session: u64,
    is_welcome: bool,
    heartbeat: Duration,
    next_heartbeat: Duration,
    actions: Vec<Action>,
}

impl Core {
    /// An agent without executors; the first actions start them.
    pub fn new(profile: Profile) -> Self {
        let slots: Vec<Slot> = (0..profile.slots).map(|_| Slot::default()).collect();
        let start = |slot| Action::Start {
            slot: SlotIndex(slot),
            wait: Duration::ZERO,
        };
        Self {
            actions: (0..profile.slots).map(start).collect(),
            profile,
            numerics: None,
            slots,
            outbox: Outbox::default(),
            storing: Vec::new(),
            next_task: 1,
            session: 0,
            is_welcome: false,
            heartbeat: Duration::from_secs(1),
            next_heartbeat: Duration::ZERO,
        }
    }

    /// Whether an executor is ready, so that the agent can introduce itself.
    pub fn can_connect(&self) -> bool {
        self.numerics.is_some()
    }

    /// Whether a session stands.
    pub fn is_welcome(&self) -> bool {
        self.is_welcome
    }

    /// Slots whose executor is ready, and slots that run something.
    pub fn slot_counts(&self) -> (u64, u64) {
        let ready = self.slots.iter().filter(|slot| slot.is_ready).count() as u64;
        (
            ready,
            self.slots
                .iter()
                .filter(|slot| slot.running.is_some())
                .count() as u64,
        )
    }

    /// Reports that wait for an acknowledgement.
    pub fn outbox_len(&self) -> usize {
        self.outbox.len()
    }

    /// Whether a slot still has this piece of work.
    pub fn has_task(&self, task: u64) -> bool {
        let mut running = self.slots.iter().filter_map(|slot| slot.running.as_ref());
        running.any(|running| running.task == task)
    }

    /// Takes one step.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        match event {
            Event::Connected { session } => {
                (self.session, self.is_welcome) = (session, false);
                self.introduce();
            }
            Event::Disconnected => self.is_welcome = false,
            Event::Command(command) => self.command(command, now),
            Event::ExecutorStarted { slot, process } => {
                if let Some(slot) = self.slots.get_mut(slot.0 as usize) {
                    slot.process = process;
                }
            }
            Event::Report { slot, report } => self.report(slot, report, now),
            Event::ExecutorExited {
                slot,
                process,
                status,
                last_lines,
            } => {
                let exit = executor::Exit {
                    slot,
                    process,
                    status: &status,
                    last_lines,
                };
                self.executor_exited(exit, now);
            }
            Event::RestartDue { slot } => self.actions.push(Action::Start {
                slot,
                wait: Duration::ZERO,
            }),
            Event::Prepared {
                slot,
                process,
                command,
            } => self.prepared(slot, process, command),
            Event::NotPrepared { task, error } => self.not_prepared(task, error),
            Event::Stored {
                held,
                purpose,
                outcome,
            } => self.stored(held, purpose, outcome),
            Event::Tick => self.tick(now),
        }
        std::mem::take(&mut self.actions)
    }

    fn introduce(&mut self) {
        let Some(numerics) = self.numerics.clone() else {
            return;
        };
        let leases = self.held_leases();
        let hello = Hello {
            build: build_id(),
            worker: self.profile.worker.clone(),
            incarnation: self.profile.incarnation,
            process: self.profile.process,
            host: self.profile.host.clone(),
            slots: self.profile.slots,
            numerics,
            metrics: self.profile.metrics,
            leases,
            ranks: self.held_ranks(),
        };
        self.send(WorkerReport::Hello(hello));
    }

    /// All work of all slots, running first.
    fn works(&self) -> impl Iterator<Item = &Work> {
        self.slots.iter().flat_map(|slot| {
            slot.running
                .iter()
                .map(|running| &running.work)
                .chain(&slot.queue)
        })
    }

    /// Leases that run, wait, or have results on their way, in this order, as many as a hello
    /// holds. Items of the others are granted anew, and what is known of them is delivered anyway.
    fn held_leases(&mut self) -> Vec<Lease> {
        let running = self.works().filter_map(|work| match work {
            Work::Items { lease, .. } => Some(lease),
            Work::Rank { .. } => None,
        });
        let reported = self.outbox.reports().filter_map(|report| match report {
            WorkerReport::Results { lease, .. } => Some(lease),
            _ => None,
        });
        let (mut known, mut bytes) = (BTreeSet::new(), 0);
        let leases: Vec<Lease> = running
            .chain(reported)
            .filter(|lease| known.insert((lease.term, lease.number)))
            .take_while(|lease| {
                bytes += LEASE_BYTES + lease.items.len() * LEASED_ITEM_BYTES;
                bytes <= HELLO_LEASE_BYTES
            })
            .cloned()
            .collect();
        if bytes > HELLO_LEASE_BYTES {
            self.actions.push(Action::Log(format!(
                "only {} of the leases that this worker holds fit into its hello",
                leases.len()
            )));
        }
        leases
    }

    /// Ranks that run, wait, or have a result on its way, as many as a hello may hold.
    fn held_ranks(&self) -> Vec<HeldRank> {
        let running = self.works().filter_map(|work| match work {
            Work::Rank { held, .. } => Some(held),
            Work::Items { .. } => None,
        });
        let reported = self.outbox.reports().filter_map(|report| match report {
            WorkerReport::Rank {
                held,
                event: RankEvent::Finished { .. },
                ..
            } => Some(held),
            _ => None,
        });
        let mut ranks: Vec<HeldRank> = running
            .chain(&self.storing)
            .chain(reported)
            .cloned()
            .collect();
        ranks.sort();
        ranks.dedup();
        ranks.truncate(HELLO_RANKS);
        ranks
    }

    fn command(&mut self, command: WorkerCommand, now: Duration) {
        match command {
            WorkerCommand::Welcome {
                heartbeat_ms,
                blobs,
                leases_to_keep,
                ranks_to_keep,
                ..
            } => {
                self.heartbeat = Duration::from_millis(heartbeat_ms.clamp(10, 60_000));
                self.actions.push(Action::UseBlobs(blobs));
                self.welcomed(&leases_to_keep, &ranks_to_keep, now);
            }
            WorkerCommand::Refuse(error) if error.code.can_retry() => {
                self.actions.push(Action::Log(format!(
                    "the coordinator refused this worker for the moment: {error}"
                )));
            }
            WorkerCommand::Refuse(error) => {
                self.actions.push(Action::Exit {
                    message: format!("the coordinator refused this worker: {error}"),
                    is_hopeless: true,
                });
            }
            WorkerCommand::Grant {
                lease,
                assignment,
                items,
            } => self.grant(lease, assignment, items),
            WorkerCommand::StartRank {
                held,
                roster,
                assignment,
            } => {
                let work = Work::Rank {
                    held: held.clone(),
                    roster,
                    assignment,
                };
                self.start_rank(held, work, now);
            }
            WorkerCommand::StopRank { held: stopped } => self.stop_where(
                now,
                |work| matches!(work, Work::Rank { held, .. } if *held == stopped),
            ),
            WorkerCommand::StopLease { term, number } => self.stop_where(now, |work| {
                matches!(work, Work::Items { lease, .. } if (lease.term, lease.number) == (term, number))
            }),
            // The session looks elsewhere; what runs goes on (AGENT-4).
            WorkerCommand::NotLeader { .. } => {}
            WorkerCommand::Acknowledge { sequence } => {
                self.outbox.acknowledge(sequence);
                self.send_due();
            }
        }
    }

    /// The session stands: delivers what waits, and stops what is no longer wanted.
    fn welcomed(
        &mut self,
        leases_to_keep: &[(evoring_protocol::Term, u64)],
        ranks_to_keep: &[HeldRank],
        now: Duration,
    ) {
        self.is_welcome = true;
        self.next_heartbeat = now;
        self.outbox.rewind();
        self.send_due();
        self.stop_where(now, |work| match work {
            Work::Items { lease, .. } => !leases_to_keep.contains(&(lease.term, lease.number)),
            Work::Rank { held, .. } => !ranks_to_keep.contains(held),
        });
        self.tick(now);
    }

    /// A new roster voids the older ones, whether or not their stop arrived.
    fn start_rank(&mut self, held: HeldRank, work: Work, now: Duration) {
        self.stop_where(now, |work| {
            matches!(work, Work::Rank { held: old, .. }
                if (old.job, old.demand) == (held.job, held.demand) && old.roster < held.roster)
        });
        self.enqueue(held.slot, work);
    }

    fn grant(&mut self, lease: Lease, assignment: Assignment, items: Vec<Vec<u8>>) {
        if items.len() != lease.items.len() {
            let line = format!(
                "a lease of {} items came with {}: ignored",
                lease.items.len(),
                items.len()
            );
            self.actions.push(Action::Log(line));
            return;
        }
        let pending = lease.items.iter().map(|item| item.index).collect();
        self.enqueue(
            lease.slot,
            Work::Items {
                lease,
                assignment,
                items,
                pending,
            },
        );
    }

    fn enqueue(&mut self, index: SlotIndex, work: Work) {
        let is_known = self.works().any(|known| match (known, &work) {
            (Work::Items { lease: a, .. }, Work::Items { lease: b, .. }) => {
                (a.term, a.number) == (b.term, b.number)
            }
            (Work::Rank { held: a, .. }, Work::Rank { held: b, .. }) => a == b,
            _ => false,
        });
        match self.slots.get_mut(index.0 as usize) {
            Some(slot) if !is_known && slot.queue.len() < QUEUED_WORK => {
                slot.queue.push_back(work);
                self.start_next(index);
            }
            Some(_) if is_known => {}
            _ => {
                let message = format!(
                    "worker {}: slot {index} cannot take more work",
                    self.profile.worker
                );
                self.fail(
                    work,
                    WorkError {
                        message,
                        cause: FailureCause::Lost,
                    },
                );
            }
        }
    }

    /// Gives the slot's next work to its executor, if both are there.
    fn start_next(&mut self, index: SlotIndex) {
        let Some(slot) = self.slots.get_mut(index.0 as usize) else {
            return;
        };
        if !slot.is_ready || slot.running.is_some() {
            return;
        }
        let Some(work) = slot.queue.pop_front() else {
            return;
        };
        let task = self.next_task;
        self.next_task += 1;
        slot.running = Some(Running {
            task,
            work: work.clone(),
            is_delivered: false,
            has_panicked: false,
            has_told_panic: false,
            stopping_since: None,
        });
        let process = slot.process;
        if let Work::Rank { held, .. } = &work {
            let held = held.clone();
            self.rank_event(held, RankEvent::Started);
        }
        self.actions.push(Action::Run {
            slot: index,
            process,
            task,
            work: Box::new(work),
        });
    }

    /// Stops running and drops waiting work for which `is_unwanted`. An executor that has not been
    /// given the work yet never gets it, and is free for the next.
    fn stop_where(&mut self, now: Duration, is_unwanted: impl Fn(&Work) -> bool) {
        let mut free = Vec::new();
        for (index, slot) in (0u32..).map(SlotIndex).zip(&mut self.slots) {
            slot.queue.retain(|work| !is_unwanted(work));
            let Some(running) = &mut slot.running else {
                continue;
            };
            if running.stopping_since.is_some() || !is_unwanted(&running.work) {
                continue;
            }
            #[cfg(evoring_plants)]
            if is_planted(Plant::StartsBeforeStopped) {
                running.is_delivered = false;
            }
            if running.is_delivered {
                running.stopping_since = Some(now);
                let task = running.task;
                self.actions.push(Action::Stop { slot: index, task });
            } else {
                slot.running = None;
                free.push(index);
            }
        }
        free.into_iter().for_each(|index| self.start_next(index));
    }

    fn tick(&mut self, now: Duration) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let stopping = slot
                .running
                .as_mut()
                .map(|running| &mut running.stopping_since);
            let mut is_overdue = false;
            for since in [stopping, Some(&mut slot.dying_since)]
                .into_iter()
                .flatten()
                .flatten()
            {
                if now.saturating_sub(*since) > STOP_GRACE {
                    // Once: the next look comes a grace period later.
                    *since = now;
                    is_overdue = true;
                }
            }
            if is_overdue {
                self.actions.push(Action::Kill {
                    slot: SlotIndex(index as u32),
                });
            }
        }
        if self.is_welcome && now >= self.next_heartbeat {
            self.next_heartbeat = now + self.heartbeat;
            self.heartbeat_now();
        }
    }
}
