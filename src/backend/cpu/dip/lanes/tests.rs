//! The engine: any network against the reference, and the same bits wherever an instance runs.

use super::*;
use crate::backend::At;
use crate::backend::reference::ReferenceDip;
use crate::dip::{Padding, Preset, Upsample};
use crate::random::RandomKey;

fn key(tile: u32) -> RandomKey {
    RandomKey {
        seed: 11,
        image: 7,
        tile,
    }
}

/// Pictures that differ, as float32 and float64.
fn targets(shape: ImageShape, n: usize) -> (HostImages<f32>, HostImages<f64>) {
    let mut narrow = HostImages::zeroed(shape, n).unwrap();
    let mut wide = HostImages::zeroed(shape, n).unwrap();
    for image in 0..n {
        let pixels = narrow.image_mut(image).iter_mut();
        for (i, (a, b)) in pixels.zip(wide.image_mut(image)).enumerate() {
            *a = ((i * (image + 3) % 31) as f32 / 30.0 + (i % 7) as f32 / 6.0) / 2.0;
            *b = f64::from(*a);
        }
    }
    (narrow, wide)
}

/// Loads picture and key `instance` into `slot`.
fn load<E: DipEngine>(engine: &mut E, slot: usize, targets: &E::Images, instance: usize) {
    let instance = Instance {
        slot,
        target: At::new(targets, instance),
        key: key(instance as u32),
    };
    engine.load(&[instance]).unwrap();
}

fn picture(engine: &mut LaneDip, slot: usize) -> Vec<f32> {
    let mut out = HostImages::zeroed(engine.shape, 1).unwrap();
    engine.reconstructions(&[slot], &mut out, 0).unwrap();
    out.image(0).to_vec()
}

/// Everything an instance can show.
fn state(engine: &mut LaneDip, slot: usize) -> Vec<u64> {
    let mut state = engine.parameters(slot).unwrap();
    state.extend(engine.gradients(slot).unwrap());
    state.extend(engine.input(slot).unwrap());
    state.extend(engine.input_gradient(slot).unwrap_or_default());
    state.extend(engine.losses(&[slot]).unwrap());
    state.extend(picture(engine, slot).into_iter().map(f64::from));
    state.into_iter().map(f64::to_bits).collect()
}

/// Networks of every kind: levels, channels, skip branches, padding, upsampling, jitter, averaging, input.
fn networks() -> Vec<(NetSpec, usize, usize)> {
    let spec =
        |input_depth, output_channels, down: &[usize], up: &[usize], skip: &[usize]| NetSpec {
            input_depth,
            output_channels,
            down: down.to_vec(),
            up: up.to_vec(),
            skip: skip.to_vec(),
            ..Preset::Tiles.spec(output_channels)
        };
    let reflect = |spec| NetSpec {
        padding: Padding::Reflect,
        ..spec
    };
    let nearest = |spec| NetSpec {
        upsample: Upsample::Nearest,
        ..spec
    };
    let fixed = |spec| NetSpec {
        optimize_input: false,
        ..spec
    };
    let noisy = |spec| NetSpec {
        jitter: 0.05,
        averaging: 0.6,
        ..spec
    };
    vec![
        (spec(1, 1, &[2, 1], &[2, 1], &[0, 2]), 4, 4), // one pixel at the deepest level
        (spec(1, 3, &[3, 3, 4], &[3, 3, 4], &[0, 0, 0]), 16, 24),
        (noisy(spec(2, 1, &[5, 2], &[3, 7], &[1, 0])), 12, 20),
        (nearest(spec(3, 4, &[2, 6], &[9, 1], &[0, 5])), 20, 8),
        (reflect(spec(2, 3, &[4, 5], &[6, 3], &[2, 3])), 12, 8),
        (reflect(nearest(fixed(spec(3, 2, &[3], &[2], &[4])))), 6, 10),
        (
            fixed(noisy(reflect(spec(
                1,
                3,
                &[7, 1, 2],
                &[1, 5, 2],
                &[0, 1, 0],
            )))),
            24,
            16,
        ),
    ]
}

#[test]
fn any_network_matches_the_reference() {
    for (spec, height, width) in networks() {
        let shape = ImageShape {
            channels: spec.output_channels,
            height,
            width,
        };
        let (narrow, wide) = targets(shape, 3);
        for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
            let what = format!("{} {spec:?} {height}×{width}", isa.name());
            let mut lanes = LaneDip::new(&spec, height, width, 3).unwrap();
            lanes.isa = isa;
            let mut reference = ReferenceDip::new(&spec, height, width, 3).unwrap();
            for slot in 0..3 {
                load(&mut lanes, slot, &narrow, slot);
                load(&mut reference, slot, &wide, slot);
            }
            // Adam divides by the gradient's size, so where that is rounding noise the networks part
            // ways: the second iteration starts again from equal parameters. It is there for what only
            // a second one shows: borders kept, moments, jitter and averages.
            for _ in 0..2 {
                for slot in 0..3 {
                    reference
                        .set_parameters(slot, &lanes.parameters(slot).unwrap())
                        .unwrap();
                    reference
                        .set_input(slot, &lanes.input(slot).unwrap())
                        .unwrap();
                }
                lanes.run(1).unwrap();
                reference.run(1).unwrap();
                for slot in 0..3 {
                    compare(&what, &spec, &mut lanes, &mut reference, slot);
                }
            }
        }
    }
}

/// Checks an iteration: values and gradients pass through some ten layers, each of which adds `n·u` of
/// its largest value for sums of up to `n = 2·10²` and a normalization that may multiply errors by
/// a few: 10 · 200 · 6e-8 · 4 = 5e-4.
fn compare(
    what: &str,
    spec: &NetSpec,
    lanes: &mut LaneDip,
    reference: &mut ReferenceDip,
    slot: usize,
) {
    const TOLERANCE: f64 = 5e-4;
    let check = |name: &str, got: &[f64], want: &[f64]| {
        assert_eq!(got.len(), want.len());
        let largest = want.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let d = (g - w).abs() / largest;
            assert!(d < TOLERANCE, "{what}: {name}[{i}] is {g}, not {w}");
        }
    };
    let mut out = HostImages::zeroed(lanes.shape, 1).unwrap();
    reference.reconstructions(&[slot], &mut out, 0).unwrap();
    let got: Vec<f64> = picture(lanes, slot).into_iter().map(f64::from).collect();
    check("picture", &got, out.image(0));
    check(
        "loss",
        &lanes.losses(&[slot]).unwrap(),
        &reference.losses(&[slot]).unwrap(),
    );
    check(
        "gradients",
        &lanes.gradients(slot).unwrap(),
        &reference.gradients(slot).unwrap(),
    );
    if spec.optimize_input {
        let got = lanes.input_gradient(slot).unwrap();
        check(
            "input gradient",
            &got,
            &reference.input_gradient(slot).unwrap(),
        );
    }
}

#[test]
fn an_instance_is_the_same_bit_by_bit_wherever_it_runs() {
    for (spec, height, width) in networks() {
        let shape = ImageShape {
            channels: spec.output_channels,
            height,
            width,
        };
        let (images, _) = targets(shape, 40);
        let new = |capacity| LaneDip::new(&spec, height, width, capacity).unwrap();
        let mut alone = new(1);
        load(&mut alone, 0, &images, 5);
        alone.run(7).unwrap();
        let want = state(&mut alone, 0);

        // Another slot and group, neighbors, calls of other lengths, one thread and several.
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let mut crowd = new(37);
            for slot in (0..37).filter(|slot| slot % 3 == 0) {
                load(&mut crowd, slot, &images, slot);
            }
            pool.install(|| crowd.run(2)).unwrap();
            // A slot that an older instance has left, and a neighbor that leaves on the way.
            crowd.release(&[18, 21]).unwrap();
            load(&mut crowd, 18, &images, 5);
            pool.install(|| crowd.run(3)).unwrap();
            load(&mut crowd, 19, &images, 8);
            pool.install(|| crowd.run(4)).unwrap();
            assert!(state(&mut crowd, 18) == want, "{threads} threads: {spec:?}");
        }
    }
}

#[test]
fn misuse_is_an_error() {
    let spec = NetSpec {
        optimize_input: false,
        ..Preset::Tiles.spec(3)
    };
    assert!(LaneDip::new(&spec, 30, 32, 1).is_err(), "no multiple of 8");
    assert!(
        LaneDip::new(&spec, 1 << 40, 1 << 40, 1).is_err(),
        "too large"
    );
    assert!(LaneDip::new(&spec, 8, 8, usize::MAX).is_err(), "too many");
    let mut engine = LaneDip::new(&spec, 8, 8, 2).unwrap();
    engine.run(1).unwrap();
    let (images, _) = targets(engine.shape, 1);
    load(&mut engine, 1, &images, 0);
    assert!(engine.losses(&[1]).is_err(), "no iteration yet");
    assert!(engine.parameters(0).is_err(), "free");
    assert!(engine.parameters(2).is_err(), "beyond the capacity");
    assert!(engine.set_parameters(1, &[1.0]).is_err(), "wrong length");
    assert!(engine.set_input(1, &[]).is_err(), "wrong length");
    engine.run(1).unwrap();
    assert!(engine.losses(&[1]).is_ok());
    assert!(engine.input_gradient(1).is_err(), "not optimized");
    let shape = ImageShape {
        channels: 1,
        ..engine.shape
    };
    let mut other = HostImages::zeroed(shape, 1).unwrap();
    assert!(
        engine.reconstructions(&[1], &mut other, 0).is_err(),
        "shape"
    );
    let instance = Instance {
        slot: 0,
        target: At::new(&other, 0),
        key: key(0),
    };
    assert!(engine.load(&[instance]).is_err(), "shape");
    engine.release(&[1]).unwrap();
    assert!(engine.losses(&[1]).is_err(), "released");
}
