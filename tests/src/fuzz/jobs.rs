//! Job files, and the arguments and results of kernels.

use evoring_jobs::calls::{
    self, EvaluateCall, EvaluateItem, EvaluateResult, PruneEvaluateCall, RankCall, RankItem, Score,
    TrainCall, TrainResult,
};
use evoring_jobs::driver::{Driver, JobDriver};
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::NetworkSpec;
use evoring_jobs::spec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A job file, as a submitter sends it.
pub fn job_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(job) = spec::parse("job.toml", &text) {
        let bytes = calls::encode(&job.driver);
        let again: JobDriver = calls::decode(&bytes).expect("what was encoded decodes");
        assert_eq!(again, job.driver);
        assert!(!job.driver.stages().is_empty());
    }
    if let Ok(absolute) = spec::with_absolute_paths("job.toml", &text, "/folder") {
        let again = spec::with_absolute_paths("job.toml", &absolute, "/elsewhere");
        assert_eq!(again.as_ref(), Ok(&absolute), "from {text:?}");
    }
}

/// An argument, item or result of a kernel; the first byte says which.
pub fn call(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 11 {
        0 => {
            if let Some(call) = round::<TrainCall>(bytes) {
                network(&call.network, call.chromosome.as_ref());
            }
        }
        1 => drop(round::<TrainResult>(bytes)),
        2 => {
            if let Some(call) = round::<RankCall>(bytes) {
                network(&call.network, None);
            }
        }
        3 => drop(round::<RankItem>(bytes)),
        4 => {
            if let Some(call) = round::<PruneEvaluateCall>(bytes) {
                network(&call.network, None);
            }
        }
        5 => drop(round::<Score>(bytes)),
        6 => {
            if let Some(call) = round::<EvaluateCall>(bytes) {
                network(&call.network, None);
            }
        }
        7 => drop(round::<EvaluateItem>(bytes)),
        8 => drop(round::<EvaluateResult>(bytes)),
        9 => drop(round::<Vec<u16>>(bytes)),
        _ => {
            if let Some(chromosome) = round::<Chromosome>(bytes) {
                assert!(chromosome.is_canonical());
                let digits = chromosome.to_string();
                assert_eq!(Chromosome::parse(&digits), Some(chromosome));
            }
        }
    }
}

/// Decodes; if that works, the value must survive another round.
fn round<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: T = calls::decode(bytes).ok()?;
    let encoded = calls::encode(&value);
    let again: T = calls::decode(&encoded).expect("what was encoded decodes");
    // Not the values: a NaN is not equal to itself.
    assert_eq!(calls::encode(&again), encoded);
    Some(value)
}

/// Any description can be checked; one that passes can be measured and pruned.
fn network(network: &NetworkSpec, chromosome: Option<&Chromosome>) {
    if network.validate().is_err() {
        return;
    }
    assert_eq!(network.tensors().is_empty(), network.parameters() == 0);
    assert!(network.multiplications() > 0 && network.genes() > 0);
    if let Some(chromosome) = chromosome
        && network.fits(chromosome)
    {
        let small = network.pruned(chromosome);
        assert_eq!(small.validate(), Ok(()));
        assert!(small.parameters() <= network.parameters());
    }
}
