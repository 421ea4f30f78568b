//! Connections of agents to coordinators: in order, nothing lost while they stand. A path that is
//! cut holds back what is sent, and breaks the connection after a while.

use super::agents::{AgentEvent, Down};
use super::counters::Sometimes;
use super::invariants::Checked;
use super::network::Place;
use super::process::Input;
use super::world::{Happening, MS, OfProcess, SECOND, World};
use evoring_coordinator::leader;
use evoring_coordinator::scheduler::ConnectionId;
use evoring_protocol::worker::WorkerReport;
use std::collections::VecDeque;

/// What is held back is tried again after this.
const RETRY_US: u64 = 200 * MS;
/// A connection on which nothing gets through is lost after this.
const IDLE_US: u64 = 3 * SECOND;

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    pub agent: usize,
    pub incarnation: u64,
    pub host: usize,
    pub boot: u64,
    up: VecDeque<WorkerReport>,
    down: VecDeque<Down>,
    /// When the last message in each direction arrives.
    up_due: u64,
    down_due: u64,
    stalled_since: Option<u64>,
}

impl Link {
    fn path(&self, is_up: bool) -> (Place, Place) {
        let (agent, host) = (Place::agent(self.agent), Place::host(self.host));
        if is_up { (agent, host) } else { (host, agent) }
    }
}

impl World {
    /// An agent's attempt to connect arrives; gives the connection if it stands.
    pub(super) fn dial(
        &mut self,
        agent: usize,
        incarnation: u64,
        host: usize,
    ) -> Option<ConnectionId> {
        let (there, back) = (Place::agent(agent), Place::host(host));
        if self.network.is_cut(there, back) || self.network.is_cut(back, there) {
            return None;
        }
        let target = self.hosts.get_mut(host)?;
        if target.backlog.is_some() {
            return None;
        }
        let process = target.process.as_mut()?;
        self.last_connection += 1;
        let connection = ConnectionId(self.last_connection);
        process.links.insert(connection);
        let link = Link {
            agent,
            incarnation,
            host,
            boot: process.birth.boot,
            up: VecDeque::new(),
            down: VecDeque::new(),
            up_due: 0,
            down_due: 0,
            stalled_since: None,
        };
        self.links.insert(connection, link);
        Some(connection)
    }

    /// An agent says something.
    pub(super) fn report(
        &mut self,
        agent: usize,
        connection: ConnectionId,
        mut report: WorkerReport,
    ) {
        self.rogue_hears(agent, &mut report);
        self.link_up(connection, report);
    }

    pub(super) fn link_up(&mut self, connection: ConnectionId, report: WorkerReport) {
        let delay = self.network.delay(&mut self.dice);
        let now = self.now;
        if let Some(link) = self.links.get_mut(&connection) {
            link.up.push_back(report);
            link.up_due = link.up_due.max(now + delay);
            let wait = link.up_due - now;
            self.after(wait, Happening::Link(connection, true));
        }
    }

    pub(super) fn link_down(&mut self, connection: ConnectionId, down: Down) {
        let delay = self.network.delay(&mut self.dice);
        let now = self.now;
        if let Some(link) = self.links.get_mut(&connection) {
            link.down.push_back(down);
            link.down_due = link.down_due.max(now + delay);
            let wait = link.down_due - now;
            self.after(wait, Happening::Link(connection, false));
        }
    }

    pub(super) fn link_moves(&mut self, connection: ConnectionId, is_up: bool) -> Checked {
        let now = self.now;
        let Some(link) = self.links.get_mut(&connection) else {
            return Ok(());
        };
        let (from, to) = link.path(is_up);
        if self.network.is_cut(from, to) {
            let since = *link.stalled_since.get_or_insert(now);
            if now - since > IDLE_US {
                self.break_link(connection);
            } else {
                self.after(RETRY_US, Happening::Link(connection, is_up));
            }
            return Ok(());
        }
        link.stalled_since = None;
        if is_up {
            let (host, boot) = (link.host, link.boot);
            match link.up.pop_front() {
                Some(report) => self.report_arrives(host, boot, connection, report),
                None => Ok(()),
            }
        } else {
            let (agent, incarnation) = (link.agent, link.incarnation);
            match link.down.pop_front() {
                Some(Down::Close) => {
                    self.links.remove(&connection);
                    self.agent_event(agent, incarnation, AgentEvent::Disconnected(connection))
                }
                Some(Down::Command(command)) => {
                    let event = AgentEvent::Commanded(connection, command);
                    self.agent_event(agent, incarnation, event)
                }
                None => Ok(()),
            }
        }
    }

    fn report_arrives(
        &mut self,
        host: usize,
        boot: u64,
        connection: ConnectionId,
        report: WorkerReport,
    ) -> Checked {
        if self.hosts[host].boot() != boot {
            return Ok(());
        }
        let event = match report {
            WorkerReport::Hello(hello) => leader::Event::Hello { connection, hello },
            report => leader::Event::Report { connection, report },
        };
        self.feed(host, Input::Lead(event))
    }

    /// A connection is lost; both ends notice it some time.
    pub(super) fn break_link(&mut self, connection: ConnectionId) {
        let Some(link) = self.links.remove(&connection) else {
            return;
        };
        self.watch.counters.hit(Sometimes::ConnectionBroken);
        let wait = self.dice.below(SECOND);
        self.after_of(
            wait,
            link.host,
            link.boot,
            OfProcess::Disconnected(connection),
        );
        let wait = self.dice.below(SECOND);
        let event = AgentEvent::Disconnected(connection);
        self.after(wait, Happening::Agent(link.agent, link.incarnation, event));
    }

    /// The coordinator's end is gone; the agent notices it by the silence.
    pub(super) fn host_gone(&mut self, connection: ConnectionId) {
        if let Some(link) = self.links.remove(&connection) {
            let wait = self.dice.between(SECOND, IDLE_US);
            let event = AgentEvent::Disconnected(connection);
            self.after(wait, Happening::Agent(link.agent, link.incarnation, event));
        }
    }

    /// The agent's end is gone.
    pub(super) fn agent_gone(&mut self, connection: ConnectionId) {
        if let Some(link) = self.links.remove(&connection) {
            let wait = self.dice.between(SECOND, IDLE_US);
            self.after_of(
                wait,
                link.host,
                link.boot,
                OfProcess::Disconnected(connection),
            );
        }
    }
}
