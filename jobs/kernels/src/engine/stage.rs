//! Running one stage for one block of sixteen images.

use super::lanes::{LANES, Lanes, ROWS, accumulate};
use super::plan::{Op, Stage};

/// Some filters of a stage with some input channels, arranged for the inner loop.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// Filters that are computed, ascending.
    filters: Vec<u32>,
    /// Where each factor's value lies in the input.
    offsets: Vec<u32>,
    /// `[group][factor][row]`.
    weights: Vec<[f32; ROWS]>,
    /// `[group][row]`.
    biases: Vec<[f32; ROWS]>,
}

impl Packed {
    /// Arranges filters `filters` reading channels `channels`, whose values lie in the input at
    /// their place in the full network.
    pub fn new(stage: &Stage, filters: &[u32], channels: &[u32]) -> Self {
        let plane = stage.input.values() as u32;
        let offsets: Vec<u32> = channels
            .iter()
            .flat_map(|channel| stage.taps.iter().map(move |tap| channel * plane + tap))
            .collect();
        let mut weights = vec![[0f32; ROWS]; filters.len().div_ceil(ROWS) * offsets.len()];
        let mut biases = vec![[0f32; ROWS]; filters.len().div_ceil(ROWS)];
        for (place, filter) in filters.iter().enumerate() {
            let (group, row) = (place / ROWS, place % ROWS);
            biases[group][row] = stage.bias(*filter as usize);
            let mut targets = weights[group * offsets.len()..].iter_mut();
            for channel in channels {
                let values = stage.weights(*filter as usize, *channel as usize);
                values
                    .iter()
                    .zip(&mut targets)
                    .for_each(|(value, target)| target[row] = *value);
            }
        }
        Self {
            filters: filters.to_vec(),
            offsets,
            weights,
            biases,
        }
    }

    /// Multiplications for one image.
    pub fn multiplications(&self, stage: &Stage) -> u64 {
        (self.filters.len() * self.offsets.len() * stage.sums()) as u64
    }

    /// Runs the stage: each computed filter's values go to its place in `output`, which holds the
    /// planes of the full network's filters.
    pub fn run(
        &self,
        stage: &Stage,
        input: &[Lanes],
        output: &mut [Lanes],
        scratch: &mut Vec<Lanes>,
    ) {
        let (sums, plane) = (stage.sums(), stage.output.values());
        scratch.resize(ROWS * sums, Lanes::ZERO);
        let factors = self.offsets.len();
        for (group, filters) in self.filters.chunks(ROWS).enumerate() {
            let weights = &self.weights[group * factors..][..factors];
            accumulate(
                input,
                stage.windows,
                &self.offsets,
                weights,
                &self.biases[group],
                scratch,
            );
            for (filter, values) in filters.iter().zip(scratch.chunks_exact_mut(sums)) {
                let filter = *filter as usize;
                apply(&stage.ops, filter, stage.windows.width, values);
                stage
                    .output
                    .store(values, &mut output[filter * plane..][..plane]);
            }
        }
    }
}

/// Applies operations to the values of one filter; results of pooling move to the front.
pub fn apply(ops: &[Op], filter: usize, mut width: usize, values: &mut [Lanes]) {
    let mut count = values.len();
    for op in ops {
        match op {
            Op::Affine { per_filter, pairs } => {
                let pairs = &pairs[filter * per_filter..][..*per_filter];
                let each = count / per_filter;
                for ((scale, shift), values) in
                    pairs.iter().zip(values[..count].chunks_exact_mut(each))
                {
                    let values = values.iter_mut().flat_map(|lanes| &mut lanes.0);
                    values.for_each(|value| *value = *value * scale + shift);
                }
            }
            Op::Relu => {
                let values = values[..count].iter_mut().flat_map(|lanes| &mut lanes.0);
                values.for_each(|value| *value = if *value > 0.0 { *value } else { 0.0 });
            }
            Op::MaxPool(size) => {
                let (rows, columns) = (count / width / size, width / size);
                for y in 0..rows {
                    for x in 0..columns {
                        values[y * columns + x] =
                            window_maximum(values, width, y * size, x * size, *size);
                    }
                }
                (count, width) = (rows * columns, columns);
            }
        }
    }
}

fn window_maximum(values: &[Lanes], width: usize, y: usize, x: usize, size: usize) -> Lanes {
    let mut maximum = values[y * width + x];
    for row in y..y + size {
        for value in &values[row * width + x..][..size] {
            for lane in 0..LANES {
                if value.0[lane] > maximum.0[lane] {
                    maximum.0[lane] = value.0[lane];
                }
            }
        }
    }
    maximum
}
