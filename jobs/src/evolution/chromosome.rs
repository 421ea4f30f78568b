//! Bit strings: one gene for each filter, 1 = kept.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A bit string of fixed length. Decoding refuses every other form of the same bits, so equal
/// chromosomes have equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Encoded")]
pub struct Chromosome {
    genes: u32,
    words: Vec<u64>,
}

/// The bytes before they are checked.
#[derive(Deserialize)]
struct Encoded {
    genes: u32,
    words: Vec<u64>,
}

impl TryFrom<Encoded> for Chromosome {
    type Error = &'static str;

    fn try_from(Encoded { genes, words }: Encoded) -> Result<Self, Self::Error> {
        let chromosome = Self { genes, words };
        let message =
            "chromosome: expected one word for each 64 genes and zeros behind the last gene";
        if chromosome.is_canonical() {
            Ok(chromosome)
        } else {
            Err(message)
        }
    }
}

impl fmt::Display for Chromosome {
    /// One character for each gene, `1` = kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = String::with_capacity(self.genes as usize);
        let mut left = self.genes;
        for word in &self.words {
            digits
                .extend((0..left.min(64)).map(|bit| if word >> bit & 1 == 1 { '1' } else { '0' }));
            left = left.saturating_sub(64);
        }
        f.write_str(&digits)
    }
}

impl Chromosome {
    /// `genes` ones.
    pub fn ones(genes: u32) -> Self {
        let mut chromosome = Self {
            genes,
            words: vec![u64::MAX; (genes as usize).div_ceil(64)],
        };
        chromosome.clear_tail();
        chromosome
    }

    /// `genes` zeros.
    pub fn zeros(genes: u32) -> Self {
        Self {
            genes,
            words: vec![0; (genes as usize).div_ceil(64)],
        }
    }

    /// Number of genes.
    pub fn len(&self) -> u32 {
        self.genes
    }

    /// Whether there is no gene at all.
    pub fn is_empty(&self) -> bool {
        self.genes == 0
    }

    /// Gene `index`; false beyond the end.
    pub fn gene(&self, index: u32) -> bool {
        index < self.genes && self.words[index as usize / 64] >> (index % 64) & 1 == 1
    }

    /// Sets gene `index`; nothing beyond the end.
    pub fn set(&mut self, index: u32, value: bool) {
        if index < self.genes {
            let bit = 1u64 << (index % 64);
            let word = &mut self.words[index as usize / 64];
            if value { *word |= bit } else { *word &= !bit }
        }
    }

    /// Reads what [`fmt::Display`] writes; `None` for any other character.
    pub fn parse(digits: &str) -> Option<Self> {
        let mut chromosome = Self::zeros(digits.len().try_into().ok()?);
        for (gene, digit) in digits.bytes().enumerate() {
            match digit {
                b'0' => {}
                b'1' => chromosome.set(gene as u32, true),
                _ => return None,
            }
        }
        Some(chromosome)
    }

    /// Ones in `range`; genes beyond the end count as zeros.
    pub fn count(&self, range: std::ops::Range<u32>) -> u32 {
        self.masks(range)
            .map(|(word, mask)| (self.words[word] & mask).count_ones())
            .sum()
    }

    /// Inverts the genes in `range`; nothing beyond the end.
    pub fn invert(&mut self, range: std::ops::Range<u32>) {
        for (word, mask) in self.masks(range) {
            self.words[word] ^= mask;
        }
    }

    /// Exchanges the genes in `range` with those of `other`, which must have the same length.
    pub fn swap(&mut self, other: &mut Self, range: std::ops::Range<u32>) {
        for (word, mask) in self.masks(range) {
            let (Some(a), Some(b)) = (self.words.get_mut(word), other.words.get_mut(word)) else {
                return;
            };
            let difference = (*a ^ *b) & mask;
            *a ^= difference;
            *b ^= difference;
        }
    }

    /// Exchanges with `other`, which must have the same length, the genes where `mask` has a one;
    /// it is asked for 64 genes at a time.
    pub fn swap_where(&mut self, other: &mut Self, mut mask: impl FnMut() -> u64) {
        // Behind the last gene both have zeros, so swapping there changes nothing.
        for (a, b) in self.words.iter_mut().zip(&mut other.words) {
            let difference = (*a ^ *b) & mask();
            *a ^= difference;
            *b ^= difference;
        }
    }

    /// The words that `range` touches, each with a mask of its genes.
    fn masks(&self, range: std::ops::Range<u32>) -> impl Iterator<Item = (usize, u64)> + use<> {
        let (start, end) = (range.start, range.end.min(self.genes));
        let words = if start < end {
            start / 64..(end - 1) / 64 + 1
        } else {
            0..0
        };
        words.map(move |word| {
            let low = start.saturating_sub(word * 64).min(63);
            let high = (end - word * 64).min(64);
            (word as usize, (u64::MAX << low) & (u64::MAX >> (64 - high)))
        })
    }

    /// Whether a decoded value is in its one valid form: right number of words, zeros after the end.
    pub fn is_canonical(&self) -> bool {
        let rest = self.genes % 64;
        let has_clear_tail = rest == 0 || self.words.last().is_none_or(|last| last >> rest == 0);
        self.words.len() == (self.genes as usize).div_ceil(64) && has_clear_tail
    }

    fn clear_tail(&mut self) {
        let rest = self.genes % 64;
        if rest != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1u64 << rest) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(genes: u32) -> impl Strategy<Value = (u32, u32)> {
        (0..=genes, 0..=genes).prop_map(|(a, b)| (a.min(b), a.max(b)))
    }

    proptest! {
        /// Claim: the word-wise operations do what gene by gene they say, for every range.
        /// Method: compare with loops over single genes.
        #[test]
        fn ranges_match_single_genes(
            genes in 1u32..300,
            seed in any::<u64>(),
            cut in (0.0f64..=1.0, 0.0f64..=1.0),
        ) {
            let mut stream = crate::random::Stream::new(seed, crate::random::Purpose::Breeding, 0, 0);
            let mut draw = || {
                let mut drawn = Chromosome::zeros(genes);
                (0..genes).for_each(|gene| drawn.set(gene, stream.below(2) == 1));
                drawn
            };
            let (a, b) = (draw(), draw());
            let cut = [cut.0, cut.1].map(|at| (at * f64::from(genes)) as u32);
            let inside = cut[0].min(cut[1])..cut[0].max(cut[1]);
            prop_assert_eq!(a.count(inside.clone()), inside.clone().filter(|gene| a.gene(*gene)).count() as u32);
            let mut inverted = a.clone();
            inverted.invert(inside.clone());
            let (mut x, mut y) = (a.clone(), b.clone());
            x.swap(&mut y, inside.clone());
            for gene in 0..genes {
                let is_inside = inside.contains(&gene);
                prop_assert_eq!(inverted.gene(gene), a.gene(gene) ^ is_inside);
                prop_assert_eq!(x.gene(gene), if is_inside { b.gene(gene) } else { a.gene(gene) });
                prop_assert_eq!(y.gene(gene), if is_inside { a.gene(gene) } else { b.gene(gene) });
            }
            prop_assert!(inverted.is_canonical() && x.is_canonical() && y.is_canonical());
            prop_assert_eq!(Chromosome::parse(&a.to_string()), Some(a.clone()));
            let bytes = postcard::to_allocvec(&a).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Chromosome>(&bytes).unwrap(), a);
        }

        /// Claim: ranges beyond the end touch nothing there.
        #[test]
        fn ranges_end_at_the_last_gene(genes in 0u32..200, (from, to) in range(400)) {
            let mut chromosome = Chromosome::zeros(genes);
            chromosome.invert(from..to);
            prop_assert!(chromosome.is_canonical());
            prop_assert_eq!(chromosome.count(0..u32::MAX), to.min(genes).saturating_sub(from));
        }

        /// Claim: decoding arbitrary bytes gives a canonical chromosome or an error, never a panic.
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(chromosome) = postcard::from_bytes::<Chromosome>(&bytes) {
                prop_assert!(chromosome.is_canonical());
            }
        }
    }

    /// Claim: bits behind the last gene and a wrong number of words are refused.
    #[test]
    fn other_forms_are_refused() {
        for (genes, words) in [
            (3u32, vec![8u64]),
            (3, vec![]),
            (3, vec![1, 0]),
            (64, vec![]),
        ] {
            let bytes = postcard::to_allocvec(&(genes, words)).unwrap();
            assert!(postcard::from_bytes::<Chromosome>(&bytes).is_err());
        }
    }
}
