//! Job files for tests.

/// An `evolve.prune` job on Fashion-MNIST: every stage is real, only the counts are small.
#[derive(Debug, Clone)]
pub struct PruneJob {
    /// Training passes over 1,600 images.
    pub epochs: u32,
    /// Passes of fine-tuning.
    pub finetune_epochs: u32,
    /// Generations after the first.
    pub generations: u32,
    /// `ranks` of the gangs.
    pub ranks: &'static str,
    /// Random seed.
    pub seed: u64,
}

impl Default for PruneJob {
    fn default() -> Self {
        Self {
            epochs: 2,
            finetune_epochs: 1,
            generations: 3,
            ranks: "1..4",
            seed: 1,
        }
    }
}

impl PruneJob {
    /// The job file.
    pub fn text(&self) -> String {
        let Self {
            epochs,
            finetune_epochs,
            generations,
            ranks,
            seed,
        } = self;
        format!(
            r#"name = "small"
kind = "evolve.prune"
seed = {seed}

[data]
set = "fashion-mnist"
fitness_images = 4_000
selection_images = 300
train_images = 1600

[network]
name = "lenet"

[train]
ranks = "{ranks}"
shards = 4
epochs = {epochs}
batch = 64
checkpoint_steps = 10

[search]
population = 12
generations = {generations}
finalists = 4

[baselines]
l1_widths = true
l1_allocations = 0
random = false
full_extra = false

[finetune]
epochs = {finetune_epochs}

[evaluate]
batch = 100
"#
        )
    }
}
