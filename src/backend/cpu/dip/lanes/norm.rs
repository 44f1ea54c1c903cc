//! Batch normalization with each instance's own statistics, with or without LeakyReLU behind it.
//!
//! Only what is normalized is kept: the backward pass finds the sign of LeakyReLU's input, and the
//! normalized value, from it again. Statistics take two passes, first the mean, then the variance
//! around it, so that a mean far from zero costs no accuracy.
//!
//! What normalization cancels, the backward pass must cancel too: the gradient by the scale of a channel
//! that is normalized once more is a millionth of its terms. So rows are added up with their rounding
//! errors kept, and what is computed once a channel is computed in float64.

use super::view::{View, lanes, load, store, vector};
use crate::backend::cpu::simd::{F32x16, Isa, Kernel, LANES, Lanes, dispatch_on};
use crate::dip::{BN_EPSILON, LEAKY_SLOPE};

/// Sums that run side by side, so that one addition need not wait for the one before.
const CHAINS: usize = 4;

/// One normalization's parameters, a vector a channel.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub weight: &'a [Lanes],
    pub bias: &'a [Lanes],
    /// Whether LeakyReLU follows.
    pub leaky: bool,
}

/// What normalization knows of a channel.
#[derive(Clone, Copy, Debug, bytemuck::Zeroable)]
pub(super) struct Channel {
    /// The channel's sum at first.
    pub mean: Lanes,
    /// `1/sqrt(variance + ε)`.
    pub scale: Lanes,
    /// What the mean lacks.
    residual: [f64; LANES],
    /// `1/(variance + ε)`.
    precision: [f64; LANES],
}

/// Puts each channel's sum over its pixels where its mean will be.
pub(super) fn channel_sums(isa: Isa, memory: &mut [Lanes], x: &View, channels: &mut [Channel]) {
    assert!(x.end() <= memory.len() && channels.len() == x.channels);
    let kernel = Sums {
        memory,
        x: *x,
        channels,
    };
    dispatch_on(isa, kernel);
}

/// Completes the statistics of every channel of `x`, given the sums.
pub(super) fn statistics(isa: Isa, memory: &mut [Lanes], x: &View, channels: &mut [Channel]) {
    assert!(x.end() <= memory.len() && channels.len() == x.channels);
    let kernel = Moments {
        memory,
        x: *x,
        channels,
    };
    dispatch_on(isa, kernel);
}

/// `y = leaky(weight · (x − mean) · scale + bias)`.
pub(super) fn forward(
    isa: Isa,
    norm: Norm<'_>,
    channels: &[Channel],
    memory: &mut [Lanes],
    x: &View,
    y: &View,
) {
    check(&norm, channels, memory, x, y);
    let kernel = Forward {
        norm,
        channels,
        memory,
        x: *x,
        y: *y,
    };
    dispatch_on(isa, kernel);
}

/// Overwrites `x` with the derivative by it, given `dy`, and fills the parameters' derivatives.
#[allow(clippy::too_many_arguments)] // the operands of the derivative
pub(super) fn backward(
    isa: Isa,
    norm: Norm<'_>,
    channels: &[Channel],
    memory: &mut [Lanes],
    x: &View,
    dy: &View,
    dweight: &mut [Lanes],
    dbias: &mut [Lanes],
) {
    check(&norm, channels, memory, x, dy);
    assert!(dweight.len() == x.channels && dbias.len() == x.channels);
    let kernel = Backward {
        norm,
        channels,
        memory,
        x: *x,
        dy: *dy,
        dweight,
        dbias,
    };
    dispatch_on(isa, kernel);
}

/// Panics unless every access lies inside the memory: what the unsafe loops rely on.
fn check(norm: &Norm<'_>, channels: &[Channel], memory: &[Lanes], x: &View, y: &View) {
    assert!(x.same_size(y) && x.end() <= memory.len() && y.end() <= memory.len());
    assert!(channels.len() == x.channels);
    assert!(norm.weight.len() == x.channels && norm.bias.len() == x.channels);
}

/// A sum that keeps its rounding errors (Knuth's two-sum).
#[derive(Clone, Copy)]
struct Exact<V> {
    sum: V,
    residual: V,
}

impl<V: F32x16> Exact<V> {
    #[inline(always)]
    fn zero() -> Self {
        let zero = V::splat(0.0);
        Exact {
            sum: zero,
            residual: zero,
        }
    }

    #[inline(always)]
    fn add(self, b: V) -> Self {
        let sum = self.sum.add(b);
        let added = sum.sub(self.sum);
        let error = self.sum.sub(sum.sub(added)).add(b.sub(added));
        Exact {
            sum,
            residual: self.residual.add(error),
        }
    }

    #[inline(always)]
    fn wide(self) -> [f64; LANES] {
        let (sum, residual) = (self.sum.to_array(), self.residual.to_array());
        std::array::from_fn(|lane| f64::from(sum[lane]) + f64::from(residual[lane]))
    }
}

/// Every lane's number, rounded.
#[inline(always)]
fn narrow(values: [f64; LANES]) -> Lanes {
    Lanes(values.map(|v| v as f32))
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
) -> [Exact<V>; N] {
    let mut totals = [Exact::zero(); N];
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

/// Distances from the mean, and their squares.
struct Distances<V>(Plane, V);

impl<V: F32x16> Terms<V, 2> for Distances<V> {
    #[inline(always)]
    unsafe fn at(&self, y: usize, x: usize) -> [V; 2] {
        // SAFETY: the caller's promise.
        let distance = unsafe { load::<V>(self.0.at(y, x)) }.sub(self.1);
        [distance, distance.mul(distance)]
    }
}

/// Views are kept by value: stores to the memory could otherwise change them, for all that the
/// compiler knows.
struct Sums<'a> {
    memory: &'a mut [Lanes],
    x: View,
    channels: &'a mut [Channel],
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        for (i, channel) in self.channels.iter_mut().enumerate() {
            // SAFETY: the view lies inside the memory.
            let [total] = unsafe {
                let plane = Plane::new(self.memory.as_mut_ptr(), &self.x, i);
                sums::<V, 1>(Values(plane), self.x.height, self.x.width)
            };
            channel.mean = lanes(total.sum);
        }
    }
}

struct Moments<'a> {
    memory: &'a mut [Lanes],
    x: View,
    channels: &'a mut [Channel],
}

impl Kernel for Moments<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let per_pixel = 1.0 / self.x.pixels() as f64;
        for (i, channel) in self.channels.iter_mut().enumerate() {
            let mean = vector::<V>(&channel.mean).mul(V::splat(per_pixel as f32));
            // SAFETY: the view lies inside the memory.
            let [residual, squares] = unsafe {
                let plane = Plane::new(self.memory.as_mut_ptr(), &self.x, i);
                sums::<V, 2>(Distances(plane, mean), self.x.height, self.x.width)
            };
            channel.residual = residual.wide().map(|sum| sum * per_pixel);
            let squares = squares.wide();
            channel.precision = std::array::from_fn(|lane| {
                let variance = squares[lane] * per_pixel - channel.residual[lane].powi(2);
                1.0 / (variance.max(0.0) + BN_EPSILON)
            });
            channel.mean = lanes(mean);
            channel.scale = narrow(channel.precision.map(f64::sqrt));
        }
    }
}

/// A channel's normalization: `factor · (x − mean) + bias`. Subtracting first keeps a channel without
/// variance at exactly the bias, on LeakyReLU's side of it.
#[derive(Clone, Copy)]
struct Line<V> {
    mean: V,
    factor: V,
    bias: V,
}

impl<V: F32x16> Line<V> {
    #[inline(always)]
    fn new(norm: &Norm<'_>, channel: &Channel, i: usize) -> Self {
        Line {
            mean: vector(&channel.mean),
            factor: vector::<V>(&norm.weight[i]).mul(vector(&channel.scale)),
            bias: vector(&norm.bias[i]),
        }
    }
}

struct Forward<'a> {
    norm: Norm<'a>,
    channels: &'a [Channel],
    memory: &'a mut [Lanes],
    x: View,
    y: View,
}

impl Kernel for Forward<'_> {
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
        for (channel, statistics) in self.channels.iter().enumerate() {
            let line = Line::<V>::new(&self.norm, statistics, channel);
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

/// The derivative by the value after normalization, and its product with the distance from the mean.
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
        let normalized = distance.mul_add(self.line.factor, self.line.bias);
        let slope = normalized.select_positive(V::splat(1.0), self.slope);
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

struct Backward<'a> {
    norm: Norm<'a>,
    channels: &'a [Channel],
    memory: &'a mut [Lanes],
    x: View,
    dy: View,
    dweight: &'a mut [Lanes],
    dbias: &'a mut [Lanes],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let memory = self.memory.as_mut_ptr();
        let (height, width) = (self.x.height, self.x.width);
        let slope = if self.norm.leaky {
            LEAKY_SLOPE as f32
        } else {
            1.0
        };
        let per_pixel = 1.0 / self.x.pixels() as f64;
        for (i, channel) in self.channels.iter().enumerate() {
            let line = Line::<V>::new(&self.norm, channel, i);
            // SAFETY: the views lie inside the memory, and all places are pixels of theirs.
            unsafe {
                let derivatives = Derivatives {
                    x: Plane::new(memory, &self.x, i),
                    dy: Plane::new(memory, &self.dy, i),
                    line,
                    slope: V::splat(slope),
                };
                let [sum, product] = sums(&derivatives, height, width);
                let (sum, mut product) = (sum.wide(), product.wide());
                let factor = line.factor.to_array();
                let scale = channel.scale.0;
                // The derivative is factor · (d − sum/n − (distance − residual) · precision · product/n).
                let (mut coefficient, mut level) = ([0.0; LANES], [0.0; LANES]);
                for lane in 0..LANES {
                    product[lane] -= channel.residual[lane] * sum[lane];
                    let factor = f64::from(factor[lane]) * per_pixel;
                    coefficient[lane] = -factor * channel.precision[lane] * product[lane];
                    level[lane] = -factor * sum[lane] - coefficient[lane] * channel.residual[lane];
                    product[lane] *= f64::from(scale[lane]);
                }
                self.dweight[i] = narrow(product);
                self.dbias[i] = narrow(sum);
                let high = narrow(coefficient);
                let low = std::array::from_fn(|lane| coefficient[lane] - f64::from(high.0[lane]));
                let (low, high): (V, V) = (vector(&narrow(low)), vector(&high));
                let level: V = vector(&narrow(level));
                for y in 0..height {
                    for x in 0..width {
                        let (d, distance) = derivatives.pixel(y, x);
                        let around = distance.mul_add(high, distance.mul_add(low, level));
                        store(derivatives.x.at(y, x), d.mul_add(line.factor, around));
                    }
                }
            }
        }
    }
}
