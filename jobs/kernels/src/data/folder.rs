//! A folder of class folders with PNG or JPEG pictures.
//!
//! Classes are numbered in the order of their folders' names, which must be the same on both sides. Pictures are turned to grey or RGB as
//! the network has one channel or three, and resized to its input.

use super::{Images, Pixels, Side, check_size};
use crate::KernelError;
use evoring_jobs::data::DataSpec;
use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, Limits};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Longest side of a picture that is decoded.
const MAX_PICTURE_SIDE: u32 = 1 << 14;
/// Bytes that decoding one picture may take, …
const MAX_PICTURE_BYTES: u64 = 1 << 30;
/// … and for each byte of its file: PNG packs at most 1,032 bytes into one, JPEG some 500 of one colour.
/// Both decoders take what the header says before they read on.
const MAX_EXPANSION: u64 = 1_100;
/// Bytes that any picture may take, however small its file is.
const SMALL_PICTURE_BYTES: u64 = 4 << 20;
/// Without folders `train` and `test`, every fifth picture of a class is for testing.
const TEST_EVERY: usize = 5;
/// Class folders that a message names.
const NAMED: usize = 5;

/// The pictures of one side with their labels, not yet opened.
pub fn pictures(
    folder: &Path,
    spec: &DataSpec,
    side: Side,
) -> Result<Vec<(PathBuf, u16)>, KernelError> {
    if ![1, 3].contains(&spec.shape[0]) {
        let message = format!(
            "pictures have 1 channel (grey) or 3 (RGB), the network's input has {}",
            spec.shape[0]
        );
        return Err(KernelError::Unfit(message));
    }
    let (train, test) = (folder.join("train"), folder.join("test"));
    let is_cut = train.is_dir() && test.is_dir();
    if is_cut {
        check_equal_classes(folder, &classes(&train)?, &classes(&test)?)?;
    }
    let root = match side {
        _ if !is_cut => folder.to_owned(),
        Side::Train => train,
        Side::Test => test,
    };
    let classes = classes(&root)?;
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
    Ok(pictures)
}

/// Reads one side.
pub fn load(folder: &Path, spec: &DataSpec, side: Side) -> Result<Images, KernelError> {
    let mut images = Images {
        pixels: Pixels::Bytes(Vec::new()),
        labels: Vec::new(),
    };
    let mut pixels = Vec::new();
    for (path, label) in pictures(folder, spec, side)? {
        append(&decode(&path)?, spec, &mut pixels);
        images.labels.push(label);
    }
    images.pixels = Pixels::Bytes(pixels);
    Ok(images)
}

/// Class folders by name.
fn classes(root: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let mut classes = entries(root)?;
    classes.retain(|path| path.is_dir());
    Ok(classes)
}

/// Each side numbers its own folders, so other names would give other classes the same label.
fn check_equal_classes(
    folder: &Path,
    train: &[PathBuf],
    test: &[PathBuf],
) -> Result<(), KernelError> {
    let names = |classes: &[PathBuf]| -> BTreeSet<OsString> {
        let names = classes.iter().filter_map(|path| path.file_name());
        names.map(OsString::from).collect()
    };
    let (train, test) = (names(train), names(test));
    let only = |one: &BTreeSet<OsString>, other: &BTreeSet<OsString>| {
        let missing: Vec<&OsString> = one.difference(other).collect();
        let more = missing.len().saturating_sub(NAMED);
        let named = &missing[..missing.len() - more];
        match more {
            0 => format!("{named:?}"),
            _ => format!("{named:?} and {more} more"),
        }
    };
    if train == test {
        return Ok(());
    }
    Err(KernelError::Unfit(format!(
        "{}: expected the same class folders in train/ and test/, got {} in train/ alone and {} in test/ alone",
        folder.display(),
        only(&train, &test),
        only(&test, &train)
    )))
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
    let file = std::fs::metadata(path).map_err(KernelError::io(path))?;
    let expanded = file.len().saturating_mul(MAX_EXPANSION);
    if reader.format().is_none() {
        return Err(corrupt("neither PNG nor JPEG".to_owned()));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_PICTURE_SIDE);
    limits.max_image_height = Some(MAX_PICTURE_SIDE);
    limits.max_alloc = Some(expanded.clamp(SMALL_PICTURE_BYTES, MAX_PICTURE_BYTES));
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
