//! `--device`: what it says, and running a command there.

#[cfg(any(feature = "cuda", feature = "emulator"))]
use std::io::Write;
use std::str::FromStr;

use super::inputs::Inputs;
use super::model::{Model, Victim};
use super::{Global, Outcome};
use crate::backend::Backend;
use crate::backend::cpu::CpuBackend;
#[cfg(feature = "cuda")]
use crate::backend::cuda::driver::nvidia::{self, Unusable};
#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::backend::cuda::{CudaBackend, driver};
use crate::error::{Error, Result};
#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::files::replace::{Replacement, write_error};
use crate::input::Dataset;

/// One device, or several of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// The first GPU, where there is one that this build has kernels for; else the processor.
    Auto,
    /// So many that share the processor's threads.
    Cpu(usize),
    /// An engine on the GPU of each of these numbers. All GPUs have equally many: with two on each, one
    /// computes while the host decides about the other's pictures.
    Cuda(Vec<usize>),
    /// Every GPU that this build can use.
    AllCuda,
    /// So many of the GPU's kernels on the processor.
    Emulator(usize),
}

/// Beyond this a list of devices is a mistake.
const MAX_DEVICES: usize = 64;

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Devices::Auto),
            "cuda:all" => return Ok(Devices::AllCuda),
            _ => {}
        }
        let names: Vec<&str> = text.split(',').collect();
        let count = names.len();
        if count > MAX_DEVICES {
            return Err(format!("name at most {MAX_DEVICES} devices"));
        }
        let all = |name| names.iter().all(|other| *other == name);
        if all("cpu") {
            return Ok(Devices::Cpu(count));
        }
        if all("emulator") {
            return Ok(Devices::Emulator(count));
        }
        let ordinal = |name: &&str| match *name {
            "cuda" => Some(0),
            _ => name.strip_prefix("cuda:")?.parse().ok(),
        };
        let Some(ordinals) = names.iter().map(ordinal).collect::<Option<Vec<usize>>>() else {
            return Err(
                "write auto, cpu, cuda (the first GPU), cuda:N, cuda:all or emulator; or several of \
                 one kind, with commas"
                    .to_owned(),
            );
        };
        let engines = engines_of_a_gpu(&ordinals);
        match (ordinals.iter()).all(|&gpu| times(gpu, &ordinals) == engines) {
            true => Ok(Devices::Cuda(ordinals)),
            false => Err("name each GPU equally often".to_owned()),
        }
    }
}

/// How often a list of GPUs names one.
fn times(gpu: usize, ordinals: &[usize]) -> usize {
    ordinals.iter().filter(|&&other| other == gpu).count()
}

/// Engines on each GPU of a list that names all of them equally often, at least 1.
fn engines_of_a_gpu(ordinals: &[usize]) -> usize {
    ordinals.first().map_or(1, |&gpu| times(gpu, ordinals))
}

/// What a command does, on any backend.
pub trait Command {
    /// `backends` has at least one. Each may plan with `memory` bytes; with all that are free on it where
    /// `None`.
    fn run_on<B: Backend>(self, backends: &[B], memory: Option<u64>) -> Result<Outcome>;
}

/// The device of a command that runs on one.
///
/// # Errors
/// There are several.
pub fn only<'b, B>(backends: &'b [B], command: &str) -> Result<&'b B> {
    match backends {
        [backend] => Ok(backend),
        _ => Err(Error::invalid(format!(
            "{command} runs on one device, not on {}; name one with --device",
            backends.len()
        ))),
    }
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

/// Runs a command on the devices that the command line asks for.
///
/// # Errors
/// A device is not there, or this build cannot use it; whatever the command fails of.
pub fn run(command: impl Command, global: &Global) -> Result<Outcome> {
    match &global.device {
        Devices::Auto if gpu_is_usable() => on_gpus(command, &[0], global),
        Devices::Auto => on_cpu(command, 1, global),
        Devices::Cpu(count) => on_cpu(command, *count, global),
        Devices::Cuda(ordinals) => on_gpus(command, ordinals, global),
        Devices::AllCuda => on_gpus(command, &all_gpus()?, global),
        Devices::Emulator(count) => on_emulator(command, *count, global),
    }
}

fn on_cpu(command: impl Command, count: usize, global: &Global) -> Result<Outcome> {
    if global.profile.is_some() {
        return Err(Error::invalid(
            "--profile measures the kernels of GPUs: use it with --device cuda or emulator",
        ));
    }
    let backend = CpuBackend::FLOAT32.with_precision(global.precision);
    command.run_on(&vec![backend; count], share_of_memory(count, global))
}

/// What each of `count` devices in the machine's own memory may plan with: they share what the user
/// allows or, without a word, what is free.
fn share_of_memory(count: usize, global: &Global) -> Option<u64> {
    let all = match (global.memory, count) {
        (None, 1) => None,
        (None, _) => CpuBackend::FLOAT32.free_bytes(),
        (allowed, _) => allowed,
    };
    all.map(|bytes| bytes / count as u64)
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

/// The numbers of all GPUs that this build can use.
///
/// # Errors
/// There is none.
fn all_gpus() -> Result<Vec<usize>> {
    #[cfg(feature = "cuda")]
    return nvidia::usable()
        .map(|count| (0..count).collect())
        .map_err(|why| Error::device(format!("cuda:all: {why}")));
    #[cfg(not(feature = "cuda"))]
    Err(without_gpus("cuda:all"))
}

#[cfg(feature = "cuda")]
fn on_gpus(command: impl Command, ordinals: &[usize], global: &Global) -> Result<Outcome> {
    if global.memory.is_some() {
        return Err(Error::invalid(
            "--memory is for the processor: a GPU's plan follows the memory that is free on it; lower \
             --capacity to use less",
        ));
    }
    let devices = ordinals.iter().map(|&gpu| driver::Device::nvidia(gpu));
    let devices: Vec<driver::Device> = devices.collect::<Result<_, _>>()?;
    let share = match engines_of_a_gpu(ordinals) {
        1 => None,
        engines => {
            let least_free = devices.iter().filter_map(driver::Device::free_bytes).min();
            least_free.map(|bytes| bytes / engines as u64)
        }
    };
    on_cuda(command, &devices, share, global)
}

#[cfg(not(feature = "cuda"))]
fn on_gpus(_: impl Command, ordinals: &[usize], _: &Global) -> Result<Outcome> {
    Err(without_gpus(&format!("cuda:{}", ordinals[0])))
}

#[cfg(not(feature = "cuda"))]
fn without_gpus(device: &str) -> Error {
    Error::device(format!(
        "{device}: this build is without GPUs; build it with --features cuda, or use --device cpu"
    ))
}

#[cfg(feature = "emulator")]
fn on_emulator(command: impl Command, count: usize, global: &Global) -> Result<Outcome> {
    use driver::emulator::{Emulator, Options};
    let device = |_| Ok(Emulator::new(Options::default())?.device());
    let devices = (0..count).map(device).collect::<Result<Vec<_>>>()?;
    on_cuda(command, &devices, share_of_memory(count, global), global)
}

#[cfg(not(feature = "emulator"))]
fn on_emulator(_: impl Command, _: usize, _: &Global) -> Result<Outcome> {
    Err(Error::device(
        "emulator: this build is without it; build it with --features emulator, or use --device cpu",
    ))
}

/// Runs a command on the cuda backend; where a profile is asked for, its table goes to stderr and its
/// trace to the file, also where the command fails.
#[cfg(any(feature = "cuda", feature = "emulator"))]
fn on_cuda(
    command: impl Command,
    devices: &[driver::Device],
    memory: Option<u64>,
    global: &Global,
) -> Result<Outcome> {
    let backend =
        |device: &driver::Device| CudaBackend::new(device.clone()).with_precision(global.precision);
    let backends: Vec<CudaBackend> = devices.iter().map(backend).collect();
    let Some(path) = &global.profile else {
        return command.run_on(&backends, memory);
    };
    let device = only(devices, "--profile")?;
    let mut trace = Replacement::create(path)?;
    let profiling = device.profile()?;
    let outcome = command.run_on(&backends, memory);
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
        for (text, devices) in [
            ("auto", Devices::Auto),
            ("cpu", Devices::Cpu(1)),
            ("cpu,cpu,cpu", Devices::Cpu(3)),
            ("cuda", Devices::Cuda(vec![0])),
            ("cuda:3", Devices::Cuda(vec![3])),
            ("cuda:1,cuda:0", Devices::Cuda(vec![1, 0])),
            ("cuda,cuda:0", Devices::Cuda(vec![0, 0])),
            (
                "cuda:0,cuda:1,cuda:0,cuda:1",
                Devices::Cuda(vec![0, 1, 0, 1]),
            ),
            ("cuda:all", Devices::AllCuda),
            ("emulator", Devices::Emulator(1)),
            ("emulator,emulator", Devices::Emulator(2)),
        ] {
            assert_eq!(text.parse(), Ok(devices));
        }
        let wrong = "gpu|cuda:|cuda:x|cuda:-1|cpu:0|cpu,cuda|cpu,|auto,cpu|cuda:all,cuda:0|cuda:0,cuda:1,cuda:0";
        for text in [""].into_iter().chain(wrong.split('|')) {
            assert!(text.parse::<Devices>().is_err(), "{text}");
        }
        assert!(["cpu"; 1000].join(",").parse::<Devices>().is_err());
    }

    #[test]
    fn engines_of_a_gpu_are_counted() {
        for (gpus, engines) in [
            (&[3][..], 1),
            (&[0, 1], 1),
            (&[1, 0, 0, 1], 2),
            (&[2; 3], 3),
        ] {
            assert_eq!(engines_of_a_gpu(gpus), engines, "{gpus:?}");
        }
    }

    #[test]
    fn a_command_for_one_device_refuses_several() {
        assert_eq!(only(&[7], "bench").unwrap(), &7);
        let error = only(&[7, 8], "bench").unwrap_err().to_string();
        assert!(error.contains("bench runs on one device"), "{error}");
    }
}
