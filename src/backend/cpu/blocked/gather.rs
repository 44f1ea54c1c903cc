//! Bringing the part of an input that a work item reads into the cache: padding, stride phases,
//! concatenation, and an affine map with LeakyReLU.

use super::layout::groups;
use super::scratch::Scratch;
use super::tile::Block;
use crate::backend::TileGrid;
use crate::backend::cpu::simd::{F32x16, LANES, Lanes};
use crate::dip::Padding;

/// `LeakyReLU(scale · x + shift)`, channel by channel: batch normalization and its activation, applied
/// where a convolution reads its input.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// One number a channel, in groups.
    pub scale: &'a [Lanes],
    pub shift: &'a [Lanes],
    /// LeakyReLU's slope; 1 for no activation.
    pub slope: f32,
}

/// One of the tensors whose concatenation along the channels is a convolution's input.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// `[image][channels / 16][height][width]`.
    pub data: &'a [Lanes],
    pub channels: usize,
    pub affine: Option<Affine<'a>>,
}

impl<'a> Source<'a> {
    /// One group of one image as a tensor of 16 channels: `plane` counts groups of all images.
    pub(super) fn plane(&self, plane: usize, group: usize, size: [usize; 2]) -> Source<'a> {
        let pixels = size[0] * size[1];
        Source {
            data: &self.data[plane * pixels..(plane + 1) * pixels],
            channels: LANES,
            affine: self.affine.map(|affine| Affine {
                scale: &affine.scale[group..group + 1],
                shift: &affine.shift[group..group + 1],
                ..affine
            }),
        }
    }

    /// A tensor that is read as it is.
    pub fn plain(data: &'a [Lanes], channels: usize) -> Source<'a> {
        Source {
            data,
            channels,
            affine: None,
        }
    }
}

/// A rectangle of a picture and its surroundings.
///
/// Gathered columns lie phase by phase: column `c` at `(c mod phases) · pitch + c / phases`, so that
/// pixels a stride apart are neighbors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// First row and column; negative ones are padding.
    pub top: isize,
    pub left: isize,
    pub rows: usize,
    pub columns: usize,
    pub phases: usize,
}

impl Window {
    /// Columns of one phase.
    pub(super) fn pitch(&self) -> usize {
        self.columns.div_ceil(self.phases)
    }
    /// Pixels from one gathered row to the next.
    pub(super) fn row_pitch(&self) -> usize {
        self.pitch() * self.phases
    }
    /// Where column `c` lies in a gathered row.
    pub(super) fn column(&self, c: usize) -> usize {
        c % self.phases * self.pitch() + c / self.phases
    }
    /// Gathered pixels.
    pub(super) fn pixels(&self) -> usize {
        self.rows * self.row_pitch()
    }
}

/// Where coordinate `i` lies on an axis of `n` pixels; `None` in zero padding.
#[inline(always)]
pub(super) fn place(i: isize, n: usize, padding: Padding) -> Option<usize> {
    if i >= 0 && (i as usize) < n {
        return Some(i as usize);
    }
    match padding {
        Padding::Zero => None,
        Padding::Reflect => Some(TileGrid::reflect(i.unsigned_abs(), n)),
    }
}

/// Gathers one group's plane.
///
/// # Safety
/// `plane` is valid for `height · width` pixels of 16 floats, `to` for the window's.
#[inline(always)]
pub(super) unsafe fn gather_plane<V: F32x16>(
    plane: *const f32,
    [height, width]: [usize; 2],
    padding: Padding,
    window: &Window,
    affine: Option<(V, V, f32)>,
    to: *mut f32,
) {
    let phases = window.phases as isize;
    for r in 0..window.rows {
        let row = place(window.top + r as isize, height, padding);
        for phase in 0..window.phases {
            let first = window.left + phase as isize;
            let count = (window.columns.saturating_sub(phase)).div_ceil(window.phases);
            // SAFETY: the row and phase start within the window.
            let to = unsafe { to.add((r * window.row_pitch() + phase * window.pitch()) * LANES) };
            let Some(row) = row else {
                for j in 0..count {
                    // SAFETY: within the phase.
                    unsafe { V::splat(0.0).store(to.add(j * LANES)) };
                }
                continue;
            };
            // Pixels `inner.0 .. inner.1` lie inside the picture.
            let before = |x: isize| ((x - first).max(0) as usize).div_ceil(window.phases);
            let inner = (before(0).min(count), before(width as isize).min(count));
            // SAFETY: `row` lies inside the picture.
            let from = unsafe { plane.add(row * width * LANES) };
            // SAFETY: `place` gives columns inside the picture, `j` lies within the phase.
            unsafe {
                for j in (0..inner.0).chain(inner.1..count) {
                    let value = match place(first + j as isize * phases, width, padding) {
                        Some(x) => map(V::load(from.add(x * LANES)), affine),
                        None => V::splat(0.0),
                    };
                    value.store(to.add(j * LANES));
                }
                for j in inner.0..inner.1 {
                    let x = (first + j as isize * phases) as usize;
                    map(V::load(from.add(x * LANES)), affine).store(to.add(j * LANES));
                }
            }
        }
    }
}

/// `LeakyReLU(scale · x + shift)`.
#[inline(always)]
fn map<V: F32x16>(x: V, affine: Option<(V, V, f32)>) -> V {
    match affine {
        None => x,
        Some((scale, shift, slope)) => {
            let y = x.mul_add(scale, shift);
            y.select_positive(y, y.mul(V::splat(slope)))
        }
    }
}

/// Gathers the sources' groups of one image into `lanes`, and points `blocks`, one for each, to them.
///
/// # Safety
/// Every source holds the image.
#[inline(always)]
pub(super) unsafe fn gather<V: F32x16>(
    sources: &[Source],
    image: usize,
    size: [usize; 2],
    padding: Padding,
    window: &Window,
    lanes: &mut Vec<Lanes>,
    blocks: &mut [Block],
) {
    let to = Scratch::lanes(lanes, blocks.len() * window.pixels());
    let plane = size[0] * size[1] * LANES;
    let mut next = 0;
    for source in sources {
        let count = groups(source.channels);
        for group in 0..count {
            // SAFETY: scratch was sized for every block's window; the source holds the image.
            unsafe {
                let to = to.add(next * window.pixels() * LANES);
                let from = source
                    .data
                    .as_ptr()
                    .cast::<f32>()
                    .add((image * count + group) * plane);
                // No closure: it would be compiled without the instruction set.
                let mut affine = None;
                if let Some(map) = source.affine {
                    affine = Some((
                        V::from_array(map.scale[group].0),
                        V::from_array(map.shift[group].0),
                        map.slope,
                    ));
                }
                gather_plane(from, size, padding, window, affine, to);
                blocks[next].data = to;
            }
            next += 1;
        }
    }
}
