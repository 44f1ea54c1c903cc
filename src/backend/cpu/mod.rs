//! The cpu backend: float32, SIMD and threads. With bfloat16 it rounds what a GPU's tensor cores would, to see
//! what that changes.

#[doc(hidden)] // for the crate's own tests, benchmarks and binary
pub mod blocked;
#[doc(hidden)] // for the crate's own tests, benchmarks and binary
pub mod classifier;
#[doc(hidden)] // for the crate's own tests, benchmarks and binary
pub mod dip;
pub(crate) mod function;
#[doc(hidden)] // for the crate's own tests, benchmarks and binary
pub mod peak;
#[doc(hidden)] // for the crate's own tests, benchmarks and binary
pub mod simd;

use self::classifier::CpuClassifier;
use self::dip::CpuDip;
use super::host::HostDevice;
use super::{Backend, Precision};
use crate::classifier::Graph;
use crate::dip::NetSpec;
use crate::error::Result;

/// The machine's own processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuBackend {
    precision: Precision,
}

impl CpuBackend {
    /// In float32 throughout.
    pub const FLOAT32: CpuBackend = CpuBackend {
        precision: Precision::Float32,
    };

    /// With DIP engines that round as this says.
    pub fn with_precision(self, precision: Precision) -> Self {
        CpuBackend { precision }
    }
}

impl HostDevice for CpuBackend {
    type Number = f32;
}

impl Backend for CpuBackend {
    type Dip = CpuDip;
    type Classifier = CpuClassifier;

    fn name(&self) -> String {
        let threads = rayon::current_num_threads();
        let isa = simd::Isa::detect().name();
        format!("cpu ({threads} threads, {isa})")
    }

    fn dip(&self, spec: &NetSpec, height: usize, width: usize, capacity: usize) -> Result<CpuDip> {
        CpuDip::new(spec, height, width, capacity, self.precision)
    }

    fn classifier(&self, graph: &Graph, batch: usize) -> Result<CpuClassifier> {
        CpuClassifier::new(graph, batch)
    }

    fn dip_capacity(&self, spec: &NetSpec, height: usize, width: usize) -> Result<usize> {
        dip::capacity(spec, height, width, self.precision)
    }

    fn dip_bytes(
        &self,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
    ) -> Result<u128> {
        dip::bytes(spec, height, width, capacity, self.precision)
    }

    fn free_bytes(&self) -> Option<u64> {
        super::memory::free_bytes()
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn peak_gflops(&self) -> Option<f64> {
        Some(peak::peak_gflops())
    }
}
