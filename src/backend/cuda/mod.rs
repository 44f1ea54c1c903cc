//! The cuda backend: our own kernels (`kernels/*.cu`) on NVIDIA's GPUs, or on the emulator, which runs
//! the same kernels on the processor for tests.
//!
//! - [`driver`] is the one place that loads, allocates and launches;
//! - [`kernels`] is the table of all kernels;
//! - [`images`] moves, cuts and joins images.

pub mod driver;
pub mod images;
pub mod kernels;

use self::driver::Device;

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
