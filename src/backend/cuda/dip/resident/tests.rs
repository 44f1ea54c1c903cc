use super::*;
use crate::backend::cuda::CudaBackend;
use crate::backend::cuda::dip::tests::{Reference, assert_close, key, load, results};
use crate::backend::cuda::dip::{CudaDip, StepMode};
use crate::backend::cuda::driver::test_devices;
use crate::backend::reference::ReferenceDip;
use crate::backend::{DipEngine, ImageShape};
use crate::dip::Preset;

fn shape(height: usize, width: usize) -> ImageShape {
    ImageShape {
        channels: 3,
        height,
        width,
    }
}

/// A network of its own kind for each of many numbers.
struct Case {
    spec: NetSpec,
    shape: ImageShape,
}

impl Case {
    fn new(seed: u64) -> Case {
        // Numbers below a limit, drawn from the seed.
        let mut draws = vec![0.0; 32];
        key(seed).uniform(crate::random::Purpose::Parameters, 0, 32, |i, v| {
            draws[i] = v
        });
        let mut draws = draws.into_iter();
        let mut below = |n: usize| (draws.next().unwrap() * n as f32) as usize;
        let levels = 1 + seed as usize % 3;
        let mut channels = |least: usize, most: usize| -> Vec<usize> {
            (0..levels)
                .map(|_| least + below(most + 1 - least))
                .collect()
        };
        let (down, up, skip) = (channels(1, 6), channels(1, 6), channels(0, 2));
        // The deepest plane has at least 4 pixels.
        let side = |n: usize| (2 + n) << levels;
        let (height, width) = (side(below(3)), side(below(4)));
        let spec = NetSpec {
            input_depth: 1 + below(3),
            output_channels: 3,
            down,
            up,
            skip,
            upsample: [Upsample::Nearest, Upsample::Bilinear][below(2)],
            padding: [Padding::Zero, Padding::Reflect][below(2)],
            // Numbers whose derivatives are mostly rounding may be moved the other way, by so much.
            learning_rate: 0.001,
            optimize_input: below(2) == 0,
            jitter: [0.0, 0.03][below(2)],
            averaging: [0.0, 0.5][below(2)],
        };
        let shape = shape(height, width);
        Case { spec, shape }
    }

    fn engine(&self, backend: &CudaBackend, capacity: usize) -> CudaDip {
        let ImageShape { height, width, .. } = self.shape;
        CudaDip::with_mode(
            backend,
            &self.spec,
            height,
            width,
            capacity,
            StepMode::Resident,
        )
        .unwrap()
    }
}

#[test]
fn iterations_are_the_references_for_networks_of_all_kinds() {
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        for seed in 0..12 {
            let case = Case::new(seed);
            let ImageShape { height, width, .. } = case.shape;
            let mut reference = ReferenceDip::new(&case.spec, height, width, 3).unwrap();
            let mut engine = case.engine(&backend, 3);
            // Slot 2 starts an iteration later, slot 1 is free.
            for (slot, seed) in [(0, 3), (2, 4)] {
                load(&Reference, &mut reference, case.shape, slot, seed);
                load(&backend, &mut engine, case.shape, slot, seed);
                reference.run(1).unwrap();
                engine.run(1).unwrap();
                assert_close(&backend, &mut engine, &mut reference, case.shape, slot);
                let want = reference.gradients(slot).unwrap();
                let got = engine.gradients(slot).unwrap();
                let size = want.iter().fold(0.0_f64, |size, v| size.max(v.abs()));
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let d = (got - want).abs();
                    assert!(d < 1e-4 * size, "{:?}: {i}: {got} for {want}", case.spec);
                }
            }
            reference.run(2).unwrap();
            engine.run(2).unwrap();
            for slot in [0, 2] {
                assert_close(&backend, &mut engine, &mut reference, case.shape, slot);
            }
        }
    }
}

#[test]
fn launches_of_any_length_leave_the_same() {
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        for seed in [1, 4] {
            let case = Case::new(seed);
            let mut one = case.engine(&backend, 2);
            let mut many = case.engine(&backend, 2);
            for engine in [&mut one, &mut many] {
                load(&backend, engine, case.shape, 1, 7);
            }
            one.run(5).unwrap();
            for rounds in [1, 3, 1] {
                many.run(rounds).unwrap();
            }
            assert_eq!(
                results(&backend, &mut one, case.shape, 1),
                results(&backend, &mut many, case.shape, 1)
            );
        }
    }
}

#[test]
fn plans_are_what_the_presets_need() {
    const KIB: u32 = 1024;
    let plan = |preset: Preset, limit| ResidentPlan::new(&preset.spec(3), 32, 32, limit);
    // Three blocks of `tiles` on a multiprocessor of compute capability 9.0, one where there are 99 KiB,
    // with everything inside.
    let large = plan(Preset::Tiles, 227 * KIB).unwrap();
    assert_eq!((large.threads, large.moments_at), (256, NOWHERE));
    assert!(3 * (4 * large.floats + 1024) <= 228 * 1024);
    let small = plan(Preset::Tiles, 99 * KIB).unwrap();
    assert!(small.threads == 768 && small.moments_at != NOWHERE && small.target_at != NOWHERE);
    let cifar = plan(Preset::Cifar, 227 * KIB).unwrap();
    assert!(cifar.threads == 768 && cifar.target_at != NOWHERE);
    // What does not fit is refused, at once where it is absurd.
    assert!(plan(Preset::Cifar, 99 * KIB).is_none());
    assert!(ResidentPlan::new(&Preset::Wide.spec(3), 1 << 16, 1 << 16, 227 * KIB).is_none());
}

/// The claim that the resident step is for: between the first and the last iteration of a launch, no
/// activation leaves the chip.
#[cfg(feature = "emulator")]
#[test]
fn an_iteration_moves_a_hundredth_of_the_bytes() {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    let emulator = Emulator::new(Options::default()).unwrap();
    let backend = CudaBackend::new(emulator.device());
    let spec = Preset::Tiles.spec(3);
    let shape = shape(32, 32);
    let bytes = [(StepMode::OpByOp, 2), (StepMode::Resident, 25)].map(|(mode, iterations)| {
        let mut engine = CudaDip::with_mode(&backend, &spec, 32, 32, 1, mode).unwrap();
        load(&backend, &mut engine, shape, 0, 1);
        emulator.take_counts();
        engine.run(iterations).unwrap();
        let counts = emulator.take_counts();
        let bytes = counts
            .values()
            .map(|count| count.done.global_read + count.done.global_written);
        bytes.sum::<u64>() as f64 / f64::from(iterations)
    });
    assert!(bytes[1] <= 0.01 * bytes[0], "{bytes:?}");
}

/// On a chip of little shared memory, `cifar` runs operation by operation.
#[cfg(feature = "emulator")]
#[test]
fn what_does_not_fit_runs_operation_by_operation() {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    let options = Options {
        shared_limit: 99 * 1024,
        ..Options::default()
    };
    let backend = CudaBackend::new(Emulator::new(options).unwrap().device());
    let mode = |preset: Preset| {
        let engine = CudaDip::new(&backend, &preset.spec(3), 32, 32, 1);
        engine.unwrap().step_mode()
    };
    assert_eq!(mode(Preset::Tiles), StepMode::Resident);
    assert_eq!(mode(Preset::Cifar), StepMode::OpByOp);
    let spec = Preset::Cifar.spec(3);
    let forced = CudaDip::with_mode(&backend, &spec, 32, 32, 1, StepMode::Resident);
    let refused = forced.map(drop).unwrap_err().to_string();
    assert!(refused.contains("101376 bytes"), "{refused}");
}

#[cfg(feature = "emulator")]
#[test]
fn structs_have_the_kernels_layout() {
    use super::plan::step::Map;
    use crate::backend::cuda::driver::{assert_mirrored, mirror};
    use crate::backend::cuda::kernels::resident;
    let mirrors = [mirror::<Map>(), mirror::<Step>(), mirror::<ResidentArgs>()];
    assert_mirrored(&[resident::LAYOUTS], &mirrors);
}
