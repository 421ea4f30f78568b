//! Fitness of chromosomes, fast and in plain Rust.
//!
//! The masked full net is never run. A chromosome's physically small net is, and of that only what
//! no other chromosome has computed before:
//! - the first layer with all its filters once for each (weights, part of the data): a chromosome
//!   only chooses among its outputs, which engines may have in common ([`activations`]);
//! - behind it, outputs of filters are shared by all chromosomes with equal genes in front of them
//!   (`shared`).
//!
//! Sixteen images lie side by side in the vector registers ([`lanes`]), which suits small nets:
//! there is no limit below which a layer is too narrow to be fast. A chromosome's answer depends
//! neither on its neighbours nor on the batch nor on what was shared, bit for bit.

pub mod activations;
pub mod lanes;
mod plan;
mod shared;
mod stage;
#[cfg(test)]
mod tests;

use activations::{ActivationStore, Activations, FirstStage, PrivateActivations};
use evoring_jobs::calls::Score;
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::NetworkSpec;
use lanes::{LANES, Lanes};
use plan::Plan;
use shared::{Entries, Entry};
use stage::{Packed, apply};

/// Bytes of shared values that one [`Engine`] keeps. 2,000 images of LeNet take 23 MB for the first
/// layer and at most 6.4 MB for the second and 4 MB for the third behind each different choice of
/// genes in front; a population of 32 fits with room to spare.
///
/// The first layer's values take at most half of it. Where engines have them in common they are
/// counted in each, but there only once on the host.
pub const SHARED_BYTES: usize = 384 << 20;

/// Scores chromosomes of one network with one set of weights on one part of the data.
#[derive(Debug)]
pub struct Engine {
    spec: NetworkSpec,
    plan: Plan,
    labels: Vec<u32>,
    /// `[block][channel][value]`.
    input: Vec<Lanes>,
    /// First stage, all filters: `[block][filter][value]`, of as many blocks as half of the bound
    /// has room for.
    first: Box<dyn Activations>,
    entries: Entries,
    /// Outputs of each stage for one block, where they are not shared.
    unshared: Vec<Vec<Lanes>>,
    scratch: Vec<Lanes>,
    multiplications: u64,
}

/// A stage on the way of one chromosome.
struct Step {
    packed: Packed,
    computed: Vec<u32>,
}

impl Engine {
    /// `images` is `[image][channel][row][column]`, normalised; `tensor` gives the weights by layer
    /// and name. The network must have passed `validate`. Nothing is shared with other engines.
    pub fn new(
        spec: &NetworkSpec,
        tensor: impl Fn(usize, &str) -> Vec<f32>,
        images: &[f32],
        labels: &[u32],
    ) -> Self {
        let store = &PrivateActivations;
        Self::with_store(spec, tensor, images, labels, SHARED_BYTES, store)
    }

    /// Like [`Engine::new`] with another bound in bytes on what is shared, and with the first
    /// stage's outputs from `store`.
    pub fn with_store(
        spec: &NetworkSpec,
        tensor: impl Fn(usize, &str) -> Vec<f32>,
        images: &[f32],
        labels: &[u32],
        limit_bytes: usize,
        store: &dyn ActivationStore,
    ) -> Self {
        let plan = Plan::new(spec, tensor);
        let unshared: Vec<Vec<Lanes>> = plan
            .stages
            .iter()
            .map(|stage| vec![Lanes::ZERO; stage.filters * stage.output.values()])
            .collect();
        let mut engine = Self {
            spec: spec.clone(),
            input: interleave(spec, &plan, images),
            plan,
            labels: labels.to_vec(),
            first: Box::new(Vec::new()),
            entries: Entries::new(0),
            unshared,
            scratch: Vec::new(),
            multiplications: 0,
        };
        engine.share_first(limit_bytes, store);
        engine
    }

    /// The full network.
    pub fn network(&self) -> &NetworkSpec {
        &self.spec
    }

    fn blocks(&self) -> usize {
        self.labels.len().div_ceil(LANES)
    }

    /// Obtains the first stage's outputs for as many blocks as fit into half of the bound.
    fn share_first(&mut self, limit_bytes: usize, store: &dyn ActivationStore) {
        let output_values = self.unshared[0].len();
        // With one stage there is nothing to share: the logits are the whole net.
        let room = if self.plan.stages.len() < 2 {
            0
        } else {
            limit_bytes / 2 / size_of::<Lanes>() / output_values.max(1)
        };
        let blocks = self.blocks().min(room);
        if blocks > 0 {
            let packed = self.pack_first();
            let stage = &self.plan.stages[0];
            let input_values = stage.channels * stage.input.values();
            let first = FirstStage {
                stage,
                packed: &packed,
                input: &self.input[..blocks * input_values],
                input_values,
                output_values,
            };
            let scratch = &mut self.scratch;
            let mut fill = |values: &mut [Lanes]| first.fill(values, scratch);
            self.first = store.obtain(&first.key(), first.count(), &mut fill);
        }
        let rest = limit_bytes.saturating_sub(self.first_bytes());
        self.entries = Entries::new(rest);
    }

    fn first_bytes(&self) -> usize {
        size_of_val(self.first.lanes())
    }

    fn pack_first(&self) -> Packed {
        let stage = &self.plan.stages[0];
        let all = |count: usize| (0..count as u32).collect::<Vec<u32>>();
        Packed::new(stage, &all(stage.filters), &all(stage.channels))
    }

    /// The first stage of one block, into `unshared[0]`.
    fn run_first(&mut self, packed: &Packed, block: usize) {
        let stage = &self.plan.stages[0];
        let each = stage.channels * stage.input.values();
        packed.run(
            stage,
            &self.input[block * each..][..each],
            &mut self.unshared[0],
            &mut self.scratch,
        );
    }

    /// Correct answers of a chromosome that [`NetworkSpec::fits`].
    pub fn score(&mut self, chromosome: &Chromosome) -> Score {
        let mut correct = 0;
        self.run(chromosome, |logits, labels| {
            correct += labels
                .iter()
                .enumerate()
                .filter(|(lane, label)| best(logits, *lane) == **label as usize)
                .count();
        });
        Score {
            correct: correct as u32,
            total: self.labels.len() as u32,
        }
    }

    /// Logits of a chromosome, `[image][class]`.
    pub fn logits(&mut self, chromosome: &Chromosome) -> Vec<f32> {
        let mut all = Vec::new();
        self.run(chromosome, |logits, labels| {
            (0..labels.len()).for_each(|lane| all.extend(logits.iter().map(|class| class.0[lane])));
        });
        all
    }

    /// Runs the small net and hands over logits (one value per class) and labels, block by block.
    fn run(&mut self, chromosome: &Chromosome, mut take: impl FnMut(&[Lanes], &[u32])) {
        let kept = self.spec.kept(chromosome);
        let last = self.plan.stages.len() - 1;
        let mut entries: Vec<Option<Entry>> = (0..=last).map(|_| None).collect();
        let steps = self.steps(chromosome, &kept, &mut entries);
        let blocks = self.blocks();
        let is_partial = self.first.lanes().len() < blocks * self.unshared[0].len();
        let first = is_partial.then(|| self.pack_first());
        let begin = steps.iter().position(Option::is_some).unwrap_or(last);
        for block in 0..blocks {
            let each = self.unshared[0].len();
            let is_shared = self.first.lanes().len() >= (block + 1) * each;
            if begin <= 1
                && !is_shared
                && let Some(packed) = &first
            {
                self.run_first(packed, block);
            }
            for (stage, step) in steps.iter().enumerate().skip(begin) {
                let Some(step) = step else { continue };
                self.run_step(step, stage, block, &mut entries);
            }
            let labels = &self.labels[block * LANES..self.labels.len().min((block + 1) * LANES)];
            take(&self.unshared[last], labels);
        }
        for (stage, step) in self.plan.stages.iter().zip(&steps) {
            let each = step
                .as_ref()
                .map_or(0, |step| step.packed.multiplications(stage));
            self.multiplications += each * self.labels.len() as u64;
        }
        for (entry, step) in entries.into_iter().zip(steps) {
            let Some(mut entry) = entry else { continue };
            if let Some(step) = step {
                entry.mark(&step.computed);
            }
            self.entries.put(entry);
        }
    }

    /// What has to be computed at each stage, from the last one back to where everything is there.
    fn steps(
        &mut self,
        chromosome: &Chromosome,
        kept: &[Vec<u32>],
        entries: &mut [Option<Entry>],
    ) -> Vec<Option<Step>> {
        let last = self.plan.stages.len() - 1;
        let mut steps: Vec<Option<Step>> = (0..=last).map(|_| None).collect();
        let classes: Vec<u32> = (0..self.spec.classes()).collect();
        for index in (0..=last).rev() {
            let stage = &self.plan.stages[index];
            let filters = kept.get(index).unwrap_or(&classes);
            // Without a stage in front, or behind the first, whose outputs are all there.
            if index == 0 && last > 0 {
                break;
            }
            let mut computed = filters.clone();
            if index < last {
                let prefix = prefix(&self.spec, chromosome, index);
                let values = self.blocks() * stage.filters * stage.output.values();
                entries[index] = self.entries.take(index, &prefix, stage.filters, values);
                if let Some(entry) = &entries[index] {
                    computed = entry.missing(filters);
                }
                if computed.is_empty() {
                    break;
                }
            }
            let stage = &self.plan.stages[index];
            let channels = match index.checked_sub(1) {
                Some(before) => kept[before].clone(),
                None => (0..stage.channels as u32).collect(),
            };
            steps[index] = Some(Step {
                packed: Packed::new(stage, &computed, &channels),
                computed,
            });
        }
        steps
    }

    fn run_step(&mut self, step: &Step, index: usize, block: usize, entries: &mut [Option<Entry>]) {
        let blocks = self.blocks();
        let stage = &self.plan.stages[index];
        let (before, from) = entries.split_at_mut(index);
        let (unshared_before, unshared_from) = self.unshared.split_at_mut(index);
        let each = unshared_before.first().map_or(0, Vec::len);
        let input: &[Lanes] = match index {
            0 => {
                let each = stage.channels * stage.input.values();
                &self.input[block * each..][..each]
            }
            1 => self
                .first
                .lanes()
                .get(block * each..(block + 1) * each)
                .unwrap_or(&unshared_before[0]),
            _ => match &before[index - 1] {
                Some(entry) => entry.block(block, blocks),
                None => &unshared_before[index - 1],
            },
        };
        let output = match &mut from[0] {
            Some(entry) => entry.block_mut(block, blocks),
            None => &mut unshared_from[0],
        };
        step.packed.run(stage, input, output, &mut self.scratch);
    }

    /// Images of the part.
    pub fn images(&self) -> usize {
        self.labels.len()
    }

    /// Multiplications made since the beginning, for the images of the part and without those for
    /// the first stage's shared outputs.
    pub fn multiplications(&self) -> u64 {
        self.multiplications
    }

    /// Bytes of shared values held now, those that other engines have in common included.
    pub fn shared_bytes(&self) -> usize {
        self.entries.bytes() + self.first_bytes()
    }
}

/// Class with the largest logit; the first one among equals.
fn best(logits: &[Lanes], lane: usize) -> usize {
    let mut best = 0;
    for (class, values) in logits.iter().enumerate() {
        if values.0[lane] > logits[best].0[lane] {
            best = class;
        }
    }
    best
}

/// The genes in front of stage `stage`.
fn prefix(spec: &NetworkSpec, chromosome: &Chromosome, stage: usize) -> Chromosome {
    let genes = spec
        .prunable()
        .get(stage)
        .map_or(0, |layer| layer.first_gene);
    let mut prefix = chromosome.clone();
    (genes..chromosome.len()).for_each(|gene| prefix.set(gene, false));
    prefix
}

/// Sixteen images side by side, behind the prelude; missing images of the last block are zeros.
fn interleave(spec: &NetworkSpec, plan: &Plan, images: &[f32]) -> Vec<Lanes> {
    let [channels, height, width] = spec.input.map(|side| side as usize);
    let plane = height * width;
    let each = plan.input.values();
    let blocks: Vec<&[f32]> = images.chunks(LANES * channels * plane).collect();
    let mut input = vec![Lanes::ZERO; blocks.len() * channels * each];
    let mut values = vec![Lanes::ZERO; plane];
    for (target, (block, channel)) in input.chunks_exact_mut(each).zip(
        blocks
            .iter()
            .flat_map(|block| (0..channels).map(move |channel| (block, channel))),
    ) {
        values.fill(Lanes::ZERO);
        for (lane, image) in block.chunks_exact(channels * plane).enumerate() {
            let pixels = &image[channel * plane..][..plane];
            pixels
                .iter()
                .zip(&mut values)
                .for_each(|(pixel, value)| value.0[lane] = *pixel);
        }
        apply(&plan.prelude, channel, width, &mut values);
        plan.input.store(&values, target);
    }
    input
}
