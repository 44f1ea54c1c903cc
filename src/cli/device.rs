//! `--device`, `--memory`, `--precision` and `--profile`: where a command runs, and measuring its kernels there.

#[cfg(any(feature = "cuda", feature = "emulator"))]
use std::io::Write;
#[cfg(any(feature = "cuda", feature = "emulator"))]
use std::path::Path;

use super::{Global, Outcome, values};
use crate::backend::Precision;
#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::backend::cuda::CudaBackend;
use crate::error::{Error, Result};
#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::files::replace::{Replacement, write_error};
use crate::purifier::{Backends, Device, OpenDevices};

/// Where to compute.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Threads to compute with; all cores by default
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Where to compute; auto is the first GPU, or else the processor. purify takes several devices of
    /// one kind: cuda:all, or a list with commas (cpu,cpu shares the threads between two; cuda,cuda has two
    /// engines on one GPU, which shares its memory between them: one computes while the host decides about
    /// the other's pictures)
    #[arg(
        long,
        global = true,
        value_name = "auto|cpu|cuda|cuda:N|cuda:all|emulator|ptx",
        default_value = "auto"
    )]
    pub device: Device,
    /// Memory to plan pictures in flight and their networks with, such as 500M or 8GiB; what is free by
    /// default. For the processor, whose devices (cpu,cpu) share it; a GPU's plan follows its own memory
    #[arg(long, global = true, value_name = "SIZE", value_parser = values::bytes)]
    pub memory: Option<u64>,
    /// What factors of DIP networks' wide convolutions are rounded to; bf16 is for the tensor cores of GPUs
    #[arg(long, global = true, value_enum, default_value_t = Precision::Float32)]
    pub precision: Precision,
}

impl Place {
    /// Opens the devices.
    ///
    /// # Errors
    /// A device is not there, or this build cannot use it.
    pub fn open(&self) -> Result<OpenDevices> {
        self.device.open(self.precision, self.memory)
    }
}

/// Runs a command on the devices that the command line asks for. Where a profile is asked for, its table goes to
/// stderr and its trace to the file, also where the command fails.
///
/// # Errors
/// A device is not there, or this build cannot use it; whatever the command fails of.
pub(crate) fn run(
    global: &Global,
    command: impl FnOnce(OpenDevices) -> Result<Outcome>,
) -> Result<Outcome> {
    let devices = global.place.open()?;
    let Some(path) = &global.profile else {
        return command(devices);
    };
    match devices.clone().only("`profile`")?.backends {
        #[cfg(any(feature = "cuda", feature = "emulator"))]
        Backends::Cuda(backends) => profiled(&backends[0], path, || command(devices)),
        Backends::Cpu(_) => {
            let _ = path;
            Err(Error::option("profile", "measures the kernels of GPUs")
                .hint("use it with `device=cuda` or `device=emulator`"))
        }
    }
}

#[cfg(any(feature = "cuda", feature = "emulator"))]
fn profiled(
    backend: &CudaBackend,
    path: &Path,
    command: impl FnOnce() -> Result<Outcome>,
) -> Result<Outcome> {
    let mut trace = Replacement::create(path)?;
    let profiling = backend.device().profile()?;
    let outcome = command();
    let profile = profiling.finish()?;
    let written = profile.write_trace(trace.writer());
    written.map_err(write_error(path))?;
    trace.finish()?;
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{profile}");
    outcome
}
