//! A whole cluster in one thread with a simulated clock: the real leader, a log that is a vector,
//! workers that compute made-up results.

use super::{Action, Denial, Event, Leader, LeaderConfig, Question, Secrets, Ticket};
use crate::consensus::Committed;
use crate::leader::Answer;
use crate::made_up::{compute, trained};
use crate::scheduler::{ConnectionId, Now};
use crate::state::{Outcome, State, Submission};
use evoring_protocol::client::JobView;
use evoring_protocol::event::EventKind;
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::version::build_id;
use evoring_protocol::work::{
    Assignment, Checkpoint, FailureCause, HeldRank, ItemOutcome, Lease, TrainingProgress, WorkError,
};
use evoring_protocol::worker::{Hello, Ran, RankEvent, WorkerCommand, WorkerReport};
use evoring_protocol::{
    Digest, ItemIndex, JobId, Rank, RemoteError, SlotIndex, Step, SubmissionKey, WorkerId,
};
use std::collections::{BTreeMap, VecDeque};

/// Steps of every made-up training; a checkpoint comes at each quarter.
const STEPS: u64 = 100;

/// How a worker behaves.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub host: &'static str,
    pub class: &'static str,
    pub slots: u32,
    pub item_ms: u64,
    pub training_ms: u64,
    /// Items fail with this.
    pub item_error: Option<WorkError>,
    /// Ranks other than 0 give another result.
    pub disagrees: bool,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            host: "h1",
            class: "cpu",
            slots: 1,
            item_ms: 10,
            training_ms: 2_000,
            item_error: None,
            disagrees: false,
        }
    }
}

#[derive(Debug, Clone)]
enum Task {
    Items {
        lease: Lease,
        assignment: Assignment,
        left: VecDeque<(ItemIndex, Vec<u8>)>,
    },
    Rank {
        held: HeldRank,
        assignment: Assignment,
        step: u64,
    },
}

impl Task {
    /// Its name, as a dead executor's agent tells it.
    fn ran(&self) -> Ran {
        match self {
            Self::Items { lease, .. } => Ran::Lease {
                term: lease.term,
                number: lease.number,
            },
            Self::Rank { held, .. } => Ran::Rank(held.clone()),
        }
    }
}

#[derive(Debug, Default)]
struct SimSlot {
    queue: VecDeque<Task>,
    /// When the running task's next item or quarter is done.
    due_ms: u64,
    is_running: bool,
}

#[derive(Debug)]
pub(crate) struct SimWorker {
    spec: Spec,
    incarnation: u64,
    connection: Option<ConnectionId>,
    slots: Vec<SimSlot>,
    outbox: BTreeMap<u64, WorkerReport>,
    next_sequence: u64,
    next_beat_ms: u64,
    /// It computes, but nothing from it arrives until it speaks again.
    is_mute: bool,
    held_back: Vec<WorkerReport>,
}

/// The cluster.
pub(crate) struct Sim {
    pub leader: Leader,
    pub now: Now,
    /// Time from proposal to commit.
    pub commit_ms: u64,
    pub log: Vec<(u64, Vec<u8>)>,
    commits: VecDeque<(u64, Committed)>,
    /// The store takes no writes: proposals wait.
    pub is_full: bool,
    term: u64,
    next_index: u64,
    pub workers: BTreeMap<WorkerId, SimWorker>,
    next_connection: u64,
    pub events: Vec<(u64, EventKind)>,
    pub replies: BTreeMap<Ticket, Result<Outcome, RemoteError>>,
    next_ticket: u64,
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    /// Items that workers computed.
    pub computed: u64,
    pub commands: Vec<(WorkerId, WorkerCommand)>,
    pub snapshots: Vec<(u64, Vec<u8>)>,
}

pub(crate) fn name(text: &str) -> WorkerId {
    WorkerId::new(text).unwrap()
}

impl Sim {
    pub fn new() -> Self {
        let mut sim = Self {
            leader: leader(State::default(), 1),
            now: Now {
                mono_ms: 0,
                wall_ms: 1_000_000,
            },
            commit_ms: 3,
            log: Vec::new(),
            commits: VecDeque::new(),
            is_full: false,
            term: 0,
            next_index: 1,
            workers: BTreeMap::new(),
            next_connection: 1,
            events: Vec::new(),
            replies: BTreeMap::new(),
            next_ticket: 1,
            blobs: BTreeMap::new(),
            computed: 0,
            commands: Vec::new(),
            snapshots: Vec::new(),
        };
        sim.elect();
        sim
    }

    fn elect(&mut self) {
        self.term += 1;
        self.feed(Event::Elected { term: self.term });
        self.append(None, Vec::new());
        self.advance(10);
    }

    fn append(&mut self, proposal: Option<u64>, data: Vec<u8>) {
        let (index, term) = (self.next_index, self.term);
        self.next_index += 1;
        self.log.push((index, data.clone()));
        self.commits.push_back((
            self.now.mono_ms + self.commit_ms,
            Committed {
                index,
                term,
                proposal,
                data,
            },
        ));
    }

    /// The coordinator's process is killed and started again: the log is replayed, connections are
    /// new, workers compute on meanwhile.
    pub fn restart(&mut self) {
        self.leader = leader(State::default(), self.term + 1);
        let entries = self
            .log
            .iter()
            .map(|(index, data)| Committed {
                index: *index,
                term: 1,
                proposal: None,
                data: data.clone(),
            })
            .collect();
        self.commits.clear();
        // Events of replayed entries are in the event file already.
        let known = std::mem::take(&mut self.events);
        self.feed(Event::Committed(entries));
        self.events = known;
        for worker in self.workers.values_mut() {
            worker.connection = None;
        }
        self.elect();
    }

    pub fn feed(&mut self, event: Event) {
        for action in self.leader.handle(event, self.now).unwrap() {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Propose { token, data } => self.append(Some(token), data),
            Action::Applied(_) => {}
            Action::Snapshot { index, data } => self.snapshots.push((index, data)),
            Action::Send {
                connection,
                command,
            } => {
                let receiver = self
                    .workers
                    .iter()
                    .find(|(_, worker)| worker.connection == Some(connection));
                if let Some(receiver) = receiver.map(|(name, _)| name.clone()) {
                    self.commands.push((receiver.clone(), command.clone()));
                    self.command(&receiver, command);
                }
            }
            Action::Close { connection, .. } => {
                for worker in self
                    .workers
                    .values_mut()
                    .filter(|worker| worker.connection == Some(connection))
                {
                    worker.connection = None;
                }
            }
            Action::Reply { ticket, outcome } => {
                let outcome = outcome.map_err(|denial| match denial {
                    Denial::Error(error) => error,
                    Denial::NotLeader(_) => panic!("nobody else can lead"),
                });
                assert!(
                    self.replies.insert(ticket, outcome).is_none(),
                    "answered twice"
                );
            }
            Action::Event { kind, .. } => self.events.push((self.now.mono_ms, kind)),
            Action::Log { .. }
            | Action::Members(_)
            | Action::Answer { .. }
            | Action::HandOver { .. } => {}
            Action::Read { .. } => panic!("nobody asks"),
            Action::StoreBlob { digest, bytes } => {
                self.blobs.insert(digest, bytes);
                self.feed(Event::BlobStored(digest));
            }
        }
    }

    /// Starts a worker, or starts it again as a new process.
    pub fn worker(&mut self, text: &str, spec: Spec) {
        let incarnation = self
            .workers
            .get(&name(text))
            .map_or(1, |worker| worker.incarnation + 1);
        let slots = (0..spec.slots).map(|_| SimSlot::default()).collect();
        let worker = SimWorker {
            spec,
            incarnation,
            connection: None,
            slots,
            outbox: BTreeMap::new(),
            next_sequence: 1,
            next_beat_ms: 0,
            is_mute: false,
            held_back: Vec::new(),
        };
        self.workers.insert(name(text), worker);
        self.connect(&name(text));
    }

    fn connect(&mut self, worker: &WorkerId) {
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let sim = self.workers.get_mut(worker).unwrap();
        sim.connection = Some(connection);
        sim.held_back.clear();
        let hello = sim.hello(worker);
        self.feed(Event::Hello { connection, hello });
    }

    /// SIGKILL: it is gone, and its connection says so at once if `is_noticed`.
    pub fn kill(&mut self, text: &str, is_noticed: bool) {
        let worker = self.workers.remove(&name(text)).unwrap();
        if let Some(connection) = worker.connection.filter(|_| is_noticed) {
            self.feed(Event::Disconnected {
                connection,
                reason: "killed".to_owned(),
            });
        }
    }

    /// An executor dies with what it runs; what waits behind that goes to the next one.
    pub fn executor_dies(&mut self, text: &str, slot: u32) {
        let worker = self.workers.get_mut(&name(text)).unwrap();
        let dying = &mut worker.slots[slot as usize];
        let dead = dying.queue.pop_front();
        dying.is_running = false;
        let incarnation = worker.incarnation;
        self.say(text, exited(slot, dead.as_ref().map(Task::ran)));
        let error = |cause| WorkError {
            message: "executor ended".to_owned(),
            cause,
        };
        match dead {
            Some(Task::Items { lease, left, .. }) => {
                let causes = std::iter::once(FailureCause::Failed)
                    .chain(std::iter::repeat(FailureCause::Lost));
                let outcome = |((index, _), cause)| ItemOutcome {
                    index,
                    result: Err(error(cause)),
                };
                let outcomes = left.into_iter().zip(causes).map(outcome).collect();
                self.deliver(&name(text), |sequence| WorkerReport::Results {
                    sequence,
                    lease,
                    outcomes,
                });
            }
            Some(Task::Rank { held, .. }) => {
                let event = RankEvent::Failed(error(FailureCause::Failed));
                self.deliver(&name(text), |sequence| WorkerReport::Rank {
                    sequence,
                    held,
                    event,
                });
            }
            None => {}
        }
        let now_ms = self.now.mono_ms;
        let executors = vec![1_000 + incarnation as u32 + now_ms as u32; 1];
        self.say(text, WorkerReport::Heartbeat { executors });
        let worker = self.workers.get_mut(&name(text)).unwrap();
        worker.slots[slot as usize].start(now_ms, &worker.spec);
    }

    /// A report that may be lost: it is, without a connection.
    pub fn say(&mut self, text: &str, report: WorkerReport) {
        let worker = self.workers.get_mut(&name(text)).unwrap();
        match worker.connection {
            Some(_) if worker.is_mute => worker.held_back.push(report),
            Some(connection) => self.feed(Event::Report { connection, report }),
            None => {}
        }
    }

    /// The connection of a worker breaks; it connects again at once.
    pub fn reconnect(&mut self, text: &str) {
        let worker = self.workers.get_mut(&name(text)).unwrap();
        let connection = worker.connection.take().unwrap();
        let reason = "made up".to_owned();
        self.feed(Event::Disconnected { connection, reason });
        self.connect(&name(text));
    }

    /// The item that a slot of a worker runs.
    pub fn item(&self, text: &str, slot: u32) -> Option<ItemIndex> {
        match self.workers[&name(text)].slots[slot as usize].queue.front() {
            Some(Task::Items { left, .. }) => left.front().map(|(index, _)| *index),
            _ => None,
        }
    }

    /// What a slot of a worker runs.
    pub fn running(&self, text: &str, slot: u32) -> Option<Ran> {
        let slot = &self.workers[&name(text)].slots[slot as usize];
        slot.queue.front().map(Task::ran)
    }

    /// A rank ends with an error.
    pub fn rank_fails(&mut self, text: &str, error: WorkError) {
        let slot = &mut self.workers.get_mut(&name(text)).unwrap().slots[0];
        let Some(Task::Rank { held, .. }) = slot.queue.pop_front() else {
            panic!("{text} runs no rank")
        };
        slot.is_running = false;
        let event = RankEvent::Failed(error);
        self.deliver(&name(text), |sequence| WorkerReport::Rank {
            sequence,
            held,
            event,
        });
    }

    fn command(&mut self, receiver: &WorkerId, command: WorkerCommand) {
        let now_ms = self.now.mono_ms;
        let mut resend = Vec::new();
        let Some(worker) = self.workers.get_mut(receiver) else {
            return;
        };
        match command {
            WorkerCommand::NotLeader { .. } => panic!("nobody else can lead"),
            WorkerCommand::Welcome { leases_to_keep, ranks_to_keep, .. } => {
                for slot in &mut worker.slots {
                    slot.stop(|task| match task {
                        Task::Items { lease, .. } => !leases_to_keep.contains(&(lease.term, lease.number)),
                        Task::Rank { held, .. } => !ranks_to_keep.contains(held),
                    });
                }
                resend = worker.outbox.values().cloned().collect();
            }
            WorkerCommand::Grant { lease, assignment, items } => {
                let left = lease.items.iter().map(|item| item.index).zip(items).collect();
                let slot = &mut worker.slots[lease.slot.0 as usize];
                slot.queue.push_back(Task::Items { lease, assignment, left });
            }
            WorkerCommand::StartRank { held, roster, assignment } => {
                let step = roster.resume.map_or(0, |checkpoint| checkpoint.step.0);
                worker.slots[held.slot.0 as usize].queue.push_back(Task::Rank { held, assignment, step });
            }
            WorkerCommand::StopRank { held: stopped } => worker.slots[stopped.slot.0 as usize]
                .stop(|task| matches!(task, Task::Rank { held, .. } if *held == stopped)),
            WorkerCommand::StopLease { term, number } => worker.slots.iter_mut().for_each(|slot| {
                slot.stop(|task| matches!(task, Task::Items { lease, .. } if (lease.term, lease.number) == (term, number)));
            }),
            WorkerCommand::Acknowledge { sequence } => {
                worker.outbox.remove(&sequence);
            }
            WorkerCommand::Refuse(error) => panic!("{receiver} was refused: {error}"),
        }
        for slot in &mut worker.slots {
            slot.start(now_ms, &worker.spec);
        }
        if let Some(connection) = worker.connection {
            resend
                .into_iter()
                .for_each(|report| self.feed(Event::Report { connection, report }));
        }
    }

    fn deliver(&mut self, worker: &WorkerId, report: impl FnOnce(u64) -> WorkerReport) {
        let Some(sim) = self.workers.get_mut(worker) else {
            return;
        };
        let report = report(sim.next_sequence);
        sim.outbox.insert(sim.next_sequence, report.clone());
        sim.next_sequence += 1;
        match sim.connection {
            Some(_) if sim.is_mute => sim.held_back.push(report),
            Some(connection) => self.feed(Event::Report { connection, report }),
            // It goes with the next connection.
            None => {}
        }
    }

    /// Makes a worker silent, or lets it speak: then what it had to say arrives, late.
    pub fn mute(&mut self, text: &str, is_mute: bool) {
        let worker = self.workers.get_mut(&name(text)).unwrap();
        worker.is_mute = is_mute;
        if is_mute {
            return;
        }
        for report in std::mem::take(&mut worker.held_back) {
            if let Some(connection) = self.workers[&name(text)].connection {
                self.feed(Event::Report { connection, report });
            }
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now.mono_ms += 1;
            self.now.wall_ms += 1;
            while !self.is_full
                && self
                    .commits
                    .front()
                    .is_some_and(|(due, _)| *due <= self.now.mono_ms)
            {
                let (_, entry) = self.commits.pop_front().unwrap();
                self.feed(Event::Committed(vec![entry]));
            }
            let names: Vec<WorkerId> = self.workers.keys().cloned().collect();
            names.iter().for_each(|worker| self.run_worker(worker));
            if self.now.mono_ms.is_multiple_of(5) {
                self.feed(Event::Tick);
            }
        }
    }

    fn run_worker(&mut self, worker: &WorkerId) {
        let now_ms = self.now.mono_ms;
        if self.workers[worker].connection.is_none() && !self.workers[worker].is_mute {
            self.connect(worker);
        }
        for slot in 0..self.workers[worker].slots.len() {
            while let Some(done) = self
                .workers
                .get_mut(worker)
                .and_then(|sim| sim.step(slot, now_ms))
            {
                self.done(worker, done);
            }
        }
        let sim = self.workers.get_mut(worker).unwrap();
        if now_ms >= sim.next_beat_ms && !sim.is_mute {
            sim.next_beat_ms = now_ms + 500;
            if let Some(connection) = sim.connection {
                let executors = vec![100 * sim.incarnation as u32; sim.slots.len()];
                self.feed(Event::Report {
                    connection,
                    report: WorkerReport::Heartbeat { executors },
                });
            }
        }
    }

    fn done(&mut self, worker: &WorkerId, done: Done) {
        match done {
            Done::Item(lease, outcome) => {
                self.computed += 1;
                self.deliver(worker, |sequence| WorkerReport::Results {
                    sequence,
                    lease,
                    outcomes: vec![outcome],
                });
            }
            Done::Rank(held, event) => {
                self.deliver(worker, |sequence| WorkerReport::Rank {
                    sequence,
                    held,
                    event,
                });
            }
            Done::Step(held, step) => {
                let connection = self.workers[worker]
                    .connection
                    .filter(|_| !self.workers[worker].is_mute);
                let progress = TrainingProgress {
                    step,
                    steps: STEPS,
                    loss: 1.0,
                };
                if let Some(connection) = connection {
                    let report = WorkerReport::Progress {
                        held: held.clone(),
                        progress,
                    };
                    self.feed(Event::Report { connection, report });
                }
                if held.rank == Rank(0) {
                    let checkpoint = Checkpoint {
                        step: Step(step),
                        digest: Digest::of(&step.to_le_bytes()),
                    };
                    let event = RankEvent::Checkpointed(checkpoint);
                    self.deliver(worker, |sequence| WorkerReport::Rank {
                        sequence,
                        held,
                        event,
                    });
                }
            }
        }
    }

    /// Lets time pass until a condition holds.
    pub fn until(&mut self, what: &str, limit_ms: u64, condition: impl Fn(&Self) -> bool) {
        let end = self.now.mono_ms + limit_ms;
        while !condition(self) {
            assert!(
                self.now.mono_ms < end,
                "{what}: not within {limit_ms} ms\n{}",
                self.story()
            );
            self.advance(1);
        }
    }

    /// The last events, for failed tests.
    fn story(&self) -> String {
        let last = self.events.iter().rev().take(40).rev();
        last.map(|(time, kind)| format!("{time}: {kind:?}\n"))
            .collect()
    }

    pub fn submit(&mut self, text: &str) -> JobId {
        match self.try_submit(text, false) {
            Ok(Outcome::Submitted { job, .. }) => job,
            other => panic!("{other:?}"),
        }
    }

    pub fn try_submit(
        &mut self,
        text: &str,
        refuse_unless_fits: bool,
    ) -> Result<Outcome, RemoteError> {
        let spec = evoring_jobs::spec::parse("job.toml", text).unwrap();
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let submission = Box::new(Submission {
            key: SubmissionKey([ticket.0 as u8; 16]),
            name: spec.name,
            kind: spec.kind,
            min_ranks: spec.min_ranks,
            driver: spec.driver,
        });
        self.feed(Event::Submit {
            ticket,
            submission,
            refuse_unless_fits,
        });
        self.until("an answer", 1_000, |sim| sim.replies.contains_key(&ticket));
        self.replies[&ticket].clone()
    }

    pub fn view(&self, job: JobId) -> JobView {
        match self.leader.answer(Question::Job(job), self.now) {
            Ok(Answer::Job(view)) => *view,
            other => panic!("{other:?}"),
        }
    }

    pub fn explain(&self, job: JobId) -> Vec<String> {
        match self.leader.answer(Question::Explain(job), self.now) {
            Ok(Answer::Explanation(sentences)) => sentences,
            other => panic!("{other:?}"),
        }
    }

    pub fn is_in(&self, job: JobId, stage: &str) -> bool {
        let view = self.view(job);
        view.stage == stage && view.slots > 0
    }

    pub fn ended(&self, job: JobId) -> bool {
        self.leader.scheduler().is_some() && self.view(job).status.is_final()
    }

    pub fn count(&self, condition: impl Fn(&EventKind) -> bool) -> usize {
        self.events
            .iter()
            .filter(|(_, kind)| condition(kind))
            .count()
    }
}

fn leader(state: State, seed: u64) -> Leader {
    let config = LeaderConfig::of_test("c1", "c1:1");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Leader::new(config, state, Secrets::new(bytes))
}

/// The end of an executor.
pub(crate) fn exited(slot: u32, ran: Option<Ran>) -> WorkerReport {
    WorkerReport::ExecutorExited {
        slot: SlotIndex(slot),
        process: 100,
        status: "signal 9".to_owned(),
        last_lines: String::new(),
        ran,
    }
}

enum Done {
    Item(Lease, ItemOutcome),
    Step(HeldRank, u64),
    Rank(HeldRank, RankEvent),
}

impl SimSlot {
    fn stop(&mut self, is_unwanted: impl Fn(&Task) -> bool) {
        if self.queue.front().is_some_and(&is_unwanted) {
            self.is_running = false;
        }
        self.queue.retain(|task| !is_unwanted(task));
    }

    fn start(&mut self, now_ms: u64, spec: &Spec) {
        if let (Some(task), false) = (self.queue.front(), self.is_running) {
            self.is_running = true;
            self.due_ms = now_ms
                + match task {
                    Task::Items { .. } => spec.item_ms,
                    Task::Rank { .. } => spec.training_ms / 4,
                };
        }
    }
}

impl SimWorker {
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    fn hello(&self, worker: &WorkerId) -> Hello {
        let tasks = || self.slots.iter().flat_map(|slot| &slot.queue);
        let running = tasks().filter_map(|task| {
            if let Task::Items { lease, .. } = task {
                Some(lease.clone())
            } else {
                None
            }
        });
        let waiting = self.outbox.values().filter_map(|report| match report {
            WorkerReport::Results { lease, .. } => Some(lease.clone()),
            _ => None,
        });
        let ranks = tasks().filter_map(|task| {
            if let Task::Rank { held, .. } = task {
                Some(held.clone())
            } else {
                None
            }
        });
        let ended = self.outbox.values().filter_map(|report| match report {
            WorkerReport::Rank {
                held,
                event: RankEvent::Finished { .. },
                ..
            } => Some(held.clone()),
            _ => None,
        });
        Hello {
            build: build_id(),
            worker: worker.clone(),
            incarnation: self.incarnation,
            process: 10,
            host: self.spec.host.to_owned(),
            slots: self.spec.slots,
            numerics: NumericsClass(self.spec.class.to_owned()),
            metrics: None,
            leases: running.chain(waiting).collect(),
            ranks: ranks.chain(ended).collect(),
        }
    }

    /// What a slot has done by now.
    fn step(&mut self, index: usize, now_ms: u64) -> Option<Done> {
        let slot = &mut self.slots[index];
        if !slot.is_running || now_ms < slot.due_ms {
            return None;
        }
        let spec = self.spec.clone();
        let task = slot.queue.front_mut()?;
        let (done, is_over) = match task {
            Task::Items {
                lease,
                assignment,
                left,
            } => {
                let (index, item) = left.pop_front()?;
                let result = match &spec.item_error {
                    Some(error) => Err(error.clone()),
                    None => Ok(compute(assignment.kernel, &assignment.payload, &item)),
                };
                (
                    Done::Item(lease.clone(), ItemOutcome { index, result }),
                    left.is_empty(),
                )
            }
            Task::Rank {
                held,
                step,
                assignment,
            } => {
                *step += STEPS / 4;
                if *step < STEPS {
                    (Done::Step(held.clone(), *step), false)
                } else {
                    let mut result = trained(&assignment.payload);
                    if spec.disagrees && held.rank != Rank(0) {
                        result.push(1);
                    }
                    (
                        Done::Rank(held.clone(), RankEvent::Finished { result }),
                        true,
                    )
                }
            }
        };
        slot.is_running = false;
        if is_over {
            slot.queue.pop_front();
        }
        slot.start(now_ms, &spec);
        Some(done)
    }
}
