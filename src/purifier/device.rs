//! The devices that a user names, and the backends that compute on them.

use std::str::FromStr;

use crate::backend::cpu::CpuBackend;
#[cfg(feature = "cuda")]
use crate::backend::cuda::driver::nvidia::{self, Unusable};
#[cfg(any(feature = "cuda", feature = "emulator"))]
use crate::backend::cuda::{CudaBackend, driver};
use crate::backend::{Backend, Precision};
use crate::error::{Error, Result};

/// One device, or several of one kind.
///
/// As text: `auto`, `cpu`, `cuda` (the first GPU), `cuda:N`, `cuda:all`, `emulator`, `ptx`; or several of one kind
/// with commas, such as `cuda:0,cuda:1` or `cpu,cpu`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The first GPU, if there is one that this build has kernels for, else the processor.
    #[default]
    Auto,
    /// This number of devices that share the processor's threads.
    Cpu(usize),
    /// A device on the GPU of each of these numbers. Each GPU must be named equally often: if each is named twice,
    /// one of its devices computes while the host works on the other's pictures.
    Cuda(Vec<usize>),
    /// Every GPU that this build can use.
    AllCuda,
    /// This number of emulators, which run the GPU's kernels on the processor, for tests.
    Emulator(usize),
    /// This number of devices that interpret on the processor what nvcc made of the GPU's kernels, for tests.
    Ptx(usize),
}

/// A longer list of devices is taken for a mistake.
const MAX_DEVICES: usize = 64;

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => return Ok(Device::Auto),
            "cuda:all" => return Ok(Device::AllCuda),
            _ => {}
        }
        let names: Vec<&str> = text.split(',').collect();
        let count = names.len();
        if count > MAX_DEVICES {
            return Err(Error::invalid(format!(
                "name at most {MAX_DEVICES} devices"
            )));
        }
        let all = |name| names.iter().all(|other| *other == name);
        if all("cpu") {
            return Ok(Device::Cpu(count));
        }
        if all("emulator") {
            return Ok(Device::Emulator(count));
        }
        if all("ptx") {
            return Ok(Device::Ptx(count));
        }
        let ordinal = |name: &&str| match *name {
            "cuda" => Some(0),
            _ => name.strip_prefix("cuda:")?.parse().ok(),
        };
        let Some(ordinals) = names.iter().map(ordinal).collect::<Option<Vec<usize>>>() else {
            return Err(Error::invalid(
                "write auto, cpu, cuda (the first GPU), cuda:N, cuda:all, emulator or ptx; or several of \
                 one kind, with commas",
            ));
        };
        let engines = engines_per_gpu(&ordinals);
        match (ordinals.iter()).all(|&gpu| times(gpu, &ordinals) == engines) {
            true => Ok(Device::Cuda(ordinals)),
            false => Err(Error::invalid("name each GPU equally often")),
        }
    }
}

/// How often a list of GPUs names this one.
fn times(gpu: usize, ordinals: &[usize]) -> usize {
    ordinals.iter().filter(|&&other| other == gpu).count()
}

/// Devices on each GPU, if the list names all GPUs equally often; at least 1.
fn engines_per_gpu(ordinals: &[usize]) -> usize {
    ordinals.first().map_or(1, |&gpu| times(gpu, ordinals))
}

/// Devices of one kind, ready to use.
#[derive(Clone, Debug)]
pub struct OpenDevices {
    /// The backend of each device; at least one.
    pub backends: Backends,
    /// Bytes of memory for each device; `None` for all that are free.
    pub memory: Option<u64>,
}

/// Backends of one kind.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Backends {
    /// On the processor.
    Cpu(Vec<CpuBackend>),
    /// On GPUs, or on what runs their kernels in their place.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    Cuda(Vec<CudaBackend>),
}

impl OpenDevices {
    /// The devices' names.
    pub fn names(&self) -> Vec<String> {
        match &self.backends {
            Backends::Cpu(backends) => backends.iter().map(Backend::name).collect(),
            #[cfg(any(feature = "cuda", feature = "emulator"))]
            Backends::Cuda(backends) => backends.iter().map(Backend::name).collect(),
        }
    }

    /// Refuses several devices, for a `command` that runs on one.
    ///
    /// # Errors
    /// There are several.
    pub fn only(self, command: &str) -> Result<OpenDevices> {
        match self.names().len() {
            1 => Ok(self),
            count => {
                let several = format!("{command} runs on one device, not on {count}");
                Err(Error::invalid(several).hint("name one with `device`"))
            }
        }
    }
}

impl Device {
    /// Opens the devices. DIP networks compute in `precision`. Devices in the machine's main memory share `memory`
    /// bytes, or what is free if that is `None`.
    ///
    /// # Errors
    /// A device does not exist, or this build cannot use it; `memory` is given for GPUs, which have memory of
    /// their own.
    pub fn open(&self, precision: Precision, memory: Option<u64>) -> Result<OpenDevices> {
        match self {
            Device::Cpu(0) | Device::Emulator(0) | Device::Ptx(0) => Err(none()),
            Device::Cuda(ordinals) if ordinals.is_empty() => Err(none()),
            Device::Auto if gpu_is_usable() => open_gpus(&[0], precision, memory),
            Device::Auto => open_cpu(1, precision, memory),
            Device::Cpu(count) => open_cpu(*count, precision, memory),
            Device::Cuda(ordinals) => open_gpus(ordinals, precision, memory),
            Device::AllCuda => open_gpus(&all_gpus()?, precision, memory),
            Device::Emulator(count) => open_emulator(*count, precision, memory),
            Device::Ptx(count) => open_ptx(*count, precision, memory),
        }
    }
}

/// The error about a list of devices that is empty.
pub(super) fn none() -> Error {
    Error::option("device", "must be one at least")
}

fn open_cpu(count: usize, precision: Precision, memory: Option<u64>) -> Result<OpenDevices> {
    let backend = CpuBackend::FLOAT32.with_precision(precision);
    Ok(OpenDevices {
        backends: Backends::Cpu(vec![backend; count]),
        memory: share_of_memory(count, memory),
    })
}

/// Bytes for each of `count` devices in the machine's main memory: an equal share of the user's limit or, if
/// there is none, of what is free.
fn share_of_memory(count: usize, memory: Option<u64>) -> Option<u64> {
    let all = match (memory, count) {
        (None, 1) => None,
        (None, _) => CpuBackend::FLOAT32.free_bytes(),
        (allowed, _) => allowed,
    };
    all.map(|bytes| bytes / count as u64)
}

/// Whether this machine has a GPU that this build can use. If it has only others, says why they are not used.
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
fn open_gpus(ordinals: &[usize], precision: Precision, memory: Option<u64>) -> Result<OpenDevices> {
    if memory.is_some() {
        return Err(Error::option(
            "memory",
            "is for the processor: a GPU's plan follows its own memory",
        )
        .hint("lower `capacity` to use less"));
    }
    let devices = ordinals.iter().map(|&gpu| driver::Device::nvidia(gpu));
    let devices: Vec<driver::Device> = devices.collect::<Result<_, _>>()?;
    let share = match engines_per_gpu(ordinals) {
        1 => None,
        engines => {
            let least_free = devices.iter().filter_map(driver::Device::free_bytes).min();
            least_free.map(|bytes| bytes / engines as u64)
        }
    };
    Ok(on_cuda(devices, precision, share))
}

#[cfg(not(feature = "cuda"))]
fn open_gpus(ordinals: &[usize], _: Precision, _: Option<u64>) -> Result<OpenDevices> {
    Err(without_gpus(&format!("cuda:{}", ordinals[0])))
}

#[cfg(not(feature = "cuda"))]
fn without_gpus(device: &str) -> Error {
    Error::device(format!("{device}: this build is without GPUs"))
        .hint("build it with the feature cuda, or use `device=cpu`")
}

#[cfg(feature = "emulator")]
fn open_emulator(count: usize, precision: Precision, memory: Option<u64>) -> Result<OpenDevices> {
    use driver::emulator::{Emulator, Options};
    let device = |_| Ok(Emulator::new(Options::default())?.device());
    let devices = (0..count).map(device).collect::<Result<Vec<_>>>()?;
    Ok(on_cuda(devices, precision, share_of_memory(count, memory)))
}

#[cfg(feature = "emulator")]
fn open_ptx(count: usize, precision: Precision, memory: Option<u64>) -> Result<OpenDevices> {
    let devices = (0..count).map(|_| driver::Device::ptx());
    let devices = devices.collect::<Result<Vec<_>, _>>()?;
    Ok(on_cuda(devices, precision, share_of_memory(count, memory)))
}

#[cfg(not(feature = "emulator"))]
fn open_emulator(_: usize, _: Precision, _: Option<u64>) -> Result<OpenDevices> {
    Err(Error::device("emulator: this build is without it")
        .hint("build it with the feature emulator, or use `device=cpu`"))
}

#[cfg(not(feature = "emulator"))]
fn open_ptx(_: usize, _: Precision, _: Option<u64>) -> Result<OpenDevices> {
    Err(Error::device("ptx: this build is without it")
        .hint("build it with the feature emulator, or use `device=cpu`"))
}

#[cfg(any(feature = "cuda", feature = "emulator"))]
fn on_cuda(devices: Vec<driver::Device>, precision: Precision, memory: Option<u64>) -> OpenDevices {
    let backends = devices
        .into_iter()
        .map(|device| CudaBackend::new(device).with_precision(precision));
    OpenDevices {
        backends: Backends::Cuda(backends.collect()),
        memory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        for (text, device) in [
            ("auto", Device::Auto),
            ("cpu", Device::Cpu(1)),
            ("cpu,cpu,cpu", Device::Cpu(3)),
            ("cuda", Device::Cuda(vec![0])),
            ("cuda:3", Device::Cuda(vec![3])),
            ("cuda:1,cuda:0", Device::Cuda(vec![1, 0])),
            ("cuda,cuda:0", Device::Cuda(vec![0, 0])),
            (
                "cuda:0,cuda:1,cuda:0,cuda:1",
                Device::Cuda(vec![0, 1, 0, 1]),
            ),
            ("cuda:all", Device::AllCuda),
            ("emulator", Device::Emulator(1)),
            ("emulator,emulator", Device::Emulator(2)),
            ("ptx", Device::Ptx(1)),
        ] {
            assert_eq!(text.parse::<Device>().unwrap(), device);
        }
        let wrong = "gpu|cuda:|cuda:x|cuda:-1|cpu:0|cpu,cuda|cpu,|auto,cpu|cuda:all,cuda:0|cuda:0,cuda:1,cuda:0";
        for text in [""].into_iter().chain(wrong.split('|')) {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
        assert!(["cpu"; 1000].join(",").parse::<Device>().is_err());
    }

    #[test]
    fn engines_are_counted_per_gpu() {
        for (gpus, engines) in [
            (&[3][..], 1),
            (&[0, 1], 1),
            (&[1, 0, 0, 1], 2),
            (&[2; 3], 3),
        ] {
            assert_eq!(engines_per_gpu(gpus), engines, "{gpus:?}");
        }
    }

    #[test]
    fn a_command_for_one_device_refuses_several() {
        let open = |count| open_cpu(count, Precision::Float32, None).unwrap();
        assert_eq!(open(1).only("bench").unwrap().names().len(), 1);
        let error = open(2).only("bench").unwrap_err().to_string();
        assert!(
            error.contains("bench runs on one device, not on 2"),
            "{error}"
        );
    }
}
