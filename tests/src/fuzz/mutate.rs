//! What is done to inputs, all of it decided by one number.

use crate::random::SplitMix;

/// What decides the mutations of one execution.
#[derive(Debug, Clone)]
pub struct Random(SplitMix);

impl Random {
    /// The numbers of `seed`, of a target's name and of one execution.
    pub fn new(seed: u64, name: &str, execution: u64) -> Self {
        let mut random = Self(SplitMix(seed));
        for byte in name.bytes() {
            random.0 = SplitMix(random.number() ^ u64::from(byte));
        }
        random.0 = SplitMix(random.number() ^ execution);
        random
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.number()
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        // The remainder favours small numbers by nothing that matters here.
        (self.number() % end.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Bytes that a mutated input has at most.
pub const MOST_BYTES: usize = 64 << 10;
/// Mutations of one input.
const MOST_MUTATIONS: usize = 5;
/// Numbers at which arithmetic goes wrong.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x10_0000,
    i32::MAX as u64,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    u64::MAX,
];
/// The same for formats that are text, and what such formats are made of.
const WORDS: [&str; 28] = [
    "0",
    "-1",
    "1e308",
    "-1e308",
    "1e-308",
    "65536",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "0.1",
    "nan",
    "null",
    "true",
    "\"\"",
    "[",
    "]",
    "{",
    "}",
    "[[",
    "(",
    ")",
    "'",
    "\n",
    ",",
    "=",
    ":",
    "\\u0000",
    ".",
];

/// Makes a new input out of one of `corpus`.
pub fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    if corpus.is_empty() {
        return Vec::new();
    }
    let mut bytes = random.pick(corpus).clone();
    for _ in 0..=random.below(MOST_MUTATIONS) {
        mutate(&mut bytes, corpus, random);
        bytes.truncate(MOST_BYTES);
    }
    bytes
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let length = random.below(16.min(bytes.len() - at) + 1);
    match random.below(14) {
        0 | 1 => change(
            bytes,
            at,
            |byte, random| byte ^ 1 << random.below(8),
            random,
        ),
        2 => change(bytes, at, |_, random| random.number() as u8, random),
        3 => {
            let by = random.below(33) as u8;
            change(
                bytes,
                at,
                |byte, _| byte.wrapping_add(by).wrapping_sub(16),
                random,
            );
        }
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..at + length)),
        6 => {
            let more: Vec<u8> = (0..=length).map(|_| random.number() as u8).collect();
            insert(bytes, at, 0, &more);
        }
        7 => number(bytes, at, random),
        8 => insert(bytes, at, random.below(2), &varint(*random.pick(&NUMBERS))),
        9 => splice(bytes, at, corpus, random),
        10 => repeat(bytes, at, length, random),
        11 => insert(bytes, at, length, random.pick(&WORDS).as_bytes()),
        12 => digits(bytes, at, random),
        _ => {
            let other = random.below(bytes.len() + 1);
            let end = other + random.below(16.min(bytes.len() - other) + 1);
            let piece = bytes[other..end].to_vec();
            insert(bytes, at, length, &piece);
        }
    }
}

fn change(bytes: &mut [u8], at: usize, new: impl Fn(u8, &mut Random) -> u8, random: &mut Random) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = new(*byte, random);
    }
}

/// Puts `new` in the place of `length` bytes.
fn insert(bytes: &mut Vec<u8>, at: usize, length: usize, new: &[u8]) {
    let end = (at + length).min(bytes.len());
    bytes.splice(at..end, new.iter().copied());
}

/// Writes a number of 2, 4 or 8 bytes, or one beside the number that is there.
fn number(bytes: &mut [u8], at: usize, random: &mut Random) {
    let width = 2 << random.below(3);
    let is_big_endian = random.below(2) == 1;
    let Some(field) = bytes.get_mut(at..at + width) else {
        return;
    };
    if is_big_endian {
        field.reverse();
    }
    let mut wide = [0u8; 8];
    wide[..width].copy_from_slice(field);
    let old = u64::from_le_bytes(wide);
    let new = match random.below(3) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        _ => *random.pick(&NUMBERS),
    };
    field.copy_from_slice(&new.to_le_bytes()[..width]);
    if is_big_endian {
        field.reverse();
    }
}

/// Goes on as another input from anywhere in it.
fn splice(bytes: &mut Vec<u8>, at: usize, corpus: &[Vec<u8>], random: &mut Random) {
    let other = random.pick(corpus);
    let from = random.below(other.len() + 1);
    bytes.truncate(at);
    bytes.extend_from_slice(&other[from..]);
}

/// Repeats a piece, sometimes up to the size that inputs may have: what grows faster than its input
/// shows itself.
fn repeat(bytes: &mut Vec<u8>, at: usize, length: usize, random: &mut Random) {
    if length == 0 {
        return;
    }
    let times = match random.below(8) {
        0 => MOST_BYTES / length,
        1 => 1_000 / length,
        _ => 1 + random.below(8),
    };
    let piece = bytes[at..at + length].repeat(times);
    insert(bytes, at, 0, &piece);
}

/// Puts another number in the place of decimal digits.
fn digits(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let from = bytes.iter().skip(at).position(u8::is_ascii_digit);
    let Some(from) = from.map(|from| at + from) else {
        return;
    };
    let digits = bytes[from..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let length = digits.count();
    let new = match random.below(2) {
        0 => random.pick(&NUMBERS).to_string(),
        _ => (*random.pick(&WORDS[..11])).to_owned(),
    };
    insert(bytes, from, length, new.as_bytes());
}

/// As postcard writes numbers: seven bits a byte, the lowest first.
pub fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
