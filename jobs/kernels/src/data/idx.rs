//! IDX files (the format of MNIST), plain or gzip.
//!
//! `magic: u32` (0x0803 images, 0x0801 labels), one `u32` for each dimension, then bytes;
//! big-endian. Sizes are checked against the network's and the limits before memory is taken.

use super::{Images, Pixels, Side, check_size, wrong_label};
use crate::KernelError;
use evoring_jobs::data::DataSpec;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`.
pub fn files(folder: &Path, side: Side) -> Result<[PathBuf; 2], KernelError> {
    let name = match side {
        Side::Train => "train",
        Side::Test => "t10k",
    };
    Ok([
        find(folder, &format!("{name}-images-idx3-ubyte"))?,
        find(folder, &format!("{name}-labels-idx1-ubyte"))?,
    ])
}

/// Reads both files of a side.
pub fn load(folder: &Path, spec: &DataSpec, side: Side) -> Result<Images, KernelError> {
    let [images, labels] = files(folder, side)?;
    let (mut images, mut labels) = (Idx::open(images)?, Idx::open(labels)?);
    let [count, height, width] = images.header(3)?[..] else {
        return Err(images.corrupt(0, "no dimensions"));
    };
    if spec.shape != [1, height, width] {
        let [channels, rows, columns] = spec.shape;
        let message = format!(
            "images of 1 × {height} × {width}, expected {channels} × {rows} × {columns} (the network's input)"
        );
        return Err(images.corrupt(8, message));
    }
    check_size(&images.path, 4, spec, count.into(), 1)?;
    if let [labelled] = labels.header(1)?[..]
        && labelled != count
    {
        return Err(labels.corrupt(
            4,
            format!("{labelled} labels, expected {count} as there are images"),
        ));
    }
    let pixels = images.rest(u64::from(count) * u64::from(height) * u64::from(width))?;
    let (start, numbers) = (labels.offset, labels.rest(count.into())?);
    let wide = numbers.iter().map(|label| i64::from(*label));
    if let Some((index, message)) = wrong_label(wide, spec.classes) {
        return Err(labels.corrupt(start + index, message));
    }
    Ok(Images {
        pixels: Pixels::Bytes(pixels),
        labels: numbers.into_iter().map(u16::from).collect(),
    })
}

fn find(folder: &Path, name: &str) -> Result<PathBuf, KernelError> {
    let candidates = [folder.join(name), folder.join(format!("{name}.gz"))];
    candidates
        .iter()
        .find(|path| path.is_file())
        .cloned()
        .ok_or_else(|| KernelError::Io {
            path: folder.join(name),
            source: std::io::Error::new(
                std::io::ErrorKind::NotFound,
                "no such file, neither plain nor with .gz",
            ),
        })
}

/// A file on the way; offsets count uncompressed bytes.
struct Idx {
    path: PathBuf,
    reader: Box<dyn Read>,
    is_compressed: bool,
    offset: u64,
}

impl Idx {
    fn open(path: PathBuf) -> Result<Self, KernelError> {
        let file = BufReader::new(File::open(&path).map_err(KernelError::io(&path))?);
        let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
        let reader: Box<dyn Read> = if is_compressed {
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        };
        Ok(Self {
            path,
            reader,
            is_compressed,
            offset: 0,
        })
    }

    fn corrupt(&self, offset: u64, message: impl std::fmt::Display) -> KernelError {
        let counted = if self.is_compressed {
            " (counted after decompression)"
        } else {
            ""
        };
        KernelError::corrupt(&self.path, offset, format!("{message}{counted}"))
    }

    /// Magic number and dimensions.
    fn header(&mut self, dimensions: u32) -> Result<Vec<u32>, KernelError> {
        let (magic, expected) = (self.number()?, 0x0800 + dimensions);
        if magic != expected {
            return Err(self.corrupt(
                0,
                format!("magic number {magic:#010x}, expected {expected:#010x}"),
            ));
        }
        (0..dimensions).map(|_| self.number()).collect()
    }

    fn number(&mut self) -> Result<u32, KernelError> {
        let mut bytes = [0u8; 4];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|e| self.corrupt(self.offset, format!("in the header: {e}")))?;
        self.offset += 4;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Exactly `bytes` bytes and the end of the file.
    fn rest(&mut self, bytes: u64) -> Result<Vec<u8>, KernelError> {
        // `take` bounds what a lying header can make us hold to what the file really has.
        let mut data = Vec::new();
        let outcome = self.reader.by_ref().take(bytes).read_to_end(&mut data);
        let end = self.offset + data.len() as u64;
        outcome.map_err(|e| self.corrupt(end, format!("cannot be read: {e}")))?;
        if (data.len() as u64) < bytes {
            return Err(self.corrupt(
                end,
                format!(
                    "the file ends after {} of {bytes} bytes of data",
                    data.len()
                ),
            ));
        }
        // Reading on also makes the decompressor compare the checksum.
        match self.reader.read(&mut [0u8]) {
            Ok(0) => Ok(data),
            Ok(_) => Err(self.corrupt(end, "more data than the header says")),
            Err(e) => Err(self.corrupt(end, format!("cannot be read: {e}"))),
        }
    }
}
