//! Batch normalisation with each instance's own statistics, with or without LeakyReLU behind it.
//!
//! Only what is normalised is kept: the backward pass finds the sign of LeakyReLU's input, and the
//! normalised value, from it again. Statistics take two passes, first the mean, then the variance
//! around it, so that a mean far from zero costs no accuracy; sums are taken row by row and then over
//! rows, so that rounding errors grow with height and width, not with their product.

use super::view::{View, lanes, load, store, vector};
use crate::backend::cpu::simd::{F32x16, Isa, Kernel, Lanes, dispatch_on};
use crate::dip::{BN_EPSILON, LEAKY_SLOPE};

/// Sums that run side by side, so that one addition need not wait for the one before.
const CHAINS: usize = 4;

/// One normalisation's parameters and statistics, a vector a channel.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    pub weight: &'a [Lanes],
    pub bias: &'a [Lanes],
    /// Whether LeakyReLU follows.
    pub leaky: bool,
}

/// Mean and `1/sqrt(variance + ε)` of each channel.
pub struct Statistics<'a> {
    pub mean: &'a mut [Lanes],
    pub scale: &'a mut [Lanes],
}

/// Each channel's sum over its pixels.
pub fn channel_sums(isa: Isa, memory: &[Lanes], x: &View, sums: &mut [Lanes]) {
    assert!(x.end() <= memory.len() && sums.len() == x.channels);
    dispatch_on(isa, Sums { memory, x, sums });
}

/// Mean and scale of every channel of `x`; `mean` holds the channel's sum at first.
pub fn statistics(isa: Isa, memory: &[Lanes], x: &View, statistics: &mut Statistics<'_>) {
    assert!(x.end() <= memory.len());
    assert!(statistics.mean.len() == x.channels && statistics.scale.len() == x.channels);
    dispatch_on(
        isa,
        Moments {
            memory,
            x,
            statistics,
        },
    );
}

/// `y = leaky(weight · (x − mean) · scale + bias)`.
pub fn forward(
    isa: Isa,
    norm: Norm<'_>,
    statistics: &Statistics<'_>,
    memory: &mut [Lanes],
    x: &View,
    y: &View,
) {
    check(&norm, statistics, memory, x, y);
    let kernel = Forward {
        norm,
        statistics,
        memory,
        x,
        y,
    };
    dispatch_on(isa, kernel);
}

/// Overwrites `x` with the derivative by it, given `dy`, and fills the parameters' derivatives.
#[allow(clippy::too_many_arguments)] // the operands of the derivative
pub fn backward(
    isa: Isa,
    norm: Norm<'_>,
    statistics: &Statistics<'_>,
    memory: &mut [Lanes],
    x: &View,
    dy: &View,
    dweight: &mut [Lanes],
    dbias: &mut [Lanes],
) {
    check(&norm, statistics, memory, x, dy);
    assert!(dweight.len() == x.channels && dbias.len() == x.channels);
    let kernel = Backward {
        norm,
        statistics,
        memory,
        x,
        dy,
        dweight,
        dbias,
    };
    dispatch_on(isa, kernel);
}

/// Panics unless every access lies inside the memory: what the unsafe loops rely on.
fn check(norm: &Norm<'_>, statistics: &Statistics<'_>, memory: &[Lanes], x: &View, y: &View) {
    assert!(x.same_size(y) && x.end() <= memory.len() && y.end() <= memory.len());
    for values in [norm.weight, norm.bias, statistics.mean, statistics.scale] {
        assert!(values.len() == x.channels);
    }
}

/// Sums over a channel's pixels: `terms(y, x)` gives each pixel's part of every sum.
#[inline(always)]
fn sums<V: F32x16, const N: usize>(
    view: &View,
    mut terms: impl FnMut(usize, usize) -> [V; N],
) -> [V; N] {
    let mut totals = [V::splat(0.0); N];
    for y in 0..view.height {
        let mut chains = [[V::splat(0.0); CHAINS]; N];
        let mut x = 0;
        while x + CHAINS <= view.width {
            for chain in 0..CHAINS {
                let terms = terms(y, x + chain);
                for n in 0..N {
                    chains[n][chain] = chains[n][chain].add(terms[n]);
                }
            }
            x += CHAINS;
        }
        while x < view.width {
            let terms = terms(y, x);
            for n in 0..N {
                chains[n][0] = chains[n][0].add(terms[n]);
            }
            x += 1;
        }
        for n in 0..N {
            let [a, b, c, d] = chains[n];
            totals[n] = totals[n].add(a.add(b).add(c.add(d)));
        }
    }
    totals
}

struct Sums<'a> {
    memory: &'a [Lanes],
    x: &'a View,
    sums: &'a mut [Lanes],
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        for channel in 0..self.x.channels {
            let [total] = sums(self.x, |y, x| {
                let place = self.x.index(channel, y, x);
                // SAFETY: a pixel of a view that lies inside the memory.
                [unsafe { load::<V>(self.memory.as_ptr().add(place)) }]
            });
            self.sums[channel] = lanes(total);
        }
    }
}

struct Moments<'a, 'b> {
    memory: &'a [Lanes],
    x: &'a View,
    statistics: &'a mut Statistics<'b>,
}

impl Kernel for Moments<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let per_pixel = V::splat(1.0 / self.x.pixels() as f32);
        for channel in 0..self.x.channels {
            let mean = vector::<V>(&self.statistics.mean[channel]).mul(per_pixel);
            let [squares] = sums(self.x, |y, x| {
                let place = self.x.index(channel, y, x);
                // SAFETY: a pixel of a view that lies inside the memory.
                let v = unsafe { load::<V>(self.memory.as_ptr().add(place)) };
                let d = v.sub(mean);
                [d.mul(d)]
            });
            let variance = squares.mul_add(per_pixel, V::splat(BN_EPSILON as f32));
            self.statistics.mean[channel] = lanes(mean);
            self.statistics.scale[channel] = lanes(V::splat(1.0).div(variance.sqrt()));
        }
    }
}

/// `factor · x + offset`, which normalises a channel and applies the parameters.
#[inline(always)]
fn line<V: F32x16>(norm: &Norm<'_>, statistics: &Statistics<'_>, channel: usize) -> (V, V) {
    let factor = vector::<V>(&norm.weight[channel]).mul(vector(&statistics.scale[channel]));
    let zero = V::splat(0.0);
    let mean = vector::<V>(&statistics.mean[channel]);
    let offset = zero.sub(mean).mul_add(factor, vector(&norm.bias[channel]));
    (factor, offset)
}

struct Forward<'a, 'b> {
    norm: Norm<'a>,
    statistics: &'a Statistics<'b>,
    memory: &'a mut [Lanes],
    x: &'a View,
    y: &'a View,
}

impl Kernel for Forward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let memory = self.memory.as_mut_ptr();
        // The larger of a value and its fraction is LeakyReLU; the fraction 1 leaves values alone.
        let slope = V::splat(if self.norm.leaky {
            LEAKY_SLOPE as f32
        } else {
            1.0
        });
        for channel in 0..self.x.channels {
            let (factor, offset) = line::<V>(&self.norm, self.statistics, channel);
            for row in 0..self.x.height {
                let from = self.x.index(channel, row, 0);
                let to = self.y.index(channel, row, 0);
                for column in 0..self.x.width {
                    // SAFETY: pixels of views that lie inside the memory.
                    unsafe {
                        let v = load::<V>(memory.add(from + column)).mul_add(factor, offset);
                        store(memory.add(to + column), v.max(v.mul(slope)));
                    }
                }
            }
        }
    }
}

struct Backward<'a, 'b> {
    norm: Norm<'a>,
    statistics: &'a Statistics<'b>,
    memory: &'a mut [Lanes],
    x: &'a View,
    dy: &'a View,
    dweight: &'a mut [Lanes],
    dbias: &'a mut [Lanes],
}

impl Kernel for Backward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let memory = self.memory.as_mut_ptr();
        let (one, zero) = (V::splat(1.0), V::splat(0.0));
        let slope = V::splat(if self.norm.leaky {
            LEAKY_SLOPE as f32
        } else {
            1.0
        });
        let per_pixel = V::splat(1.0 / self.x.pixels() as f32);
        for channel in 0..self.x.channels {
            let (factor, offset) = line::<V>(&self.norm, self.statistics, channel);
            let mean = vector::<V>(&self.statistics.mean[channel]);
            let scale = vector::<V>(&self.statistics.scale[channel]);
            // The value before normalisation, and the derivative by the value after it.
            let pixel = |y: usize, x: usize| {
                // SAFETY: pixels of views that lie inside the memory.
                let (v, d) = unsafe {
                    (
                        load::<V>(memory.add(self.x.index(channel, y, x))),
                        load::<V>(memory.add(self.dy.index(channel, y, x))),
                    )
                };
                let positive = v.mul_add(factor, offset);
                (v, d.mul(positive.select_positive(one, slope)))
            };
            let [sum, product] = sums(self.x, |y, x| {
                let (v, d) = pixel(y, x);
                [d, d.mul(v.sub(mean))]
            });
            let dweight = product.mul(scale);
            self.dweight[channel] = lanes(dweight);
            self.dbias[channel] = lanes(sum);
            // factor · (d − sum/n − (v − mean) · scale · dweight/n) as a multiple of d and a line in v.
            let slant = zero.sub(factor.mul(scale).mul(dweight.mul(per_pixel)));
            let level = zero.sub(factor.mul(sum.mul(per_pixel)));
            for y in 0..self.x.height {
                for x in 0..self.x.width {
                    let (v, d) = pixel(y, x);
                    let around = v.sub(mean).mul_add(slant, level);
                    // SAFETY: a pixel of a view that lies inside the memory.
                    unsafe {
                        store(
                            memory.add(self.x.index(channel, y, x)),
                            d.mul_add(factor, around),
                        );
                    }
                }
            }
        }
    }
}
