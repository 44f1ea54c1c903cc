//! A scale and a shift for each channel.

use std::borrow::Cow;

use super::broadcast::{Along, Broadcast, Unit};
use super::elementwise::stretches;
use super::gemm::{load_part, store_part};
use super::operation::{Backward, Inputs, Operation, Shared, numbers};
use crate::backend::cpu::blocked::layout;
use crate::backend::cpu::function;
use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch};
use crate::classifier::Function;

/// `x·scale + shift`, then an activation; scale and shift broadcast along with each other.
pub(super) struct ScaleShift {
    scale: Vec<Lanes>,
    shift: Vec<Lanes>,
    broadcast: Broadcast<2>,
}

impl ScaleShift {
    /// One scale and shift for each of `x`'s channels, its second axis.
    pub(super) fn new(scale: &[f32], shift: &[f32], dims: &[usize], blocked: bool) -> Self {
        let mut dims = Cow::Borrowed(dims);
        let unit = if blocked {
            dims.to_mut()[1] = layout::groups(dims[1]);
            Unit::Group
        } else {
            Unit::Number
        };
        let mut channels = vec![1; dims.len()];
        channels[1] = dims[1];
        ScaleShift {
            scale: layout::block_channels(scale),
            shift: layout::block_channels(shift),
            broadcast: Broadcast::new(unit, [&dims, &channels], &dims),
        }
    }

    /// Calls `f(x, channel, count)` with offsets of stretches in the tensor and the constants.
    fn stretches(&self, f: impl Fn(usize, usize, usize) + Sync) {
        let run = self.broadcast.run_numbers();
        stretches(self.broadcast.runs(), run, |i, first, count| {
            let [_, channel] = self.broadcast.starts(i);
            let moved = if self.broadcast.moves[1] { first } else { 0 };
            f(i * run + first, channel + moved, count);
        });
    }
}

impl Operation for ScaleShift {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        activation: Option<Function>,
        output: &mut [Lanes],
        _: &mut [Lanes],
    ) {
        let x = numbers(inputs.get(0));
        let to = Shared::new(output);
        self.stretches(|at, channel, count| {
            dispatch(Affine {
                x: x[at..].as_ptr(),
                scale: numbers(&self.scale)[channel..].as_ptr(),
                shift: Some(numbers(&self.shift)[channel..].as_ptr()),
                along: self.broadcast.along(1),
                activation,
                // SAFETY: stretches are disjoint parts of the output.
                to: unsafe { to.ptr().add(at) },
                count,
                accumulate: false,
            });
        });
    }

    fn backward(&self, pass: Backward<'_>) {
        let gradient = numbers(pass.gradient);
        let to = Shared::new(pass.to);
        self.stretches(|at, channel, count| {
            dispatch(Affine {
                x: gradient[at..].as_ptr(),
                scale: numbers(&self.scale)[channel..].as_ptr(),
                shift: None,
                along: self.broadcast.along(1),
                activation: None,
                // SAFETY: stretches are disjoint parts of the gradient.
                to: unsafe { to.ptr().add(at) },
                count,
                accumulate: pass.accumulate,
            });
        });
    }

    fn constant_bytes(&self) -> usize {
        size_of_val(&*self.scale) + size_of_val(&*self.shift)
    }
}

/// `to = activation(x·scale + shift)` along a stretch.
struct Affine {
    x: *const f32,
    scale: *const f32,
    shift: Option<*const f32>,
    along: Along,
    activation: Option<Function>,
    to: *mut f32,
    count: usize,
    accumulate: bool,
}

impl Kernel for Affine {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        for i in (0..self.count).step_by(LANES) {
            let count = LANES.min(self.count - i);
            // SAFETY: the tensor and the constants have what the stretch covers.
            unsafe {
                let x: V = load_part(self.x.add(i), count);
                let scale: V = self.along.load(self.scale, i, count);
                let mut y = match self.shift {
                    Some(shift) => x.mul_add(scale, self.along.load(shift, i, count)),
                    None => x.mul(scale),
                };
                if let Some(function) = self.activation {
                    y = function::value(function, y);
                }
                let to = self.to.add(i);
                if self.accumulate {
                    y = load_part::<V>(to, count).add(y);
                }
                store_part(y, to, count);
            }
        }
    }
}
