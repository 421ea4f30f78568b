//! `[data]`.

use super::checks::Images;
use super::reader::{Field, Section};
use crate::data::{DataSource, DataSpec};

/// A data set that set-up fetches.
struct KnownSet {
    name: &'static str,
    shape: [u32; 3],
    classes: u32,
    train_side_images: u32,
}

const KNOWN_SETS: [KnownSet; 1] = [KnownSet {
    name: "fashion-mnist",
    shape: [1, 28, 28],
    classes: 10,
    train_side_images: 60_000,
}];

/// Characters of a path.
const MAX_PATH: usize = 1024;
/// Images of one part.
const MAX_IMAGES: u32 = 1 << 30;

/// Reads the section; the shape is filled in by [`fit`]. `None` where a defect was reported.
pub(super) fn read(section: &mut Section<'_>, seed: u64) -> Option<DataSpec> {
    let source = source(section);
    let classes = section.count("classes", 10, 2..=16_384);
    let split_seed = section.integer("split_seed", seed, 0..=i64::MAX as u64);
    let fitness_images = section.count("fitness_images", 2_000, 1..=MAX_IMAGES);
    let selection_images = section.count("selection_images", 8_000, 1..=MAX_IMAGES);
    let train_images = section.count_if_given("train_images", 1..=MAX_IMAGES);
    Some(DataSpec {
        source: source?,
        shape: [0; 3],
        classes,
        split_seed,
        fitness_images,
        selection_images,
        train_images,
        digest: None,
    })
}

/// Enters the network's input shape and checks what is known about the set.
pub(super) fn fit(section: &Section<'_>, mut data: DataSpec, input: [u32; 3]) -> Option<DataSpec> {
    data.shape = input;
    let DataSource::Named(name) = &data.source else {
        return Some(data);
    };
    let known = KNOWN_SETS.iter().find(|known| known.name == name)?;
    let report = |message: String| {
        section
            .reader
            .report(section.line, format!("data: {name} {message}"))
    };
    let mut is_fitting = true;
    let mut expect = |fits: bool, message: String| {
        if !fits {
            report(message);
            is_fitting = false;
        }
    };
    expect(
        data.shape == known.shape,
        format!(
            "has images of {:?}: the network expects {:?}",
            known.shape, input
        ),
    );
    expect(
        data.classes == known.classes,
        format!("has {} classes, got {}", known.classes, data.classes),
    );
    let parts = [
        Some(data.fitness_images),
        Some(data.selection_images),
        Some(data.train_images.unwrap_or(1)),
    ];
    let wanted: u64 = parts.into_iter().flatten().map(u64::from).sum();
    let train_side = known.train_side_images;
    let message = format!(
        "has {train_side} train-side images: fitness_images, selection_images and train_images need {wanted}"
    );
    expect(wanted <= u64::from(train_side), message);
    is_fitting.then_some(data)
}

/// Images that are left for training, where that can be known before the data are read.
pub(super) fn training_images(section: &Section<'_>, data: &DataSpec) -> Option<Images> {
    let line = |name| section.find(name).map(|field| field.line);
    let line = line("train_images").or(line("set")).unwrap_or(section.line);
    let left = |known: &KnownSet| {
        let others = data.fitness_images.saturating_add(data.selection_images);
        known.train_side_images.saturating_sub(others)
    };
    let known = KNOWN_SETS
        .iter()
        .find(|known| matches!(&data.source, DataSource::Named(name) if name == known.name));
    let images = data.train_images.or(known.map(left))?;
    Some((images, line))
}

fn source(section: &mut Section<'_>) -> Option<DataSource> {
    let sources = ["set", "idx", "folder", "npz"];
    let given: Vec<(&str, Field<'_>)> = sources
        .into_iter()
        .filter_map(|name| section.field(name).map(|field| (name, field)))
        .collect();
    let [(name, field)] = given[..] else {
        let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
        let got = if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(" and ")
        };
        section.missing(
            "set",
            &format!("exactly one of {}", sources.join(", ")),
            &got,
        );
        return None;
    };
    if name == "set" {
        let names = KNOWN_SETS.each_ref().map(|known| (known.name, known.name));
        return section
            .chosen("set", field, &names)
            .map(|name| DataSource::Named(name.to_owned()));
    }
    let path = section.as_text(name, field, MAX_PATH)?.to_owned();
    Some(match name {
        "idx" => DataSource::Idx(path),
        "folder" => DataSource::Folder(path),
        _ => DataSource::Npz(path),
    })
}
