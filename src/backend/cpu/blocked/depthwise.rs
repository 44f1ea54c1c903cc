//! Depthwise convolution: every channel by itself, so a vector is 16 independent convolutions.

use rayon::prelude::*;

use super::backward_data::{backward_grid, plan};
use super::forward::{Epilogue, check_sources, is_direct, prepare};
use super::gather::{Source, gather_plane};
use super::layout::groups;
use super::scratch::{Grid, Item, Scratch, SharedMut, isa};
use super::tile::{Activation, OutputRow, Tap, activate, finish};
use super::{ConvShape, Destination};
use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch_on};
use crate::dip::Padding;
use crate::error::{Error, Result};

/// A depthwise convolution's weights as `[channels / 16][tap][16]`, for both directions.
#[derive(Clone, Debug, PartialEq)]
pub struct DepthwiseWeights {
    channels: usize,
    taps: usize,
    data: Vec<Lanes>,
}

impl DepthwiseWeights {
    /// From `[channels][1][kernel][kernel]`.
    ///
    /// # Errors
    /// The shape is impossible or not depthwise, or the weights do not fit it.
    pub fn new(shape: &ConvShape, weights: &[f32]) -> Result<DepthwiseWeights> {
        shape.check()?;
        let (channels, taps) = (shape.in_channels, shape.taps());
        if shape.out_channels != channels || weights.len() != channels * taps {
            return Err(Error::invalid(format!(
                "{} numbers are not the weights of a depthwise convolution: {shape:?}",
                weights.len()
            )));
        }
        let mut data = vec![Lanes::ZERO; groups(channels) * taps];
        for (i, &weight) in weights.iter().enumerate() {
            let (channel, tap) = (i / taps, i % taps);
            data[channel / LANES * taps + tap].0[channel % LANES] = weight;
        }
        Ok(DepthwiseWeights {
            channels,
            taps,
            data,
        })
    }

    fn check(&self, shape: &ConvShape) -> Result<()> {
        let channels = [shape.in_channels, shape.out_channels];
        if channels == [self.channels; 2] && self.taps == shape.taps() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "depthwise weights of {} channels and {} taps are not for {shape:?}",
            self.channels, self.taps
        )))
    }
}

/// Convolves each channel of `images` images with its own kernel.
///
/// # Errors
/// The shape is impossible or not depthwise, or a buffer does not fit it.
pub fn depthwise_forward(
    shape: &ConvShape,
    images: usize,
    source: Source,
    weights: &DepthwiseWeights,
    epilogue: &Epilogue,
    output: &mut [Lanes],
) -> Result<()> {
    shape.check()?;
    weights.check(shape)?;
    check_sources(shape, images, &[source])?;
    epilogue.check(images, shape.out_channels, shape.output())?;
    let (channels, size) = (shape.out_channels, shape.output());
    ConvShape::check_buffer("output", output.len(), images, channels, size)?;
    let count = groups(channels);
    let extent = shape.extent();
    let halo = [0, 1].map(|a| extent[a].saturating_sub(shape.stride[a]));
    let grid = Grid::new(size, 1, 1, shape.stride, halo);
    let call = Forward {
        shape: *shape,
        source,
        weights,
        epilogue,
        output: SharedMut::new(output),
        direct: is_direct(shape, &[source]),
        groups: count,
    };
    // A channel group is to the grid what an image is.
    let isa = isa();
    (0..images * count * grid.items())
        .into_par_iter()
        .for_each(|index| {
            let item = grid.item(index);
            Scratch::with(|scratch| {
                dispatch_on(
                    isa,
                    ForwardItem {
                        call: &call,
                        item,
                        scratch,
                    },
                )
            });
        });
    Ok(())
}

/// Gradient of a depthwise convolution's input from that of its output.
///
/// # Errors
/// The shape is impossible or not depthwise, or a buffer does not fit it.
pub fn depthwise_backward_data(
    shape: &ConvShape,
    images: usize,
    gradient: &[Lanes],
    weights: &DepthwiseWeights,
    destination: Destination,
) -> Result<()> {
    shape.check()?;
    weights.check(shape)?;
    let (channels, size) = (shape.out_channels, shape.output());
    ConvShape::check_buffer("output gradient", gradient.len(), images, channels, size)?;
    destination.check(images, channels, shape.input)?;
    let grid = backward_grid(shape, 1, 1);
    let call = Backward {
        shape: *shape,
        gradient,
        weights,
        destination,
        groups: groups(channels),
    };
    let isa = isa();
    (0..images * call.groups * grid.items())
        .into_par_iter()
        .for_each(|index| {
            let item = grid.item(index);
            Scratch::with(|scratch| {
                dispatch_on(
                    isa,
                    BackwardItem {
                        call: &call,
                        item,
                        scratch,
                    },
                )
            });
        });
    Ok(())
}

struct Forward<'a> {
    shape: ConvShape,
    source: Source<'a>,
    weights: &'a DepthwiseWeights,
    epilogue: &'a Epilogue<'a>,
    output: SharedMut,
    direct: bool,
    groups: usize,
}

/// One work item; `item.image` counts channel groups of all images.
struct ForwardItem<'a> {
    call: &'a Forward<'a>,
    item: Item,
    scratch: &'a mut Scratch,
}

impl Kernel for ForwardItem<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let ForwardItem {
            call,
            item,
            scratch,
        } = self;
        let (plane, group) = (item.image, item.image % call.groups);
        let [height, width] = call.shape.output();
        // The group's plane, as a tensor of 16 channels.
        let source = call.source.plane(plane, group, call.shape.input);
        let alone = Item {
            image: 0,
            ..item.clone()
        };
        // SAFETY: `plane` cut the source to one image of one group; the item comes from the grid.
        let step = unsafe {
            prepare::<V>(
                &call.shape,
                &[source],
                std::iter::once((LANES, 0)),
                call.direct,
                &alone,
                scratch,
            )
        };
        for (r, y) in item.rows.clone().enumerate() {
            let at = ((plane * height + y) * width + item.columns.start) * LANES;
            // SAFETY: items are disjoint in plane, rows and columns, which lie within the output.
            unsafe {
                let weights = call.weights.data.as_ptr().add(group * call.weights.taps);
                let output = call
                    .epilogue
                    .output_row(weights.cast(), group, call.output.ptr(), at);
                row::<V>(&Row {
                    data: scratch.blocks[0].data.add(r * step),
                    taps: &scratch.taps,
                    pixels: item.columns.len(),
                    output,
                    stride: LANES,
                    activation: call.epilogue.activation,
                });
            }
        }
    }
}

struct Backward<'a> {
    shape: ConvShape,
    gradient: &'a [Lanes],
    weights: &'a DepthwiseWeights,
    destination: Destination<'a>,
    groups: usize,
}

/// One work item; `item.image` counts channel groups of all images.
struct BackwardItem<'a> {
    call: &'a Backward<'a>,
    item: Item,
    scratch: &'a mut Scratch,
}

impl Kernel for BackwardItem<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let BackwardItem {
            call,
            item,
            scratch,
        } = self;
        let window = plan(&call.shape, &item, scratch);
        let group = item.image % call.groups;
        let [height, width] = call.shape.output();
        let data = Scratch::lanes(&mut scratch.lanes, window.pixels());
        let input = call.shape.input[0] * call.shape.input[1];
        // SAFETY: the gradient and the destination hold the plane; jobs lie within the item, which no
        // other has; taps lie within the gathered window.
        unsafe {
            let plane = call.gradient.as_ptr().add(item.image * height * width);
            let size = [height, width];
            gather_plane::<V>(plane.cast(), size, Padding::Zero, &window, None, data);
            let weights = call.weights.data.as_ptr().add(group * call.weights.taps);
            for job in &scratch.jobs {
                let output = call
                    .destination
                    .ptr()
                    .add((item.image * input + job.start) * LANES);
                let add = call.destination.accumulates() || job.mirrored;
                row::<V>(&Row {
                    data,
                    taps: &scratch.taps[job.taps.clone()],
                    pixels: job.pixels,
                    output: OutputRow {
                        weights: weights.cast(),
                        output,
                        residual: if add { output } else { std::ptr::null() },
                        ..OutputRow::NONE
                    },
                    stride: job.stride * LANES,
                    activation: Activation::None,
                });
            }
        }
    }
}

/// A row of output pixels of one group.
struct Row<'a> {
    /// The first pixel's input.
    data: *const f32,
    taps: &'a [Tap],
    pixels: usize,
    output: OutputRow,
    /// Distance of output (and residual) pixels, in floats.
    stride: usize,
    activation: Activation,
}

/// # Safety
/// For every tap and pixel, `data[offset + 16·pixel ..][..16]` and the tap's weights are valid to read;
/// the output, and a residual that is not null, are valid for every pixel.
#[inline(always)]
unsafe fn row<V: F32x16>(row: &Row) {
    let mut x = 0;
    while x < row.pixels {
        // SAFETY: the caller's promise, for these pixels.
        x += unsafe {
            match row.pixels - x {
                1 => pixels::<V, 1>(row, x),
                2 | 3 => pixels::<V, 2>(row, x),
                4..8 => pixels::<V, 4>(row, x),
                _ if V::REGISTERS < 32 => pixels::<V, 4>(row, x),
                _ => pixels::<V, 8>(row, x),
            }
        };
    }
    // SAFETY: the caller's promise on the output.
    unsafe { activate::<V>(row.activation, row.output.output, row.pixels, row.stride) };
}

/// Computes `P` pixels from `x` on. Returns `P`.
///
/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn pixels<V: F32x16, const P: usize>(row: &Row, x: usize) -> usize {
    let mut acc = [V::splat(0.0); P];
    // SAFETY: the caller's promise.
    unsafe {
        if !row.output.bias.is_null() {
            acc = [V::load(row.output.bias); P];
        }
        for tap in row.taps {
            let weight = V::load(row.output.weights.add(tap.index * LANES));
            let data = row.data.add(tap.offset + x * LANES);
            for p in 0..P {
                acc[p] = V::load(data.add(p * LANES)).mul_add(weight, acc[p]);
            }
        }
        let start = x * row.stride;
        let OutputRow {
            output, residual, ..
        } = row.output;
        let bounds = row.activation.bounds();
        finish(&acc, output.add(start), residual, start, row.stride, bounds);
    }
    P
}
