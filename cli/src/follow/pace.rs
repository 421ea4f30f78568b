//! Rates and remaining time, from successive views of a job. Time is an argument.

use evoring_protocol::client::JobView;
use std::collections::VecDeque;
use std::time::Duration;

/// Rates are taken over the views of this last stretch of time.
const STRETCH: Duration = Duration::from_secs(10);
/// Views closer together are not both kept.
const SPACING: Duration = Duration::from_millis(200);

/// One counter's recent past.
#[derive(Debug, Default)]
struct Counter {
    /// What is counted; a change begins anew.
    subject: String,
    /// When it had reached which count: moments of change, the last one before the stretch too, so
    /// that what changes more seldom than the stretch is long has a rate as well.
    past: VecDeque<(Duration, u64)>,
    now: Duration,
}

impl Counter {
    fn note(&mut self, now: Duration, subject: &str, count: u64) {
        let restarted = self.past.back().is_some_and(|&(_, last)| count < last);
        if self.subject != subject || restarted {
            self.subject = subject.to_owned();
            self.past.clear();
        }
        self.now = now;
        if self.past.back().is_some_and(|&(_, last)| count == last) {
            return;
        }
        if self.past.len() > 1
            && self
                .past
                .get(self.past.len() - 2)
                .is_some_and(|&(before, _)| now.saturating_sub(before) < SPACING)
        {
            self.past.pop_back();
        }
        self.past.push_back((now, count));
        while self.past.len() > 2
            && self
                .past
                .get(1)
                .is_some_and(|&(second, _)| now.saturating_sub(second) > STRETCH)
        {
            self.past.pop_front();
        }
    }

    /// Counts per second; `None` until it is known. It falls while a change is overdue.
    fn per_second(&self) -> Option<f64> {
        let (&(first, low), &(last, high)) = (self.past.front()?, self.past.back()?);
        let moved = last.saturating_sub(first).as_secs_f64();
        if moved < SPACING.as_secs_f64() || high <= low {
            return None;
        }
        let each = moved / (high - low) as f64;
        let overdue = self.now.saturating_sub(last).as_secs_f64() - each.max(SPACING.as_secs_f64());
        Some((high - low) as f64 / (moved + overdue.max(0.0)))
    }
}

/// Rates of one job.
#[derive(Debug, Default)]
pub struct Pace {
    steps: Counter,
    evaluations: Counter,
    generations: Counter,
    latest_steps: Option<(u64, u64)>,
    latest_generations: Option<(u64, u64)>,
}

impl Pace {
    /// Takes the job's state at `now`, counted from any fixed moment.
    pub fn note(&mut self, now: Duration, view: &JobView) {
        self.evaluations.note(now, &view.stage, view.evaluated);
        self.latest_steps = view.training.as_ref().map(|(title, progress)| {
            self.steps.note(now, title, progress.step);
            (progress.step, progress.steps)
        });
        self.latest_generations = view.generation.as_ref().map(|generation| {
            let done = u64::from(generation.generation) + 1;
            self.generations.note(now, &view.stage, done);
            (done, u64::from(generation.generations))
        });
    }

    /// Training steps per second.
    pub fn steps_per_second(&self) -> Option<f64> {
        self.latest_steps.and(self.steps.per_second())
    }

    /// Computed evaluations per second.
    pub fn evaluations_per_second(&self) -> Option<f64> {
        self.evaluations.per_second()
    }

    /// Time left in the training that runs.
    pub fn training_left(&self) -> Option<Duration> {
        left(self.latest_steps?, self.steps.per_second()?)
    }

    /// Time left in the search that runs.
    pub fn search_left(&self) -> Option<Duration> {
        left(self.latest_generations?, self.generations.per_second()?)
    }
}

fn left((done, all): (u64, u64), per_second: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(all.saturating_sub(done) as f64 / per_second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: the rate is that of the last stretch, and a new subject begins anew. Method: 10 a
    // second for 20 s, then 100 a second for 20 s, then another subject.
    #[test]
    fn rate_follows_the_last_stretch() {
        let mut counter = Counter::default();
        let (mut count, mut now) = (0, Duration::ZERO);
        for step in [10, 100] {
            for _ in 0..80 {
                now += Duration::from_millis(250);
                count += step / 4;
                counter.note(now, "a", count);
            }
            let rate = counter.per_second().unwrap();
            assert!(
                (rate - f64::from(u32::try_from(step / 4 * 4).unwrap())).abs() < 3.0,
                "{rate}"
            );
        }
        counter.note(now, "b", 0);
        assert_eq!(counter.per_second(), None);
    }

    // Claim: what changes once in half a minute has a rate, and it falls when the next change is
    // overdue. Method: a generation each 30 s, seen four times a second; then nothing for 60 s.
    #[test]
    fn slow_counts_have_a_rate() {
        let mut counter = Counter::default();
        let mut now = Duration::ZERO;
        let mut rate_at = |until: u64, growing: bool| {
            while now < Duration::from_secs(until) {
                now += Duration::from_millis(250);
                let seconds = if growing { now.as_secs() } else { until - 60 };
                counter.note(now, "search", 1 + seconds / 30);
            }
            counter.per_second()
        };
        assert_eq!(rate_at(29, true), None);
        for until in [60, 75, 89, 120] {
            let rate = rate_at(until, true).unwrap();
            assert!((rate - 1.0 / 30.0).abs() < 0.002, "{rate} after {until} s");
        }
        let rate = rate_at(180, false).unwrap();
        assert!(rate < 0.6 / 30.0, "{rate} after a standstill");
    }

    // Claim: no rate, no estimate; no division by zero. Method: equal counts.
    #[test]
    fn standstill_has_no_rate() {
        let mut counter = Counter::default();
        for second in 0..5 {
            counter.note(Duration::from_secs(second), "a", 7);
        }
        assert_eq!(counter.per_second(), None);
    }
}
