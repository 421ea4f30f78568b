//! Zip archives as `numpy.savez` writes them: members stored or deflated, one file, no encryption.
//!
//! Only the central directory is believed; sizes are checked before memory is taken.

use crate::KernelError;
use flate2::read::DeflateDecoder;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes of a central directory that will be read.
const MAX_DIRECTORY_BYTES: u64 = 1 << 20;
/// Fixed part of the record at the end, and the longest comment behind it.
const END_BYTES: u64 = 22;
const MAX_COMMENT_BYTES: u64 = u16::MAX as u64;

/// An open archive.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    file: File,
    members: Vec<Member>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    name: String,
    method: u16,
    checksum: u32,
    compressed: u64,
    size: u64,
    header: u64,
}

impl Archive {
    /// Opens an archive and reads its directory.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let mut file = File::open(path).map_err(KernelError::io(path))?;
        let length = file.metadata().map_err(KernelError::io(path))?.len();
        let tail = length.saturating_sub(END_BYTES + MAX_COMMENT_BYTES);
        let bytes = read_at(&mut file, path, tail, length - tail)?;
        let is_end = |at: &usize| {
            bytes[*at..].starts_with(b"PK\x05\x06") && bytes.len() - at >= END_BYTES as usize
        };
        let Some(end) = (0..bytes.len()).rev().find(is_end) else {
            return Err(KernelError::corrupt(
                path,
                length,
                "no end of a zip archive; the file may be truncated",
            ));
        };
        let count = u16_at(&bytes, end + 10);
        let (size, start) = (
            u64::from(u32_at(&bytes, end + 12)),
            u64::from(u32_at(&bytes, end + 16)),
        );
        let limit = MAX_DIRECTORY_BYTES.min(length);
        if size > limit || start.saturating_add(size) > length {
            let message = format!(
                "central directory of {size} bytes at {start}, expected at most {limit} inside the file"
            );
            return Err(KernelError::corrupt(path, tail + end as u64 + 12, message));
        }
        let directory = read_at(&mut file, path, start, size)?;
        let members = members(path, start, &directory, count)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            members,
        })
    }

    /// Reads a whole member of at most `limit` bytes; returns it with its place in the file.
    pub fn read(&mut self, name: &str, limit: u64) -> Result<(Vec<u8>, u64), KernelError> {
        let Some(member) = self
            .members
            .iter()
            .find(|member| member.name == name)
            .cloned()
        else {
            let names: Vec<&str> = self
                .members
                .iter()
                .map(|member| member.name.as_str())
                .collect();
            return Err(KernelError::corrupt(
                &self.path,
                0,
                format!("no member {name:?}, there are {names:?}"),
            ));
        };
        if member.size > limit || member.compressed > limit {
            let message = format!(
                "member {name:?} of {} bytes, expected at most {limit}",
                member.size
            );
            return Err(KernelError::corrupt(&self.path, member.header, message));
        }
        let header = read_at(&mut self.file, &self.path, member.header, 30)?;
        if !header.starts_with(b"PK\x03\x04") {
            let message = format!("no header of member {name:?}");
            return Err(KernelError::corrupt(&self.path, member.header, message));
        }
        let start =
            member.header + 30 + u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        let bytes = self.unpack(&member, start)?;
        let checksum = crc32fast::hash(&bytes);
        if checksum != member.checksum {
            let message = format!(
                "member {name:?} has checksum {checksum:#010x}, expected {:#010x}",
                member.checksum
            );
            return Err(KernelError::corrupt(&self.path, start, message));
        }
        Ok((bytes, start))
    }

    fn unpack(&mut self, member: &Member, start: u64) -> Result<Vec<u8>, KernelError> {
        self.file
            .seek(SeekFrom::Start(start))
            .map_err(KernelError::io(&self.path))?;
        let mut raw = self.file.by_ref().take(member.compressed);
        let mut bytes = Vec::new();
        // One byte more than promised shows that there is more.
        let outcome = match member.method {
            0 => raw.take(member.size + 1).read_to_end(&mut bytes),
            8 => DeflateDecoder::new(&mut raw)
                .take(member.size + 1)
                .read_to_end(&mut bytes),
            other => {
                let message = format!(
                    "member {:?} is packed by method {other}, expected 0 (stored) or 8 (deflated)",
                    member.name
                );
                return Err(KernelError::corrupt(&self.path, member.header, message));
            }
        };
        let at = self.file.stream_position().unwrap_or(start);
        outcome.map_err(|e| {
            KernelError::corrupt(&self.path, at, format!("member {:?}: {e}", member.name))
        })?;
        if bytes.len() as u64 != member.size {
            let message = format!(
                "member {:?} has {} bytes, expected {}",
                member.name,
                bytes.len(),
                member.size
            );
            return Err(KernelError::corrupt(&self.path, at, message));
        }
        Ok(bytes)
    }
}

fn members(
    path: &Path,
    start: u64,
    directory: &[u8],
    count: u16,
) -> Result<Vec<Member>, KernelError> {
    let mut members = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let place = start + at as u64;
        let Some(entry) = directory
            .get(at..at + 46)
            .filter(|entry| entry.starts_with(b"PK\x01\x02"))
        else {
            return Err(KernelError::corrupt(
                path,
                place,
                "no entry of the central directory",
            ));
        };
        let [name, extra, comment] = [28, 30, 32].map(|field| usize::from(u16_at(entry, field)));
        let Some(name_bytes) = directory.get(at + 46..at + 46 + name) else {
            return Err(KernelError::corrupt(
                path,
                place,
                "an entry of the central directory is cut off",
            ));
        };
        let member = Member {
            name: String::from_utf8_lossy(name_bytes).into_owned(),
            method: u16_at(entry, 10),
            checksum: u32_at(entry, 16),
            compressed: u32_at(entry, 20).into(),
            size: u32_at(entry, 24).into(),
            header: u32_at(entry, 42).into(),
        };
        if [member.compressed, member.size, member.header].contains(&u32::MAX.into()) {
            return Err(KernelError::corrupt(
                path,
                place,
                format!("member {:?}: 4 GiB or more cannot be read", member.name),
            ));
        }
        members.push(member);
        at += 46 + name + extra + comment;
    }
    Ok(members)
}

fn read_at(file: &mut File, path: &Path, at: u64, bytes: u64) -> Result<Vec<u8>, KernelError> {
    file.seek(SeekFrom::Start(at))
        .map_err(KernelError::io(path))?;
    let mut data = Vec::new();
    file.take(bytes)
        .read_to_end(&mut data)
        .map_err(KernelError::io(path))?;
    if data.len() as u64 == bytes {
        return Ok(data);
    }
    Err(KernelError::corrupt(
        path,
        at + data.len() as u64,
        format!(
            "the file ends {} bytes too early",
            bytes - data.len() as u64
        ),
    ))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .map_or(0, |two| u16::from_le_bytes([two[0], two[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| {
        u32::from_le_bytes([four[0], four[1], four[2], four[3]])
    })
}
