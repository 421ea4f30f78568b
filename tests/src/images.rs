//! A small data set of IDX files, which tests may break, and the job that reads it.

use std::path::{Path, PathBuf};

/// Train-side images.
pub const TRAIN: u32 = 320;
/// Test images.
pub const TEST: u32 = 40;
/// Side of an image, in pixels.
pub const SIDE: u32 = 28;
/// Bytes before the first pixel: magic number, count, height, width.
pub const IMAGES_HEADER: u64 = 16;

/// Writes the four files into a new folder `place`: ten classes, told apart by the position of a
/// bright square.
///
/// # Panics
/// If they cannot be written.
pub fn write(place: &Path) {
    std::fs::create_dir(place).expect("a new folder");
    for (name, count) in [("train", TRAIN), ("t10k", TEST)] {
        let mut images: Vec<u8> = [0x0803, count, SIDE, SIDE]
            .into_iter()
            .flat_map(u32::to_be_bytes)
            .collect();
        let mut labels: Vec<u8> = [0x0801, count]
            .into_iter()
            .flat_map(u32::to_be_bytes)
            .collect();
        for index in 0..count {
            let class = index % 10;
            let pixels = (0..SIDE * SIDE).map(|pixel| {
                let (row, column) = (pixel / SIDE, pixel % SIDE);
                let is_bright = row / 7 * 4 + column / 7 == class;
                // No two images of a class are equal.
                if is_bright {
                    255
                } else {
                    ((pixel * 31 + index * 17) % 64) as u8
                }
            });
            images.extend(pixels);
            labels.push(class as u8);
        }
        for (kind, bytes) in [("images-idx3", images), ("labels-idx1", labels)] {
            let file = place.join(format!("{name}-{kind}-ubyte"));
            std::fs::write(file, bytes).expect("a file of the data set");
        }
    }
}

/// [`write()`], then `damage` done to one file; returns that file.
///
/// # Panics
/// If it cannot be written.
pub fn write_damaged(place: &Path, name: &str, damage: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    write(place);
    let file = place.join(name);
    let mut bytes = std::fs::read(&file).expect("a file of the data set");
    damage(&mut bytes);
    std::fs::write(&file, bytes).expect("a file of the data set");
    file
}

/// A job of a second or two on the data set in `place`.
pub fn job(place: &Path) -> String {
    format!(
        r#"name = "tiny"
kind = "evolve.prune"

[data]
idx = "{}"
fitness_images = 60
selection_images = 60

[network]
name = "lenet"

[train]
ranks = "1..4"
epochs = 1
batch = 20

[search]
population = 4
generations = 1
finalists = 2

[baselines]
l1_widths = false
l1_allocations = 0
random = false
full_extra = false
"#,
        place.display()
    )
}
