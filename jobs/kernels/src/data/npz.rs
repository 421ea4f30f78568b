//! One `.npz` with `x_train`, `y_train`, `x_test` and `y_test`.
//!
//! Images are `[images, height, width]` (one channel), `[images, channels, height, width]` or
//! `[images, height, width, channels]`, of bytes (0 to 255) or 32-bit floats (0 to 1); labels are
//! integers, `[images]` or `[images, 1]`.

use super::npy::{Array, Kind};
use super::zip::Archive;
use super::{Images, MAX_PIXEL_BYTES, Pixels, Side, check_size, wrong_label};
use crate::KernelError;
use crate::weights::floats;
use evoring_jobs::data::DataSpec;
use std::path::Path;

/// Bytes of an array's header, far above what numpy writes.
const HEADER_BYTES: u64 = 64 << 10;

/// Order of the values of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    ChannelsFirst,
    ChannelsLast,
}

/// Reads one side.
pub fn load(path: &Path, spec: &DataSpec, side: Side) -> Result<Images, KernelError> {
    let (x, y) = match side {
        Side::Train => ("x_train.npy", "y_train.npy"),
        Side::Test => ("x_test.npy", "y_test.npy"),
    };
    let mut archive = Archive::open(path)?;
    let (bytes, place) = archive.read(x, MAX_PIXEL_BYTES + HEADER_BYTES)?;
    let array = parse(path, x, &bytes, place)?;
    let fail = |message: String| KernelError::corrupt(path, place, format!("{x}: {message}"));
    let order = order(&array, spec).map_err(fail)?;
    let count = array.shape.first().copied().unwrap_or_default();
    check_size(path, place, spec, count, array.kind.bytes() as u64)?;
    let pixels = match array.kind {
        Kind::Unsigned(1) => Pixels::Bytes(arranged(array.data.to_vec(), spec, order)),
        Kind::Float => {
            let values = floats(array.data);
            if let Some(index) = values.iter().position(|value| !(0.0..=1.0).contains(value)) {
                return Err(fail(format!(
                    "value {index} is {}, expected 0 to 1",
                    values[index]
                )));
            }
            Pixels::Floats(arranged(values, spec, order))
        }
        other => {
            return Err(fail(format!(
                "numbers of kind {other:?}, expected uint8 or float32"
            )));
        }
    };
    let (bytes, place) = archive.read(y, 8 * count + HEADER_BYTES)?;
    let array = parse(path, y, &bytes, place)?;
    let fail = |message: String| KernelError::corrupt(path, place, format!("{y}: {message}"));
    if array.shape != [count] && array.shape != [count, 1] {
        return Err(fail(format!(
            "shape {:?}, expected [{count}] as there are images",
            array.shape
        )));
    }
    let labels = array
        .integers()
        .ok_or_else(|| fail("expected integers".to_owned()))?;
    if let Some((index, message)) = wrong_label(labels.iter().copied(), spec.classes) {
        let offset = array.start + index * array.kind.bytes() as u64;
        return Err(fail(format!("at byte {offset} of the member: {message}")));
    }
    Ok(Images {
        pixels,
        labels: labels.into_iter().map(|label| label as u16).collect(),
    })
}

fn parse<'a>(
    path: &Path,
    name: &str,
    bytes: &'a [u8],
    place: u64,
) -> Result<Array<'a>, KernelError> {
    Array::parse(bytes).map_err(|(offset, message)| {
        KernelError::corrupt(
            path,
            place,
            format!("{name}: at byte {offset} of the member: {message}"),
        )
    })
}

fn order(array: &Array<'_>, spec: &DataSpec) -> Result<Order, String> {
    let [channels, height, width] = spec.shape.map(u64::from);
    match array.shape.get(1..) {
        Some(shape) if shape == [channels, height, width] => Ok(Order::ChannelsFirst),
        Some(shape) if shape == [height, width] && channels == 1 => Ok(Order::ChannelsFirst),
        Some(shape) if shape == [height, width, channels] => Ok(Order::ChannelsLast),
        _ => Err(format!(
            "shape {:?}, expected images of {channels} × {height} × {width} (the network's input), channels first or last",
            array.shape
        )),
    }
}

/// Values with channels first.
fn arranged<T: Copy>(values: Vec<T>, spec: &DataSpec, order: Order) -> Vec<T> {
    let [channels, height, width] = spec.shape.map(|side| side as usize);
    match order {
        Order::ChannelsFirst => values,
        Order::ChannelsLast => {
            let images = values.chunks_exact(channels * height * width);
            let channel = |image: &[T], channel: usize| -> Vec<T> {
                image
                    .iter()
                    .copied()
                    .skip(channel)
                    .step_by(channels)
                    .collect()
            };
            images
                .flat_map(|image| (0..channels).flat_map(move |index| channel(image, index)))
                .collect()
        }
    }
}
