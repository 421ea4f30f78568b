//! When a dead child is started again, and when there are too many deaths.

use std::collections::VecDeque;
use std::time::Duration;

/// Deaths within [`WINDOW`] after which nothing is started again.
pub const MOST_DEATHS: usize = 5;
/// Older deaths do not count.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Waits before the first, second … restart within [`WINDOW`].
const DELAYS: [Duration; MOST_DEATHS - 1] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after this wait.
    Restart(Duration),
    /// Too many deaths in [`WINDOW`].
    GiveUp,
}

/// Remembers the deaths of one child; time is an argument, counted from any fixed moment.
#[derive(Debug, Default)]
pub struct RestartPolicy {
    deaths: VecDeque<Duration>,
}

impl RestartPolicy {
    /// Notes a death at `now` and decides.
    pub fn on_death(&mut self, now: Duration) -> Verdict {
        while self
            .deaths
            .front()
            .is_some_and(|&death| now.saturating_sub(death) >= WINDOW)
        {
            self.deaths.pop_front();
        }
        self.deaths.push_back(now);
        DELAYS
            .get(self.deaths.len() - 1)
            .map_or(Verdict::GiveUp, |&wait| Verdict::Restart(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: waits grow as documented and the fifth death within a minute is the last.
    // Method: five deaths one second apart.
    #[test]
    fn fifth_death_in_a_minute_gives_up() {
        let mut policy = RestartPolicy::default();
        let verdicts: Vec<Verdict> = (0..5)
            .map(|second| policy.on_death(Duration::from_secs(second)))
            .collect();
        let waits = [0, 500, 1000, 2000].map(|wait| Verdict::Restart(Duration::from_millis(wait)));
        assert_eq!(verdicts[..4], waits);
        assert_eq!(verdicts[4], Verdict::GiveUp);
    }

    // Claim: rare deaths never end a run. Method: a hundred deaths, one every 20 s, leave at most
    // three in any minute.
    #[test]
    fn rare_deaths_are_always_forgiven() {
        let mut policy = RestartPolicy::default();
        for death in 0..100 {
            let verdict = policy.on_death(Duration::from_secs(20 * death));
            assert_ne!(verdict, Verdict::GiveUp, "death {death}");
        }
    }
}
