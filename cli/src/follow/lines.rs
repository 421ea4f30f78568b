//! Progress as plain lines: one for each change of stage and each generation, and one every few
//! seconds in between.

use super::describe;
use super::pace::Pace;
use super::{Facts, View};
use crate::output::json::status_name;
use crate::output::say;
use evoring_protocol::client::{JobStatus, JobView};
use std::time::Duration;

/// Between two lines without a change of stage or generation.
const EVERY: Duration = Duration::from_secs(5);

/// Decides which lines are worth printing.
#[derive(Debug, Default)]
pub struct Lines {
    facts: Facts,
    pace: Pace,
    status: Option<String>,
    generation: Option<u32>,
    training: String,
    last_line: Duration,
}

impl Lines {
    /// For a job of which `facts` are known.
    pub fn new(facts: Facts) -> Self {
        Self {
            facts,
            ..Self::default()
        }
    }

    /// Lines that this state of the job deserves at `now`.
    pub fn on(&mut self, now: Duration, view: &JobView) -> Vec<String> {
        self.pace.note(now, view);
        let mut lines = Vec::new();
        let status = match view.stage.as_str() {
            _ if view.status == JobStatus::Queued => format!("queued{}", describe::waiting(view)),
            "" => status_name(view.status).to_owned(),
            stage if view.status.is_final() => {
                format!("{} after stage {stage}", status_name(view.status))
            }
            stage => format!("stage {stage}"),
        };
        if self.status.as_ref() != Some(&status) {
            lines.push(format!("job {} ({}): {status}", view.job, view.name));
            self.status = Some(status);
        }
        if let Some(generation) = &view.generation
            && self.generation != Some(generation.generation)
        {
            self.generation = Some(generation.generation);
            lines.push(describe::generation(generation, &self.pace));
        }
        let title = view
            .training
            .as_ref()
            .map_or("", |(title, _)| title.as_str());
        let is_due = now.saturating_sub(self.last_line) >= EVERY || title != self.training;
        if lines.is_empty() && is_due && !view.status.is_final() {
            lines.extend(describe::work(view, &self.pace, self.facts));
        }
        title.clone_into(&mut self.training);
        if !lines.is_empty() {
            self.last_line = now;
        }
        lines
    }
}

/// Prints to standard error.
#[derive(Debug)]
pub struct LineView {
    lines: Lines,
}

impl LineView {
    /// For a job of which `facts` are known.
    pub fn new(facts: Facts) -> Self {
        Self {
            lines: Lines::new(facts),
        }
    }
}

impl View for LineView {
    fn update(&mut self, now: Duration, view: &JobView) {
        for line in self.lines.on(now, view) {
            self.note(now, &line);
        }
    }

    fn note(&mut self, now: Duration, text: &str) {
        say(format_args!("[{:>7.1} s] {text}", now.as_secs_f64()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::tests::view;
    use evoring_protocol::event::GenerationSummary;
    use evoring_protocol::work::TrainingProgress;

    // Claim: a line for each change, none for repetition, one every five seconds. Method: a job
    // seen every 100 ms for 12 s, with one change of stage and two generations.
    #[test]
    fn lines_are_few_and_complete() {
        let mut lines = Lines::new(Facts {
            train_batch: Some(64),
            finetune_batch: None,
        });
        let mut seen = Vec::new();
        let mut state = view();
        for tick in 0..120u64 {
            if tick < 60 {
                state.stage = "train".to_owned();
                state.training = Some((
                    "the full net".to_owned(),
                    TrainingProgress {
                        step: tick,
                        steps: 60,
                        loss: 0.5,
                    },
                ));
            } else {
                state.stage = "search".to_owned();
                state.training = None;
                state.generation = Some(GenerationSummary {
                    generation: u32::from(tick >= 90),
                    generations: 3,
                    best_fitness: 1.2,
                    mean_fitness: 1.0,
                    best_parameters: 53_000,
                    best_accuracy: 0.9,
                    evaluated: 32,
                    cache_hits: 2,
                });
            }
            seen.extend(lines.on(Duration::from_millis(100 * tick), &state));
        }
        let expected = [
            "job 1 (small): stage train",
            "the full net: step 50/60",
            "stage search",
            "generation 1/3: best 1.2000",
            "generation 2/3",
        ];
        assert_eq!(seen.len(), expected.len(), "{seen:#?}");
        for (line, part) in seen.iter().zip(expected) {
            assert!(line.contains(part), "{line:?} should contain {part:?}");
        }
        assert!(seen[1].contains("640 images/s"), "{}", seen[1]);
    }
}
