//! Data sets: reading, cutting into parts, normalising.
//!
//! One side (training or test) is read at a time, so a job that never asks for the test split
//! never opens its files. The sides read last are kept for the whole process: the gangs and maps of
//! a job ask for the same ones again and again.

mod folder;
mod idx;
mod npy;
mod npz;
#[cfg(test)]
pub(crate) mod tests;
mod zip;

use crate::KernelError;
use evoring_jobs::data::{DataSource, DataSpec, PIXEL_DEVIATION, PIXEL_MEAN, Part};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of pixels that one side of a data set may have in memory.
pub const MAX_PIXEL_BYTES: u64 = 8 << 30;
/// Sides kept for the process: training and test of one data set.
const KEPT_SIDES: usize = 2;

/// Side of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Training, fitness and selection images.
    Train,
    /// The test split.
    Test,
}

/// Images of one side, as they were read.
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    /// `[image][channel][row][column]`.
    pub pixels: Pixels,
    /// Class of each image.
    pub labels: Vec<u16>,
}

/// Pixel values.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// 0 to 255.
    Bytes(Vec<u8>),
    /// 0 to 1.
    Floats(Vec<f32>),
}

/// A part of a data set as the network sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// `[image][channel][row][column]`, normalised.
    pub images: Vec<f32>,
    /// Class of each image.
    pub labels: Vec<u32>,
}

impl Images {
    /// Number of images.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// Writes image `index` as the network sees it; `out` has the length of one image.
    pub fn write(&self, index: usize, out: &mut [f32]) {
        let range = index * out.len()..(index + 1) * out.len();
        match &self.pixels {
            Pixels::Bytes(bytes) => out
                .iter_mut()
                .zip(&bytes[range])
                .for_each(|(out, byte)| *out = normalised(f32::from(*byte) / 255.0)),
            Pixels::Floats(floats) => out
                .iter_mut()
                .zip(&floats[range])
                .for_each(|(out, float)| *out = normalised(*float)),
        }
    }
}

/// What the network sees of a pixel between 0 and 1.
pub fn normalised(pixel: f32) -> f32 {
    (pixel - PIXEL_MEAN) / PIXEL_DEVIATION
}

/// Values of one image.
pub fn image_values(spec: &DataSpec) -> usize {
    spec.shape.iter().map(|side| *side as usize).product()
}

/// Folder with the named data sets: `EVORING_DATA`, or the cache that set-up fills.
pub fn named_folder() -> PathBuf {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = || {
        let user = variable("XDG_CACHE_HOME")
            .unwrap_or_else(|| variable("HOME").unwrap_or_default().join(".cache"));
        variable("EVORING_CACHE").unwrap_or_else(|| user.join("evoring"))
    };
    variable("EVORING_DATA").unwrap_or_else(|| cache().join("data"))
}

/// A side of a data set, checked; from memory if it was asked for lately.
pub fn load(spec: &DataSpec, side: Side) -> Result<Arc<Images>, KernelError> {
    type Known = (DataSource, [u32; 3], u32, Side, Arc<Images>);
    static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());
    let is_same = |known: &Known| {
        known.0 == spec.source && (known.1, known.2, known.3) == (spec.shape, spec.classes, side)
    };
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(index) = known.iter().position(is_same) {
        return Ok(known[index].4.clone());
    }
    // What is dropped first need not be in memory beside what comes.
    known.truncate(KEPT_SIDES - 1);
    let images = Arc::new(read(spec, side)?);
    known.insert(
        0,
        (
            spec.source.clone(),
            spec.shape,
            spec.classes,
            side,
            images.clone(),
        ),
    );
    Ok(images)
}

/// Reads and checks one side of a data set.
pub fn read(spec: &DataSpec, side: Side) -> Result<Images, KernelError> {
    let images = match &spec.source {
        DataSource::Named(name) => {
            let folder = named_folder().join(name);
            if !folder.is_dir() {
                return Err(KernelError::NoDataSet {
                    name: name.clone(),
                    folder,
                });
            }
            idx::load(&folder, spec, side)?
        }
        DataSource::Idx(folder) => idx::load(Path::new(folder), spec, side)?,
        DataSource::Npz(file) => npz::load(Path::new(file), spec, side)?,
        DataSource::Folder(folder) => folder::load(Path::new(folder), spec, side)?,
    };
    let is_wrong = |label: &u16| u32::from(*label) >= spec.classes;
    match images.labels.iter().position(is_wrong) {
        None if images.labels.is_empty() => Err(KernelError::Unfit(format!(
            "data: no images ({side:?} side)"
        ))),
        None => Ok(images),
        Some(index) => Err(KernelError::Unfit(format!(
            "data: image {index} of the {side:?} side has class {}, expected below {} (the network's classes)",
            images.labels[index], spec.classes
        ))),
    }
}

/// Indices of a train-side part.
pub fn part_indices(spec: &DataSpec, part: Part, images: usize) -> Result<Vec<u32>, KernelError> {
    let indices = u32::try_from(images)
        .ok()
        .and_then(|images| spec.indices(part, images));
    indices.filter(|indices| !indices.is_empty()).ok_or_else(|| {
        KernelError::Unfit(format!(
            "data: {} fitness, {} selection and {} training images do not fit into {images} train-side images",
            spec.fitness_images,
            spec.selection_images,
            spec.train_images.map_or("at least 1".to_owned(), |images| images.to_string()),
        ))
    })
}

/// A part as the network sees it.
pub fn prepare(spec: &DataSpec, part: Part) -> Result<Prepared, KernelError> {
    let side = if part == Part::Test {
        Side::Test
    } else {
        Side::Train
    };
    let images = load(spec, side)?;
    let indices = match side {
        Side::Test => (0..images.count() as u32).collect(),
        Side::Train => part_indices(spec, part, images.count())?,
    };
    let values = image_values(spec);
    let mut prepared = vec![0f32; indices.len() * values];
    for (index, out) in indices.iter().zip(prepared.chunks_exact_mut(values)) {
        images.write(*index as usize, out);
    }
    let labels = indices
        .iter()
        .map(|index| u32::from(images.labels[*index as usize]))
        .collect();
    Ok(Prepared {
        images: prepared,
        labels,
    })
}

/// Refuses `count` images of `spec`'s shape that would take too much memory.
fn check_size(
    path: &Path,
    offset: u64,
    spec: &DataSpec,
    count: u64,
    value_bytes: u64,
) -> Result<(), KernelError> {
    let bytes = count
        .saturating_mul(image_values(spec) as u64)
        .saturating_mul(value_bytes);
    if bytes == 0 || bytes > MAX_PIXEL_BYTES {
        let message = format!("{count} images take {bytes} bytes, expected 1 to {MAX_PIXEL_BYTES}");
        return Err(KernelError::corrupt(path, offset, message));
    }
    Ok(())
}
