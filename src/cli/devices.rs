//! `backstitch devices`.

use serde_json::{Value, json};

use super::Outcome;
use crate::backend::cpu::peak::peak_gflops;
use crate::backend::cpu::simd::Isa;
#[cfg(feature = "cuda")]
use crate::backend::cuda::{
    driver::nvidia::{self, Description, Unusable},
    kernels,
};
use crate::error::Result;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints what this machine and this build can compute on.
pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let devices = devices();
    if args.json {
        let described: Vec<&Value> = devices.iter().map(|device| &device.described).collect();
        super::print(&json!({ "devices": described }).to_string())?;
    } else {
        for device in &devices {
            super::print(&device.line)?;
        }
    }
    Ok(Outcome::Done)
}

struct Device {
    line: String,
    described: Value,
}

fn devices() -> Vec<Device> {
    let mut devices = vec![cpu()];
    #[cfg(feature = "cuda")]
    devices.extend(gpus());
    if cfg!(feature = "emulator") {
        devices.push(Device {
            line: "emulator: the kernels of GPUs on the processor, for tests".to_owned(),
            described: json!({ "device": "emulator" }),
        });
    }
    #[cfg(feature = "emulator")]
    if crate::backend::cuda::kernels::NVCC.is_some() {
        devices.push(Device {
            line: "ptx: what nvcc made of the kernels of GPUs, on the processor, for tests"
                .to_owned(),
            described: json!({ "device": "ptx" }),
        });
    }
    devices
}

fn cpu() -> Device {
    let threads = rayon::current_num_threads();
    let isa = Isa::detect().name();
    let gflops = peak_gflops();
    Device {
        line: format!(
            "cpu: {threads} threads, {isa}, {gflops:.0} GFLOP/s in float32 at most (measured)"
        ),
        described: json!({
            "device": "cpu",
            "threads": threads,
            "instructions": isa,
            "peak_gflops": gflops,
        }),
    }
}

/// The machine's GPUs, and why they cannot be used if so.
#[cfg(feature = "cuda")]
fn gpus() -> Vec<Device> {
    let why_not = nvidia::usable().err();
    let found: Vec<Device> = (0..)
        .map_while(|ordinal| nvidia::describe(ordinal).ok())
        .map(|gpu| {
            let own = gpu.check_generation().err();
            describe(&gpu, why_not.as_ref().or(own.as_ref()))
        })
        .collect();
    match why_not {
        Some(why) if found.is_empty() => vec![Device {
            line: format!("cuda: {why}; {}", way_out(&why)),
            described: json!({ "device": "cuda", "usable": false, "why": why.to_string() }),
        }],
        _ => found,
    }
}

#[cfg(feature = "cuda")]
fn describe(gpu: &Description, why_not: Option<&Unusable>) -> Device {
    let [major, minor] = gpu.compute_capability;
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let mut line = format!(
        "cuda:{}: {}, compute capability {major}.{minor}, {} multiprocessors, {:.1} of {:.1} GB free, \
         driver of CUDA {}",
        gpu.ordinal,
        gpu.name,
        gpu.multiprocessors,
        gigabytes(gpu.free_memory),
        gigabytes(gpu.memory),
        gpu.driver,
    );
    let mut described = json!(gpu);
    described["device"] = format!("cuda:{}", gpu.ordinal).into();
    described["usable"] = why_not.is_none().into();
    match why_not {
        Some(why) => {
            line += &format!("; not usable: {why}; {}", way_out(why));
            described["why"] = why.to_string().into();
        }
        None => {
            let nvcc = kernels::NVCC.unwrap_or_default();
            let architectures = kernels::ARCHITECTURES;
            line += &format!("; kernels by nvcc {nvcc} for sm_{architectures}");
            described["nvcc"] = nvcc.into();
            described["architectures"] = architectures.into();
        }
    }
    Device { line, described }
}

#[cfg(feature = "cuda")]
fn way_out(why: &Unusable) -> &'static str {
    match why {
        Unusable::NoDriver | Unusable::NoGpu => "with an NVIDIA GPU, install NVIDIA's driver",
        Unusable::OldDriver { .. } => "install a newer driver",
        Unusable::OldGpu { .. } => "name another GPU, or the processor, with --device",
        Unusable::NoKernels => "install nvcc (scripts/install-nvcc.sh does) and build again",
        Unusable::Failed(_) => "nvidia-smi may say more",
    }
}
