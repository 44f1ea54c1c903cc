//! Every operation against the float64 reference, on every instruction set of this machine.
//!
//! Tolerances are bounds, not habits. With `u = 2^-24`, a float32 sum of products whose terms go
//! through at most `n` additions is off by at most `n·u·Σ|a·b|` to first order (Higham 2002, section
//! 3.1); the reference itself gives `Σ|a·b|`, run on magnitudes.

use super::adam::{Rates, Trained};
use super::conv::{Conv, Start};
use super::group::put;
use super::loss::{Picture, sigmoid_loss};
use super::norm::{self, Channel, Norm};
use super::resample::{fold_border, reflect_border, upsample, upsample_gradient};
use super::view::View;
use crate::backend::cpu::simd::{Isa, LANES, Lanes};
use crate::backend::reference::dip::ops::{self, Tensor};
use crate::dip::{Padding, Upsample};
use crate::random::{Purpose, RandomKey};

/// Unit roundoff of float32.
const U: f64 = 1.0 / (1 << 24) as f64;

/// Numbers in `[-1, 1)` that float32 holds exactly.
fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let key = RandomKey {
        seed,
        ..RandomKey::default()
    };
    let mut numbers = vec![0.0; n];
    key.uniform(Purpose::Input, 0, n, |i, v| {
        numbers[i] = 2.0 * f64::from(v) - 1.0
    });
    numbers
}

fn tensor(seed: u64, channels: usize, height: usize, width: usize) -> Tensor {
    Tensor {
        channels,
        height,
        width,
        data: numbers(seed, channels * height * width),
    }
}

/// One tensor for each lane.
fn tensors(seed: u64, channels: usize, height: usize, width: usize) -> Vec<Tensor> {
    let lane = |lane| tensor(100 * seed + lane, channels, height, width);
    (0..LANES as u64).map(lane).collect()
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

/// The memory that a test's maps lie in.
#[derive(Default)]
struct Memory(Vec<Lanes>);

impl Memory {
    /// A place for a map, filled with what no operation may read or keep.
    fn place(&mut self, channels: usize, height: usize, width: usize, border: usize) -> View {
        let view = View {
            at: self.0.len(),
            channels,
            height,
            width,
            border,
        };
        self.0.resize(view.end(), Lanes([f32::NAN; LANES]));
        view
    }

    /// Puts maps into a place whose border is zero.
    fn put(&mut self, maps: &[Tensor], border: usize) -> View {
        let map = &maps[0];
        let view = self.place(map.channels, map.height, map.width, border);
        self.0[view.at..view.end()].fill(Lanes::ZERO);
        for (lane, map) in maps.iter().enumerate() {
            each(map, |c, y, x| {
                self.0[view.index(c, y, x)].0[lane] = map.data[map.at(c, y, x)] as f32;
            });
        }
        view
    }

    /// Checks a lane's map: `got` within `bound` of `want`.
    fn check(&self, what: &str, view: &View, lane: usize, want: &Tensor, bound: &Tensor) {
        each(want, |c, y, x| {
            let got = self.0[view.index(c, y, x)].0[lane];
            let at = want.at(c, y, x);
            near(what, f64::from(got), want.data[at], bound.data[at]);
        });
    }
}

fn each(map: &Tensor, mut f: impl FnMut(usize, usize, usize)) {
    for c in 0..map.channels {
        for y in 0..map.height {
            for x in 0..map.width {
                f(c, y, x);
            }
        }
    }
}

fn near(what: &str, got: f64, want: f64, bound: f64) {
    let d = (got - want).abs();
    assert!(
        d <= bound,
        "{what}: {got} for {want}, off by {d:.1e} > {bound:.1e}"
    );
}

/// The values times a number.
fn scaled(x: &Tensor, factor: f64) -> Tensor {
    Tensor {
        data: x.data.iter().map(|v| v * factor).collect(),
        ..*x
    }
}

/// Vectors of every lane's values.
fn pack(values: &[Vec<f64>]) -> Vec<Lanes> {
    let mut packed = vec![Lanes::ZERO; values[0].len()];
    for (lane, values) in values.iter().enumerate() {
        put(&mut packed, lane, values, |v| v as f32);
    }
    packed
}

fn lane_numbers(seed: u64, n: usize) -> Vec<Vec<f64>> {
    (0..LANES as u64)
        .map(|lane| numbers(100 * seed + lane, n))
        .collect()
}

/// Statistics to be filled.
fn channels(n: usize) -> Vec<Channel> {
    bytemuck::zeroed_vec(n)
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.iter().copied().filter(|isa| isa.is_available())
}

#[test]
fn convolutions_and_their_gradients() {
    // Inputs, outputs, kernel, stride, output height and width: all tile remainders, one channel,
    // one pixel, one row, one column, odd sizes.
    let shapes = [
        (1, 1, 1, 1, 1, 1),
        (1, 1, 3, 1, 1, 1),
        (1, 3, 3, 2, 1, 1),
        (2, 5, 3, 2, 1, 7),
        (3, 3, 3, 1, 9, 5),
        (4, 7, 3, 1, 3, 6),
        (5, 2, 3, 2, 5, 3),
        (7, 4, 3, 2, 4, 8),
        (8, 6, 1, 1, 7, 3),
        (3, 9, 3, 1, 6, 1),
        (6, 1, 1, 1, 1, 13),
        (2, 4, 3, 1, 40, 12),
    ];
    for (case, &(inputs, outputs, kernel, stride, height, width)) in shapes.iter().enumerate() {
        for padding in [Padding::Zero, Padding::Reflect] {
            let (tall, wide) = (height * stride, width * stride);
            if padding == Padding::Reflect && (tall < 2 || wide < 2) {
                continue; // nothing to reflect
            }
            for isa in isas() {
                let seed = 10 * case as u64;
                let conv = Conv {
                    weight: 2,
                    inputs,
                    outputs,
                    kernel,
                    stride,
                };
                check_conv(isa, conv, padding, seed, tall, wide);
            }
        }
    }
}

fn check_conv(isa: Isa, conv: Conv, padding: Padding, seed: u64, height: usize, width: usize) {
    let what = format!("{} {conv:?} {padding:?} {height}×{width}", isa.name());
    let Conv {
        inputs,
        outputs,
        kernel,
        stride,
        ..
    } = conv;
    let oracle = ops::Conv {
        outputs,
        kernel,
        stride,
        padding,
    };
    let (below, across) = (height / stride, width / stride);
    let folds = padding == Padding::Reflect && kernel == 3;
    let mut memory = Memory::default();
    let xs = tensors(seed, inputs, height, width);
    let dys = tensors(seed + 1, outputs, below, across);
    let olds = tensors(seed + 2, inputs, height, width);
    let x = memory.put(&xs, 1);
    let dy = memory.put(&dys, 2);
    let y = memory.place(outputs, below, across, 1);
    let dx = memory.place(inputs, height, width, 1);
    let added = memory.put(&olds, 0);
    // Two numbers lead, so that places are seen to be honored; the biases follow.
    let count = conv.weights();
    let parameters = lane_numbers(seed + 3, 2 + count + outputs);
    let weights = pack(&parameters);
    if folds {
        reflect_border(&mut memory.0, &x);
    }
    let mut sums = channels(outputs);
    let start = Start::Bias(2 + count);
    conv.forward(isa, start, &weights, &mut memory.0, &x, &y, Some(&mut sums));
    let mut gradients = vec![Lanes([f32::NAN; LANES]); 2 + count];
    conv.weight_gradient(isa, &memory.0, &x, &dy, &mut gradients);
    let edge = usize::from(folds);
    conv.input_gradient(isa, Start::Zero, &weights, &mut memory.0, &dx, &dy, edge);
    if folds {
        fold_border(&mut memory.0, &dx);
    }
    if kernel == 1 {
        conv.input_gradient(isa, Start::Output, &weights, &mut memory.0, &added, &dy, 0);
    }

    for lane in 0..LANES {
        let (weight, bias) = parameters[lane][2..].split_at(count);
        let (x_size, dy_size) = (magnitude(&xs[lane]), magnitude(&dys[lane]));
        let weight_size = magnitudes(weight);
        let want = oracle.forward(&xs[lane], weight, bias);
        let size = oracle.forward(&x_size, &weight_size, &magnitudes(bias));
        // A multiply-add for each weight of an output channel, after the bias.
        let additions = (inputs * kernel * kernel + 1) as f64;
        memory.check(&what, &y, lane, &want, &scaled(&size, additions * U));
        for o in 0..outputs {
            // Then along a row, and over the rows.
            let additions = additions + (across + below) as f64;
            let size: f64 = size.channel(o).iter().sum();
            let want: f64 = want.channel(o).iter().sum();
            near(
                &what,
                f64::from(sums[o].mean.0[lane]),
                want,
                additions * U * size,
            );
        }

        let (want_dx, want_dw, _) = oracle.backward(&xs[lane], weight, &dys[lane]);
        let (size_dx, size_dw, _) = oracle.backward(&x_size, &weight_size, &dy_size);
        // A multiply-add for each weight of an input channel, and up to three folds.
        let additions = (outputs * kernel * kernel + 3) as f64;
        memory.check(&what, &dx, lane, &want_dx, &scaled(&size_dx, additions * U));
        if kernel == 1 {
            let sum = |a: &Tensor, b: &Tensor| Tensor {
                data: a.data.iter().zip(&b.data).map(|(a, b)| a + b).collect(),
                ..*a
            };
            let size = sum(&magnitude(&olds[lane]), &size_dx);
            let want = sum(&olds[lane], &want_dx);
            memory.check(&what, &added, lane, &want, &scaled(&size, additions * U));
        }
        // Along a block of at least 64 pixels in whole rows, then over the blocks, of which there are no
        // more than rows.
        let additions = (64 + across + below) as f64;
        for (i, (want, size)) in want_dw.iter().zip(size_dw).enumerate() {
            let got = f64::from(gradients[2 + i].0[lane]);
            near(&what, got, *want, additions * U * size);
        }
    }
}

#[test]
fn normalization_and_its_gradient() {
    // Channels, height, width, and how far the values lie from zero in units of their spread.
    for (case, &(channels, height, width, far)) in [
        (1, 1, 1, 0.0f64),
        (3, 1, 2, 0.0),
        (2, 5, 7, 0.0),
        (3, 32, 32, 0.0),
        (2, 32, 32, 300.0),
        (4, 3, 9, -20.0),
    ]
    .iter()
    .enumerate()
    {
        // Far from zero the bound is too wide to tell LeakyReLU's sides apart.
        for leaky in [false, true]
            .into_iter()
            .filter(|leaky| !leaky || far.abs() < 100.0)
        {
            for isa in isas() {
                check_norm(isa, leaky, case as u64, channels, height, width, far);
            }
        }
    }
}

fn check_norm(
    isa: Isa,
    leaky: bool,
    seed: u64,
    channels: usize,
    height: usize,
    width: usize,
    far: f64,
) {
    let what = format!(
        "{} leaky {leaky} {channels}×{height}×{width} {far}",
        isa.name()
    );
    let mut xs = tensors(10 * seed + 1, channels, height, width);
    for v in xs.iter_mut().flat_map(|x| &mut x.data) {
        *v = f64::from((*v + far) as f32);
    }
    let dys = tensors(10 * seed + 2, channels, height, width);
    let (weights, biases) = (
        lane_numbers(10 * seed + 3, channels),
        lane_numbers(10 * seed + 4, channels),
    );
    let mut memory = Memory::default();
    let x = memory.put(&xs, 2);
    let y = memory.place(channels, height, width, 1);
    let dy = memory.put(&dys, 0);
    let (weight, bias) = (pack(&weights), pack(&biases));
    let norm = Norm {
        weight: &weight,
        bias: &bias,
        leaky,
    };
    let mut statistics = self::channels(channels);
    let mut dweight = vec![Lanes::ZERO; channels];
    let mut dbias = dweight.clone();
    norm::channel_sums(isa, &mut memory.0, &x, &mut statistics);
    norm::statistics(isa, &mut memory.0, &x, &mut statistics);
    norm::forward(isa, norm, &statistics, &mut memory.0, &x, &y);
    norm::backward(
        isa,
        norm,
        &statistics,
        &mut memory.0,
        &x,
        &dy,
        &mut dweight,
        &mut dbias,
    );

    // Every sum goes along a row, then over the rows; a few more roundings around it.
    let additions = (width + height + 8) as f64;
    let pixels = (height * width) as f64;
    for lane in 0..LANES {
        let (weight, bias) = (&weights[lane], &biases[lane]);
        let want = ops::statistics(&xs[lane]);
        let normalized = ops::norm_forward(&xs[lane], &want, weight, bias);
        let (want_y, d) = match leaky {
            true => (
                ops::leaky_forward(&normalized),
                ops::leaky_backward(&normalized, &dys[lane]),
            ),
            false => (normalized.clone(), dys[lane].clone()),
        };
        let (want_dx, want_dw, want_db) = ops::norm_backward(&xs[lane], &want, weight, &d);
        let (mut bound_y, mut bound_dx) = (Tensor::like(&want_y), Tensor::like(&want_y));
        for c in 0..channels {
            // The mean is off by at most additions·u·|x|, the scale, relative to itself, by as much
            // as the sum of squares; both enter the value in units of the spread.
            let largest = magnitudes(xs[lane].channel(c))
                .into_iter()
                .fold(0.0, f64::max);
            let size = 1.0 + largest * want[c].scale;
            let bound = additions * U * (weight[c].abs() * size + bias[c].abs());
            let plane = c * want_y.plane()..(c + 1) * want_y.plane();
            bound_y.data[plane.clone()].fill(2.0 * bound);
            // Values this near to zero could change sides of LeakyReLU.
            let risky = |v: &f64| leaky && *v != 0.0 && v.abs() < bound;
            assert!(
                !normalized.channel(c).iter().any(risky),
                "{what}: change the seed"
            );

            let values: f64 = magnitudes(d.channel(c)).iter().sum();
            near(
                &what,
                f64::from(dbias[c].0[lane]),
                want_db[c],
                additions * U * values,
            );
            let product = additions * U * values * size;
            near(
                &what,
                f64::from(dweight[c].0[lane]),
                want_dw[c],
                2.0 * product,
            );
            // The derivative is a sum of d and two averages, the second times the normalized value,
            // whose error the scale multiplies.
            let sum = 1.0 + 2.0 * values / pixels * size * size;
            let factor = weight[c].abs() * want[c].scale;
            bound_dx.data[plane].fill(2.0 * additions * U * factor * sum);
        }
        memory.check(&what, &y, lane, &want_y, &bound_y);
        memory.check(&what, &x, lane, &want_dx, &bound_dx);
    }
}

#[test]
fn upsampling_and_its_gradient() {
    for (case, &(channels, height, width)) in
        [(1, 1, 1), (2, 1, 5), (3, 4, 1), (2, 7, 6), (1, 16, 16)]
            .iter()
            .enumerate()
    {
        for mode in [Upsample::Nearest, Upsample::Bilinear] {
            for isa in isas() {
                let what = format!("{} {mode:?} {channels}×{height}×{width}", isa.name());
                let xs = tensors(10 * case as u64 + 1, channels, height, width);
                let dys = tensors(10 * case as u64 + 2, channels, 2 * height, 2 * width);
                let mut memory = Memory::default();
                let x = memory.put(&xs, 1);
                let y = memory.place(channels, 2 * height, 2 * width, 0);
                let dy = memory.put(&dys, 0);
                let dx = memory.place(channels, height, width, 1);
                let mut sums = self::channels(channels);
                upsample(isa, mode, &mut memory.0, &x, &y, &mut sums);
                upsample_gradient(isa, mode, &mut memory.0, &dx, &dy);
                for lane in 0..LANES {
                    let want = ops::upsample_forward(&xs[lane], mode);
                    let size = ops::upsample_forward(&magnitude(&xs[lane]), mode);
                    // Two products and a sum on each axis.
                    memory.check(&what, &y, lane, &want, &scaled(&size, 4.0 * U));
                    for c in 0..channels {
                        let additions = (4 + 2 * width + 2 * height) as f64;
                        let bound = additions * U * size.channel(c).iter().sum::<f64>();
                        let want = want.channel(c).iter().sum();
                        near(&what, f64::from(sums[c].mean.0[lane]), want, bound);
                    }
                    let want = ops::upsample_backward(&dys[lane], mode);
                    let size = ops::upsample_backward(&magnitude(&dys[lane]), mode);
                    // Three sums and a product on each axis.
                    memory.check(&what, &dx, lane, &want, &scaled(&size, 8.0 * U));
                }
            }
        }
    }
}

#[test]
fn the_loss_and_its_gradient() {
    for isa in isas() {
        let (channels, height, width) = (3, 5, 7);
        let mut xs = tensors(1, channels, height, width);
        for v in xs.iter_mut().flat_map(|x| &mut x.data) {
            *v *= 8.0;
        }
        let n = channels * height * width;
        let targets: Vec<_> = lane_numbers(2, n).iter().map(|t| magnitudes(t)).collect();
        let olds: Vec<_> = lane_numbers(3, n).iter().map(|t| magnitudes(t)).collect();
        let mut memory = Memory::default();
        let x = memory.put(&xs, 0);
        let target = pack(&targets);
        let mut pixels = pack(&olds);
        let mut sums = vec![Lanes::ZERO; channels];
        let keeps: [f32; LANES] = std::array::from_fn(|lane| lane as f32 / 32.0);
        let picture = Picture {
            pixels: &mut pixels,
            keep: Lanes(keeps),
        };
        let loss = sigmoid_loss(isa, &mut memory.0, &x, &target, Some(picture), &mut sums);
        for lane in 0..LANES {
            let (output, want_loss, want) = ops::sigmoid_loss(&xs[lane], &targets[lane]);
            // The sigmoid's relative error is under 8u, and so is what it adds to a difference.
            let additions = (width + height + 8) as f64;
            let bound = 2.0 * 8.0 * U + additions * U * want_loss;
            near("loss", f64::from(loss.0[lane]), want_loss, bound);
            let mut size = Tensor::like(&want);
            // 2/n·(g − t)·g·(1 − g): the difference is at most 1, g(1 − g) at most 1/4.
            size.data.fill(2.0 / n as f64 * 24.0 * U);
            memory.check("derivative", &x, lane, &want, &size);
            for c in 0..channels {
                let plane = (height * width) as f64;
                let bound = plane * size.data[0] + additions * U * plane * 2.0 / n as f64;
                let want = want.channel(c).iter().sum();
                near("sum", f64::from(sums[c].0[lane]), want, bound);
            }
            let keep = f64::from(keeps[lane]);
            for (i, (got, output)) in pixels.iter().zip(&output.data).enumerate() {
                let want = keep * olds[lane][i] + (1.0 - keep) * output;
                near("picture", f64::from(got.0[lane]), want, 12.0 * U);
            }
        }
    }
}

#[test]
fn adam_with_a_step_count_for_each_lane() {
    let (n, rate, steps) = (37, 0.01, 20);
    for isa in isas() {
        let starts = lane_numbers(1, n);
        let mut trained = Trained {
            values: pack(&starts),
            first: vec![Lanes::ZERO; n],
            second: vec![Lanes::ZERO; n],
        };
        let mut oracles: Vec<_> = starts
            .iter()
            .map(|values| (ops::Adam::new(n), values.clone()))
            .collect();
        // Lane 2k starts k steps late: its moments stay zero until then.
        let late = |lane: usize| lane as u32 / 2;
        for step in 1..=steps {
            let mut gradients = lane_numbers(100 + u64::from(step), n);
            for (lane, gradient) in gradients.iter_mut().enumerate() {
                // Gradients of every size, and some that are zero.
                for (i, g) in gradient.iter_mut().enumerate() {
                    *g = f64::from((*g * 10f64.powi(-(i as i32 % 12))) as f32);
                    if i == 5 || step <= late(lane) {
                        *g = 0.0;
                    }
                }
            }
            let t = std::array::from_fn(|lane| step.saturating_sub(late(lane)).max(1));
            trained.step(isa, &Rates::new(rate, t), 0, &pack(&gradients));
            for (lane, (adam, values)) in oracles.iter_mut().enumerate() {
                if step > late(lane) {
                    adam.step(rate, values, &gradients[lane]);
                }
            }
        }
        // Each step rounds the moments a few times, relative to themselves, and earlier errors fade; the
        // step is at most about the rate. The value itself is rounded at every step.
        let t = f64::from(steps);
        let bound = t * rate * 8.0 * t * U + t * U;
        for (lane, (_, values)) in oracles.iter().enumerate() {
            for (got, want) in trained.values.iter().zip(values) {
                near("adam", f64::from(got.0[lane]), *want, bound);
            }
        }
        assert_eq!(trained.values[5].0[0], starts[0][5] as f32);
    }
}
