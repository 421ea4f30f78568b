//! The rivals of the compressed net: L1-norm pruning and random search at its size. Each is
//! chosen by the procedure that chose the compressed net itself.

use super::allocation::{Shares, allocations, random_of_widths};
use super::job::PruneJob;
use super::shortlist::{Candidate, Shortlist, winner};
use super::step::{Step, error, map, scores};
use crate::calls::Score;
use crate::data::Part;
use crate::driver::DriverError;
use crate::evolution::{Chromosome, Start, strongest};
use crate::random::Purpose;
use evoring_protocol::work::Kernel;
use evoring_protocol::{DemandId, Digest};
use serde::{Deserialize, Serialize};

/// Genes of all random chromosomes of one map; keeps a step within a few milliseconds.
const RANDOM_GENES: u64 = 1 << 20;

/// The final individual.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Winner {
    pub(super) candidate: Candidate,
    pub(super) selection: Score,
    pub(super) is_budget_met: bool,
}

/// A chosen rival.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Rival {
    pub(super) genome: Chromosome,
    /// Its answers on the selection images; `None` where nothing was chosen.
    pub(super) selection: Option<Score>,
    /// Chromosomes that it was chosen from.
    pub(super) candidates: u64,
}

/// The comparison while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Comparison {
    l1: Track,
    random: Track,
    /// Random chromosomes wanted, and made so far.
    wanted: u64,
    made: u64,
    shortlist: Shortlist,
}

/// One rival on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Track {
    /// Switched off.
    Off,
    /// On the fitness images.
    Fitness {
        demand: DemandId,
        genomes: Vec<Chromosome>,
    },
    /// On the selection images.
    Selection {
        demand: DemandId,
        genomes: Vec<Chromosome>,
    },
    /// Chosen.
    Chosen(Rival),
}

/// Widths that the L1-norm rival is chosen from: allocations of even shares, and where the search
/// itself started from L1-norm prunings, as many of the kind that it started from.
fn rival_allocations(job: &PruneJob, budget: u64) -> Vec<Vec<u32>> {
    let count = job.baselines.l1_allocations;
    let mut all = allocations(job, Purpose::Allocation, &Shares::EVEN, budget, count);
    if job.search.breeding.start == Start::L1Target {
        let shares = &job.search.start_shares;
        let of_start = allocations(job, Purpose::FirstGeneration, shares, budget, count);
        let new: Vec<Vec<u32>> = of_start
            .into_iter()
            .filter(|widths| !all.contains(widths))
            .collect();
        all.extend(new);
    }
    all
}

impl Comparison {
    /// Starts both searches.
    pub(super) fn start(
        job: &PruneJob,
        base: &Base,
        best: &Winner,
        different: u64,
        step: &mut Step<'_>,
    ) -> Self {
        let budget = best.candidate.parameters;
        let mut comparison = Self {
            l1: Track::Off,
            random: Track::Off,
            wanted: different,
            made: 0,
            shortlist: Shortlist::new(job.search.finalists, u64::MAX),
        };
        if job.baselines.l1_allocations > 0 {
            let layers = job.layers();
            let genomes = rival_allocations(job, budget)
                .iter()
                .map(|widths| strongest(&layers, &base.l1, widths))
                .collect();
            comparison.l1 = select(
                job,
                base,
                genomes,
                "L1-norm pruning: width allocations",
                step,
            );
        }
        if job.baselines.random {
            comparison.random = comparison.draw(job, base, best, step);
        }
        comparison
    }

    /// The next random chromosomes.
    fn draw(&mut self, job: &PruneJob, base: &Base, best: &Winner, step: &mut Step<'_>) -> Track {
        let (layers, widths) = (job.layers(), job.network.widths(&best.candidate.genome));
        let at_once = (RANDOM_GENES / u64::from(job.network.genes().max(1))).max(1);
        let end = self.wanted.min(self.made + at_once);
        let genomes = (self.made..end)
            .map(|index| random_of_widths(&layers, &widths, job.seed, index))
            .collect();
        self.made = end;
        let title = format!("random search: {end} of {} chromosomes", self.wanted);
        let (demand, genomes) = evaluate(job, base, Part::Fitness, genomes, title, step);
        Track::Fitness { demand, genomes }
    }

    /// Takes the results of one of its maps.
    pub(super) fn enter(
        &mut self,
        job: &PruneJob,
        base: &Base,
        best: &Winner,
        (demand, results): (DemandId, &[Vec<u8>]),
        step: &mut Step<'_>,
    ) -> Result<(), DriverError> {
        match (&self.l1, &self.random) {
            (
                Track::Selection {
                    demand: own,
                    genomes,
                },
                _,
            ) if *own == demand => {
                self.l1 = choose(job, "L1-norm pruning", genomes, results)?;
            }
            (
                _,
                Track::Selection {
                    demand: own,
                    genomes,
                },
            ) if *own == demand => {
                let Track::Chosen(rival) = choose(job, "random search", genomes, results)? else {
                    return Ok(());
                };
                self.random = Track::Chosen(Rival {
                    candidates: self.made,
                    ..rival
                });
            }
            (
                _,
                Track::Fitness {
                    demand: own,
                    genomes,
                },
            ) if *own == demand => {
                let images = job.data.fitness_images;
                let scores = scores("random search", results, genomes.len(), images)?;
                let genomes = genomes.clone();
                self.random = self.on_random(job, base, best, (&genomes, &scores), step);
            }
            _ => return Err(error(format!("demand {demand} belongs to no comparison"))),
        }
        Ok(())
    }

    /// Enters random chromosomes; draws the next ones, or compares the best.
    fn on_random(
        &mut self,
        job: &PruneJob,
        base: &Base,
        best: &Winner,
        (genomes, scores): (&[Chromosome], &[Score]),
        step: &mut Step<'_>,
    ) -> Track {
        let parameters = best.candidate.parameters;
        let rule = job.fitness_rule();
        for (genome, score) in genomes.iter().zip(scores) {
            self.shortlist.enter(Candidate {
                genome: genome.clone(),
                parameters,
                score: *score,
                fitness: rule.fitness(*score, parameters),
                generation: 0,
            });
        }
        if self.made < self.wanted {
            return self.draw(job, base, best, step);
        }
        let finalists = self.shortlist.finalists().into_iter();
        let genomes = finalists.map(|each| each.genome).collect();
        select(
            job,
            base,
            genomes,
            "random search: choosing among the best",
            step,
        )
    }

    /// Best L1-norm pruning and best random chromosome, once both are chosen or switched off.
    pub(super) fn chosen(&self) -> Option<[Option<Rival>; 2]> {
        let chosen = |track: &Track| match track {
            Track::Off => Some(None),
            Track::Chosen(rival) => Some(Some(rival.clone())),
            Track::Fitness { .. } | Track::Selection { .. } => None,
        };
        Some([chosen(&self.l1)?, chosen(&self.random)?])
    }
}

/// What training and ranking gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Base {
    /// Weights of the full net.
    pub(super) full: Digest,
    /// Filters of each prunable layer, largest L1 norm first.
    pub(super) l1: Vec<Vec<u32>>,
}

/// Evaluates chromosomes on a part of the data.
pub(super) fn evaluate(
    job: &PruneJob,
    base: &Base,
    part: Part,
    genomes: Vec<Chromosome>,
    title: String,
    step: &mut Step<'_>,
) -> (DemandId, Vec<Chromosome>) {
    let what = map(
        Kernel::PruneEvaluate,
        &job.evaluate_call(part),
        &genomes,
        vec![base.full],
    );
    (step.run("search", title, what), genomes)
}

fn select(
    job: &PruneJob,
    base: &Base,
    genomes: Vec<Chromosome>,
    title: &str,
    step: &mut Step<'_>,
) -> Track {
    let (demand, genomes) = evaluate(job, base, Part::Selection, genomes, title.to_owned(), step);
    Track::Selection { demand, genomes }
}

/// The best of a selection.
fn choose(
    job: &PruneJob,
    what: &str,
    genomes: &[Chromosome],
    results: &[Vec<u8>],
) -> Result<Track, DriverError> {
    let scores = scores(what, results, genomes.len(), job.data.selection_images)?;
    let formula = job.network.size_formula();
    let sized = |genome: &Chromosome| {
        (
            genome.clone(),
            formula.parameters(&job.network.widths(genome)),
        )
    };
    let candidates: Vec<(Chromosome, u64)> = genomes.iter().map(sized).collect();
    let place =
        winner(&candidates, &scores).ok_or_else(|| error(format!("{what}: no candidates")))?;
    let genome = genomes[place].clone();
    Ok(Track::Chosen(Rival {
        genome,
        selection: Some(scores[place]),
        candidates: genomes.len() as u64,
    }))
}
