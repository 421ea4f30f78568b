//! A folder of class folders with PNG or JPEG pictures.
//!
//! Classes are numbered in the order of their folders' names. Pictures are turned to grey or RGB as
//! the network has one channel or three, and resized to its input.

use super::{Images, Pixels, Side, check_size};
use crate::KernelError;
use evoring_jobs::data::DataSpec;
use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, Limits};
use std::path::{Path, PathBuf};

/// Longest side of a picture that is decoded.
const MAX_PICTURE_SIDE: u32 = 1 << 14;
/// Bytes that decoding one picture may take.
const MAX_PICTURE_BYTES: u64 = 1 << 30;
/// Without folders `train` and `test`, every fifth picture of a class is for testing.
const TEST_EVERY: usize = 5;

/// Reads one side.
pub fn load(folder: &Path, spec: &DataSpec, side: Side) -> Result<Images, KernelError> {
    if ![1, 3].contains(&spec.shape[0]) {
        let message = format!(
            "pictures have 1 channel (grey) or 3 (RGB), the network's input has {}",
            spec.shape[0]
        );
        return Err(KernelError::Unfit(message));
    }
    let (train, test) = (folder.join("train"), folder.join("test"));
    let is_cut = train.is_dir() && test.is_dir();
    let root = match side {
        _ if !is_cut => folder.to_owned(),
        Side::Train => train,
        Side::Test => test,
    };
    let classes: Vec<PathBuf> = entries(&root)?
        .into_iter()
        .filter(|path| path.is_dir())
        .collect();
    if classes.len() != spec.classes as usize {
        let message = format!(
            "{}: {} class folders, expected {} (the network's classes)",
            root.display(),
            classes.len(),
            spec.classes
        );
        return Err(KernelError::Unfit(message));
    }
    let mut pictures = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        for (index, picture) in entries(class)?.into_iter().enumerate() {
            let is_for_test = index % TEST_EVERY == TEST_EVERY - 1;
            if is_cut || is_for_test == (side == Side::Test) {
                pictures.push((picture, label as u16));
            }
        }
    }
    check_size(&root, 0, spec, pictures.len() as u64, 1)?;
    let mut images = Images {
        pixels: Pixels::Bytes(Vec::new()),
        labels: Vec::new(),
    };
    let mut pixels = Vec::new();
    for (path, label) in pictures {
        append(&decode(&path)?, spec, &mut pixels);
        images.labels.push(label);
    }
    images.pixels = Pixels::Bytes(pixels);
    Ok(images)
}

/// Entries of a folder by name, without hidden ones.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    };
    let mut entries = read().map_err(KernelError::io(folder))?;
    entries.retain(|path| {
        path.file_name()
            .is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
    });
    entries.sort();
    Ok(entries)
}

fn decode(path: &Path) -> Result<DynamicImage, KernelError> {
    let corrupt = |message: String| KernelError::corrupt(path, 0, message);
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    let mut reader = reader.map_err(KernelError::io(path))?;
    if reader.format().is_none() {
        return Err(corrupt("neither PNG nor JPEG".to_owned()));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_PICTURE_SIDE);
    limits.max_image_height = Some(MAX_PICTURE_SIDE);
    limits.max_alloc = Some(MAX_PICTURE_BYTES);
    reader.limits(limits);
    reader.decode().map_err(|e| corrupt(e.to_string()))
}

/// Appends a picture's values, channels first.
fn append(picture: &DynamicImage, spec: &DataSpec, pixels: &mut Vec<u8>) {
    let [channels, height, width] = spec.shape;
    let fits = (picture.width(), picture.height()) == (width, height);
    let resized = if fits {
        picture.clone()
    } else {
        picture.resize_exact(width, height, FilterType::Triangle)
    };
    if channels == 1 {
        pixels.extend_from_slice(resized.to_luma8().as_raw());
        return;
    }
    let rgb = resized.to_rgb8();
    (0..3).for_each(|channel| pixels.extend(rgb.as_raw().iter().skip(channel).step_by(3)));
}
