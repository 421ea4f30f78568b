//! Parameter counts as a formula of the layer widths, for code that asks thousands of times.

use super::{Layer, NetworkSpec, Shape};

/// Parameters of a network as a function of the widths of its prunable layers:
/// constant + Σ width · (per output + per input · width of the layer in front).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeFormula {
    constant: u64,
    input_channels: u64,
    classes: u64,
    terms: Vec<Term>,
}

/// One convolution or dense layer with the batch norm behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term {
    per_input: u64,
    per_output: u64,
}

impl SizeFormula {
    /// Parameters at these widths of the prunable layers.
    pub fn parameters(&self, widths: &[u32]) -> u64 {
        let outputs = widths
            .iter()
            .map(|width| u64::from(*width))
            .chain([self.classes]);
        let mut inputs = self.input_channels;
        let mut sum = self.constant;
        for (term, width) in self.terms.iter().zip(outputs) {
            let each = term
                .per_input
                .saturating_mul(inputs)
                .saturating_add(term.per_output);
            sum = sum.saturating_add(width.saturating_mul(each));
            inputs = width;
        }
        sum
    }

    /// Parameters that go when prunable layer `layer` loses one of its filters at these widths:
    /// the filter's own, and its inputs to the layer behind.
    pub fn of_one_filter(&self, widths: &[u32], layer: usize) -> u64 {
        let width = |layer: usize| widths.get(layer).map_or(self.classes, |w| u64::from(*w));
        let inputs = match layer {
            0 => self.input_channels,
            _ => width(layer - 1),
        };
        let own = &self.terms[layer];
        let behind = &self.terms[layer + 1];
        let own = own
            .per_input
            .saturating_mul(inputs)
            .saturating_add(own.per_output);
        own.saturating_add(behind.per_input.saturating_mul(width(layer + 1)))
    }
}

impl NetworkSpec {
    /// The formula of [`NetworkSpec::parameters`] of [`NetworkSpec::with_widths`].
    pub fn size_formula(&self) -> SizeFormula {
        let mut formula = SizeFormula {
            constant: 0,
            input_channels: self.input[0].into(),
            classes: self.classes().into(),
            terms: Vec::new(),
        };
        // Features behind a flatten layer that stand for one channel in front of it.
        let mut block = 1;
        for (layer, input) in self.layers.iter().zip(self.input_shapes()) {
            match (layer, input) {
                (Layer::Conv { kernel, .. }, _) => {
                    let window = u64::from(*kernel).saturating_mul(u64::from(*kernel));
                    formula.terms.push(Term {
                        per_input: window,
                        per_output: 1,
                    });
                }
                (Layer::Dense { .. }, _) => {
                    formula.terms.push(Term {
                        per_input: block,
                        per_output: 1,
                    });
                    block = 1;
                }
                (Layer::Flatten, Shape::Image([_, height, width])) => {
                    block = u64::from(height) * u64::from(width)
                }
                (Layer::BatchNorm, _) => match formula.terms.last_mut() {
                    Some(term) => term.per_output += 2 * block,
                    None => formula.constant += 2 * u64::from(input.channels()),
                },
                _ => {}
            }
        }
        formula
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layers() -> impl Strategy<Value = Vec<Layer>> {
        let image = prop_oneof![
            (1u32..9, 1u32..4).prop_map(|(filters, kernel)| Layer::Conv {
                filters,
                kernel,
                padding: kernel / 2
            }),
            Just(Layer::BatchNorm),
            Just(Layer::Relu),
            Just(Layer::MaxPool { size: 2 }),
        ];
        let flat = prop_oneof![
            (1u32..9).prop_map(|units| Layer::Dense { units }),
            Just(Layer::BatchNorm),
            Just(Layer::Relu)
        ];
        (
            proptest::collection::vec(image, 0..7),
            proptest::collection::vec(flat, 0..5),
        )
            .prop_map(|(image, flat)| {
                image
                    .into_iter()
                    .chain([Layer::Flatten])
                    .chain(flat)
                    .chain([Layer::Dense { units: 3 }])
                    .collect()
            })
    }

    proptest! {
        /// Claim: the formula counts what the description counts, for any valid network and widths,
        /// and knows what one filter of each layer adds to that.
        #[test]
        fn formula_matches_the_description(layers in layers(), seed in any::<u64>()) {
            let net = NetworkSpec { name: "x".to_owned(), input: [2, 16, 16], layers };
            prop_assume!(net.validate().is_ok());
            let mut stream = crate::random::Stream::new(seed, crate::random::Purpose::Breeding, 0, 0);
            let width = |layer: &super::super::PrunableLayer| 1 + stream.below(u64::from(layer.filters)) as u32;
            let widths: Vec<u32> = net.prunable().iter().map(width).collect();
            let formula = net.size_formula();
            prop_assert_eq!(formula.parameters(&widths), net.with_widths(&widths).parameters());
            for layer in 0..widths.len() {
                let mut narrower = widths.clone();
                narrower[layer] -= 1;
                let difference = formula.parameters(&widths) - formula.parameters(&narrower);
                prop_assert_eq!(formula.of_one_filter(&widths, layer), difference);
            }
        }
    }
}
