//! Trains a network in one process and says how well it does on the selection images, which is how
//! the recipe of the examples was chosen: the test split is never read.
//!
//! ```text
//! cargo run --release -p evoring-kernels --example recipe -- \
//!     network=lenet epochs=8 batch=128 rate=0.05 momentum=0.9 decay=0.0005 seed=1
//! ```

use evoring_jobs::calls::{
    PruneEvaluateCall, Recipe, Score, TrainCall, TrainResult, decode, encode,
};
use evoring_jobs::data::{DataSource, DataSpec, Part};
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::NetworkSpec;
use evoring_kernels::local::{Local, Work, enter_executor_environment};
use evoring_protocol::work::{Kernel, TrainingProgress};
use std::collections::BTreeMap;
use std::time::Instant;

fn print(progress: &TrainingProgress) {
    let TrainingProgress { step, steps, loss } = progress;
    if step.is_multiple_of(200) {
        eprintln!("step {step} of {steps}: loss {loss:.4}");
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
        digest: None,
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    enter_executor_environment()?;
    let settings = std::env::args().skip(1).filter_map(|argument| {
        let (name, value) = argument.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    let call = call(&settings.collect()).ok_or("usage: recipe NAME=NUMBER …")?;
    let folder = std::env::temp_dir().join(format!("evoring-recipe-{}", std::process::id()));
    let mut local = Local::new(&folder, print)?;
    let begin = Instant::now();
    let result: TrainResult = decode(&local.gang(Work {
        title: "training",
        kernel: Kernel::TrainClassify,
        payload: &encode(&call),
        inputs: &[],
    })?)?;
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
        });
        let work = Work {
            title: "evaluation",
            kernel: Kernel::PruneEvaluate,
            payload: &payload,
            inputs: &[result.weights],
        };
        let full = encode(&Chromosome::ones(call.network.genes()));
        for score in local.map(work, &[full])?.results {
            println!("{part:?}: {:?}", decode::<Score>(&score)?);
        }
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
