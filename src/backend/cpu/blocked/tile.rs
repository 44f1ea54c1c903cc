//! The register tile that every dense kernel is made of.

use std::ops::Range;

use crate::backend::cpu::function;
use crate::backend::cpu::simd::{F32x16, LANES};
use crate::classifier::Function;

/// What follows a convolution's sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    #[default]
    None,
    Relu,
    /// Into `[low, high]`: Relu6 is `Clip { low: 0.0, high: 6.0 }`.
    Clip {
        low: f32,
        high: f32,
    },
    LeakyRelu {
        slope: f32,
    },
    Sigmoid,
    Function(Function),
}

impl Activation {
    /// The part that sums go through while they are in registers: a lower and an upper bound.
    pub(super) fn bounds(self) -> [f32; 2] {
        match self {
            Activation::Relu => [0.0, f32::INFINITY],
            Activation::Clip { low, high } => [low, high],
            _ => [f32::NEG_INFINITY, f32::INFINITY],
        }
    }
}

/// One group of input channels.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Its plane (or what was gathered of it).
    pub data: *const f32,
    /// Channels that exist, at most 16.
    pub channels: usize,
    /// Where its weights start in an output group's, in floats.
    pub weights: usize,
}

/// One tap of the kernel.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    /// What the tap adds to a pixel's place in a [`Block`], in floats.
    pub offset: usize,
    /// Its number in the packed weights.
    pub index: usize,
}

/// One run of input-gradient pixels, a stride apart, that see the same taps.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Which of the scratch's taps.
    pub taps: Range<usize>,
    /// The first pixel in the plane.
    pub start: usize,
    pub pixels: usize,
    /// Distance of the pixels.
    pub stride: usize,
    /// Whether the run is added to what an earlier one wrote: a mirrored row or column.
    pub mirrored: bool,
}

/// Where a row of one output group goes, and what is added to it.
#[derive(Clone, Copy)]
pub(super) struct OutputRow {
    /// The group's packed weights.
    pub weights: *const f32,
    /// The first pixel.
    pub output: *mut f32,
    /// 16 numbers, or null.
    pub bias: *const f32,
    /// First pixel of what is added before the activation, or null.
    pub residual: *const f32,
}

impl OutputRow {
    /// Nothing.
    pub(super) const NONE: OutputRow = OutputRow {
        weights: std::ptr::null(),
        output: std::ptr::null_mut(),
        bias: std::ptr::null(),
        residual: std::ptr::null(),
    };
}

/// A row of output pixels of `O` groups.
pub(super) struct Row<'a, const O: usize> {
    pub blocks: &'a [Block],
    pub taps: &'a [Tap],
    /// Where the row's first pixel is in a block, in floats.
    pub origin: usize,
    pub pixels: usize,
    pub outputs: [OutputRow; O],
    /// Distance of output (and residual) pixels, in floats.
    pub stride: usize,
    pub activation: Activation,
}

/// `acc[o][p] += Σ_k vectors[o][k] · scalars[k·STEP + p·DISTANCE]` for `k` in `0..n`, in this order.
///
/// # Safety
/// Each of `vectors` is valid for `16·n` floats, `scalars` for all those indices.
#[inline(always)]
pub(super) unsafe fn outer_products<
    V: F32x16,
    const O: usize,
    const P: usize,
    const DISTANCE: usize,
    const STEP: usize,
>(
    acc: &mut [[V; P]; O],
    vectors: [*const f32; O],
    scalars: *const f32,
    n: usize,
) {
    for k in 0..n {
        let mut v = [V::splat(0.0); O];
        for o in 0..O {
            // SAFETY: the caller's promise.
            v[o] = unsafe { V::load(vectors[o].add(k * LANES)) };
        }
        for p in 0..P {
            // SAFETY: the caller's promise.
            let s = V::splat(unsafe { *scalars.add(k * STEP + p * DISTANCE) });
            for o in 0..O {
                acc[o][p] = v[o].mul_add(s, acc[o][p]);
            }
        }
    }
}

/// Output groups that share one register tile.
#[inline(always)]
pub(super) const fn groups_per_tile<V: F32x16>() -> usize {
    if V::REGISTERS >= 32 { 2 } else { 1 }
}

/// Computes pixels `x .. x + P` of a row.
///
/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn pixels<V: F32x16, const O: usize, const P: usize>(row: &Row<O>, x: usize) {
    let mut acc = [[V::splat(0.0); P]; O];
    for o in 0..O {
        if !row.outputs[o].bias.is_null() {
            // SAFETY: a bias that is not null holds 16 floats.
            acc[o] = [unsafe { V::load(row.outputs[o].bias) }; P];
        }
    }
    for block in row.blocks {
        for tap in row.taps {
            let mut vectors = [std::ptr::null(); O];
            let start = block.weights + tap.index * block.channels * LANES;
            // SAFETY: the caller's promise on weights and on the window of every pixel.
            unsafe {
                for o in 0..O {
                    vectors[o] = row.outputs[o].weights.add(start);
                }
                let scalars = block.data.add(row.origin + tap.offset + x * LANES);
                outer_products::<V, O, P, LANES, 1>(&mut acc, vectors, scalars, block.channels);
            }
        }
    }
    // Not a loop over the groups: it would be too long for the compiler to unroll, and sums that are
    // indexed by a variable live in memory, all through the sum.
    // SAFETY: the caller's promise on the output and the residual.
    unsafe {
        finish_group(row, 0, x, &acc[0]);
        if O == 2 {
            finish_group(row, O - 1, x, &acc[O - 1]);
        }
    }
}

/// Stores the sums of pixels `x .. x + P` of output group `o`.
///
/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn finish_group<V: F32x16, const O: usize, const P: usize>(
    row: &Row<O>,
    o: usize,
    x: usize,
    sums: &[V; P],
) {
    let OutputRow {
        output, residual, ..
    } = row.outputs[o];
    let start = x * row.stride;
    let bounds = row.activation.bounds();
    // SAFETY: the caller's promise.
    unsafe {
        finish(sums, output.add(start), residual, start, row.stride, bounds);
    }
}

/// Stores a tile's sums, with the residual added and within the bounds. The loops are plain enough to be unrolled: the sums
/// must never be indexed by a variable, or they would live in memory.
///
/// # Safety
/// `output` and, unless it is null, `residual + start` are valid for `P` pixels `stride` floats apart.
#[inline(always)]
pub(super) unsafe fn finish<V: F32x16, const P: usize>(
    sums: &[V; P],
    output: *mut f32,
    residual: *const f32,
    start: usize,
    stride: usize,
    bounds: [f32; 2],
) {
    let [low, high] = bounds.map(V::splat);
    // SAFETY: the caller's promise.
    unsafe {
        if residual.is_null() {
            for p in 0..P {
                high.min(low.max(sums[p])).store(output.add(p * stride));
            }
        } else {
            for p in 0..P {
                let residual = V::load(residual.add(start + p * stride));
                let sum = sums[p].add(residual);
                high.min(low.max(sum)).store(output.add(p * stride));
            }
        }
    }
}

/// Applies what is left of an activation in place, to a row that was just stored.
///
/// # Safety
/// `output` is valid for `pixels` pixels `stride` floats apart.
#[inline(always)]
pub(super) unsafe fn activate<V: F32x16>(
    activation: Activation,
    output: *mut f32,
    pixels: usize,
    stride: usize,
) {
    let f = match activation {
        Activation::None | Activation::Relu | Activation::Clip { .. } => return,
        Activation::LeakyRelu { slope } => Function::LeakyRelu { alpha: slope },
        Activation::Sigmoid => Function::Sigmoid,
        Activation::Function(f) => f,
    };
    for p in 0..pixels {
        // SAFETY: the caller's promise.
        unsafe {
            let at = output.add(p * stride);
            function::value(f, V::load(at)).store(at);
        }
    }
}

/// Computes a row, in register tiles of nearly equal width.
///
/// # Safety
/// For every block, tap, channel and pixel, the input `data[origin + offset + 16·pixel + channel]` and
/// the weights `weights[block.weights + (index·channels + channel)·16 ..][..16]` of every output are
/// valid to read; `output` and a residual that is not null are valid for every pixel.
#[inline(always)]
pub(super) unsafe fn row<V: F32x16, const O: usize>(row: &Row<O>) {
    // What the sums leave of the registers holds the weights and the scalar: with two groups of 14
    // pixels 32 − 28, with one of 6 pixels 8 − 6.
    let most = if V::REGISTERS >= 32 {
        14
    } else {
        V::REGISTERS - 2
    };
    let tiles = row.pixels.div_ceil(most);
    for tile in 0..tiles {
        let x = row.pixels * tile / tiles;
        let width = row.pixels * (tile + 1) / tiles - x;
        // SAFETY: the caller's promise, for these pixels.
        unsafe {
            match width {
                1 => pixels::<V, O, 1>(row, x),
                2 => pixels::<V, O, 2>(row, x),
                3 => pixels::<V, O, 3>(row, x),
                4 => pixels::<V, O, 4>(row, x),
                5 => pixels::<V, O, 5>(row, x),
                6 => pixels::<V, O, 6>(row, x),
                _ if V::REGISTERS < 32 => unreachable!("tiles of at most 6 pixels"),
                7 => pixels::<V, O, 7>(row, x),
                8 => pixels::<V, O, 8>(row, x),
                9 => pixels::<V, O, 9>(row, x),
                10 => pixels::<V, O, 10>(row, x),
                11 => pixels::<V, O, 11>(row, x),
                12 => pixels::<V, O, 12>(row, x),
                13 => pixels::<V, O, 13>(row, x),
                _ => pixels::<V, O, 14>(row, x),
            }
        }
    }
    for output in &row.outputs {
        // SAFETY: the caller's promise on the output.
        unsafe { activate::<V>(row.activation, output.output, row.pixels, row.stride) };
    }
}
