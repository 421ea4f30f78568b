//! A made-up worker: reconnects for ever, computes on while nobody answers, delivers afterwards.

use super::made_up::{compute, trained};
use super::{Plan, hello};
use evoring_protocol::transport::{Connector, Role};
use evoring_protocol::work::{
    Assignment, Checkpoint, HeldRank, ItemOutcome, Lease, Roster, TrainingProgress,
};
use evoring_protocol::worker::{Hello, RankEvent, WorkerCommand, WorkerReport};
use evoring_protocol::{Digest, Rank, Step, Term, WorkerId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

pub struct Agent {
    name: WorkerId,
    incarnation: u64,
    plan: Plan,
    done: UnboundedSender<Done>,
    finished: UnboundedReceiver<Done>,
    outbox: BTreeMap<u64, WorkerReport>,
    running: BTreeMap<(Term, u64), (Lease, JoinHandle<()>)>,
    ranks: BTreeMap<HeldRank, JoinHandle<()>>,
    sequence: u64,
}

enum Done {
    Item(Lease, ItemOutcome),
    Rank(HeldRank, RankEvent),
}

impl Agent {
    pub fn new(name: WorkerId, incarnation: u64, plan: Plan) -> Self {
        let (done, finished) = unbounded_channel();
        Self {
            name,
            incarnation,
            plan,
            done,
            finished,
            outbox: BTreeMap::new(),
            running: BTreeMap::new(),
            ranks: BTreeMap::new(),
            sequence: 0,
        }
    }

    pub async fn run(mut self, connector: Connector, addresses: Vec<SocketAddr>) {
        for address in addresses.into_iter().cycle() {
            let limit = Duration::from_millis(500);
            let connected = connector.connect_within(limit, address, Role::Coordinator);
            let Ok(connection) = connected.await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let Ok((sender, receiver)) = connection.open().await else {
                continue;
            };
            let (out, _writer) = sender.into_queue::<WorkerReport>(1024);
            let mut commands = receiver.into_queue::<WorkerCommand>(64);
            let _ = out.send(WorkerReport::Hello(self.hello())).await;
            let mut beat = tokio::time::interval(Duration::from_millis(200));
            loop {
                let reports = tokio::select! {
                    command = commands.recv() => match command {
                        // Another one of the list leads.
                        Some(Ok(WorkerCommand::NotLeader { .. })) => break,
                        Some(Ok(command)) => self.command(command),
                        Some(Err(_)) | None => break,
                    },
                    Some(ended) = self.finished.recv() => vec![self.ended(ended)],
                    _ = beat.tick() => vec![WorkerReport::Heartbeat {
                        executors: vec![2000 + self.incarnation as u32],
                    }],
                };
                for report in reports {
                    let _ = out.send(report).await;
                }
            }
        }
    }

    fn hello(&self) -> Hello {
        let delivered = self.outbox.values().filter_map(|report| match report {
            WorkerReport::Results { lease, .. } => Some(lease.clone()),
            _ => None,
        });
        let ended = self.outbox.values().filter_map(|report| match report {
            WorkerReport::Rank {
                held,
                event: RankEvent::Finished { .. },
                ..
            } => Some(held.clone()),
            _ => None,
        });
        let running = self.running.values().map(|(lease, _)| lease.clone());
        Hello {
            incarnation: self.incarnation,
            process: 1000 + self.incarnation as u32,
            leases: running.chain(delivered).collect(),
            ranks: self.ranks.keys().cloned().chain(ended).collect(),
            ..hello(self.name.as_str())
        }
    }

    /// What is said at once.
    fn command(&mut self, command: WorkerCommand) -> Vec<WorkerReport> {
        match command {
            WorkerCommand::NotLeader { .. } => {}
            WorkerCommand::Welcome {
                leases_to_keep,
                ranks_to_keep,
                ..
            } => {
                self.running.retain(|key, (_, task)| {
                    let is_kept = leases_to_keep.contains(key);
                    if !is_kept {
                        task.abort();
                    }
                    is_kept
                });
                self.ranks.retain(|held, task| {
                    let is_kept = ranks_to_keep.contains(held);
                    if !is_kept {
                        task.abort();
                    }
                    is_kept
                });
                return self.outbox.values().cloned().collect();
            }
            WorkerCommand::Grant {
                lease,
                assignment,
                items,
            } => self.grant(lease, assignment, items),
            WorkerCommand::StopLease { term, number } => {
                if let Some((_, task)) = self.running.remove(&(term, number)) {
                    task.abort();
                }
            }
            WorkerCommand::StartRank {
                held,
                assignment,
                roster,
            } => return vec![self.start(held, assignment, roster)],
            WorkerCommand::StopRank { held } => {
                if let Some(task) = self.ranks.remove(&held) {
                    task.abort();
                }
            }
            WorkerCommand::Acknowledge { sequence } => {
                self.outbox.remove(&sequence);
            }
            WorkerCommand::Refuse(error) => panic!("{error}"),
        }
        Vec::new()
    }

    fn grant(&mut self, lease: Lease, assignment: Assignment, items: Vec<Vec<u8>>) {
        let (done, granted, plan) = (self.done.clone(), lease.clone(), self.plan);
        let task = tokio::spawn(async move {
            for (item, leased) in items.iter().zip(&granted.items) {
                tokio::time::sleep(plan.item).await;
                let outcome = ItemOutcome {
                    index: leased.index,
                    result: Ok(compute(assignment.kernel, &assignment.payload, item)),
                };
                let _ = done.send(Done::Item(granted.clone(), outcome));
            }
        });
        let key = (lease.term, lease.number);
        self.running.insert(key, (lease, task));
    }

    fn start(&mut self, held: HeldRank, assignment: Assignment, roster: Roster) -> WorkerReport {
        let (done, started, plan) = (self.done.clone(), held.clone(), self.plan);
        let task = tokio::spawn(async move {
            tokio::time::sleep(plan.training / 2).await;
            if started.rank == Rank(0) && roster.resume.is_none() {
                let checkpoint = Checkpoint {
                    step: Step(5),
                    digest: Digest::of(b"half"),
                };
                let event = RankEvent::Checkpointed(checkpoint);
                let _ = done.send(Done::Rank(started.clone(), event));
            }
            tokio::time::sleep(plan.training / 2).await;
            let result = trained(&assignment.payload);
            let _ = done.send(Done::Rank(started, RankEvent::Finished { result }));
        });
        self.ranks.insert(held.clone(), task);
        let progress = TrainingProgress {
            step: 0,
            steps: 10,
            loss: 1.0,
        };
        WorkerReport::Progress { held, progress }
    }

    fn ended(&mut self, ended: Done) -> WorkerReport {
        self.sequence += 1;
        let sequence = self.sequence;
        let report = match ended {
            Done::Item(lease, outcome) => {
                let last = lease.items.last().map(|item| item.index);
                if last == Some(outcome.index) {
                    self.running.remove(&(lease.term, lease.number));
                }
                WorkerReport::Results {
                    sequence,
                    lease,
                    outcomes: vec![outcome],
                }
            }
            Done::Rank(held, event) => {
                if matches!(event, RankEvent::Finished { .. }) {
                    self.ranks.remove(&held);
                }
                WorkerReport::Rank {
                    sequence,
                    held,
                    event,
                }
            }
        };
        self.outbox.insert(sequence, report.clone());
        report
    }
}
