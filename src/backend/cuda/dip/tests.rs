mod precision;

use super::*;
use crate::backend::cuda::driver::test_devices;
use crate::backend::host::{HostDevice, HostImages};
use crate::backend::reference::ReferenceDip;
use crate::dip::{Padding, Upsample};
use crate::random::RandomKey;

struct Reference;
impl HostDevice for Reference {
    type Number = f64;
}

const SIZE: [usize; 2] = [12, 8];

/// Two levels, a skip branch in one of them, noise and an average.
fn spec(padding: Padding, optimise_input: bool) -> NetSpec {
    NetSpec {
        input_depth: 2,
        output_channels: 3,
        down: vec![3, 5],
        up: vec![4, 3],
        skip: vec![2, 0],
        upsample: Upsample::Bilinear,
        padding,
        learning_rate: 0.01,
        optimise_input,
        jitter: 0.03,
        averaging: 0.5,
    }
}

fn key(seed: u64) -> RandomKey {
    RandomKey {
        seed,
        image: 5,
        tile: 1,
    }
}

/// A picture of numbers in [0, 1).
fn picture(seed: u64) -> Vec<f32> {
    let mut pixels = vec![0.0; 3 * SIZE[0] * SIZE[1]];
    let n = pixels.len();
    key(seed).uniform(crate::random::Purpose::Input, 9, n, |i, v| pixels[i] = v);
    pixels
}

/// Picture `seed` on a device.
fn target<B: ImageOps>(backend: &B, seed: u64) -> B::Images {
    let shape = ImageShape {
        channels: 3,
        height: SIZE[0],
        width: SIZE[1],
    };
    let mut images = backend.allocate(shape, 1).unwrap();
    backend.upload(&picture(seed), &mut images, 0).unwrap();
    images
}

fn load<B: ImageOps, E: DipEngine<Images = B::Images>>(
    backend: &B,
    engine: &mut E,
    slot: usize,
    seed: u64,
) {
    let target = target(backend, seed);
    let instance = Instance {
        slot,
        target: At::new(&target, 0),
        key: key(seed),
    };
    engine.load(&[instance]).unwrap();
}

/// Everything that an instance is after its iterations.
fn results(backend: &CudaBackend, engine: &mut CudaDip, slot: usize) -> Vec<f64> {
    let mut out = target(backend, 0);
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

#[test]
fn iterations_are_the_references() {
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        for (padding, optimise) in [(Padding::Zero, true), (Padding::Reflect, false)] {
            let spec = spec(padding, optimise);
            let [height, width] = SIZE;
            let mut reference = ReferenceDip::new(&spec, height, width, 3).unwrap();
            let mut engine = CudaDip::new(&backend, &spec, height, width, 3).unwrap();
            // Slot 2 starts an iteration later, slot 1 is free.
            for (slot, seed) in [(0, 3), (2, 4)] {
                load(&Reference, &mut reference, slot, seed);
                load(&backend, &mut engine, slot, seed);
                reference.run(1).unwrap();
                engine.run(1).unwrap();
            }
            reference.run(3).unwrap();
            engine.run(3).unwrap();
            for slot in [0, 2] {
                let mut out = target(&backend, 0);
                engine.reconstructions(&[slot], &mut out, 0).unwrap();
                let got = backend.download(At::new(&out, 0)).unwrap();
                let mut out: HostImages<f64> = target(&Reference, 0);
                reference.reconstructions(&[slot], &mut out, 0).unwrap();
                // As for PyTorch's numbers (tests/golden_dip.rs): some 1e-5 an iteration.
                for (got, want) in got.iter().zip(out.image(0)) {
                    assert!((f64::from(*got) - want).abs() < 1e-4, "{got} for {want}");
                }
                let (got, want) = (
                    engine.losses(&[slot]).unwrap(),
                    reference.losses(&[slot]).unwrap(),
                );
                assert!(
                    (got[0] / want[0] - 1.0).abs() < 1e-4,
                    "{got:?} for {want:?}"
                );
            }
        }
    }
}

#[test]
fn an_instance_does_not_depend_on_the_others() {
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        let spec = spec(Padding::Zero, true);
        let mut alone = CudaDip::new(&backend, &spec, SIZE[0], SIZE[1], 1).unwrap();
        load(&backend, &mut alone, 0, 7);
        alone.run(4).unwrap();
        let mut among = CudaDip::new(&backend, &spec, SIZE[0], SIZE[1], 4).unwrap();
        load(&backend, &mut among, 3, 1);
        among.run(2).unwrap();
        load(&backend, &mut among, 1, 7);
        among.run(1).unwrap();
        among.release(&[3]).unwrap();
        load(&backend, &mut among, 0, 9);
        among.run(3).unwrap();
        assert_eq!(
            results(&backend, &mut among, 1),
            results(&backend, &mut alone, 0)
        );
    }
}

#[cfg(feature = "emulator")]
#[test]
fn launches_do_not_depend_on_the_number_of_instances() {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    let emulator = Emulator::new(Options::default()).unwrap();
    let backend = CudaBackend::new(emulator.device());
    let launches = [1, 5].map(|count| {
        let spec = spec(Padding::Zero, true);
        let mut engine = CudaDip::new(&backend, &spec, SIZE[0], SIZE[1], 5).unwrap();
        for slot in 0..count {
            load(&backend, &mut engine, slot, slot as u64);
        }
        emulator.take_counts();
        engine.run(2).unwrap();
        let counts = emulator.take_counts();
        let launches = |kernel: &str| counts.get(kernel).map_or(0, |count| count.launches);
        assert_eq!(launches("dip_adam"), 2);
        counts.values().map(|count| count.launches).sum::<u64>()
    });
    assert_eq!(launches[0], launches[1]);
}

#[cfg(feature = "emulator")]
#[test]
fn the_memory_it_says_is_the_memory_it_takes() {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    let spec = spec(Padding::Reflect, true);
    let [height, width] = SIZE;
    let bytes = CudaDip::bytes(Precision::Float32, &spec, height, width, 3).unwrap() as u64;
    let new = |memory: u64| {
        let options = Options {
            memory,
            ..Options::default()
        };
        let backend = CudaBackend::new(Emulator::new(options).unwrap().device());
        CudaDip::new(&backend, &spec, height, width, 3).map(drop)
    };
    new(bytes).unwrap();
    let refused = new(bytes - 1).unwrap_err().to_string();
    assert!(refused.contains("no memory"), "{refused}");
    assert!(CudaDip::bytes(Precision::Float32, &spec, 13, width, 3).is_err());
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
        load(&backend, &mut engine, 0, 1);
        assert!(engine.losses(&[0]).is_err() && engine.gradients(0).is_err());
        engine.run(1).unwrap();
        let mut out = target(&backend, 0);
        assert!(engine.reconstructions(&[0], &mut out, 1).is_err());
        assert!(engine.reconstructions(&[1], &mut out, 0).is_err());
        assert!(engine.input_gradient(0).is_err() && engine.losses(&[2]).is_err());
        assert!(engine.set_parameters(0, &[0.0]).is_err() && engine.set_input(0, &[]).is_err());
        assert!(engine.release(&[2]).is_err());
        engine.release(&[0]).unwrap();
        assert!(engine.losses(&[0]).is_err());
    }
}
