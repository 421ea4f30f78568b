//! Steps of drivers (`STATE-3`).

use super::gang::GangState;
use super::job::{Body, DemandState, Phase};
use super::map::MapState;
use super::{Effect, Job, State};
use evoring_jobs::driver::{Demand, Driver, DriverAction, DriverEvent};
use evoring_protocol::event::EventKind;
use evoring_protocol::{DemandId, Digest, JobId, limits};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Steps that one command may cause: a search whose generations are all in the cache takes one
/// for each. More is a driver that runs in circles.
const STEPS: usize = 100_000;
/// Bytes of an artifact's name.
const NAME_BYTES: usize = 256;

impl State {
    /// Lets a job's driver take the step of `event`, and the steps that follow at once.
    pub(super) fn step(
        &mut self,
        index: u64,
        id: JobId,
        event: DriverEvent,
        effects: &mut Vec<Effect>,
    ) {
        let mut events = VecDeque::from([event]);
        let mut steps = 0;
        while let Some(event) = events.pop_front() {
            steps += 1;
            let taken = match self.take_step(id, &event) {
                Ok(actions) if steps <= STEPS => self.act(index, id, actions, &mut events, effects),
                Ok(_) => Err(format!("the driver took more than {STEPS} steps at once")),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                let error = format!("job {id} failed at index {index}: {error}");
                self.end(id, Phase::Failed { error }, effects);
            }
            if self.jobs.get(&id).is_none_or(|job| job.work().is_none()) {
                return;
            }
        }
    }

    fn take_step(&mut self, id: JobId, event: &DriverEvent) -> Result<Vec<DriverAction>, String> {
        match self.jobs.get_mut(&id).and_then(Job::work_mut) {
            Some(work) => guarded(&mut work.driver, event),
            None => Ok(Vec::new()),
        }
    }

    fn act(
        &mut self,
        index: u64,
        id: JobId,
        actions: Vec<DriverAction>,
        events: &mut VecDeque<DriverEvent>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        for action in actions {
            if self.jobs.get(&id).is_none_or(|job| job.work().is_none()) {
                return Err("the driver went on after its end".to_owned());
            }
            match action {
                DriverAction::Run {
                    demand,
                    stage,
                    title,
                    what,
                } => {
                    let state = DemandState {
                        stage,
                        title,
                        since: index,
                        body: body(what)?,
                    };
                    self.start(id, demand, state, events, effects)?;
                }
                DriverAction::StageStarted(stage) => {
                    if let Some(job) = self.jobs.get_mut(&id) {
                        job.stage.clone_from(&stage);
                    }
                    effects.push(Effect::Event(EventKind::StageStarted { job: id, stage }));
                }
                DriverAction::StageFinished(stage) => {
                    effects.push(Effect::Event(EventKind::StageFinished { job: id, stage }));
                }
                DriverAction::Generation(summary) => {
                    if let Some(job) = self.jobs.get_mut(&id) {
                        job.generation = Some(summary.clone());
                    }
                    effects.push(Effect::Event(EventKind::GenerationFinished {
                        job: id,
                        summary,
                    }));
                }
                DriverAction::Store { name, bytes } => {
                    check("bytes of a blob", bytes.len(), limits::DRIVER_BLOB_BYTES)?;
                    let digest = Digest::of(&bytes);
                    self.list(id, name, digest)?;
                    self.blobs.insert(digest, bytes);
                    effects.push(Effect::StoreBlob(digest));
                }
                DriverAction::Artifact { name, digest } => self.list(id, name, digest)?,
                DriverAction::Finish { summary } => {
                    check("bytes of a summary", summary.len(), limits::SUMMARY_BYTES)?;
                    self.end(id, Phase::Finished { summary }, effects);
                }
                DriverAction::Fail { error } => self.end(id, Phase::Failed { error }, effects),
            }
        }
        Ok(())
    }

    fn start(
        &mut self,
        id: JobId,
        demand: DemandId,
        mut state: DemandState,
        events: &mut VecDeque<DriverEvent>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let Some(job) = self.jobs.get_mut(&id) else {
            return Ok(());
        };
        if let (Some(map), Some(class)) = (state.map_mut(), &job.numerics) {
            map.answer_from(&self.cache, class);
        }
        if let Some(results) = state
            .map()
            .filter(|map| map.open == 0)
            .and_then(MapState::results)
        {
            let (evaluated, cache_hits) = state
                .map()
                .map_or((0, 0), |map| (map.evaluated, map.cache_hits));
            job.cache_hits += u64::from(cache_hits);
            events.push_back(DriverEvent::MapFinished {
                demand,
                results,
                evaluated,
                cache_hits,
            });
            return Ok(());
        }
        let Some(work) = job.work_mut() else {
            return Ok(());
        };
        check("demands at once", work.demands.len() + 1, limits::DEMANDS)?;
        if work.demands.insert(demand, state).is_some() {
            return Err(format!("the driver numbered two demands {demand}"));
        }
        effects.push(Effect::DemandStarted { job: id, demand });
        Ok(())
    }

    fn list(&mut self, id: JobId, name: String, digest: Digest) -> Result<(), String> {
        let Some(job) = self.jobs.get_mut(&id) else {
            return Ok(());
        };
        check("artifacts", job.artifacts.len() + 1, limits::ARTIFACTS)?;
        check("bytes of an artifact's name", name.len(), NAME_BYTES)?;
        if job.artifacts.iter().any(|(known, _)| *known == name) {
            return Err(format!("the driver wrote two artifacts named {name:?}"));
        }
        job.artifacts.push((name, digest));
        Ok(())
    }
}

/// One step, on a copy that replaces the driver only if the step was taken.
pub(super) fn guarded<D: Driver + Clone>(
    driver: &mut D,
    event: &DriverEvent,
) -> Result<Vec<DriverAction>, String> {
    let mut copy = driver.clone();
    match catch_unwind(AssertUnwindSafe(|| copy.on(event))) {
        Ok(Ok(actions)) => {
            *driver = copy;
            Ok(actions)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!(
            "the driver panicked: {}",
            panic_text(panic.as_ref())
        )),
    }
}

/// Checks a demand against the limits.
fn body(demand: Demand) -> Result<Body, String> {
    match demand {
        Demand::Gang {
            min,
            max,
            kernel,
            payload,
            inputs,
        } => {
            check("bytes of a payload", payload.len(), limits::PAYLOAD_BYTES)?;
            check("inputs", inputs.len(), limits::INPUTS)?;
            if min == 0 || min > max || max > limits::GANG_RANKS {
                return Err(format!(
                    "the driver asked for a gang of {min} to {max} ranks, expected 1 to {}",
                    limits::GANG_RANKS
                ));
            }
            Ok(Body::Gang(GangState::new(
                min, max, kernel, payload, inputs,
            )))
        }
        Demand::Map {
            kernel,
            payload,
            items,
            inputs,
        } => {
            check("bytes of a payload", payload.len(), limits::PAYLOAD_BYTES)?;
            check("inputs", inputs.len(), limits::INPUTS)?;
            check("items of a map", items.len(), limits::MAP_ITEMS)?;
            for item in &items {
                check("bytes of an item", item.len(), limits::ITEM_BYTES)?;
            }
            Ok(Body::Map(MapState::new(kernel, payload, inputs, items)))
        }
    }
}

fn check(what: &str, got: usize, limit: usize) -> Result<(), String> {
    if got <= limit {
        Ok(())
    } else {
        Err(format!(
            "the driver asked for {got} {what}, at most {limit} are allowed"
        ))
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}
