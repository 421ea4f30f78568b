//! Workers: the real core of the agent, and a shell that is a model.

use super::counters::Sometimes;
use super::executors::{Executor, Meeting, Order};
use super::invariants::Checked;
use super::invariants::rosters::Gang;
use super::network::Place;
use super::world::{Happening, MS, SECOND, World};
use evoring_coordinator::scheduler::ConnectionId;
use evoring_protocol::executor::ExecutorCommand;
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::{FailureCause, HeldRank, WorkError};
use evoring_protocol::worker::{CONNECT_MS, RECONNECT_MS, WorkerCommand};
use evoring_protocol::{Digest, RosterNumber, SlotIndex, WorkerId};
use evoring_worker::agent::core::Core;
use evoring_worker::agent::work::{Action, Event, Profile, Purpose, Work};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The agent's own clock.
const TICK_US: u64 = 100 * MS;
/// Pause before the second attempt to connect.
const FIRST_WAIT_US: u64 = 50 * MS;

/// From a coordinator, over a connection.
#[derive(Debug)]
pub(super) enum Down {
    Command(Box<WorkerCommand>),
    Close,
}

/// What happens to an agent's process.
#[derive(Debug)]
pub(super) enum AgentEvent {
    Tick,
    Dial,
    Dialed(usize),
    Disconnected(ConnectionId),
    Commanded(ConnectionId, Box<WorkerCommand>),
    /// An executor's process is started.
    Restart(SlotIndex),
    Ready(SlotIndex, u32),
    Prepared(SlotIndex, u32, u64, Box<Work>),
    Stored(HeldRank, Purpose),
    /// An executor of this process takes a step with this task.
    Step(usize, u32, u64),
    /// An executor has stopped a task.
    Stopped(usize, u32, u64),
    ExecutorDies(usize, u32),
}

/// A worker's machine.
pub(super) struct Agent {
    pub name: WorkerId,
    pub core: Option<Core>,
    pub incarnation: u64,
    pub executors: Vec<Executor>,
    pub connection: Option<ConnectionId>,
    /// The newest roster of each gang that its process was told of, and when.
    pub rosters: BTreeMap<Gang, (RosterNumber, u64)>,
    started_us: u64,
    session: u64,
    /// Since when its machine stands still, and what happened to it meanwhile.
    backlog: Option<(u64, Vec<AgentEvent>)>,
    /// The coordinator that it tries next.
    target: usize,
    wait_us: u64,
    is_dialing: bool,
}

impl Agent {
    fn clock(&self, now: u64) -> Duration {
        Duration::from_micros(now.saturating_sub(self.started_us))
    }
}

impl World {
    pub(super) fn make_agents(&mut self) {
        for index in 0..self.plan.agents as usize {
            let name = format!("w{}", index + 1);
            let Ok(name) = WorkerId::new(&name) else {
                continue;
            };
            self.agents.push(Agent {
                name,
                core: None,
                incarnation: 0,
                executors: Vec::new(),
                connection: None,
                rosters: BTreeMap::new(),
                started_us: 0,
                session: 0,
                backlog: None,
                target: index,
                wait_us: FIRST_WAIT_US,
                is_dialing: false,
            });
            let delay = self.dice.below(2 * SECOND);
            self.after(delay, Happening::AgentStart(index));
        }
    }

    pub(super) fn start_agent(&mut self, index: usize) -> Checked {
        let slots = self.plan.slots;
        let now = self.now;
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        if agent.core.is_some() {
            return Ok(());
        }
        agent.incarnation += 1;
        agent.started_us = now;
        agent.session = 0;
        agent.wait_us = FIRST_WAIT_US;
        agent.is_dialing = false;
        agent.executors = (0..slots).map(|_| Executor::default()).collect();
        let incarnation = agent.incarnation;
        agent.core = Some(Core::new(Profile {
            worker: agent.name.clone(),
            incarnation: incarnation * 1_000 + index as u64,
            process: incarnation as u32,
            host: "host".to_owned(),
            slots,
            metrics: None,
        }));
        self.after(0, Happening::Agent(index, incarnation, AgentEvent::Tick));
        self.after(0, Happening::Agent(index, incarnation, AgentEvent::Dial));
        Ok(())
    }

    /// An agent's process dies, and its executors with it.
    pub(super) fn kill_agent(&mut self, index: usize) {
        for slot in 0..self.agents[index].executors.len() {
            self.leave_meeting(index, slot);
        }
        let agent = &mut self.agents[index];
        agent.core = None;
        agent.executors.clear();
        agent.rosters.clear();
        agent.backlog = None;
        if let Some(connection) = agent.connection.take() {
            self.agent_gone(connection);
        }
        let wait = self.dice.between(SECOND, 4 * SECOND);
        self.after(wait, Happening::AgentStart(index));
    }

    /// A worker's machine stands still, with its executors; whether it did not before.
    pub(super) fn pause_agent(&mut self, index: usize, length: u64) -> bool {
        let agent = &mut self.agents[index];
        if agent.core.is_none() || agent.backlog.is_some() {
            return false;
        }
        agent.backlog = Some((self.now, Vec::new()));
        let incarnation = agent.incarnation;
        self.after(length, Happening::AgentResume(index, incarnation));
        true
    }

    pub(super) fn resume_agent(&mut self, index: usize, incarnation: u64) -> Checked {
        let agent = &mut self.agents[index];
        let backlog = match agent.incarnation == incarnation {
            true => agent.backlog.take(),
            false => None,
        };
        let Some((since, backlog)) = backlog else {
            return Ok(());
        };
        // It had no time to obey.
        for (_, told) in agent.rosters.values_mut() {
            *told += self.now - since;
        }
        for event in backlog {
            self.agent_event(index, incarnation, event)?;
        }
        Ok(())
    }

    pub(super) fn agent_event(
        &mut self,
        index: usize,
        incarnation: u64,
        event: AgentEvent,
    ) -> Checked {
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        if agent.incarnation != incarnation || agent.core.is_none() {
            return Ok(());
        }
        if let Some((_, backlog)) = &mut agent.backlog {
            backlog.push(event);
            return Ok(());
        }
        match event {
            AgentEvent::Tick => {
                let next = Happening::Agent(index, incarnation, AgentEvent::Tick);
                self.after(TICK_US, next);
                self.tell_agent(index, Event::Tick)
            }
            AgentEvent::Dial => {
                self.dials(index);
                Ok(())
            }
            AgentEvent::Dialed(host) => self.dialed(index, host),
            AgentEvent::Disconnected(connection) => self.agent_disconnected(index, connection),
            AgentEvent::Commanded(connection, command) => {
                if agent.connection != Some(connection) {
                    return Ok(());
                }
                self.agent_commanded(index, *command)
            }
            AgentEvent::Restart(slot) => self.tell_agent(index, Event::RestartDue { slot }),
            AgentEvent::Ready(slot, process) => self.executor_ready(index, slot, process),
            AgentEvent::Prepared(slot, process, task, work) => {
                let event = prepared(slot, process, task, *work);
                self.tell_agent(index, event)
            }
            AgentEvent::Stored(held, purpose) => {
                let outcome = match self.dice.chance(20_000) {
                    true => Err(WorkError {
                        message: "the blob store is away".to_owned(),
                        cause: FailureCause::Lost,
                    }),
                    false => Ok(Some(match purpose {
                        Purpose::Checkpoint(step) => {
                            let gang = (held.job, held.demand);
                            self.watch.checkpoints.stored(gang, step)
                        }
                        Purpose::Result(_) => Digest::of(&[held.rank.0 as u8]),
                    })),
                };
                let event = Event::Stored {
                    held,
                    purpose,
                    outcome,
                };
                self.tell_agent(index, event)
            }
            AgentEvent::Step(slot, process, task) => {
                self.executor_steps(index, slot, process, task)
            }
            AgentEvent::Stopped(slot, process, task) => {
                self.executor_stopped(index, slot, process, task)
            }
            AgentEvent::ExecutorDies(slot, process) => self.executor_dies(index, slot, process),
        }
    }

    /// Feeds the core, and carries out what it wants.
    pub(super) fn tell_agent(&mut self, index: usize, event: Event) -> Checked {
        let now = self.now;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(agent) = self.agents.get_mut(index) else {
                return Ok(());
            };
            let clock = agent.clock(now);
            let Some(core) = &mut agent.core else {
                return Ok(());
            };
            for action in core.handle(event, clock) {
                events.extend(self.agent_acts(index, action)?);
            }
        }
        Ok(())
    }

    fn agent_acts(
        &mut self,
        index: usize,
        action: Action,
    ) -> Result<Option<Event>, super::invariants::Violation> {
        let agent = &self.agents[index];
        let incarnation = agent.incarnation;
        let happens = |event| Happening::Agent(index, incarnation, event);
        match action {
            Action::Send { session, report } => {
                let connection = agent.connection.filter(|_| agent.session == session);
                if let Some(connection) = connection {
                    self.report(index, connection, report);
                }
            }
            Action::Start { slot, wait } if wait > Duration::ZERO => {
                self.after(wait.as_micros() as u64, happens(AgentEvent::Restart(slot)));
            }
            Action::Start { slot, .. } => return Ok(self.executor_starts(index, slot)),
            Action::Run {
                slot,
                process,
                task,
                work,
            } => {
                let delay = self.dice.between(MS, 30 * MS);
                self.after(
                    delay,
                    happens(AgentEvent::Prepared(slot, process, task, work)),
                );
            }
            Action::Deliver {
                slot,
                process,
                command,
            } => self.executor_ordered(index, slot, Some(process), *command)?,
            Action::Stop { slot, task } => {
                self.executor_ordered(index, slot, None, ExecutorCommand::Stop { task })?;
            }
            Action::Kill { slot } => {
                let process = self.agents[index].process(slot);
                let event = AgentEvent::ExecutorDies(slot.0 as usize, process);
                self.after(MS, happens(event));
            }
            Action::Store { held, purpose, .. } => {
                // Now and then it is so slow that a gang has another roster by then.
                let is_slow = self.dice.chance(200_000);
                let longest = if is_slow { 8 * SECOND } else { 100 * MS };
                let delay = self.dice.between(5 * MS, longest);
                self.after(delay, happens(AgentEvent::Stored(held, purpose)));
            }
            Action::Exit { .. } => self.kill_agent(index),
            Action::UseBlobs(_) | Action::Count(_) | Action::Log(_) => {}
        }
        Ok(None)
    }

    /// Tries to connect to the next coordinator.
    fn dials(&mut self, index: usize) {
        let agent = &mut self.agents[index];
        let incarnation = agent.incarnation;
        let can_connect = agent.core.as_ref().is_some_and(Core::can_connect);
        let happens = |event| Happening::Agent(index, incarnation, event);
        if agent.connection.is_some() || agent.is_dialing {
            return;
        }
        if !can_connect {
            self.after(TICK_US, happens(AgentEvent::Dial));
            return;
        }
        agent.is_dialing = true;
        let host = agent.target;
        let is_there = self.hosts.get(host).is_some_and(|h| h.process.is_some());
        let (there, back) = (Place::agent(index), Place::host(host));
        let is_cut = self.network.is_cut(there, back) || self.network.is_cut(back, there);
        let wait = match is_there && !is_cut {
            true => 2 * self.network.delay(&mut self.dice),
            false => CONNECT_MS * MS,
        };
        self.after(wait, happens(AgentEvent::Dialed(host)));
    }

    fn dialed(&mut self, index: usize, host: usize) -> Checked {
        let incarnation = self.agents[index].incarnation;
        self.agents[index].is_dialing = false;
        let connection = self.dial(index, incarnation, host);
        let agent = &mut self.agents[index];
        match connection {
            Some(_) => {
                agent.connection = connection;
                agent.session += 1;
                agent.wait_us = FIRST_WAIT_US;
                let session = agent.session;
                self.tell_agent(index, Event::Connected { session })
            }
            None => {
                self.turn_elsewhere(index, None);
                Ok(())
            }
        }
    }

    /// Dials again after a pause, at the leader if one was named.
    fn turn_elsewhere(&mut self, index: usize, leader: Option<&str>) {
        let hosts = self.hosts.len();
        let named = leader.and_then(|address| self.host_at(address));
        let agent = &mut self.agents[index];
        agent.target = named.unwrap_or((agent.target + 1) % hosts.max(1));
        let wait = agent.wait_us;
        agent.wait_us = (wait * 2).min(RECONNECT_MS * MS);
        let incarnation = agent.incarnation;
        self.after(wait, Happening::Agent(index, incarnation, AgentEvent::Dial));
    }

    fn agent_disconnected(&mut self, index: usize, connection: ConnectionId) -> Checked {
        let agent = &mut self.agents[index];
        if agent.connection != Some(connection) {
            return Ok(());
        }
        agent.connection = None;
        let incarnation = agent.incarnation;
        let wait = agent.wait_us;
        agent.wait_us = (wait * 2).min(RECONNECT_MS * MS);
        self.tell_agent(index, Event::Disconnected)?;
        self.after(wait, Happening::Agent(index, incarnation, AgentEvent::Dial));
        Ok(())
    }

    fn agent_commanded(&mut self, index: usize, command: WorkerCommand) -> Checked {
        if let WorkerCommand::StartRank { held, roster, .. } = &command {
            let (gang, now) = ((held.job, held.demand), self.now);
            self.watch.checkpoints.resumes(gang, roster)?;
            self.meetings.entry(roster.secret).or_default().roster = Some((gang, roster.number));
            let newest = self.agents[index].rosters.entry(gang);
            let newest = newest.or_insert((roster.number, now));
            if newest.0 < roster.number {
                *newest = (roster.number, now);
            }
        }
        let WorkerCommand::NotLeader { leader } = &command else {
            return self.tell_agent(index, Event::Command(command));
        };
        self.watch.counters.hit(Sometimes::AgentSentElsewhere);
        let address = leader.as_ref().map(|leader| leader.address.clone());
        if let Some(connection) = self.agents[index].connection.take() {
            self.agent_gone(connection);
        }
        self.tell_agent(index, Event::Disconnected)?;
        self.turn_elsewhere(index, address.as_deref());
        Ok(())
    }

    fn executor_starts(&mut self, index: usize, slot: SlotIndex) -> Option<Event> {
        let delay = self.dice.between(100 * MS, 800 * MS);
        let agent = self.agents.get_mut(index)?;
        let incarnation = agent.incarnation;
        let executor = agent.executors.get_mut(slot.0 as usize)?;
        executor.born += 1;
        executor.process = incarnation as u32 * 10_000 + slot.0 * 1_000 + executor.born;
        executor.is_alive = true;
        executor.order = None;
        let process = executor.process;
        let event = AgentEvent::Ready(slot, process);
        self.after(delay, Happening::Agent(index, incarnation, event));
        Some(Event::ExecutorStarted { slot, process })
    }

    fn executor_ready(&mut self, index: usize, slot: SlotIndex, process: u32) -> Checked {
        if self.agents[index].process(slot) != process {
            return Ok(());
        }
        let report = evoring_protocol::executor::ExecutorReport::Ready {
            numerics: NumericsClass("cpu".to_owned()),
        };
        self.tell_agent(index, Event::Report { slot, report })
    }

    /// Meeting points of gangs.
    pub(super) fn leave_meeting(&mut self, index: usize, slot: usize) {
        let executor = self.agents[index].executors.get_mut(slot);
        let order = executor.and_then(|executor| executor.order.take());
        if let Some(Order::Rank { secret, .. }) = order
            && let Some(meeting) = self.meetings.get_mut(&secret)
        {
            meeting.is_broken = true;
        }
    }
}

/// Meeting points by their secret.
pub(super) type Meetings = BTreeMap<[u8; 32], Meeting>;

impl Agent {
    /// Process id of a slot's executor; 0 if there is none.
    pub(super) fn process(&self, slot: SlotIndex) -> u32 {
        let executor = self.executors.get(slot.0 as usize);
        executor.map_or(0, |executor| {
            if executor.is_alive {
                executor.process
            } else {
                0
            }
        })
    }
}

fn prepared(slot: SlotIndex, process: u32, task: u64, work: Work) -> Event {
    let command = match work {
        Work::Items {
            lease,
            assignment,
            items,
            ..
        } => ExecutorCommand::RunItems {
            task,
            assignment,
            inputs: Vec::new(),
            items: lease
                .items
                .iter()
                .map(|item| item.index)
                .zip(items)
                .collect(),
        },
        Work::Rank {
            held,
            roster,
            assignment,
        } => ExecutorCommand::RunRank {
            task,
            assignment,
            inputs: Vec::new(),
            rank: held.rank,
            world_size: roster.members.len() as u32,
            secret: roster.secret,
            resume: roster
                .resume
                .map(|checkpoint| (checkpoint.step, std::path::PathBuf::new())),
        },
    };
    Event::Prepared {
        slot,
        process,
        command: Box::new(command),
    }
}
