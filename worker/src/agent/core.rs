//! Decisions of the agent: an event and the time in, actions out.
//!
//! - `AGENT-1`: a report with a sequence number is kept until it is acknowledged, and sent again on
//!   every new connection.
//! - `AGENT-2`: a slot runs one piece of work at a time, in the order of arrival.
//! - `AGENT-3`: work whose executor dies is reported as failed, and may be tried again.
//! - `AGENT-4`: without a coordinator, work goes on and reports wait.

use super::describe::{describe_exit, restart_wait};
use super::outbox::{Outbox, in_reports};
use super::work::{Action, Class, Counter, Event, Profile, Purpose, Running, Work};
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::version::build_id;
use evoring_protocol::work::{Checkpoint, HeldRank, ItemOutcome, Lease, WorkError};
use evoring_protocol::worker::{Hello, RankEvent, WorkerCommand, WorkerReport};
use evoring_protocol::{SlotIndex, Term};
use std::collections::VecDeque;
use std::time::Duration;

/// How long an executor may take to stop a piece of work before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Pieces of work that may wait for one slot.
const QUEUED_WORK: usize = 8;
/// Deaths of one executor within [`DEATH_WINDOW`], without being ready in between, that end the
/// agent. One that becomes ready can compute: what kills it then is its work or a person.
const DEATHS: usize = 5;
const DEATH_WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Slot {
    process: u32,
    is_ready: bool,
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

    /// Takes one step.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        match event {
            Event::Connected => self.introduce(),
            Event::Disconnected => self.is_welcome = false,
            Event::Command(command) => self.command(command, now),
            Event::ExecutorStarted { slot, process } => {
                if let Some(slot) = self.slots.get_mut(slot.0 as usize) {
                    slot.process = process;
                }
            }
            Event::Report { slot, report } => self.report(slot, report),
            Event::ExecutorExited {
                slot,
                process,
                status,
                last_lines,
            } => {
                self.executor_exited(slot, process, &status, last_lines, now);
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
        let hello = Hello {
            build: build_id(),
            worker: self.profile.worker.clone(),
            incarnation: self.profile.incarnation,
            process: self.profile.process,
            host: self.profile.host.clone(),
            slots: self.profile.slots,
            numerics,
            metrics: self.profile.metrics,
            leases: self.held_leases(),
            ranks: self.held_ranks(),
        };
        self.actions.push(Action::Send(WorkerReport::Hello(hello)));
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

    /// Leases that run, wait, or have results on their way.
    fn held_leases(&self) -> Vec<Lease> {
        let running = self.works().filter_map(|work| match work {
            Work::Items { lease, .. } => Some(lease),
            Work::Rank { .. } => None,
        });
        let reported = self.outbox.reports().filter_map(|report| match report {
            WorkerReport::Results { lease, .. } => Some(lease),
            _ => None,
        });
        let mut leases: Vec<Lease> = Vec::new();
        for lease in running.chain(reported) {
            if !leases
                .iter()
                .any(|known| (known.term, known.number) == (lease.term, lease.number))
            {
                leases.push(lease.clone());
            }
        }
        leases
    }

    /// Ranks that run, wait, or have a result on its way.
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
                self.is_welcome = true;
                self.heartbeat = Duration::from_millis(heartbeat_ms.clamp(10, 60_000));
                self.next_heartbeat = now;
                self.actions.push(Action::UseBlobs(blobs));
                self.outbox.rewind();
                self.send_due();
                self.stop_where(now, |work| match work {
                    Work::Items { lease, .. } => {
                        !leases_to_keep.contains(&(lease.term, lease.number))
                    }
                    Work::Rank { held, .. } => !ranks_to_keep.contains(held),
                });
                self.tick(now);
            }
            WorkerCommand::Refuse(error) if error.code.can_retry() => {
                self.actions.push(Action::Log(format!(
                    "the coordinator refused this worker for the moment: {error}"
                )));
            }
            WorkerCommand::Refuse(error) => {
                self.actions.push(Action::Exit(format!(
                    "the coordinator refused this worker: {error}"
                )));
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
                // A new roster voids the older ones, whether or not their stop arrived.
                self.stop_where(now, |work| {
                    matches!(work, Work::Rank { held: old, .. }
                        if (old.job, old.demand) == (held.job, held.demand) && old.roster < held.roster)
                });
                let slot = held.slot;
                self.enqueue(
                    slot,
                    Work::Rank {
                        held,
                        roster,
                        assignment,
                    },
                );
            }
            WorkerCommand::StopRank { held: stopped } => {
                self.stop_where(
                    now,
                    |work| matches!(work, Work::Rank { held, .. } if *held == stopped),
                );
            }
            WorkerCommand::StopLease { term, number } => self.stop_lease(now, term, number),
            WorkerCommand::Acknowledge { sequence } => {
                self.outbox.acknowledge(sequence);
                self.send_due();
            }
        }
    }

    fn grant(
        &mut self,
        lease: Lease,
        assignment: evoring_protocol::work::Assignment,
        items: Vec<Vec<u8>>,
    ) {
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

    fn stop_lease(&mut self, now: Duration, term: Term, number: u64) {
        self.stop_where(now, |work| {
            matches!(work, Work::Items { lease, .. } if (lease.term, lease.number) == (term, number))
        });
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
                        can_retry: true,
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

    /// Stops running and drops waiting work for which `is_unwanted`.
    fn stop_where(&mut self, now: Duration, is_unwanted: impl Fn(&Work) -> bool) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            slot.queue.retain(|work| !is_unwanted(work));
            if let Some(running) = &mut slot.running
                && running.stopping_since.is_none()
                && is_unwanted(&running.work)
            {
                running.stopping_since = Some(now);
                self.actions.push(Action::Stop {
                    slot: SlotIndex(index as u32),
                    task: running.task,
                });
            }
        }
    }

    fn report(&mut self, index: SlotIndex, report: ExecutorReport) {
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
        let is_stopping = running.stopping_since.is_some();
        match (report, &mut running.work) {
            (ExecutorReport::Items { task, mut outcomes }, Work::Items { lease, pending, .. })
                if task == running.task =>
            {
                outcomes.retain(|outcome| pending.remove(&outcome.index));
                let lease = lease.clone();
                self.results(lease, outcomes);
            }
            (ExecutorReport::ItemsDone { task }, Work::Items { .. }) if task == running.task => {
                let finished = slot.running.take();
                // Items that an executor left out without being stopped would otherwise be lost.
                if let Some(finished) = finished.filter(|_| !is_stopping) {
                    let message = "the executor ended a batch without these items".to_owned();
                    self.fail(
                        finished.work,
                        WorkError {
                            message,
                            can_retry: true,
                        },
                    );
                }
                self.start_next(index);
            }
            (ExecutorReport::Progress { task, progress }, Work::Rank { held, .. })
                if task == running.task =>
            {
                let held = held.clone();
                self.send_soft(WorkerReport::Progress { held, progress });
            }
            (ExecutorReport::Checkpoint { task, step, path }, Work::Rank { held, .. })
                if task == running.task =>
            {
                let (held, purpose) = (held.clone(), Purpose::Checkpoint(step));
                self.actions.push(Action::Store {
                    held,
                    purpose,
                    files: vec![path],
                });
            }
            (
                ExecutorReport::RankFinished {
                    task,
                    result,
                    blobs,
                },
                Work::Rank { held, .. },
            ) if task == running.task => {
                let held = held.clone();
                slot.running = None;
                if !is_stopping {
                    self.storing.push(held.clone());
                    self.actions.push(Action::Store {
                        held,
                        purpose: Purpose::Result(result),
                        files: blobs,
                    });
                }
                self.start_next(index);
            }
            (ExecutorReport::RankFailed { task, error }, Work::Rank { .. })
                if task == running.task =>
            {
                let finished = slot.running.take();
                if let Some(finished) = finished.filter(|_| !is_stopping) {
                    self.fail(finished.work, error);
                }
                self.start_next(index);
            }
            (ExecutorReport::Log { line, .. }, work) => {
                let job = match work {
                    Work::Items { lease, .. } => lease.job,
                    Work::Rank { held, .. } => held.job,
                };
                self.send_soft(WorkerReport::Log {
                    job,
                    lines: vec![line],
                });
            }
            // A report of work that was given up in the meantime.
            _ => {}
        }
    }

    fn ready(&mut self, index: SlotIndex, numerics: evoring_protocol::numerics::NumericsClass) {
        match &self.numerics {
            Some(known) if *known != numerics => {
                let message = format!(
                    "executors of two numerics classes on one host: {known} and {numerics}; build again"
                );
                self.actions.push(Action::Exit(message));
            }
            _ => self.numerics = Some(numerics),
        }
        self.heartbeat_now();
        self.start_next(index);
    }

    fn executor_exited(
        &mut self,
        index: SlotIndex,
        process: u32,
        status: &str,
        last_lines: String,
        now: Duration,
    ) {
        let Some(slot) = self.slots.get_mut(index.0 as usize) else {
            return;
        };
        slot.process = 0;
        slot.is_ready = false;
        slot.deaths.push_back(now);
        slot.deaths
            .retain(|death| now.saturating_sub(*death) < DEATH_WINDOW);
        let deaths = slot.deaths.len();
        let running = slot.running.take();
        let status = describe_exit(status, &last_lines);
        let message = format!(
            "worker {}: the executor of slot {index} ended: {status}",
            self.profile.worker
        );
        self.actions.push(Action::Count(Counter::ExecutorDied));
        self.actions.push(Action::Log(message.clone()));
        self.send_soft(WorkerReport::ExecutorExited {
            slot: index,
            process,
            status,
            last_lines: last_lines.clone(),
        });
        if let Some(running) = running.filter(|running| running.stopping_since.is_none()) {
            self.fail(
                running.work,
                WorkError {
                    message: message.clone(),
                    can_retry: true,
                },
            );
        }
        if deaths >= DEATHS {
            let message = format!(
                "{message}; {deaths} deaths within a minute. Its last lines:\n{last_lines}"
            );
            self.actions.push(Action::Exit(message));
        } else {
            self.actions.push(Action::Start {
                slot: index,
                wait: restart_wait(deaths),
            });
        }
    }

    /// Hands work over, unless it was told to stop in the meantime (the executor never had it).
    fn prepared(&mut self, index: SlotIndex, process: u32, command: Box<ExecutorCommand>) {
        let task = match &*command {
            ExecutorCommand::RunItems { task, .. }
            | ExecutorCommand::RunRank { task, .. }
            | ExecutorCommand::Stop { task } => *task,
        };
        let Some(slot) = self.slots.get_mut(index.0 as usize) else {
            return;
        };
        let Some(running) = slot.running.as_ref().filter(|running| running.task == task) else {
            return;
        };
        if running.stopping_since.is_some() {
            slot.running = None;
            self.start_next(index);
        } else {
            self.actions.push(Action::Deliver {
                slot: index,
                process,
                command,
            });
        }
    }

    fn not_prepared(&mut self, task: u64, error: WorkError) {
        let place = self
            .slots
            .iter()
            .position(|slot| slot.running.as_ref().is_some_and(|r| r.task == task));
        let Some(place) = place else { return };
        if let Some(running) = self.slots[place]
            .running
            .take()
            .filter(|running| running.stopping_since.is_none())
        {
            self.fail(running.work, error);
        }
        self.start_next(SlotIndex(place as u32));
    }

    fn stored(
        &mut self,
        held: HeldRank,
        purpose: Purpose,
        outcome: Result<Option<evoring_protocol::Digest>, String>,
    ) {
        match (purpose, outcome) {
            (Purpose::Checkpoint(step), Ok(Some(digest))) => {
                self.rank_event(held, RankEvent::Checkpointed(Checkpoint { step, digest }));
            }
            // The training goes on without this checkpoint; the next one may be stored.
            (Purpose::Checkpoint(step), outcome) => {
                let why = outcome
                    .err()
                    .unwrap_or_else(|| "there was no file".to_owned());
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
            (Purpose::Result(_), Err(why)) => {
                self.storing.retain(|storing| *storing != held);
                self.actions.push(Action::Count(Counter::RankFailed));
                let message = format!("the result cannot be stored: {why}");
                self.rank_event(
                    held,
                    RankEvent::Failed(WorkError {
                        message,
                        can_retry: true,
                    }),
                );
            }
        }
    }

    fn tick(&mut self, now: Duration) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(running) = &mut slot.running
                && running
                    .stopping_since
                    .is_some_and(|since| now.saturating_sub(since) > STOP_GRACE)
            {
                // Once: the next look comes a grace period later.
                running.stopping_since = Some(now);
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

    fn heartbeat_now(&mut self) {
        let process = |slot: &Slot| if slot.is_ready { slot.process } else { 0 };
        let executors = self.slots.iter().map(process).collect();
        self.send_soft(WorkerReport::Heartbeat { executors });
    }

    /// Reports all that is open of a piece of work as failed.
    fn fail(&mut self, work: Work, error: WorkError) {
        match work {
            Work::Items { lease, pending, .. } => {
                let outcome = |index| ItemOutcome {
                    index,
                    result: Err(error.clone()),
                };
                self.results(lease, pending.into_iter().map(outcome).collect());
            }
            Work::Rank { held, .. } => {
                self.actions.push(Action::Count(Counter::RankFailed));
                self.rank_event(held, RankEvent::Failed(error));
            }
        }
    }

    fn results(&mut self, lease: Lease, outcomes: Vec<ItemOutcome>) {
        if outcomes.is_empty() {
            return;
        }
        let failed = outcomes
            .iter()
            .filter(|outcome| outcome.result.is_err())
            .count() as u64;
        self.actions.push(Action::Count(Counter::ItemsDone(
            outcomes.len() as u64 - failed,
        )));
        if failed > 0 {
            self.actions
                .push(Action::Count(Counter::ItemsFailed(failed)));
        }
        for outcomes in in_reports(outcomes) {
            let lease = lease.clone();
            self.send_kept(|sequence| WorkerReport::Results {
                sequence,
                lease,
                outcomes,
            });
        }
    }

    fn rank_event(&mut self, held: HeldRank, event: RankEvent) {
        self.send_kept(|sequence| WorkerReport::Rank {
            sequence,
            held,
            event,
        });
    }

    /// Keeps a report until it is acknowledged (`AGENT-1`).
    fn send_kept(&mut self, report: impl FnOnce(u64) -> WorkerReport) {
        self.outbox.keep(report);
        self.send_due();
    }

    fn send_due(&mut self) {
        while self.is_welcome
            && let Some(report) = self.outbox.next_due()
        {
            self.actions.push(Action::Send(report));
        }
    }

    /// Sends a report that may be lost.
    fn send_soft(&mut self, report: WorkerReport) {
        if self.is_welcome {
            self.actions.push(Action::Send(report));
        }
    }
}
