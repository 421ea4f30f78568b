//! Kernels: how jobs are computed, with libtorch, on one thread of one executor.
//!
//! [`evaluator::Evaluator`] answers the items of maps, [`training::run_rank`] is one rank of a
//! gang. [`data`] reads data sets, [`weights`] stores, loads and cuts parameters, [`forward`] runs
//! a network that is described as data, [`local`] a whole job without a cluster. [`engine`] computes fitness, fast and without libtorch;
//! [`masked`] is the slow and obvious way, against which it is tested and measured.
//!
//! Equal calls give equal bits on machines of one numerics class ([`numerics_class`]).

pub mod data;
pub mod engine;
pub mod error;
pub mod evaluator;
pub mod forward;
pub mod local;
pub mod masked;
pub mod training;
pub mod weights;

pub use error::KernelError;

use evoring_protocol::numerics::{EXECUTOR_ENVIRONMENT, NumericsClass};

/// Version of libtorch that tch is built against; part of the numerics class.
const LIBTORCH: &str = "2.13.0";

/// Fixes what this process computes with: one thread. To be called before anything is computed;
/// later calls do nothing.
pub fn initialise() {
    // libtorch takes the second number once and before its first work.
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        tch::set_num_threads(1);
        tch::set_num_interop_threads(1);
    });
}

/// Class of this process: version of Evoring (whose kernels may change with any), library, device,
/// maker of the processor (by which libtorch's matrix products choose their kernels), and the settings
/// that choose kernels.
pub fn numerics_class() -> NumericsClass {
    let settings = EXECUTOR_ENVIRONMENT.map(|(name, _)| {
        let value = std::env::var(name).unwrap_or_else(|_| "unset".to_owned());
        format!("{name}={value}")
    });
    NumericsClass(format!(
        "evoring-{}/libtorch-{LIBTORCH}/cpu-{}/{}",
        env!("CARGO_PKG_VERSION"),
        processor_maker(),
        settings.join(",")
    ))
}

/// As the system tells it ("AuthenticAMD").
fn processor_maker() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("vendor_id")?.split_once(':'));
    line.map_or("unknown", |(_, maker)| maker.trim()).to_owned()
}
