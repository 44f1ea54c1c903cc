//! Convolution.

use rayon::prelude::*;

use super::gather::{Source, Window, gather};
use super::layout::groups;
use super::scratch::{Grid, Item, Scratch, SharedMut, isa};
use super::tile::{Activation, Block, OutputRow, Row, Tap, groups_per_tile, row};
use super::{ConvShape, PackedWeights, Pads};
use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch_on};
use crate::error::Result;

/// What follows the sum: `activation(sum + bias + residual)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One number an output channel, in groups.
    pub bias: Option<&'a [Lanes]>,
    /// A tensor of the output's shape.
    pub residual: Option<&'a [Lanes]>,
    pub activation: Activation,
}

impl Epilogue<'_> {
    /// Refuses a bias or residual that does not fit the output.
    pub(super) fn check(&self, images: usize, channels: usize, size: [usize; 2]) -> Result<()> {
        if let Some(bias) = self.bias {
            ConvShape::check_buffer("bias", bias.len(), 1, channels, [1, 1])?;
        }
        if let Some(residual) = self.residual {
            ConvShape::check_buffer("residual", residual.len(), images, channels, size)?;
        }
        Ok(())
    }

    /// Where group `group`'s row that starts `at` floats into the output goes.
    ///
    /// # Safety
    /// The epilogue was checked, and `group` and `at` lie within the output.
    #[inline(always)]
    pub(super) unsafe fn output_row(
        &self,
        weights: *const f32,
        group: usize,
        output: *mut f32,
        at: usize,
    ) -> OutputRow {
        // SAFETY: the caller's promise.
        unsafe {
            OutputRow {
                weights,
                output: output.add(at),
                bias: match self.bias {
                    Some(bias) => bias.as_ptr().add(group).cast(),
                    None => std::ptr::null(),
                },
                residual: match self.residual {
                    Some(residual) => residual.as_ptr().cast::<f32>().add(at),
                    None => std::ptr::null(),
                },
            }
        }
    }
}

/// Convolves `images` images whose channels are those of `sources`, one after another.
///
/// # Errors
/// The shape is impossible, or a buffer does not fit it.
pub fn conv_forward(
    shape: &ConvShape,
    images: usize,
    sources: &[Source],
    weights: &PackedWeights,
    epilogue: &Epilogue,
    output: &mut [Lanes],
) -> Result<()> {
    shape.check()?;
    check_sources(shape, images, sources)?;
    let channels = sources.iter().map(|s| s.channels);
    weights.check(shape, [shape.out_channels], channels)?;
    epilogue.check(images, shape.out_channels, shape.output())?;
    ConvShape::check_buffer(
        "output",
        output.len(),
        images,
        shape.out_channels,
        shape.output(),
    )?;

    let shape = shape.flattened();
    let extent = shape.extent();
    let [to, from] = weights.group_counts();
    let halo = [0, 1].map(|a| extent[a].saturating_sub(shape.stride[a]));
    let grid = Grid::new(shape.output(), to, from, shape.stride, halo);
    let call = Call {
        shape,
        sources,
        weights,
        epilogue,
        output: SharedMut::new(output),
        direct: is_direct(&shape, sources),
    };
    let isa = isa();
    (0..images * grid.items())
        .into_par_iter()
        .for_each(|index| {
            let item = grid.item(index);
            Scratch::with(|scratch| {
                dispatch_on(
                    isa,
                    Forward {
                        call: &call,
                        item,
                        scratch,
                    },
                )
            });
        });
    Ok(())
}

/// Whether the input can be read where it is: no padding, stride 1 along rows, no affine map.
pub(super) fn is_direct(shape: &ConvShape, sources: &[Source]) -> bool {
    shape.pads == Pads::default()
        && shape.stride[1] == 1
        && sources.iter().all(|s| s.affine.is_none())
}

/// Refuses sources that are not the input of `shape`.
pub(super) fn check_sources(shape: &ConvShape, images: usize, sources: &[Source]) -> Result<()> {
    shape.check_channels(sources.iter().map(|s| s.channels))?;
    for source in sources {
        let (len, channels) = (source.data.len(), source.channels);
        ConvShape::check_buffer("input", len, images, channels, shape.input)?;
        let Some(affine) = source.affine else {
            continue;
        };
        for numbers in [affine.scale, affine.shift] {
            let name = "input's affine map";
            ConvShape::check_buffer(name, numbers.len(), 1, channels, [1, 1])?;
        }
    }
    Ok(())
}

struct Call<'a> {
    shape: ConvShape,
    sources: &'a [Source<'a>],
    weights: &'a PackedWeights,
    epilogue: &'a Epilogue<'a>,
    output: SharedMut,
    direct: bool,
}

struct Forward<'a> {
    call: &'a Call<'a>,
    item: Item,
    scratch: &'a mut Scratch,
}

/// The input that an item reads, as blocks and taps.
///
/// Returns the floats from one output row to the next.
///
/// # Safety
/// The sources were checked, the item lies within the output.
#[inline(always)]
pub(super) unsafe fn prepare<V: F32x16>(
    shape: &ConvShape,
    sources: &[Source],
    groups_of: impl Iterator<Item = (usize, usize)>,
    direct: bool,
    item: &Item,
    scratch: &mut Scratch,
) -> usize {
    let [height, width] = shape.input;
    let (stride, dilation) = (shape.stride, shape.dilation);
    scratch.blocks.clear();
    for (channels, row) in groups_of {
        scratch.blocks.push(Block {
            data: std::ptr::null(),
            channels,
            weights: row * LANES,
        });
    }
    let extent = shape.extent();
    let window = Window {
        top: (item.rows.start * stride[0]) as isize - shape.pads.top as isize,
        left: (item.columns.start * stride[1]) as isize - shape.pads.left as isize,
        rows: (item.rows.len() - 1) * stride[0] + extent[0],
        columns: (item.columns.len() - 1) * stride[1] + extent[1],
        phases: stride[1],
    };
    let row_pitch = if direct { width } else { window.row_pitch() };
    scratch.taps.clear();
    for ky in 0..shape.kernel[0] {
        for kx in 0..shape.kernel[1] {
            let column = kx * dilation[1];
            let column = if direct {
                column
            } else {
                window.column(column)
            };
            scratch.taps.push(Tap {
                offset: (ky * dilation[0] * row_pitch + column) * LANES,
                index: ky * shape.kernel[1] + kx,
            });
        }
    }
    if direct {
        let start = (window.top as usize * width + window.left as usize) * LANES;
        let mut next = 0;
        for source in sources {
            let count = groups(source.channels);
            for group in 0..count {
                let plane = (item.image * count + group) * height * width * LANES;
                // SAFETY: without padding the window lies inside the image.
                scratch.blocks[next].data =
                    unsafe { source.data.as_ptr().cast::<f32>().add(plane + start) };
                next += 1;
            }
        }
    } else {
        // SAFETY: the caller's promise.
        unsafe {
            gather::<V>(
                sources,
                item.image,
                shape.input,
                shape.padding,
                &window,
                &mut scratch.lanes,
                &mut scratch.blocks,
            );
        }
    }
    stride[0] * row_pitch * LANES
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Forward {
            call,
            item,
            scratch,
        } = self;
        // SAFETY: `conv_forward` checked the sources and cut the items from the output.
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
        let mut group = item.groups.start;
        while group < item.groups.end {
            if groups_per_tile::<V>() == 2 && group + 1 < item.groups.end {
                // SAFETY: items are disjoint in image, rows, columns and groups.
                unsafe { rows::<V, 2>(call, &item, scratch, step, group) };
                group += 2;
            } else {
                // SAFETY: items are disjoint in image, rows, columns and groups.
                unsafe { rows::<V, 1>(call, &item, scratch, step, group) };
                group += 1;
            }
        }
    }
}

/// The item's rows of `O` groups from `group` on.
///
/// # Safety
/// No other work item has these rows, columns and groups; `scratch` was prepared.
#[inline(always)]
unsafe fn rows<V: F32x16, const O: usize>(
    call: &Call,
    item: &Item,
    scratch: &Scratch,
    step: usize,
    group: usize,
) {
    let [height, width] = call.shape.output();
    let count = groups(call.shape.out_channels);
    for (r, y) in item.rows.clone().enumerate() {
        let mut outputs = [OutputRow::NONE; O];
        // SAFETY: the groups and rows lie within the checked output; taps, blocks and weights
        // belong to this convolution.
        unsafe {
            for (o, out) in outputs.iter_mut().enumerate() {
                let g = group + o;
                let at = ((item.image * count + g) * height + y) * width + item.columns.start;
                let weights = call.weights.data().as_ptr().add(g * call.weights.stride());
                *out = call
                    .epilogue
                    .output_row(weights.cast(), g, call.output.ptr(), at * LANES);
            }
            row::<V, O>(&Row {
                blocks: &scratch.blocks,
                taps: &scratch.taps,
                origin: r * step,
                pixels: item.columns.len(),
                outputs,
                stride: LANES,
                activation: call.epilogue.activation,
            });
        }
    }
}
