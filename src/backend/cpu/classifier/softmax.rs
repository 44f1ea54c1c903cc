//! Softmax and its logarithm.

use rayon::prelude::*;

use super::gemm::{load_part, store_part};
use super::operation::{Backward, Inputs, Operation, Reads, Shared, numbers, only, sum};
use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch, exp};
use crate::classifier::Function;

/// Softmax along one axis of a row-major tensor, seen as `[outer][length][inner]`.
pub(super) struct Softmax {
    logarithm: bool,
    outer: usize,
    length: usize,
    inner: usize,
}

impl Softmax {
    /// Softmax, or its logarithm, of a tensor of shape `dims`.
    pub(super) fn new(logarithm: bool, axis: usize, dims: &[usize]) -> Self {
        Softmax {
            logarithm,
            outer: dims[..axis].iter().product(),
            length: dims[axis],
            inner: dims[axis + 1..].iter().product(),
        }
    }

    /// Calls `f(i)` for the parts of the outer axis, in parallel.
    fn each(&self, f: impl Fn(usize) + Sync + Send) {
        let size = (self.length * self.inner).max(1);
        (0..self.outer)
            .into_par_iter()
            .with_min_len((1024 / size).max(1))
            .for_each(f);
    }
}

impl Operation for Softmax {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        _: Option<Function>,
        output: &mut [Lanes],
        _: &mut [Lanes],
    ) {
        let x = numbers(inputs.get(0));
        let to = Shared::new(output);
        let size = self.length * self.inner;
        self.each(|i| {
            dispatch(Forward {
                softmax: self,
                x: x[i * size..][..size].as_ptr(),
                // SAFETY: each `i` has its own part of the output.
                y: unsafe { to.ptr().add(i * size) },
            });
        });
    }

    fn backward(&self, pass: Backward<'_>) {
        let (y, gradient) = (numbers(pass.output), numbers(pass.gradient));
        let to = Shared::new(pass.to);
        let size = self.length * self.inner;
        self.each(|i| {
            dispatch(Gradient {
                softmax: self,
                y: y[i * size..][..size].as_ptr(),
                gradient: gradient[i * size..][..size].as_ptr(),
                // SAFETY: each `i` has its own part of the gradient.
                to: unsafe { to.ptr().add(i * size) },
                accumulate: pass.accumulate,
            });
        });
    }

    fn reads(&self) -> Reads {
        Reads {
            inputs: false,
            output: true,
        }
    }
}

/// Where the vectors of a row of `length` numbers, or of one column of vectors in `[length][inner]`,
/// start, and how many of their lanes matter.
///
/// An iterator, not a function that calls a closure: arithmetic in a closure that is not inlined would
/// not be compiled for the instruction set.
#[inline(always)]
fn vectors(softmax: &Softmax, column: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
    let along = softmax.inner == 1;
    let (vectors, step, end) = if along {
        (softmax.length.div_ceil(LANES), LANES, softmax.length)
    } else {
        (softmax.length, softmax.inner, softmax.inner - column)
    };
    (0..vectors).map(move |i| {
        let left = if along { end - i * LANES } else { end };
        (column + i * step, left.min(LANES))
    })
}

/// The largest lane.
#[inline(always)]
fn largest_lane<V: F32x16>(x: V) -> f32 {
    let mut largest = f32::NEG_INFINITY;
    for lane in x.to_array() {
        largest = largest.max(lane);
    }
    largest
}

struct Forward<'a> {
    softmax: &'a Softmax,
    x: *const f32,
    y: *mut f32,
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Forward { softmax, x, y } = self;
        for column in (0..softmax.inner).step_by(LANES) {
            let mut largest = V::splat(f32::NEG_INFINITY);
            for (at, count) in vectors(softmax, column) {
                // SAFETY: here and below, `x` and `y` are `[length][inner]`.
                unsafe {
                    let x = only(load_part::<V>(x.add(at), count), count, f32::NEG_INFINITY);
                    largest = largest.max(x);
                }
            }
            // Where a row lies along the lanes, over them too.
            if softmax.inner == 1 {
                largest = V::splat(largest_lane(largest));
            }
            let zero = V::splat(0.0);
            let mut total = zero;
            for (at, count) in vectors(softmax, column) {
                // SAFETY: `x` and `y` are `[length][inner]`, and the part lies in their rows.
                unsafe {
                    let shifted = load_part::<V>(x.add(at), count).sub(largest);
                    // Far below the largest: 0 instead of a number that denormal arithmetic would slow.
                    let e = shifted
                        .add(V::splat(80.0))
                        .select_positive(exp(shifted), zero);
                    let e = only(e, count, 0.0);
                    total = total.add(e);
                    store_part(
                        if softmax.logarithm { shifted } else { e },
                        y.add(at),
                        count,
                    );
                }
            }
            if softmax.inner == 1 {
                total = V::splat(sum(total));
            }
            let factor = if softmax.logarithm {
                let mut lanes = total.to_array();
                for lane in &mut lanes {
                    *lane = lane.ln();
                }
                V::from_array(lanes)
            } else {
                V::splat(1.0).div(total)
            };
            for (at, count) in vectors(softmax, column) {
                // SAFETY: `y` is `[length][inner]`, and the part lies in its rows.
                unsafe {
                    let part: V = load_part(y.add(at), count);
                    let part = if softmax.logarithm {
                        part.sub(factor)
                    } else {
                        part.mul(factor)
                    };
                    store_part(part, y.add(at), count);
                }
            }
        }
    }
}

struct Gradient<'a> {
    softmax: &'a Softmax,
    y: *const f32,
    gradient: *const f32,
    to: *mut f32,
    accumulate: bool,
}

impl Kernel for Gradient<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Gradient {
            softmax,
            y,
            gradient,
            to,
            accumulate,
        } = self;
        for column in (0..softmax.inner).step_by(LANES) {
            let mut total = V::splat(0.0);
            for (at, count) in vectors(softmax, column) {
                // SAFETY: here and below, all three are `[length][inner]`.
                unsafe {
                    let g: V = load_part(gradient.add(at), count);
                    let term = if softmax.logarithm {
                        g
                    } else {
                        load_part::<V>(y.add(at), count).mul(g)
                    };
                    total = total.add(term);
                }
            }
            if softmax.inner == 1 {
                total = V::splat(sum(total));
            }
            for (at, count) in vectors(softmax, column) {
                // SAFETY: all three are `[length][inner]`, and the part lies in their rows.
                unsafe {
                    let g: V = load_part(gradient.add(at), count);
                    let y: V = load_part(y.add(at), count);
                    let by = if softmax.logarithm {
                        g.sub(exp(y).mul(total))
                    } else {
                        y.mul(g.sub(total))
                    };
                    let to = to.add(at);
                    let by = if accumulate {
                        load_part::<V>(to, count).add(by)
                    } else {
                        by
                    };
                    store_part(by, to, count);
                }
            }
        }
    }
}
