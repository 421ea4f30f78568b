//! Checks on fields that only make sense together.

use super::reader::Section;
use crate::network::{Layer, NetworkSpec, Shape};
use crate::prune::{FINALIST_BYTES, Search, Training};

/// Bytes of `selection.json`, estimated: finalists × (genes + [`FINALIST_BYTES`]). Far below what a
/// driver may store, and keeps the step that writes it within its 10 ms.
const SELECTION_BYTES: u64 = 1 << 20;
/// Values of all shards' gradients and batch statistics together: 16 GiB on the host of a gang.
const EXCHANGE_VALUES: u64 = 1 << 32;
/// Values of a channel that batch norm needs in every shard: the variance of one value is none.
const FEWEST_VALUES: u32 = 2;

/// Images that are left for training, and the line that says so.
pub(super) type Images = (u32, usize);

pub(super) fn finalists(section: &Section<'_>, search: &Search, genes: u32) {
    let most = SELECTION_BYTES / (u64::from(genes) + FINALIST_BYTES);
    if u64::from(search.finalists) > most {
        let line = section.find("finalists").map(|field| field.line);
        let message = format!(
            "{}: expected at most {most} with {genes} filters, got {}",
            section.path_of("finalists"),
            search.finalists
        );
        section.reader.report(line.unwrap_or(section.line), message);
    }
}

/// Shards whose gradients no host can hold.
pub(super) fn shards(section: &Section<'_>, shards: u32, network: &NetworkSpec) {
    let tensors = network.tensors();
    let values = 1 + tensors.iter().map(|tensor| tensor.values()).sum::<u64>();
    let most = EXCHANGE_VALUES / values.max(1);
    if u64::from(shards) > most {
        let line = section.find("shards").map(|field| field.line);
        let message = format!(
            "{}: expected at most {most} for a network of {values} values, each shard has its own gradients; got {shards}",
            section.path_of("shards")
        );
        section.reader.report(line.unwrap_or(section.line), message);
    }
}

/// A batch that is larger than the images, or too small for batch norm.
pub(super) fn batch(
    section: &Section<'_>,
    training: &Training,
    shards: u32,
    network: &NetworkSpec,
    images: Option<Images>,
) {
    let batch = training.recipe.batch;
    let name = section.path_of("batch");
    let own_line = section.find("batch").map(|field| field.line);
    if let Some((images, line)) = images
        && batch > images
    {
        let message = format!(
            "{name}: expected at most {images}, the images that are left for training, got {batch}"
        );
        section.reader.report(own_line.unwrap_or(line), message);
    }
    let each = batch / shards;
    let is_starved = |(layer, shape): (&Layer, &Shape)| {
        let places = match shape {
            Shape::Image([_, height, width]) => height.saturating_mul(*width),
            Shape::Features(_) => 1,
        };
        *layer == Layer::BatchNorm && each.saturating_mul(places) < FEWEST_VALUES
    };
    let shapes = network.input_shapes();
    if let Some(layer) = network.layers.iter().zip(&shapes).position(is_starved) {
        let line = own_line.or(section.find("shards").map(|field| field.line));
        let message = format!(
            "{name}: expected at least {} with {shards} shards, got {batch}: batch norm in layer {layer} needs {FEWEST_VALUES} values of each channel in every shard",
            FEWEST_VALUES * shards
        );
        section.reader.report(line.unwrap_or(section.line), message);
    }
}
