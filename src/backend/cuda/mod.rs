//! The cuda backend: our own kernels (`kernels/*.cu`) on NVIDIA's GPUs, or on the emulator, which runs
//! the same kernels on the processor for tests.
//!
//! - [`driver`] is the one place that loads, allocates and launches;
//! - [`kernels`] is the table of all kernels;
//! - [`images`] moves, cuts and joins images;
//! - [`dip`] optimises DIP instances;
//! - [`classifier`] runs the victim;
//! - [`model`] says what a chip needs for it at least.

pub mod classifier;
pub mod dip;
pub mod driver;
pub mod images;
pub mod kernels;
pub mod model;

use self::driver::Device;
use crate::error::{Error, Result};

/// A GPU, or the emulator.
#[derive(Clone, Debug)]
pub struct CudaBackend {
    device: Device,
}

impl CudaBackend {
    /// The backend on a device.
    pub fn new(device: Device) -> Self {
        CudaBackend { device }
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
