//! Files that kernels read: data sets in every format, weights, saved training states.

use super::seeds::zip;
use evoring_jobs::data::{DataSource, DataSpec};
use evoring_jobs::network::{Layer, NetworkSpec};
use evoring_kernels::data::{self, Images, Pixels, Side};
use evoring_kernels::training::Checkpoint;
use evoring_kernels::weights::Weights;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Images that the targets ask for: RGB of 2 × 3, in two classes.
pub const SHAPE: [u32; 3] = [3, 2, 3];
/// Parameters and statistics of the checkpoints that the target asks for.
pub const LENGTHS: (usize, usize) = (3, 2);

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a file is written");
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// Reads one side; what is read fits together and can be given to a network.
fn read(source: DataSource, shape: [u32; 3]) {
    let spec = DataSpec {
        source,
        shape,
        classes: 2,
        split_seed: 1,
        fitness_images: 1,
        selection_images: 1,
        train_images: None,
        digest: None,
    };
    let Ok(images) = data::read(&spec, Side::Train) else {
        return;
    };
    let values = data::image_values(&spec);
    let read = match &images.pixels {
        Pixels::Bytes(bytes) => bytes.len(),
        Pixels::Floats(floats) => floats.len(),
    };
    assert_eq!(read, values * images.count());
    assert!(images.labels.iter().all(|label| *label < 2));
    check_pixels(&images, values);
    assert_eq!(images.digest(shape), images.digest(shape));
}

fn check_pixels(images: &Images, values: usize) {
    let mut out = vec![0f32; values];
    for index in [0, images.count() - 1] {
        images.write(index, &mut out);
        assert!(out.iter().all(|value| (-1.0..=1.0).contains(value)));
    }
}

/// A NumPy archive.
pub fn npz(data: &[u8]) {
    let folder = folder();
    let path = folder.path().join("data.npz");
    write(&path, data);
    read(DataSource::Npz(text(&path)), SHAPE);
}

/// Two NumPy arrays in an archive that is in order: length of the first (2 bytes, little-endian),
/// images, labels.
pub fn npy(data: &[u8]) {
    let Some((length, arrays)) = data.split_first_chunk() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes(*length)).min(arrays.len());
    let (images, labels) = arrays.split_at(length);
    npz(&zip(
        &[("x_train.npy", images), ("y_train.npy", labels)],
        false,
    ));
}

/// Two IDX files: whether they are compressed (1 byte), length of the first (2 bytes), images,
/// labels.
pub fn idx(data: &[u8]) {
    let Some(([is_compressed, low, high], files)) = data.split_first_chunk() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(files.len());
    let end = if is_compressed % 2 == 1 { ".gz" } else { "" };
    let folder = folder();
    for (name, bytes) in [
        ("train-images-idx3-ubyte", &files[..length]),
        ("train-labels-idx1-ubyte", &files[length..]),
    ] {
        write(&folder.path().join(format!("{name}{end}")), bytes);
    }
    read(DataSource::Idx(text(folder.path())), [1, 2, 3]);
}

/// A picture in a folder of pictures.
pub fn picture(data: &[u8]) {
    let folder = folder();
    for class in ["a", "b"] {
        let class = folder.path().join(class);
        fs::create_dir(&class).expect("a folder is made");
        if class.ends_with("a") {
            write(&class.join("picture"), data);
        }
    }
    read(DataSource::Folder(text(folder.path())), SHAPE);
}

/// The network whose weights the target asks for.
pub fn network() -> NetworkSpec {
    NetworkSpec {
        name: "fuzzed".to_owned(),
        input: [1, 3, 3],
        layers: vec![
            Layer::Conv {
                filters: 2,
                kernel: 2,
                padding: 0,
            },
            Layer::BatchNorm,
            Layer::Flatten,
            Layer::Dense { units: 2 },
        ],
    }
}

/// A file of weights.
pub fn weights(data: &[u8]) {
    let folder = folder();
    let path = folder.path().join("weights.safetensors");
    write(&path, data);
    let Ok(weights) = Weights::load(&path, &network()) else {
        return;
    };
    let bytes = weights.to_bytes().expect("weights are written");
    write(&path, &bytes);
    let again = Weights::load(&path, &network()).expect("what was written can be read");
    assert_eq!(again.to_bytes().expect("weights are written"), bytes);
}

/// A saved training state.
pub fn checkpoint(data: &[u8]) {
    let folder = folder();
    let path = folder.path().join("checkpoint");
    write(&path, data);
    let Ok(checkpoint) = Checkpoint::load(&path, LENGTHS) else {
        return;
    };
    // A name of its own each time: some file systems flush a file that replaces another.
    let saved = |checkpoint: &Checkpoint, name: &str| {
        let path = folder.path().join(name);
        checkpoint.save(&path).expect("a checkpoint is written");
        let bytes = fs::read(&path).expect("a file is read");
        (path, bytes)
    };
    let (path, bytes) = saved(&checkpoint, "first");
    let again = Checkpoint::load(&path, LENGTHS).expect("what was written can be read");
    assert_eq!(saved(&again, "second").1, bytes);
}
