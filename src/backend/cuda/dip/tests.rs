mod precision;

use super::*;
use crate::backend::cuda::driver::test_devices;
use crate::backend::host::{HostDevice, HostImages};
use crate::backend::reference::ReferenceDip;
use crate::dip::{Padding, Upsample};
use crate::random::RandomKey;

/// The reference's device.
pub(super) struct Reference;
impl HostDevice for Reference {
    type Number = f64;
}

const SIZE: [usize; 2] = [12, 8];
const SHAPE: ImageShape = ImageShape {
    channels: 3,
    height: SIZE[0],
    width: SIZE[1],
};

/// Two levels, a skip branch in one of them, noise and an average.
fn spec(padding: Padding, optimize_input: bool) -> NetSpec {
    NetSpec {
        input_depth: 2,
        output_channels: 3,
        down: vec![3, 5],
        up: vec![4, 3],
        skip: vec![2, 0],
        upsample: Upsample::Bilinear,
        padding,
        learning_rate: 0.01,
        optimize_input,
        jitter: 0.03,
        averaging: 0.5,
    }
}

pub(super) fn key(seed: u64) -> RandomKey {
    RandomKey {
        seed,
        image: 5,
        tile: 1,
    }
}

/// A picture of numbers in [0, 1).
fn picture(shape: ImageShape, seed: u64) -> Vec<f32> {
    let n = shape.elements();
    let mut pixels = vec![0.0; n];
    key(seed).uniform(crate::random::Purpose::Input, 9, n, |i, v| pixels[i] = v);
    pixels
}

/// Picture `seed` on a device.
pub(super) fn target<B: ImageOps>(backend: &B, shape: ImageShape, seed: u64) -> B::Images {
    let mut images = backend.allocate(shape, 1).unwrap();
    let pixels = picture(shape, seed);
    backend.upload(&pixels, &mut images, 0).unwrap();
    images
}

pub(super) fn load<B: ImageOps, E: DipEngine<Images = B::Images>>(
    backend: &B,
    engine: &mut E,
    shape: ImageShape,
    slot: usize,
    seed: u64,
) {
    let target = target(backend, shape, seed);
    let instance = Instance {
        slot,
        target: At::new(&target, 0),
        key: key(seed),
    };
    engine.load(&[instance]).unwrap();
}

const MODES: [StepMode; 2] = [StepMode::OpByOp, StepMode::Resident];

/// An engine of pictures of [`SIZE`].
fn engine(backend: &CudaBackend, spec: &NetSpec, capacity: usize, mode: StepMode) -> CudaDip {
    let engine = CudaDip::with_mode(backend, spec, SIZE[0], SIZE[1], capacity, mode).unwrap();
    assert_eq!(engine.step_mode(), mode);
    engine
}

/// Everything that an instance is after its iterations.
pub(super) fn results(
    backend: &CudaBackend,
    engine: &mut CudaDip,
    shape: ImageShape,
    slot: usize,
) -> Vec<f64> {
    let mut out = target(backend, shape, 0);
    engine.reconstructions(&[slot], &mut out, 0).unwrap();
    let picture = backend.download(At::new(&out, 0)).unwrap();
    [
        picture.into_iter().map(f64::from).collect(),
        engine.losses(&[slot]).unwrap(),
        engine.parameters(slot).unwrap(),
        engine.gradients(slot).unwrap(),
        engine.input(slot).unwrap(),
    ]
    .concat()
}

/// An instance's picture and loss are the reference's.
pub(super) fn assert_close(
    backend: &CudaBackend,
    engine: &mut CudaDip,
    reference: &mut ReferenceDip,
    shape: ImageShape,
    slot: usize,
) {
    let mut out = target(backend, shape, 0);
    engine.reconstructions(&[slot], &mut out, 0).unwrap();
    let got = backend.download(At::new(&out, 0)).unwrap();
    let mut out: HostImages<f64> = target(&Reference, shape, 0);
    reference.reconstructions(&[slot], &mut out, 0).unwrap();
    // As for PyTorch's numbers (tests/golden_dip.rs): some 1e-5 an iteration.
    for (got, want) in got.iter().zip(out.image(0)) {
        assert!((f64::from(*got) - want).abs() < 1e-4, "{got} for {want}");
    }
    let (got, want) = (engine.losses(&[slot]), reference.losses(&[slot]));
    let (got, want) = (got.unwrap()[0], want.unwrap()[0]);
    assert!((got / want - 1.0).abs() < 1e-4, "{got} for {want}");
}

#[test]
fn iterations_are_the_references() {
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        for (padding, optimize) in [(Padding::Zero, true), (Padding::Reflect, false)] {
            let spec = spec(padding, optimize);
            let [height, width] = SIZE;
            let mut reference = ReferenceDip::new(&spec, height, width, 3).unwrap();
            let mut engine = engine(&backend, &spec, 3, StepMode::OpByOp);
            // Slot 2 starts an iteration later, slot 1 is free.
            for (slot, seed) in [(0, 3), (2, 4)] {
                load(&Reference, &mut reference, SHAPE, slot, seed);
                load(&backend, &mut engine, SHAPE, slot, seed);
                reference.run(1).unwrap();
                engine.run(1).unwrap();
            }
            reference.run(3).unwrap();
            engine.run(3).unwrap();
            for slot in [0, 2] {
                assert_close(&backend, &mut engine, &mut reference, SHAPE, slot);
            }
        }
    }
}

#[test]
fn an_instance_does_not_depend_on_the_others() {
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        let spec = spec(Padding::Zero, true);
        for mode in MODES {
            let mut alone = engine(&backend, &spec, 1, mode);
            load(&backend, &mut alone, SHAPE, 0, 7);
            alone.run(4).unwrap();
            let mut among = engine(&backend, &spec, 4, mode);
            load(&backend, &mut among, SHAPE, 3, 1);
            among.run(2).unwrap();
            load(&backend, &mut among, SHAPE, 1, 7);
            among.run(1).unwrap();
            among.release(&[3]).unwrap();
            load(&backend, &mut among, SHAPE, 0, 9);
            among.run(3).unwrap();
            assert_eq!(
                results(&backend, &mut among, SHAPE, 1),
                results(&backend, &mut alone, SHAPE, 0)
            );
        }
    }
}

/// What the engine has to launch every operation.
fn op_by_op(engine: &CudaDip) -> &OpByOp {
    match &engine.method {
        Method::OpByOp(method) => method,
        Method::Resident(_) => panic!("the engine is resident"),
    }
}

#[test]
fn recorded_iterations_are_iterations() {
    const ITERATIONS: u32 = 2 * MAX_GRAPHS as u32 + 3;
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        let spec = spec(Padding::Reflect, true);
        let new = |capacity| {
            let mut engine = engine(&backend, &spec, capacity, StepMode::OpByOp);
            load(&backend, &mut engine, SHAPE, 0, 7);
            engine
        };
        // More and more instances, then fewer: graphs are forgotten, and made again.
        let mut recorded = new(MAX_GRAPHS + 1);
        for slot in 1..=MAX_GRAPHS {
            recorded.run(1).unwrap();
            load(&backend, &mut recorded, SHAPE, slot, slot as u64);
        }
        recorded.run(2).unwrap();
        assert_eq!(op_by_op(&recorded).graphs.len(), MAX_GRAPHS);
        for slot in (1..=MAX_GRAPHS).rev() {
            recorded.release(&[slot]).unwrap();
            recorded.run(1).unwrap();
        }
        recorded.run(1).unwrap();

        let mut launched = new(1);
        launched.in_use.upload(&[0], 0).unwrap();
        for _ in 0..ITERATIONS {
            launched.launch_iteration(1, op_by_op(&launched)).unwrap();
        }
        launched.slots[0] = Some(ITERATIONS);
        assert_eq!(recorded.slots[0], launched.slots[0]);
        assert_eq!(
            results(&backend, &mut recorded, SHAPE, 0),
            results(&backend, &mut launched, SHAPE, 0)
        );
    }
}

#[test]
fn profiles_measure_every_launch_of_an_iteration() {
    for device in test_devices() {
        let backend = CudaBackend::new(device.clone());
        let spec = spec(Padding::Zero, false);
        let mut engine = engine(&backend, &spec, 2, StepMode::OpByOp);
        load(&backend, &mut engine, SHAPE, 0, 3);
        engine.run(1).unwrap();
        let profiling = device.profile().unwrap();
        let phase = backend.phase("DIP step");
        engine.run(5).unwrap();
        drop(phase);
        let profile = profiling.finish().unwrap();
        let launches = |kernel: &str| {
            let total = profile.totals.iter().find(|total| total.name == kernel);
            total.map_or(0, |total| total.count)
        };
        assert_eq!((launches("dip_adam"), launches("upload")), (5, 1));
        let all: u64 = profile.totals.iter().map(|total| total.count).sum();
        assert_eq!(all, 5 * op_by_op(&engine).graphs[0].1.len() as u64 + 1);
        assert!(profile.totals.iter().all(|total| total.seconds > 0.0));
        let phase = profile.phases[0];
        assert_eq!((phase.name, phase.count), ("DIP step", 1));
        assert!((phase.device_seconds / profile.device_seconds() - 1.0).abs() < 1e-9);
    }
}

/// What the first iterations of `count` instances of a network of one channel took: as small as there is.
#[cfg(feature = "emulator")]
fn launches_of(count: usize) -> u64 {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    let emulator = Emulator::new(Options::default()).unwrap();
    let backend = CudaBackend::new(emulator.device());
    let spec = NetSpec {
        input_depth: 1,
        down: vec![1],
        up: vec![1],
        skip: vec![1],
        ..spec(Padding::Zero, true)
    };
    let (shape, size) = (
        ImageShape {
            channels: 3,
            height: 2,
            width: 2,
        },
        2,
    );
    let mode = StepMode::OpByOp;
    let mut engine = CudaDip::with_mode(&backend, &spec, size, size, count, mode).unwrap();
    let target = backend.allocate(shape, 1).unwrap();
    let instance = |slot| Instance {
        slot,
        target: At::new(&target, 0),
        key: key(slot as u64),
    };
    engine
        .load(&Vec::from_iter((0..count).map(instance)))
        .unwrap();
    emulator.take_counts();
    engine.run(1).unwrap();
    let counts = emulator.take_counts();
    assert_eq!(counts["dip_adam"].launches, 1);
    counts.values().map(|count| count.launches).sum()
}

#[cfg(feature = "emulator")]
#[test]
fn launches_do_not_depend_on_the_number_of_instances() {
    assert_eq!(launches_of(1), launches_of(500));
}

#[cfg(feature = "emulator")]
#[test]
fn iterations_do_the_work_that_is_said() {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    let emulator = Emulator::new(Options::default()).unwrap();
    let backend = CudaBackend::new(emulator.device());
    for (padding, optimize) in [(Padding::Zero, true), (Padding::Reflect, false)] {
        let spec = spec(padding, optimize);
        let mut engine = engine(&backend, &spec, 3, StepMode::OpByOp);
        load(&backend, &mut engine, SHAPE, 0, 1);
        load(&backend, &mut engine, SHAPE, 2, 2);
        // The first iteration averages nothing.
        engine.run(1).unwrap();
        emulator.take_counts();
        engine.run(2).unwrap();
        emulator.assert_work_is_done();
    }
}

#[cfg(feature = "emulator")]
#[test]
fn the_memory_it_says_is_the_memory_it_takes() {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    let spec = spec(Padding::Reflect, true);
    let [height, width] = SIZE;
    let bytes = MODES.map(|mode| {
        let new = |memory: u64| {
            let options = Options {
                memory,
                ..Options::default()
            };
            CudaBackend::new(Emulator::new(options).unwrap().device())
        };
        let backend = new(u64::MAX);
        let bytes = CudaDip::bytes(&backend, &spec, height, width, 3, mode).unwrap() as u64;
        let take =
            |memory: u64| CudaDip::with_mode(&new(memory), &spec, height, width, 3, mode).map(drop);
        take(bytes).unwrap();
        let refused = take(bytes - 1).unwrap_err();
        assert!(
            matches!(&refused, Error::OutOfMemory(_)) && refused.to_string().contains("no memory"),
            "{refused}"
        );
        assert!(CudaDip::bytes(&backend, &spec, 13, width, 3, mode).is_err());
        bytes
    });
    // The resident step has no feature maps in the device's memory.
    assert!(bytes[1] < bytes[0]);
}

#[test]
fn wrong_slots_sizes_and_moments_are_errors() {
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        let [height, width] = SIZE;
        let fixed = spec(Padding::Zero, false);
        let new = |spec: &NetSpec, height, capacity| {
            CudaDip::new(&backend, spec, height, width, capacity)
        };
        assert!(new(&fixed, 13, 1).is_err());
        assert!(new(&fixed, height, MAX_CAPACITY + 1).is_err());
        let mut none = new(&fixed, height, 0).unwrap();
        none.run(1).unwrap();
        assert!(none.losses(&[]).unwrap().is_empty() && none.losses(&[0]).is_err());
        let mut engine = new(&fixed, height, 2).unwrap();
        assert!(engine.losses(&[0]).is_err() && engine.parameters(0).is_err());
        load(&backend, &mut engine, SHAPE, 0, 1);
        assert!(engine.losses(&[0]).is_err() && engine.gradients(0).is_err());
        engine.run(1).unwrap();
        let mut out = target(&backend, SHAPE, 0);
        assert!(engine.reconstructions(&[0], &mut out, 1).is_err());
        assert!(engine.reconstructions(&[1], &mut out, 0).is_err());
        assert!(engine.input_gradient(0).is_err() && engine.losses(&[2]).is_err());
        assert!(engine.set_parameters(0, &[0.0]).is_err() && engine.set_input(0, &[]).is_err());
        assert!(engine.release(&[2]).is_err());
        engine.release(&[0]).unwrap();
        assert!(engine.losses(&[0]).is_err());
    }
}
