//! The cuda backend: our own kernels (`kernels/*.cu`) on NVIDIA's GPUs, or on the emulator, which runs
//! the same kernels on the processor for tests.
//!
//! - [`driver`] is the one place that loads, allocates and launches;
//! - `kernels` is the table of all kernels;
//! - `images` moves, cuts and joins images;
//! - [`dip`] optimizes DIP instances;
//! - `classifier` runs the classifier;
//! - `model` says what a chip needs for it at least.

mod backend;
pub(crate) mod classifier;
#[doc(hidden)] // for the crate's own tests, benchmarks and binary
pub mod dip;
#[doc(hidden)] // for the crate's own tests, benchmarks and binary
pub mod driver;
pub(crate) mod images;
pub(crate) mod kernels;
#[cfg(all(feature = "emulator", any(feature = "cli", test)))]
pub(crate) mod model;

pub use self::backend::CudaBackend;
use self::classifier::CudaClassifier;
use self::dip::CudaDip;
use super::{Backend, Precision};
use crate::classifier::Graph;
use crate::dip::NetSpec;
use crate::error::Result;

impl Backend for CudaBackend {
    type Dip = CudaDip;
    type Classifier = CudaClassifier;

    fn name(&self) -> String {
        self.device.name().to_owned()
    }

    fn dip(&self, spec: &NetSpec, height: usize, width: usize, capacity: usize) -> Result<CudaDip> {
        CudaDip::new(self, spec, height, width, capacity)
    }

    fn classifier(&self, graph: &Graph, batch: usize) -> Result<CudaClassifier> {
        CudaClassifier::new(self, graph, batch)
    }

    fn dip_capacity(&self, spec: &NetSpec, height: usize, width: usize) -> Result<usize> {
        CudaDip::instances_at_once(self, spec, height, width)
    }

    fn dip_bytes(
        &self,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
    ) -> Result<u128> {
        CudaDip::bytes(self, spec, height, width, capacity, dip::StepMode::Auto)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.device.free_bytes()
    }

    fn classifier_batch(&self) -> usize {
        classifier_batch(self.device.multiprocessors())
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn peak_gflops(&self) -> Option<f64> {
        Some(2.0 * self.device.peak().multiply_adds? / 1e9)
    }
}

/// Images that a classifier runs well at once on so many multiprocessors. Pictures shrink to 7×7 in its
/// last layers: of so many, those layers too fill a hundred multiprocessors.
pub fn classifier_batch(multiprocessors: u32) -> usize {
    multiprocessors.clamp(16, 128) as usize
}
