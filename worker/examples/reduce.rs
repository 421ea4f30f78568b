//! How long a sum between ranks takes on this host:
//! `cargo run --release -p evoring-worker --example reduce [RANKS]`.
//!
//! Ranks are threads that join as processes do, each with mappings of its own. A round is what a
//! training step does: write the shards (not timed), sum (timed on rank 0).

use evoring_worker::collective::Collective as _;
use evoring_worker::collective::shm::{Settings, Shm};
use std::time::Instant;

const SHARDS: u32 = 4;

fn main() -> anyhow::Result<()> {
    let ranks: u32 = std::env::args().nth(1).map_or(Ok(2), |text| text.parse())?;
    for (megabytes, rounds) in [(1, 400), (10, 100), (100, 20)] {
        let length = megabytes * 1_000_000 / 4;
        let times = std::thread::scope(|scope| {
            let run = |rank| scope.spawn(move || measure(rank, ranks, length, rounds));
            let members: Vec<_> = (0..ranks).map(run).collect();
            members
                .into_iter()
                .map(|member| {
                    member
                        .join()
                        .map_err(|_| anyhow::anyhow!("a rank panicked"))?
                })
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        let mut first = times.into_iter().next().unwrap_or_default();
        first.sort_by(f64::total_cmp);
        let at = |part: usize| first[(first.len() - 1) * part / 10];
        println!(
            "{megabytes:>4} MB, {ranks} ranks, {SHARDS} shards: median {:.3} ms, fastest {:.3} ms, 90 % within {:.3} ms",
            at(5),
            at(0),
            at(9)
        );
    }
    Ok(())
}

/// Milliseconds of each sum.
fn measure(rank: u32, ranks: u32, length: usize, rounds: usize) -> anyhow::Result<Vec<f64>> {
    let mut secret = [0x5a; 32];
    secret[..8].copy_from_slice(&(length as u64).to_le_bytes());
    secret[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    let settings = Settings {
        rank,
        world_size: ranks,
        ..Settings::new(SHARDS, length, secret)
    };
    let mut gang = Shm::join(&settings)?;
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds {
        for shard in gang.shards() {
            gang.shard_buffer(shard)
                .fill((round + shard as usize) as f32);
        }
        gang.barrier()?;
        let begin = Instant::now();
        let sum = gang.all_reduce()?[length - 1];
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        let expected = (4 * round + 6) as f32;
        anyhow::ensure!(sum == expected, "round {round}: {sum}, expected {expected}");
    }
    Ok(times)
}
