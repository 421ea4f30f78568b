//! Processor time, and what the processor can do at most.

use evoring_kernels::engine::lanes::{LANES, Lanes, ROWS, Windows, accumulate};
use std::time::Instant;

/// Processor time of this thread, as the kernel counts it; of the wall where it does not.
pub struct Clock {
    begin: Instant,
    used: Option<u64>,
}

impl Clock {
    /// Starts.
    pub fn start() -> Self {
        Self {
            begin: Instant::now(),
            used: used(),
        }
    }

    /// Milliseconds since the start.
    pub fn milliseconds(&self) -> f64 {
        match self.used.zip(used()) {
            Some((before, now)) => now.saturating_sub(before) as f64 / 1e6,
            None => self.begin.elapsed().as_secs_f64() * 1e3,
        }
    }
}

/// Nanoseconds that this thread has run. Giving up the processor makes the kernel count up to now.
fn used() -> Option<u64> {
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Fused multiply-adds in a millisecond with everything in the first-level cache; the best of
/// several tries.
pub fn multiplications_per_millisecond() -> f64 {
    let input = vec![Lanes([1.0; LANES]); 64];
    let offsets: Vec<u32> = (0..64).collect();
    let weights = vec![[0.5; ROWS]; 64];
    let mut sums = vec![Lanes::ZERO; ROWS];
    let windows = Windows {
        height: 1,
        width: 1,
        stride: 1,
    };
    let rounds = 20_000;
    let mut run = || {
        let clock = Clock::start();
        for _ in 0..rounds {
            accumulate(
                std::hint::black_box(&input),
                windows,
                &offsets,
                &weights,
                &[0.0; ROWS],
                &mut sums,
            );
        }
        f64::from(rounds) * (64 * ROWS * LANES) as f64 / clock.milliseconds()
    };
    (0..10).map(|_| run()).fold(0.0, f64::max)
}
