//! Counter-based random numbers: a value depends on its key and counter alone, never on what was
//! drawn before, so any process can draw any part of a stream.
//!
//! The generator is SplitMix64's finalizer (Steele, Lea, Flood 2014, §4) applied to a hash of the
//! key and the counter.

/// What numbers are for; part of the key. The numbers are never used again for anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Cutting the training part into training, fitness and selection images.
    Split = 1,
    /// Initial weights: (layer, 0).
    Weights = 2,
    /// Order of the training images: (epoch, 0).
    Order = 3,
    /// Augmentation: (step, sample).
    Augmentation = 4,
    /// Dropout: (step, sample).
    Dropout = 5,
    /// First generation: (0, individual) for genes, (1 + individual, try) for widths.
    FirstGeneration = 6,
    /// Breeding: (generation, slot).
    Breeding = 7,
    /// Random search: (0, individual).
    RandomSearch = 8,
    /// Layer widths of the L1-norm baseline: (1 + allocation, try).
    Allocation = 9,
    /// Seed of fine-tuning, drawn from the job's: (0, 0).
    FineTune = 10,
}

/// One stream of random numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    key: u64,
    counter: u64,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Stream {
    /// The stream of (`seed`, `purpose`, `a`, `b`).
    pub fn new(seed: u64, purpose: Purpose, a: u64, b: u64) -> Self {
        let mut key = mix(seed.wrapping_add(GOLDEN));
        for part in [purpose as u64, a, b] {
            key = mix(key.wrapping_add(GOLDEN) ^ mix(part.wrapping_add(GOLDEN)));
        }
        Self { key, counter: 0 }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        mix(self.key.wrapping_add(self.counter.wrapping_mul(GOLDEN)))
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0..bound` without bias (Lemire 2019, §3); 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            if (product as u64) >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }

    /// Shuffles `values` (Fisher–Yates).
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            values.swap(last, other);
        }
    }
}
