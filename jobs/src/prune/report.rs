//! What came out: `result.json` (depends on the job alone), `measured.json` (times and what the
//! cluster had cached) and the summary that stays in the replicated state.

use super::comparison::{Rival, Winner};
use super::driver::Found;
use super::job::{PruneJob, accuracy};
use super::shortlist::Candidate;
use super::step::NAME;
use super::tuning::{Contestant, Role, Row};
use crate::calls::{EvaluateResult, Score, TrainResult};
use evoring_protocol::Digest;
use serde::Serialize;

/// Everything that the files are made of.
pub(super) struct Findings<'a> {
    pub(super) job: &'a PruneJob,
    pub(super) found: Found,
    pub(super) winner: Winner,
    pub(super) rivals: [Option<Rival>; 2],
    pub(super) contestants: Vec<Contestant>,
    pub(super) rows: Vec<Row>,
    pub(super) results: Vec<EvaluateResult>,
}

#[derive(Serialize)]
struct ResultFile<'a> {
    format: &'static str,
    job: &'a PruneJob,
    /// Content of the test images and labels.
    test_digest: Option<Digest>,
    rows: Vec<ResultRow<'a>>,
    winner: WinnerEntry,
    rivals: Vec<RivalEntry>,
    search: SearchEntry,
    weights: Vec<WeightsEntry>,
}

/// A row of the final table.
#[derive(Serialize)]
struct ResultRow<'a> {
    name: &'a str,
    parameters: u64,
    multiplications: u64,
    bytes: u64,
    correct: u32,
    total: u32,
    accuracy: f64,
    compression: f64,
}

#[derive(Serialize)]
struct WinnerEntry {
    genome: String,
    widths: Vec<u32>,
    parameters: u64,
    compression: f64,
    compression_reached: bool,
    generation: u32,
    fitness: f64,
    fitness_correct: u32,
    fitness_total: u32,
    selection_correct: u32,
    selection_total: u32,
}

#[derive(Serialize)]
struct RivalEntry {
    name: &'static str,
    genome: String,
    widths: Vec<u32>,
    parameters: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    selection_correct: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<u64>,
}

#[derive(Serialize)]
struct SearchEntry {
    /// Individuals of all generations.
    individuals: u64,
    /// Different chromosomes among them.
    different: u64,
}

#[derive(Serialize)]
struct WeightsEntry {
    name: &'static str,
    digest: String,
}

#[derive(Serialize)]
struct MeasuredFile<'a> {
    format: &'static str,
    rows: Vec<MeasuredRow<'a>>,
    trainings: Vec<TrainingEntry>,
    /// Evaluations that were computed, and answered from the cache.
    evaluated: u64,
    cache_hits: u64,
}

#[derive(Serialize)]
struct MeasuredRow<'a> {
    name: &'a str,
    nanoseconds_per_image: u64,
}

impl<'a> MeasuredRow<'a> {
    fn new(row: &'a Row, result: &EvaluateResult) -> Self {
        Self {
            name: &row.name,
            nanoseconds_per_image: result.nanoseconds_per_image,
        }
    }
}

#[derive(Serialize)]
struct TrainingEntry {
    name: &'static str,
    steps: u64,
    final_loss: f64,
}

#[derive(Serialize)]
struct Summary<'a> {
    format: &'static str,
    compression_reached: bool,
    individuals: u64,
    different: u64,
    evaluated: u64,
    cache_hits: u64,
    rows: Vec<SummaryRow<'a>>,
}

#[derive(Serialize)]
struct SummaryRow<'a> {
    #[serde(flatten)]
    row: ResultRow<'a>,
    nanoseconds_per_image: u64,
}

#[derive(Serialize)]
struct SelectionFile {
    format: &'static str,
    /// Position of the winner among the finalists.
    winner: usize,
    finalists: Vec<FinalistEntry>,
}

#[derive(Serialize)]
struct FinalistEntry {
    genome: String,
    generation: u32,
    parameters: u64,
    fitness: f64,
    fitness_correct: u32,
    fitness_total: u32,
    selection_correct: u32,
    selection_total: u32,
}

impl Findings<'_> {
    /// `result.json`.
    pub(super) fn result_file(&self) -> Vec<u8> {
        let full = ("full", Some(self.found.base.full));
        let tuned = self
            .contestants
            .iter()
            .map(|contestant| (contestant.role.name(), contestant.weights()));
        let entry = |(name, digest): (&'static str, Option<_>)| {
            digest.map(|digest: Digest| WeightsEntry {
                name,
                digest: digest.to_string(),
            })
        };
        json(&ResultFile {
            format: NAME,
            job: self.job,
            test_digest: self.results.first().map(|result| result.data),
            rows: self.rows(),
            winner: self.winner(),
            rivals: self.rivals(),
            search: SearchEntry {
                individuals: self.found.counts.individuals,
                different: self.found.counts.different,
            },
            weights: [full].into_iter().chain(tuned).filter_map(entry).collect(),
        })
    }

    /// `measured.json`.
    pub(super) fn measured_file(&self) -> Vec<u8> {
        let tuned = self
            .contestants
            .iter()
            .filter_map(|each| Some((each.role.name(), each.tuned.as_ref()?)));
        let training = |(name, result): (&'static str, &TrainResult)| TrainingEntry {
            name,
            steps: result.steps,
            final_loss: result.final_loss,
        };
        json(&MeasuredFile {
            format: NAME,
            rows: self
                .rows
                .iter()
                .zip(&self.results)
                .map(|(row, result)| MeasuredRow::new(row, result))
                .collect(),
            trainings: [("full", &self.found.trained)]
                .into_iter()
                .chain(tuned)
                .map(training)
                .collect(),
            evaluated: self.found.counts.evaluated,
            cache_hits: self.found.counts.cache_hits,
        })
    }

    /// The summary, on one line.
    pub(super) fn summary(&self) -> String {
        let times = self
            .results
            .iter()
            .map(|result| result.nanoseconds_per_image);
        let rows = self.rows().into_iter().zip(times);
        let summary = Summary {
            format: NAME,
            compression_reached: self.winner.is_budget_met,
            individuals: self.found.counts.individuals,
            different: self.found.counts.different,
            evaluated: self.found.counts.evaluated,
            cache_hits: self.found.counts.cache_hits,
            rows: rows
                .map(|(row, nanoseconds_per_image)| SummaryRow {
                    row,
                    nanoseconds_per_image,
                })
                .collect(),
        };
        // Plain data with finite numbers always has a JSON form.
        serde_json::to_string(&summary).unwrap_or_default()
    }

    fn rows(&self) -> Vec<ResultRow<'_>> {
        self.rows
            .iter()
            .zip(&self.results)
            .map(|(row, result)| self.row(row, result.score))
            .collect()
    }

    fn row<'a>(&self, Row { name, item }: &'a Row, score: Score) -> ResultRow<'a> {
        let full = &self.job.network;
        let network = item
            .chromosome
            .as_ref()
            .map_or_else(|| full.clone(), |genome| full.pruned(genome));
        ResultRow {
            name,
            parameters: network.parameters(),
            multiplications: network.multiplications(),
            bytes: network.bytes(),
            correct: score.correct,
            total: score.total,
            accuracy: accuracy(score),
            compression: full.parameters() as f64 / network.parameters().max(1) as f64,
        }
    }

    fn winner(&self) -> WinnerEntry {
        let Winner {
            candidate,
            selection,
            is_budget_met,
        } = &self.winner;
        WinnerEntry {
            genome: candidate.genome.to_string(),
            widths: self.job.network.widths(&candidate.genome),
            parameters: candidate.parameters,
            compression: self.job.network.parameters() as f64 / candidate.parameters.max(1) as f64,
            compression_reached: *is_budget_met,
            generation: candidate.generation,
            fitness: candidate.fitness,
            fitness_correct: candidate.score.correct,
            fitness_total: candidate.score.total,
            selection_correct: selection.correct,
            selection_total: selection.total,
        }
    }

    fn rivals(&self) -> Vec<RivalEntry> {
        let chosen = |role: Role| match role {
            Role::L1Best => self.rivals[0].as_ref(),
            Role::Random => self.rivals[1].as_ref(),
            Role::FullExtra | Role::Compressed | Role::L1Widths => None,
        };
        let entry = |contestant: &Contestant| {
            let genome = contestant.genome.as_ref()?;
            let rival = chosen(contestant.role);
            let widths = self.job.network.widths(genome);
            Some(RivalEntry {
                name: contestant.role.name(),
                genome: genome.to_string(),
                parameters: self.job.network.with_widths(&widths).parameters(),
                widths,
                selection_correct: rival
                    .and_then(|rival| rival.selection)
                    .map(|score| score.correct),
                candidates: rival.map(|rival| rival.candidates),
            })
        };
        self.contestants
            .iter()
            .filter(|each| each.role != Role::Compressed)
            .filter_map(entry)
            .collect()
    }
}

/// Bytes of a finalist in [`selection`] beside its genome, at most.
pub(crate) const FINALIST_BYTES: u64 = 448;

/// `selection.json`: the finalists on both parts of the data.
pub(super) fn selection(finalists: &[Candidate], scores: &[Score], winner: usize) -> Vec<u8> {
    let entry = |(candidate, score): (&Candidate, &Score)| FinalistEntry {
        genome: candidate.genome.to_string(),
        generation: candidate.generation,
        parameters: candidate.parameters,
        fitness: candidate.fitness,
        fitness_correct: candidate.score.correct,
        fitness_total: candidate.score.total,
        selection_correct: score.correct,
        selection_total: score.total,
    };
    let finalists = finalists.iter().zip(scores).map(entry).collect();
    json(&SelectionFile {
        format: NAME,
        winner,
        finalists,
    })
}

/// Indented JSON with a line end at the end.
pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain data with finite numbers and string keys always has a JSON form.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evolution::Chromosome;

    /// Claim: a finalist takes at most its genes and [`FINALIST_BYTES`], by which job files are
    /// checked. Method: the longest numbers that the fields can hold.
    #[test]
    fn finalists_take_no_more_than_estimated() {
        let score = Score {
            correct: u32::MAX,
            total: u32::MAX,
        };
        let candidate = Candidate {
            genome: Chromosome::ones(100),
            parameters: u64::MAX,
            score,
            fitness: -1.234_567_890_123_456_7e-300,
            generation: u32::MAX,
        };
        let bytes = |count: usize| {
            selection(&vec![candidate.clone(); count], &vec![score; count], 0).len() as u64
        };
        assert!(bytes(2) - bytes(1) <= 100 + FINALIST_BYTES);
        assert!(bytes(2) - bytes(1) > FINALIST_BYTES / 2);
    }
}
