//! A job's progress in words.

use super::Facts;
use super::pace::Pace;
use crate::output::table::{count, thousands};
use crate::output::time::duration;
use evoring_protocol::client::JobView;
use evoring_protocol::event::GenerationSummary;
use std::time::Duration;

/// "12,345 images/s", or steps where images are not known.
pub fn training_speed(pace: &Pace, facts: Facts, stage: &str) -> Option<String> {
    let steps = pace.steps_per_second()?;
    Some(match facts.images_per_step(stage) {
        Some(images) => format!(
            "{} images/s",
            thousands((steps * f64::from(images)).round() as u64)
        ),
        None => format!("{steps:.1} steps/s"),
    })
}

/// "8 s left".
pub fn left(time: Option<Duration>) -> Option<String> {
    // Tenths would flicker.
    time.map(|time| {
        format!(
            "{} left",
            duration((time.as_millis() as u64).div_ceil(1_000) * 1_000).replace(".0 s", " s")
        )
    })
}

/// Where to ask why nothing runs.
pub fn waiting(view: &JobView) -> String {
    format!(" (`evoring explain {}` says why it waits)", view.job)
}

/// "35 evaluations/s".
pub fn evaluation_speed(pace: &Pace) -> Option<String> {
    pace.evaluations_per_second().map(|rate| {
        if rate < 10.0 {
            format!("{rate:.1} evaluations/s")
        } else {
            format!("{rate:.0} evaluations/s")
        }
    })
}

/// One generation.
pub fn generation(generation: &GenerationSummary, pace: &Pace) -> String {
    let is_last = generation.generation + 1 >= generation.generations;
    let parts = [
        Some(format!(
            "best {:.4} (accuracy {:.2} %, {} parameters)",
            generation.best_fitness,
            100.0 * generation.best_accuracy,
            thousands(generation.best_parameters)
        )),
        Some(format!("mean {:.4}", generation.mean_fitness)),
        Some(format!(
            "{} evaluated, {} from the cache",
            thousands(generation.evaluated),
            thousands(generation.cache_hits)
        )),
        evaluation_speed(pace),
        left(pace.search_left()).filter(|_| !is_last),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!(
        "generation {}/{}: {}",
        generation.generation + 1,
        generation.generations,
        parts.join(", ")
    )
}

/// What runs now, if anything does.
pub fn work(view: &JobView, pace: &Pace, facts: Facts) -> Option<String> {
    if let Some((title, progress)) = &view.training {
        let parts = [
            Some(format!(
                "step {}/{}",
                thousands(progress.step),
                thousands(progress.steps)
            )),
            Some(format!("loss {:.4}", progress.loss)),
            training_speed(pace, facts, &view.stage),
            left(pace.training_left()),
        ];
        return Some(format!(
            "{title}: {}",
            parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
        ));
    }
    let (done, all) = view.items;
    (all > 0).then(|| {
        let rate = evaluation_speed(pace)
            .map(|rate| format!(", {rate}"))
            .unwrap_or_default();
        format!(
            "{}: {} of {} items{rate}, {}",
            view.stage,
            thousands(done),
            thousands(all),
            count(u64::from(view.slots), "slot")
        )
    })
}
