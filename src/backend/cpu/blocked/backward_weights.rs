//! The gradient of a convolution with respect to its weights and bias.

use rayon::prelude::*;

use super::forward::{check_sources, is_direct, prepare};
use super::gather::Source;
use super::layout::groups;
use super::scratch::{Grid, Item, Scratch, SharedMut, isa};
use super::tile::{Block, Tap, groups_per_tile, outer_products};
use super::{ConvShape, PackedWeights};
use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch_on};
use crate::error::Result;

/// Parts into which the pixels are cut, each summed by itself: fixed, so that sums do not depend on
/// the thread count.
const CHUNKS: usize = 8;
/// Output groups of a work item.
const SHARE: usize = 4;
/// Pixels that a register tile sums in one go: both operands then stay in the first-level cache for
/// all taps.
const RUN: usize = 128;

/// Groups of lanes that [`conv_backward_weights`] grows its workspace to, at most.
pub fn backward_weights_workspace(shape: &ConvShape) -> usize {
    let groups = groups(shape.out_channels);
    CHUNKS * groups * (shape.in_channels * shape.taps() + 1)
}

/// Writes the gradient of the weights to `weights` (packed as
/// [`PackedWeights::zeroed_forward`] makes them) and of the bias to `bias`, summed over `images` images.
/// `workspace` keeps memory between calls and may serve any convolution.
///
/// # Errors
/// The shape is impossible, or a buffer does not fit it.
pub fn conv_backward_weights(
    shape: &ConvShape,
    images: usize,
    sources: &[Source],
    gradient: &[Lanes],
    weights: &mut PackedWeights,
    bias: &mut [Lanes],
    workspace: &mut Vec<Lanes>,
) -> Result<()> {
    shape.check()?;
    check_sources(shape, images, sources)?;
    weights.check(
        shape,
        [shape.out_channels],
        sources.iter().map(|s| s.channels),
    )?;
    let (channels, size) = (shape.out_channels, shape.output());
    ConvShape::check_buffer("output gradient", gradient.len(), images, channels, size)?;
    ConvShape::check_buffer("bias gradient", bias.len(), 1, channels, [1, 1])?;

    let shape = shape.flattened();
    let [to, from] = weights.group_counts();
    let extent = shape.extent();
    let halo = [0, 1].map(|a| extent[a].saturating_sub(shape.stride[a]));
    let grid = Grid::new(shape.output(), 1, from, shape.stride, halo);
    let pieces = images * grid.items();
    let chunks = pieces.clamp(1, CHUNKS);
    let shares = to.div_ceil(SHARE);
    // A chunk's weights, then its biases.
    let stride = weights.data().len() + to;
    if workspace.len() < chunks * stride {
        workspace.resize(chunks * stride, Lanes::ZERO);
    }
    let call = Call {
        shape,
        sources,
        gradient,
        weights,
        partial: SharedMut::new(workspace),
        direct: is_direct(&shape, sources),
        grid,
    };
    let isa = isa();
    (0..chunks * shares).into_par_iter().for_each(|index| {
        let (chunk, share) = (index / shares, index % shares);
        Scratch::with(|scratch| {
            dispatch_on(
                isa,
                Sum {
                    call: &call,
                    pieces: pieces * chunk / chunks..pieces * (chunk + 1) / chunks,
                    groups: share * SHARE..((share + 1) * SHARE).min(to),
                    start: chunk * stride,
                    scratch,
                },
            )
        });
    });
    let total = |out: &mut [Lanes], start: usize| {
        out.par_chunks_mut(1024)
            .enumerate()
            .for_each(|(block, out)| {
                for chunk in 0..chunks {
                    let from = &workspace[chunk * stride + start + block * 1024..][..out.len()];
                    for (out, from) in out.iter_mut().zip(from) {
                        for (out, from) in out.0.iter_mut().zip(from.0) {
                            *out = if chunk == 0 { from } else { *out + from };
                        }
                    }
                }
            });
    };
    let data = weights.data_mut();
    total(data, 0);
    total(bias, data.len());
    Ok(())
}

struct Call<'a> {
    shape: ConvShape,
    sources: &'a [Source<'a>],
    gradient: &'a [Lanes],
    weights: &'a PackedWeights,
    partial: SharedMut,
    direct: bool,
    grid: Grid,
}

/// One chunk's sum for a share of the output groups.
struct Sum<'a> {
    call: &'a Call<'a>,
    pieces: std::ops::Range<usize>,
    groups: std::ops::Range<usize>,
    /// Where the chunk's sums start, in groups of lanes.
    start: usize,
    scratch: &'a mut Scratch,
}

impl Kernel for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Sum { call, scratch, .. } = self;
        let stride = call.weights.stride();
        let partial = call.partial.ptr();
        // SAFETY: chunks and shares are disjoint parts of the workspace, which holds them all.
        let (sums, biases) = unsafe {
            let biases = self.start + call.weights.data().len();
            (partial.add(self.start * LANES), partial.add(biases * LANES))
        };
        for group in self.groups.clone() {
            for row in group * stride..(group + 1) * stride {
                // SAFETY: the sums are this chunk's own rows of the workspace.
                unsafe { V::splat(0.0).store(sums.add(row * LANES)) };
            }
            // SAFETY: the biases are this chunk's own rows of the workspace.
            unsafe { V::splat(0.0).store(biases.add(group * LANES)) };
        }
        for piece in self.pieces {
            let item = call.grid.item(piece);
            // SAFETY: the sources were checked, the item comes from the grid of the output.
            let step = unsafe {
                prepare::<V>(
                    &call.shape,
                    call.sources,
                    call.weights.input_groups(),
                    call.direct,
                    &item,
                    scratch,
                )
            };
            let mut group = self.groups.start;
            while group < self.groups.end {
                let piece = Piece {
                    call,
                    item: &item,
                    scratch,
                    step,
                    group,
                    sums,
                    biases,
                };
                if groups_per_tile::<V>() == 2 && group + 1 < self.groups.end {
                    // SAFETY: the piece was prepared; the sums are this item's own.
                    unsafe { piece.add::<V, 2>() };
                    group += 2;
                } else {
                    // SAFETY: the piece was prepared; the sums are this item's own.
                    unsafe { piece.add::<V, 1>() };
                    group += 1;
                }
            }
        }
    }
}

/// A rectangle of output pixels, and where their products are added.
struct Piece<'a> {
    call: &'a Call<'a>,
    item: &'a Item,
    scratch: &'a Scratch,
    /// Floats from one output row's input to the next's.
    step: usize,
    group: usize,
    sums: *mut f32,
    biases: *mut f32,
}

/// Rows and columns of a piece that are summed in one go.
#[derive(Clone, Copy)]
struct Run<const O: usize> {
    /// Output gradients of the first pixel.
    gradients: [*const f32; O],
    /// Floats from one row of them to the next.
    pitch: usize,
    /// Where the first pixel is in a block, in floats.
    origin: usize,
    rows: usize,
    columns: usize,
}

impl Piece<'_> {
    /// # Safety
    /// The scratch was prepared for the item; nobody else writes the groups' sums.
    #[inline(always)]
    unsafe fn add<V: F32x16, const O: usize>(&self) {
        let [height, width] = self.call.shape.output();
        let count = groups(self.call.shape.out_channels);
        let (rows, columns) = (self.item.rows.len(), self.item.columns.len());
        let parts = columns.div_ceil(RUN);
        let row_step = (RUN / columns).max(1);
        for y in (0..rows).step_by(row_step) {
            for part in 0..parts {
                let x = columns * part / parts;
                let mut gradients = [std::ptr::null(); O];
                for (o, out) in gradients.iter_mut().enumerate() {
                    let plane = (self.item.image * count + self.group + o) * height;
                    let at =
                        (plane + self.item.rows.start + y) * width + self.item.columns.start + x;
                    // SAFETY: the gradient was checked to hold the image.
                    *out = unsafe { self.call.gradient.as_ptr().add(at).cast() };
                }
                let run = Run {
                    gradients,
                    pitch: width * LANES,
                    origin: y * self.step + x * LANES,
                    rows: row_step.min(rows - y),
                    columns: columns * (part + 1) / parts - x,
                };
                // SAFETY: the run lies within the item.
                unsafe { self.add_run::<V, O>(&run) };
            }
        }
    }

    /// # Safety
    /// As [`add`](Self::add), and the run lies within the item.
    #[inline(always)]
    unsafe fn add_run<V: F32x16, const O: usize>(&self, run: &Run<O>) {
        for o in 0..O {
            // SAFETY: the group's own bias sum; the run's gradients.
            unsafe {
                let to = self.biases.add((self.group + o) * LANES);
                let mut sum = V::load(to);
                for r in 0..run.rows {
                    for x in 0..run.columns {
                        sum = sum.add(V::load(run.gradients[o].add(r * run.pitch + x * LANES)));
                    }
                }
                sum.store(to);
            }
        }
        for block in &self.scratch.blocks {
            for tap in &self.scratch.taps {
                let mut c = 0;
                while c < block.channels {
                    let left = block.channels - c;
                    // The tile may compute channels that do not exist; it does not store them.
                    // SAFETY: a block's pixel has 16 floats, and `c` stays a multiple of the tile.
                    c += unsafe {
                        if V::REGISTERS < 32 || left <= 4 {
                            self.add_tile::<V, O, 4>(run, block, tap, c)
                        } else if O == 1 && left > 8 && c == 0 {
                            self.add_tile::<V, O, 16>(run, block, tap, c)
                        } else {
                            self.add_tile::<V, O, 8>(run, block, tap, c)
                        }
                    };
                }
            }
        }
    }

    /// Adds the products with input channels `c .. c + P` of one block at one tap. Returns `P`.
    ///
    /// # Safety
    /// As [`add_run`](Self::add_run), and `c + P ≤ 16`.
    #[inline(always)]
    unsafe fn add_tile<V: F32x16, const O: usize, const P: usize>(
        &self,
        run: &Run<O>,
        block: &Block,
        tap: &Tap,
        c: usize,
    ) -> usize {
        let row = block.weights + (tap.index * block.channels + c) * LANES;
        let valid = P.min(block.channels - c);
        let mut acc = [[V::splat(0.0); P]; O];
        // SAFETY: the caller's promise.
        unsafe {
            for r in 0..run.rows {
                let mut vectors = [std::ptr::null(); O];
                for o in 0..O {
                    vectors[o] = run.gradients[o].add(r * run.pitch);
                }
                let scalars = block.data.add(run.origin + tap.offset + r * self.step + c);
                outer_products::<V, O, P, 1, LANES>(&mut acc, vectors, scalars, run.columns);
            }
            for o in 0..O {
                let to = self
                    .sums
                    .add((self.group + o) * self.call.weights.stride() * LANES + row);
                for p in 0..P {
                    if p < valid {
                        let to = to.add(p * LANES);
                        V::load(to).add(acc[o][p]).store(to);
                    }
                }
            }
        }
        P
    }
}
