//! The gradient of a convolution with respect to its input.
//!
//! The padded input's gradient at row `Y` sums, over the taps `ky` with `(Y − ky·dilation)` a multiple of
//! the stride, the output gradient at that quotient: a convolution of stride 1 for each phase of the
//! stride. Reflection padding's rows and columns are then added to the pixels that they mirror.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::gather::{Source, Window, gather};
use super::layout::groups;
use super::scratch::{Grid, Item, Scratch, SharedMut, isa};
use super::tile::{Activation, Block, Job, OutputRow, Row, Tap, groups_per_tile, row};
use super::{ConvShape, PackedWeights};
use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch_on};
use crate::dip::Padding;
use crate::error::{Error, Result};

/// A tensor that receives the gradient of one of the sources.
pub struct Destination<'a> {
    data: SharedMut,
    len: usize,
    channels: usize,
    accumulate: bool,
    borrow: PhantomData<&'a mut [Lanes]>,
}

impl<'a> Destination<'a> {
    /// A tensor that is overwritten.
    pub fn new(data: &'a mut [Lanes], channels: usize) -> Destination<'a> {
        Destination {
            len: data.len(),
            data: SharedMut::new(data),
            channels,
            accumulate: false,
            borrow: PhantomData,
        }
    }

    pub(super) fn ptr(&self) -> *mut f32 {
        self.data.ptr()
    }

    pub(super) fn accumulates(&self) -> bool {
        self.accumulate
    }

    /// Refuses a buffer that does not hold the gradient of `channels` channels.
    pub(super) fn check(&self, images: usize, channels: usize, size: [usize; 2]) -> Result<()> {
        if self.channels != channels {
            return Err(Error::invalid(format!(
                "the gradient of {channels} input channels goes to tensors of {}",
                self.channels
            )));
        }
        ConvShape::check_buffer("input gradient", self.len, images, channels, size)
    }

    /// A tensor to which the gradient is added.
    pub fn adding(data: &'a mut [Lanes], channels: usize) -> Destination<'a> {
        Destination {
            accumulate: true,
            ..Destination::new(data, channels)
        }
    }
}

/// Gradient of `images` images' inputs, from that of their outputs. `weights` come from
/// [`PackedWeights::backward`] (or [`transpose_into`](PackedWeights::transpose_into)).
///
/// # Errors
/// The shape is impossible, or a buffer does not fit it.
pub fn conv_backward_data(
    shape: &ConvShape,
    images: usize,
    gradient: &[Lanes],
    weights: &PackedWeights,
    destinations: &mut [Destination],
) -> Result<()> {
    shape.check()?;
    ConvShape::check_buffer(
        "output gradient",
        gradient.len(),
        images,
        shape.out_channels,
        shape.output(),
    )?;
    for destination in destinations.iter() {
        destination.check(images, destination.channels, shape.input)?;
    }
    let channels = destinations.iter().map(|d| d.channels);
    shape.check_channels(channels.clone())?;
    weights.check(shape, channels, [shape.out_channels])?;

    let shape = shape.flattened();
    let [to, from] = weights.group_counts();
    let grid = backward_grid(&shape, to, from);
    let call = Call {
        shape,
        gradient: Source::plain(gradient, shape.out_channels),
        weights,
        destinations,
    };
    let isa = isa();
    (0..images * grid.items())
        .into_par_iter()
        .for_each(|index| {
            let item = grid.item(index);
            Scratch::with(|scratch| {
                dispatch_on(
                    isa,
                    Backward {
                        call: &call,
                        item,
                        scratch,
                    },
                )
            });
        });
    Ok(())
}

/// How the input's gradient is cut into work items.
pub(super) fn backward_grid(shape: &ConvShape, groups: usize, blocks: usize) -> Grid {
    let halo = shape.extent().map(|n| n - 1);
    Grid::new(shape.input, groups, blocks, [1, 1], halo)
}

/// The padded coordinates that coordinate `i` of an axis of `n` pixels stands for: itself, and its
/// mirror images before and after.
fn images_of(
    i: usize,
    n: usize,
    before: usize,
    after: usize,
    padding: Padding,
) -> impl Iterator<Item = usize> {
    let reflect = padding == Padding::Reflect;
    let first = (reflect && (1..=before).contains(&i)).then(|| before - i);
    let distance = n - 1 - i;
    let last = (reflect && (1..=after).contains(&distance)).then(|| before + n - 1 + distance);
    [Some(i + before), first, last].into_iter().flatten()
}

/// Output coordinates that the padded coordinates of `range` see.
fn seen(
    shape: &ConvShape,
    axis: usize,
    range: Range<usize>,
    before: usize,
    after: usize,
) -> (isize, usize) {
    let (mut least, mut most) = (usize::MAX, 0);
    for i in range {
        for place in images_of(i, shape.input[axis], before, after, shape.padding) {
            least = least.min(place);
            most = most.max(place);
        }
    }
    let stride = shape.stride[axis] as isize;
    let first = (least as isize - (shape.extent()[axis] as isize - 1)).div_euclid(stride);
    let last = (most as isize).div_euclid(stride);
    (first, (last - first + 1) as usize)
}

/// Writes the jobs of an item, and the taps they see, to the scratch memory. Returns the part of the
/// output gradient that they read.
pub(super) fn plan(shape: &ConvShape, item: &Item, scratch: &mut Scratch) -> Window {
    let pads = shape.pads;
    let (top, rows) = seen(shape, 0, item.rows.clone(), pads.top, pads.bottom);
    let (left, columns) = seen(shape, 1, item.columns.clone(), pads.left, pads.right);
    let window = Window {
        top,
        left,
        rows,
        columns,
        phases: 1,
    };
    scratch.taps.clear();
    scratch.jobs.clear();
    let [height, width] = shape.input;
    let stride = shape.stride[1];
    for y in item.rows.clone() {
        let places = images_of(y, height, pads.top, pads.bottom, shape.padding);
        for (copy, padded_y) in places.enumerate() {
            // The row's own pixels, phase by phase, then those mirrored in columns.
            for phase in 0..stride.min(item.columns.len()) {
                let x = item.columns.start + phase;
                scratch.jobs.push(Job {
                    taps: push_taps(shape, &window, padded_y, x + pads.left, &mut scratch.taps),
                    start: y * width + x,
                    pixels: (item.columns.len() - phase).div_ceil(stride),
                    stride,
                    mirrored: copy > 0,
                });
            }
            // Only columns near an edge have mirror images.
            let inner = pads.left + 1..(width - 1).saturating_sub(pads.right);
            for x in item.columns.clone().filter(|x| !inner.contains(x)) {
                let places = images_of(x, width, pads.left, pads.right, shape.padding);
                for padded_x in places.skip(1) {
                    scratch.jobs.push(Job {
                        taps: push_taps(shape, &window, padded_y, padded_x, &mut scratch.taps),
                        start: y * width + x,
                        pixels: 1,
                        stride,
                        mirrored: true,
                    });
                }
            }
        }
    }
    window
}

/// Appends the taps through which a padded pixel, and those a stride on, reach outputs.
fn push_taps(
    shape: &ConvShape,
    window: &Window,
    y: usize,
    x: usize,
    taps: &mut Vec<Tap>,
) -> Range<usize> {
    let start = taps.len();
    let reach = |at: usize, k: usize, axis: usize| {
        let at = at as isize - (k * shape.dilation[axis]) as isize;
        let stride = shape.stride[axis] as isize;
        (at.rem_euclid(stride) == 0).then(|| at.div_euclid(stride))
    };
    for ky in 0..shape.kernel[0] {
        let Some(row) = reach(y, ky, 0) else { continue };
        for kx in 0..shape.kernel[1] {
            let Some(column) = reach(x, kx, 1) else {
                continue;
            };
            let row = (row - window.top) as usize;
            let column = (column - window.left) as usize;
            taps.push(Tap {
                offset: (row * window.columns + column) * LANES,
                index: ky * shape.kernel[1] + kx,
            });
        }
    }
    start..taps.len()
}

struct Call<'a> {
    shape: ConvShape,
    gradient: Source<'a>,
    weights: &'a PackedWeights,
    destinations: &'a [Destination<'a>],
}

impl Call<'_> {
    /// The plane of input group `group` of an image, and whether it is added to.
    fn plane(&self, image: usize, mut group: usize) -> (*mut f32, bool) {
        let plane = self.shape.input[0] * self.shape.input[1] * LANES;
        for destination in self.destinations {
            let count = groups(destination.channels);
            if group < count {
                let at = (image * count + group) * plane;
                // SAFETY: the destination holds the image and the group.
                return (
                    unsafe { destination.data.ptr().add(at) },
                    destination.accumulate,
                );
            }
            group -= count;
        }
        unreachable!("the weights' groups are the destinations'")
    }
}

struct Backward<'a> {
    call: &'a Call<'a>,
    item: Item,
    scratch: &'a mut Scratch,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Backward {
            call,
            item,
            scratch,
        } = self;
        let window = plan(&call.shape, &item, scratch);
        scratch.blocks.clear();
        for (channels, row) in call.weights.input_groups() {
            scratch.blocks.push(Block {
                data: std::ptr::null(),
                channels,
                weights: row * LANES,
            });
        }
        if call.shape.is_pointwise() {
            // The gradient is read where it is; the picture is one row, and so is the window.
            let plane = call.shape.input[1];
            for (group, block) in scratch.blocks.iter_mut().enumerate() {
                let at = (item.image * groups(call.shape.out_channels) + group) * plane
                    + item.columns.start;
                // SAFETY: the gradient was checked to hold the image.
                block.data = unsafe { call.gradient.data.as_ptr().add(at).cast() };
            }
        } else {
            // SAFETY: the gradient was checked to hold the image.
            unsafe {
                gather::<V>(
                    &[call.gradient],
                    item.image,
                    call.shape.output(),
                    Padding::Zero,
                    &window,
                    &mut scratch.lanes,
                    &mut scratch.blocks,
                );
            }
        }
        let mut group = item.groups.start;
        while group < item.groups.end {
            if groups_per_tile::<V>() == 2 && group + 1 < item.groups.end {
                // SAFETY: items are disjoint in image, rows, columns and groups.
                unsafe { run_jobs::<V, 2>(call, item.image, scratch, group) };
                group += 2;
            } else {
                // SAFETY: items are disjoint in image, rows, columns and groups.
                unsafe { run_jobs::<V, 1>(call, item.image, scratch, group) };
                group += 1;
            }
        }
    }
}

/// The planned jobs for `O` input groups from `group` on.
///
/// # Safety
/// No other work item has these rows, columns and groups; `scratch` was planned and gathered.
#[inline(always)]
unsafe fn run_jobs<V: F32x16, const O: usize>(
    call: &Call,
    image: usize,
    scratch: &Scratch,
    group: usize,
) {
    for job in &scratch.jobs {
        let mut outputs = [OutputRow::NONE; O];
        // SAFETY: jobs lie within the item's rows and columns; taps within the gathered window.
        unsafe {
            for (o, out) in outputs.iter_mut().enumerate() {
                let g = group + o;
                let (plane, accumulate) = call.plane(image, g);
                let output = plane.add(job.start * LANES);
                let weights = call
                    .weights
                    .data()
                    .as_ptr()
                    .add(g * call.weights.stride())
                    .cast();
                *out = OutputRow {
                    weights,
                    output,
                    ..OutputRow::NONE
                };
                if accumulate || job.mirrored {
                    out.residual = output;
                }
            }
            row::<V, O>(&Row {
                blocks: &scratch.blocks,
                taps: &scratch.taps[job.taps.clone()],
                origin: 0,
                pixels: job.pixels,
                outputs,
                stride: job.stride * LANES,
                activation: Activation::None,
            });
        }
    }
}
