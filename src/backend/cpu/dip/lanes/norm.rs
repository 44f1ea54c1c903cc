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
pub fn channel_sums(isa: Isa, memory: &mut [Lanes], x: &View, sums: &mut [Lanes]) {
    assert!(x.end() <= memory.len() && sums.len() == x.channels);
    dispatch_on(
        isa,
        Sums {
            memory,
            x: *x,
            sums,
        },
    );
}

/// Mean and scale of every channel of `x`; `mean` holds the channel's sum at first.
pub fn statistics(isa: Isa, memory: &mut [Lanes], x: &View, statistics: &mut Statistics<'_>) {
    assert!(x.end() <= memory.len());
    assert!(statistics.mean.len() == x.channels && statistics.scale.len() == x.channels);
    dispatch_on(
        isa,
        Moments {
            memory,
            x: *x,
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
        x: *x,
        y: *y,
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
        x: *x,
        dy: *dy,
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

/// What a pixel adds to each of a channel's sums. (Not a closure: those are not sure to be inlined,
/// and only inlined code is compiled for the instruction set.)
trait Terms<V: F32x16, const N: usize> {
    /// # Safety
    /// `(y, x)` is a pixel of the maps.
    unsafe fn at(&self, y: usize, x: usize) -> [V; N];
}

/// Sums over the pixels of a channel.
///
/// # Safety
/// The terms' maps have `height × width` pixels.
#[inline(always)]
unsafe fn sums<V: F32x16, const N: usize>(
    terms: impl Terms<V, N>,
    height: usize,
    width: usize,
) -> [V; N] {
    let mut totals = [V::splat(0.0); N];
    for y in 0..height {
        let mut chains = [[V::splat(0.0); CHAINS]; N];
        let mut x = 0;
        // SAFETY: pixels of the maps.
        unsafe {
            while x + CHAINS <= width {
                for chain in 0..CHAINS {
                    let terms = terms.at(y, x + chain);
                    for n in 0..N {
                        chains[n][chain] = chains[n][chain].add(terms[n]);
                    }
                }
                x += CHAINS;
            }
            while x < width {
                let terms = terms.at(y, x);
                for n in 0..N {
                    chains[n][0] = chains[n][0].add(terms[n]);
                }
                x += 1;
            }
        }
        for n in 0..N {
            let [a, b, c, d] = chains[n];
            totals[n] = totals[n].add(a.add(b).add(c.add(d)));
        }
    }
    totals
}

/// A channel's plane: its first pixel and the distance from row to row.
#[derive(Clone, Copy)]
struct Plane {
    first: *mut Lanes,
    row: usize,
}

impl Plane {
    /// # Safety
    /// The view lies inside the memory, the channel is one of its own.
    #[inline(always)]
    unsafe fn new(memory: *mut Lanes, view: &View, channel: usize) -> Self {
        Plane {
            // SAFETY: the caller's promise.
            first: unsafe { memory.add(view.index(channel, 0, 0)) },
            row: view.row(),
        }
    }

    /// # Safety
    /// `(y, x)` is a pixel of the plane.
    #[inline(always)]
    unsafe fn at(&self, y: usize, x: usize) -> *mut Lanes {
        // SAFETY: the caller's promise.
        unsafe { self.first.add(y * self.row + x) }
    }
}

/// The values themselves.
struct Values(Plane);

impl<V: F32x16> Terms<V, 1> for Values {
    #[inline(always)]
    unsafe fn at(&self, y: usize, x: usize) -> [V; 1] {
        // SAFETY: the caller's promise.
        unsafe { [load(self.0.at(y, x))] }
    }
}

/// Squared distances from the mean.
struct Squares<V>(Plane, V);

impl<V: F32x16> Terms<V, 1> for Squares<V> {
    #[inline(always)]
    unsafe fn at(&self, y: usize, x: usize) -> [V; 1] {
        // SAFETY: the caller's promise.
        let distance = unsafe { load::<V>(self.0.at(y, x)) }.sub(self.1);
        [distance.mul(distance)]
    }
}

/// Views are kept by value: stores to the memory could otherwise change them, for all that the
/// compiler knows.
struct Sums<'a> {
    memory: &'a mut [Lanes],
    x: View,
    sums: &'a mut [Lanes],
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        for channel in 0..self.x.channels {
            // SAFETY: the view lies inside the memory.
            let [total] = unsafe {
                let plane = Plane::new(self.memory.as_mut_ptr(), &self.x, channel);
                sums::<V, 1>(Values(plane), self.x.height, self.x.width)
            };
            self.sums[channel] = lanes(total);
        }
    }
}

struct Moments<'a, 'b> {
    memory: &'a mut [Lanes],
    x: View,
    statistics: &'a mut Statistics<'b>,
}

impl Kernel for Moments<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let per_pixel = V::splat(1.0 / self.x.pixels() as f32);
        for channel in 0..self.x.channels {
            let mean = vector::<V>(&self.statistics.mean[channel]).mul(per_pixel);
            // SAFETY: the view lies inside the memory.
            let [squares] = unsafe {
                let plane = Plane::new(self.memory.as_mut_ptr(), &self.x, channel);
                sums::<V, 1>(Squares(plane, mean), self.x.height, self.x.width)
            };
            let variance = squares.mul_add(per_pixel, V::splat(BN_EPSILON as f32));
            self.statistics.mean[channel] = lanes(mean);
            self.statistics.scale[channel] = lanes(V::splat(1.0).div(variance.sqrt()));
        }
    }
}

/// A channel's normalisation: `factor · (x − mean) + bias`. Subtracting first keeps a channel without
/// variance at exactly the bias, on LeakyReLU's side of it.
#[derive(Clone, Copy)]
struct Line<V> {
    mean: V,
    factor: V,
    bias: V,
}

impl<V: F32x16> Line<V> {
    #[inline(always)]
    fn new(norm: &Norm<'_>, statistics: &Statistics<'_>, channel: usize) -> Self {
        Line {
            mean: vector(&statistics.mean[channel]),
            factor: vector::<V>(&norm.weight[channel]).mul(vector(&statistics.scale[channel])),
            bias: vector(&norm.bias[channel]),
        }
    }
}

struct Forward<'a, 'b> {
    norm: Norm<'a>,
    statistics: &'a Statistics<'b>,
    memory: &'a mut [Lanes],
    x: View,
    y: View,
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
            let line = Line::<V>::new(&self.norm, self.statistics, channel);
            for row in 0..self.x.height {
                let from = self.x.index(channel, row, 0);
                let to = self.y.index(channel, row, 0);
                for column in 0..self.x.width {
                    // SAFETY: pixels of views that lie inside the memory.
                    unsafe {
                        let v = load::<V>(memory.add(from + column)).sub(line.mean);
                        let v = v.mul_add(line.factor, line.bias);
                        store(memory.add(to + column), v.max(v.mul(slope)));
                    }
                }
            }
        }
    }
}

/// The derivative by the value after normalisation, and its product with the distance from the mean.
struct Derivatives<V> {
    x: Plane,
    dy: Plane,
    line: Line<V>,
    slope: V,
}

impl<V: F32x16> Derivatives<V> {
    /// The derivative, and the distance.
    ///
    /// # Safety
    /// `(y, x)` is a pixel of the maps.
    #[inline(always)]
    unsafe fn pixel(&self, y: usize, x: usize) -> (V, V) {
        // SAFETY: the caller's promise.
        let (v, d): (V, V) = unsafe { (load(self.x.at(y, x)), load(self.dy.at(y, x))) };
        let distance = v.sub(self.line.mean);
        let normalised = distance.mul_add(self.line.factor, self.line.bias);
        let slope = normalised.select_positive(V::splat(1.0), self.slope);
        (d.mul(slope), distance)
    }
}

impl<V: F32x16> Terms<V, 2> for &Derivatives<V> {
    #[inline(always)]
    unsafe fn at(&self, y: usize, x: usize) -> [V; 2] {
        // SAFETY: the caller's promise.
        let (d, distance) = unsafe { self.pixel(y, x) };
        [d, d.mul(distance)]
    }
}

struct Backward<'a, 'b> {
    norm: Norm<'a>,
    statistics: &'a Statistics<'b>,
    memory: &'a mut [Lanes],
    x: View,
    dy: View,
    dweight: &'a mut [Lanes],
    dbias: &'a mut [Lanes],
}

impl Kernel for Backward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let memory = self.memory.as_mut_ptr();
        let (height, width) = (self.x.height, self.x.width);
        let zero = V::splat(0.0);
        let slope = if self.norm.leaky {
            LEAKY_SLOPE as f32
        } else {
            1.0
        };
        let per_pixel = V::splat(1.0 / self.x.pixels() as f32);
        for channel in 0..self.x.channels {
            let scale = vector::<V>(&self.statistics.scale[channel]);
            let line = Line::<V>::new(&self.norm, self.statistics, channel);
            // SAFETY: the views lie inside the memory, and all places are pixels of theirs.
            unsafe {
                let derivatives = Derivatives {
                    x: Plane::new(memory, &self.x, channel),
                    dy: Plane::new(memory, &self.dy, channel),
                    line,
                    slope: V::splat(slope),
                };
                let [sum, product] = sums(&derivatives, height, width);
                let dweight = product.mul(scale);
                self.dweight[channel] = lanes(dweight);
                self.dbias[channel] = lanes(sum);
                // factor · (d − sum/n − distance · scale · dweight/n).
                let slant = zero.sub(line.factor.mul(scale).mul(dweight.mul(per_pixel)));
                let level = zero.sub(line.factor.mul(sum.mul(per_pixel)));
                for y in 0..height {
                    for x in 0..width {
                        let (d, distance) = derivatives.pixel(y, x);
                        let around = distance.mul_add(slant, level);
                        store(derivatives.x.at(y, x), d.mul_add(line.factor, around));
                    }
                }
            }
        }
    }
}
