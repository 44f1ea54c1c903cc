//! Reductions along axes.

use rayon::prelude::*;

use super::broadcast::Unit;
use super::gemm::{load_part, store_part};
use super::operation::{
    Backward, Inputs, Operation, Reads, Shared, lanes_for, numbers, numbers_mut, put, sum,
};
use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch};
use crate::classifier::{Function, Reduction, layout};

/// Joins elements along axes.
///
/// The input is seen as `[outer][joined][inner]` in units of numbers, or of channel groups. Axes that do
/// not lie together are brought together in scratch memory first.
pub(super) struct Reduce {
    kind: Reduction,
    unit: Unit,
    outer: usize,
    joined: usize,
    inner: usize,
    /// Where each element of `[outer][joined][1]` is in the input, where axes lie apart.
    order: Option<Vec<usize>>,
}

impl Reduce {
    /// A reduction of a tensor of shape `dims`, in units.
    pub(super) fn new(kind: Reduction, axes: &[usize], dims: &[usize], unit: Unit) -> Self {
        // Axes of length 1 may be on either side.
        let axes: Vec<usize> = (axes.iter().copied()).filter(|&a| dims[a] > 1).collect();
        let joined: usize = axes.iter().map(|&axis| dims[axis]).product();
        let total: usize = dims.iter().product();
        let (first, last) = match (axes.first(), axes.last()) {
            (Some(&first), Some(&last)) => (first, last),
            _ => (dims.len(), dims.len().wrapping_sub(1)),
        };
        let together = (first..dims.len().min(last.wrapping_add(1)))
            .all(|axis| dims[axis] <= 1 || axes.contains(&axis));
        let (outer, inner, order) = if together {
            let outer: usize = dims[..first].iter().product();
            (outer, total / (outer * joined).max(1), None)
        } else {
            let mut order: Vec<(usize, usize)> = layout::reduced(dims, &axes)
                .into_iter()
                .enumerate()
                .map(|(from, to)| (to, from))
                .collect();
            order.sort_unstable();
            let order = order.into_iter().map(|(_, from)| from).collect();
            (total / joined.max(1), 1, Some(order))
        };
        Reduce {
            kind,
            unit,
            outer,
            joined,
            inner,
            order,
        }
    }

    /// Numbers in `inner`.
    fn inner_numbers(&self) -> usize {
        self.inner * self.unit.len()
    }

    fn scratch_lanes(&self) -> usize {
        let total = self.outer * self.joined * self.inner_numbers();
        if self.order.is_some() {
            lanes_for(total)
        } else {
            0
        }
    }

    /// The input with its joined axes together.
    fn gathered<'a>(&self, x: &'a [Lanes], scratch: &'a mut [Lanes]) -> &'a [f32] {
        let Some(order) = &self.order else {
            return numbers(x);
        };
        let (x, unit) = (numbers(x), self.unit.len());
        let to = numbers_mut(scratch);
        for (to, &from) in to.chunks_exact_mut(unit).zip(order) {
            to.copy_from_slice(&x[from * unit..][..unit]);
        }
        to
    }
}

impl Operation for Reduce {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        _: Option<Function>,
        output: &mut [Lanes],
        scratch: &mut [Lanes],
    ) {
        let x = self.gathered(inputs.get(0), scratch);
        let inner = self.inner_numbers();
        let to = Shared::new(output);
        let at_once = (2048 / (self.joined * inner).max(1)).max(1);
        (0..self.outer)
            .into_par_iter()
            .with_min_len(at_once)
            .for_each(|i| {
                let x = &x[i * self.joined * inner..][..self.joined * inner];
                dispatch(Forward {
                    kind: self.kind,
                    joined: self.joined,
                    inner,
                    x,
                    // SAFETY: each `i` has its own `inner` numbers of the output.
                    to: unsafe { to.ptr().add(i * inner) },
                });
            });
    }

    fn backward(&self, pass: Backward<'_>) {
        let inner = self.inner_numbers();
        let one = self.joined * inner;
        let scratch = numbers_mut(pass.scratch);
        let count = scratch.len();
        // Where axes lie apart, the gradient is made in scratch memory's second half and spread.
        let (gathered, made) = scratch.split_at_mut(count / 2);
        let x = match (&self.order, self.reads().inputs) {
            (_, false) => &[],
            (None, true) => numbers(pass.inputs.get(0)),
            (Some(_), true) => {
                self.gathered(pass.inputs.get(0), bytemuck::cast_slice_mut(gathered))
            }
        };
        let (output, gradient) = (numbers(pass.output), numbers(pass.gradient));
        let to: &mut [f32] = match self.order {
            None => numbers_mut(pass.to),
            Some(_) => made,
        };
        let to_len = self.outer * one;
        let accumulate = pass.accumulate && self.order.is_none();
        to[..to_len]
            .par_chunks_exact_mut(one.max(1))
            .with_min_len((2048 / one.max(1)).max(1))
            .enumerate()
            .for_each(|(i, to)| {
                let part = |data: &'_ [f32], n: usize| -> *const f32 {
                    if data.is_empty() {
                        data.as_ptr()
                    } else {
                        data[i * n..][..n].as_ptr()
                    }
                };
                dispatch(Gradient {
                    kind: self.kind,
                    joined: self.joined,
                    inner,
                    x: part(x, one),
                    output: part(output, inner),
                    gradient: part(gradient, inner),
                    to,
                    accumulate,
                });
            });
        if let Some(order) = &self.order {
            let unit = self.unit.len();
            let by_input = numbers_mut(pass.to);
            for (from, &at) in made.chunks_exact(unit).zip(order) {
                for (to, &from) in by_input[at * unit..][..unit].iter_mut().zip(from) {
                    *to = if pass.accumulate { *to + from } else { from };
                }
            }
        }
    }

    fn reads(&self) -> Reads {
        let known = matches!(self.kind, Reduction::Max | Reduction::L2);
        Reads {
            inputs: known,
            output: known,
        }
    }

    fn scratch(&self) -> usize {
        self.scratch_lanes()
    }

    fn backward_scratch(&self) -> usize {
        2 * self.scratch_lanes()
    }
}

/// `[joined][inner]` to `[inner]`.
struct Forward<'a> {
    kind: Reduction,
    joined: usize,
    inner: usize,
    x: &'a [f32],
    to: *mut f32,
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Forward {
            kind,
            joined,
            inner,
            x,
            to,
        } = self;
        let start = V::splat(match kind {
            Reduction::Max => f32::NEG_INFINITY,
            _ => 0.0,
        });
        let join = |sum: V, x: V| match kind {
            Reduction::Mean | Reduction::Sum => sum.add(x),
            Reduction::Max => sum.max(x),
            Reduction::L2 => x.mul_add(x, sum),
        };
        // Four partial results shorten the chain of roundings.
        let both = |a: V, b: V| match kind {
            Reduction::Max => a.max(b),
            _ => a.add(b),
        };
        let finish = |x: V| match kind {
            Reduction::Mean => x.div(V::splat(joined as f32)),
            Reduction::L2 => x.sqrt(),
            Reduction::Sum | Reduction::Max => x,
        };
        if inner == 1 {
            let mut parts = [start; 4];
            let whole = joined / LANES * LANES;
            for i in (0..whole).step_by(LANES) {
                // SAFETY: 16 numbers from `i` lie within the row.
                let x = unsafe { V::load(x.as_ptr().add(i)) };
                let part = &mut parts[i / LANES % 4];
                *part = join(*part, x);
            }
            let mut lanes = start.to_array();
            lanes[..joined - whole].copy_from_slice(&x[whole..joined]);
            parts[3] = join(parts[3], V::from_array(lanes));
            let [a, b, c, d] = parts;
            let joined = both(both(a, b), both(c, d));
            let one = match kind {
                Reduction::Max => joined
                    .to_array()
                    .into_iter()
                    .fold(f32::NEG_INFINITY, f32::max),
                _ => sum(joined),
            };
            // SAFETY: `to` holds one number.
            unsafe { *to = finish(V::splat(one)).to_array()[0] };
            return;
        }
        for first in (0..inner).step_by(LANES) {
            let count = LANES.min(inner - first);
            let mut parts = [start; 4];
            for i in 0..joined {
                // SAFETY: `x` is `[joined][inner]`.
                let x = unsafe { load_part(x.as_ptr().add(i * inner + first), count) };
                let part = &mut parts[i % 4];
                *part = join(*part, x);
            }
            let [a, b, c, d] = parts;
            // SAFETY: `to` is `[inner]`.
            unsafe { store_part(finish(both(both(a, b), both(c, d))), to.add(first), count) };
        }
    }
}

/// `[inner]` to `[joined][inner]`.
struct Gradient<'a> {
    kind: Reduction,
    joined: usize,
    inner: usize,
    /// Of a maximum and a norm.
    x: *const f32,
    output: *const f32,
    gradient: *const f32,
    to: &'a mut [f32],
    accumulate: bool,
}

impl Gradient<'_> {
    /// Writes `count` numbers at `i` from the gradient's share and, where it needs them, the input and
    /// the output.
    ///
    /// # Safety
    /// `i` and `count` lie within `[joined][inner]`, at which `x` is valid where the kind needs it.
    #[inline(always)]
    unsafe fn write<V: F32x16>(&mut self, i: usize, count: usize, output: V, share: V) {
        // SAFETY: the caller's promise.
        unsafe {
            let by = match self.kind {
                Reduction::Mean | Reduction::Sum => share,
                Reduction::Max => {
                    let x: V = load_part(self.x.add(i), count);
                    output.sub(x).select_positive(V::splat(0.0), share)
                }
                Reduction::L2 => load_part::<V>(self.x.add(i), count).mul(share),
            };
            let to = self.to.as_mut_ptr().add(i);
            if count == LANES {
                put(by, to, self.accumulate);
            } else {
                let before = if self.accumulate {
                    load_part(to, count)
                } else {
                    V::splat(0.0)
                };
                store_part(before.add(by), to, count);
            }
        }
    }
}

impl Kernel for Gradient<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(mut self) {
        let (kind, joined, inner) = (self.kind, self.joined, self.inner);
        let known = matches!(kind, Reduction::Max | Reduction::L2);
        let zero = V::splat(0.0);
        // What each element's gradient is a multiple of.
        let share = |gradient: V, output: V, maxima: V| match kind {
            Reduction::Mean => gradient.div(V::splat(joined as f32)),
            Reduction::Sum => gradient,
            // Equal maxima share it.
            Reduction::Max => gradient.div(maxima),
            Reduction::L2 => output.select_positive(gradient.div(output), zero),
        };
        let step = if inner == 1 { 1 } else { LANES };
        for first in (0..inner).step_by(step) {
            let count = step.min(inner - first);
            // SAFETY: `gradient` and `output` are `[inner]`, `x` and `to` `[joined][inner]`.
            unsafe {
                let load = |from: *const f32| -> V {
                    if inner == 1 {
                        V::splat(*from)
                    } else {
                        load_part(from.add(first), count)
                    }
                };
                let gradient = load(self.gradient);
                let output = if known { load(self.output) } else { zero };
                let mut maxima = zero;
                if kind == Reduction::Max {
                    let one = V::splat(1.0);
                    for i in 0..joined {
                        let at = self.x.add(i * inner);
                        let x = load(at);
                        maxima = maxima.add(output.sub(x).select_positive(zero, one));
                    }
                }
                let share = share(gradient, output, maxima);
                if inner == 1 {
                    for i in (0..joined).step_by(LANES) {
                        self.write(i, LANES.min(joined - i), output, share);
                    }
                } else {
                    for i in 0..joined {
                        self.write(i * inner + first, count, output, share);
                    }
                }
            }
        }
    }
}
