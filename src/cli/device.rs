//! `--device`, `--memory`, `--precision` and `--profile`: where a command runs, and measuring its kernels there.

#[cfg(any(feature = "cuda", feature = "emulator"))]
use std::io::Write;
#[cfg(any(feature = "cuda", feature = "emulator"))]
use std::path::Path;

use super::{Global, Outcome};
#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::backend::cuda::CudaBackend;
use crate::error::{Error, Result};
#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::files::replace::{Replacement, write_error};
use crate::purifier::{Backends, OpenDevices};

/// Runs a command on the devices that the command line asks for. Where a profile is asked for, its table goes to
/// stderr and its trace to the file, also where the command fails.
///
/// # Errors
/// A device is not there, or this build cannot use it; whatever the command fails of.
pub(crate) fn run(
    global: &Global,
    command: impl FnOnce(OpenDevices) -> Result<Outcome>,
) -> Result<Outcome> {
    let devices = global.device.open(global.precision, global.memory)?;
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
