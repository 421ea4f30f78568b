//! A group of coordinators: who leads, what happened in all of them together, and what can be done to
//! the one that leads.

use crate::cluster::{Cluster, kill, wait_for};
use crate::evidence::{in_office, is_end, is_work, lost_office_at_work, merged};
use crate::network::Cut;
use evoring_protocol::event::{Event, EventKind};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The coordinator that led at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its name.
    pub name: String,
    /// Its process.
    pub process: i32,
}

/// What is done to the coordinator that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// SIGKILL; it is started again at once.
    Kill,
    /// SIGKILL, and to all others too.
    KillAll,
    /// SIGKILL, and to as many others as the group can spare; they are started again once another has
    /// taken office and recorded something.
    KillMinority,
    /// SIGSTOP, and SIGCONT some time after another has taken office.
    Stop,
    /// Its namespace is cut off until another has taken office and recorded something.
    Cut(Cut),
}

/// How coordinators are away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// SIGKILL, and started again afterwards.
    Killed,
    /// SIGSTOP and SIGCONT.
    Stopped,
}

impl Away {
    fn signal(self) -> Signal {
        match self {
            Self::Killed => Signal::KILL,
            Self::Stopped => Signal::STOP,
        }
    }
}

/// A leader that is stopped stays so for this long after another has taken office.
const STOPPED: Duration = Duration::from_secs(2);
/// A coordinator that was heard within this time lives.
const HEARD_MS: u64 = 2_000;
/// Entries that a follower of a busy leader may lack at any moment.
const CLOSE: u64 = 50;
/// Most strikes until one hits a leader while work is held.
const STRIKES: usize = 4;

impl Cluster {
    /// `evoring cluster status --json`, told by the leader.
    pub fn status(&self) -> Option<Value> {
        let view = self.json(&["cluster", "status"])?;
        let leader = named(&view, view["leader"].as_u64()?)?;
        (*leader == view["answered_by"]).then_some(view)
    }

    /// Waits for a leader.
    pub fn leader(&self) -> Leader {
        self.wait_for("a leader", || {
            let name = self.status()?["answered_by"].as_str()?.to_owned();
            let process = self.process_of(&name)?;
            Some(Leader { name, process })
        })
    }

    /// What happened in all coordinators, from their event files, also while they do not run.
    ///
    /// # Panics
    /// If a file cannot be understood.
    pub fn merged_events(&self) -> Vec<Event> {
        let files: Vec<Vec<Event>> = self
            .coordinators()
            .iter()
            .map(|name| self.events_of(name))
            .collect();
        merged(&files)
    }

    /// The event file of one coordinator.
    ///
    /// # Panics
    /// If it cannot be understood.
    pub fn events_of(&self, coordinator: &str) -> Vec<Event> {
        let text = std::fs::read_to_string(self.folder_of(coordinator).join("events"));
        let text = text.unwrap_or_default();
        // The last line may be half there.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{coordinator}: {line:?}: {e}"))
        };
        whole.lines().map(parse).collect()
    }

    /// Waits until every coordinator has a vote, is heard, and follows the one that leads closely.
    pub fn wait_for_group(&self) {
        let count = self.coordinators().len();
        let mut last = Value::Null;
        let is_whole = wait_for(|| {
            last = self.status()?;
            is_whole(&last, count).then_some(())
        });
        assert!(
            is_whole.is_some(),
            "no whole group: {last}\n{}",
            self.logs()
        );
    }

    /// Waits until the event file of every coordinator ends with the same entry.
    ///
    /// # Panics
    /// If they do not come to agree.
    pub fn wait_until_applied_alike(&self) {
        let last = |name: &String| {
            let events = self.events_of(name);
            events.iter().rev().find_map(|event| event.entry)
        };
        self.wait_for("the same last entry in all event files", || {
            let lasts: Vec<Option<u64>> = self.coordinators().iter().map(last).collect();
            let is_same = lasts.windows(2).all(|pair| pair[0] == pair[1]);
            (is_same && lasts[0].is_some()).then_some(())
        });
    }

    /// Waits until a process that led no more than `before` did has the office.
    fn wait_for_another_in_office(&self, before: i32) {
        self.wait_for("another coordinator in office", || {
            let office = in_office(&self.merged_events())?;
            (office.cast_signed() != before).then_some(())
        });
    }

    /// Strikes the leader in `stage` of a running job, again until the events show that work was held
    /// when it lost its office to another process.
    ///
    /// # Panics
    /// If the stage ends before.
    pub fn strike_in(&self, stage: &str, strike: Strike) {
        self.wait_for(&format!("work in stage {stage}"), || {
            let events = self.merged_events();
            events.iter().any(|e| is_work(e, stage)).then_some(())
        });
        for strikes in 1.. {
            let leader = self.strike(strike);
            let counts = self.wait_for("the consequence of a strike", || {
                verdict(&self.merged_events(), stage, &leader)
            });
            if counts {
                return;
            }
            let is_over = self.merged_events().iter().any(|e| is_end(e, stage));
            assert!(
                strikes < STRIKES && !is_over,
                "{strike:?} {strikes} times in stage {stage}, never while work was held\n{}",
                self.logs()
            );
        }
    }

    /// Strikes the leader and waits until another process has taken office; returns who led.
    pub fn strike(&self, strike: Strike) -> Leader {
        let leader = self.leader();
        match strike {
            Strike::Kill => kill(leader.process.into()),
            Strike::KillAll => self.kill_beside(&leader, usize::MAX),
            Strike::KillMinority => {
                // It starts again what dies.
                self.signal_supervisor(Signal::STOP);
                self.kill_beside(
                    &leader,
                    ((self.coordinators().len() - 1) / 2).saturating_sub(1),
                );
                self.wait_for_another_in_office(leader.process);
                self.wait_for_progress();
                self.signal_supervisor(Signal::CONT);
            }
            Strike::Stop => {
                signal(leader.process, Signal::STOP);
                self.wait_for_another_in_office(leader.process);
                std::thread::sleep(STOPPED);
                signal(leader.process, Signal::CONT);
            }
            Strike::Cut(cut) => {
                self.network().cut(&leader.name, cut);
                self.wait_for_another_in_office(leader.process);
                self.wait_for_progress();
                self.network().heal(&leader.name, cut);
            }
        }
        self.wait_for_another_in_office(leader.process);
        leader
    }

    /// Kills the leader and at most `others` more coordinators.
    fn kill_beside(&self, leader: &Leader, others: usize) {
        let names = self.coordinators();
        let processes = names.iter().filter_map(|name| self.process_of(name));
        let others = processes
            .filter(|process| *process != leader.process)
            .take(others);
        for process in [leader.process]
            .into_iter()
            .chain(others.collect::<Vec<_>>())
        {
            kill(process.into());
        }
    }

    /// Waits until something more of a job is recorded.
    pub fn wait_for_progress(&self) {
        let count = || {
            let events = self.merged_events();
            events
                .iter()
                .filter(|event| is_progress(&event.kind))
                .count()
        };
        let before = count();
        self.wait_for("progress", || (count() > before).then_some(()));
    }

    /// Takes all coordinators away for `outage`; `meanwhile` is called again and again until that is
    /// over.
    ///
    /// # Panics
    /// If one does not run at the beginning.
    pub fn without_coordinators(&self, how: Away, outage: Duration, mut meanwhile: impl FnMut()) {
        let names = self.coordinators();
        let process = |name: &String| self.process_of(name).expect("a coordinator");
        let processes: Vec<i32> = names.iter().map(process).collect();
        let begin = Instant::now();
        // It starts again what dies.
        self.signal_supervisor(Signal::STOP);
        for process in &processes {
            signal(*process, how.signal());
        }
        while begin.elapsed() < outage {
            meanwhile();
            // The outage is the scenario.
            std::thread::sleep(Duration::from_millis(100));
        }
        if how == Away::Stopped {
            for process in &processes {
                signal(*process, Signal::CONT);
            }
        }
        self.signal_supervisor(Signal::CONT);
    }
}

/// Whether the last strike counts; `None` while that can still turn out.
fn verdict(events: &[Event], stage: &str, struck: &Leader) -> Option<bool> {
    let process = struck.process.cast_unsigned();
    if lost_office_at_work(events, stage, process) {
        return Some(true);
    }
    let is_start = |event: &Event| matches!(event.kind, EventKind::CoordinatorStarted { process: p, .. } if p != process);
    let start = events.iter().rposition(is_start)?;
    let since = &events[start..];
    let is_over = events.iter().any(|e| is_end(e, stage));
    // The stage goes on with something new, so nothing from before is waited for.
    (is_over || since.iter().any(|e| is_work(e, stage))).then_some(false)
}

/// Whether all of `count` coordinators have a vote, are heard, and follow the leader closely.
fn is_whole(view: &Value, count: usize) -> bool {
    let members = view["members"].as_array().map_or(&[][..], Vec::as_slice);
    let is_there = |member: &Value| {
        let is_heard = member["heard_ms"]
            .as_u64()
            .is_some_and(|ago| ago < HEARD_MS);
        // It took what this leader sent, so that it follows it.
        let is_close = member["lag"].as_u64().is_some_and(|lag| lag < CLOSE);
        is_heard && is_close && member["problem"].is_null()
    };
    let have = |role: &str| members.iter().filter(|m| m["role"] == role).count();
    have("leader") == 1 && have("voter") == count - 1 && members.iter().all(is_there)
}

fn is_progress(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::ItemsRecorded { .. } | EventKind::Checkpointed { .. }
    )
}

fn named(view: &Value, id: u64) -> Option<&Value> {
    let mut members = view["members"].as_array()?.iter();
    members
        .find(|member| member["id"] == id)
        .map(|member| &member["name"])
}

/// Sends a signal to a process that lives.
///
/// # Panics
/// If it does not.
pub fn signal(process: i32, signal: Signal) {
    let process = Pid::from_raw(process).expect("a process id");
    kill_process(process, signal).expect("the process lives");
}

/// Looks until `look` sees something, or panics; for what no cluster's logs explain.
///
/// # Panics
/// After [`crate::cluster::PATIENCE`].
pub fn awaited<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_for(look).unwrap_or_else(|| panic!("waited in vain for {what}"))
}
