//! A model of executors: they compute made-up results, which takes time, and die.

use super::agents::AgentEvent;
use super::counters::Sometimes;
use super::invariants::rosters::{Gang, RankSteps};
use super::invariants::{Checked, slots};
use super::made_up::{compute, trained};
use super::trace::of_bytes;
use super::world::{Happening, MS, SECOND, World};
use crate::random::mix;
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::work::{Assignment, FailureCause, ItemOutcome, TrainingProgress, WorkError};
use evoring_protocol::{ItemIndex, Rank, RosterNumber, SlotIndex, Step};
use evoring_worker::agent::work::Event;
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;

/// Steps between checkpoints, and between two looks at a training.
const CHECKPOINT_STEPS: u64 = 10;
const LOOK_STEPS: u64 = 5;
/// While its peers are absent, a rank looks for them this often.
const WAIT_US: (u64, u64) = (20 * MS, 150 * MS);
/// Of larger jobs' items, one in so many hangs: it takes longer than its lease allows at first …
const HANGS_EVERY: u64 = 400;
const HANGS_US: (u64, u64) = (65 * SECOND, 130 * SECOND);
/// … unless nothing shall fail so soon.
const HANGS_UNTIL_US: u64 = 150 * SECOND;
/// A rank waits for its peers no longer than this.
const PATIENCE_US: u64 = 2 * SECOND;

/// A slot's executor.
#[derive(Debug, Default)]
pub(super) struct Executor {
    pub born: u32,
    pub process: u32,
    pub is_alive: bool,
    pub order: Option<Order>,
}

/// What an executor does.
#[derive(Debug)]
pub(super) enum Order {
    Items {
        task: u64,
        assignment: Assignment,
        left: VecDeque<(ItemIndex, Vec<u8>)>,
    },
    Rank {
        task: u64,
        assignment: Assignment,
        rank: Rank,
        secret: [u8; 32],
        step: u64,
        since: u64,
    },
}

impl Order {
    pub(super) fn task(&self) -> u64 {
        match self {
            Self::Items { task, .. } | Self::Rank { task, .. } => *task,
        }
    }
}

/// Where the ranks of a gang meet.
#[derive(Debug, Default)]
pub(super) struct Meeting {
    present: BTreeSet<Rank>,
    world_size: usize,
    /// A rank is gone.
    pub is_broken: bool,
    /// Of what.
    pub roster: Option<(Gang, RosterNumber)>,
}

fn lost(message: &str) -> WorkError {
    WorkError {
        message: message.to_owned(),
        cause: FailureCause::Lost,
    }
}

impl World {
    /// An executor is told something.
    pub(super) fn executor_ordered(
        &mut self,
        index: usize,
        slot: SlotIndex,
        process: Option<u32>,
        command: ExecutorCommand,
    ) -> Checked {
        let (agent, now) = (&mut self.agents[index], self.now);
        let name = agent.name.clone();
        let Some(executor) = agent.executors.get_mut(slot.0 as usize) else {
            return Ok(());
        };
        let is_meant = process.is_none_or(|process| process == executor.process);
        if !executor.is_alive || !is_meant {
            return Ok(());
        }
        let order = match command {
            ExecutorCommand::Stop { task } => {
                let runs = executor.order.as_ref().is_some_and(|o| o.task() == task);
                let process = executor.process;
                if runs {
                    self.soon_stopped(index, slot, process, task);
                }
                return Ok(());
            }
            ExecutorCommand::RunItems {
                task,
                assignment,
                items,
                ..
            } => Order::Items {
                task,
                assignment,
                left: items.into(),
            },
            ExecutorCommand::RunRank {
                task,
                assignment,
                rank,
                world_size,
                secret,
                resume,
                ..
            } => {
                let meeting = self.meetings.entry(secret).or_default();
                meeting.world_size = world_size as usize;
                meeting.present.insert(rank);
                Order::Rank {
                    task,
                    assignment,
                    rank,
                    secret,
                    step: resume.map_or(0, |(step, _)| step.0),
                    since: now,
                }
            }
        };
        slots::given(&name, slot, executor.order.as_ref(), &order)?;
        let (process, task) = (executor.process, order.task());
        executor.order = Some(order);
        let first = match &executor.order {
            Some(Order::Items { left, .. }) => left.front().map(|(_, bytes)| of_bytes(bytes)),
            _ => None,
        };
        let takes = first.map_or(WAIT_US, |item| self.item_takes(item));
        self.next_step(index, slot.0 as usize, process, task, takes);
        Ok(())
    }

    fn soon_stopped(&mut self, index: usize, slot: SlotIndex, process: u32, task: u64) {
        let incarnation = self.agents[index].incarnation;
        let event = AgentEvent::Stopped(slot.0 as usize, process, task);
        let delay = self.dice.between(MS, 300 * MS);
        self.after(delay, Happening::Agent(index, incarnation, event));
    }

    /// How long an item takes, by a hash of it. Some hang, whoever computes them.
    fn item_takes(&mut self, item: u64) -> (u64, u64) {
        let load = self.plan.load;
        let may_hang = load.is_heavy && self.now + HANGS_UNTIL_US < self.plan.calm_us;
        if may_hang && mix(item ^ self.plan.seed).is_multiple_of(HANGS_EVERY) {
            self.watch.counters.hit(Sometimes::ItemHung);
            return HANGS_US;
        }
        load.item_us
    }

    fn next_step(
        &mut self,
        index: usize,
        slot: usize,
        process: u32,
        task: u64,
        (least, most): (u64, u64),
    ) {
        let incarnation = self.agents[index].incarnation;
        let delay = self.dice.between(least, most);
        let event = AgentEvent::Step(slot, process, task);
        self.after(delay, Happening::Agent(index, incarnation, event));
    }

    fn says(&mut self, index: usize, slot: usize, report: ExecutorReport) -> Checked {
        let slot = SlotIndex(slot as u32);
        self.tell_agent(index, Event::Report { slot, report })
    }

    fn executor(&mut self, index: usize, slot: usize, process: u32) -> Option<&mut Executor> {
        let executor = self.agents[index].executors.get_mut(slot)?;
        (executor.is_alive && executor.process == process).then_some(executor)
    }

    pub(super) fn executor_steps(
        &mut self,
        index: usize,
        slot: usize,
        process: u32,
        task: u64,
    ) -> Checked {
        let Some(executor) = self.executor(index, slot, process) else {
            return Ok(());
        };
        match &mut executor.order {
            Some(Order::Items {
                task: running,
                assignment,
                left,
            }) if *running == task => {
                let Some((item, bytes)) = left.pop_front() else {
                    return Ok(());
                };
                let next = left.front().map(|(_, bytes)| of_bytes(bytes));
                let result = compute(assignment.kernel, &assignment.payload, &bytes);
                let outcomes = vec![ItemOutcome {
                    index: item,
                    result,
                }];
                match next {
                    None => executor.order = None,
                    Some(item) => {
                        let takes = self.item_takes(item);
                        self.next_step(index, slot, process, task, takes);
                    }
                }
                self.says(index, slot, ExecutorReport::Items { task, outcomes })?;
                match next {
                    None => self.says(index, slot, ExecutorReport::ItemsDone { task }),
                    Some(_) => Ok(()),
                }
            }
            Some(Order::Rank { task: running, .. }) if *running == task => {
                self.rank_steps(index, slot, process, task)
            }
            _ => Ok(()),
        }
    }

    fn rank_steps(&mut self, index: usize, slot: usize, process: u32, task: u64) -> Checked {
        let now = self.now;
        let executor = self.agents[index].executors.get_mut(slot);
        let Some(Order::Rank {
            assignment,
            rank,
            secret,
            step,
            since,
            ..
        }) = executor.and_then(|executor| executor.order.as_mut())
        else {
            return Ok(());
        };
        let meeting = self.meetings.entry(*secret).or_default();
        let is_complete = meeting.present.len() == meeting.world_size;
        let is_vain = !is_complete && now - *since > PATIENCE_US;
        if meeting.is_broken || is_vain {
            self.leave_meeting(index, slot);
            let error = lost("a peer is gone");
            return self.says(index, slot, ExecutorReport::RankFailed { task, error });
        }
        if !is_complete {
            self.next_step(index, slot, process, task, WAIT_US);
            return Ok(());
        }
        *step += LOOK_STEPS;
        let (step, rank) = (*step, *rank);
        let result = trained(&assignment.payload);
        let roster = meeting.roster;
        self.rank_stepped(index, roster)?;
        let steps = self.plan.load.steps;
        if step >= steps {
            if let Some(executor) = self.executor(index, slot, process) {
                executor.order = None;
            }
            let blobs = if rank == Rank(0) {
                vec![PathBuf::from("weights")]
            } else {
                Vec::new()
            };
            let report = ExecutorReport::RankFinished {
                task,
                result,
                blobs,
            };
            return self.says(index, slot, report);
        }
        let takes = self.plan.load.steps_us;
        self.next_step(index, slot, process, task, takes);
        let progress = TrainingProgress {
            step,
            steps,
            loss: 1.0,
        };
        self.says(index, slot, ExecutorReport::Progress { task, progress })?;
        if rank == Rank(0) && step.is_multiple_of(CHECKPOINT_STEPS) {
            let report = ExecutorReport::Checkpoint {
                task,
                step: Step(step),
                path: PathBuf::from("checkpoint"),
            };
            return self.says(index, slot, report);
        }
        Ok(())
    }

    /// A rank of this roster has taken a step.
    fn rank_stepped(&mut self, index: usize, roster: Option<(Gang, RosterNumber)>) -> Checked {
        let Some((gang, roster)) = roster else {
            return Ok(());
        };
        let agent = &self.agents[index];
        let steps = RankSteps {
            worker: &agent.name,
            gang,
            roster,
            told: agent.rosters.get(&gang).copied(),
            now: self.now,
        };
        self.watch.rosters.steps(&steps, &mut self.watch.counters)
    }

    pub(super) fn executor_stopped(
        &mut self,
        index: usize,
        slot: usize,
        process: u32,
        task: u64,
    ) -> Checked {
        let Some(executor) = self.executor(index, slot, process) else {
            return Ok(());
        };
        let Some(order) = executor.order.as_ref().filter(|order| order.task() == task) else {
            return Ok(());
        };
        let report = match order {
            Order::Items { .. } => ExecutorReport::ItemsDone { task },
            Order::Rank { .. } => ExecutorReport::RankFailed {
                task,
                error: lost("stopped"),
            },
        };
        self.leave_meeting(index, slot);
        self.says(index, slot, report)
    }

    pub(super) fn executor_dies(&mut self, index: usize, slot: usize, process: u32) -> Checked {
        if self.executor(index, slot, process).is_none() {
            return Ok(());
        }
        self.leave_meeting(index, slot);
        if let Some(executor) = self.executor(index, slot, process) {
            executor.is_alive = false;
        }
        let event = Event::ExecutorExited {
            slot: SlotIndex(slot as u32),
            process,
            status: "signal: 9 (SIGKILL)".to_owned(),
            last_lines: String::new(),
        };
        self.tell_agent(index, event)
    }
}
