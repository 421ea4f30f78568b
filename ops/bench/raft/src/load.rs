//! Many clients in a closed loop: each sends its next command when the last is durable.

use crate::cpu::Clock;
use crate::figures::Latencies;
use crate::target::Target;
use anyhow::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Wait of a client after a failed command, so that a cluster without a leader is not flooded.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// Failed commands in sequence after which a client gives up the run.
const MOST_FAILURES: u32 = 500;

const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const END: u8 = 2;

/// How much load, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Clients at once.
    pub clients: usize,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub measure: Duration,
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Commands acknowledged in a second.
    pub per_second: f64,
    /// Of the commands acknowledged in the measured time.
    pub latencies: Latencies,
    /// Commands that failed and were sent again.
    pub failed: u64,
    /// Processor time of this process for a command, in microseconds.
    pub client_us: f64,
    /// Processor time of the cluster for a command, in microseconds.
    pub cluster_us: f64,
}

/// What one client saw in the measured time.
#[derive(Debug, Default)]
struct Seen {
    latencies_us: Vec<u32>,
    failed: u64,
}

/// Runs the load against `target`, whose cluster is these processes.
pub async fn run<T: Target>(target: Arc<T>, load: Load, processes: &[u32]) -> Result<Outcome> {
    let phase = Arc::new(AtomicU8::new(WARM_UP));
    let mut clients = JoinSet::new();
    for client in 0..load.clients {
        let (target, phase) = (Arc::clone(&target), Arc::clone(&phase));
        clients.spawn(async move { client_loop(&*target, client, load.value_bytes, &phase).await });
    }
    tokio::time::sleep(load.warm_up).await;
    let ours = Clock::start(&[std::process::id()]);
    let theirs = Clock::start(processes);
    let begin = Instant::now();
    phase.store(MEASURE, Ordering::Relaxed);
    tokio::time::sleep(load.measure).await;
    phase.store(END, Ordering::Relaxed);
    let seconds = begin.elapsed().as_secs_f64();
    let (ours, theirs) = (ours.used(), theirs.used());

    let mut all = Seen::default();
    while let Some(seen) = clients.join_next().await {
        let seen = seen??;
        all.latencies_us.extend(seen.latencies_us);
        all.failed += seen.failed;
    }
    if all.latencies_us.is_empty() {
        bail!("no command was acknowledged in {seconds:.1} s");
    }
    let commands = all.latencies_us.len() as f64;
    Ok(Outcome {
        per_second: commands / seconds,
        latencies: Latencies::new(all.latencies_us),
        failed: all.failed,
        client_us: ours.as_secs_f64() * 1e6 / commands,
        cluster_us: theirs.as_secs_f64() * 1e6 / commands,
    })
}

async fn client_loop<T: Target>(
    target: &T,
    client: usize,
    value_bytes: usize,
    phase: &AtomicU8,
) -> Result<Seen> {
    let key = key(client);
    let mut seen = Seen::default();
    let mut failures = 0;
    for number in 0_u64.. {
        let value = value(number, value_bytes);
        let begin = Instant::now();
        let outcome = target.put(client, &key, &value).await;
        let now = phase.load(Ordering::Relaxed);
        if now == END {
            break;
        }
        match outcome {
            Ok(()) => {
                failures = 0;
                if now == MEASURE {
                    let us = begin.elapsed().as_micros();
                    seen.latencies_us
                        .push(u32::try_from(us).unwrap_or(u32::MAX));
                }
            }
            Err(error) => {
                failures += 1;
                seen.failed += 1;
                if failures == MOST_FAILURES {
                    return Err(error.context(format!("{failures} commands of a client failed")));
                }
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
    Ok(seen)
}

/// The key that client `client` writes.
pub fn key(client: usize) -> String {
    format!("bench-{client:04}")
}

/// The `number`th value: each another, all of `bytes` characters.
pub fn value(number: u64, bytes: usize) -> String {
    format!("{number:0>bytes$}")
}
