//! Processor time, as the kernel counts it.

use std::time::Duration;

/// Counts in a second of the times in `/proc/PID/stat`; fixed on Linux.
const TICKS: u64 = 100;

/// Processor time of some processes from now on.
#[derive(Debug)]
pub struct Clock {
    processes: Vec<u32>,
    before: u64,
}

impl Clock {
    /// Starts.
    pub fn start(processes: &[u32]) -> Self {
        Self {
            processes: processes.to_vec(),
            before: sum(processes),
        }
    }

    /// Since the start, of the processes that still live.
    pub fn used(&self) -> Duration {
        Duration::from_millis(sum(&self.processes).saturating_sub(self.before) * 1000 / TICKS)
    }
}

fn sum(processes: &[u32]) -> u64 {
    processes.iter().filter_map(|&process| ticks(process)).sum()
}

/// User and system time: fields 14 and 15. The second field is a name that may hold anything.
fn ticks(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Whether a process still runs; one that ended and was not yet reaped does not.
pub fn lives(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|text| {
        text.rsplit_once(')')
            .is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: time that a process spends is counted, and a process that never was does not live.
    // Method: this process computes until it shows.
    #[test]
    fn own_time_counts() {
        let own = std::process::id();
        let clock = Clock::start(&[own]);
        while clock.used().is_zero() {
            std::hint::black_box((0..100_000_u64).sum::<u64>());
        }
        assert!(lives(own));
        assert!(!lives(u32::MAX));
    }
}
