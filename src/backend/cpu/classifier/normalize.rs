//! Normalization by a tensor's own statistics.

use rayon::prelude::*;

use super::gemm::{load_part, store_part};
use super::operation::{Backward, Inputs, Operation, Reads, numbers, numbers_mut, only, sum};
use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch};
use crate::classifier::Function;

/// `(x − mean) / sqrt(variance + epsilon)` of each row of a row-major tensor.
pub(super) struct Normalize {
    rows: usize,
    length: usize,
    epsilon: f32,
}

impl Normalize {
    /// A normalization of a tensor of shape `dims` along `axis` and all axes after it.
    pub(super) fn new(axis: usize, epsilon: f32, dims: &[usize]) -> Self {
        Normalize {
            rows: dims[..axis].iter().product(),
            length: dims[axis..].iter().product(),
            epsilon,
        }
    }

    /// Calls `f(row, to)` for the rows of `to`, in parallel.
    fn each(&self, to: &mut [Lanes], f: impl Fn(usize, &mut [f32]) + Sync) {
        let length = self.length.max(1);
        numbers_mut(to)[..self.rows * self.length]
            .par_chunks_exact_mut(length)
            .with_min_len((8192 / length).max(1))
            .enumerate()
            .for_each(|(row, to)| f(row, to));
    }
}

impl Operation for Normalize {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        _: Option<Function>,
        output: &mut [Lanes],
        _: &mut [Lanes],
    ) {
        let x = numbers(inputs.get(0));
        self.each(output, |row, y| {
            dispatch(Forward {
                x: &x[row * self.length..][..self.length],
                epsilon: self.epsilon,
                y,
            });
        });
    }

    fn backward(&self, pass: Backward<'_>) {
        let (x, gradient) = (numbers(pass.inputs.get(0)), numbers(pass.gradient));
        self.each(pass.to, |row, to| {
            let row = row * self.length..(row + 1) * self.length;
            dispatch(Gradient {
                x: &x[row.clone()],
                epsilon: self.epsilon,
                gradient: &gradient[row],
                to,
                accumulate: pass.accumulate,
            });
        });
    }

    fn reads(&self) -> Reads {
        Reads {
            inputs: true,
            output: false,
        }
    }
}

/// The vectors of a row of `length` numbers: where each starts, and how many of its lanes matter.
#[inline(always)]
fn vectors(length: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..length)
        .step_by(LANES)
        .map(move |first| (first, LANES.min(length - first)))
}

/// Sums in four parts, so that additions need not wait for each other.
struct Total<V>([V; 4]);

impl<V: F32x16> Total<V> {
    #[inline(always)]
    fn new() -> Self {
        Total([V::splat(0.0); 4])
    }

    /// Adds the term of the vector that starts at number `first`.
    #[inline(always)]
    fn add(&mut self, first: usize, term: V) {
        let part = &mut self.0[first / LANES % 4];
        *part = part.add(term);
    }

    /// The mean of `length` terms.
    #[inline(always)]
    fn mean(self, length: usize) -> f32 {
        let [a, b, c, d] = self.0;
        sum(a.add(b).add(c.add(d))) / length as f32
    }
}

/// A row's mean and the reciprocal of its deviation. Two passes: the difference of the mean square and
/// the squared mean would cancel.
#[inline(always)]
fn statistics<V: F32x16>(x: &[f32], epsilon: f32) -> [f32; 2] {
    let mut total = Total::<V>::new();
    for (first, count) in vectors(x.len()) {
        // SAFETY: `count` numbers from `first` lie within the row.
        total.add(first, unsafe { load_part(x.as_ptr().add(first), count) });
    }
    let mean = total.mean(x.len());
    let mut squares = Total::new();
    for (first, count) in vectors(x.len()) {
        // SAFETY: `count` numbers from `first` lie within the row.
        let x: V = unsafe { load_part(x.as_ptr().add(first), count) };
        let centered = only(x.sub(V::splat(mean)), count, 0.0);
        squares.add(first, centered.mul(centered));
    }
    let deviation = (squares.mean(x.len()) + epsilon).sqrt();
    [mean, 1.0 / deviation]
}

struct Forward<'a> {
    x: &'a [f32],
    epsilon: f32,
    /// As long as `x`.
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        let [mean, scale] = statistics::<V>(self.x, self.epsilon);
        for (first, count) in vectors(self.x.len()) {
            // SAFETY: `count` numbers from `first` lie within both rows.
            unsafe {
                let x: V = load_part(self.x.as_ptr().add(first), count);
                let y = x.sub(V::splat(mean)).mul(V::splat(scale));
                store_part(y, self.y.as_mut_ptr().add(first), count);
            }
        }
    }
}

/// `(g − mean(g) − y·mean(g·y)) · scale`, where `y` is the output.
struct Gradient<'a> {
    x: &'a [f32],
    epsilon: f32,
    /// As long as `x`, like `to`.
    gradient: &'a [f32],
    to: &'a mut [f32],
    accumulate: bool,
}

impl Kernel for Gradient<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        let length = self.x.len();
        let [mean, scale] = statistics::<V>(self.x, self.epsilon);
        let (mut plain, mut along) = (Total::new(), Total::new());
        for (first, count) in vectors(length) {
            // SAFETY: here and below, `count` numbers from `first` lie within all three rows.
            unsafe {
                let x: V = load_part(self.x.as_ptr().add(first), count);
                let y = x.sub(V::splat(mean)).mul(V::splat(scale));
                // Beyond the end the gradient is 0.
                let g: V = load_part(self.gradient.as_ptr().add(first), count);
                plain.add(first, g);
                along.add(first, g.mul(y));
            }
        }
        let (plain, along) = (plain.mean(length), along.mean(length));
        for (first, count) in vectors(length) {
            // SAFETY: `count` numbers from `first` lie within all three rows.
            unsafe {
                let x: V = load_part(self.x.as_ptr().add(first), count);
                let y = x.sub(V::splat(mean)).mul(V::splat(scale));
                let g: V = load_part(self.gradient.as_ptr().add(first), count);
                let by = g.sub(V::splat(plain)).sub(y.mul(V::splat(along)));
                let to = self.to.as_mut_ptr().add(first);
                let mut by = by.mul(V::splat(scale));
                if self.accumulate {
                    by = by.add(load_part(to, count));
                }
                store_part(by, to, count);
            }
        }
    }
}
