//! Convolutions on tensor cores.
//!
//! Products of two bfloat16 numbers are exact in float32. A tensor core adds sixteen of them at once to what
//! is there, on some chips in two steps of eight, and may cut every addend off where the largest one's last
//! bit is (Fasi, Higham, Mikaitis and Pranesh 2021): 18 addends, each off by at most `2u` of it. So a sum that
//! takes `n` such steps is off by at most `36·n·u·Σ|a·b|`. Where factors are not bfloat16 numbers, each is off
//! by at most `v = 2^-8` of itself, and their product by `2v + v²`.

use half::bf16;

use super::super::tensor::{parts, room, strips, suits};
use super::*;

/// Unit roundoff of bfloat16.
const V: f64 = 1.0 / 256.0;

/// What sums of magnitudes are off by after so many steps, and so many additions in float32.
fn factor(rounded: bool, steps: u32, additions: u32) -> f64 {
    let factors = if rounded { 0.0 } else { 2.0 * V + V * V };
    // Magnitudes of rounded factors are at most that much larger.
    factors + (36.0 * f64::from(steps) + f64::from(additions)) * U * (1.0 + factors)
}

fn round(numbers: &mut [f64]) {
    for number in numbers {
        *number = bf16::from_f64(*number).to_f64();
    }
}

/// What a layer's launches leave, for the instances in use.
struct Outcome {
    y: [Vec<f64>; 2],
    dx: [Vec<f64>; 2],
    added: [Vec<f64>; 2],
    dweight: [Vec<f64>; 2],
    dbias: [Vec<f64>; 2],
}

/// What goes into them.
struct Case {
    xs: [Tensor; 2],
    dys: [Tensor; 2],
    olds: [Tensor; 2],
    weights: [Vec<f64>; 2],
    biases: [Vec<f64>; 2],
}

impl Case {
    /// With factors that bfloat16 holds exactly, or not.
    fn new(conv: &Conv, seed: u64, rounded: bool) -> Self {
        let [inputs, outputs, height, width] =
            [conv.inputs, conv.outputs, conv.height, conv.width].map(|n| n as usize);
        let [out_height, out_width] = [conv.out_height(), conv.out_width()].map(|n| n as usize);
        let mut case = Case {
            xs: tensors(seed, inputs, height, width),
            weights: vectors(seed + 1, conv.weights()),
            biases: vectors(seed + 2, outputs),
            dys: tensors(seed + 3, outputs, out_height, out_width),
            olds: tensors(seed + 4, inputs, height, width),
        };
        if rounded {
            for i in 0..2 {
                round(&mut case.xs[i].data);
                round(&mut case.dys[i].data);
                round(&mut case.weights[i]);
            }
        }
        case
    }

    fn run(&self, bench: &Bench, conv: &Conv) -> Outcome {
        let (x, dy) = (bench.put(data(&self.xs)), bench.put(data(&self.dys)));
        let put = |vectors: &[Vec<f64>; 2]| bench.put([&vectors[0], &vectors[1]]);
        let (weight, bias) = (put(&self.weights), put(&self.biases));
        let (y, dx) = (bench.place(dy.stride), bench.place(x.stride));
        let added = bench.put(data(&self.olds));
        let (dweight, dbias) = (bench.place(weight.stride), bench.place(bias.stride));
        let room = bench.place(room(conv));
        let parameters = Parameters {
            weight: weight.maps(),
            bias: bias.maps(),
        };
        let gradients = Parameters {
            weight: dweight.maps(),
            bias: dbias.maps(),
        };
        let batch = Batch {
            matrices: Some(room.maps()),
            ..bench.batch()
        };
        assert!(suits(conv));
        batch
            .conv_forward(conv, x.maps(), parameters, y.maps())
            .unwrap();
        batch
            .conv_backward_data(conv, dy.maps(), parameters, dx.maps(), false)
            .unwrap();
        batch
            .conv_backward_data(conv, dy.maps(), parameters, added.maps(), true)
            .unwrap();
        batch
            .conv_backward_weights(conv, x.maps(), dy.maps(), gradients)
            .unwrap();
        Outcome {
            y: y.get(),
            dx: dx.get(),
            added: added.get(),
            dweight: dweight.get(),
            dbias: dbias.get(),
        }
    }
}

fn check(bench: &Bench, conv: &Conv, seed: u64, rounded: bool) {
    let oracle = ops::Conv {
        outputs: conv.outputs as usize,
        kernel: conv.kernel as usize,
        stride: conv.stride as usize,
        padding: conv.padding,
    };
    let case = Case::new(conv, seed, rounded);
    let got = case.run(bench, conv);
    let taps = conv.kernel * conv.kernel;
    for i in 0..2 {
        let (x, weight, dy) = (&case.xs[i], &case.weights[i], &case.dys[i]);
        let (size_x, size_weight, size_dy) = (magnitude(x), magnitudes(weight), magnitude(dy));
        let bias = &case.biases[i];
        let want = oracle.forward(x, weight, bias);
        let size = oracle.forward(&size_x, &size_weight, &magnitudes(bias));
        // A step for sixteen inputs and a tap; the bias.
        let off = factor(rounded, conv.inputs.div_ceil(16) * taps, 1);
        near("y", &got.y[i], &want.data, &scaled(&size.data, off));

        let (want_dx, want_dweight, want_dbias) = oracle.backward(x, weight, dy);
        let (size_dx, size_dweight, size_dbias) = oracle.backward(&size_x, &size_weight, &size_dy);
        // At most three taps and two that reflect on either axis; what is there.
        let steps = conv.outputs.div_ceil(16) * if taps == 1 { 1 } else { 25 };
        let off = factor(rounded, steps, 1);
        near("dx", &got.dx[i], &want_dx.data, &scaled(&size_dx.data, off));
        let old = &case.olds[i].data;
        let total = |a: &[f64], b: &[f64]| -> Vec<f64> {
            std::iter::zip(a, b).map(|(a, b)| a + b).collect()
        };
        let size_sum = total(&size_dx.data, &magnitudes(old));
        near(
            "dx added",
            &got.added[i],
            &total(&want_dx.data, old),
            &scaled(&size_sum, off),
        );

        // The sixteen pixels of each of a strip's four rows at a step, then the parts.
        let parts = parts(conv);
        let off = factor(rounded, 4 * strips(conv).div_ceil(parts), parts);
        let (dweight, dbias) = (&got.dweight[i], &got.dbias[i]);
        near(
            "dweight",
            dweight,
            &want_dweight,
            &scaled(&size_dweight, off),
        );
        near("dbias", dbias, &want_dbias, &scaled(&size_dbias, off));
    }
}

fn conv(
    [inputs, outputs]: [u32; 2],
    [kernel, stride]: [u32; 2],
    reflect: bool,
    [height, width]: [u32; 2],
) -> Conv {
    // Reflection needs a neighbor to reflect.
    let least = if reflect { 2 } else { 1 };
    Conv {
        inputs,
        outputs,
        kernel,
        stride,
        padding: if reflect {
            Padding::Reflect
        } else {
            Padding::Zero
        },
        height: height.max(least),
        width: width.max(least),
    }
}

const KINDS: [[u32; 2]; 3] = [[1, 1], [3, 1], [3, 2]];

#[test]
fn convolutions_of_random_shapes() {
    let benches = Bench::all();
    let config = ProptestConfig {
        cases: 8,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let channels = (8_u32..=36, 8_u32..=40);
    let size = (1_u32..=19, 1_u32..=21);
    let kind = (0_usize..3, any::<bool>(), any::<bool>());
    proptest!(config, |(channels in channels, size in size, kind in kind, seed in 0_u64..1000)| {
        let (kind, reflect, rounded) = kind;
        let conv = conv(channels.into(), KINDS[kind], reflect, size.into());
        for bench in &benches {
            check(bench, &conv, seed, rounded);
        }
    });
}

/// Sizes and channels at which tiles, slices and reflections end.
#[test]
fn convolutions_where_tiles_end() {
    for bench in Bench::all() {
        for (i, &size) in [[1, 1], [2, 2], [3, 3], [2, 17], [18, 3], [17, 16]]
            .iter()
            .enumerate()
        {
            for (k, &kind) in KINDS.iter().enumerate() {
                let reflect = (i + k) % 3 != 0;
                check(&bench, &conv([8, 9], kind, reflect, size), i as u64, true);
            }
        }
        // More than a block's rows, and more than its inputs.
        check(&bench, &conv([132, 8], [3, 1], true, [4, 5]), 1, true);
        check(&bench, &conv([8, 131], [3, 2], false, [5, 4]), 2, true);
        check(&bench, &conv([130, 17], [1, 1], false, [3, 7]), 3, true);
    }
}

/// The sums over parts of a picture, of which small ones have one.
#[test]
fn derivatives_by_weights_of_many_parts() {
    let conv = conv([8, 8], [1, 1], false, [97, 33]);
    for bench in Bench::all() {
        check(&bench, &conv, 1, true);
    }
}

/// A layer of `wide`: what its kernels multiply and move against what it needs. Tiles of 16×16 fit the
/// picture, so nothing is multiplied for nothing but what the padding's reflection takes.
#[cfg(feature = "emulator")]
#[test]
fn a_wide_layers_work() {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    let emulator = Emulator::new(Options::default()).unwrap();
    let bench = Bench::new(emulator.device());
    let [side, channels] = [32, 128];
    let layer = conv([channels; 2], [3, 1], true, [side; 2]);
    Case::new(&layer, 1, true).run(&bench, &layer);
    let counts = emulator.take_counts();
    let of = |kernel: &str| counts[kernel].done;
    let instances = SLOTS.len() as u64;
    let weights = layer.weights() as u64;
    let plane = u64::from(side * side);
    let needed = instances * weights * plane;

    let forward = of("dip_conv3_tensor_forward");
    assert_eq!(forward.matrix_multiply_adds, needed);
    // A warp reads of every sixteen channels, for a column of taps, 3 · 32 rows of weights and 10 · 16 pixels of
    // 32 bytes: for 96 products of 16×8×16.
    assert_eq!(forward.shared_read, needed / 2048 * (96 + 160) * 32 / 96);
    // A tile's pixels and those around it, as often as there are blocks, and all weights in bfloat16; less
    // than twice what tiles without anything around them would read.
    let tiles = instances * plane / 256;
    let least = tiles * (u64::from(channels) * 256 * 4 + weights * 2);
    assert!((least..2 * least).contains(&forward.global_read));

    // Twice: one is added. At the edges, of which this small picture has many, one tap of three is taken a
    // second time by a tile's rows or columns.
    let data = of("dip_conv3_tensor_backward_data").matrix_multiply_adds;
    assert!((2 * needed..=3 * needed).contains(&data));

    // An input of ones more, for a block's first inputs and one column of taps of three: the bias, by 8.
    let by_weights = of("dip_conv3_tensor_backward_weights").matrix_multiply_adds;
    assert_eq!(
        by_weights,
        needed + instances * plane * u64::from(channels) * 8
    );
}
