//! Trains a network in one process and says how well it does on the selection images, which is how
//! the recipe of the examples was chosen: the test split is never read.
//!
//! ```text
//! cargo run --release -p evoring-kernels --example recipe -- \
//!     network=lenet epochs=8 batch=128 rate=0.05 momentum=0.9 decay=0.0005 seed=1
//! ```

use evoring_jobs::calls::{PruneEvaluateCall, Recipe, TrainCall, decode, encode};
use evoring_jobs::calls::{Score, TrainResult};
use evoring_jobs::data::{DataSource, DataSpec, Part};
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::NetworkSpec;
use evoring_kernels::KernelError;
use evoring_kernels::evaluator::{Evaluator, Items};
use evoring_kernels::training::{
    SingleProcess, TrainFiles, TrainObserver, exchange_length, run_rank,
};
use evoring_protocol::ItemIndex;
use evoring_protocol::work::{Kernel, TrainingProgress};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

struct Quiet;

impl TrainObserver for Quiet {
    fn progress(&mut self, progress: TrainingProgress) {
        if progress.step.is_multiple_of(200) {
            eprintln!(
                "step {} of {}: loss {:.4}",
                progress.step, progress.steps, progress.loss
            );
        }
    }
    fn checkpoint(&mut self, _: u64, _: &Path) -> Result<(), KernelError> {
        Ok(())
    }
    fn should_stop(&self) -> bool {
        false
    }
}

fn call(settings: &BTreeMap<String, String>) -> Option<TrainCall> {
    let text = |name: &str, default: &str| {
        settings
            .get(name)
            .cloned()
            .unwrap_or_else(|| default.to_owned())
    };
    let number = |name: &str, default: &str| text(name, default).parse::<f64>().ok();
    let network = NetworkSpec::preset(&text("network", "lenet"), number("classes", "10")? as u32)?;
    let data = DataSpec {
        source: DataSource::Named(text("data", "fashion-mnist")),
        shape: network.input,
        classes: network.classes(),
        split_seed: number("split", "1")? as u64,
        fitness_images: number("fitness", "2000")? as u32,
        selection_images: number("selection", "8000")? as u32,
        train_images: settings
            .get("images")
            .and_then(|images| images.parse().ok()),
    };
    let recipe = Recipe {
        epochs: number("epochs", "8")? as u32,
        batch: number("batch", "128")? as u32,
        learning_rate: number("rate", "0.05")?,
        warmup_steps: number("warmup", "100")? as u32,
        momentum: number("momentum", "0.9")?,
        weight_decay: number("decay", "0.0005")?,
        flip: number("flip", "0")? > 0.0,
        shift_pixels: number("shift", "0")? as u32,
    };
    let (seed, shards) = (number("seed", "1")? as u64, number("shards", "4")? as u32);
    Some(TrainCall {
        network,
        chromosome: None,
        data,
        recipe,
        seed,
        shards,
        checkpoint_steps: u32::MAX,
    })
}

fn run(call: &TrainCall, folder: &Path) -> Result<(TrainResult, PathBuf), KernelError> {
    let mut exchange = SingleProcess::new(call.shards, exchange_length(call)?);
    let files = TrainFiles {
        inputs: &[],
        resume: None,
        scratch: folder,
    };
    run_rank(call, files, &mut exchange, &mut Quiet)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = std::env::args().skip(1).filter_map(|argument| {
        let (name, value) = argument.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    let call = call(&settings.collect()).ok_or("usage: recipe NAME=NUMBER …")?;
    evoring_kernels::initialise();
    let folder = std::env::temp_dir().join(format!("evoring-recipe-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let begin = Instant::now();
    let (result, weights) = run(&call, &folder)?;
    let seconds = begin.elapsed().as_secs_f64();
    let images = result.steps * u64::from(call.recipe.batch);
    println!("{:?}", call.recipe);
    println!(
        "loss {:.4}; {seconds:.1} s, {:.0} images/s",
        result.final_loss,
        images as f64 / seconds
    );
    for part in [Part::Fitness, Part::Selection] {
        let payload = encode(&PruneEvaluateCall {
            network: call.network.clone(),
            data: call.data.clone(),
            part,
            batch: 100,
        });
        let items = [(
            ItemIndex(0),
            encode(&Chromosome::ones(call.network.genes())),
        )];
        let work = Items {
            kernel: Kernel::PruneEvaluate,
            payload: &payload,
            inputs: std::slice::from_ref(&weights),
            digests: &[result.weights],
            items: &items,
        };
        let report = &mut |outcome: evoring_protocol::work::ItemOutcome| {
            let score = outcome.result.map(|bytes| decode::<Score>(&bytes));
            println!("{part:?}: {score:?}");
        };
        Evaluator::default().run_items(work, report, &|| false);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
