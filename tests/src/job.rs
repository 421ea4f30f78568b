//! Job files for tests.

/// Rows of the final table with every baseline on, in order.
pub const ROWS: [&str; 10] = [
    "full",
    "full_extra",
    "compressed_before",
    "compressed_after",
    "l1_widths_before",
    "l1_widths_after",
    "l1_best_before",
    "l1_best_after",
    "random_before",
    "random_after",
];

/// An `evolve.prune` job on Fashion-MNIST: every stage is real, only the counts are small.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// All rows of the final table: every baseline on.
    pub every_row: bool,
}

impl Default for PruneJob {
    fn default() -> Self {
        Self {
            epochs: 2,
            finetune_epochs: 1,
            generations: 3,
            ranks: "1..4",
            seed: 1,
            every_row: false,
        }
    }
}

impl PruneJob {
    /// Long enough in every stage for a strike to hit, short enough for a test.
    pub fn to_be_struck(generations: u32) -> Self {
        Self {
            epochs: 10,
            finetune_epochs: 6,
            generations,
            ..Self::default()
        }
    }

    /// The job file.
    pub fn text(&self) -> String {
        let Self {
            epochs,
            finetune_epochs,
            generations,
            ranks,
            seed,
            every_row,
        } = self;
        let l1_allocations = if *every_row { 3 } else { 0 };
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
l1_allocations = {l1_allocations}
random = {every_row}
full_extra = {every_row}

[finetune]
epochs = {finetune_epochs}

[evaluate]
batch = 100
"#
        )
    }
}
