//! Arrays as numpy stores them (`.npy`, versions 1 to 3), in C order.

/// Kind of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Unsigned, of this many bytes.
    Unsigned(usize),
    /// Signed, of this many bytes.
    Signed(usize),
    /// 32-bit float.
    Float,
}

/// An array in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array<'a> {
    /// Kind of its numbers, little-endian.
    pub kind: Kind,
    /// Sizes.
    pub shape: Vec<u64>,
    /// The numbers.
    pub data: &'a [u8],
    /// Where they begin in the bytes that were parsed.
    pub start: u64,
}

impl Kind {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::Unsigned(bytes) | Self::Signed(bytes) => bytes,
            Self::Float => 4,
        }
    }
}

impl<'a> Array<'a> {
    /// Reads `bytes`; an error names the offset within them.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, (u64, String)> {
        let error = |offset: usize, message: &str| Err((offset as u64, message.to_owned()));
        if !bytes.starts_with(b"\x93NUMPY") || bytes.len() < 12 {
            return error(0, "no numpy array (magic number \\x93NUMPY)");
        }
        let (start, length) = match bytes[6] {
            1 => (10, usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))),
            2 | 3 => (
                12,
                u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize,
            ),
            other => {
                return error(
                    6,
                    &format!("version {other} of numpy's format, expected 1 to 3"),
                );
            }
        };
        let Some((header, data)) = bytes[start..].split_at_checked(length) else {
            return error(bytes.len(), "the header is cut off");
        };
        let header = String::from_utf8_lossy(header);
        if value(&header, "fortran_order") != Some("False") {
            return error(
                start,
                "in Fortran order, expected C order (numpy.ascontiguousarray)",
            );
        }
        let kind = match value(&header, "descr").map(|text| text.trim_matches(['\'', '"'])) {
            Some("|u1" | "u1") => Kind::Unsigned(1),
            Some("<u2") => Kind::Unsigned(2),
            Some("<u4") => Kind::Unsigned(4),
            Some("<u8") => Kind::Unsigned(8),
            Some("|i1" | "i1") => Kind::Signed(1),
            Some("<i2") => Kind::Signed(2),
            Some("<i4") => Kind::Signed(4),
            Some("<i8") => Kind::Signed(8),
            Some("<f4") => Kind::Float,
            other => {
                return error(
                    start,
                    &format!(
                        "type {}, expected integers or float32, little-endian",
                        other.unwrap_or("unknown")
                    ),
                );
            }
        };
        let sizes =
            value(&header, "shape").and_then(|text| text.strip_prefix('(')?.strip_suffix(')'));
        let sizes = sizes.map(|text| {
            text.split(',')
                .map(str::trim)
                .filter(|size| !size.is_empty())
                .map(str::parse::<u64>)
                .collect()
        });
        let Some(Ok(shape)) = sizes else {
            return error(start, "no shape in the header");
        };
        let shape: Vec<u64> = shape;
        let expected = shape.iter().fold(kind.bytes() as u64, |product, size| {
            product.saturating_mul(*size)
        });
        if data.len() as u64 != expected {
            return error(
                start + length,
                &format!(
                    "{} bytes of data, expected {expected} for shape {shape:?}",
                    data.len()
                ),
            );
        }
        Ok(Self {
            kind,
            shape,
            data,
            start: (start + length) as u64,
        })
    }

    /// The numbers as 64-bit integers, the largest of them for those that are larger; `None` for
    /// floats.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let numbers = self.data.chunks_exact(self.kind.bytes());
        let number = |bytes: &[u8]| {
            let mut wide = [0u8; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            let unsigned = u64::from_le_bytes(wide);
            match self.kind {
                Kind::Unsigned(_) => Some(i64::try_from(unsigned).unwrap_or(i64::MAX)),
                Kind::Signed(bytes) => {
                    let unused = 64 - 8 * bytes as u32;
                    Some(((unsigned << unused) as i64) >> unused)
                }
                Kind::Float => None,
            }
        };
        numbers.map(number).collect()
    }
}

/// Value of a key in the header's dictionary, which numpy writes as a Python literal.
fn value<'h>(header: &'h str, key: &str) -> Option<&'h str> {
    let quoted = [format!("'{key}'"), format!("\"{key}\"")];
    let after = quoted
        .iter()
        .find_map(|key| header.split_once(key.as_str()))?
        .1
        .trim_start()
        .strip_prefix(':')?
        .trim_start();
    let end = if after.starts_with('(') {
        after.find(')')? + 1
    } else {
        after.find([',', '}'])?
    };
    Some(after[..end].trim())
}
