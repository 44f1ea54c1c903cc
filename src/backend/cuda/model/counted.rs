//! What kernels do in an iteration, counted on the emulator and, where the build had nvcc, on the interpreter of
//! what it made of them.

use std::collections::BTreeMap;

use super::{Chip, Demand};
use crate::backend::cuda::CudaBackend;
use crate::backend::cuda::dip::{CudaDip, StepMode};
use crate::backend::cuda::driver::Device;
use crate::backend::cuda::driver::emulator::{Counts, Emulator, Options};
use crate::backend::cuda::driver::ptx::{IssuedByKernel, Metered};
use crate::backend::cuda::kernels::uses::uses;
use crate::backend::cuda::kernels::{MODULES, NVCC};
use crate::backend::{At, DipEngine, ImageOps, ImageShape, Instance, Precision};
use crate::dip::{NetSpec, Preset};
use crate::error::{Error, Result};
use crate::random::RandomKey;

/// Side of the picture that image-sized presets are modeled for, in pixels.
const PICTURE: usize = 224;
/// Of their blocks, the emulator runs one in so many, and the interpreter, which is slower, fewer yet.
const SAMPLE: u32 = 16;
const PTX_SAMPLE: u32 = 8 * SAMPLE;

/// Iterations that the defense runs between probes by default: a launch of the resident step.
const PROBE_INTERVAL: u32 = 20;

/// The ways to run an iteration in float32.
const OP_BY_OP: (StepMode, Precision) = (StepMode::OpByOp, Precision::Float32);
const RESIDENT: (StepMode, Precision) = (StepMode::Resident, Precision::Float32);

/// What the kernels do in one iteration of one instance. All of it grows with the number of instances,
/// launches excepted.
#[derive(Clone, Debug)]
pub(crate) struct Iteration {
    /// How the engine runs it.
    pub mode: &'static str,
    /// Side of the instance's picture.
    pub side: usize,
    /// Multiply-adds of the convolutions: of the forward pass, and as many again for either derivative.
    pub convolutions: u64,
    /// By kernel.
    pub kernels: BTreeMap<&'static str, Demand>,
}

impl Iteration {
    /// Seconds that it takes a chip at least, one kernel after another, in a batch that fills the chip.
    pub(crate) fn floor(&self, chip: &Chip) -> f64 {
        let floors = self.kernels.values().map(|kernel| chip.floor(kernel));
        floors.map(|floor| floor.seconds()).sum()
    }

    /// Launches of an iteration of any number of instances.
    pub(crate) fn launches(&self) -> f64 {
        self.kernels.values().map(|kernel| kernel.launches).sum()
    }
}

/// An iteration of a preset's network in each mode that the engine has for it on a chip.
///
/// # Errors
/// The emulator does not run on this processor, or there is no memory.
pub(crate) fn iterations(preset: Preset, chip: &Chip) -> Result<Vec<Iteration>> {
    let (side, sample) = match preset.tile() {
        Some(tile) => (tile, 1),
        None => (PICTURE, SAMPLE),
    };
    let spec = preset.spec(3);
    let options = Options {
        sample,
        shared_limit: (chip.shared_memory - 1) * 1024,
        ..Options::default()
    };
    let one = |mode, iterations, way| -> Result<Iteration> {
        let mut kernels = count(&spec, side, iterations, &options, way)?;
        if NVCC.is_some() {
            let options = Options {
                sample: if sample == 1 { 1 } else { PTX_SAMPLE },
                ..options.clone()
            };
            issued(&mut kernels, chip, &spec, side, iterations, &options, way)?;
        }
        Ok(Iteration {
            mode,
            side,
            convolutions: 3 * spec.multiply_adds(side, side),
            kernels,
        })
    };
    let mut all = vec![one("op by op", 1, OP_BY_OP)?];
    if preset.tile().is_none() {
        all.push(one(
            "op by op, bf16",
            1,
            (StepMode::OpByOp, Precision::Bf16),
        )?);
    } else {
        let emulator = Emulator::new(options.clone())?;
        let way = (StepMode::Auto, Precision::Float32);
        let (_, engine) = engine(emulator.device(), &spec, side, way)?;
        if engine.step_mode() == StepMode::Resident {
            all.push(one("resident", PROBE_INTERVAL, RESIDENT)?);
        }
    }
    Ok(all)
}

/// An engine of one instance of `side × side` pixels.
fn engine(
    device: Device,
    spec: &NetSpec,
    side: usize,
    (mode, precision): (StepMode, Precision),
) -> Result<(CudaBackend, CudaDip)> {
    let backend = CudaBackend::new(device).with_precision(precision);
    let engine = CudaDip::with_mode(&backend, spec, side, side, 1, mode)?;
    Ok((backend, engine))
}

/// Runs `iterations` iterations in one call, for one instance of `side × side` pixels; `loaded` is called before.
fn run(
    device: Device,
    spec: &NetSpec,
    side: usize,
    iterations: u32,
    way: (StepMode, Precision),
    loaded: impl FnOnce(),
) -> Result<()> {
    let (backend, mut engine) = engine(device, spec, side, way)?;
    let shape = ImageShape {
        channels: spec.output_channels,
        height: side,
        width: side,
    };
    let targets = backend.allocate(shape, 1)?;
    engine.load(&[Instance {
        slot: 0,
        target: At::new(&targets, 0),
        key: RandomKey::default(),
    }])?;
    loaded();
    engine.run(iterations)
}

/// What the kernels do in one of `iterations` iterations that run in one call, for one instance of
/// `side × side` pixels.
fn count(
    spec: &NetSpec,
    side: usize,
    iterations: u32,
    options: &Options,
    way: (StepMode, Precision),
) -> Result<BTreeMap<&'static str, Demand>> {
    let emulator = Emulator::new(options.clone())?;
    let loaded = || drop(emulator.take_counts());
    run(emulator.device(), spec, side, iterations, way, loaded)?;
    Ok(demands(&emulator, iterations))
}

/// Adds to the same iteration's demands what warps issue.
fn issued(
    kernels: &mut BTreeMap<&'static str, Demand>,
    chip: &Chip,
    spec: &NetSpec,
    side: usize,
    iterations: u32,
    options: &Options,
    way: (StepMode, Precision),
) -> Result<()> {
    let metered = Metered::new(options)?;
    let loaded = || drop(metered.take_issued());
    run(metered.device(), spec, side, iterations, way, loaded)?;
    add_issued(kernels, chip, metered.take_issued(), iterations)
}

/// Adds what was issued, of one of so many parts, with the clocks of a multiprocessor that holds as many blocks as
/// it can.
fn add_issued(
    kernels: &mut BTreeMap<&'static str, Demand>,
    chip: &Chip,
    all: IssuedByKernel,
    parts: u32,
) -> Result<()> {
    let uses: BTreeMap<_, _> = (MODULES.iter())
        .flat_map(|(module, _)| uses(module.report))
        .collect();
    for ((kernel, shape), issued) in all {
        let key = (kernel.to_owned(), chip.architecture.to_owned());
        let used = uses.get(&key).ok_or_else(|| {
            Error::invalid(format!(
                "this build has no machine code for {} (sm_{}): build without BACKSTITCH_CUDA_ARCHS",
                chip.product, chip.architecture
            ))
        })?;
        let blocks = chip.blocks(shape.threads, used.registers, shape.shared);
        let mut issued = issued.times(1.0 / f64::from(parts));
        issued.clocks /= f64::from(blocks);
        if let Some(demand) = kernels.get_mut(kernel) {
            *demand.issued.get_or_insert_default() += issued;
        }
    }
    Ok(())
}

/// What every kernel did since the emulator was last asked, of one of `parts` equal parts.
pub(crate) fn demands(emulator: &Emulator, parts: u32) -> BTreeMap<&'static str, Demand> {
    let counts = emulator.take_counts().into_iter();
    let demands = counts.map(|(kernel, counts)| (kernel, demand(counts, parts)));
    demands.collect()
}

/// What was counted, of one of so many parts.
fn demand(counts: Counts, parts: u32) -> Demand {
    let done = counts.done;
    let on_chip = done.global_read + done.global_written + done.shared_read + done.shared_written;
    let of_one = |n: u64| n as f64 / f64::from(parts);
    Demand {
        launches: of_one(counts.launches),
        bytes: of_one(counts.needed.bytes),
        on_chip_bytes: of_one(on_chip),
        multiply_adds: of_one(done.multiply_adds),
        matrix_multiply_adds: of_one(done.matrix_multiply_adds),
        issued: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_stands_for_the_whole() {
        let spec = NetSpec {
            skip: vec![2],
            down: vec![3],
            up: vec![4],
            ..Preset::Skip.spec(3)
        };
        let sample = Options {
            sample: 4,
            ..Options::default()
        };
        let whole = count(&spec, 64, 1, &Options::default(), OP_BY_OP).unwrap();
        let sampled = count(&spec, 64, 1, &sample, OP_BY_OP).unwrap();
        assert_eq!(Vec::from_iter(whole.keys()), Vec::from_iter(sampled.keys()));
        for (kernel, whole) in whole {
            let sampled = sampled[kernel];
            assert_eq!(sampled.launches, whole.launches, "{kernel}");
            assert_eq!(sampled.bytes, whole.bytes, "{kernel}");
            for (got, want) in [
                (sampled.multiply_adds, whole.multiply_adds),
                (sampled.on_chip_bytes, whole.on_chip_bytes),
            ] {
                // Blocks at the edges and those of the last channels do less.
                assert!((got - want).abs() <= 0.1 * want, "{kernel}: {got}, {want}");
            }
        }
    }

    #[test]
    fn an_iteration_takes_its_kernels_one_after_another() {
        let chip = Chip::named("a100").unwrap();
        let by_memory = Demand {
            launches: 2.0,
            bytes: 2039e3,
            ..Demand::default()
        };
        let by_matrices = Demand {
            launches: 0.5,
            matrix_multiply_adds: 156e6,
            ..Demand::default()
        };
        let iteration = Iteration {
            mode: "",
            side: 1,
            convolutions: 1,
            kernels: BTreeMap::from([("a", by_memory), ("b", by_matrices)]),
        };
        assert!((iteration.floor(chip) / 2e-6 - 1.0).abs() < 1e-12);
        assert_eq!(iteration.launches(), 2.5);
    }

    #[test]
    fn every_preset_with_tiles_has_a_floor() {
        let chip = Chip::named("h100").unwrap();
        for iteration in iterations(Preset::Tiles, chip).unwrap() {
            // Its arithmetic alone, at the chip's peak.
            let least = 2.0 * iteration.convolutions as f64 / (1e12 * chip.float32);
            let floor = iteration.floor(chip);
            assert!(
                least * 0.9 < floor && floor < 1e3 * least,
                "{}: {floor}",
                iteration.mode
            );
        }
    }

    #[test]
    fn modes_are_those_that_the_chips_memory_allows() {
        let modes = |chip: &str| -> Vec<&str> {
            let chip = Chip::named(chip).unwrap();
            let iterations = iterations(Preset::Cifar, chip).unwrap();
            iterations.iter().map(|iteration| iteration.mode).collect()
        };
        assert_eq!(modes("h100"), ["op by op", "resident"]);
        assert_eq!(modes("l4"), ["op by op"]);
    }

    /// Three levels at 8×8: all of what a thread asks of memory and of the multiply-adds is counted.
    #[test]
    fn counts_are_those_of_one_iteration() {
        let spec = Preset::Tiles.spec(3);
        let once = count(&spec, 8, 1, &Options::default(), OP_BY_OP).unwrap();
        let thrice = count(&spec, 8, 3, &Options::default(), OP_BY_OP).unwrap();
        assert_eq!(once, thrice);
        let adam = once["dip_adam"];
        let values = (spec.parameter_count() + 64) as f64;
        assert_eq!(adam.launches, 1.0);
        assert_eq!(adam.bytes, 7.0 * 4.0 * values);
        // And each thread reads the slot and its iterations.
        assert_eq!(adam.on_chip_bytes, 9.0 * 4.0 * values);
        assert_eq!(adam.multiply_adds, 2.0 * values);
    }
}
