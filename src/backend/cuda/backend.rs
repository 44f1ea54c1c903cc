//! The device that all engines of a backend share.

use super::driver::Device;
use crate::backend::Precision;
use crate::error::{Error, Result};

/// A GPU, or the emulator.
#[derive(Clone, Debug)]
pub struct CudaBackend {
    pub(super) device: Device,
    pub(super) precision: Precision,
}

impl CudaBackend {
    /// The backend on a device, with float32 throughout.
    pub fn new(device: Device) -> Self {
        CudaBackend {
            device,
            precision: Precision::Float32,
        }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// With DIP engines that compute as exactly as this.
    pub fn with_precision(self, precision: Precision) -> Self {
        CudaBackend { precision, ..self }
    }
}

/// `n` as kernels take it.
pub(super) fn to_u32(n: usize, what: &str) -> Result<u32> {
    // With room for a block of threads beyond the end.
    match u32::try_from(n) {
        Ok(n) if n <= i32::MAX as u32 => Ok(n),
        _ => Err(Error::invalid(format!(
            "{n} {what} are too many for a GPU at once"
        ))),
    }
}
