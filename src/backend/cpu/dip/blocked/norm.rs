//! Batch normalization with the statistics of one picture, and the LeakyReLU behind it.
//!
//! Nothing normalized is stored: statistics become an affine map, which whoever reads the tensor
//! applies. Sums go over chunks of fixed size, each in float32 while it is in the cache, joined in
//! float64.

use std::ops::Range;

use rayon::prelude::*;

use crate::backend::cpu::blocked::Affine;
use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch};
use crate::dip::BN_EPSILON;

/// Pixels of a chunk: 128 KiB a tensor.
const CHUNK: usize = 2048;

/// What a normalization knows of the tensors that it normalizes, in groups of channels.
pub(super) struct Statistics {
    pub mean: Vec<Lanes>,
    /// `1 / sqrt(variance + ε)`.
    pub inverse: Vec<Lanes>,
    /// The whole map: `scale · x + shift`.
    pub scale: Vec<Lanes>,
    pub shift: Vec<Lanes>,
}

impl Statistics {
    pub(super) fn new(groups: usize) -> Statistics {
        let zeros = || vec![Lanes::ZERO; groups];
        Statistics {
            mean: zeros(),
            inverse: zeros(),
            scale: zeros(),
            shift: zeros(),
        }
    }

    /// The map of `groups`, for a reader.
    pub(super) fn affine(&self, groups: Range<usize>, slope: f32) -> Affine<'_> {
        Affine {
            scale: &self.scale[groups.clone()],
            shift: &self.shift[groups],
            slope,
        }
    }

    /// Measures a tensor of `plane` pixels whose groups are those from `first` on.
    pub(super) fn measure(
        &mut self,
        first: usize,
        data: &[Lanes],
        plane: usize,
        weight: &[Lanes],
        bias: &[Lanes],
        partial: &mut [Lanes],
    ) {
        let chunks = plane.div_ceil(CHUNK);
        let partial = &mut partial[..2 * chunks * (data.len() / plane)];
        partial
            .par_chunks_exact_mut(2 * chunks)
            .zip(data.par_chunks_exact(plane))
            .for_each(|(partial, data)| {
                let partial = partial.par_chunks_exact_mut(2);
                partial
                    .zip(data.par_chunks(CHUNK))
                    .for_each(|(out, data)| out.copy_from_slice(&dispatch(Moments { data })));
            });
        for (g, partial) in partial.chunks_exact(2 * chunks).enumerate() {
            let group = first + g;
            for lane in 0..LANES {
                // Chan, Golub and LeVeque's way to join means and sums of squared differences.
                let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
                for (i, pair) in partial.chunks_exact(2).enumerate() {
                    let n = CHUNK.min(plane - i * CHUNK) as f64;
                    let delta = f64::from(pair[0].0[lane]) - mean;
                    let total = count + n;
                    mean += delta * n / total;
                    squares += f64::from(pair[1].0[lane]) + delta * delta * count * n / total;
                    count = total;
                }
                let inverse = 1.0 / (squares / count + BN_EPSILON).sqrt();
                let scale = f64::from(weight[group].0[lane]) * inverse;
                self.mean[group].0[lane] = mean as f32;
                self.inverse[group].0[lane] = inverse as f32;
                self.scale[group].0[lane] = scale as f32;
                self.shift[group].0[lane] = (f64::from(bias[group].0[lane]) - scale * mean) as f32;
            }
        }
    }

    /// Turns the gradient of `LeakyReLU(normalized x)` into that of `x`, in place, and writes those
    /// of the weight and bias of the groups from `first` on.
    #[allow(clippy::too_many_arguments)] // One tensor's part of a normalization.
    pub(super) fn backward(
        &self,
        first: usize,
        slope: f32,
        x: &[Lanes],
        gradient: &mut [Lanes],
        plane: usize,
        weight_gradient: &mut [Lanes],
        bias_gradient: &mut [Lanes],
        partial: &mut [Lanes],
    ) {
        let chunks = plane.div_ceil(CHUNK);
        let partial = &mut partial[..2 * chunks * (x.len() / plane)];
        let channel = |group: usize| Channel {
            mean: &self.mean[group],
            inverse: &self.inverse[group],
            scale: &self.scale[group],
            shift: &self.shift[group],
            slope,
        };
        let gradients = &*gradient;
        partial
            .par_chunks_exact_mut(2)
            .enumerate()
            .for_each(|(i, out)| {
                let start = i / chunks * plane + i % chunks * CHUNK;
                let end = (start + CHUNK).min((i / chunks + 1) * plane);
                let sums = dispatch(Sums {
                    channel: channel(first + i / chunks),
                    x: &x[start..end],
                    gradient: &gradients[start..end],
                });
                out.copy_from_slice(&sums);
            });
        for (g, partial) in partial.chunks_exact(2 * chunks).enumerate() {
            for lane in 0..LANES {
                let sum = |which: usize| -> f64 {
                    let pairs = partial.chunks_exact(2);
                    pairs.map(|pair| f64::from(pair[which].0[lane])).sum()
                };
                bias_gradient[first + g].0[lane] = sum(0) as f32;
                weight_gradient[first + g].0[lane] = sum(1) as f32;
            }
        }
        let (weight_gradient, bias_gradient) = (&*weight_gradient, &*bias_gradient);
        gradient
            .par_chunks_exact_mut(plane)
            .zip(x.par_chunks_exact(plane))
            .enumerate()
            .for_each(|(g, (gradient, x))| {
                let gradient = gradient.par_chunks_mut(CHUNK);
                gradient.zip(x.par_chunks(CHUNK)).for_each(|(gradient, x)| {
                    dispatch(Apply {
                        channel: channel(first + g),
                        x,
                        gradient,
                        sums: [&bias_gradient[first + g], &weight_gradient[first + g]],
                        pixels: plane as f32,
                    });
                });
            });
    }
}

/// Writes `LeakyReLU(scale · x + shift)` of a tensor.
pub(super) fn activate(affine: Affine, x: &[Lanes], plane: usize, out: &mut [Lanes]) {
    out.par_chunks_exact_mut(plane)
        .zip(x.par_chunks_exact(plane))
        .enumerate()
        .for_each(|(g, (out, x))| {
            let out = out.par_chunks_mut(CHUNK);
            out.zip(x.par_chunks(CHUNK)).for_each(|(out, x)| {
                dispatch(Activate {
                    scale: &affine.scale[g],
                    shift: &affine.shift[g],
                    slope: affine.slope,
                    x,
                    out,
                });
            });
        });
}

/// Lanes that [`Statistics`] needs to sum a tensor of `groups` groups.
pub(super) fn partial_len(groups: usize, plane: usize) -> usize {
    2 * groups * plane.div_ceil(CHUNK)
}

/// Mean and sum of squared differences from it.
struct Moments<'a> {
    data: &'a [Lanes],
}

impl Kernel for Moments<'_> {
    type Output = [Lanes; 2];

    #[inline(always)]
    fn run<V: F32x16>(self) -> [Lanes; 2] {
        // Several sums hide the latency of additions, and shorten each one's rounding chain.
        let mut sums = [V::splat(0.0); 8];
        let (parts, rest) = self.data.as_chunks::<8>();
        for part in parts {
            for (sum, x) in sums.iter_mut().zip(part) {
                *sum = sum.add(V::from_array(x.0));
            }
        }
        for x in rest {
            sums[0] = sums[0].add(V::from_array(x.0));
        }
        let mean = total(sums).mul(V::splat(1.0 / self.data.len() as f32));
        let mut sums = [V::splat(0.0); 8];
        for part in parts {
            for (sum, x) in sums.iter_mut().zip(part) {
                let d = V::from_array(x.0).sub(mean);
                *sum = d.mul_add(d, *sum);
            }
        }
        for x in rest {
            let d = V::from_array(x.0).sub(mean);
            sums[0] = d.mul_add(d, sums[0]);
        }
        [Lanes(mean.to_array()), Lanes(total(sums).to_array())]
    }
}

/// The sum of eight vectors.
#[inline(always)]
fn total<V: F32x16>(s: [V; 8]) -> V {
    let (a, b) = (s[0].add(s[1]), s[2].add(s[3]));
    let (c, d) = (s[4].add(s[5]), s[6].add(s[7]));
    a.add(b).add(c.add(d))
}

/// A channel group's statistics.
struct Channel<'a> {
    mean: &'a Lanes,
    inverse: &'a Lanes,
    scale: &'a Lanes,
    shift: &'a Lanes,
    slope: f32,
}

/// Sum of the gradient of the normalized value, and of its product with it before weight and bias.
struct Sums<'a> {
    channel: Channel<'a>,
    x: &'a [Lanes],
    gradient: &'a [Lanes],
}

impl Kernel for Sums<'_> {
    type Output = [Lanes; 2];

    #[inline(always)]
    fn run<V: F32x16>(self) -> [Lanes; 2] {
        let (scale, shift) = vectors::<V>(self.channel.scale, self.channel.shift);
        let (mean, inverse) = vectors::<V>(self.channel.mean, self.channel.inverse);
        let slope = V::splat(self.channel.slope);
        let mut sums = [V::splat(0.0); 8];
        let (x, x_rest) = self.x.as_chunks::<4>();
        let (gradient, gradient_rest) = self.gradient.as_chunks::<4>();
        for (x, gradient) in x.iter().zip(gradient) {
            for i in 0..4 {
                let (x, g) = vectors::<V>(&x[i], &gradient[i]);
                let g = x.mul_add(scale, shift).select_positive(g, g.mul(slope));
                sums[i] = sums[i].add(g);
                sums[4 + i] = g.mul_add(x.sub(mean), sums[4 + i]);
            }
        }
        for (x, gradient) in x_rest.iter().zip(gradient_rest) {
            let (x, g) = vectors::<V>(x, gradient);
            let g = x.mul_add(scale, shift).select_positive(g, g.mul(slope));
            sums[0] = sums[0].add(g);
            sums[4] = g.mul_add(x.sub(mean), sums[4]);
        }
        let bias = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
        let weight = sums[4].add(sums[5]).add(sums[6].add(sums[7])).mul(inverse);
        [Lanes(bias.to_array()), Lanes(weight.to_array())]
    }
}

#[inline(always)]
fn vectors<V: F32x16>(a: &Lanes, b: &Lanes) -> (V, V) {
    (V::from_array(a.0), V::from_array(b.0))
}

/// The gradient of `x`: what the mean and the variance take away is removed.
struct Apply<'a> {
    channel: Channel<'a>,
    x: &'a [Lanes],
    gradient: &'a mut [Lanes],
    /// Gradients of bias and weight.
    sums: [&'a Lanes; 2],
    pixels: f32,
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let (scale, shift) = vectors::<V>(self.channel.scale, self.channel.shift);
        let (mean, inverse) = vectors::<V>(self.channel.mean, self.channel.inverse);
        let (bias, weight) = vectors::<V>(self.sums[0], self.sums[1]);
        let slope = V::splat(self.channel.slope);
        let share = V::splat(-1.0 / self.pixels);
        let constant = scale.mul(bias).mul(share);
        let linear = scale.mul(weight).mul(inverse).mul(share);
        for (x, gradient) in self.x.iter().zip(self.gradient) {
            let (x, g) = vectors::<V>(x, gradient);
            let g = x.mul_add(scale, shift).select_positive(g, g.mul(slope));
            let removed = x.sub(mean).mul_add(linear, constant);
            gradient.0 = g.mul_add(scale, removed).to_array();
        }
    }
}

struct Activate<'a> {
    scale: &'a Lanes,
    shift: &'a Lanes,
    slope: f32,
    x: &'a [Lanes],
    out: &'a mut [Lanes],
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let (scale, shift) = vectors::<V>(self.scale, self.shift);
        let slope = V::splat(self.slope);
        for (x, out) in self.x.iter().zip(self.out) {
            let y = V::from_array(x.0).mul_add(scale, shift);
            out.0 = y.select_positive(y, y.mul(slope)).to_array();
        }
    }
}
