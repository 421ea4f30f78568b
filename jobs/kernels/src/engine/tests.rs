//! The engine against libtorch: masked full net, rebuilt small net.

use super::*;
use crate::forward::evaluate_layers;
use crate::masked;
use crate::weights::{Weights, float_values};
use evoring_jobs::network::Layer;
use evoring_jobs::random::{Purpose, Stream};
use evoring_protocol::Digest;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tch::Tensor;

/// A net with weights as after some training: batch norm has statistics and scales.
struct Case {
    spec: NetworkSpec,
    weights: Weights,
    images: Vec<f32>,
    labels: Vec<u32>,
}

impl Case {
    fn new(spec: NetworkSpec, images: usize) -> Self {
        crate::initialise();
        spec.validate().unwrap();
        let mut stream = Stream::new(5, Purpose::Order, 0, 0);
        let mut tensors = Weights::initial(&spec, 3).into_tensors();
        for (name, tensor) in &mut tensors {
            if tensor.dim() == 1 {
                let is_positive = name.ends_with("running_var") || name.ends_with("weight");
                let draw = |_| if is_positive { 0.5 + stream.uniform() } else { stream.uniform() - 0.5 } as f32;
                *tensor = Tensor::from_slice(&(0..tensor.numel()).map(draw).collect::<Vec<f32>>());
            }
        }
        let values: u32 = spec.input.iter().product();
        let images = (0..images * values as usize)
            .map(|_| (2.0 * stream.uniform() - 1.0) as f32)
            .collect::<Vec<f32>>();
        let labels = (0..images.len() / values as usize)
            .map(|_| stream.below(spec.classes().into()) as u32)
            .collect();
        Self {
            weights: Weights::new(tensors),
            spec,
            images,
            labels,
        }
    }

    fn engine(&self, limit_bytes: usize) -> Engine {
        self.engine_with(limit_bytes, &PrivateActivations)
    }

    fn engine_with(&self, limit_bytes: usize, store: &dyn ActivationStore) -> Engine {
        let tensor = |layer: usize, name: &str| float_values(self.weights.tensor(layer, name));
        let (images, labels) = (&self.images, &self.labels);
        Engine::with_store(&self.spec, tensor, images, labels, limit_bytes, store)
    }

    fn tensor(&self) -> Tensor {
        let [channels, height, width] = self.spec.input.map(i64::from);
        Tensor::from_slice(&self.images).view([-1, channels, height, width])
    }

    fn chromosome(&self, number: u64) -> Chromosome {
        let mut stream = Stream::new(number, Purpose::Breeding, 0, 0);
        let keep = 0.2 + 0.8 * stream.uniform();
        let mut chromosome = Chromosome::zeros(self.spec.genes());
        (0..self.spec.genes()).for_each(|gene| chromosome.set(gene, stream.uniform() < keep));
        // Every layer keeps something.
        self.spec
            .prunable()
            .iter()
            .for_each(|layer| chromosome.set(layer.first_gene, true));
        chromosome
    }

    /// Logits of the rebuilt net by libtorch.
    fn rebuilt(&self, chromosome: &Chromosome) -> Vec<f32> {
        let (small, cut) = (
            self.spec.pruned(chromosome),
            self.weights.cut(&self.spec, chromosome),
        );
        tch::no_grad(|| {
            float_values(&evaluate_layers(
                &small,
                &cut,
                0..small.layers.len(),
                &self.tensor(),
            ))
        })
    }

    fn masked(&self, chromosome: &Chromosome) -> Vec<f32> {
        tch::no_grad(|| {
            float_values(&masked::logits(
                &self.spec,
                &self.weights,
                chromosome,
                &self.tensor(),
            ))
        })
    }
}

/// Every kind of layer in unusual places: batch norm on the input, behind pooling and behind
/// flatten, padding next to pooling, rests at the border, a channel count that fills no group.
fn odd_net() -> NetworkSpec {
    let conv = |filters, kernel, padding| Layer::Conv {
        filters,
        kernel,
        padding,
    };
    NetworkSpec {
        name: "odd".to_owned(),
        input: [2, 11, 9],
        layers: vec![
            Layer::BatchNorm,
            conv(7, 3, 1),
            Layer::MaxPool { size: 2 },
            Layer::BatchNorm,
            conv(13, 2, 0),
            Layer::Relu,
            Layer::BatchNorm,
            Layer::Flatten,
            Layer::BatchNorm,
            Layer::Dense { units: 9 },
            Layer::BatchNorm,
            Layer::Relu,
            Layer::Dropout { percent: 50 },
            Layer::Dense { units: 5 },
            Layer::Relu,
            Layer::Dense { units: 3 },
        ],
    }
}

fn dense_net() -> NetworkSpec {
    let layers = vec![
        Layer::Flatten,
        Layer::Dense { units: 20 },
        Layer::Relu,
        Layer::Dense { units: 4 },
    ];
    NetworkSpec {
        name: "dense".to_owned(),
        input: [1, 6, 6],
        layers,
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new(NetworkSpec::lenet(10), 40),
        Case::new(NetworkSpec::vgg_small(10), 17),
        Case::new(odd_net(), 33),
        Case::new(dense_net(), 16),
    ]
}

/// Largest difference of two nets' logits, in units of the largest logit if that is above 1: with
/// 24 bits nothing better can be asked of larger ones.
fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
    let unit = largest(&mut a.iter().map(|value| value.abs())).max(1.0);
    largest(&mut a.iter().zip(b).map(|(a, b)| (a - b).abs())) / unit
}

/// Claim: the engine, libtorch's rebuilt small net and the masked full net give the same logits
/// within 1e-5 (of the largest, if that is above 1), and the same prediction wherever the two best
/// differ by more than 1e-4. Method: all kinds of layers, random weights and chromosomes.
#[test]
fn agrees_with_the_masked_and_the_rebuilt_net() {
    for case in cases() {
        let mut engine = case.engine(SHARED_BYTES);
        for number in 0..4 {
            let chromosome = case.chromosome(number);
            let (fast, rebuilt, masked) = (
                engine.logits(&chromosome),
                case.rebuilt(&chromosome),
                case.masked(&chromosome),
            );
            for (name, other) in [("rebuilt", &rebuilt), ("masked", &masked)] {
                let difference = largest_difference(&fast, other);
                assert!(
                    difference <= 1e-5,
                    "{} {name} net: {difference}",
                    case.spec.name
                );
            }
            assert!(largest_difference(&rebuilt, &masked) <= 1e-5);
            let classes = case.spec.classes() as usize;
            for (fast, masked) in fast.chunks_exact(classes).zip(masked.chunks_exact(classes)) {
                let mut order: Vec<usize> = (0..classes).collect();
                order.sort_by(|a, b| masked[*b].total_cmp(&masked[*a]));
                if masked[order[0]] - masked[order[1]] > 1e-4 {
                    assert!((0..classes).all(|class| fast[class] <= fast[order[0]]));
                }
            }
        }
    }
}

/// Claim: what was computed before, how much memory there is, and which images lie beside one
/// another do not change a bit. Method: the same chromosomes in two orders, with no memory, with
/// little and with plenty; each image alone.
#[test]
fn sharing_does_not_change_a_bit() {
    for case in cases() {
        let mut plenty = case.engine(SHARED_BYTES);
        let each = little_memory(&case.spec);
        let mut little = case.engine(each);
        let numbers = [0, 1, 2, 0, 3, 1, 4, 5, 2];
        for number in numbers {
            let mut chromosome = case.chromosome(number);
            // A relative, as by crossover: the genes behind the middle are another's.
            let other = case.chromosome(number + 1);
            (case.spec.genes() / 2..case.spec.genes())
                .for_each(|gene| chromosome.set(gene, other.gene(gene)));
            if !case.spec.fits(&chromosome) {
                continue;
            }
            let alone = case.engine(0).logits(&chromosome);
            assert_eq!(plenty.logits(&chromosome), alone, "{}", case.spec.name);
            assert_eq!(little.logits(&chromosome), alone, "{}", case.spec.name);
            assert!(plenty.shared_bytes() <= SHARED_BYTES && little.shared_bytes() <= each);
        }
        let values = case.spec.input.iter().product::<u32>() as usize;
        let last = Case {
            images: case.images[case.images.len() - values..].to_vec(),
            labels: vec![0],
            ..case.like()
        };
        let chromosome = case.chromosome(7);
        let all = plenty.logits(&chromosome);
        let classes = case.spec.classes() as usize;
        assert_eq!(
            last.engine(SHARED_BYTES).logits(&chromosome),
            all[all.len() - classes..]
        );
    }
}

impl Case {
    fn like(&self) -> Self {
        Self::new(self.spec.clone(), 1)
    }
}

/// Room for the largest outputs of eight blocks of images: some blocks are shared, others not, and
/// entries push each other out.
fn little_memory(spec: &NetworkSpec) -> usize {
    let outputs = spec
        .shapes()
        .iter()
        .map(|shape| shape.values())
        .max()
        .unwrap_or_default();
    8 * LANES * size_of::<f32>() * outputs as usize
}

/// What engines of one process have in common; counts how often it was computed.
#[derive(Debug, Default)]
struct Common {
    known: Mutex<BTreeMap<Digest, Arc<Vec<Lanes>>>>,
    fills: AtomicUsize,
}

impl Activations for Arc<Vec<Lanes>> {
    fn lanes(&self) -> &[Lanes] {
        self
    }
}

impl ActivationStore for Common {
    fn obtain(
        &self,
        key: &Digest,
        count: usize,
        fill: &mut dyn FnMut(&mut [Lanes]),
    ) -> Box<dyn Activations> {
        let mut known = self.known.lock().unwrap();
        let values = known.entry(*key).or_insert_with(|| {
            self.fills.fetch_add(1, Ordering::Relaxed);
            let mut values = vec![Lanes::ZERO; count];
            fill(&mut values);
            // Computing it again in the same place, as a store may, changes nothing.
            fill(&mut values);
            Arc::new(values)
        });
        Box::new(values.clone())
    }
}

/// Claim: engines with equal first layer and images take the first layer's outputs from one place
/// and give the logits, from which scores are counted, of an engine of their own, bit for bit,
/// whether all blocks fit or some. Method: a store that counts, two engines each with plenty and
/// with little memory.
#[test]
fn engines_have_the_first_layer_in_common() {
    for case in cases() {
        let store = Common::default();
        for limit_bytes in [SHARED_BYTES, little_memory(&case.spec)] {
            let before = store.fills.load(Ordering::Relaxed);
            let mut engines = [(); 2].map(|()| case.engine_with(limit_bytes, &store));
            let fills = store.fills.load(Ordering::Relaxed) - before;
            assert!(fills <= 1, "{}: {fills} times", case.spec.name);
            assert!(fills == 1 || limit_bytes < SHARED_BYTES);
            let mut own = case.engine(limit_bytes);
            for number in 0..3 {
                let chromosome = case.chromosome(number);
                for engine in &mut engines {
                    assert_eq!(engine.logits(&chromosome), own.logits(&chromosome));
                    assert_eq!(engine.shared_bytes(), own.shared_bytes());
                }
            }
        }
    }
}

/// Claim: whatever decides the first layer's outputs decides their key, and what comes behind does
/// not. Method: one change at a time: an image, an image less, a weight, a bias, a statistic of the
/// batch norm that follows; a weight of a later layer.
#[test]
fn keys_follow_the_values() {
    let case = Case::new(odd_net(), 33);
    let key = |images: &[f32], change: (usize, &str)| {
        let store = Common::default();
        let tensor = |layer: usize, name: &str| {
            let mut values = float_values(case.weights.tensor(layer, name));
            if (layer, name) == change {
                values[0] += 0.25;
            }
            values
        };
        let labels = vec![0; images.len() / case.spec.input.iter().product::<u32>() as usize];
        Engine::with_store(&case.spec, tensor, images, &labels, SHARED_BYTES, &store);
        let known = store.known.into_inner().unwrap();
        *known.keys().next().unwrap()
    };
    let usual = key(&case.images, (0, ""));
    assert_eq!(usual, key(&case.images, (0, "")));
    assert_eq!(usual, key(&case.images, (4, "weight")));
    let mut other = case.images.clone();
    *other.last_mut().unwrap() += 0.25;
    let values = case.spec.input.iter().product::<u32>() as usize;
    let keys = [
        usual,
        key(&other, (0, "")),
        // One block less.
        key(&case.images[..32 * values], (0, "")),
        key(&case.images, (0, "running_mean")),
        key(&case.images, (1, "weight")),
        key(&case.images, (1, "bias")),
        key(&case.images, (3, "running_mean")),
    ];
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key), "change {index}");
    }
}
