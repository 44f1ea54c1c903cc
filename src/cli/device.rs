//! `--device`: what it says, and running a command there.

use std::str::FromStr;

use super::{Global, Outcome};
use crate::backend::Backend;
use crate::backend::cpu::CpuBackend;
#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::backend::cuda::CudaBackend;
#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::backend::cuda::driver;
use crate::error::{Error, Result};

/// A place to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The first GPU, where there is one that this build has kernels for; else the processor.
    Auto,
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
    /// The GPU's kernels on the processor.
    Emulator,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            "emulator" => Ok(Device::Emulator),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|ordinal| Some(Device::Cuda(ordinal.parse().ok()?)))
                .ok_or_else(|| {
                    "write auto, cpu, cuda (the first GPU), cuda:N or emulator".to_owned()
                }),
        }
    }
}

/// What a command does, on any backend.
pub trait Command {
    fn run_on<B: Backend>(self, backend: &B) -> Result<Outcome>;
}

/// Runs a command on the device that the command line asks for.
///
/// # Errors
/// The device is not there, or this build cannot use it; whatever the command fails of.
pub fn run(command: impl Command, global: &Global) -> Result<Outcome> {
    match global.device {
        Device::Auto if gpu_is_usable() => on_gpu(command, 0),
        Device::Auto | Device::Cpu => command.run_on(&CpuBackend),
        Device::Cuda(ordinal) => on_gpu(command, ordinal),
        Device::Emulator => on_emulator(command),
    }
}

/// Whether this machine has a GPU and this build kernels for it.
fn gpu_is_usable() -> bool {
    #[cfg(feature = "cuda")]
    {
        let built = crate::backend::cuda::kernels::NVCC.is_some();
        let there = driver::nvidia::device_count() > 0;
        if there && !built {
            log::warn!(
                "this machine has a GPU, but this build has no kernels for it; using the processor \
                 (install nvcc and build again)"
            );
        }
        there && built
    }
    #[cfg(not(feature = "cuda"))]
    false
}

#[cfg(feature = "cuda")]
fn on_gpu(command: impl Command, ordinal: usize) -> Result<Outcome> {
    let device = driver::Device::nvidia(ordinal)?;
    command.run_on(&CudaBackend::new(device))
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: impl Command, ordinal: usize) -> Result<Outcome> {
    Err(Error::Device(format!(
        "cuda:{ordinal}: this build is without GPUs; build it with --features cuda, or use --device cpu"
    )))
}

#[cfg(feature = "emulator")]
fn on_emulator(command: impl Command) -> Result<Outcome> {
    use driver::emulator::{Emulator, Options};
    let emulator = Emulator::new(Options::default()).map_err(Error::from)?;
    command.run_on(&CudaBackend::new(emulator.device()))
}

#[cfg(not(feature = "emulator"))]
fn on_emulator(_: impl Command) -> Result<Outcome> {
    Err(Error::Device(
        "emulator: this build is without it; build it with --features emulator, or use --device cpu"
            .to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        for (text, device) in [
            ("auto", Device::Auto),
            ("cpu", Device::Cpu),
            ("cuda", Device::Cuda(0)),
            ("cuda:3", Device::Cuda(3)),
            ("emulator", Device::Emulator),
        ] {
            assert_eq!(text.parse(), Ok(device));
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }
}
