//! One coordinator's process: the real cores, glued as the shell's threads glue them. Writes take
//! simulated time; nothing else waits for them.

use super::counters::Sometimes;
use super::invariants::{Checked, Violation, Watch};
use evoring_coordinator::consensus::{self, Consensus, Goal, NodeConfig, StopReason};
use evoring_coordinator::leader::{
    self, Answer, Denial, GroupReport, Leader, LeaderConfig, Secrets, Ticket,
};
use evoring_coordinator::scheduler::{ConnectionId, Now};
use evoring_coordinator::state::{Member, Outcome, State};
use evoring_coordinator::storage::{LogStore, LogWrite, SnapshotRecord, StorageError, WriteQueue};
use evoring_protocol::Digest;
use evoring_protocol::event::EventKind;
use evoring_protocol::peer::PeerHealth;
use evoring_protocol::version::build_id;
use evoring_protocol::worker::WorkerCommand;
use raft::eraftpb::{Message, MessageType};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A write that is not durable by then is what makes a leader hand over …
const SLOW_WRITE_MS: u64 = 1_000;
/// … unless somebody asked it to, so long ago at most.
const ASKED_MS: u64 = 3_000;

/// What one of the cores hears.
#[derive(Debug)]
pub(super) enum Input {
    Raft(consensus::Event),
    Lead(leader::Event),
}

/// The threads of a process that have a core each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thread {
    Consensus,
    Leader,
}

impl Thread {
    pub(super) const ALL: [Self; 2] = [Self::Consensus, Self::Leader];
}

/// What a process wants of the world.
#[derive(Debug)]
pub(super) enum Output {
    Send(Box<Message>),
    SendSnapshot(Box<Message>),
    Command(ConnectionId, WorkerCommand),
    Close(ConnectionId),
    Reply(Ticket, Result<Outcome, Denial>),
    Answer(Ticket, Result<Answer, Denial>),
    StoreBlob(Digest),
    Stop(StopReason),
}

/// What a process is started with.
#[derive(Debug, Clone)]
pub(super) struct Birth {
    pub host: usize,
    pub id: u64,
    pub boot: u64,
    pub seed: u64,
    pub name: String,
    pub address: String,
    /// Newest version of the records that its build reads.
    pub reads: u16,
    /// Entries between snapshots, and entries kept before one.
    pub snapshot_entries: u64,
    /// Its threads take their time, so that much comes together.
    pub is_slow: bool,
}

/// A store that takes no writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// For the moment.
    Full,
    /// In this process never again.
    ForGood,
    /// It is damaged.
    Corrupt,
}

/// The process.
pub(super) struct Process {
    pub birth: Birth,
    pub consensus: Consensus,
    pub leader: Leader,
    pub broken: Option<Broken>,
    store: Box<dyn LogStore>,
    /// The write on its way to the disk.
    writing: Option<(u64, LogWrite)>,
    waiting: WriteQueue,
    snapshot: Option<SnapshotRecord>,
    /// What the threads of both cores have yet to take.
    for_consensus: VecDeque<consensus::Event>,
    for_leader: VecDeque<leader::Event>,
    /// Whether a thread's turn is planned, for each of both.
    pub turn_planned: [bool; 2],
    /// Connections of agents.
    pub links: BTreeSet<ConnectionId>,
    /// Clients whose requests wait: who, and which of theirs.
    pub tickets: BTreeMap<Ticket, (usize, u64)>,
    pub last_ticket: u64,
    pub started_us: u64,
    /// Monotonic time at which a tick of the leader is scheduled.
    pub tick_at_ms: u64,
    /// Writes of consensus that are not durable, and since when, in milliseconds of its clock.
    handed_out: VecDeque<(u64, u64)>,
    /// When it was asked to hand over last.
    asked_ms: Option<u64>,
}

impl Process {
    /// Takes up what the store holds, as the shell does.
    pub(super) fn start(
        birth: Birth,
        store: Box<dyn LogStore>,
        now_us: u64,
        watch: &mut Watch,
    ) -> Result<Self, Violation> {
        let fails = |what: String| Violation::new("start", what);
        let stored = store.load().map_err(|error| match error {
            StorageError::Corrupt { .. } => Violation::new("corrupt", error.to_string()),
            _ => fails(error.to_string()),
        })?;
        let snapshot = stored.snapshot.clone();
        let mut state = match &snapshot {
            None => State::default(),
            Some(snapshot) => {
                let state = State::decode(&snapshot.data);
                let mut state = state.map_err(|error| fails(error.to_string()))?;
                state.begin_after(snapshot.index);
                state
            }
        };
        state.hold_version(birth.reads);
        watch.started(&birth, &stored, &state)?;
        let config = NodeConfig {
            id: birth.id,
            boot: birth.boot,
            seed: birth.seed,
        };
        let consensus = Consensus::new(config, stored).map_err(|error| fails(error.to_string()))?;
        let has_members = snapshot.is_some();
        let mut leader = Leader::new(leader_config(&birth), state, secrets(&birth));
        leader.snapshot_every(birth.snapshot_entries);
        let mut process = Self {
            birth,
            consensus,
            leader,
            broken: None,
            store,
            writing: None,
            waiting: WriteQueue::default(),
            snapshot,
            for_consensus: VecDeque::new(),
            for_leader: VecDeque::new(),
            turn_planned: [false; 2],
            links: BTreeSet::new(),
            tickets: BTreeMap::new(),
            last_ticket: 0,
            started_us: now_us,
            tick_at_ms: 0,
            handed_out: VecDeque::new(),
            asked_ms: None,
        };
        process
            .consensus
            .keep_entries(process.birth.snapshot_entries);
        if has_members {
            let goals = goals(process.leader.state().members());
            process
                .for_consensus
                .push_back(consensus::Event::Members(goals));
        }
        Ok(process)
    }

    /// Feeds one event, and all that follows from it at once, unless threads take their time.
    pub(super) fn feed(
        &mut self,
        input: Input,
        now: Now,
        watch: &mut Watch,
        out: &mut Vec<Output>,
    ) -> Checked {
        if matches!(input, Input::Raft(consensus::Event::HandOver)) {
            self.asked_ms = Some(now.mono_ms);
        }
        match input {
            Input::Raft(event) => self.for_consensus.push_back(event),
            Input::Lead(event) => self.for_leader.push_back(event),
        }
        if self.birth.is_slow {
            return Ok(());
        }
        while !self.for_consensus.is_empty() || !self.for_leader.is_empty() {
            self.turn(Thread::Consensus, now, watch, out)?;
            self.turn(Thread::Leader, now, watch, out)?;
        }
        Ok(())
    }

    /// Whether a thread has something to do.
    pub(super) fn has_work(&self, thread: Thread) -> bool {
        match thread {
            Thread::Consensus => !self.for_consensus.is_empty(),
            Thread::Leader => !self.for_leader.is_empty(),
        }
    }

    /// A thread takes what waits for it, as it does in the shell.
    pub(super) fn turn(
        &mut self,
        thread: Thread,
        now: Now,
        watch: &mut Watch,
        out: &mut Vec<Output>,
    ) -> Checked {
        match thread {
            Thread::Consensus => {
                let events = std::mem::take(&mut self.for_consensus);
                if events.len() > 1 {
                    watch.counters.hit(Sometimes::EventsTogether);
                }
                for action in self.consensus.handle_all(events) {
                    self.of_consensus(action, now, watch, out)?;
                }
                watch.after_consensus(&self.birth, &self.consensus)
            }
            Thread::Leader => {
                let events = std::mem::take(&mut self.for_leader);
                let mut applies = false;
                for event in &events {
                    applies |= watch.before_leader(&self.birth, self.consensus.term(), event)?;
                }
                let actions = self.leader.handle_all(events, now);
                let actions =
                    actions.map_err(|error| Violation::new("apply", error.to_string()))?;
                if applies {
                    watch.after_apply(&self.birth, self.leader.state())?;
                }
                for action in actions {
                    self.of_leader(action, watch, out)?;
                }
                Ok(())
            }
        }
    }

    fn of_consensus(
        &mut self,
        action: consensus::Action,
        now: Now,
        watch: &mut Watch,
        out: &mut Vec<Output>,
    ) -> Checked {
        use consensus::Action;
        let event = match action {
            Action::Persist { token, write } => {
                self.handed_out.push_back((token, now.mono_ms));
                self.waiting.push(token, write);
                return Ok(());
            }
            Action::Send(message) => {
                watch.sends(&self.birth, &message)?;
                if message.msg_type() == MessageType::MsgTimeoutNow && self.gives_way(now) {
                    watch.counters.hit(Sometimes::SlowDiskGaveWay);
                }
                out.push(Output::Send(message));
                return Ok(());
            }
            Action::SendSnapshot(message) => {
                out.push(Output::SendSnapshot(message));
                return Ok(());
            }
            Action::Rejected(rejection) => return watch.rejected(&self.birth, &rejection),
            Action::Stop(reason) => {
                out.push(Output::Stop(reason));
                return Ok(());
            }
            Action::Membership(membership) => {
                return watch.membership(&self.birth, &self.consensus, &membership);
            }
            Action::Apply(entries) => leader::Event::Committed(entries),
            Action::Install { index, term, data } => leader::Event::Installed { index, term, data },
            Action::WantSnapshot { index } => {
                watch.counters.hit(Sometimes::SnapshotWanted);
                leader::Event::SnapshotWanted { index }
            }
            Action::ReadReady { token, index } => leader::Event::ReadReady { token, index },
            Action::ReadFailed { token } => leader::Event::ReadFailed { token },
            Action::Leader(id) => leader::Event::Leader(id),
            Action::Elected { term } => {
                watch.elected(&self.birth, &self.consensus)?;
                leader::Event::Elected { term }
            }
            Action::SteppedDown => leader::Event::SteppedDown,
            Action::Refused { token, reason } => leader::Event::Refused { token, reason },
        };
        self.for_leader.push_back(event);
        Ok(())
    }

    fn of_leader(
        &mut self,
        action: leader::Action,
        watch: &mut Watch,
        out: &mut Vec<Output>,
    ) -> Checked {
        use leader::Action;
        let event = match action {
            Action::Propose { token, data } => consensus::Event::Propose { token, data },
            Action::Applied(index) => consensus::Event::Applied { index },
            Action::Snapshot { index, data } => {
                watch.snapshot(&self.birth, index, &data)?;
                consensus::Event::Snapshot { index, data }
            }
            Action::Read { token } => consensus::Event::Read { token },
            Action::Members(members) => consensus::Event::Members(goals(&members)),
            Action::HandOver { to } => {
                watch.counters.hit(Sometimes::GaveWay);
                consensus::Event::HandOverTo { id: to }
            }
            Action::Send {
                connection,
                command,
            } => {
                watch.commands(&self.birth, &command, self.leader.state())?;
                out.push(Output::Command(connection, command));
                return Ok(());
            }
            Action::Close { connection, .. } => {
                out.push(Output::Close(connection));
                return Ok(());
            }
            Action::Reply { ticket, outcome } => {
                out.push(Output::Reply(ticket, outcome));
                return Ok(());
            }
            Action::Answer { ticket, answer } => {
                out.push(Output::Answer(ticket, answer));
                return Ok(());
            }
            Action::StoreBlob { digest, .. } => {
                out.push(Output::StoreBlob(digest));
                return Ok(());
            }
            Action::Event { kind, .. } => {
                if matches!(kind, EventKind::LeaseGranted { is_copy: true, .. }) {
                    watch.counters.hit(Sometimes::CopyGranted);
                }
                return Ok(());
            }
            Action::Log { .. } => return Ok(()),
        };
        self.for_consensus.push_back(event);
        Ok(())
    }

    /// Whether it hands over because of its disk: nobody asked for it, and a write takes very long.
    fn gives_way(&self, now: Now) -> bool {
        let since = |ms: u64| now.mono_ms.saturating_sub(ms);
        let was_asked = self.asked_ms.is_some_and(|ms| since(ms) < ASKED_MS);
        let oldest = self.handed_out.front();
        !was_asked
            && self.broken.is_none()
            && oldest.is_some_and(|(_, ms)| since(*ms) > SLOW_WRITE_MS)
    }

    /// Begins the next write, if one waits and the disk is free.
    pub(super) fn begin_write(&mut self) -> bool {
        if self.writing.is_some() || self.broken.is_some() {
            return false;
        }
        self.waiting.join();
        self.writing = self.waiting.pop();
        self.writing.is_some()
    }

    /// The disk takes the write; gives what the cores hear of it.
    pub(super) fn end_write(&mut self, watch: &mut Watch) -> Result<Option<Input>, Violation> {
        let Some((token, write)) = self.writing.take() else {
            return Ok(None);
        };
        match self.store.write(&write) {
            Ok(()) => {
                watch.durable(&self.birth, &write)?;
                while self
                    .handed_out
                    .front()
                    .is_some_and(|(first, _)| *first <= token)
                {
                    self.handed_out.pop_front();
                }
                if let Some(snapshot) = write.snapshot {
                    self.snapshot = Some(snapshot);
                }
                Ok(Some(Input::Raft(consensus::Event::Persisted { token })))
            }
            Err(error) => {
                self.writing = Some((token, write));
                self.fail(&error).map(Some)
            }
        }
    }

    fn fail(&mut self, error: &StorageError) -> Result<Input, Violation> {
        self.broken = Some(match error {
            StorageError::NotContiguous { .. } | StorageError::Misused(_) => {
                return Err(Violation::new("store", error.to_string()));
            }
            StorageError::Corrupt { .. } => Broken::Corrupt,
            _ if error.can_retry() => Broken::Full,
            _ => Broken::ForGood,
        });
        let event = leader::Event::Store(Err(error.to_string()));
        Ok(Input::Lead(event))
    }

    /// Tries a full disk again; gives what the cores hear, in order.
    pub(super) fn retry(&mut self, watch: &mut Watch) -> Result<Vec<Input>, Violation> {
        if self.broken != Some(Broken::Full) {
            return Ok(Vec::new());
        }
        if let Err(error) = self.store.reopen() {
            return Ok(vec![self.fail(&error)?]);
        }
        self.broken = None;
        let mut inputs: Vec<Input> = self.end_write(watch)?.into_iter().collect();
        if self.broken.is_none() {
            inputs.push(Input::Lead(leader::Event::Store(Ok(()))));
        }
        Ok(inputs)
    }

    /// Ends the process; gives the write that was on its way, and the store.
    pub(super) fn end(self) -> (Option<LogWrite>, Box<dyn LogStore>) {
        let is_under_way = self.broken.is_none();
        let writing = self.writing.filter(|_| is_under_way);
        (writing.map(|(_, write)| write), self.store)
    }

    /// The newest stored snapshot.
    pub(super) fn snapshot(&self) -> Option<&SnapshotRecord> {
        self.snapshot.as_ref()
    }

    /// Whether a write is on its way to the disk.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some() && self.broken.is_none()
    }

    /// Writes that wait.
    pub(super) fn waiting_writes(&self) -> usize {
        self.waiting.len()
    }

    /// How the group stands, for its leader core.
    pub(super) fn report(&self) -> leader::Event {
        leader::Event::Group(Box::new(GroupReport {
            term: self.consensus.term(),
            commit: self.consensus.committed(),
            last: self.consensus.last_index(),
            membership: self.consensus.membership().clone(),
            applied: self.consensus.applied_membership().clone(),
            progress: self.consensus.progress(),
        }))
    }

    pub(super) fn health(&self) -> PeerHealth {
        PeerHealth {
            build: build_id(),
            version: self.leader.state().reads(),
            process: self.birth.boot as u32,
            applied: self.leader.state().applied(),
            log_bytes: 0,
            free_bytes: None,
            trouble: self.leader.read_only().map(str::to_owned),
        }
    }
}

fn goals(members: &BTreeMap<u64, Member>) -> BTreeMap<u64, Goal> {
    let goal = |(&id, member): (&u64, &Member)| {
        let may_vote = member.has_joined;
        (id, Goal { may_vote })
    };
    members.iter().map(goal).collect()
}

fn leader_config(birth: &Birth) -> LeaderConfig {
    LeaderConfig {
        process: birth.boot as u32,
        blobs: "file:///blobs".to_owned(),
        id: birth.id,
        name: birth.name.clone(),
        address: birth.address.clone(),
        is_advertised: true,
    }
}

fn secrets(birth: &Birth) -> Secrets {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&birth.boot.to_le_bytes());
    seed[8..16].copy_from_slice(&birth.seed.to_le_bytes());
    Secrets::new(seed)
}
