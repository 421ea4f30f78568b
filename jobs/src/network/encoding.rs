//! What the genes of a chromosome mean in a network: one gene for each filter, layer by layer.

use super::{Layer, NetworkSpec, Shape};
use crate::evolution::Chromosome;

/// A layer whose filters (or units) have genes: every convolution, and every dense layer but the
/// last one, whose outputs are the classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunableLayer {
    /// Position in [`NetworkSpec::layers`].
    pub layer: usize,
    /// Filters or units of the full network.
    pub filters: u32,
    /// Gene of its first filter.
    pub first_gene: u32,
}

impl PrunableLayer {
    /// Its genes.
    pub fn genes(&self) -> std::ops::Range<u32> {
        self.first_gene..self.first_gene.saturating_add(self.filters)
    }
}

/// What a chromosome leaves of one layer that has tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Position in [`NetworkSpec::layers`].
    pub layer: usize,
    /// Indices kept along the first size of every tensor of the layer, ascending.
    pub outputs: Vec<u32>,
    /// Indices kept along the second size of `weight`, ascending: input channels of a convolution,
    /// input features of a dense layer (behind a flatten layer whole blocks of height · width).
    /// Empty for batch norm, whose tensors have one size.
    pub inputs: Vec<u32>,
}

impl NetworkSpec {
    /// The layers that have genes, in order.
    pub fn prunable(&self) -> Vec<PrunableLayer> {
        let mut first_gene = 0u32;
        let mut prunable = Vec::new();
        for (layer, kind) in self.layers.iter().enumerate() {
            let filters = match *kind {
                Layer::Conv { filters, .. } => filters,
                Layer::Dense { units } if layer + 1 < self.layers.len() => units,
                _ => continue,
            };
            prunable.push(PrunableLayer {
                layer,
                filters,
                first_gene,
            });
            first_gene = first_gene.saturating_add(filters);
        }
        prunable
    }

    /// Length of a chromosome.
    pub fn genes(&self) -> u32 {
        self.prunable().last().map_or(0, |last| last.genes().end)
    }

    /// Whether `chromosome` is well-formed, has one gene for each filter and leaves at least one
    /// filter in each layer.
    pub fn fits(&self, chromosome: &Chromosome) -> bool {
        chromosome.is_canonical()
            && chromosome.len() == self.genes()
            && self.widths(chromosome).iter().all(|width| *width > 0)
    }

    /// Kept filters of each prunable layer.
    pub fn widths(&self, chromosome: &Chromosome) -> Vec<u32> {
        self.prunable()
            .iter()
            .map(|layer| chromosome.count(layer.genes()))
            .collect()
    }

    /// Indices of the kept filters of each prunable layer, within the layer, ascending.
    pub fn kept(&self, chromosome: &Chromosome) -> Vec<Vec<u32>> {
        let kept = |layer: &PrunableLayer| {
            let genes = layer.genes().filter(|gene| chromosome.gene(*gene));
            genes.map(|gene| gene - layer.first_gene).collect()
        };
        self.prunable().iter().map(kept).collect()
    }

    /// The network with these widths in its prunable layers.
    pub fn with_widths(&self, widths: &[u32]) -> Self {
        let mut small = self.clone();
        for (prunable, width) in self.prunable().iter().zip(widths) {
            match &mut small.layers[prunable.layer] {
                Layer::Conv { filters, .. } => *filters = *width,
                Layer::Dense { units } => *units = *width,
                _ => {}
            }
        }
        small
    }

    /// Description of the small dense network that `chromosome` leaves.
    pub fn pruned(&self, chromosome: &Chromosome) -> Self {
        self.with_widths(&self.widths(chromosome))
    }

    /// What to copy from the full network's tensors into those of the small one: removing a filter
    /// removes its bias, the batch norm entries behind it, the input channel of the next layer, and
    /// at the flatten boundary its block of height · width columns.
    pub fn cuts(&self, chromosome: &Chromosome) -> Vec<Cut> {
        let prunable = self.prunable();
        let kept = self.kept(chromosome);
        let mut channels: Vec<u32> = (0..self.input[0]).collect();
        let mut cuts = Vec::new();
        for (layer, (kind, input)) in self.layers.iter().zip(self.input_shapes()).enumerate() {
            match *kind {
                Layer::Conv { .. } | Layer::Dense { .. } => {
                    let place = prunable
                        .iter()
                        .position(|candidate| candidate.layer == layer);
                    let outputs = match place {
                        Some(place) => kept[place].clone(),
                        None => (0..self.classes()).collect(),
                    };
                    let inputs = std::mem::replace(&mut channels, outputs.clone());
                    cuts.push(Cut {
                        layer,
                        outputs,
                        inputs,
                    });
                }
                Layer::BatchNorm => cuts.push(Cut {
                    layer,
                    outputs: channels.clone(),
                    inputs: Vec::new(),
                }),
                Layer::Flatten => {
                    if let Shape::Image([_, height, width]) = input {
                        let block = height * width;
                        channels = channels
                            .iter()
                            .flat_map(|channel| channel * block..(channel + 1) * block)
                            .collect();
                    }
                }
                Layer::Relu | Layer::MaxPool { .. } | Layer::Dropout { .. } => {}
            }
        }
        cuts
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tensor;
    use super::*;

    /// Claim: LeNet has the paper's 570 genes, 430,500 weights and 431,080 parameters with biases,
    /// and the multiplications that follow from its shapes. Method: count by hand.
    #[test]
    fn lenet_is_the_papers() {
        let net = NetworkSpec::lenet(10);
        net.validate().unwrap();
        assert_eq!(net.genes(), 570);
        assert_eq!(net.parameters(), 431_080);
        let weights: u64 = net
            .tensors()
            .iter()
            .filter(|t| t.name.ends_with("weight"))
            .map(|t| t.values())
            .sum();
        assert_eq!(weights, 430_500);
        assert_eq!(net.bytes(), 4 * 431_080);
        assert_eq!(
            net.multiplications(),
            24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10
        );
        let names: Vec<String> = net.tensors().into_iter().map(|t| t.name).collect();
        assert_eq!(
            names,
            [
                "0.weight", "0.bias", "3.weight", "3.bias", "7.weight", "7.bias", "9.weight",
                "9.bias"
            ]
        );
    }

    /// Claim: the description of a pruned net has the tensors that cutting the full net's tensors
    /// gives, with batch norm and across the flatten boundary. Method: compare both ways of
    /// counting on both presets, with uneven widths.
    #[test]
    fn cuts_give_the_tensors_of_the_small_net() {
        for name in super::super::PRESET_NAMES {
            let net = NetworkSpec::preset(name, 10).unwrap();
            net.validate().unwrap();
            let mut chromosome = Chromosome::zeros(net.genes());
            (0..net.genes())
                .filter(|gene| gene % 7 < 3 || gene % 11 == 0)
                .for_each(|gene| chromosome.set(gene, true));
            assert!(net.fits(&chromosome));
            let small = net.pruned(&chromosome);
            small.validate().unwrap();
            let tensors = small.tensors();
            for cut in net.cuts(&chromosome) {
                let weight = tensors
                    .iter()
                    .find(|t| t.name == format!("{}.weight", cut.layer))
                    .unwrap();
                assert_eq!(weight.shape[0], cut.outputs.len() as u64);
                if let Some(inputs) = weight.shape.get(1) {
                    assert_eq!(*inputs, cut.inputs.len() as u64);
                }
                assert!(cut.outputs.is_sorted() && cut.inputs.is_sorted());
            }
            assert_eq!(
                net.cuts(&chromosome).len(),
                tensors
                    .iter()
                    .filter(|t| t.name.ends_with("weight"))
                    .count()
            );
            let counted: u64 = tensors
                .iter()
                .filter(|t| t.is_parameter())
                .map(Tensor::values)
                .sum();
            assert_eq!(small.parameters(), counted);
            assert_eq!(net.pruned(&Chromosome::ones(net.genes())), net);
        }
    }

    /// Claim: the flatten boundary keeps whole blocks of height · width columns, channel-major.
    #[test]
    fn flatten_keeps_blocks() {
        let net = NetworkSpec::lenet(10);
        let mut chromosome = Chromosome::ones(net.genes());
        (20..70).for_each(|gene| chromosome.set(gene, gene == 22));
        let cut = net
            .cuts(&chromosome)
            .into_iter()
            .find(|cut| cut.layer == 7)
            .unwrap();
        assert_eq!(cut.inputs, (2 * 16..3 * 16).collect::<Vec<u32>>());
    }

    /// Claim: a chromosome that empties a layer does not fit, nor does one of another length.
    #[test]
    fn empty_layers_do_not_fit() {
        let net = NetworkSpec::lenet(10);
        let mut chromosome = Chromosome::ones(net.genes());
        (0..20).for_each(|gene| chromosome.set(gene, false));
        assert!(!net.fits(&chromosome));
        assert!(net.pruned(&chromosome).validate().is_err());
        assert!(!net.fits(&Chromosome::ones(571)));
    }

    /// Claim: descriptions that do not fit together are refused with the layer and the reason.
    #[test]
    fn wrong_networks_are_refused() {
        let net = |layers: Vec<Layer>| NetworkSpec {
            name: "x".to_owned(),
            input: [1, 8, 8],
            layers,
        };
        let dense = |units| Layer::Dense { units };
        let conv = |filters, kernel, padding| Layer::Conv {
            filters,
            kernel,
            padding,
        };
        let cases = [
            (vec![], "network: expected a dense layer at the end"),
            (vec![dense(10)], "layer 0: dense: expected [features]"),
            (vec![Layer::Flatten, dense(10)], "nothing can be pruned"),
            (
                vec![conv(4, 9, 0), Layer::Flatten, dense(10)],
                "layer 0: conv: nothing is left",
            ),
            (
                vec![conv(0, 3, 0), Layer::Flatten, dense(10)],
                "expected filters from 1",
            ),
            (
                vec![conv(u32::MAX, 3, 0), Layer::Flatten, dense(10)],
                "expected filters from 1",
            ),
            (
                vec![conv(4, 0, 0), Layer::Flatten, dense(10)],
                "expected kernel from 1",
            ),
            (
                vec![conv(4, 3, 3), Layer::Flatten, dense(10)],
                "expected padding from 0 to 2",
            ),
            (
                vec![Layer::MaxPool { size: 0 }, Layer::Flatten, dense(10)],
                "expected size from 1",
            ),
            (
                vec![Layer::Flatten, conv(4, 3, 0)],
                "layer 1: conv: expected [channels, height, width]",
            ),
            (
                vec![conv(4, 3, 0), Layer::Flatten, dense(1)],
                "expected 2 units or more, got 1",
            ),
            (vec![Layer::Relu; 300], "expected at most 256 layers"),
        ];
        for (layers, expected) in cases {
            let message = net(layers).validate().unwrap_err().to_string();
            assert!(
                message.contains(expected),
                "{message} should contain {expected}"
            );
        }
    }
}
