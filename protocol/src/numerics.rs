//! What decides the bits of a computation on a machine.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Workers of one class compute equal bits from equal inputs: versions of Evoring and of the library,
/// device kind and the settings that choose kernels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NumericsClass(pub String);

impl fmt::Display for NumericsClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Environment under which every executor runs, so that equal jobs give equal bits.
/// AVX-512 kernels change bits against AVX2 and gained under 10 % where it was measured.
pub const EXECUTOR_ENVIRONMENT: [(&str, &str); 4] = [
    ("OMP_NUM_THREADS", "1"),
    ("MKL_NUM_THREADS", "1"),
    ("ATEN_CPU_CAPABILITY", "avx2"),
    ("ONEDNN_MAX_CPU_ISA", "AVX2"),
];
