//! The world: everything that exists, what will happen to it and when.
//!
//! Time is in microseconds since the beginning. Events of one moment happen in the order in which
//! they were made, and all chance comes from one [`Dice`], so that a seed decides everything.

use super::Setup;
use super::agents::{Agent, AgentEvent, Meetings};
use super::clients::{Client, KnownJob, Request, Response};
use super::dice::Dice;
use super::faults::{Fault, Faults};
use super::hosts::{Host, Store};
use super::invariants::{Checked, Violation, Watch};
use super::links::Link;
use super::network::{Network, Place};
use super::peers::PeerNote;
use super::plan::Plan;
use super::process::{Output, Thread};
use super::rogue::Rogue;
use evoring_coordinator::scheduler::ConnectionId;
use evoring_protocol::Digest;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A millisecond and a second.
pub(super) const MS: u64 = 1_000;
pub(super) const SECOND: u64 = 1_000 * MS;

/// What will happen.
#[derive(Debug)]
pub(super) enum Happening {
    /// Of a coordinator's process of this boot.
    Process(usize, u64, OfProcess),
    /// A coordinator's machine starts its process.
    Start(usize),
    /// A machine goes on after it stood still.
    Resume(usize),
    /// Something arrives from another coordinator.
    Peer(usize, PeerNote),
    /// A client's request arrives.
    Request(usize, usize, u64, Request),
    /// An answer arrives at a client.
    Response(usize, u64, Response),
    /// A client's patience with a request is over.
    Impatience(usize, u64),
    /// A client does something.
    ClientWakes(usize),
    /// The head of a connection's queue arrives: at the coordinator if true.
    Link(ConnectionId, bool),
    /// Of an agent's process of this incarnation.
    Agent(usize, u64, AgentEvent),
    /// An agent's process starts.
    AgentStart(usize),
    /// The machine of an agent of this incarnation goes on after it stood still.
    AgentResume(usize, u64),
    /// A fault begins or ends.
    Fault(Fault),
    /// Nothing fails from now on.
    Calm,
}

/// What happens to a process while it lives.
#[derive(Debug)]
pub(super) enum OfProcess {
    RaftTick,
    /// At this time of its clock.
    LeaderTick(u64),
    WriteEnds,
    Turn(Thread),
    RetryStore,
    TellHealth,
    BlobStored(Digest),
    SnapshotSent(u64, bool),
    Unreachable(u64),
    Disconnected(ConnectionId),
}

struct Due {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Everything.
pub(super) struct World {
    pub now: u64,
    pub plan: Plan,
    pub dice: Dice,
    pub network: Network,
    pub hosts: Vec<Host>,
    pub agents: Vec<Agent>,
    pub clients: Vec<Client>,
    pub links: BTreeMap<ConnectionId, Link>,
    /// The agent that somebody broke into.
    pub rogue: Option<Rogue>,
    pub faults: Faults,
    pub watch: Watch,
    /// Where gangs meet.
    pub meetings: Meetings,
    /// Jobs that clients were told of, the number of keys and of labels used.
    pub known_jobs: Vec<KnownJob>,
    pub submitted: u64,
    pub labels: u64,
    /// Until when clients hurry.
    pub hurry_until: u64,
    /// Whether everything is printed.
    pub is_told: bool,
    pub(super) last_connection: u64,
    pub(super) last_boot: u64,
    pub(super) outputs: Vec<Output>,
    heap: BinaryHeap<Reverse<Due>>,
    order: u64,
}

impl World {
    pub(super) fn new(seed: u64, setup: Setup) -> Result<Self, Violation> {
        let mut dice = Dice::new(seed);
        let plan = Plan::draw(seed, setup, &mut dice);
        let first = super::plan::first_state(&plan)?;
        let mut world = Self {
            now: 0,
            dice,
            network: Network::new(),
            hosts: Vec::new(),
            agents: Vec::new(),
            clients: Vec::new(),
            links: BTreeMap::new(),
            rogue: plan.rogue.then(|| Rogue::new(seed)),
            faults: Faults::default(),
            meetings: Meetings::new(),
            known_jobs: Vec::new(),
            submitted: 0,
            labels: 0,
            hurry_until: 0,
            is_told: setup.is_told,
            watch: Watch::new(first.clone(), plan.rogue),
            last_connection: 0,
            last_boot: 0,
            outputs: Vec::new(),
            heap: BinaryHeap::new(),
            order: 0,
            plan,
        };
        world.make_hosts(&first)?;
        world.make_agents();
        world.make_clients();
        world.make_faults();
        Ok(world)
    }

    /// Makes something happen after a time.
    pub(super) fn after(&mut self, delay: u64, what: Happening) {
        self.order += 1;
        let (at, order) = (self.now + delay, self.order);
        self.heap.push(Reverse(Due { at, order, what }));
    }

    pub(super) fn after_of(&mut self, delay: u64, host: usize, boot: u64, what: OfProcess) {
        self.after(delay, Happening::Process(host, boot, what));
    }

    /// Lets everything happen until the end, then looks at what must have happened by then.
    pub(super) fn run(&mut self) -> Checked {
        while let Some(Reverse(due)) = self.heap.pop() {
            if due.at > self.plan.end_us {
                break;
            }
            self.now = due.at;
            self.happen(due.what)?;
        }
        self.now = self.plan.end_us;
        super::invariants::at_end(self)
    }

    /// One thing happens.
    pub(super) fn happen(&mut self, what: Happening) -> Checked {
        let what = match self.held_back(what) {
            Some(what) => what,
            None => return Ok(()),
        };
        self.watch.trace.note([self.now, kind(&what), self.order]);
        if self.is_told {
            self.tell(&what);
        }
        match what {
            Happening::Process(host, boot, what) => self.of_process(host, boot, what)?,
            Happening::Start(host) => self.start_host(host)?,
            Happening::Resume(host) => self.resume(host)?,
            Happening::Peer(host, note) => self.peer_note(host, note)?,
            Happening::Request(host, client, number, request) => {
                self.request_arrives(host, client, number, request)?;
            }
            Happening::Response(client, number, response) => {
                self.response_arrives(client, number, response)?;
            }
            Happening::Impatience(client, number) => self.impatient(client, number),
            Happening::ClientWakes(client) => self.client_wakes(client),
            Happening::Link(connection, is_up) => self.link_moves(connection, is_up)?,
            Happening::Agent(agent, incarnation, event) => {
                self.agent_event(agent, incarnation, event)?;
            }
            Happening::AgentStart(agent) => self.start_agent(agent)?,
            Happening::AgentResume(agent, incarnation) => self.resume_agent(agent, incarnation)?,
            Happening::Fault(fault) => self.fault(fault)?,
            Happening::Calm => self.calm_down(),
        }
        self.watch.news()
    }

    /// Prints what happens, for people who look for a cause.
    fn tell(&self, what: &Happening) {
        let is_tick = matches!(
            what,
            Happening::Process(_, _, OfProcess::RaftTick | OfProcess::LeaderTick(_))
                | Happening::Agent(_, _, AgentEvent::Tick)
        );
        if !is_tick {
            let text: String = format!("{what:?}").chars().take(400).collect();
            eprintln!("{:>12.6} {text}", self.now as f64 / SECOND as f64);
        }
    }

    /// The machine that has an address.
    pub(super) fn host_at(&self, address: &str) -> Option<usize> {
        self.hosts.iter().position(|host| host.address == address)
    }

    /// The machine whose process or disk has an id of the group.
    pub(super) fn host_of(&self, id: u64) -> Option<usize> {
        self.hosts.iter().position(|host| host.id == Some(id))
    }

    pub(super) fn place_of(&self, host: usize) -> Place {
        Place::host(host)
    }

    /// Whether any host uses redb.
    pub(super) fn uses_redb(&self) -> bool {
        self.plan.store == Store::Redb
    }
}

fn kind(what: &Happening) -> u64 {
    let (kind, who) = match what {
        Happening::Process(host, _, OfProcess::RaftTick) => (1, *host),
        Happening::Process(host, ..) => (2, *host),
        Happening::Start(host) => (3, *host),
        Happening::Resume(host) => (4, *host),
        Happening::Peer(host, _) => (5, *host),
        Happening::Request(host, ..) => (6, *host),
        Happening::Response(client, ..) => (7, *client),
        Happening::Impatience(client, _) => (8, *client),
        Happening::ClientWakes(client) => (9, *client),
        Happening::Link(..) => (10, 0),
        Happening::Agent(agent, ..) => (11, *agent),
        Happening::AgentStart(agent) => (12, *agent),
        Happening::Fault(_) => (13, 0),
        Happening::Calm => (14, 0),
        Happening::AgentResume(agent, _) => (15, *agent),
    };
    kind << 32 | who as u64
}
