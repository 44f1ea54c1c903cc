//! How a device fails.

#[cfg(feature = "emulator")]
use super::emulator::fault::Fault;
use super::launch::Launch;
use crate::error::Error;

/// A result with a [`DriverError`].
pub type Result<T, E = DriverError> = std::result::Result<T, E>;

/// Why a device did not do what it was asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DriverError {
    /// The machine has no driver, or the driver no device.
    #[error("{device}: {cause}")]
    NoDevice { device: String, cause: String },

    /// The program was built without nvcc.
    #[error(
        "{device}: this build has no kernels for GPUs; install nvcc (scripts/install-nvcc.sh does), set \
         NVCC to its path and build again"
    )]
    NoKernels { device: String },

    /// The device's memory does not suffice: fewer instances at once may fit.
    #[error("{device}: no memory for {bytes} bytes")]
    OutOfMemory { device: String, bytes: usize },

    /// What a graph cannot hold was asked for while one was recorded.
    #[error("{device}: {operation} while a graph is recorded; a graph can only hold launches")]
    Recording {
        device: String,
        operation: &'static str,
    },

    /// A range that is not in its buffer.
    #[error("{device}: elements {first}..{end} are beyond a buffer of {len}")]
    Range {
        device: String,
        first: usize,
        end: usize,
        len: usize,
    },

    /// The driver refused something other than a launch, or a kernel launched before it failed.
    #[error("{device}: {operation}: {cause}")]
    Failed {
        device: String,
        operation: String,
        cause: String,
    },

    /// A launch that the driver or the kernel refuses.
    #[error("{device}: {kernel} {launch}: {cause}")]
    Launch {
        device: String,
        kernel: &'static str,
        launch: Launch,
        cause: String,
    },

    /// What the emulator found in a kernel.
    #[cfg(feature = "emulator")]
    #[error("emulator: {kernel} {launch}, {fault}")]
    Fault {
        kernel: &'static str,
        launch: Launch,
        /// Boxed, so that results stay small where nothing fails.
        fault: Box<Fault>,
    },
}

impl From<DriverError> for Error {
    fn from(error: DriverError) -> Self {
        let message = error.to_string();
        match error {
            DriverError::OutOfMemory { .. } => Error::out_of_memory(message),
            DriverError::NoDevice { .. } => {
                Error::device(message).hint("install NVIDIA's driver, or use `device=cpu`")
            }
            _ => Error::device(message),
        }
    }
}
