//! Outputs of the first stage: where an engine gets them, and what names them.
//!
//! They depend on the first layer and the images alone, so all engines of a host that have both in
//! common can read the same memory. The engine knows no file and no lock: it names what it needs
//! by a digest of everything that decides the values, and says how they are computed. Who keeps
//! them is an [`ActivationStore`].

use super::lanes::Lanes;
use super::plan::Stage;
use super::stage::Packed;
use evoring_protocol::Digest;
use evoring_protocol::version::build_id;
use std::fmt::Debug;

/// Counts changes of the arithmetic or the layout of the values, so that programs of different
/// builds never read each other's.
const FORMAT: &[u8] = b"evoring-activations/1";
/// Bytes that are hashed at once.
const PIECE_BYTES: usize = 1 << 22;

/// Values that stay where they are and as they are for as long as this lives.
pub trait Activations: Debug + Send {
    /// The values.
    fn lanes(&self) -> &[Lanes];
}

impl Activations for Vec<Lanes> {
    fn lanes(&self) -> &[Lanes] {
        self
    }
}

/// Keeps the outputs of first stages.
pub trait ActivationStore: Debug + Send {
    /// The `count` values named `key`. If nobody has them, `fill` is given as many zeros and
    /// writes them; it may be called again, should the first place turn out to be of no use.
    ///
    /// Never fails: memory of the caller's own is always a way out.
    fn obtain(
        &self,
        key: &Digest,
        count: usize,
        fill: &mut dyn FnMut(&mut [Lanes]),
    ) -> Box<dyn Activations>;
}

/// Memory of this process alone: everything is computed by whoever asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrivateActivations;

impl ActivationStore for PrivateActivations {
    fn obtain(
        &self,
        _: &Digest,
        count: usize,
        fill: &mut dyn FnMut(&mut [Lanes]),
    ) -> Box<dyn Activations> {
        let mut values = vec![Lanes::ZERO; count];
        fill(&mut values);
        Box::new(values)
    }
}

/// What the first stage computes from its input, for a whole number of blocks.
#[derive(Debug)]
pub struct FirstStage<'a> {
    /// The stage.
    pub stage: &'a Stage,
    /// All its filters.
    pub packed: &'a Packed,
    /// `[block][channel][value]`.
    pub input: &'a [Lanes],
    /// Values of one block's input.
    pub input_values: usize,
    /// Values of one block's output.
    pub output_values: usize,
}

impl FirstStage<'_> {
    /// Names the outputs: a digest of the arithmetic, the layer with what follows it, and the
    /// input. Equal digests mean equal bytes.
    pub fn key(&self) -> Digest {
        let build = build_id();
        let mut text = FORMAT.to_vec();
        text.extend((build.len() as u64).to_le_bytes());
        text.extend(build.as_bytes());
        text.extend(self.stage.digest().0);
        text.extend((self.input.len() as u64).to_le_bytes());
        let pieces = Lanes::as_bytes(self.input).chunks(PIECE_BYTES);
        text.extend(pieces.flat_map(|piece| Digest::of(piece).0));
        Digest::of(&text)
    }

    /// Values of all blocks.
    pub fn count(&self) -> usize {
        self.input.len() / self.input_values * self.output_values
    }

    /// Computes all blocks into `values`, which are zeros or an earlier result.
    pub fn fill(&self, values: &mut [Lanes], scratch: &mut Vec<Lanes>) {
        let outputs = values.chunks_exact_mut(self.output_values);
        for (input, output) in self.input.chunks_exact(self.input_values).zip(outputs) {
            self.packed.run(self.stage, input, output, scratch);
        }
    }
}
