//! A whole job whose workers answer anything: results are input from workers, and the driver that
//! reads them lives in the replicated state.

use evoring_jobs::calls::{self, EvaluateResult, PruneEvaluateCall, RankItem, Score, TrainResult};
use evoring_jobs::data::Part;
use evoring_jobs::driver::{Demand, Driver, DriverAction, DriverEvent, JobDriver};
use evoring_jobs::spec;
use evoring_protocol::work::{FailureCause, Kernel, WorkError};
use evoring_protocol::{DemandId, Digest};

/// The job: every stage, the smallest counts.
pub const JOB: &str = r#"
name = "fuzzed"
kind = "evolve.prune"
[data]
folder = "/images"
classes = 2
fitness_images = 9
selection_images = 9
[network]
input = [1, 6, 6]
layers = [
    { type = "conv", filters = 4, kernel = 3 },
    { type = "relu" },
    { type = "flatten" },
    { type = "dense", units = 3 },
    { type = "dense", units = 2 },
]
[search]
population = 4
generations = 2
finalists = 2
[baselines]
l1_allocations = 2
"#;

/// Most answers to one job; it ends far earlier.
const MOST_ANSWERS: usize = 200;

/// Where answers come from; zeros when it is used up.
struct Source<'d>(&'d [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = usize::from(self.byte() % 32).min(self.0.len());
        self.0.split_off(..count).unwrap_or_default().to_vec()
    }
}

/// Answers the demands of `JOB`: each one rightly (0 to 239), with bytes of the input, with too few
/// results, as failed, or twice.
pub fn driver(data: &[u8]) {
    let mut driver = spec::parse("job.toml", JOB)
        .expect("the job is valid")
        .driver;
    let mut source = Source(data);
    let mut open: Vec<(DemandId, Demand)> = Vec::new();
    let mut event = DriverEvent::Start;
    for _ in 0..MOST_ANSWERS {
        // The caller works on a copy, so an error ends the job and leaves nothing half-made.
        let mut next = again(&driver);
        let Ok(actions) = next.on(&event) else {
            return;
        };
        driver = next;
        for action in actions {
            match action {
                DriverAction::Run { demand, what, .. } => open.push((demand, what)),
                DriverAction::Finish { .. } | DriverAction::Fail { .. } => return,
                _ => {}
            }
        }
        if open.is_empty() {
            return;
        }
        let (demand, what) = open.remove(0);
        event = answer(demand, &what, &mut source);
    }
    panic!("the job does not end after {MOST_ANSWERS} answers");
}

/// The driver as it comes back from the replicated state.
fn again(driver: &JobDriver) -> JobDriver {
    let again: JobDriver = calls::decode(&calls::encode(driver)).expect("a driver decodes");
    assert_eq!(&again, driver);
    again
}

fn answer(demand: DemandId, what: &Demand, source: &mut Source<'_>) -> DriverEvent {
    let kind = source.byte();
    let demand = match kind {
        255 => DemandId(demand.0.wrapping_add(1)),
        _ => demand,
    };
    if kind == 254 {
        let message = String::from_utf8_lossy(&source.bytes()).into_owned();
        let cause = FailureCause::Final;
        let error = WorkError { message, cause };
        return DriverEvent::DemandFailed { demand, error };
    }
    match what {
        Demand::Gang { .. } => DriverEvent::GangFinished {
            demand,
            result: match kind {
                240..=253 => source.bytes(),
                _ => trained(source),
            },
        },
        Demand::Map {
            kernel,
            payload,
            items,
            ..
        } => {
            let one = |item: &Vec<u8>| match kind {
                240..=249 => source.bytes(),
                _ => result(*kernel, payload, item, source),
            };
            let mut results: Vec<Vec<u8>> = items.iter().map(one).collect();
            if kind == 250 {
                results.pop();
            }
            DriverEvent::MapFinished {
                demand,
                evaluated: results.len() as u32,
                results,
                cache_hits: kind.into(),
            }
        }
    }
}

fn trained(source: &mut Source<'_>) -> Vec<u8> {
    calls::encode(&TrainResult {
        weights: Digest([source.byte(); 32]),
        steps: source.byte().into(),
        final_loss: f64::from(source.byte()) - 100.0,
        data: Digest([1; 32]),
    })
}

fn result(kernel: Kernel, payload: &[u8], item: &[u8], source: &mut Source<'_>) -> Vec<u8> {
    let score = |total: u32, source: &mut Source<'_>| Score {
        correct: u32::from(source.byte()) % (total + 1),
        total,
    };
    match kernel {
        Kernel::PruneRank => {
            let item: RankItem = calls::decode(item).expect("the driver's own item");
            let ranks = item.first..item.first + item.count;
            let ranks: Vec<u16> = ranks.map(|rank| rank as u16).collect();
            calls::encode(&ranks)
        }
        Kernel::PruneEvaluate => {
            let call: PruneEvaluateCall = calls::decode(payload).expect("the driver's own call");
            let images = match call.part {
                Part::Fitness => call.data.fitness_images,
                _ => call.data.selection_images,
            };
            calls::encode(&score(images, source))
        }
        Kernel::EvaluateClassify => calls::encode(&EvaluateResult {
            score: score(20, source),
            data: Digest([2; 32]),
            nanoseconds_per_image: u64::from(source.byte()),
        }),
        Kernel::TrainClassify => trained(source),
    }
}
