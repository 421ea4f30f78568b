//! Runs a job file without a cluster: the driver and the kernels in one process on one thread.
//!
//! For choosing hyper-parameters and for measurements; the artifacts have the same bytes as those
//! of a cluster. Usage: `in_process JOB.toml DIR`. `DIR` keeps blobs, so that a job that differs
//! only in its search does not train again.

use evoring_jobs::calls::{TrainCall, decode, encode};
use evoring_jobs::driver::{Demand, Driver, DriverAction, DriverEvent};
use evoring_kernels::evaluator::{Evaluator, Items};
use evoring_kernels::training::{
    SingleProcess, TrainFiles, TrainObserver, exchange_length, run_rank,
};
use evoring_protocol::work::{Kernel, TrainingProgress};
use evoring_protocol::{Digest, ItemIndex};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Results in the order of the items, and how many were known.
type MapResults = (Vec<Vec<u8>>, u32);

struct Silent;

impl TrainObserver for Silent {
    fn progress(&mut self, progress: TrainingProgress) {
        if progress.step.is_multiple_of(200) {
            println!(
                "  step {}/{} loss {:.4}",
                progress.step, progress.steps, progress.loss
            );
        }
    }
    fn checkpoint(&mut self, _step: u64, path: &Path) -> Result<(), evoring_kernels::KernelError> {
        let _ = std::fs::remove_file(path);
        Ok(())
    }
    fn should_stop(&self) -> bool {
        false
    }
}

struct Runner {
    folder: PathBuf,
    evaluator: Evaluator,
    cache: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Runner {
    fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.blob"))
    }

    fn gang(&mut self, payload: &[u8], inputs: &[Digest]) -> Result<Vec<u8>, Box<dyn Error>> {
        let key = Digest::of(&encode(&(payload, inputs)));
        let known = self.folder.join(format!("{key}.result"));
        if let Ok(result) = std::fs::read(&known) {
            return Ok(result);
        }
        let call: TrainCall = decode(payload)?;
        let inputs: Vec<PathBuf> = inputs.iter().map(|digest| self.blob(digest)).collect();
        let mut exchange = SingleProcess::new(call.shards, exchange_length(&call)?);
        let files = TrainFiles {
            inputs: &inputs,
            resume: None,
            scratch: &self.folder,
        };
        let (result, weights) = run_rank(&call, files, &mut exchange, &mut Silent)?;
        std::fs::rename(weights, self.blob(&result.weights))?;
        let result = encode(&result);
        std::fs::write(known, &result)?;
        Ok(result)
    }

    fn map(
        &mut self,
        kernel: Kernel,
        payload: &[u8],
        items: &[Vec<u8>],
        inputs: &[Digest],
    ) -> Result<MapResults, Box<dyn Error>> {
        let paths: Vec<PathBuf> = inputs.iter().map(|digest| self.blob(digest)).collect();
        let (mut results, mut hits) = (Vec::new(), 0);
        for item in items {
            let key = encode(&(kernel, payload, inputs, item));
            if let Some(known) = self.cache.get(&key).filter(|_| kernel.is_cacheable()) {
                hits += 1;
                results.push(known.clone());
                continue;
            }
            let one = [(ItemIndex(0), item.clone())];
            let work = Items {
                kernel,
                payload,
                inputs: &paths,
                digests: inputs,
                items: &one,
            };
            let mut outcome = None;
            self.evaluator
                .run_items(work, &mut |o| outcome = Some(o.result), &|| false);
            let result = outcome.ok_or("no outcome")??;
            self.cache.insert(key, result.clone());
            results.push(result);
        }
        Ok((results, hits))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    evoring_kernels::initialise();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, folder] = arguments.as_slice() else {
        return Err("usage: in_process JOB.toml DIR".into());
    };
    std::fs::create_dir_all(folder)?;
    let spec = evoring_jobs::spec::parse(file, &std::fs::read_to_string(file)?)?;
    let mut driver = spec.driver;
    let mut runner = Runner {
        folder: folder.into(),
        evaluator: Evaluator::default(),
        cache: BTreeMap::new(),
    };
    let mut events = std::collections::VecDeque::from([DriverEvent::Start]);
    while let Some(event) = events.pop_front() {
        for action in driver.on(&event)? {
            match action {
                DriverAction::Run {
                    demand,
                    title,
                    what,
                    ..
                } => {
                    let begin = Instant::now();
                    let event = match what {
                        Demand::Gang {
                            payload, inputs, ..
                        } => DriverEvent::GangFinished {
                            demand,
                            result: runner.gang(&payload, &inputs)?,
                        },
                        Demand::Map {
                            kernel,
                            payload,
                            items,
                            inputs,
                        } => {
                            let (results, cache_hits) =
                                runner.map(kernel, &payload, &items, &inputs)?;
                            let evaluated = items.len() as u32 - cache_hits;
                            DriverEvent::MapFinished {
                                demand,
                                results,
                                evaluated,
                                cache_hits,
                            }
                        }
                    };
                    println!("{title}: {:.2} s", begin.elapsed().as_secs_f64());
                    events.push_back(event);
                }
                DriverAction::Store { name, bytes } => {
                    let path = Path::new(folder).join(&name);
                    std::fs::create_dir_all(path.parent().ok_or("a name has a folder")?)?;
                    std::fs::write(path, bytes)?;
                }
                DriverAction::Generation(summary) => println!("{summary:?}"),
                DriverAction::Finish { summary } => println!("{summary}"),
                DriverAction::Fail { error } => return Err(error.into()),
                other => println!("{other:?}"),
            }
        }
    }
    Ok(())
}
