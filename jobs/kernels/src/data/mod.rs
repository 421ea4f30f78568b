//! Data sets: reading, cutting into parts, normalising.
//!
//! One side (training or test) is read at a time, so a job that never asks for the test split
//! never opens its files. The sides read last are kept for the whole process: the gangs and maps of
//! a job ask for the same ones again and again ([`load`]).

mod folder;
mod idx;
mod known;
mod npy;
mod npz;
#[cfg(test)]
pub(crate) mod tests;
mod zip;

pub use known::Loaded;

use crate::KernelError;
use evoring_jobs::data::{DataSource, DataSpec, PIXEL_DEVIATION, PIXEL_MEAN, Part};
use evoring_protocol::Digest;
use std::path::{Path, PathBuf};

/// Bytes of pixels that one side of a data set may have in memory.
pub const MAX_PIXEL_BYTES: u64 = 8 << 30;
/// Values that are hashed at once.
const DIGEST_VALUES: usize = 1 << 20;

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
    /// Content of the side that the part was cut from.
    pub digest: Digest,
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

impl Images {
    /// SHA-256 of what was decoded, whatever files it came in: format, shape, number of images, and
    /// the digests of the values (in pieces, so that no copy of all is made) and of the labels.
    pub fn digest(&self, shape: [u32; 3]) -> Digest {
        let (kind, pieces): (&[u8; 4], Vec<Digest>) = match &self.pixels {
            Pixels::Bytes(bytes) => (
                b"byte",
                bytes.chunks(DIGEST_VALUES).map(Digest::of).collect(),
            ),
            Pixels::Floats(floats) => (
                b"real",
                floats.chunks(DIGEST_VALUES).map(digest_of_floats).collect(),
            ),
        };
        let labels: Vec<u8> = self.labels.iter().flat_map(|l| l.to_le_bytes()).collect();
        let mut text = b"evoring-images/1".to_vec();
        text.extend(kind);
        text.extend(shape.iter().flat_map(|side| side.to_le_bytes()));
        text.extend((self.count() as u64).to_le_bytes());
        text.extend(pieces.iter().flat_map(|piece| piece.0));
        text.extend(Digest::of(&labels).0);
        Digest::of(&text)
    }
}

fn digest_of_floats(floats: &[f32]) -> Digest {
    let bytes: Vec<u8> = floats
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    Digest::of(&bytes)
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

/// A side of a data set, checked; from memory if it was asked for lately and its files are still
/// the same. The training side must have the content that `spec` names, if it names one.
pub fn load(spec: &DataSpec, side: Side) -> Result<Loaded, KernelError> {
    let loaded = known::load(spec, side)?;
    match spec.digest.filter(|_| side == Side::Train) {
        Some(expected) if expected != loaded.digest => Err(KernelError::OtherData {
            path: place(&spec.source)?,
            expected,
            got: loaded.digest,
        }),
        _ => Ok(loaded),
    }
}

/// File or folder of a source on this machine.
fn place(source: &DataSource) -> Result<PathBuf, KernelError> {
    match source {
        DataSource::Named(name) => {
            let folder = named_folder().join(name);
            match folder.is_dir() {
                true => Ok(folder),
                false => Err(KernelError::NoDataSet {
                    name: name.clone(),
                    folder,
                }),
            }
        }
        DataSource::Idx(path) | DataSource::Folder(path) | DataSource::Npz(path) => {
            Ok(PathBuf::from(path))
        }
    }
}

/// Reads and checks one side of a data set.
pub fn read(spec: &DataSpec, side: Side) -> Result<Images, KernelError> {
    let place = place(&spec.source)?;
    let images = match &spec.source {
        DataSource::Named(_) | DataSource::Idx(_) => idx::load(&place, spec, side)?,
        DataSource::Npz(_) => npz::load(&place, spec, side)?,
        DataSource::Folder(_) => folder::load(&place, spec, side)?,
    };
    if images.labels.is_empty() {
        return Err(KernelError::Unfit(format!(
            "{}: no images ({side:?} side)",
            place.display()
        )));
    }
    Ok(images)
}

/// Files that one side is read from.
fn files(spec: &DataSpec, side: Side) -> Result<Vec<PathBuf>, KernelError> {
    let place = place(&spec.source)?;
    match &spec.source {
        DataSource::Named(_) | DataSource::Idx(_) => Ok(idx::files(&place, side)?.to_vec()),
        DataSource::Npz(_) => Ok(vec![place]),
        DataSource::Folder(_) => {
            let pictures = folder::pictures(&place, spec, side)?.into_iter();
            Ok(pictures.map(|(path, _)| path).collect())
        }
    }
}

/// Index of the first label that the network has no class for, and what to say about it.
fn wrong_label(labels: impl IntoIterator<Item = i64>, classes: u32) -> Option<(u64, String)> {
    let classes = i64::from(classes).min(1 << 16);
    let is_wrong = |(_, label): &(u64, i64)| !(0..classes).contains(label);
    let (index, label) = (0..).zip(labels).find(is_wrong)?;
    let last = classes - 1;
    let message =
        format!("image {index} has label {label}, expected 0 to {last} (the network's classes)");
    Some((index, message))
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
    let Loaded { images, digest } = load(spec, side)?;
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
        digest,
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
