//! The engine against the float64 reference, on networks of every kind.

use super::BlockedDip;
use crate::backend::host::HostImages;
use crate::backend::reference::ReferenceDip;
use crate::backend::{At, DipEngine, ImageShape, Instance, Precision};
use crate::dip::{NetSpec, Padding, Upsample};
use crate::random::{Purpose, RandomKey};

const KEY: RandomKey = RandomKey {
    seed: 11,
    image: 5,
    tile: 0,
};

/// Networks that differ in everything a specification has; height and width.
fn networks() -> Vec<(NetSpec, usize, usize)> {
    let base = NetSpec {
        input_depth: 3,
        output_channels: 3,
        down: vec![5],
        up: vec![7],
        skip: vec![0],
        upsample: Upsample::Bilinear,
        padding: Padding::Zero,
        learning_rate: 0.01,
        optimize_input: true,
        jitter: 0.0,
        averaging: 0.0,
    };
    vec![
        (base.clone(), 10, 14),
        (
            NetSpec {
                input_depth: 17,
                output_channels: 1,
                down: vec![16, 33],
                up: vec![20, 18],
                skip: vec![4, 0],
                upsample: Upsample::Nearest,
                ..base.clone()
            },
            16,
            24,
        ),
        (
            NetSpec {
                input_depth: 2,
                down: vec![8, 6, 20],
                up: vec![18, 3, 5],
                skip: vec![19, 2, 4],
                padding: Padding::Reflect,
                jitter: 0.03,
                averaging: 0.9,
                ..base.clone()
            },
            32,
            16,
        ),
        (
            NetSpec {
                down: vec![4, 17],
                up: vec![4, 4],
                skip: vec![0, 3],
                padding: Padding::Reflect,
                optimize_input: false,
                averaging: 0.5,
                ..base
            },
            40,
            68,
        ),
    ]
}

fn target<T: crate::backend::host::Real>(shape: ImageShape) -> HostImages<T> {
    let mut target = HostImages::zeroed(shape, 1).unwrap();
    let pixels = target.image_mut(0);
    KEY.uniform(Purpose::AttackStart, 0, pixels.len(), |i, u| {
        // A gradient with noise.
        pixels[i] = T::from(0.7 * (i % shape.width) as f32 / shape.width as f32 + 0.3 * u);
    });
    target
}

fn shape(spec: &NetSpec, height: usize, width: usize) -> ImageShape {
    ImageShape {
        channels: spec.output_channels,
        height,
        width,
    }
}

fn start<E: DipEngine>(engine: &mut E, slot: usize, target: &E::Images, key: RandomKey) {
    let instance = Instance {
        slot,
        target: At::new(target, 0),
        key,
    };
    engine.load(&[instance]).unwrap();
}

/// The largest difference relative to the largest magnitude.
fn difference(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    let worst = got
        .iter()
        .zip(want)
        .map(|(g, w)| (g - w).abs())
        .fold(0.0_f64, |m, d| if d.is_nan() { d } else { m.max(d) });
    worst / largest
}

/// Whether normalization cancels a parameter, so that its gradient is rounding noise: a convolution's
/// bias, and with reflection, which shows no edge, the merge normalization's.
fn canceled(spec: &NetSpec, name: &str) -> bool {
    (name.ends_with("_conv.bias") && name != "out_conv.bias")
        || (name.ends_with("merge_bn.bias") && spec.padding == Padding::Reflect)
}

#[test]
fn engine_matches_the_reference() {
    for (case, (spec, height, width)) in networks().into_iter().enumerate() {
        let shape = shape(&spec, height, width);
        let (wide, narrow) = (target::<f64>(shape), target::<f32>(shape));
        let mut reference = ReferenceDip::new(&spec, height, width, 1).unwrap();
        let mut engine = BlockedDip::new(&spec, height, width, 1, Precision::Float32).unwrap();
        start(&mut reference, 0, &wide, KEY);
        start(&mut engine, 0, &narrow, KEY);
        assert_eq!(
            engine.parameters(0).unwrap(),
            reference.parameters(0).unwrap()
        );
        assert_eq!(engine.input(0).unwrap(), reference.input(0).unwrap());
        // Where a bias is zero, the next normalization cancels the weight beside it: its gradient
        // would be rounding noise. Away from the initial state it is not.
        let mut parameters = reference.parameters(0).unwrap();
        for p in spec.parameters().iter().filter(|p| p.fan_in.is_none()) {
            let range = p.offset..p.offset + p.len();
            for (i, value) in range.clone().zip(&mut parameters[range]) {
                *value = f64::from((*value + 0.3 * (i as f64).sin()) as f32);
            }
        }
        engine.set_parameters(0, &parameters).unwrap();
        reference.set_parameters(0, &parameters).unwrap();

        // A tensor's sums have up to a few thousand terms, each of ten layers rounds to 2^-24 of its
        // magnitude, and normalization divides by standard deviations down to a tenth: within 1e-4.
        let close = |what: &str, got: &[f64], want: &[f64]| {
            let d = difference(got, want);
            assert!(
                d < 1e-4,
                "network {case}, {what}: relative difference {d:.1e}"
            );
        };
        let pictures = |engine: &mut BlockedDip, reference: &mut ReferenceDip| {
            let mut wide = HostImages::<f64>::zeroed(shape, 1).unwrap();
            let mut narrow = HostImages::<f32>::zeroed(shape, 1).unwrap();
            reference.reconstructions(&[0], &mut wide, 0).unwrap();
            engine.reconstructions(&[0], &mut narrow, 0).unwrap();
            let narrow = narrow.image(0).iter().map(|&v| f64::from(v)).collect();
            (narrow, wide.image(0).to_vec()) as (Vec<f64>, Vec<f64>)
        };
        engine.run(1).unwrap();
        reference.run(1).unwrap();
        let (got, want) = pictures(&mut engine, &mut reference);
        close("picture", &got, &want);
        let losses = [engine.losses(&[0]), reference.losses(&[0])].map(Result::unwrap);
        close("loss", &losses[0], &losses[1]);
        let (got, want) = (
            engine.gradients(0).unwrap(),
            reference.gradients(0).unwrap(),
        );
        for p in spec.parameters() {
            let range = p.offset..p.offset + p.len();
            if !canceled(&spec, &p.name) {
                close(&p.name, &got[range.clone()], &want[range]);
            }
        }
        // The first step of Adam is the learning rate in the gradient's direction, whatever its
        // magnitude: comparable where that direction is beyond doubt.
        let (moved, should) = (
            engine.parameters(0).unwrap(),
            reference.parameters(0).unwrap(),
        );
        for p in spec.parameters() {
            let range = p.offset..p.offset + p.len();
            let largest = want[range.clone()]
                .iter()
                .fold(0.0_f64, |m, g| m.max(g.abs()));
            for i in range.filter(|&i| !canceled(&spec, &p.name) && want[i].abs() > 0.01 * largest)
            {
                let d = (moved[i] - should[i]).abs();
                assert!(
                    d < 1e-3 * spec.learning_rate,
                    "network {case}, {} {i}: {d:.1e}",
                    p.name
                );
            }
        }
        if spec.optimize_input {
            let got = engine.input_gradient(0).unwrap();
            close("z", &got, &reference.input_gradient(0).unwrap());
        } else {
            assert!(engine.input_gradient(0).is_err());
        }

        // Where a gradient is near zero, rounding may turn a step of Adam around: after ten steps the
        // pictures agree far better than they have moved.
        let (_, first) = pictures(&mut engine, &mut reference);
        engine.run(9).unwrap();
        reference.run(9).unwrap();
        let losses = [engine.losses(&[0]), reference.losses(&[0])].map(|l| l.unwrap()[0]);
        assert!((losses[0] / losses[1] - 1.0).abs() < 0.01, "{losses:?}");
        let (got, want) = pictures(&mut engine, &mut reference);
        let (apart, moved) = (difference(&got, &want), difference(&first, &want));
        assert!(
            apart < 0.1 * moved,
            "network {case}: {apart:.1e} apart, moved {moved:.1e}"
        );
    }
}

/// The same bits on one thread and on five, and whatever the other slot does.
#[test]
fn results_depend_on_neither_threads_nor_slots() {
    let (spec, height, width) = networks().swap_remove(3);
    let shape = shape(&spec, height, width);
    let target = target::<f32>(shape);
    let run = |threads: usize, capacity: usize, slot: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let mut engine =
                BlockedDip::new(&spec, height, width, capacity, Precision::Float32).unwrap();
            for other in 0..capacity {
                let key = if other == slot {
                    KEY
                } else {
                    RandomKey { seed: 1, ..KEY }
                };
                start(&mut engine, other, &target, key);
                engine.run(1).unwrap();
            }
            // A slot that ran before starts anew.
            start(&mut engine, slot, &target, KEY);
            engine.run(2).unwrap();
            engine.run(1).unwrap();
            let mut picture = HostImages::zeroed(shape, 1).unwrap();
            engine.reconstructions(&[slot], &mut picture, 0).unwrap();
            (
                picture.image(0).to_vec(),
                engine.parameters(slot).unwrap(),
                engine.gradients(slot).unwrap(),
                engine.losses(&[slot]).unwrap(),
            )
        })
    };
    let alone = run(1, 1, 0);
    assert!(alone == run(5, 1, 0));
    assert!(alone == run(2, 3, 1));
}

#[test]
fn slots_that_hold_nothing_say_so() {
    let (spec, height, width) = networks().swap_remove(0);
    let mut engine = BlockedDip::new(&spec, height, width, 2, Precision::Float32).unwrap();
    assert!(engine.parameters(0).is_err());
    assert!(engine.losses(&[7]).is_err());
    let target = target::<f32>(shape(&spec, height, width));
    start(&mut engine, 1, &target, KEY);
    assert!(engine.losses(&[1]).is_err());
    assert!(engine.set_parameters(1, &[0.0]).is_err());
    assert!(engine.set_input(1, &[0.0]).is_err());
    engine.run(1).unwrap();
    assert!(engine.losses(&[1]).is_ok());
    engine.release(&[1]).unwrap();
    assert!(engine.losses(&[1]).is_err());
    let wrong = HostImages::<f32>::zeroed(shape(&spec, 8, 8), 1).unwrap();
    let instance = Instance {
        slot: 0,
        target: At::new(&wrong, 0),
        key: KEY,
    };
    assert!(engine.load(&[instance]).is_err());
    assert!(BlockedDip::new(&spec, 9, 9, 1, Precision::Float32).is_err());
}

#[test]
fn memory_is_what_the_estimate_says() {
    let spec = crate::dip::Preset::Skip.spec(3);
    let (instance, shared) = BlockedDip::bytes(&spec, 224, 224, Precision::Float32).unwrap();
    // A million parameters, four numbers each, and z; activations of some 50 MB.
    assert!((16 << 20..64 << 20).contains(&instance), "{instance}");
    assert!((40 << 20..120 << 20).contains(&shared), "{shared}");
}

/// The same factors, rounded alike, in sums of another order: where sums differ in their last bits, one factor in
/// some thousand is rounded to another neighbor. So what is left is, in the mean square, a few hundredths of
/// what rounding itself changes, and float32's own error: gradients that normalization all but cancels are
/// no larger than that.
#[cfg(feature = "emulator")]
#[test]
fn bfloat16_is_what_the_gpus_kernels_compute() {
    use crate::backend::ImageOps;
    use crate::backend::cuda::CudaBackend;
    use crate::backend::cuda::dip::{CudaDip, StepMode};
    use crate::backend::cuda::driver::emulator::{Emulator, Options};

    let spec = NetSpec {
        input_depth: 8,
        output_channels: 3,
        down: vec![8, 12],
        up: vec![10, 8],
        skip: vec![8, 4],
        upsample: Upsample::Bilinear,
        padding: Padding::Reflect,
        learning_rate: 0.01,
        optimize_input: true,
        jitter: 0.0,
        averaging: 0.0,
    };
    let (height, width) = (16, 24);
    let shape = shape(&spec, height, width);
    let pixels = target::<f32>(shape);
    let widened = |picture: Vec<f32>| -> Vec<f64> { picture.into_iter().map(f64::from).collect() };
    let on_cpu = |precision| {
        let mut engine = BlockedDip::new(&spec, height, width, 1, precision).unwrap();
        start(&mut engine, 0, &pixels, KEY);
        engine.run(1).unwrap();
        let mut picture = HostImages::zeroed(shape, 1).unwrap();
        engine.reconstructions(&[0], &mut picture, 0).unwrap();
        let picture = widened(picture.image(0).to_vec());
        (picture, engine.gradients(0).unwrap())
    };
    let (exact, rounded) = (on_cpu(Precision::Float32), on_cpu(Precision::Bf16));
    let device = Emulator::new(Options::default()).unwrap().device();
    let backend = CudaBackend::new(device).with_precision(Precision::Bf16);
    let mut images = backend.allocate(shape, 1).unwrap();
    backend.upload(pixels.image(0), &mut images, 0).unwrap();
    // In the resident step nothing is rounded.
    let mode = StepMode::OpByOp;
    let mut engine = CudaDip::with_mode(&backend, &spec, height, width, 1, mode).unwrap();
    start(&mut engine, 0, &images, KEY);
    engine.run(1).unwrap();
    engine.reconstructions(&[0], &mut images, 0).unwrap();
    let picture = widened(backend.download(At::new(&images, 0)).unwrap());
    let gradients = engine.gradients(0).unwrap();

    let apart = |a: &[f64], b: &[f64]| -> f64 {
        let squares = a.iter().zip(b).map(|(a, b)| (a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let size = apart(&exact.1, &vec![0.0; exact.1.len()]);
    let check = |what: &str, got: &[f64], rounded: &[f64], exact: &[f64]| {
        let (left, by_rounding) = (apart(got, rounded), apart(exact, rounded));
        assert!(
            left < 0.1 * by_rounding + 1e-7 * size,
            "{what}: {left}, and {by_rounding} by rounding"
        );
    };
    check("the picture", &picture, &rounded.0, &exact.0);
    for parameter in spec.parameters() {
        if canceled(&spec, &parameter.name) {
            continue;
        }
        let of = parameter.offset..parameter.offset + parameter.len();
        check(
            &parameter.name,
            &gradients[of.clone()],
            &rounded.1[of.clone()],
            &exact.1[of],
        );
    }
}
