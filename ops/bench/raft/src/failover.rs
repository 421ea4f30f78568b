//! How long a client waits when the leader is killed.

use crate::cpu;
use crate::figures::Latencies;
use crate::load;
use crate::process::{self, Scratch};
use crate::target::{Cluster, Member, NODES, Programs, Writer};
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Bound on one failover.
const PATIENCE: Duration = Duration::from_secs(60);
/// Deaths of one process within [`WINDOW`] that `evoring local` takes; it gives up at the next.
const MOST_DEATHS: usize = 4;
/// Older deaths do not count.
const WINDOW: Duration = Duration::from_secs(61);
/// Commands that may wait to be looked at.
const BACKLOG: usize = 1 << 16;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Kills {
    /// How many.
    pub count: u32,
    /// Bytes of each value that the client writes.
    pub value_bytes: usize,
    /// Time of writing between a recovery and the next kill.
    pub pause: Duration,
}

/// One acknowledged attempt.
#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    began: Instant,
    ended: Instant,
}

/// Kills the leader again and again on one cluster; times from the signal to the end of the first
/// write that was sent after the leader's end and acknowledged.
pub async fn run<C: Cluster>(programs: &Programs, scratch: &Scratch, kills: Kills) -> Result<()> {
    let folder = scratch.fresh(&format!("{}-failover", C::NAME))?;
    let mut cluster = C::start(programs, &folder).await?;
    let (sender, mut acknowledged) = mpsc::channel(BACKLOG);
    let writer = Stop(tokio::spawn(write(
        cluster.writer().await?,
        kills.value_bytes,
        sender,
    )));
    let mut pace = Pace::default();
    let mut times_us = Vec::new();
    for number in 1..=kills.count {
        tokio::time::sleep(kills.pause).await;
        let leader = cluster.leader().await?;
        pace.wait_for(&leader).await;
        // The wait may have been long enough for another to lead.
        let leader = cluster.leader().await?;
        let took = kill(&leader, &mut acknowledged)
            .await
            .with_context(|| format!("{} kill {number}", C::NAME))?;
        pace.note(&leader);
        times_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        cluster.restored(&leader).await?;
        println!(
            "{:8} kill {number:3}/{}: {} written again after {:6.1} ms",
            C::NAME,
            kills.count,
            leader.name,
            took.as_secs_f64() * 1e3
        );
    }
    drop(writer);
    cluster.stop().await?;
    scratch.forget(&folder);
    let times = Latencies::new(times_us);
    println!(
        "\n{}: {} kills of the leader; signal to the next acknowledged write: p50 {:.0} ms, p99 {:.0} ms, longest {:.0} ms\n",
        C::NAME,
        times.count(),
        times.percentile_ms(0.5),
        times.percentile_ms(0.99),
        times.max_ms(),
    );
    Ok(())
}

async fn kill(
    leader: &Member,
    acknowledged: &mut mpsc::Receiver<Acknowledged>,
) -> Result<Duration> {
    while acknowledged.try_recv().is_ok() {}
    let signal = Instant::now();
    process::kill(leader.process)?;
    while cpu::lives(leader.process) {
        tokio::task::yield_now().await;
        if signal.elapsed() > PATIENCE {
            bail!("process {} survives SIGKILL", leader.process);
        }
    }
    // What the killed one acknowledged with its last breath does not count.
    let dead = Instant::now();
    let first = async {
        loop {
            match acknowledged.recv().await {
                Some(write) if write.began >= dead => return Ok(write.ended - signal),
                Some(_) => {}
                None => bail!("the client has ended"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, first)
        .await
        .with_context(|| format!("nothing was acknowledged within {PATIENCE:?}"))?
}

/// The client: writes all the time, and each value until it is acknowledged.
async fn write<W: Writer>(
    mut writer: W,
    value_bytes: usize,
    acknowledged: mpsc::Sender<Acknowledged>,
) {
    let key = load::key(0);
    for number in 0_u64.. {
        let value = load::value(number, value_bytes);
        loop {
            let began = Instant::now();
            if writer.attempt(&key, &value).await.is_err() {
                continue;
            }
            let ended = Instant::now();
            match acknowledged.try_send(Acknowledged { began, ended }) {
                // Nobody looks between two kills; the newest are of no interest then.
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => break,
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }
}

/// Ends the client with the run.
struct Stop(JoinHandle<()>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps one process from dying so often that `evoring local` gives it up.
#[derive(Debug, Default)]
struct Pace {
    deaths: VecDeque<(String, Instant)>,
}

impl Pace {
    fn note(&mut self, killed: &Member) {
        if self.deaths.len() == NODES * MOST_DEATHS {
            self.deaths.pop_front();
        }
        self.deaths.push_back((killed.name.clone(), Instant::now()));
    }

    async fn wait_for(&self, leader: &Member) {
        let of_this = self.deaths.iter().filter(|(name, _)| *name == leader.name);
        let times: Vec<Instant> = of_this.map(|&(_, time)| time).collect();
        if let Some(oldest) = times.len().checked_sub(MOST_DEATHS) {
            let free = times[oldest] + WINDOW;
            tokio::time::sleep(free.saturating_duration_since(Instant::now())).await;
        }
    }
}
