//! The cuda backend: our own kernels (`kernels/*.cu`) on NVIDIA's GPUs, or on the emulator, which runs
//! the same kernels on the processor for tests.
//!
//! - [`driver`] is the one place that loads, allocates and launches;
//! - [`kernels`] is the table of all kernels;
//! - [`images`] moves, cuts and joins images;
//! - [`dip`] optimises DIP instances;
//! - [`classifier`] runs the victim.

pub mod classifier;
pub mod dip;
pub mod driver;
pub mod images;
pub mod kernels;

use self::driver::Device;
use super::Precision;
use crate::error::{Error, Result};

/// A GPU, or the emulator.
#[derive(Clone, Debug)]
pub struct CudaBackend {
    device: Device,
    precision: Precision,
}

impl CudaBackend {
    /// The backend on a device, with float32 throughout.
    pub fn new(device: Device) -> Self {
        CudaBackend {
            device,
            precision: Precision::Float32,
        }
    }

    /// With DIP engines that compute as exactly as this.
    pub fn with_precision(self, precision: Precision) -> Self {
        CudaBackend { precision, ..self }
    }
}

/// `n` as kernels take it.
fn to_u32(n: usize, what: &str) -> Result<u32> {
    // With room for a block of threads beyond the end.
    match u32::try_from(n) {
        Ok(n) if n <= i32::MAX as u32 => Ok(n),
        _ => Err(Error::invalid(format!(
            "{n} {what} are too many for a GPU at once"
        ))),
    }
}
