//! The state machine.

use super::comparison::{Base, Comparison, Rival, Winner, evaluate};
use super::job::PruneJob;
use super::ranking::{l1_order, rank_items};
use super::report::Findings;
use super::search::{Counts, SearchState};
use super::shortlist::{Candidate, winner};
use super::step::{Demands, Step, error, map, result, results, scores};
use super::tuning::{self, Contestant, Role, Row};
use super::{model, report};
use crate::calls::{EvaluateCall, EvaluateResult, RankCall, TrainCall, TrainResult, encode};
use crate::data::Part;
use crate::driver::{Demand, Driver, DriverAction, DriverError, DriverEvent};
use crate::evolution::{Chromosome, strongest};
use evoring_protocol::DemandId;
use evoring_protocol::work::Kernel;
use serde::{Deserialize, Serialize};

/// Stages, in order.
const STAGES: [&str; 4] = ["train", "search", "finetune", "evaluate"];

/// The driver: train, search, fine-tune, evaluate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PruneDriver {
    job: PruneJob,
    demands: Demands,
    phase: Phase,
}

/// Where the job stands, with what the rest of it needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Phase {
    New,
    Train,
    Rank {
        full: TrainResult,
    },
    Search {
        base: Base,
        trained: TrainResult,
        search: SearchState,
    },
    Select {
        found: Found,
        finalists: Vec<Candidate>,
        is_budget_met: bool,
    },
    Compare {
        found: Found,
        winner: Winner,
        comparison: Comparison,
    },
    FineTune {
        found: Found,
        winner: Winner,
        rivals: [Option<Rival>; 2],
        contestants: Vec<Contestant>,
    },
    Evaluate {
        found: Found,
        winner: Winner,
        rivals: [Option<Rival>; 2],
        contestants: Vec<Contestant>,
        rows: Vec<Row>,
    },
    End,
}

/// What is known once the search is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) base: Base,
    pub(super) trained: TrainResult,
    pub(super) counts: Counts,
}

/// Results of a map.
struct Answers<'a> {
    demand: DemandId,
    results: &'a [Vec<u8>],
    evaluated: u32,
    cache_hits: u32,
}

impl PruneDriver {
    /// A driver before its first event. The job must be valid, as [`crate::spec::parse`] makes it.
    pub fn new(job: PruneJob) -> Self {
        Self {
            job,
            demands: Demands::default(),
            phase: Phase::New,
        }
    }

    /// The job's parameters.
    pub fn job(&self) -> &PruneJob {
        &self.job
    }
}

impl Driver for PruneDriver {
    fn stages(&self) -> Vec<String> {
        STAGES.map(str::to_owned).to_vec()
    }

    fn on(&mut self, event: &DriverEvent) -> Result<Vec<DriverAction>, DriverError> {
        // Answers to what was still open when the job ended.
        if self.phase == Phase::End {
            return Ok(Vec::new());
        }
        let phase = std::mem::replace(&mut self.phase, Phase::End);
        let mut step = Step {
            actions: Vec::new(),
            demands: &mut self.demands,
        };
        self.phase = match event {
            DriverEvent::Start if phase == Phase::New => start(&self.job, &mut step),
            DriverEvent::Start => return Err(error("the job has started already")),
            DriverEvent::DemandFailed { demand, error } => {
                let title = step.demands.close(*demand)?;
                step.actions.push(DriverAction::Fail {
                    error: format!("{title} (demand {demand}): {error}"),
                });
                Phase::End
            }
            DriverEvent::GangFinished { demand, result } => {
                step.demands.close(*demand)?;
                on_gang(&mut self.job, phase, *demand, result, &mut step)?
            }
            DriverEvent::MapFinished {
                demand,
                results,
                evaluated,
                cache_hits,
            } => {
                step.demands.close(*demand)?;
                let answers = Answers {
                    demand: *demand,
                    results,
                    evaluated: *evaluated,
                    cache_hits: *cache_hits,
                };
                on_map(&self.job, phase, &answers, &mut step)?
            }
        };
        Ok(step.actions)
    }
}

fn start(job: &PruneJob, step: &mut Step<'_>) -> Phase {
    step.start_stage("train");
    let call = TrainCall {
        network: job.network.clone(),
        chromosome: None,
        data: job.data.clone(),
        recipe: job.train.recipe.clone(),
        seed: job.seed,
        shards: job.shards,
        checkpoint_steps: job.train.checkpoint_steps,
    };
    let [min, max] = job.train.ranks;
    let what = Demand::Gang {
        min,
        max,
        kernel: Kernel::TrainClassify,
        payload: encode(&call),
        inputs: Vec::new(),
    };
    step.run("train", "training the full net".to_owned(), what);
    Phase::Train
}

fn on_gang(
    job: &mut PruneJob,
    phase: Phase,
    demand: DemandId,
    bytes: &[u8],
    step: &mut Step<'_>,
) -> Result<Phase, DriverError> {
    match phase {
        Phase::Train => {
            let full: TrainResult = result("training", bytes)?;
            // From here on every call names the content that it is about.
            job.data.digest = Some(full.data);
            step.artifact("full.safetensors", full.weights);
            step.finish_stage("train");
            step.start_stage("search");
            let what = map(
                Kernel::PruneRank,
                &RankCall {
                    network: job.network.clone(),
                },
                &rank_items(job),
                vec![full.weights],
            );
            step.run("search", "ranking filters by L1 norm".to_owned(), what);
            Ok(Phase::Rank { full })
        }
        Phase::FineTune {
            found,
            winner,
            rivals,
            mut contestants,
        } => {
            if !tuning::enter(&mut contestants, demand, bytes)? {
                return Ok(Phase::FineTune {
                    found,
                    winner,
                    rivals,
                    contestants,
                });
            }
            step.finish_stage("finetune");
            step.start_stage("evaluate");
            let (rows, inputs) = tuning::rows(&found.base, &contestants);
            let call = EvaluateCall {
                network: job.network.clone(),
                data: job.data.clone(),
                batch: job.evaluate_batch,
            };
            let what = map(
                Kernel::EvaluateClassify,
                &call,
                rows.iter().map(|row| &row.item),
                inputs,
            );
            step.run(
                "evaluate",
                "evaluating every net on the test images".to_owned(),
                what,
            );
            Ok(Phase::Evaluate {
                found,
                winner,
                rivals,
                contestants,
                rows,
            })
        }
        _ => Err(error(format!("demand {demand} is no gang"))),
    }
}

fn on_map(
    job: &PruneJob,
    phase: Phase,
    answers: &Answers<'_>,
    step: &mut Step<'_>,
) -> Result<Phase, DriverError> {
    match phase {
        Phase::Rank { full } => {
            let l1 = l1_order(job, answers.results)?;
            Ok(start_search(job, full, l1, step))
        }
        Phase::Search {
            base,
            trained,
            search,
        } => on_generation(job, (base, trained, search), answers, step),
        Phase::Select {
            mut found,
            finalists,
            is_budget_met,
        } => {
            found.count(answers);
            on_selection(job, found, (&finalists, is_budget_met), answers, step)
        }
        Phase::Compare {
            mut found,
            winner,
            mut comparison,
        } => {
            found.count(answers);
            comparison.enter(
                job,
                &found.base,
                &winner,
                (answers.demand, answers.results),
                step,
            )?;
            Ok(compared(job, found, winner, comparison, step))
        }
        Phase::Evaluate {
            found,
            winner,
            rivals,
            contestants,
            rows,
        } => {
            let results: Vec<EvaluateResult> = results("evaluation", answers.results, rows.len())?;
            if let Some(error) = unequal_test_data(&results) {
                step.actions.push(DriverAction::Fail { error });
                return Ok(Phase::End);
            }
            let findings = Findings {
                job,
                found,
                winner,
                rivals,
                contestants,
                rows,
                results,
            };
            finish(&findings, step);
            Ok(Phase::End)
        }
        _ => Err(error(format!("demand {} is no map", answers.demand))),
    }
}

/// Rows on different test images cannot be compared.
fn unequal_test_data(results: &[EvaluateResult]) -> Option<String> {
    let first = results.first()?.data;
    let other = results.iter().find(|result| result.data != first)?.data;
    Some(format!(
        "evaluating every net on the test images: expected the same images for all nets, got those of digest {first} and those of digest {other}; give every worker the same files"
    ))
}

/// Chooses the final individual and starts the search for its rivals.
fn on_selection(
    job: &PruneJob,
    found: Found,
    (finalists, is_budget_met): (&[Candidate], bool),
    answers: &Answers<'_>,
    step: &mut Step<'_>,
) -> Result<Phase, DriverError> {
    let images = job.data.selection_images;
    let scores = scores("selection", answers.results, finalists.len(), images)?;
    let sized = |each: &Candidate| (each.genome.clone(), each.parameters);
    let sized: Vec<(Chromosome, u64)> = finalists.iter().map(sized).collect();
    let place = winner(&sized, &scores).ok_or_else(|| error("selection: no finalists"))?;
    step.store(
        "selection.json",
        report::selection(finalists, &scores, place),
    );
    let winner = Winner {
        candidate: finalists[place].clone(),
        selection: scores[place],
        is_budget_met,
    };
    let comparison = Comparison::start(job, &found.base, &winner, found.counts.different, step);
    Ok(compared(job, found, winner, comparison, step))
}

impl Found {
    fn count(&mut self, answers: &Answers<'_>) {
        self.counts.evaluated += u64::from(answers.evaluated);
        self.counts.cache_hits += u64::from(answers.cache_hits);
    }
}

fn start_search(
    job: &PruneJob,
    full: TrainResult,
    l1: Vec<Vec<u32>>,
    step: &mut Step<'_>,
) -> Phase {
    let base = Base {
        full: full.weights,
        l1,
    };
    let search = SearchState::new(job, &base.l1);
    run_generation(job, &base, &search, step);
    Phase::Search {
        base,
        trained: full,
        search,
    }
}

fn run_generation(job: &PruneJob, base: &Base, search: &SearchState, step: &mut Step<'_>) {
    let what = map(
        Kernel::PruneEvaluate,
        &job.evaluate_call(Part::Fitness),
        search.genomes(),
        vec![base.full],
    );
    step.run(
        "search",
        format!(
            "generation {} of {}",
            search.generation(),
            job.search.generations
        ),
        what,
    );
}

fn on_generation(
    job: &PruneJob,
    (base, trained, mut search): (Base, TrainResult, SearchState),
    answers: &Answers<'_>,
    step: &mut Step<'_>,
) -> Result<Phase, DriverError> {
    let scores = scores(
        "generation",
        answers.results,
        search.genomes().len(),
        job.data.fitness_images,
    )?;
    search.enter(job, &scores, answers.evaluated, answers.cache_hits);
    step.actions
        .extend(search.summary(job).map(DriverAction::Generation));
    let (name, text) = search.file();
    step.store(name, text);
    if search.advance(job, &base.l1) {
        run_generation(job, &base, &search, step);
        return Ok(Phase::Search {
            base,
            trained,
            search,
        });
    }
    let (shortlist, counts) = search.finish();
    let finalists = shortlist.finalists();
    let genomes = finalists.iter().map(|each| each.genome.clone()).collect();
    let title = format!("choosing among the {} best", finalists.len());
    evaluate(job, &base, Part::Selection, genomes, title, step);
    let found = Found {
        base,
        trained,
        counts,
    };
    Ok(Phase::Select {
        found,
        finalists,
        is_budget_met: shortlist.is_budget_met(),
    })
}

/// Goes on to fine-tuning once all rivals are chosen.
fn compared(
    job: &PruneJob,
    found: Found,
    winner: Winner,
    comparison: Comparison,
    step: &mut Step<'_>,
) -> Phase {
    let Some(rivals) = comparison.chosen() else {
        return Phase::Compare {
            found,
            winner,
            comparison,
        };
    };
    step.finish_stage("search");
    step.start_stage("finetune");
    let genome = &winner.candidate.genome;
    let mut nets = vec![(Role::Compressed, Some(genome.clone()))];
    if job.baselines.full_extra {
        nets.insert(0, (Role::FullExtra, None));
    }
    if job.baselines.l1_widths {
        let same_widths = strongest(&job.layers(), &found.base.l1, &job.network.widths(genome));
        nets.push((Role::L1Widths, Some(same_widths)));
    }
    for (role, rival) in [Role::L1Best, Role::Random].into_iter().zip(&rivals) {
        nets.extend(rival.iter().map(|rival| (role, Some(rival.genome.clone()))));
    }
    let contestants = tuning::start(job, &found.base, &nets, step);
    Phase::FineTune {
        found,
        winner,
        rivals,
        contestants,
    }
}

fn finish(findings: &Findings<'_>, step: &mut Step<'_>) {
    step.store(
        "model.json",
        model::file(&findings.job.network, &findings.winner.candidate.genome),
    );
    let compressed = findings
        .contestants
        .iter()
        .find(|contestant| contestant.role == Role::Compressed);
    if let Some(tuned) = compressed.and_then(|contestant| contestant.tuned.as_ref()) {
        step.artifact("model.safetensors", tuned.weights);
    }
    step.store("result.json", findings.result_file());
    step.store("measured.json", findings.measured_file());
    step.finish_stage("evaluate");
    step.actions.push(DriverAction::Finish {
        summary: findings.summary(),
    });
}
