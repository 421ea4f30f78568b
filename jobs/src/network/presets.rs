//! Networks that a job file may name.

use super::{Layer, NetworkSpec};

/// Every name that [`NetworkSpec::preset`] knows.
pub const PRESET_NAMES: [&str; 2] = ["lenet", "vgg-small"];

impl NetworkSpec {
    /// The network of this name with its usual input, for `classes` classes.
    pub fn preset(name: &str, classes: u32) -> Option<Self> {
        match name {
            "lenet" => Some(Self::lenet(classes)),
            "vgg-small" => Some(Self::vgg_small(classes)),
            _ => None,
        }
    }

    /// LeNet 20-50-500 for `[1, 28, 28]`: 570 genes and 431,080 parameters with 10 classes
    /// (LeCun et al. 1998 in the widths of Caffe and MatConvNet, as in the paper on evolutionary
    /// compression). ReLU stands behind the pooling, where it gives the same values on a quarter
    /// of the numbers.
    pub fn lenet(classes: u32) -> Self {
        let conv = |filters| Layer::Conv {
            filters,
            kernel: 5,
            padding: 0,
        };
        Self {
            name: "lenet".to_owned(),
            input: [1, 28, 28],
            layers: vec![
                conv(20),
                Layer::MaxPool { size: 2 },
                Layer::Relu,
                conv(50),
                Layer::MaxPool { size: 2 },
                Layer::Relu,
                Layer::Flatten,
                Layer::Dense { units: 500 },
                Layer::Relu,
                Layer::Dense { units: classes },
            ],
        }
    }

    /// A VGG-style net with batch norm for `[3, 32, 32]`: 704 genes, three blocks of two 3 × 3
    /// convolutions (32, 64, 128 filters), one hidden dense layer of 256 units.
    pub fn vgg_small(classes: u32) -> Self {
        let mut layers = Vec::new();
        for filters in [32, 64, 128] {
            for _ in 0..2 {
                layers.extend([
                    Layer::Conv {
                        filters,
                        kernel: 3,
                        padding: 1,
                    },
                    Layer::BatchNorm,
                    Layer::Relu,
                ]);
            }
            layers.push(Layer::MaxPool { size: 2 });
        }
        layers.extend([
            Layer::Flatten,
            Layer::Dense { units: 256 },
            Layer::BatchNorm,
            Layer::Relu,
            Layer::Dropout { percent: 20 },
            Layer::Dense { units: classes },
        ]);
        Self {
            name: "vgg-small".to_owned(),
            input: [3, 32, 32],
            layers,
        }
    }
}
