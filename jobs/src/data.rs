//! Data sets and their splits, described as data. Reading them is the kernels' work.

use crate::random::{Purpose, Stream};
use evoring_protocol::Digest;
use serde::{Deserialize, Serialize};

/// Where images come from. Relative paths are looked up beside the job file by the client, which
/// makes them absolute; `Named` ones in the worker's data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataSource {
    /// A data set that set-up fetched ("fashion-mnist").
    Named(String),
    /// A folder with IDX files, plain or gzip: `{train,t10k}-{images-idx3,labels-idx1}-ubyte`.
    Idx(String),
    /// A folder with `train/CLASS/*.png|jpg` and `test/CLASS/…`; without `train` and `test`, every
    /// fifth file in the order of names is for testing.
    Folder(String),
    /// One `.npz` with `x_train`, `y_train`, `x_test`, `y_test`.
    Npz(String),
}

/// A data set and how its training part is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSpec {
    /// Where it is.
    pub source: DataSource,
    /// Input shape that the network wants, `[channels, height, width]`; images of another size
    /// are refused (IDX, NPZ) or resized (folders).
    pub shape: [u32; 3],
    /// Number of classes.
    pub classes: u32,
    /// Seed of the cut.
    pub split_seed: u64,
    /// Train-side images for fitness.
    pub fitness_images: u32,
    /// Further train-side images that no fitness sees, for choosing the final individual.
    pub selection_images: u32,
    /// Train-side images to train on; `None` = all that are left.
    pub train_images: Option<u32>,
    /// Content of the train side: images as they are decoded, and labels. `None` until the job's
    /// training has read them; from then on whoever finds other content refuses, and answers from
    /// the cache are those for this content. Paths alone would not tell a corrected file from the
    /// one before.
    pub digest: Option<Digest>,
}

/// A pixel value 0..=255 reaches the network as `(value / 255 − PIXEL_MEAN) / PIXEL_DEVIATION`, the
/// same for every channel and data set; shifted images are filled with value 0 before that.
pub const PIXEL_MEAN: f32 = 0.5;
/// See [`PIXEL_MEAN`].
pub const PIXEL_DEVIATION: f32 = 0.5;

/// A part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Part {
    /// For gradients.
    Train,
    /// For fitness.
    Fitness,
    /// For choosing the final individual.
    Selection,
    /// The test split, read once, at the end.
    Test,
}

impl DataSpec {
    /// Indices of a train-side part among `train_side_images` images, ascending.
    /// `None` if the parts do not fit, or for [`Part::Test`].
    pub fn indices(&self, part: Part, train_side_images: u32) -> Option<Vec<u32>> {
        let mut order: Vec<u32> = (0..train_side_images).collect();
        Stream::new(self.split_seed, Purpose::Split, 0, 0).shuffle(&mut order);
        let fitness_end = self.fitness_images as usize;
        let selection_end = fitness_end.checked_add(self.selection_images as usize)?;
        let train_end = match self.train_images {
            Some(images) => selection_end.checked_add(images as usize)?,
            None => order.len(),
        };
        let range = match part {
            Part::Fitness => 0..fitness_end,
            Part::Selection => fitness_end..selection_end,
            Part::Train => selection_end..train_end,
            Part::Test => return None,
        };
        let mut indices = order.get(range)?.to_vec();
        indices.sort_unstable();
        Some(indices)
    }
}
