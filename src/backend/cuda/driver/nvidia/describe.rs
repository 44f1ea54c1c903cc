//! The machine's GPUs, and why there are none to use.

use std::ffi::c_int;

use cudarc::driver::result::{self, DriverError as Refusal};
use cudarc::driver::sys;
use serde::Serialize;

use super::super::profile::Peak;
use super::context::{Context, explain};
use crate::backend::cuda::kernels;

/// The oldest driver that has all the functions that are called here, as a version of CUDA.
const OLDEST_DRIVER: Cuda = Cuda {
    major: 12,
    minor: 8,
};

/// The oldest chips that the kernels run on: they copy to shared memory without waiting and multiply in bfloat16.
const OLDEST_CAPABILITY: [u32; 2] = [8, 0];

/// A version of CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Cuda {
    pub major: u32,
    pub minor: u32,
}

impl std::fmt::Display for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why no GPU of this machine can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("no CUDA driver on this machine")]
    NoDriver,

    /// It lacks functions, or cannot load what this build's compiler made.
    #[error("the driver is CUDA {has}'s; this build needs that of CUDA {needs} or later")]
    OldDriver { has: Cuda, needs: Cuda },

    #[error("the driver finds no GPU")]
    NoGpu,

    /// The kernels are not for its generation.
    #[error(
        "{name} has compute capability {}.{}, and the kernels need {}.{} or later",
        .capability[0], .capability[1], OLDEST_CAPABILITY[0], OLDEST_CAPABILITY[1]
    )]
    OldGpu { name: String, capability: [u32; 2] },

    /// The program was built without nvcc.
    #[error("this build has no kernels for GPUs")]
    NoKernels,

    /// What the driver says.
    #[error("{0}")]
    Failed(String),
}

impl From<Refusal> for Unusable {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal(sys::CUresult::CUDA_ERROR_NO_DEVICE) => Unusable::NoGpu,
            refusal => Unusable::Failed(explain(refusal)),
        }
    }
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// Counted from 0.
    pub ordinal: usize,
    pub name: String,
    /// Major and minor number.
    pub compute_capability: [u32; 2],
    /// Bytes.
    pub memory: u64,
    /// Bytes that nobody uses now.
    pub free_memory: u64,
    pub multiprocessors: u32,
    /// Dynamic shared memory of a block at most, in bytes.
    pub shared_limit: u32,
    /// Of the multiprocessors at most, in hertz; `None` where the driver does not say.
    pub clock: Option<f64>,
    /// Of the memory's bus, in bytes a second; `None` where the driver does not say.
    pub bandwidth: Option<f64>,
    /// The newest CUDA that the driver knows.
    pub driver: Cuda,
}

/// The driver's version, once it is loaded and ready.
fn driver() -> Result<Cuda, Unusable> {
    // SAFETY: only tries to load the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unusable::NoDriver);
    }
    let mut version: c_int = 0;
    // SAFETY: writes the number; needs no initialization.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    // As in 12080 for 12.8.
    let has = Cuda {
        major: version as u32 / 1000,
        minor: version as u32 % 1000 / 10,
    };
    if has < OLDEST_DRIVER {
        return Err(Unusable::OldDriver {
            has,
            needs: OLDEST_DRIVER,
        });
    }
    result::init()?;
    Ok(has)
}

/// How many GPUs this build can use on this machine, at least one; or why none.
pub fn usable() -> Result<usize, Unusable> {
    let has = driver()?;
    let count = result::device::get_count()?;
    if count <= 0 {
        return Err(Unusable::NoGpu);
    }
    let version = kernels::NVCC.ok_or(Unusable::NoKernels)?;
    // A driver loads what any compiler of its major version made.
    let compiler = version.split('.').next().and_then(|n| n.parse().ok());
    let needs = Cuda {
        major: compiler.unwrap_or(0),
        minor: 0,
    };
    if has.major < needs.major {
        return Err(Unusable::OldDriver { has, needs });
    }
    // One that the kernels run on is enough.
    let checks = (0..count).map(|ordinal| {
        let device = result::device::get(ordinal)?;
        check_generation(
            &result::device::get_name(device)?,
            compute_capability(device)?,
        )
    });
    let any = checks.reduce(Result::or);
    any.expect("there is a GPU").map(|()| count as usize)
}

/// Refuses a chip that the kernels do not run on.
fn check_generation(name: &str, capability: [u32; 2]) -> Result<(), Unusable> {
    match capability < OLDEST_CAPABILITY {
        true => Err(Unusable::OldGpu {
            name: name.to_owned(),
            capability,
        }),
        false => Ok(()),
    }
}

/// Major and minor number.
fn compute_capability(device: sys::CUdevice) -> Result<[u32; 2], Refusal> {
    use sys::CUdevice_attribute as A;
    Ok([
        attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ])
}

fn attribute(device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> Result<u32, Refusal> {
    // SAFETY: the device is one that `result::device::get` gave.
    let value = unsafe { result::device::get_attribute(device, attribute) };
    value.map(|value| u32::try_from(value).unwrap_or(0))
}

/// How many GPUs this build can use on this machine; [`usable`] says why there are none.
pub fn device_count() -> usize {
    usable().unwrap_or(0)
}

/// GPU number `ordinal`, whether this build has kernels for it or not.
///
/// # Errors
/// There is none of this number; the driver's.
pub fn describe(ordinal: usize) -> Result<Description, Unusable> {
    let driver = driver()?;
    let ordinal_there = c_int::try_from(ordinal).map_err(|_| Unusable::NoGpu)?;
    if ordinal_there >= result::device::get_count()? {
        return Err(Unusable::NoGpu);
    }
    let device = result::device::get(ordinal_there)?;
    let attribute = |name| attribute(device, name);
    use sys::CUdevice_attribute as A;
    // In kHz; zero where the driver does not say.
    let clock = 1e3 * f64::from(attribute(A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?);
    let memory_clock = 1e3 * f64::from(attribute(A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?);
    let bus = attribute(A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
    Ok(Description {
        ordinal,
        name: result::device::get_name(device)?,
        compute_capability: compute_capability(device)?,
        // SAFETY: the device is one.
        memory: unsafe { result::device::total_mem(device) }? as u64,
        free_memory: free_memory(device)?,
        multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1),
        shared_limit: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        clock: (clock > 0.0).then_some(clock),
        bandwidth: bandwidth(memory_clock, bus),
        driver,
    })
}

/// Of a bus of so many bits that moves two words a clock, in bytes a second.
fn bandwidth(clock: f64, bus: u32) -> Option<f64> {
    let bandwidth = 2.0 * clock * f64::from(bus) / 8.0;
    (bandwidth > 0.0).then_some(bandwidth)
}

/// Bytes that are free on a device, asked in its primary context.
fn free_memory(device: sys::CUdevice) -> Result<u64, Refusal> {
    let before = result::ctx::get_current()?;
    let context = Context::retain(device)?;
    let free = context.enter().and_then(|()| result::mem_get_info());
    // SAFETY: the thread's own context of before, or null for none.
    unsafe { result::ctx::set_current(before.unwrap_or(std::ptr::null_mut())) }?;
    free.map(|(free, _)| free as u64)
}

impl Description {
    /// Refuses a chip that the kernels do not run on.
    pub fn check_generation(&self) -> Result<(), Unusable> {
        check_generation(&self.name, self.compute_capability)
    }

    /// What it can do at most: from its highest clock, and what its generation's multiprocessors do in a clock
    /// (CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions"; the tensor cores by
    /// the white papers of A100, H100 and B200).
    pub fn peak(&self) -> Peak {
        let (lanes, matrix) = match self.compute_capability {
            [8, 0] => (Some(64), Some(1024)),
            [8, 6..=9] => (Some(128), None),
            [9, 0] => (Some(128), Some(2048)),
            [10, 0] => (Some(128), Some(4096)),
            [10 | 12, _] => (Some(128), None),
            _ => (None, None),
        };
        let rate = |in_a_clock: Option<u32>| {
            let clock = self.clock? * f64::from(self.multiprocessors);
            Some(clock * f64::from(in_a_clock?))
        };
        Peak {
            bytes: self.bandwidth,
            multiply_adds: rate(lanes),
            matrix_multiply_adds: rate(matrix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NVIDIA's A100 of 40 GB: 1,555 GB/s, 19.5 TFLOP/s in float32, 312 in bfloat16.
    #[test]
    fn peaks_are_the_published_ones() {
        let a100 = Description {
            ordinal: 0,
            name: "NVIDIA A100-SXM4-40GB".to_owned(),
            compute_capability: [8, 0],
            memory: 40 << 30,
            free_memory: 39 << 30,
            multiprocessors: 108,
            shared_limit: 163 * 1024,
            clock: Some(1.41e9),
            bandwidth: bandwidth(1.215e9, 5120),
            driver: OLDEST_DRIVER,
        };
        let peak = a100.peak();
        let close = |got: Option<f64>, want: f64| (got.unwrap() / want - 1.0).abs() < 2e-3;
        assert!(close(peak.bytes, 1555e9));
        assert!(close(peak.multiply_adds, 19.5e12 / 2.0));
        assert!(close(peak.matrix_multiply_adds, 312e12 / 2.0));
        let unknown = Description {
            compute_capability: [99, 0],
            bandwidth: bandwidth(0.0, 5120),
            ..a100
        };
        assert_eq!(unknown.peak(), Peak::default());
    }

    #[test]
    fn chips_before_8_0_are_refused_by_name() {
        let check = |capability| check_generation("Tesla T4", capability);
        assert!(check([8, 0]).is_ok() && check([12, 1]).is_ok());
        let refusal = check([7, 5]).unwrap_err().to_string();
        let said = "Tesla T4 has compute capability 7.5, and the kernels need 8.0 or later";
        assert_eq!(refusal, said);
    }

    #[test]
    fn gpus_are_described_or_it_is_said_why_there_are_none() {
        match usable() {
            Ok(count) => {
                let gpus: Vec<_> = (0..count)
                    .map(|ordinal| describe(ordinal).unwrap())
                    .collect();
                assert!(gpus.iter().all(|gpu| gpu.free_memory <= gpu.memory));
                assert_eq!(describe(count), Err(Unusable::NoGpu));
            }
            Err(why) => {
                let error = super::super::Device::nvidia(0).unwrap_err().to_string();
                assert!(error.contains(&why.to_string()), "{error}");
            }
        }
    }
}
