//! Every operation against the float64 reference, on every device there is, for several instances.
//!
//! Tolerances are bounds, not habits. With `u = 2^-24`, a float32 sum of products whose terms go through
//! at most `n` additions is off by at most `n·u·Σ|a·b|` to first order (Higham 2002, section 3.1); the
//! reference itself gives `Σ|a·b|`, run on magnitudes.

mod tensor;

use proptest::prelude::*;

use super::*;
use crate::backend::cuda::driver::{Buffer, Device, test_devices};
use crate::backend::reference::dip::ops::{self, Tensor};
use crate::dip::{Padding, Upsample};
use crate::random::{Purpose, RandomKey};

/// Unit roundoff of float32.
const U: f64 = 1.0 / (1 << 24) as f64;
/// The instances in use, in no order, and one that is not.
const SLOTS: [usize; 2] = [2, 0];
const CAPACITY: usize = 3;
/// Iterations that the slots have done.
const ITERATIONS: [u32; CAPACITY] = [0, 100, 7];

/// Numbers in `[-1, 1)` that float32 holds exactly.
fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let mut numbers = vec![0.0; n];
    let key = RandomKey {
        seed,
        ..RandomKey::default()
    };
    key.uniform(Purpose::Input, 0, n, |i, v| {
        numbers[i] = 2.0 * f64::from(v) - 1.0
    });
    numbers
}

/// A tensor for each instance in use.
fn tensors(seed: u64, channels: usize, height: usize, width: usize) -> [Tensor; 2] {
    [0, 1].map(|i| Tensor {
        channels,
        height,
        width,
        data: numbers(100 * seed + i, channels * height * width),
    })
}

fn vectors(seed: u64, n: usize) -> [Vec<f64>; 2] {
    [0, 1].map(|i| numbers(100 * seed + i, n))
}

fn data(tensors: &[Tensor; 2]) -> [&[f64]; 2] {
    [&tensors[0].data, &tensors[1].data]
}

fn magnitudes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}

fn magnitude(x: &Tensor) -> Tensor {
    Tensor {
        data: magnitudes(&x.data),
        ..*x
    }
}

/// `got` within `bound` of `want`, element by element.
fn near(what: &str, got: &[f64], want: &[f64], bound: &[f64]) {
    assert_eq!((got.len(), bound.len()), (want.len(), want.len()), "{what}");
    for (i, &got) in got.iter().enumerate() {
        let d = (got - want[i]).abs();
        assert!(
            d <= bound[i],
            "{what}, element {i}: {got} for {}, off by {d:.1e} > {:.1e}",
            want[i],
            bound[i]
        );
    }
}

fn scaled(values: &[f64], factor: f64) -> Vec<f64> {
    values.iter().map(|v| v * factor).collect()
}

/// Numbers of all slots.
struct Place {
    buffer: Buffer<f32>,
    stride: usize,
}

impl Place {
    fn maps(&self) -> Maps {
        Maps::new(self.buffer.at(0), self.stride)
    }

    /// Those of the instances in use; no operation may have touched the other slot's.
    fn get(&self) -> [Vec<f64>; 2] {
        let numbers = |slot: usize| {
            self.buffer
                .download(slot * self.stride, self.stride)
                .unwrap()
        };
        assert!(numbers(1).iter().all(|v| v.is_nan()));
        SLOTS.map(|slot| numbers(slot).into_iter().map(f64::from).collect())
    }
}

struct Bench {
    device: Device,
    slots: Buffer<u32>,
    iterations: Buffer<u32>,
}

impl Bench {
    fn new(device: Device) -> Bench {
        Bench {
            slots: device
                .allocate_with(&SLOTS.map(|slot| slot as u32))
                .unwrap(),
            iterations: device.allocate_with(&ITERATIONS).unwrap(),
            device,
        }
    }

    fn all() -> Vec<Bench> {
        test_devices().into_iter().map(Bench::new).collect()
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            device: &self.device,
            slots: self.slots.at(0),
            count: SLOTS.len() as u32,
            iterations: self.iterations.at(0),
            matrices: None,
        }
    }

    /// Numbers of the instances in use; those of the others are none.
    fn put(&self, numbers: [&[f64]; 2]) -> Place {
        let stride = numbers[0].len();
        let mut all = vec![f32::NAN; CAPACITY * stride];
        for (slot, numbers) in std::iter::zip(SLOTS, numbers) {
            for (to, &from) in std::iter::zip(&mut all[slot * stride..], numbers) {
                *to = from as f32;
            }
        }
        Place {
            buffer: self.device.allocate_with(&all).unwrap(),
            stride,
        }
    }

    /// Room for numbers.
    fn place(&self, stride: usize) -> Place {
        let nothing = vec![f64::NAN; stride];
        self.put([&nothing, &nothing])
    }
}

#[derive(Clone, Debug)]
struct ConvCase {
    conv: Conv,
    seed: u64,
}

fn convs() -> impl Strategy<Value = ConvCase> {
    let channels = (1_u32..=6, 1_u32..=9);
    let size = (1_u32..=21, 1_u32..=17);
    let kind = (any::<bool>(), 1_u32..=2, any::<bool>());
    (channels, size, kind, 0_u64..1000).prop_map(
        |((inputs, outputs), (height, width), (wide, stride, reflect), seed)| {
            // Reflection needs a neighbor to reflect.
            let least = if reflect { 2 } else { 1 };
            let conv = Conv {
                inputs,
                outputs,
                kernel: if wide { 3 } else { 1 },
                stride,
                padding: if reflect {
                    Padding::Reflect
                } else {
                    Padding::Zero
                },
                height: height.max(least),
                width: width.max(least),
            };
            ConvCase { conv, seed }
        },
    )
}

fn check_conv(bench: &Bench, conv: &Conv, seed: u64) {
    let [inputs, outputs, height, width] =
        [conv.inputs, conv.outputs, conv.height, conv.width].map(|n| n as usize);
    let oracle = ops::Conv {
        outputs,
        kernel: conv.kernel as usize,
        stride: conv.stride as usize,
        padding: conv.padding,
    };
    let xs = tensors(seed, inputs, height, width);
    let weights = vectors(seed + 1, conv.weights());
    let biases = vectors(seed + 2, outputs);
    let dys = tensors(
        seed + 3,
        outputs,
        conv.out_height() as usize,
        conv.out_width() as usize,
    );
    let olds = tensors(seed + 4, inputs, height, width);
    let batch = bench.batch();
    let x = bench.put(data(&xs));
    let weight = bench.put([&weights[0], &weights[1]]);
    let bias = bench.put([&biases[0], &biases[1]]);
    let dy = bench.put(data(&dys));
    let (y, dx, added) = (
        bench.place(dy.stride),
        bench.place(x.stride),
        bench.put(data(&olds)),
    );
    let (dweight, dbias) = (bench.place(weight.stride), bench.place(outputs));
    let parameters = Parameters {
        weight: weight.maps(),
        bias: bias.maps(),
    };
    let gradients = Parameters {
        weight: dweight.maps(),
        bias: dbias.maps(),
    };
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
    let (ys, dxs, sums) = (y.get(), dx.get(), added.get());
    let (dweights, dbiases) = (dweight.get(), dbias.get());

    let taps = f64::from(conv.kernel * conv.kernel);
    let pixels = f64::from(conv.out_height() * conv.out_width());
    for i in 0..2 {
        let (x, weight, dy) = (&xs[i], &weights[i], &dys[i]);
        let (size_x, size_weight, size_dy) = (magnitude(x), magnitudes(weight), magnitude(dy));
        let want = oracle.forward(x, weight, &biases[i]);
        let size = oracle.forward(&size_x, &size_weight, &magnitudes(&biases[i]));
        // A term for each input and tap, and the bias.
        let bound = scaled(&size.data, (f64::from(conv.inputs) * taps + 1.0) * U);
        near("y", &ys[i], &want.data, &bound);

        let (want_dx, want_dweight, want_dbias) = oracle.backward(x, weight, dy);
        let (size_dx, size_dweight, size_dbias) = oracle.backward(&size_x, &size_weight, &size_dy);
        // A term for each output and tap, for each of at most three places on either axis that reflect
        // to a pixel, and what is there.
        let additions = 9.0 * f64::from(conv.outputs) * taps + 1.0;
        near(
            "dx",
            &dxs[i],
            &want_dx.data,
            &scaled(&size_dx.data, additions * U),
        );
        let total =
            |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
        let want_sum = total(&want_dx.data, &olds[i].data);
        let size_sum = total(&size_dx.data, &magnitudes(&olds[i].data));
        near(
            "dx added",
            &sums[i],
            &want_sum,
            &scaled(&size_sum, additions * U),
        );
        // A lane's pixels one after another, then a tree over the warp.
        let additions = (pixels / 32.0).ceil() + 5.0;
        near(
            "dweight",
            &dweights[i],
            &want_dweight,
            &scaled(&size_dweight, additions * U),
        );
        near(
            "dbias",
            &dbiases[i],
            &want_dbias,
            &scaled(&size_dbias, additions * U),
        );
    }
}

#[test]
fn convolutions_and_their_derivatives() {
    let benches = Bench::all();
    let config = ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(case in convs())| {
        for bench in &benches {
            check_conv(bench, &case.conv, case.seed);
        }
    });
}

/// The float64 reference of one instance's normalization.
struct NormOracle {
    statistics: Vec<ops::Statistics>,
    normalized: Tensor,
    y: Tensor,
    d: Tensor,
    dx: Tensor,
    dweight: Vec<f64>,
    dbias: Vec<f64>,
}

impl NormOracle {
    fn new(x: &Tensor, weight: &[f64], bias: &[f64], dy: &Tensor, leaky: bool) -> Self {
        let statistics = ops::statistics(x);
        let normalized = ops::norm_forward(x, &statistics, weight, bias);
        let (y, d) = match leaky {
            true => (
                ops::leaky_forward(&normalized),
                ops::leaky_backward(&normalized, dy),
            ),
            false => (normalized.clone(), dy.clone()),
        };
        let (dx, dweight, dbias) = ops::norm_backward(x, &statistics, weight, &d);
        NormOracle {
            statistics,
            normalized,
            y,
            d,
            dx,
            dweight,
            dbias,
        }
    }
}

fn check_norm(bench: &Bench, norm: &Norm, [height, width]: [usize; 2], far: f64, seed: u64) {
    let channels = norm.channels as usize;
    let mut xs = tensors(seed, channels, height, width);
    for v in xs.iter_mut().flat_map(|x| &mut x.data) {
        *v = f64::from((*v + far) as f32);
    }
    let dys = tensors(seed + 1, channels, height, width);
    let (weights, biases) = (vectors(seed + 2, channels), vectors(seed + 3, channels));
    let x = bench.put(data(&xs));
    let weight = bench.put([&weights[0], &weights[1]]);
    let bias = bench.put([&biases[0], &biases[1]]);
    let (y, d) = (bench.place(x.stride), bench.put(data(&dys)));
    let statistics = bench.device.allocate::<Statistics>(CAPACITY * channels);
    let lines = bench.device.allocate::<Line>(CAPACITY * channels);
    let (statistics, lines) = (statistics.unwrap(), lines.unwrap());
    let (dweight, dbias) = (bench.place(channels), bench.place(channels));
    let parameters = Parameters {
        weight: weight.maps(),
        bias: bias.maps(),
    };
    let gradients = Parameters {
        weight: dweight.maps(),
        bias: dbias.maps(),
    };
    let batch = bench.batch();
    let (known, lines) = (statistics.at(0), lines.at(0));
    batch
        .norm_forward(norm, x.maps(), parameters, known, y.maps())
        .unwrap();
    batch
        .norm_backward(
            norm,
            x.maps(),
            parameters,
            known,
            d.maps(),
            gradients,
            lines,
        )
        .unwrap();
    let (ys, dxs) = (y.get(), d.get());
    let (dweights, dbiases) = (dweight.get(), dbias.get());

    let what = format!("{norm:?} of {height}×{width}, {far} from zero");
    let plane = height * width;
    // Every sum goes along a thread's pixels, of at least a warp's, then over at most 5 steps of a tree
    // and 8 warps; and a few more roundings around it.
    let additions = plane as f64 / 32.0 + 5.0 + 8.0 + 8.0;
    for i in 0..2 {
        let (weight, bias) = (&weights[i], &biases[i]);
        let want = NormOracle::new(&xs[i], weight, bias, &dys[i], norm.leaky);
        for c in 0..channels {
            // The mean is off by at most additions·u·|x|; the scale, relative to itself, by as much as the
            // sum of squares; both enter the value in units of the spread.
            let scale = want.statistics[c].scale;
            let largest = magnitudes(xs[i].channel(c)).into_iter().fold(0.0, f64::max);
            let size = 1.0 + largest * scale;
            let bound = additions * U * (weight[c].abs() * size + bias[c].abs());
            // Values this near to zero could change sides of LeakyReLU, of which the derivative knows two.
            let risky = |v: &f64| norm.leaky && *v != 0.0 && v.abs() < 2.0 * bound;
            if want.normalized.channel(c).iter().any(risky) {
                continue;
            }
            let pixels = c * plane..(c + 1) * plane;
            let all = |bound: f64| vec![bound; plane];
            near(
                &what,
                &ys[i][pixels.clone()],
                want.y.channel(c),
                &all(2.0 * bound),
            );
            let values: f64 = magnitudes(want.d.channel(c)).iter().sum();
            let sums = additions * U * values;
            near(&what, &dbiases[i][c..=c], &want.dbias[c..=c], &[sums]);
            near(
                &what,
                &dweights[i][c..=c],
                &want.dweight[c..=c],
                &[2.0 * sums * size],
            );
            // The derivative is a sum of d and two averages, the second times the normalized value, whose
            // error the scale multiplies.
            let sum = 1.0 + 2.0 * values / plane as f64 * size * size;
            let bound = 2.0 * additions * U * weight[c].abs() * scale * sum;
            near(&what, &dxs[i][pixels], want.dx.channel(c), &all(bound));
        }
    }
}

#[test]
fn normalization_and_its_derivative() {
    // Channels, height, width, and how far the values lie from zero in units of their spread.
    let cases = [
        (1, 1, 1, 0.0),
        (3, 1, 2, 0.0),
        (2, 5, 7, 0.0),
        (3, 32, 32, 0.0),
        (2, 40, 33, 300.0),
        (4, 3, 9, -20.0),
    ];
    for bench in Bench::all() {
        for (i, &(channels, height, width, far)) in cases.iter().enumerate() {
            for leaky in [false, true] {
                let norm = Norm {
                    channels,
                    plane: (height * width) as u32,
                    leaky,
                };
                check_norm(&bench, &norm, [height, width], far, 10 * i as u64);
            }
        }
    }
}

fn check_upsampling(
    bench: &Bench,
    mode: Upsample,
    [channels, height, width]: [usize; 3],
    seed: u64,
) {
    let what = format!("{mode:?} {channels}×{height}×{width}");
    let xs = tensors(seed, channels, height, width);
    let dys = tensors(seed + 1, channels, 2 * height, 2 * width);
    let (x, dy) = (bench.put(data(&xs)), bench.put(data(&dys)));
    let (y, dx) = (bench.place(dy.stride), bench.place(x.stride));
    let size = [channels, height, width].map(|n| n as u32);
    let batch = bench.batch();
    batch
        .upsample_forward(mode, size, x.maps(), y.maps())
        .unwrap();
    batch
        .upsample_backward(mode, size, dy.maps(), dx.maps())
        .unwrap();
    let (ys, dxs) = (y.get(), dx.get());
    for i in 0..2 {
        let want = ops::upsample_forward(&xs[i], mode);
        let size = ops::upsample_forward(&magnitude(&xs[i]), mode);
        // A product and a sum on each axis.
        near(&what, &ys[i], &want.data, &scaled(&size.data, 4.0 * U));
        let want = ops::upsample_backward(&dys[i], mode);
        let size = ops::upsample_backward(&magnitude(&dys[i]), mode);
        // Up to sixteen terms, whose weights are exact.
        near(&what, &dxs[i], &want.data, &scaled(&size.data, 16.0 * U));
    }
}

#[test]
fn upsampling_and_its_derivative() {
    let sizes = [[1, 1, 1], [2, 1, 5], [3, 4, 1], [2, 7, 6], [1, 16, 16]];
    for bench in Bench::all() {
        for (i, &size) in sizes.iter().enumerate() {
            for mode in [Upsample::Nearest, Upsample::Bilinear] {
                check_upsampling(&bench, mode, size, 10 * i as u64);
            }
        }
    }
}

#[test]
fn the_loss_its_derivative_and_the_average() {
    for bench in Bench::all() {
        // More than a block's threads, and no multiple of them.
        let (channels, height, width) = (3, 11, 13);
        let n = channels * height * width;
        let mut xs = tensors(1, channels, height, width);
        for v in xs.iter_mut().flat_map(|x| &mut x.data) {
            *v *= 8.0;
        }
        let positive = |seed| vectors(seed, n).map(|v| magnitudes(&v));
        let (targets, olds) = (positive(2), positive(3));
        for (iteration, keep) in [0.0_f32, 0.75, 0.75].into_iter().enumerate() {
            let x = bench.put(data(&xs));
            let target = bench.put([&targets[0], &targets[1]]);
            let picture = bench.put([&olds[0], &olds[1]]);
            let errors = bench.place(error_sums(n as u32) as usize);
            let batch = bench.batch();
            let (d, target, pixels) = (x.maps(), target.maps(), picture.maps());
            batch
                .loss(n as u32, keep, d, target, pixels, errors.maps())
                .unwrap();
            let (ds, pictures, errors) = (x.get(), picture.get(), errors.get());
            for i in 0..2 {
                let (output, loss, want) = ops::sigmoid_loss(&xs[i], &targets[i]);
                // The sigmoid's relative error is under 8u (two library functions' few units, a sum and a
                // quotient), and so is what it adds to a difference of at most 1. A tree of 5 and 8 warps.
                let got = errors[i].iter().sum::<f64>() / n as f64;
                near("loss", &[got], &[loss], &[2.0 * 8.0 * U + 16.0 * U * loss]);
                // 2/n·(g − t)·g·(1 − g): the difference is at most 1, g(1 − g) at most 1/4.
                near(
                    "derivative",
                    &ds[i],
                    &want.data,
                    &vec![2.0 / n as f64 * 24.0 * U; n],
                );
                let keep = match ITERATIONS[SLOTS[i]] + iteration as u32 {
                    0 => 0.0,
                    _ => f64::from(keep),
                };
                let average = |(old, new): (&f64, &f64)| keep * old + (1.0 - keep) * new;
                let want: Vec<f64> = olds[i].iter().zip(&output.data).map(average).collect();
                near("picture", &pictures[i], &want, &vec![12.0 * U; n]);
            }
            batch.count_iteration().unwrap();
        }
    }
}

#[test]
fn jitter_is_drawn_as_on_the_host() {
    for bench in Bench::all() {
        // A last block of less than four numbers.
        let (n, sigma) = (1027, 0.03_f32);
        let z = vectors(1, n);
        let keys: Vec<RandomKey> = (0..CAPACITY)
            .map(|slot| RandomKey {
                seed: 3 + slot as u64,
                image: 1 << 40,
                tile: slot as u32,
            })
            .collect();
        let words: Vec<u32> = keys.iter().flat_map(RandomKey::philox_words).collect();
        let words = bench.device.allocate_with(&words).unwrap();
        let (input, out) = (bench.put([&z[0], &z[1]]), bench.place(n));
        let batch = bench.batch();
        batch
            .jitter(sigma, n as u32, words.at(0), input.maps(), out.maps())
            .unwrap();
        for (i, got) in out.get().iter().enumerate() {
            let iteration = ITERATIONS[SLOTS[i]];
            let mut want = z[i].clone();
            keys[SLOTS[i]].normal(Purpose::Jitter, iteration, n, |k, g| {
                want[k] += f64::from(sigma) * f64::from(g);
            });
            // Normals reach 5.8; the host rounds an angle of up to 2π, the device a few times less; then a
            // sum of at most 1.2.
            let bound = f64::from(sigma) * 5.8 * 16.0 * U + 2.0 * U;
            near("jitter", got, &want, &vec![bound; n]);
        }
    }
}

#[test]
fn adam_counts_each_slots_own_steps() {
    let (n, rate, steps) = (300, 0.01, 20_u32);
    for bench in Bench::all() {
        let starts = vectors(1, n);
        let values = bench.put([&starts[0], &starts[1]]);
        let zeros = vec![0.0; n];
        let moments = [0, 1].map(|_| bench.put([&zeros, &zeros]));
        let mut wants = starts.clone();
        let mut oracles = SLOTS.map(|slot| {
            let mut adam = ops::Adam::new(n);
            // The slot's iterations before: without a gradient, nothing moves.
            for _ in 0..ITERATIONS[slot] {
                adam.step(rate, &mut vec![0.0; n], &zeros);
            }
            adam
        });
        for step in 0..steps {
            let mut gradients = vectors(100 + u64::from(step), n);
            for gradient in &mut gradients {
                // Gradients of every size, and some that are zero.
                for (i, g) in gradient.iter_mut().enumerate() {
                    *g = f64::from((*g * 10f64.powi(-(i as i32 % 12))) as f32);
                    if i == 5 {
                        *g = 0.0;
                    }
                }
            }
            let gradient = bench.put([&gradients[0], &gradients[1]]);
            let maps = [moments[0].maps(), moments[1].maps()];
            let batch = bench.batch();
            batch
                .adam(n as u32, rate, values.maps(), gradient.maps(), maps)
                .unwrap();
            batch.count_iteration().unwrap();
            for (i, oracle) in oracles.iter_mut().enumerate() {
                oracle.step(rate, &mut wants[i], &gradients[i]);
            }
        }
        // Each step rounds the moments a few times, relative to themselves, and earlier errors fade; the
        // step is at most about the rate, three times that after a rest. The value itself, of at most 2, is
        // rounded at every step.
        let t = f64::from(steps);
        let bound = t * 3.0 * rate * 8.0 * t * U + 2.0 * t * U;
        for (i, got) in values.get().iter().enumerate() {
            near("adam", got, &wants[i], &vec![bound; n]);
            assert_eq!(got[5], starts[i][5]);
        }
        // The slot that is not in use has not moved.
        let counted = bench.iterations.download(0, CAPACITY).unwrap();
        let [first, unused, last] = ITERATIONS;
        assert_eq!(counted, [first + steps, unused, last + steps]);
    }
}

/// Padding is where counts go wrong: the smallest sizes, odd and even ones, each padding and stride.
#[cfg(feature = "emulator")]
#[test]
fn kernels_do_the_work_that_is_said() {
    use crate::backend::cuda::driver::emulator::{Counts, Emulator, Options};
    let emulator = Emulator::new(Options::default()).unwrap();
    let bench = Bench::new(emulator.device());
    for (height, width) in [(1, 1), (1, 6), (2, 3), (5, 4), (7, 7)] {
        for (mode, leaky) in [(Upsample::Nearest, false), (Upsample::Bilinear, true)] {
            let (plane, channels) = (height * width, 3);
            let norm = Norm {
                channels,
                plane,
                leaky,
            };
            check_norm(&bench, &norm, [height, width].map(|n| n as usize), 0.0, 1);
            check_upsampling(&bench, mode, [3, height, width].map(|n| n as usize), 1);
            emulator.assert_work_is_done();
        }
        for padding in [Padding::Zero, Padding::Reflect] {
            if padding == Padding::Reflect && height.min(width) == 1 {
                continue;
            }
            for (kernel, stride) in [(1, 1), (1, 2), (3, 1), (3, 2)] {
                let conv = Conv {
                    inputs: 2,
                    outputs: 5,
                    kernel,
                    stride,
                    padding,
                    height,
                    width,
                };
                check_conv(&bench, &conv, 1);
                if height.min(width) > 2 {
                    emulator.assert_work_is_done();
                    continue;
                }
                // Some weights meet nothing but padding and are not read.
                for (kernel, Counts { needed, done, .. }) in emulator.take_counts() {
                    assert_eq!(done.multiply_adds, needed.multiply_adds, "{kernel}");
                }
            }
        }
    }
}

/// Every struct of the kernels' sources has a mirror here of the same layout.
#[cfg(feature = "emulator")]
#[test]
fn structs_have_the_kernels_layout() {
    use super::conv::ConvArgs;
    use super::norm::{NormArgs, NormBackwardArgs};
    use super::step::{AdamArgs, IterationsArgs, JitterArgs, LossArgs};
    use super::tensor::{AddPartsArgs, ConvTensorArgs, ConvTensorWeightsArgs, PackArgs, Packed};
    use super::upsample::UpsampleArgs;
    use crate::backend::cuda::driver::{assert_mirrored, mirror};
    use crate::backend::cuda::kernels::{
        dip_conv, dip_conv_tensor, dip_norm, dip_step, dip_upsample,
    };
    let mirrors = [
        mirror::<Maps>(),
        mirror::<ConvArgs>(),
        mirror::<Statistics>(),
        mirror::<Line>(),
        mirror::<NormArgs>(),
        mirror::<NormBackwardArgs>(),
        mirror::<UpsampleArgs>(),
        mirror::<JitterArgs>(),
        mirror::<LossArgs>(),
        mirror::<AdamRates>(),
        mirror::<AdamArgs>(),
        mirror::<IterationsArgs>(),
        mirror::<Packed>(),
        mirror::<PackArgs>(),
        mirror::<ConvTensorArgs>(),
        mirror::<ConvTensorWeightsArgs>(),
        mirror::<AddPartsArgs>(),
    ];
    let modules = [
        dip_conv::LAYOUTS,
        dip_conv_tensor::LAYOUTS,
        dip_norm::LAYOUTS,
        dip_step::LAYOUTS,
        dip_upsample::LAYOUTS,
    ];
    assert_mirrored(&modules, &mirrors);
}
