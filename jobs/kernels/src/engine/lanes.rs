//! The inner loop: a few filters times sixteen images.
//!
//! Sixteen images lie side by side in every value, so one instruction works on many images and an
//! image's result never depends on which images lie beside it. Each sum is one chain of fused
//! multiply-adds in the order of the inputs, hence the same bits with any instruction set, and
//! exactly the same whether a removed input is left out or multiplied by zero.
#![expect(
    unsafe_code,
    reason = "functions compiled for AVX2 may only be called after it was detected; values are seen \
              as bytes and bytes as values"
)]

/// Images side by side.
pub const LANES: usize = 16;
/// Filters whose sums are kept in registers at once: 6 × 16 values are twelve of the sixteen
/// vector registers of AVX2, and leave room for the inputs.
pub const ROWS: usize = 6;

/// One value of sixteen images.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// Sixteen zeros.
    pub const ZERO: Self = Self([0.0; LANES]);

    /// The bytes of values, in the order of this machine.
    pub fn as_bytes(values: &[Self]) -> &[u8] {
        // SAFETY: `Lanes` is sixteen floats without padding, and any byte is a `u8`.
        let (before, bytes, behind) = unsafe { values.align_to::<u8>() };
        debug_assert!(before.is_empty() && behind.is_empty());
        bytes
    }

    /// Bytes as values; `None` unless they are a whole number of them and lie as values do.
    pub fn from_bytes(bytes: &[u8]) -> Option<&[Self]> {
        // SAFETY: any bytes are floats.
        let (before, values, behind) = unsafe { bytes.align_to::<Self>() };
        (before.is_empty() && behind.is_empty()).then_some(values)
    }

    /// Like [`Lanes::from_bytes`], to write.
    pub fn from_bytes_mut(bytes: &mut [u8]) -> Option<&mut [Self]> {
        // SAFETY: any bytes are floats, and any floats are bytes.
        let (before, values, behind) = unsafe { bytes.align_to_mut::<Self>() };
        (before.is_empty() && behind.is_empty()).then_some(values)
    }
}

/// Where the windows of a convolution lie in its input planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Rows of output.
    pub height: usize,
    /// Columns of output.
    pub width: usize,
    /// Distance of two rows in the input.
    pub stride: usize,
}

/// For each window and each of [`ROWS`] filters: `start + Σ weight · input[window + offset]`, in the
/// order of `offsets`. `sums[row · windows + window]` receives the results.
///
/// # Panics
/// If an offset lies outside the input or `sums` is too short.
pub fn accumulate(
    input: &[Lanes],
    windows: Windows,
    offsets: &[u32],
    weights: &[[f32; ROWS]],
    start: &[f32; ROWS],
    sums: &mut [Lanes],
) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: both features that the function is compiled for are present.
        unsafe { accumulate_avx2(input, windows, offsets, weights, start, sums) };
        return;
    }
    accumulate_with(input, windows, offsets, weights, start, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn accumulate_avx2(
    input: &[Lanes],
    windows: Windows,
    offsets: &[u32],
    weights: &[[f32; ROWS]],
    start: &[f32; ROWS],
    sums: &mut [Lanes],
) {
    accumulate_with(input, windows, offsets, weights, start, sums);
}

#[inline(always)]
fn accumulate_with(
    input: &[Lanes],
    windows: Windows,
    offsets: &[u32],
    weights: &[[f32; ROWS]],
    start: &[f32; ROWS],
    sums: &mut [Lanes],
) {
    let count = windows.height * windows.width;
    for y in 0..windows.height {
        for x in 0..windows.width {
            let at = &input[y * windows.stride + x..];
            let mut rows = start.map(|start| [start; LANES]);
            for (weight, offset) in weights.iter().zip(offsets) {
                let value = &at[*offset as usize].0;
                for (row, weight) in rows.iter_mut().zip(weight) {
                    for (sum, value) in row.iter_mut().zip(value) {
                        *sum = weight.mul_add(*value, *sum);
                    }
                }
            }
            for (row, sum) in rows.into_iter().enumerate() {
                sums[row * count + y * windows.width + x] = Lanes(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: values and their bytes are two views of one memory, and bytes that are no whole
    /// values or lie elsewhere are refused. Method: there and back; too few bytes, one byte later.
    #[test]
    fn bytes_are_a_view_of_values() {
        let values: Vec<Lanes> = (0..3)
            .map(|index| Lanes(std::array::from_fn(|lane| (index * LANES + lane) as f32)))
            .collect();
        let bytes = Lanes::as_bytes(&values);
        assert_eq!(bytes[..4], 0f32.to_ne_bytes());
        assert_eq!(bytes[bytes.len() - 4..], 47f32.to_ne_bytes());
        assert_eq!(Lanes::from_bytes(bytes), Some(&values[..]));
        assert_eq!(Lanes::from_bytes(&bytes[..100]), None);
        assert_eq!(Lanes::from_bytes(&bytes[1..65]), None);
        let mut bytes = [Lanes::ZERO; 1];
        // SAFETY: any byte is a `u8`, and whatever is written are floats.
        let (_, bytes, _) = unsafe { bytes.align_to_mut::<u8>() };
        assert_eq!(Lanes::from_bytes_mut(&mut bytes[1..]), None);
        Lanes::from_bytes_mut(bytes).unwrap()[0].0[1] = 2.0;
        assert_eq!(bytes[4..8], 2f32.to_ne_bytes());
    }

    /// Claim: with and without vector instructions the bits are the same, and they are those of a
    /// plain chain of fused multiply-adds. Method: compare all three on random values.
    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let mut stream =
            evoring_jobs::random::Stream::new(1, evoring_jobs::random::Purpose::Order, 0, 0);
        let mut draw = || (stream.uniform() - 0.5) as f32;
        let windows = Windows {
            height: 2,
            width: 3,
            stride: 5,
        };
        let offsets: Vec<u32> = (0..40).map(|k| k * 3 % 17).collect();
        let input: Vec<Lanes> = (0..25)
            .map(|_| Lanes(std::array::from_fn(|_| draw())))
            .collect();
        let weights: Vec<[f32; ROWS]> = (0..40).map(|_| std::array::from_fn(|_| draw())).collect();
        let start: [f32; ROWS] = std::array::from_fn(|_| draw());
        let mut fast = vec![Lanes::ZERO; ROWS * 6];
        accumulate(&input, windows, &offsets, &weights, &start, &mut fast);
        let mut plain = vec![Lanes::ZERO; ROWS * 6];
        accumulate_with(&input, windows, &offsets, &weights, &start, &mut plain);
        assert_eq!(fast, plain);
        for (window, (y, x)) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
            .into_iter()
            .enumerate()
        {
            for row in 0..ROWS {
                for lane in 0..LANES {
                    let mut sum = start[row];
                    for (weight, offset) in weights.iter().zip(&offsets) {
                        sum = weight[row].mul_add(input[y * 5 + x + *offset as usize].0[lane], sum);
                    }
                    assert_eq!(fast[row * 6 + window].0[lane].to_bits(), sum.to_bits());
                }
            }
        }
    }
}
