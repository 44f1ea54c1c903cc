//! Functions of single elements, and of two that broadcast.

use std::sync::Arc;

use rayon::prelude::*;

use super::broadcast::{Along, Broadcast, Unit};
use super::gemm::{load_part, store_part};
use super::operation::{
    Backward, Inputs, Operation, Reads, Shared, numbers, only, put, shares, sum,
};
use crate::backend::cpu::function;
use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch};
use crate::classifier::{Binary, Function};

/// A function of each element, in any layout.
pub(super) struct Map(pub Function);

impl Operation for Map {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        _: Option<Function>,
        output: &mut [Lanes],
        _: &mut [Lanes],
    ) {
        apply(self.0, inputs.get(0), output);
    }

    fn backward(&self, pass: Backward<'_>) {
        let known = if self.0.derivative_from_value() {
            pass.output
        } else {
            pass.inputs.get(0)
        };
        shares(pass.to, |first, to| {
            dispatch(Slope {
                function: self.0,
                known: known[first..].as_ptr().cast(),
                gradient: pass.gradient[first..].as_ptr().cast(),
                to: to.as_mut_ptr().cast(),
                n: to.len().min(known.len() - first),
                accumulate: pass.accumulate,
            });
        });
    }

    fn reads(&self) -> Reads {
        let output = self.0.derivative_from_value();
        Reads {
            inputs: !output,
            output,
        }
    }
}

/// `to = function(from)`.
pub(super) fn apply(function: Function, from: &[Lanes], to: &mut [Lanes]) {
    shares(to, |first, to| {
        let from = &from[first..][..to.len()];
        dispatch(Values {
            function,
            from: from.as_ptr().cast(),
            n: to.len(),
            to: to.as_mut_ptr().cast(),
        });
    });
}

/// `gradient = gradient · function'`, where `known` is the function's value or its argument as
/// [`Function::derivative_from_value`] says.
pub(super) fn chain(function: Function, known: &[Lanes], gradient: &mut [Lanes]) {
    shares(gradient, |first, gradient| {
        let known = &known[first..][..gradient.len()];
        let to: *mut f32 = gradient.as_mut_ptr().cast();
        dispatch(Slope {
            function,
            known: known.as_ptr().cast(),
            gradient: to,
            to,
            n: gradient.len(),
            accumulate: false,
        });
    });
}

/// `to = function(from)` for `n` groups.
struct Values {
    function: Function,
    from: *const f32,
    n: usize,
    to: *mut f32,
}

impl Kernel for Values {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        for i in 0..self.n {
            // SAFETY: both hold `n` groups.
            unsafe {
                let x = V::load(self.from.add(i * LANES));
                function::value(self.function, x).store(self.to.add(i * LANES));
            }
        }
    }
}

/// `to = gradient · function'` for `n` groups; `to` and `gradient` may be the same.
struct Slope {
    function: Function,
    known: *const f32,
    gradient: *const f32,
    to: *mut f32,
    n: usize,
    accumulate: bool,
}

impl Kernel for Slope {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        let from_value = self.function.derivative_from_value();
        for i in 0..self.n {
            // SAFETY: all hold `n` groups.
            unsafe {
                let known = V::load(self.known.add(i * LANES));
                let gradient = V::load(self.gradient.add(i * LANES));
                let slope = if from_value {
                    function::gradient_from_value(self.function, known, gradient)
                } else {
                    function::gradient(self.function, known, gradient)
                };
                put(slope, self.to.add(i * LANES), self.accumulate);
            }
        }
    }
}

/// `to += from`, or `to = from`.
pub(super) fn transfer(from: &[Lanes], to: &mut [Lanes], accumulate: bool) {
    shares(to, |first, to| {
        let from = &from[first..][..to.len()];
        if accumulate {
            dispatch(Sum { from, to });
        } else {
            to.copy_from_slice(from);
        }
    });
}

/// `to += from`.
struct Sum<'a> {
    from: &'a [Lanes],
    to: &'a mut [Lanes],
}

impl Kernel for Sum<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            to.0 = V::from_array(to.0).add(V::from_array(from.0)).to_array();
        }
    }
}

/// One side of a two-sided operation.
#[derive(Clone)]
pub(super) enum Side {
    /// Computed: which of the operation's inputs.
    Input(usize),
    /// Constant, in the operation's layout.
    Constant(Arc<[Lanes]>),
}

impl Side {
    fn get<'a>(&'a self, inputs: Inputs<'a>) -> &'a [f32] {
        match self {
            Side::Input(i) => numbers(inputs.get(*i)),
            Side::Constant(data) => numbers(data),
        }
    }
}

/// A function of two operands that broadcast.
pub(super) struct Pair {
    op: Binary,
    sides: [Side; 2],
    broadcast: Broadcast<2>,
}

impl Pair {
    /// Operands of shapes `dims` (in the broadcast's units) for an output of shape `output`.
    pub(super) fn new(
        op: Binary,
        sides: [Side; 2],
        unit: Unit,
        dims: [&[usize]; 2],
        output: &[usize],
    ) -> Self {
        Pair {
            op,
            sides,
            broadcast: Broadcast::new(unit, dims, output),
        }
    }
}

/// Numbers of one share of a run.
const STRETCH: usize = 4096;

/// Calls `f(run, first, count)` for stretches of at most [`STRETCH`] numbers of every run.
pub(super) fn stretches(runs: usize, run: usize, f: impl Fn(usize, usize, usize) + Sync) {
    let pieces = run.div_ceil(STRETCH).max(1);
    let each = |i: usize| {
        let first = i % pieces * STRETCH;
        f(i / pieces, first, STRETCH.min(run - first));
    };
    let at_once = (STRETCH / run.max(1)).max(1);
    if runs * pieces <= 2 * at_once {
        (0..runs * pieces).for_each(each);
    } else {
        (0..runs * pieces)
            .into_par_iter()
            .with_min_len(at_once)
            .for_each(each);
    }
}

impl Operation for Pair {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        _: Option<Function>,
        output: &mut [Lanes],
        _: &mut [Lanes],
    ) {
        let broadcast = &self.broadcast;
        let run = broadcast.run_numbers();
        let operands = [0, 1].map(|n| self.sides[n].get(inputs));
        let to = Shared::new(output);
        stretches(broadcast.runs(), run, |i, first, count| {
            let starts = broadcast.starts(i);
            dispatch(Stretch {
                op: self.op,
                operands: [0, 1].map(|n| operand(broadcast, n, operands[n], starts[n], first)),
                // SAFETY: run `i` is numbers `i · run ..` of the output, and stretches are disjoint.
                to: unsafe { to.ptr().add(i * run + first) },
                count,
            });
        });
    }

    fn backward(&self, pass: Backward<'_>) {
        let side = (0..2)
            .find(|&n| matches!(self.sides[n], Side::Input(i) if i == pass.input))
            .expect("the gradient is by one of the inputs");
        let broadcast = &self.broadcast;
        let run = broadcast.run_numbers();
        let operands =
            [0, 1].map(|n| slope_reads(self.op, side, n).then(|| self.sides[n].get(pass.inputs)));
        let gradient = numbers(pass.gradient);
        let whole = broadcast.is_whole(side);
        if !whole && !pass.accumulate {
            pass.to.fill(Lanes::ZERO);
        }
        let to = Shared::new(pass.to);
        let stretch = |i: usize, first: usize, count: usize| {
            let starts = broadcast.starts(i);
            // What the derivative does not read is one group that exists.
            let at = |n: usize| match operands[n] {
                Some(data) => operand(broadcast, n, data, starts[n], first),
                None => (gradient.as_ptr(), Along::Group),
            };
            let moved = if broadcast.moves[side] { first } else { 0 };
            dispatch(StretchGradient {
                op: self.op,
                side,
                operands: [at(0), at(1)],
                gradient: gradient[i * run + first..].as_ptr(),
                // SAFETY: `starts` lies within the operand, as does what a stretch moves over.
                to: unsafe { to.ptr().add(starts[side] + moved) },
                along: broadcast.along(side),
                count,
                accumulate: pass.accumulate || !whole,
            });
        };
        if whole {
            stretches(broadcast.runs(), run, stretch);
        } else {
            // Several runs add to the same elements: one after another, in order.
            for i in 0..broadcast.runs() {
                for first in (0..run).step_by(STRETCH) {
                    stretch(i, first, STRETCH.min(run - first));
                }
            }
        }
    }

    fn reads(&self) -> Reads {
        let computed = |n: &usize| matches!(self.sides[*n], Side::Input(_));
        let reads = |side: usize| {
            let mut others = (0..2).filter(computed);
            others.any(|n| slope_reads(self.op, side, n))
        };
        Reads {
            inputs: (0..2).filter(computed).any(reads),
            output: false,
        }
    }

    fn constant_bytes(&self) -> usize {
        let bytes = |side: &Side| match side {
            Side::Constant(data) => size_of_val(&**data),
            Side::Input(_) => 0,
        };
        self.sides.iter().map(bytes).sum()
    }
}

/// Where operand `n` is read for a stretch that starts `first` numbers into a run.
fn operand(
    broadcast: &Broadcast<2>,
    n: usize,
    data: &[f32],
    start: usize,
    first: usize,
) -> (*const f32, Along) {
    let moved = if broadcast.moves[n] { first } else { 0 };
    (data[start + moved..].as_ptr(), broadcast.along(n))
}

/// `to = op(a, b)` along a stretch.
struct Stretch {
    op: Binary,
    operands: [(*const f32, Along); 2],
    to: *mut f32,
    count: usize,
}

impl Kernel for Stretch {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        let [(a, a_along), (b, b_along)] = self.operands;
        for i in (0..self.count).step_by(LANES) {
            let count = LANES.min(self.count - i);
            // SAFETY: the operands and the output have what the stretch covers.
            unsafe {
                let (a, b) = (
                    a_along.load::<V>(a, i, count),
                    b_along.load::<V>(b, i, count),
                );
                store_part(value(self.op, a, b), self.to.add(i), count);
            }
        }
    }
}

/// Adds to `to`, or writes there, the gradient by one operand along a stretch.
struct StretchGradient {
    op: Binary,
    side: usize,
    operands: [(*const f32, Along); 2],
    gradient: *const f32,
    to: *mut f32,
    along: Along,
    count: usize,
    accumulate: bool,
}

impl Kernel for StretchGradient {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        let [(a, a_along), (b, b_along)] = self.operands;
        let mut total = V::splat(0.0);
        for i in (0..self.count).step_by(LANES) {
            let count = LANES.min(self.count - i);
            // SAFETY: the operands, the gradient and `to` have what the stretch covers.
            unsafe {
                let (a, b) = (
                    a_along.load::<V>(a, i, count),
                    b_along.load::<V>(b, i, count),
                );
                let gradient: V = load_part(self.gradient.add(i), count);
                let by = slope(self.op, self.side, a, b, gradient);
                match self.along {
                    Along::Moves => {
                        let to = self.to.add(i);
                        let by = if self.accumulate {
                            load_part::<V>(to, count).add(by)
                        } else {
                            by
                        };
                        store_part(by, to, count);
                    }
                    // Beyond the end, operands are 0 and the slope may be anything.
                    _ => total = total.add(only(by, count, 0.0)),
                }
            }
        }
        // SAFETY: `to` holds what the operand does.
        unsafe {
            match self.along {
                Along::Moves => {}
                Along::Number => *self.to += sum(total),
                Along::Group => put(total, self.to, true),
            }
        }
    }
}

#[inline(always)]
fn lanewise<V: F32x16>(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    let (mut a, b) = (a.to_array(), b.to_array());
    for (a, b) in a.iter_mut().zip(b) {
        *a = f(*a, b);
    }
    V::from_array(a)
}

#[inline(always)]
fn value<V: F32x16>(op: Binary, a: V, b: V) -> V {
    match op {
        Binary::Add => a.add(b),
        Binary::Sub => a.sub(b),
        Binary::Mul => a.mul(b),
        Binary::Div => a.div(b),
        Binary::Pow => lanewise(a, b, power),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
    }
}

/// `a^b`; squares, which decomposed normalizations take, without the library's call.
#[inline(always)]
fn power(a: f32, b: f32) -> f32 {
    if b == 2.0 { a * a } else { a.powf(b) }
}

/// The gradient of a minimum or maximum by the operand that leads by `lead`: equal operands share it,
/// as in PyTorch.
#[inline(always)]
fn leading<V: F32x16>(lead: V, g: V) -> V {
    let (zero, half) = (V::splat(0.0), g.mul(V::splat(0.5)));
    lead.select_positive(g, zero.sub(lead).select_positive(zero, half))
}

/// Whether the derivative by operand `side` depends on operand `n`.
fn slope_reads(op: Binary, side: usize, n: usize) -> bool {
    match op {
        Binary::Add | Binary::Sub => false,
        Binary::Mul => n != side,
        _ => true,
    }
}

/// The derivative by operand `side`, times `g`.
#[inline(always)]
fn slope<V: F32x16>(op: Binary, side: usize, a: V, b: V, g: V) -> V {
    let zero = V::splat(0.0);
    match (op, side) {
        (Binary::Add, _) | (Binary::Sub, 0) => g,
        (Binary::Sub, _) => zero.sub(g),
        (Binary::Mul, 0) => g.mul(b),
        (Binary::Mul, _) => g.mul(a),
        (Binary::Div, 0) => g.div(b),
        (Binary::Div, _) => zero.sub(g.mul(a).div(b.mul(b))),
        (Binary::Pow, 0) => g.mul(lanewise(a, b, |a, b| match b {
            0.0 => 0.0,
            2.0 => 2.0 * a,
            _ => b * a.powf(b - 1.0),
        })),
        (Binary::Pow, _) => g.mul(lanewise(a, b, |a, b| {
            if a > 0.0 { power(a, b) * a.ln() } else { 0.0 }
        })),
        (Binary::Min, 0) | (Binary::Max, 1) => leading(b.sub(a), g),
        (Binary::Min, _) | (Binary::Max, _) => leading(a.sub(b), g),
    }
}
