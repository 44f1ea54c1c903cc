//! Pools, on channel-blocked pictures.

use rayon::prelude::*;

use super::operation::{Backward, Inputs, Operation, Reads};
use crate::backend::cpu::simd::{F32x16, Kernel, Lanes, dispatch};
use crate::classifier::{Function, Window};

/// What a pool makes of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PoolKind {
    Max,
    Average,
}

/// What one output row (or column) reads.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// First input row inside the picture.
    first: usize,
    /// Rows inside the picture.
    taps: usize,
    /// Rows that an average counts.
    counted: usize,
}

/// A maximum or average over windows.
pub(super) struct Pool {
    kind: PoolKind,
    input: [usize; 2],
    output: [usize; 2],
    spans: [Vec<Span>; 2],
    dilations: [usize; 2],
}

impl Pool {
    /// A pool of pictures of `input` height and width.
    pub(super) fn new(
        kind: PoolKind,
        pool: &crate::classifier::Pool,
        input: [usize; 2],
        output: [usize; 2],
    ) -> Self {
        let Window {
            kernel,
            strides,
            dilations,
            pads,
        } = pool.window;
        let pads = [(pads.top, pads.bottom), (pads.left, pads.right)];
        let spans = [0, 1].map(|axis| {
            let (before, after) = pads[axis];
            let places =
                |i: usize| (0..kernel[axis]).map(move |k| i * strides[axis] + k * dilations[axis]);
            let span = |i: usize| {
                let inside = |place: &usize| (before..before + input[axis]).contains(place);
                let taps = places(i).filter(inside).count();
                let padded = places(i)
                    .filter(|&place| place < before + input[axis] + after)
                    .count();
                Span {
                    first: places(i).find(inside).map_or(0, |place| place - before),
                    taps,
                    counted: if pool.count_include_pad { padded } else { taps },
                }
            };
            (0..output[axis]).map(span).collect()
        });
        Pool {
            kind,
            input,
            output,
            spans,
            dilations,
        }
    }

    /// Groups of lanes of an input and of an output plane.
    fn planes(&self) -> [usize; 2] {
        [self.input, self.output].map(|[height, width]| (height * width).max(1))
    }

    /// Calls `f(output pixel, first input pixel, taps down, taps across, 1 / divisor)`.
    #[inline(always)]
    fn windows(&self, mut f: impl FnMut(usize, usize, usize, usize, f32)) {
        let [height, width] = self.output;
        for y in 0..height {
            let down = self.spans[0][y];
            for x in 0..width {
                let across = self.spans[1][x];
                let divisor = (down.counted * across.counted).max(1) as f32;
                f(
                    y * width + x,
                    down.first * self.input[1] + across.first,
                    down.taps,
                    across.taps,
                    1.0 / divisor,
                );
            }
        }
    }
}

impl Operation for Pool {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        _: Option<Function>,
        output: &mut [Lanes],
        _: &mut [Lanes],
    ) {
        let [from, to] = self.planes();
        (
            output.par_chunks_exact_mut(to),
            inputs.get(0).par_chunks_exact(from),
        )
            .into_par_iter()
            .for_each(|(to, from)| {
                dispatch(Forward {
                    pool: self,
                    from,
                    to,
                });
            });
    }

    fn backward(&self, pass: Backward<'_>) {
        let [from, to] = self.planes();
        let accumulate = pass.accumulate;
        (
            pass.to.par_chunks_exact_mut(from),
            pass.gradient.par_chunks_exact(to),
        )
            .into_par_iter()
            .enumerate()
            .for_each(|(plane, (by_input, gradient))| {
                if !accumulate {
                    by_input.fill(Lanes::ZERO);
                }
                let known = match self.kind {
                    PoolKind::Average => None,
                    PoolKind::Max => Some((
                        &pass.inputs.get(0)[plane * from..][..from],
                        &pass.output[plane * to..][..to],
                    )),
                };
                dispatch(Gradient {
                    pool: self,
                    known,
                    gradient,
                    to: by_input,
                });
            });
    }

    fn reads(&self) -> Reads {
        let maximum = self.kind == PoolKind::Max;
        Reads {
            inputs: maximum,
            output: maximum,
        }
    }
}

/// One plane.
struct Forward<'a> {
    pool: &'a Pool,
    from: &'a [Lanes],
    to: &'a mut [Lanes],
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Forward { pool, from, to } = self;
        let [step_down, step_across] = pool.dilations;
        let width = pool.input[1];
        let maximum = pool.kind == PoolKind::Max;
        pool.windows(|pixel, first, down, across, scale| {
            let mut joined = V::splat(if maximum { f32::NEG_INFINITY } else { 0.0 });
            for ky in 0..down {
                let row = first + ky * step_down * width;
                for kx in 0..across {
                    let x = V::from_array(from[row + kx * step_across].0);
                    joined = if maximum {
                        joined.max(x)
                    } else {
                        joined.add(x)
                    };
                }
            }
            if !maximum {
                joined = joined.mul(V::splat(scale));
            }
            to[pixel].0 = joined.to_array();
        });
    }
}

/// One plane; `to` starts with what the gradient is added to.
struct Gradient<'a> {
    pool: &'a Pool,
    /// The input and the output of a maximum.
    known: Option<(&'a [Lanes], &'a [Lanes])>,
    gradient: &'a [Lanes],
    to: &'a mut [Lanes],
}

impl Kernel for Gradient<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Gradient {
            pool,
            known,
            gradient,
            to,
        } = self;
        let [step_down, step_across] = pool.dilations;
        let (width, zero) = (pool.input[1], V::splat(0.0));
        pool.windows(|pixel, first, down, across, scale| {
            // A maximum's gradient goes to the first of the largest.
            let mut left = V::from_array(gradient[pixel].0);
            let largest = known.map(|(_, output)| V::from_array(output[pixel].0));
            for ky in 0..down {
                let row = first + ky * step_down * width;
                for kx in 0..across {
                    let at = row + kx * step_across;
                    let share = match (known, largest) {
                        (Some((input, _)), Some(largest)) => {
                            let below = largest.sub(V::from_array(input[at].0));
                            let share = below.select_positive(zero, left);
                            left = below.select_positive(left, zero);
                            share
                        }
                        _ => left.mul(V::splat(scale)),
                    };
                    to[at].0 = V::from_array(to[at].0).add(share).to_array();
                }
            }
        });
    }
}
