//! The first layer's outputs, in common with the other executors of this user on the host.

use evoring_kernels::engine::activations::{ActivationStore, Activations, PrivateActivations};
use evoring_kernels::engine::lanes::Lanes;
use evoring_protocol::Digest;
use evoring_worker::host_files::{self, HostFileError, Shared};
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

/// Longest wait for another executor that computes the same. It takes about half a second for as
/// much as an engine shares; one that takes this long may have been stopped, and computing is cheap.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes values from files of shared memory, or where that cannot be from memory of its own.
#[derive(Debug)]
pub struct HostActivations {
    slot: u32,
    folder: PathBuf,
    patience: Duration,
    told: Once,
}

impl HostActivations {
    /// Values in files of `folder`. Removes files that nobody holds: executors that were killed
    /// could not.
    pub fn open(slot: u32, folder: PathBuf) -> Self {
        // A folder that cannot be swept cannot be used either, which is told when it is to be.
        let _ = host_files::sweep(&folder);
        Self {
            slot,
            folder,
            patience: PATIENCE,
            told: Once::new(),
        }
    }

    fn share(
        &self,
        key: &Digest,
        count: usize,
        fill: &mut dyn FnMut(&mut [Lanes]),
    ) -> Result<SharedLanes, HostFileError> {
        let bytes = count * size_of::<Lanes>();
        let mut fill = |bytes: &mut [u8]| fill(Lanes::from_bytes_mut(bytes).expect(ALIGNED));
        host_files::share(&self.folder, key, bytes, self.patience, &mut fill).map(SharedLanes)
    }

    /// Says once why memory is not shared; later reasons are mostly the same.
    fn tell(&self, error: &HostFileError, count: usize) {
        let megabytes = (count * size_of::<Lanes>()).div_ceil(1 << 20);
        self.told.call_once(|| {
            eprintln!(
                "executor of slot {}: the first layer's outputs are not shared with other executors: {error}; \
                 this one computes and holds them itself ({megabytes} MiB), results stay the same",
                self.slot
            );
        });
    }
}

impl ActivationStore for HostActivations {
    fn obtain(
        &self,
        key: &Digest,
        count: usize,
        fill: &mut dyn FnMut(&mut [Lanes]),
    ) -> Box<dyn Activations> {
        match self.share(key, count, fill) {
            Ok(shared) => Box::new(shared),
            Err(error) => {
                self.tell(&error, count);
                PrivateActivations.obtain(key, count, fill)
            }
        }
    }
}

/// Shared files begin on a page and were asked for with whole values.
const ALIGNED: &str = "whole values from the beginning of a page on";

/// Values in a shared file.
#[derive(Debug)]
struct SharedLanes(Shared);

impl Activations for SharedLanes {
    fn lanes(&self) -> &[Lanes] {
        Lanes::from_bytes(self.0.bytes()).expect(ALIGNED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_jobs::evolution::Chromosome;
    use evoring_jobs::network::NetworkSpec;
    use evoring_jobs::random::{Purpose, Stream};
    use evoring_kernels::engine::{Engine, SHARED_BYTES};
    use std::path::Path;
    use tempfile::TempDir;

    const IMAGES: usize = 40;

    /// LeNet with made-up weights and images, its first layer's outputs from `store`.
    fn engine(store: &dyn ActivationStore) -> Engine {
        let spec = NetworkSpec::lenet(10);
        let draw = |stream: &mut Stream| (stream.uniform() - 0.5) as f32;
        let tensor = |layer: usize, name: &str| {
            let shape = &spec.input_shapes()[layer];
            // More than any tensor of the layer holds.
            let is_bias = name == "bias";
            let count = if is_bias {
                500
            } else {
                500 * shape.values() as usize
            };
            let mut stream =
                Stream::new(2, Purpose::Order, layer as u64, u32::from(is_bias).into());
            (0..count).map(|_| draw(&mut stream)).collect()
        };
        let mut stream = Stream::new(1, Purpose::Order, 0, 0);
        let values = spec.input.iter().product::<u32>() as usize;
        let images: Vec<f32> = (0..IMAGES * values).map(|_| draw(&mut stream)).collect();
        let labels: Vec<u32> = (0..IMAGES as u32).map(|image| image % 10).collect();
        Engine::with_store(&spec, tensor, &images, &labels, SHARED_BYTES, store)
    }

    fn chromosomes() -> Vec<Chromosome> {
        let spec = NetworkSpec::lenet(10);
        let mut stream = Stream::new(3, Purpose::Breeding, 0, 0);
        let mut one = || {
            let mut chromosome = Chromosome::zeros(spec.genes());
            (0..spec.genes()).for_each(|gene| chromosome.set(gene, stream.uniform() < 0.5));
            let layers = spec.prunable();
            layers
                .iter()
                .for_each(|layer| chromosome.set(layer.first_gene, true));
            chromosome
        };
        (0..4).map(|_| one()).collect()
    }

    fn assert_equal(engine: &mut Engine) {
        let mut own = self::engine(&PrivateActivations);
        for chromosome in chromosomes() {
            assert_eq!(engine.logits(&chromosome), own.logits(&chromosome));
        }
    }

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }

    /// Claim: two executors hold the first layer's outputs in one file, answer as one with memory
    /// of its own, bit for bit, and leave nothing behind. Method: logits, from which scores are
    /// counted, with two stores on one folder.
    #[test]
    fn shared_and_private_values_answer_alike() {
        let base = TempDir::new().unwrap();
        let folder = base.path().join("values");
        let stores = [0, 1].map(|slot| HostActivations::open(slot, folder.clone()));
        let mut engines = [0, 1].map(|slot| engine(&stores[slot]));
        assert_eq!(files(&folder), 1);
        engines.iter_mut().for_each(assert_equal);
        let [first, mut second] = engines;
        drop(first);
        assert_equal(&mut second);
        drop(second);
        assert_eq!(files(&folder), 0);
        assert!(stores.iter().all(|store| !store.told.is_completed()));
    }

    /// Claim: without a usable folder, and while another process hangs over the file, answers are
    /// the same, and the reason is told. Method: a file where the folder should be; a lock held on
    /// the file by another open, with little patience.
    #[test]
    fn without_sharing_answers_are_the_same() {
        let base = TempDir::new().unwrap();
        let folder = base.path().join("values");
        std::fs::write(&folder, "in the way").unwrap();
        let store = HostActivations::open(0, folder.clone());
        assert_equal(&mut engine(&store));
        assert!(store.told.is_completed());
        std::fs::remove_file(&folder).unwrap();

        let keys = Keys::default();
        drop(engine(&keys));
        let key = keys.0.into_inner().unwrap();
        let mut store = HostActivations::open(0, folder.clone());
        // Makes the folder, and then no more than it.
        drop(engine(&store));
        let held = std::fs::File::create_new(folder.join(key[0].to_string())).unwrap();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        held.set_permissions(permissions).unwrap();
        held.lock().unwrap();
        store.patience = Duration::from_millis(20);
        assert_equal(&mut engine(&store));
        assert!(store.told.is_completed());
    }

    /// Notes keys.
    #[derive(Debug, Default)]
    struct Keys(std::sync::Mutex<Vec<Digest>>);

    impl ActivationStore for Keys {
        fn obtain(
            &self,
            key: &Digest,
            count: usize,
            fill: &mut dyn FnMut(&mut [Lanes]),
        ) -> Box<dyn Activations> {
            self.0.lock().unwrap().push(*key);
            PrivateActivations.obtain(key, count, fill)
        }
    }
}
