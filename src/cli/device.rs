//! `--device`: what it says, and running a command there.

#[cfg(any(feature = "cuda", feature = "emulator"))]
use std::io::Write;
use std::str::FromStr;

use super::inputs::Inputs;
use super::model::{Model, Victim};
use super::{Global, Outcome};
use crate::backend::cpu::CpuBackend;
#[cfg(feature = "cuda")]
use crate::backend::cuda::driver::nvidia::{self, Unusable};
#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::backend::cuda::{CudaBackend, driver};
use crate::backend::{Backend, Precision};
use crate::error::{Error, Result};
use crate::io::Dataset;
#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::io::replace::{Replacement, write_error};

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

/// A command's arguments, and the pictures and the classifier that they name.
pub struct OnPictures<'a, A> {
    pub args: &'a A,
    pub dataset: &'a Dataset,
    pub victim: &'a Victim,
}

/// Reads what a command is about, and runs it on the device that the command line asks for.
///
/// # Errors
/// The pictures or the classifier cannot be read; those of [`run`].
pub fn run_on_pictures<A>(
    args: &A,
    inputs: &Inputs,
    model: &Model,
    global: &Global,
) -> Result<Outcome>
where
    for<'a> OnPictures<'a, A>: Command,
{
    let dataset = &inputs.open()?;
    let victim = &model.load()?;
    run(
        OnPictures {
            args,
            dataset,
            victim,
        },
        global,
    )
}

/// Runs a command on the device that the command line asks for.
///
/// # Errors
/// The device is not there, or this build cannot use it; whatever the command fails of.
pub fn run(command: impl Command, global: &Global) -> Result<Outcome> {
    match global.device {
        Device::Auto if gpu_is_usable() => on_gpu(command, 0, global),
        Device::Auto | Device::Cpu => on_cpu(command, global),
        Device::Cuda(ordinal) => on_gpu(command, ordinal, global),
        Device::Emulator => on_emulator(command, global),
    }
}

fn on_cpu(command: impl Command, global: &Global) -> Result<Outcome> {
    if global.profile.is_some() {
        return Err(Error::invalid(
            "--profile measures the kernels of GPUs: use it with --device cuda or emulator",
        ));
    }
    if global.precision != Precision::Float32 {
        return Err(Error::invalid(
            "the processor computes in float32: use --precision bf16 with --device cuda or emulator",
        ));
    }
    command.run_on(&CpuBackend)
}

/// Whether this machine has a GPU that this build can use. Where it has one that it cannot, says why.
fn gpu_is_usable() -> bool {
    #[cfg(feature = "cuda")]
    match nvidia::usable() {
        Ok(_) => true,
        Err(Unusable::NoDriver | Unusable::NoGpu) => false,
        Err(why) => {
            log::warn!("the GPU is not used, but the processor: {why}");
            false
        }
    }
    #[cfg(not(feature = "cuda"))]
    false
}

#[cfg(feature = "cuda")]
fn on_gpu(command: impl Command, ordinal: usize, global: &Global) -> Result<Outcome> {
    on_cuda(command, driver::Device::nvidia(ordinal)?, global)
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: impl Command, ordinal: usize, _: &Global) -> Result<Outcome> {
    Err(Error::Device(format!(
        "cuda:{ordinal}: this build is without GPUs; build it with --features cuda, or use --device cpu"
    )))
}

#[cfg(feature = "emulator")]
fn on_emulator(command: impl Command, global: &Global) -> Result<Outcome> {
    use driver::emulator::{Emulator, Options};
    on_cuda(command, Emulator::new(Options::default())?.device(), global)
}

#[cfg(not(feature = "emulator"))]
fn on_emulator(_: impl Command, _: &Global) -> Result<Outcome> {
    Err(Error::Device(
        "emulator: this build is without it; build it with --features emulator, or use --device cpu"
            .to_owned(),
    ))
}

/// Runs a command on the cuda backend; where a profile is asked for, its table goes to stderr and its
/// trace to the file, also where the command fails.
#[cfg(any(feature = "cuda", feature = "emulator"))]
fn on_cuda(command: impl Command, device: driver::Device, global: &Global) -> Result<Outcome> {
    let backend = CudaBackend::new(device.clone()).with_precision(global.precision);
    let Some(path) = &global.profile else {
        return command.run_on(&backend);
    };
    let mut trace = Replacement::create(path)?;
    let profiling = device.profile()?;
    let outcome = command.run_on(&backend);
    let profile = profiling.finish()?;
    let written = profile.write_trace(trace.writer());
    written.map_err(write_error(path))?;
    trace.finish()?;
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{profile}");
    outcome
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
