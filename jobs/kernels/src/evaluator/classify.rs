//! Kernel `evaluate.classify`: correct answers and time of a net on the test part, by libtorch.

use super::{check_call, check_fits, input};
use crate::KernelError;
use crate::data;
use crate::forward::{batches, count_correct, evaluate_layers};
use crate::weights::Weights;
use evoring_jobs::calls::{EvaluateCall, EvaluateItem, EvaluateResult, Score};
use evoring_jobs::data::Part;
use evoring_jobs::network::NetworkSpec;
use rustix::time::{ClockId, clock_gettime};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tch::Tensor;

/// Forward passes of which the fastest counts, at least and at most, and the time after which no
/// more are made.
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
    let nanoseconds = least_nanoseconds(|| {
        let logits = run(0, images);
        // Reading a value makes sure that everything is computed.
        let _ = logits.double_value(&[0, 0]);
    });
    let nanoseconds_per_image = nanoseconds / images.max(1) as u64;
    Ok(EvaluateResult {
        score: Score {
            correct,
            total: total as u32,
        },
        data: prepared.digest,
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

/// Processor time of the fastest of several passes. Other slots compute at the same time: the
/// wall clock would count the waiting for a processor, and of all passes the fastest was disturbed
/// least in the caches. So nets of one shape get about the same number.
fn least_nanoseconds(mut pass: impl FnMut()) -> u64 {
    let begin = Instant::now();
    let mut least = Duration::MAX;
    let mut passes = 0;
    while passes < *TIMED_PASSES.start()
        || (passes < *TIMED_PASSES.end() && begin.elapsed() < TIMED)
    {
        let before = thread_time();
        pass();
        least = least.min(thread_time().saturating_sub(before));
        passes += 1;
    }
    least.as_nanos() as u64
}

/// Time for which this thread has had a processor.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: time in which others compute is not counted, and the fastest pass is. Method: passes
    // that hand a fixed stretch of work to another thread and wait for it.
    #[test]
    fn waiting_is_not_measured() {
        let stretch = Duration::from_millis(20);
        let others = || {
            let begin = Instant::now();
            while begin.elapsed() < stretch {
                std::hint::spin_loop();
            }
        };
        let measured = least_nanoseconds(|| {
            std::thread::scope(|scope| {
                scope.spawn(others);
            });
        });
        assert!(
            Duration::from_nanos(measured) < stretch,
            "{measured} ns of {stretch:?} that were only waited for"
        );
        let work = least_nanoseconds(|| {
            let begin = thread_time();
            while thread_time() - begin < Duration::from_millis(2) {}
        });
        assert!(work >= 2_000_000, "{work} ns of 2 ms that were computed");
    }
}
