//! Reading data sets, sound and broken, and small ones made up for other tests.

use super::*;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use std::collections::BTreeSet;
use std::io::Write;
use tempfile::TempDir;

mod content;

/// A made-up data set of three classes.
pub(crate) struct Shapes {
    pub(crate) train: u32,
    pub(crate) test: u32,
    pub(crate) side: u32,
}

/// Writes IDX files: horizontal bars, vertical bars and blots on a noisy ground.
pub(crate) fn write_shapes(folder: &Path, shapes: Shapes) -> DataSource {
    use evoring_jobs::random::{Purpose, Stream};
    let Shapes { train, test, side } = shapes;
    for (name, count) in [("train", train), ("t10k", test)] {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for image in 0..count {
            let mut stream = Stream::new(count.into(), Purpose::Order, image.into(), 0);
            let label = image % 3;
            let at = 2 + stream.below(u64::from(side) - 4) as u32;
            for y in 0..side {
                for x in 0..side {
                    let is_inside = match label {
                        0 => y.abs_diff(at) < 2,
                        1 => x.abs_diff(at) < 2,
                        _ => y.abs_diff(at) < 2 && x.abs_diff(at) < 2,
                    };
                    pixels.push(if is_inside { 200 } else { 20 } + stream.below(50) as u8);
                }
            }
            labels.push(label as u8);
        }
        std::fs::write(
            folder.join(format!("{name}-images-idx3-ubyte")),
            idx(&[count, side, side], &pixels),
        )
        .unwrap();
        std::fs::write(
            folder.join(format!("{name}-labels-idx1-ubyte")),
            idx(&[count], &labels),
        )
        .unwrap();
    }
    DataSource::Idx(folder.to_string_lossy().into_owned())
}

fn idx(dimensions: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = (0x0800 + dimensions.len() as u32).to_be_bytes().to_vec();
    bytes.extend(dimensions.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn spec(source: DataSource, shape: [u32; 3], classes: u32) -> DataSpec {
    DataSpec {
        source,
        shape,
        classes,
        split_seed: 1,
        fitness_images: 1,
        selection_images: 1,
        train_images: None,
        digest: None,
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A folder with four images of 2 × 3 as IDX files; pixels count up from 0.
fn idx_folder(is_compressed: bool) -> (TempDir, DataSpec) {
    let folder = tempfile::tempdir().unwrap();
    for (name, dimensions, data) in [
        (
            "train-images-idx3-ubyte",
            &[4, 2, 3][..],
            (0..24).collect::<Vec<u8>>(),
        ),
        ("train-labels-idx1-ubyte", &[4], vec![0, 1, 2, 1]),
        ("t10k-images-idx3-ubyte", &[1, 2, 3], (100..106).collect()),
        ("t10k-labels-idx1-ubyte", &[1], vec![2]),
    ] {
        let bytes = idx(dimensions, &data);
        let (name, bytes) = if is_compressed {
            (format!("{name}.gz"), gzip(&bytes))
        } else {
            (name.to_owned(), bytes)
        };
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let spec = spec(DataSource::Idx(text(folder.path())), [1, 2, 3], 3);
    (folder, spec)
}

/// Claim: IDX files are read as they are, plain and gzip, both sides.
#[test]
fn idx_files_are_read() {
    for is_compressed in [false, true] {
        let (_folder, spec) = idx_folder(is_compressed);
        let train = read(&spec, Side::Train).unwrap();
        assert_eq!(
            train,
            Images {
                pixels: Pixels::Bytes((0..24).collect()),
                labels: vec![0, 1, 2, 1]
            }
        );
        let test = read(&spec, Side::Test).unwrap();
        assert_eq!(
            test,
            Images {
                pixels: Pixels::Bytes((100..106).collect()),
                labels: vec![2]
            }
        );
        let mut image = [0.0; 6];
        test.write(0, &mut image);
        assert_eq!(image[5], (105.0 / 255.0 - 0.5) / 0.5);
    }
}

/// Claim: a broken or unfit IDX file is refused without a retry, naming file and offset.
#[test]
fn broken_idx_files_are_refused() {
    let images = idx(&[4, 2, 3], &(0..24).collect::<Vec<u8>>());
    let labels = "train-labels-idx1-ubyte";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "train-images-idx3-ubyte",
            images[..30].to_vec(),
            "at byte 30: the file ends after 14 of 24 bytes",
        ),
        (
            "train-images-idx3-ubyte",
            images[..7].to_vec(),
            "at byte 4: in the header",
        ),
        (
            "train-images-idx3-ubyte",
            [&images[..], &[0]].concat(),
            "at byte 40: more data",
        ),
        (
            "train-images-idx3-ubyte",
            idx(&[4, 6], &[]),
            "at byte 0: magic number 0x00000802, expected 0x00000803",
        ),
        (
            "train-images-idx3-ubyte",
            idx(&[4, 3, 2], &[0; 24]),
            "at byte 8: images of 1 × 3 × 2, expected 1 × 2 × 3",
        ),
        (
            "train-images-idx3-ubyte",
            idx(&[u32::MAX, 2, 3], &[]),
            "at byte 4: 4294967295 images take",
        ),
        (
            "train-images-idx3-ubyte",
            idx(&[0, 2, 3], &[]),
            "at byte 4: 0 images take 0 bytes",
        ),
        (
            labels,
            idx(&[3], &[0; 3]),
            "at byte 4: 3 labels, expected 4",
        ),
        (
            labels,
            idx(&[4], &[0, 1, 3, 0]),
            "at byte 10: image 2 has label 3, expected 0 to 2",
        ),
    ];
    for (name, bytes, expected) in cases {
        let (folder, spec) = idx_folder(false);
        std::fs::write(folder.path().join(name), bytes).unwrap();
        let error = read(&spec, Side::Train).unwrap_err();
        assert!(
            error.to_string().contains(expected) && !error.can_retry(),
            "{error} should contain {expected}"
        );
    }
    let (folder, spec) = idx_folder(true);
    let path = folder.path().join("train-images-idx3-ubyte.gz");
    let whole = std::fs::read(&path).unwrap();
    // Cut off, and one bit of the checksum wrong.
    std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    let error = read(&spec, Side::Train).unwrap_err().to_string();
    assert!(
        error.contains("train-images-idx3-ubyte.gz: at byte "),
        "{error}"
    );
    let mut wrong = whole.clone();
    wrong[whole.len() - 8] ^= 1;
    std::fs::write(&path, wrong).unwrap();
    let error = read(&spec, Side::Train).unwrap_err().to_string();
    assert!(error.contains("at byte 40: cannot be read"), "{error}");
    // A file that is not there may be there elsewhere.
    std::fs::remove_file(&path).unwrap();
    assert!(read(&spec, Side::Train).unwrap_err().can_retry());
}

/// An array as numpy writes it.
pub(crate) fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(data);
    bytes
}

/// A zip archive as numpy writes it; local headers leave sizes to the central directory.
pub(crate) fn zip(members: &[(&str, Vec<u8>)], is_deflated: bool) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let packed = if is_deflated {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        } else {
            content.clone()
        };
        let method = if is_deflated { 8u16 } else { 0 };
        let (start, checksum) = (bytes.len() as u32, crc32fast::hash(content));
        let mut common = Vec::new();
        common.extend(
            [20u16, 0, method, 0, 0]
                .iter()
                .flat_map(|field| field.to_le_bytes()),
        );
        common.extend(
            [checksum, packed.len() as u32, content.len() as u32]
                .iter()
                .flat_map(|field| field.to_le_bytes()),
        );
        common.extend((name.len() as u16).to_le_bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(4u16.to_le_bytes());
        bytes.extend(name.bytes());
        bytes.extend([9, 9, 0, 0]);
        bytes.extend(packed);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0u8; 12]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(
        [members.len() as u16; 2]
            .iter()
            .flat_map(|count| count.to_le_bytes()),
    );
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

fn npz(images: Vec<u8>, labels: Vec<u8>, is_deflated: bool) -> (TempDir, String, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let members = [
        ("x_train.npy", images.clone()),
        ("y_train.npy", labels.clone()),
        ("x_test.npy", images),
        ("y_test.npy", labels),
    ];
    let bytes = zip(&members, is_deflated);
    let path = folder.path().join("set.npz");
    std::fs::write(&path, &bytes).unwrap();
    (folder, text(&path), bytes)
}

/// Claim: `.npz` files are read, stored and deflated, channels first and last, bytes and floats,
/// with every kind of integer as label.
#[test]
fn npz_files_are_read() {
    let bytes: Vec<u8> = (0..12).collect();
    let floats: Vec<u8> = (0..12)
        .flat_map(|value| (value as f32 / 12.0).to_le_bytes())
        .collect();
    let wide: Vec<u8> = [2i64, 0]
        .iter()
        .flat_map(|label| label.to_le_bytes())
        .collect();
    let narrow = vec![2u8, 0];
    let middle: Vec<u8> = [2i16, 0]
        .iter()
        .flat_map(|label| label.to_le_bytes())
        .collect();
    for is_deflated in [false, true] {
        for labels in [
            npy("<i8", "2,", &wide),
            npy("|u1", "2, 1", &narrow),
            npy("<i2", "2,", &middle),
        ] {
            // Two images of 3 channels, 1 row, 2 columns.
            let (_folder, file, _) = npz(
                npy("|u1", "2, 3, 1, 2", &bytes),
                labels.clone(),
                is_deflated,
            );
            let images = read(&spec(DataSource::Npz(file), [3, 1, 2], 3), Side::Test).unwrap();
            assert_eq!(
                images,
                Images {
                    pixels: Pixels::Bytes(bytes.clone()),
                    labels: vec![2, 0]
                }
            );
            let (_folder, file, _) = npz(npy("|u1", "2, 1, 2, 3", &bytes), labels, is_deflated);
            let images = read(&spec(DataSource::Npz(file), [3, 1, 2], 3), Side::Train).unwrap();
            assert_eq!(
                images.pixels,
                Pixels::Bytes(vec![0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11])
            );
        }
        let (_folder, file, _) = npz(
            npy("<f4", "2, 2, 3", &floats),
            npy("|u1", "2,", &narrow),
            is_deflated,
        );
        let images = read(&spec(DataSource::Npz(file), [1, 2, 3], 3), Side::Train).unwrap();
        assert_eq!(
            images.pixels,
            Pixels::Floats((0..12).map(|value| value as f32 / 12.0).collect())
        );
    }
}

/// Claim: broken or unfit `.npz` files are refused without a retry, naming file and offset.
#[test]
fn broken_npz_files_are_refused() {
    let good = || (npy("|u1", "2, 2, 3", &[7; 12]), npy("|u1", "2,", &[1, 0]));
    let check = |images: Vec<u8>, labels: Vec<u8>, expected: &str| {
        let (_folder, file, _) = npz(images, labels, false);
        let error = read(&spec(DataSource::Npz(file), [1, 2, 3], 3), Side::Train).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(expected)
                && message.contains("set.npz: at byte")
                && !error.can_retry(),
            "{message}"
        );
    };
    check(
        npy("|u1", "2, 3, 2", &[7; 12]),
        good().1,
        "shape [2, 3, 2], expected images of 1 × 2 × 3",
    );
    check(
        npy("|u1", "2, 2, 3", &[7; 11]),
        good().1,
        "11 bytes of data, expected 12",
    );
    check(
        npy("<f8", "2, 2, 3", &[0; 96]),
        good().1,
        "type <f8, expected integers or float32",
    );
    check(
        npy("<i2", "2, 2, 3", &[0; 24]),
        good().1,
        "expected uint8 or float32",
    );
    check(
        npy("<f4", "2, 2, 3", &[0x7f; 48]),
        good().1,
        "expected 0 to 1",
    );
    check(
        npy("|u1", "0, 2, 3", &[]),
        good().1,
        "0 images take 0 bytes",
    );
    check(
        good().0,
        npy("|u1", "3,", &[0; 3]),
        "shape [3], expected [2]",
    );
    check(
        good().0,
        npy("|i1", "2,", &[0, 0xff]),
        "y_train.npy: at byte 69 of the member: image 1 has label -1, expected 0 to 2",
    );
    check(
        good().0,
        npy("<i4", "2,", &[1, 0, 0, 0, 3, 0, 0, 0]),
        "y_train.npy: at byte 72 of the member: image 1 has label 3, expected 0 to 2",
    );
    check(
        good().0,
        npy("<u8", "2,", &[0xff; 16]),
        "image 0 has label 9223372036854775807, expected 0 to 2",
    );
    check(good().0, npy("<f4", "2,", &[0; 8]), "expected integers");
    check(b"junk".to_vec(), good().1, "no numpy array");

    let (folder, file, bytes) = npz(good().0, good().1, false);
    let spec = spec(DataSource::Npz(file.clone()), [1, 2, 3], 3);
    let message = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let error = read(&spec, Side::Train).unwrap_err();
        assert!(!error.can_retry());
        error.to_string()
    };
    assert!(message(&bytes[..bytes.len() - 5]).contains("may be truncated"));
    assert!(message(&[]).contains("may be truncated"));
    // A pixel changed: the checksum tells.
    let mut wrong = bytes.clone();
    let at = bytes
        .windows(12)
        .position(|window| window == [7; 12])
        .unwrap();
    wrong[at] = 8;
    assert!(
        message(&wrong).contains("has checksum"),
        "{}",
        message(&wrong)
    );
    // Every cut and every changed byte gives an answer, never a panic.
    for at in 0..bytes.len() {
        std::fs::write(&file, &bytes[..at]).unwrap();
        assert!(read(&spec, Side::Train).is_err());
        let mut wrong = bytes.clone();
        wrong[at] ^= 0xff;
        std::fs::write(&file, wrong).unwrap();
        let _ = read(&spec, Side::Train);
    }
    drop(folder);
}

/// Writes a picture of one colour.
pub(crate) fn picture(path: &Path, width: u32, height: u32, color: [u8; 3]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(width, height, image::Rgb(color))
        .save(path)
        .unwrap();
}

/// Claim: class folders are read in the order of names, pictures of both formats are resized, grey
/// or RGB as the network wants; without `train` and `test` every fifth is for testing.
#[test]
fn folders_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..6 {
        picture(
            &folder.path().join(format!("bees/{index}.png")),
            4,
            4,
            [0, 0, index],
        );
        picture(
            &folder.path().join(format!("ants/{index}.jpg")),
            9,
            5,
            [200, 200, 200],
        );
    }
    std::fs::write(folder.path().join("bees/.hidden"), "not a picture").unwrap();
    let rgb = spec(DataSource::Folder(text(folder.path())), [3, 4, 4], 2);
    let train = read(&rgb, Side::Train).unwrap();
    assert_eq!(train.labels, [[0; 5], [1; 5]].concat());
    let Pixels::Bytes(bytes) = &train.pixels else {
        panic!("bytes expected")
    };
    assert!(bytes[..5 * 48].iter().all(|value| value.abs_diff(200) < 4));
    // The last bee is number 5: number 4 is for testing.
    assert_eq!(bytes[9 * 48..], [[0; 16], [0; 16], [5; 16]].concat());
    let test = read(&rgb, Side::Test).unwrap();
    assert_eq!(test.labels, [0, 1]);
    assert_eq!(
        read(
            &DataSpec {
                shape: [1, 2, 3],
                ..rgb.clone()
            },
            Side::Test
        )
        .unwrap()
        .count(),
        2
    );

    picture(&folder.path().join("sides/train/a/1.png"), 2, 2, [1, 1, 1]);
    picture(&folder.path().join("sides/test/a/1.png"), 2, 2, [9, 9, 9]);
    let sides = spec(
        DataSource::Folder(text(&folder.path().join("sides"))),
        [1, 2, 2],
        1,
    );
    assert_eq!(
        read(&sides, Side::Train).unwrap().pixels,
        Pixels::Bytes(vec![1; 4])
    );
    assert_eq!(
        read(&sides, Side::Test).unwrap().pixels,
        Pixels::Bytes(vec![9; 4])
    );
}

/// Claim: folders that do not fit and broken pictures are refused, naming the file.
#[test]
fn broken_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    picture(&folder.path().join("a/1.png"), 20, 20, [1, 2, 3]);
    picture(&folder.path().join("b/1.png"), 20, 20, [1, 2, 3]);
    let two = spec(DataSource::Folder(text(folder.path())), [3, 4, 4], 2);
    let message = |spec: &DataSpec| read(spec, Side::Train).unwrap_err().to_string();
    assert!(
        message(&DataSpec {
            classes: 3,
            ..two.clone()
        })
        .contains("2 class folders, expected 3")
    );
    assert!(
        message(&DataSpec {
            shape: [2, 4, 4],
            ..two.clone()
        })
        .contains("1 channel (grey) or 3 (RGB)")
    );
    let path = folder.path().join("b/1.png");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(message(&two).contains("b/1.png"), "{}", message(&two));
    std::fs::write(&path, "text").unwrap();
    assert!(message(&two).contains("b/1.png"));
    // A picture that claims to be huge is refused before memory is taken.
    let mut huge = whole.clone();
    huge[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    std::fs::write(&path, huge).unwrap();
    assert!(message(&two).contains("b/1.png"));
}

/// Claim: a picture whose header claims far more than its file can hold is refused before memory is
/// taken and before pixels are made up; a large picture of one colour, packed 500 to 1, is read.
/// Method: a JPEG of 16,000 × 16,000 by its header alone; a whole one of 3,000 × 3,000.
#[test]
fn claimed_sizes_fit_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/1.jpg");
    picture(&path, 3_000, 3_000, [200, 200, 200]);
    let one = spec(DataSource::Folder(text(folder.path())), [1, 4, 4], 1);
    let images = read(&one, Side::Train).unwrap();
    assert_eq!(images.pixels, Pixels::Bytes(vec![200; 16]));
    picture(&path, 8, 8, [200, 200, 200]);
    let mut huge = std::fs::read(&path).unwrap();
    let frame = huge.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    let side = 16_000u16.to_be_bytes();
    huge[frame + 5..frame + 9].copy_from_slice(&[side, side].concat());
    std::fs::write(&path, huge).unwrap();
    let message = read(&one, Side::Train).unwrap_err().to_string();
    assert!(
        message.contains("1.jpg") && message.contains("limit"),
        "{message}"
    );
}

/// Claim: the parts are disjoint, have their sizes, and do not overlap with the test side; parts
/// that do not fit are refused.
#[test]
fn parts_are_disjoint() {
    let folder = tempfile::tempdir().unwrap();
    let source = write_shapes(
        folder.path(),
        Shapes {
            train: 50,
            test: 9,
            side: 6,
        },
    );
    let spec = DataSpec {
        fitness_images: 10,
        selection_images: 15,
        train_images: Some(20),
        ..spec(source, [1, 6, 6], 3)
    };
    let parts = [Part::Train, Part::Fitness, Part::Selection]
        .map(|part| part_indices(&spec, part, 50).unwrap());
    assert_eq!(parts.each_ref().map(Vec::len), [20, 10, 15]);
    assert_eq!(parts.iter().flatten().collect::<BTreeSet<_>>().len(), 45);
    assert_eq!(prepare(&spec, Part::Test).unwrap().labels.len(), 9);
    let fitness = prepare(&spec, Part::Fitness).unwrap();
    assert_eq!((fitness.images.len(), fitness.labels.len()), (360, 10));
    let error = prepare(
        &DataSpec {
            train_images: Some(26),
            ..spec.clone()
        },
        Part::Train,
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("do not fit into 50 train-side images"),
        "{error}"
    );
    let missing = DataSpec {
        source: DataSource::Named("no-such-set".to_owned()),
        ..spec
    };
    let error = prepare(&missing, Part::Train).unwrap_err();
    assert!(
        error.to_string().contains("run `make setup`") && error.can_retry(),
        "{error}"
    );
}
