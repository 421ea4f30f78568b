//! The parts of a job's files that tables and pictures need. Unknown fields are ignored, so that
//! files of later versions can be read.

use serde::Deserialize;

/// `result.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ResultFile {
    /// Rows of the final table.
    pub rows: Vec<ResultRow>,
    /// The final pick.
    pub winner: Winner,
}

/// A row of the final table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ResultRow {
    /// Name in files.
    pub name: String,
    /// Parameters of the net.
    pub parameters: u64,
    /// Multiplications for one image.
    pub multiplications: u64,
    /// Bytes of the parameters.
    pub bytes: u64,
    /// Correct answers on the test part.
    pub correct: u64,
    /// Test images.
    pub total: u64,
    /// How many times fewer parameters than the full net.
    pub compression: f64,
}

/// The final pick.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Winner {
    /// Parameters of its net.
    pub parameters: u64,
    /// Correct answers on the fitness images.
    pub fitness_correct: u64,
    /// Fitness images.
    pub fitness_total: u64,
}

/// `measured.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct MeasuredFile {
    /// In the order of [`ResultFile::rows`].
    pub rows: Vec<MeasuredRow>,
}

/// What was measured for a row.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct MeasuredRow {
    /// Name in files.
    pub name: String,
    /// Time of a forward pass for one image on one thread.
    pub nanoseconds_per_image: u64,
}

/// `model.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelFile {
    /// Name of the network.
    pub name: String,
    /// Parameters of the small net.
    pub parameters: u64,
    /// Parameters of the full net.
    pub full_parameters: u64,
    /// From input to logits.
    pub layers: Vec<ModelLayer>,
}

/// A layer of `model.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelLayer {
    /// Position among all layers.
    pub index: u64,
    /// "conv", "dense" …
    pub kind: String,
    /// Filters or units of the full net, for layers that can be pruned.
    #[serde(default)]
    pub full_filters: Option<u32>,
    /// Which of them are kept.
    #[serde(default)]
    pub kept: Option<Vec<u32>>,
}

/// One individual of `population/NNN.json`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Individual {
    /// Correct answers on the fitness images.
    pub correct: u64,
    /// Fitness images.
    pub total: u64,
    /// Parameters of its net.
    pub parameters: u64,
    /// Its fitness.
    pub fitness: f64,
}

/// `population.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PopulationFile {
    /// Every individual of every generation.
    pub generations: Vec<Vec<Individual>>,
}
