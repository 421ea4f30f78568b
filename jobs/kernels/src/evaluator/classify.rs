//! Kernel `evaluate.classify`: correct answers and time of a net on the test part, by libtorch.

use super::{check_call, check_fits, input};
use crate::KernelError;
use crate::data;
use crate::forward::{batches, count_correct, evaluate_layers};
use crate::weights::Weights;
use evoring_jobs::calls::{EvaluateCall, EvaluateItem, EvaluateResult, Score};
use evoring_jobs::data::Part;
use evoring_jobs::network::NetworkSpec;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tch::Tensor;

/// Forward passes that are timed for the median, at least and at most, and the time after which
/// no more are made.
const TIMED_PASSES: std::ops::RangeInclusive<usize> = 5..=31;
const TIMED: Duration = Duration::from_millis(500);

/// Evaluates one net.
pub fn evaluate(
    call: &EvaluateCall,
    item: &EvaluateItem,
    inputs: &[PathBuf],
) -> Result<EvaluateResult, KernelError> {
    check_call(&call.network, &call.data)?;
    let (spec, weights) = net(call, item, inputs)?;
    let prepared = data::prepare(&call.data, Part::Test)?;
    let [channels, height, width] = call.data.shape.map(i64::from);
    let images = Tensor::from_slice(&prepared.images).view([-1, channels, height, width]);
    let labels: Vec<i64> = prepared
        .labels
        .iter()
        .map(|label| i64::from(*label))
        .collect();
    let labels = Tensor::from_slice(&labels);
    // Copied, so that memory is aligned alike whatever the batch.
    let run = |start, count| {
        evaluate_layers(
            &spec,
            &weights,
            0..spec.layers.len(),
            &images.narrow(0, start, count).copy(),
        )
    };
    let total = labels.size()[0];
    let correct = batches(total, call.batch)
        .map(|(start, count)| count_correct(&run(start, count), &labels.narrow(0, start, count)))
        .sum();
    let images = total.min(i64::from(call.batch.max(1)));
    let nanoseconds_per_image = median_nanoseconds(|| run(0, images)) / images.max(1) as u64;
    Ok(EvaluateResult {
        score: Score {
            correct,
            total: total as u32,
        },
        nanoseconds_per_image,
    })
}

/// The net to evaluate: full, cut from the full one's weights, or small already.
fn net(
    call: &EvaluateCall,
    item: &EvaluateItem,
    inputs: &[PathBuf],
) -> Result<(NetworkSpec, Weights), KernelError> {
    let path = input(inputs, item.input)?;
    let Some(chromosome) = &item.chromosome else {
        return Ok((call.network.clone(), Weights::load(path, &call.network)?));
    };
    check_fits(&call.network, chromosome)?;
    let small = call.network.pruned(chromosome);
    let weights = match item.is_small {
        true => Weights::load(path, &small)?,
        false => Weights::load(path, &call.network)?.cut(&call.network, chromosome),
    };
    Ok((small, weights))
}

fn median_nanoseconds(mut pass: impl FnMut() -> Tensor) -> u64 {
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < *TIMED_PASSES.start()
        || (times.len() < *TIMED_PASSES.end() && begin.elapsed() < TIMED)
    {
        let begin = Instant::now();
        let logits = pass();
        // Reading a value makes sure that everything is computed.
        let _ = logits.double_value(&[0, 0]);
        times.push(begin.elapsed().as_nanos() as u64);
    }
    times.sort_unstable();
    times[times.len() / 2]
}
