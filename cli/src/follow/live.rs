//! Progress bars on a terminal.

use super::describe;
use super::pace::Pace;
use super::{Facts, View};
use crate::output::json::status_name;
use crate::output::table::{count, thousands};
use crate::output::time::duration;
use evoring_protocol::client::{JobStatus, JobView};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// Frames a second; more would cost the computing processes time.
const FRAMES_PER_SECOND: u8 = 5;
/// A line of words, cut at the terminal's edge.
const WORDS: &str = "{prefix}{wide_msg}";
/// A bar as wide as the terminal allows, and a line of words below it.
const BAR: &str = "{prefix:>10} {wide_bar} {pos}/{len}\n           {wide_msg}";

/// One bar, on the screen while it has something to show.
struct Row {
    name: &'static str,
    bar: ProgressBar,
    is_shown: bool,
}

impl Row {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            bar: ProgressBar::hidden(),
            is_shown: false,
        }
    }

    fn show(
        &mut self,
        bars: &MultiProgress,
        before: &ProgressBar,
        (done, all): (u64, u64),
        parts: impl IntoIterator<Item = Option<String>>,
    ) {
        if !self.is_shown {
            self.bar = bars.insert_before(
                before,
                ProgressBar::new(all)
                    .with_style(style(BAR))
                    .with_prefix(self.name),
            );
            self.is_shown = true;
        }
        self.bar.set_length(all.max(1));
        self.bar.set_position(done);
        self.bar
            .set_message(parts.into_iter().flatten().collect::<Vec<_>>().join(" · "));
    }

    fn hide(&mut self, bars: &MultiProgress) {
        if std::mem::take(&mut self.is_shown) {
            bars.remove(&self.bar);
        }
    }
}

/// The job, what trains, the search and its items, and the slots.
pub struct LiveView {
    facts: Facts,
    pace: Pace,
    bars: MultiProgress,
    head: ProgressBar,
    training: Row,
    search: Row,
    items: Row,
    foot: ProgressBar,
    stage: String,
    last: Option<JobView>,
}

impl LiveView {
    /// For a job of which `facts` are known.
    pub fn new(facts: Facts) -> Self {
        let bars =
            MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(FRAMES_PER_SECOND));
        let line = || bars.add(ProgressBar::new(1).with_style(style(WORDS)));
        let (head, foot) = (line(), line());
        let [training, search, items] = ["training", "search", "items"].map(Row::new);
        Self {
            facts,
            pace: Pace::default(),
            bars,
            head,
            training,
            search,
            items,
            foot,
            stage: String::new(),
            last: None,
        }
    }

    fn show_head(&mut self, now: Duration, view: &JobView) {
        let stages = view.stages.iter().map(|stage| {
            if *stage == view.stage {
                format!("[{stage}]")
            } else {
                stage.clone()
            }
        });
        let stages: Vec<String> = stages.collect();
        self.head.set_prefix(format!("job {} ", view.job));
        self.head.set_message(format!(
            "{} · {} · {}",
            view.name,
            duration(now.as_secs() * 1_000).replace(".0 s", " s"),
            stages.join(" → ")
        ));
        if view.stage != self.stage && !view.stage.is_empty() {
            self.stage.clone_from(&view.stage);
            self.note(now, &format!("stage {}", view.stage));
        }
    }

    fn show_training(&mut self, view: &JobView) {
        let Some((title, progress)) = &view.training else {
            return self.training.hide(&self.bars);
        };
        let parts = [
            Some(title.clone()),
            Some(format!("loss {:.4}", progress.loss)),
            describe::training_speed(&self.pace, self.facts, &view.stage),
            describe::left(self.pace.training_left()),
        ];
        self.training.show(
            &self.bars,
            &self.foot,
            (progress.step, progress.steps),
            parts,
        );
    }

    fn show_search(&mut self, view: &JobView) {
        let Some(generation) = &view.generation else {
            return self.search.hide(&self.bars);
        };
        let done = u64::from(generation.generation) + 1;
        let all = u64::from(generation.generations);
        let left = if done < all {
            describe::left(self.pace.search_left())
        } else {
            None
        };
        let parts = [
            Some(format!(
                "best {:.4} · mean {:.4}",
                generation.best_fitness, generation.mean_fitness
            )),
            Some(format!(
                "{:.1} % at {} parameters",
                100.0 * generation.best_accuracy,
                thousands(generation.best_parameters)
            )),
            left,
        ];
        self.search.show(&self.bars, &self.foot, (done, all), parts);
    }

    fn show_items(&mut self, view: &JobView) {
        if view.items.1 == 0 {
            return self.items.hide(&self.bars);
        }
        let rate = describe::evaluation_speed(&self.pace);
        let hits =
            (view.cache_hits > 0).then(|| format!("{} from the cache", thousands(view.cache_hits)));
        let parts = [
            Some(format!("{} evaluated", thousands(view.evaluated))),
            rate,
            hits,
        ];
        self.items.show(&self.bars, &self.foot, view.items, parts);
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants, and a test reads each.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("█▉▊▋▌▍▎▏ ")
}

impl View for LiveView {
    fn update(&mut self, now: Duration, view: &JobView) {
        self.pace.note(now, view);
        self.show_head(now, view);
        self.show_training(view);
        self.show_search(view);
        self.show_items(view);
        let retries = if view.retries > 0 {
            format!(" · {} run again", view.retries)
        } else {
            String::new()
        };
        let waits = if view.status == JobStatus::Queued {
            describe::waiting(view)
        } else {
            format!(" · {} busy", count(u64::from(view.slots), "slot"))
        };
        self.foot
            .set_message(format!("{}{waits}{retries}", status_name(view.status)));
        self.last = Some(view.clone());
    }

    fn tick(&mut self, now: Duration) {
        if let Some(view) = self.last.take() {
            self.show_head(now, &view);
            self.last = Some(view);
        }
    }

    fn note(&mut self, now: Duration, text: &str) {
        // Fails only if the terminal has gone.
        let _ = self
            .bars
            .println(format!("[{:>7.1} s] {text}", now.as_secs_f64()));
    }

    fn finish(&mut self) {
        let _ = self.bars.clear();
    }
}

impl Drop for LiveView {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: the templates are valid. Method: the library's parser.
    #[test]
    fn templates_are_valid() {
        for template in [WORDS, BAR] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
