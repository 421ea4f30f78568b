//! Feeds a target with its corpus and with mutations of it, and says what went wrong.

use super::Target;
use super::mutate::{Random, mutated};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest that one input may take. Wall clock: one that takes longer is tried again, so that a busy
/// machine is not taken for a slow decoder.
const MOST_TIME: Duration = Duration::from_secs(1);
/// Tries of an input that took too long.
const TRIES: usize = 3;

/// Counts the memory of the process.
pub trait Meter {
    /// Bytes that are taken now; the peak is counted from here on.
    fn begin(&self) -> usize;
    /// Most bytes that were taken since.
    fn peak(&self) -> usize;
}

/// A corpus: inputs with the names of their files.
pub type Corpus = Vec<(String, Vec<u8>)>;

/// What is to be tried.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Decides every mutation.
    pub seed: u64,
    /// Mutated inputs.
    pub executions: u64,
}

/// An input that a target does not stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// File of the corpus, or number of the mutation.
    pub origin: String,
    /// What happened.
    pub what: Fault,
}

/// What must not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The target panicked with this message.
    Panic(String),
    /// It held too much memory.
    Memory {
        /// Bytes at the peak.
        peak: usize,
        /// Most allowed for an input of this size.
        most: usize,
    },
    /// It took this long, each time it was tried.
    Slow(Duration),
}

/// Reads the folder of a target's corpus, in the order of names.
pub fn corpus(folder: &Path) -> io::Result<Corpus> {
    let mut corpus = Corpus::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        corpus.push((name, fs::read(entry.path())?));
    }
    corpus.sort();
    Ok(corpus)
}

/// Tries the corpus, then mutations; the first finding ends it. Each input is in `last` before it is
/// tried, for those that end the process.
pub fn run(
    target: &Target,
    corpus: &Corpus,
    plan: Plan,
    last: &File,
    meter: &impl Meter,
) -> io::Result<Option<Finding>> {
    for (name, input) in corpus {
        if let Some(what) = attempt(target, input, last, meter)? {
            return Ok(Some(finding(input, format!("corpus file {name}"), what)));
        }
    }
    let inputs: Vec<Vec<u8>> = corpus.iter().map(|(_, input)| input.clone()).collect();
    for execution in 0..plan.executions {
        let mut random = Random::new(plan.seed, target.name, execution);
        let input = mutated(&inputs, &mut random);
        if let Some(what) = attempt(target, &input, last, meter)? {
            return Ok(Some(finding(&input, format!("mutation {execution}"), what)));
        }
    }
    Ok(None)
}

fn finding(input: &[u8], origin: String, what: Fault) -> Finding {
    Finding {
        input: input.to_vec(),
        origin,
        what,
    }
}

/// Tries one input.
pub fn attempt(
    target: &Target,
    input: &[u8],
    last: &File,
    meter: &impl Meter,
) -> io::Result<Option<Fault>> {
    last.set_len(input.len() as u64)?;
    last.write_all_at(input, 0)?;
    let most = target.per_byte * input.len() + target.constant;
    let mut least_time = Duration::MAX;
    for _ in 0..TRIES {
        let before = meter.begin();
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
        least_time = least_time.min(began.elapsed());
        let peak = meter.peak().saturating_sub(before);
        if let Err(panic) = outcome {
            return Ok(Some(Fault::Panic(message(&*panic))));
        }
        if peak > most {
            return Ok(Some(Fault::Memory { peak, most }));
        }
        if least_time <= MOST_TIME {
            return Ok(None);
        }
    }
    Ok(Some(Fault::Slow(least_time)))
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
