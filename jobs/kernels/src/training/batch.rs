//! Which images a step sees, and how they are changed: by (seed, step, sample), never by rank.

use crate::KernelError;
use crate::data::{Loaded, Side, image_values, load, normalised, part_indices};
use evoring_jobs::calls::TrainCall;
use evoring_jobs::data::Part;
use evoring_jobs::random::{Purpose, Stream};
use evoring_protocol::Digest;
use tch::Tensor;

/// One shard's part of a step.
#[derive(Debug)]
pub struct MicroBatch {
    /// `[images, channels, height, width]`, normalised and augmented.
    pub images: Tensor,
    /// `[images]`, 64-bit.
    pub labels: Tensor,
    /// Positions of the images in the global batch, for dropout.
    pub first_sample: u64,
}

/// Makes micro-batches of a training.
pub struct BatchMaker<'a> {
    call: &'a TrainCall,
    loaded: Loaded,
    indices: Vec<u32>,
    /// Order of the epoch that was asked last.
    order: (u64, Vec<u32>),
}

impl<'a> BatchMaker<'a> {
    /// Reads the data and checks that the parts fit.
    pub fn new(call: &'a TrainCall) -> Result<Self, KernelError> {
        let loaded = load(&call.data, Side::Train)?;
        let indices = part_indices(&call.data, Part::Train, loaded.images.count())?;
        let (batch, shards) = (call.recipe.batch, call.shards);
        if !shards.is_power_of_two()
            || batch == 0
            || batch % shards != 0
            || batch as usize > indices.len()
        {
            let message = format!(
                "batch of {batch} for {shards} shards and {} training images",
                indices.len()
            );
            return Err(KernelError::Unfit(format!(
                "{message}: expected a multiple of the shards, at most the images"
            )));
        }
        Ok(Self {
            call,
            loaded,
            order: (u64::MAX, Vec::new()),
            indices,
        })
    }

    /// Content of the images.
    pub fn data(&self) -> Digest {
        self.loaded.digest
    }

    /// Steps of one epoch; the images that do not fill a batch wait for the next order.
    pub fn steps_per_epoch(&self) -> u64 {
        self.indices.len() as u64 / u64::from(self.call.recipe.batch)
    }

    /// Part `shard` of step `step`.
    pub fn micro_batch(&mut self, step: u64, shard: u32) -> MicroBatch {
        let (epoch, step_in_epoch) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        if self.order.0 != epoch {
            let mut order = self.indices.clone();
            Stream::new(self.call.seed, Purpose::Order, epoch, 0).shuffle(&mut order);
            self.order = (epoch, order);
        }
        let images = (self.call.recipe.batch / self.call.shards) as usize;
        let first_sample = shard as usize * images;
        let start = step_in_epoch as usize * self.call.recipe.batch as usize + first_sample;
        let chosen = &self.order.1[start..start + images];
        let values = image_values(&self.call.data);
        let (mut pixels, mut image) = (vec![0f32; images * values], vec![0f32; values]);
        for (sample, (index, out)) in chosen
            .iter()
            .zip(pixels.chunks_exact_mut(values))
            .enumerate()
        {
            self.loaded.images.write(*index as usize, &mut image);
            self.augment(&image, step, (first_sample + sample) as u64, out);
        }
        let labels: Vec<i64> = chosen
            .iter()
            .map(|index| i64::from(self.loaded.images.labels[*index as usize]))
            .collect();
        let [channels, height, width] = self.call.data.shape.map(i64::from);
        MicroBatch {
            images: Tensor::from_slice(&pixels).view([-1, channels, height, width]),
            labels: Tensor::from_slice(&labels),
            first_sample: first_sample as u64,
        }
    }

    /// Writes `image`, mirrored and shifted as drawn for this sample.
    fn augment(&self, image: &[f32], step: u64, sample: u64, out: &mut [f32]) {
        let recipe = &self.call.recipe;
        if !recipe.flip && recipe.shift_pixels == 0 {
            out.copy_from_slice(image);
            return;
        }
        let mut stream = Stream::new(self.call.seed, Purpose::Augmentation, step, sample);
        let is_mirrored = stream.bits() & 1 == 1 && recipe.flip;
        let reach = i64::from(recipe.shift_pixels);
        let mut shift = || stream.below(2 * reach as u64 + 1) as i64 - reach;
        let (down, right) = (shift(), shift());
        let [_, height, width] = self.call.data.shape.map(i64::from);
        out.fill(normalised(0.0));
        let plane = (height * width) as usize;
        for (from, to) in image.chunks_exact(plane).zip(out.chunks_exact_mut(plane)) {
            for row in 0.max(down)..height.min(height + down) {
                let (from, to) = (
                    &from[((row - down) * width) as usize..],
                    &mut to[(row * width) as usize..],
                );
                for column in 0.max(right)..width.min(width + right) {
                    let x = if is_mirrored {
                        width - 1 - (column - right)
                    } else {
                        column - right
                    };
                    to[column as usize] = from[x as usize];
                }
            }
        }
    }
}
