//! What the engine asks of an operation.
//!
//! Buffers are whole groups of sixteen lanes. A tensor lies in one of two layouts: row-major, its end
//! filled up to a whole group, or (pictures only) channel-blocked as
//! [`blocked::layout`](crate::backend::cpu::blocked::layout) says. What the lanes beyond a tensor's
//! elements hold is unspecified in both, but finite or not they never reach an element.

use rayon::prelude::*;

use crate::backend::cpu::simd::{F32x16, LANES, Lanes};
pub(super) use crate::backend::liveness::Reads;
use crate::backend::liveness::Span;
use crate::classifier::Function;
use crate::error::Result;

/// The computed inputs of an operation.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    base: *const Lanes,
    spans: &'a [Span],
}

// SAFETY: shared reads only, of memory that `Inputs::new`'s caller keeps valid and unwritten.
unsafe impl Sync for Inputs<'_> {}

impl<'a> Inputs<'a> {
    /// # Safety
    /// `base` plus each span is valid for reads, and not written, for `'a`.
    pub(super) unsafe fn new(base: *const Lanes, spans: &'a [Span]) -> Self {
        Inputs { base, spans }
    }

    /// Input `i`.
    pub(super) fn get(&self, i: usize) -> &'a [Lanes] {
        let Span { offset, len } = self.spans[i];
        // SAFETY: the promise given to `new`.
        unsafe { std::slice::from_raw_parts(self.base.add(offset), len) }
    }
}

/// What a backward pass computes: the gradient by one input.
pub(super) struct Backward<'a> {
    /// Which of the computed inputs.
    pub input: usize,
    /// The inputs; only to be read where [`Operation::reads`] says so.
    pub inputs: Inputs<'a>,
    /// The output, likewise.
    pub output: &'a [Lanes],
    /// The gradient by the output, before its activation.
    pub gradient: &'a [Lanes],
    /// Where the gradient by the input goes.
    pub to: &'a mut [Lanes],
    /// Whether it is added to what `to` holds.
    pub accumulate: bool,
    pub scratch: &'a mut [Lanes],
}

/// One operation with its constants, for buffers of fixed layouts.
///
/// Every output element is one chain of arithmetic that depends on shapes alone, not on how threads
/// share the work.
pub(super) trait Operation: Send + Sync {
    /// Computes the output, ending with the activation (of the operations that can have one).
    fn forward(
        &self,
        inputs: Inputs<'_>,
        activation: Option<Function>,
        output: &mut [Lanes],
        scratch: &mut [Lanes],
    );
    /// Computes the gradient by one input.
    fn backward(&self, pass: Backward<'_>);
    /// What [`backward`](Self::backward) reads.
    fn reads(&self) -> Reads {
        Reads::default()
    }
    /// Groups of lanes of scratch memory that [`forward`](Self::forward) needs.
    fn scratch(&self) -> usize {
        0
    }
    /// Groups of lanes of scratch memory that [`backward`](Self::backward) needs.
    fn backward_scratch(&self) -> usize {
        0
    }
    /// Makes what only the backward pass needs; called once before the first.
    ///
    /// # Errors
    /// There is too little memory.
    fn prepare_backward(&mut self) -> Result<()> {
        Ok(())
    }
    /// Bytes of constants that it holds.
    fn constant_bytes(&self) -> usize {
        0
    }
}

/// Groups of lanes that hold `n` numbers.
pub(super) fn lanes_for(n: usize) -> usize {
    n.div_ceil(LANES)
}

/// The numbers of a row-major buffer.
pub(super) fn numbers(buffer: &[Lanes]) -> &[f32] {
    bytemuck::cast_slice(buffer)
}

/// The numbers of a row-major buffer.
pub(super) fn numbers_mut(buffer: &mut [Lanes]) -> &mut [f32] {
    bytemuck::cast_slice_mut(buffer)
}

/// Groups of lanes of one share of elementwise work: 16 KiB.
const SHARE: usize = 256;

/// Calls `f(first, share)` for shares of a buffer, in parallel; `first` counts groups of lanes.
pub(super) fn shares(buffer: &mut [Lanes], f: impl Fn(usize, &mut [Lanes]) + Sync) {
    if buffer.len() <= 2 * SHARE {
        return f(0, buffer);
    }
    buffer
        .par_chunks_mut(SHARE)
        .enumerate()
        .for_each(|(i, share)| f(i * SHARE, share));
}

/// A pointer into a buffer of which parallel work writes disjoint parts.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: those that share the pointer never touch the same element (each use says why).
unsafe impl Send for Shared {}
// SAFETY: no two threads touch the same element through it.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(buffer: &mut [Lanes]) -> Self {
        Shared(buffer.as_mut_ptr().cast())
    }
    pub(super) fn of_numbers(buffer: &mut [f32]) -> Self {
        Shared(buffer.as_mut_ptr())
    }
    pub(super) fn ptr(self) -> *mut f32 {
        self.0
    }
}

/// Stores a vector, or adds it to what is there.
///
/// # Safety
/// `to` is valid for reads and writes of 16 floats.
#[inline(always)]
pub(super) unsafe fn put<V: F32x16>(x: V, to: *mut f32, accumulate: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let x = if accumulate { V::load(to).add(x) } else { x };
        x.store(to);
    }
}

/// The lanes from `count` on replaced.
#[inline(always)]
pub(super) fn only<V: F32x16>(x: V, count: usize, rest: f32) -> V {
    if count == LANES {
        return x;
    }
    let mut lanes = x.to_array();
    lanes[count..].fill(rest);
    V::from_array(lanes)
}

/// The lanes' sum, in a fixed order.
#[inline(always)]
pub(super) fn sum<V: F32x16>(x: V) -> f32 {
    let mut lanes = x.to_array();
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
    }
    lanes[0]
}
