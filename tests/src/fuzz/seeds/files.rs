//! Files of every format, and texts.

use super::Seed;
use crate::fuzz::driver::JOB;
use crate::fuzz::kernels::{LENGTHS, SHAPE, network};
use crate::fuzz::texts::CUT;
use crate::job::PruneJob;
use evoring_kernels::training::Checkpoint;
use evoring_kernels::weights::Weights;
use evoring_protocol::Digest;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use image::{DynamicImage, ImageFormat, RgbImage};
use std::io::{Cursor, Write};

pub fn job_files() -> Vec<Seed> {
    let layers = r#"name = "layers"
kind = "evolve.prune"
[data]
npz = "data.npz"
classes = 3
[network]
input = [3, 8, 8]
[[network.layers]]
type = "conv"
filters = 4
kernel = 3
padding = 1
[[network.layers]]
type = "flatten"
[[network.layers]]
type = "dense"
units = 3
"#;
    let wrong = r#"name = 3
kind = "evolve"
[data]
set = "a"
idx = ["b"]
[search]
mutation = [0.5, nan]
[train]
ranks = "0..9"
"#;
    let every = PruneJob {
        every_row: true,
        ..PruneJob::default()
    };
    [
        ("custom", JOB.to_owned()),
        ("named", every.text()),
        ("layers", layers.to_owned()),
        ("wrong", wrong.to_owned()),
        (
            "nested",
            format!("a = {}1{}\n", "[".repeat(40), "]".repeat(40)),
        ),
        ("dotted", format!("a{} = 1\n", ".a".repeat(40))),
    ]
    .map(|(name, text)| (name, text.into_bytes()))
    .into()
}

/// Every job of the seeds ends well, but for the last one.
pub fn answers() -> Vec<Seed> {
    let rising: Vec<u8> = (0..200).collect();
    let mut wrong = rising.clone();
    wrong[40] = 245;
    vec![("zeros", Vec::new()), ("rising", rising), ("wrong", wrong)]
}

pub fn texts() -> Vec<Seed> {
    [
        ("digest", &*Digest([0xab; 32]).to_string()),
        ("worker", "w-1"),
        (
            "chromosome",
            "1011001110001111000011111000001111110000001111111000000011111111",
        ),
        ("url", "file:///blobs/%C3%A9%20a"),
        ("job", "latest"),
        ("number", "18446744073709551615"),
        ("folder", "./evoring-out/small"),
    ]
    .map(|(name, text)| (name, text.as_bytes().to_vec()))
    .into()
}

pub fn cluster_files() -> Vec<Seed> {
    [
        ("announced", r#"{"cluster":"00ff00ff00ff00ff","announce":"coordinator.json","identity":"submitter"}"#),
        ("listed", r#"{"coordinators":["127.0.0.1:7000","[::1]:7000"],"identity":"viewer"}"#),
        ("announcement", r#"{"listen":"127.0.0.1:7000","http":"127.0.0.1:7001","process":4321}"#),
    ]
    .map(|(name, text)| (name, text.as_bytes().to_vec()))
    .into()
}

pub fn report_files() -> Vec<Seed> {
    let report = r#"{"format":"evoring-report/1","result":null,"run":{"files":["report.json","model.json","a/b.svg"]}}"#;
    vec![("report", report.into())]
}

fn individual(correct: u32, fitness: f64) -> String {
    format!(
        r#"{{"genome":"101","correct":{correct},"total":10,"parameters":7,"fitness":{fitness:?},"parents":[0,1],"operator":"crossover"}}"#
    )
}

pub fn populations() -> Vec<Seed> {
    let first = format!("[\n{},\n{}\n]\n", individual(9, 0.9), individual(8, 0.8));
    let second = format!("[{}]", individual(10, -0.5));
    vec![("two", [&first, CUT, &second].concat().into_bytes())]
}

pub fn results() -> Vec<Seed> {
    let population = format!(
        r#"{{"format":"evoring-population/1","generations":[[{}],[{}]]}}"#,
        individual(9, 0.9),
        individual(8, 0.8)
    );
    let row = r#"{"name":"full","parameters":431080,"multiplications":2293000,"bytes":1724320,"correct":9012,"total":10000,"compression":1.5}"#;
    let winner = r#"{"parameters":7,"fitness_correct":9,"fitness_total":10}"#;
    let result = format!(r#"{{"rows":[{row}],"winner":{winner}}}"#);
    let measured = r#"{"rows":[{"name":"full","nanoseconds_per_image":123456}]}"#;
    let layer = r#"{"index":0,"kind":"conv","full_filters":6,"kept":[0,2,5]}"#;
    let flat = r#"{"index":1,"kind":"flatten"}"#;
    let model = format!(
        r#"{{"name":"lenet","parameters":7,"full_parameters":431080,"layers":[{layer},{flat}]}}"#
    );
    let all = [&*population, CUT, &result, CUT, measured, CUT, &model].concat();
    vec![("all", all.into_bytes())]
}

/// An archive as `numpy.savez` writes it; members are stored, or deflated.
pub fn zip(members: &[(&str, &[u8])], is_deflated: bool) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in members {
        let mut checksum = flate2::Crc::new();
        checksum.update(bytes);
        let packed = match is_deflated {
            true => {
                let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(bytes).expect("memory takes it");
                encoder.finish().expect("memory takes it")
            }
            false => bytes.to_vec(),
        };
        // Version 2.0, no flags; the method; no time.
        let mut common = vec![20, 0, 0, 0, if is_deflated { 8 } else { 0 }, 0, 0, 0, 0, 0];
        common.extend(checksum.sum().to_le_bytes());
        common.extend((packed.len() as u32).to_le_bytes());
        common.extend((bytes.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0; 2]);
        let start = archive.len() as u32;
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(name.as_bytes());
        archive.extend(packed);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let count = (members.len() as u16).to_le_bytes();
    let start = archive.len() as u32;
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend([count, count].concat());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(start.to_le_bytes());
    archive.extend([0; 2]);
    archive
}

/// An array as numpy writes it, format 1.
fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\0".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// Images and labels: bytes with channels first, and floats with channels last.
fn pairs() -> [(Vec<u8>, Vec<u8>); 2] {
    let bytes: Vec<u8> = (0..36).collect();
    let floats: Vec<u8> = (0..36u8)
        .flat_map(|value| (f32::from(value) / 36.0).to_le_bytes())
        .collect();
    let wide = [0i64, 1].map(i64::to_le_bytes).concat();
    [
        (
            npy("|u1", "(2, 3, 2, 3)", &bytes),
            npy("|u1", "(2,)", &[0, 1]),
        ),
        (
            npy("<f4", "(2, 2, 3, 3)", &floats),
            npy("<i8", "(2, 1)", &wide),
        ),
    ]
}

pub fn arrays() -> Vec<Seed> {
    let cut = |(images, labels): (Vec<u8>, Vec<u8>)| {
        [&(images.len() as u16).to_le_bytes()[..], &images, &labels].concat()
    };
    let [bytes, floats] = pairs().map(cut);
    vec![("bytes", bytes), ("floats", floats)]
}

pub fn archives() -> Vec<Seed> {
    let archive = |(images, labels): &(Vec<u8>, Vec<u8>), is_deflated| {
        zip(
            &[("x_train.npy", images), ("y_train.npy", labels)],
            is_deflated,
        )
    };
    let [bytes, floats] = pairs();
    vec![
        ("stored", archive(&bytes, false)),
        ("deflated", archive(&floats, true)),
    ]
}

pub fn idx() -> Vec<Seed> {
    let pixels: Vec<u8> = (0..12).collect();
    let images = [
        &[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3][..],
        &pixels,
    ]
    .concat();
    let labels = vec![0, 0, 8, 1, 0, 0, 0, 2, 0, 1];
    let packed = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    };
    let files = |is_compressed: u8, images: &[u8], labels: &[u8]| {
        let length = (images.len() as u16).to_le_bytes();
        [&[is_compressed][..], &length, images, labels].concat()
    };
    vec![
        ("plain", files(0, &images, &labels)),
        ("gzip", files(1, &packed(&images), &packed(&labels))),
    ]
}

pub fn pictures() -> Vec<Seed> {
    let [_, height, width] = SHAPE;
    let encoded = |width: u32, format| {
        let pixel = |x, y| image::Rgb([x as u8 * 40, y as u8 * 90, 7]);
        let picture = DynamicImage::from(RgbImage::from_fn(width, height, pixel));
        let mut bytes = Cursor::new(Vec::new());
        picture
            .write_to(&mut bytes, format)
            .expect("a picture is written");
        bytes.into_inner()
    };
    vec![
        ("png", encoded(width, ImageFormat::Png)),
        ("wide-png", encoded(2 * width, ImageFormat::Png)),
        ("jpeg", encoded(width, ImageFormat::Jpeg)),
    ]
}

pub fn weights() -> Vec<Seed> {
    let bytes = Weights::initial(&network(), 7).to_bytes();
    vec![("initial", bytes.expect("weights are written"))]
}

pub fn checkpoints() -> Vec<Seed> {
    let checkpoint = Checkpoint {
        step: 12,
        epoch_loss: (1.5, 4),
        parameters: vec![0.5; LENGTHS.0],
        momentum: vec![-0.5; LENGTHS.0],
        statistics: vec![1.0; LENGTHS.1],
        data: Digest([3; 32]),
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("checkpoint");
    checkpoint.save(&path).expect("a checkpoint is written");
    vec![("saved", std::fs::read(&path).expect("a file is read"))]
}
