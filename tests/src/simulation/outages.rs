//! Times without any coordinator: all processes end or stand still at once, and come back minutes
//! later. Workers die meanwhile, and nobody sees it.

use super::clients::Request;
use super::counters::Sometimes;
use super::faults::Fault;
use super::world::{Happening, SECOND, World};
use evoring_coordinator::scheduler::ConnectionId;

/// How long all are away.
const AWAY_US: (u64, u64) = (60 * SECOND, 180 * SECOND);
/// … and within which part of a run, in percent, that begins.
const AWAY_PERCENT: (u64, u64) = (10, 70);
/// They do not come back at the very same moment.
const APART_US: u64 = 2 * SECOND;
/// Chance, in millionths, that a worker dies meanwhile.
const WORKER_DIES: u64 = 400_000;
/// How long before the calm part the last job is submitted.
const LATE_US: (u64, u64) = (2 * SECOND, 20 * SECOND);

/// In the calm part, workers may be lost for so long …
const LAST_US: u64 = 45 * SECOND;
/// … so many times by their connection.
const LAST_CONNECTIONS: usize = 6;

impl World {
    /// Plans what only seeds with much work meet.
    pub(super) fn make_outages(&mut self) {
        let percent = self.dice.between(AWAY_PERCENT.0, AWAY_PERCENT.1);
        let away_us = self.plan.end_us / 100 * percent;
        self.after(away_us, Happening::Fault(Fault::AllAway));
        let before_us = self.dice.between(LATE_US.0, LATE_US.1);
        let late_us = self.plan.calm_us.saturating_sub(before_us);
        self.after(late_us, Happening::Fault(Fault::LateJob));
        self.make_last_losses();
    }

    /// While the last job runs, workers are lost and no coordinator is: a new leader would look at
    /// everything anew, and so mend what this one forgets.
    fn make_last_losses(&mut self) {
        let agent = self.dice.below(self.agents.len() as u64) as usize;
        let losses = std::iter::repeat_n(Fault::LosesConnection, LAST_CONNECTIONS);
        for fault in losses.chain([Fault::AgentDies(agent)]) {
            let wait = self.plan.calm_us + self.dice.below(LAST_US);
            self.after(wait, Happening::Fault(fault));
        }
    }

    /// One of these comes.
    pub(super) fn outage(&mut self, fault: &Fault) {
        match fault {
            Fault::AllAway => self.all_away(),
            Fault::AgentDies(agent) => self.agent_dies(*agent),
            Fault::LateJob => self.late_job(),
            Fault::LosesConnection => self.loses_connection(),
            _ => {}
        }
    }

    /// All coordinators are away for a while, at most until the calm part.
    fn all_away(&mut self) {
        let left_us = self.plan.calm_us.saturating_sub(self.now);
        let length = self.dice.between(AWAY_US.0, AWAY_US.1).min(left_us);
        match self.dice.chance(500_000) {
            true => self.all_end(length),
            false => self.all_stand_still(length),
        }
        for agent in 0..self.agents.len() {
            if self.dice.chance(WORKER_DIES) {
                let wait = self.dice.below(length);
                self.after(wait, Happening::Fault(Fault::AgentDies(agent)));
            }
        }
    }

    fn all_end(&mut self, length: u64) {
        self.strikes(Sometimes::AllEnded);
        self.faults.away_until = self.now + length;
        for host in 0..self.hosts.len() {
            self.hosts[host].backlog = None;
            self.end_process(host, None);
            let wait = length + self.dice.below(APART_US);
            self.after(wait, Happening::Start(host));
        }
    }

    fn all_stand_still(&mut self, length: u64) {
        self.strikes(Sometimes::AllPaused);
        for host in 0..self.hosts.len() {
            let wait = length + self.dice.below(APART_US);
            self.pause_for(host, wait);
        }
        // What says nothing for so long is given up by the others.
        let links: Vec<ConnectionId> = self.links.keys().copied().collect();
        for connection in links {
            self.host_gone(connection);
        }
    }

    /// A worker's process dies, if it lives.
    pub(super) fn agent_dies(&mut self, agent: usize) {
        if self.agents[agent].core.is_some() {
            self.strikes(Sometimes::AgentKilled);
            self.kill_agent(agent);
        }
    }

    /// Somebody submits a job whose work falls into the calm part.
    fn late_job(&mut self) {
        self.watch.counters.hit(Sometimes::LateJob);
        let key = self.submitted;
        self.submitted += 1;
        if let Some(client) = self.clients.first_mut() {
            client.tasks.push_back(Request::Submit { key });
        }
    }
}
