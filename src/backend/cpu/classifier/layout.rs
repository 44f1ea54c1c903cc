//! How values lie in buffers: row by row, or in blocks of sixteen channels.

use super::operation::{lanes_for, numbers_mut};
use crate::backend::cpu::blocked::layout::{block, groups};
use crate::backend::cpu::simd::{LANES, Lanes, zeroed};
use crate::classifier::Value;
use crate::error::{Error, Result};

/// How a value lies in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Rows,
    Blocked,
}

/// A picture's sizes: `[images, channels, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub images: usize,
    pub channels: usize,
    pub size: [usize; 2],
}

impl Picture {
    pub(super) fn of(dims: &[usize]) -> Option<Picture> {
        let [images, channels, height, width] = *dims else {
            return None;
        };
        Some(Picture {
            images,
            channels,
            size: [height, width],
        })
    }

    pub(super) fn plane(&self) -> usize {
        self.size[0] * self.size[1]
    }

    pub(super) fn dims(&self) -> [usize; 4] {
        [self.images, self.channels, self.size[0], self.size[1]]
    }

    /// The shape in channel groups.
    pub(super) fn in_groups(&self) -> [usize; 4] {
        [
            self.images,
            groups(self.channels),
            self.size[0],
            self.size[1],
        ]
    }

    /// Whether both layouts are the same.
    pub(super) fn is_vector(&self) -> bool {
        self.plane() == 1 && (self.images == 1 || self.channels.is_multiple_of(LANES))
    }
}

/// Groups of lanes of a value of shape `dims` in a layout.
pub(super) fn lanes(name: &str, dims: &[usize], layout: Layout) -> Result<usize> {
    let count = |dims: &[usize]| {
        let bytes = dims
            .iter()
            .try_fold(size_of::<Lanes>(), |n, &len| n.checked_mul(len))?;
        (bytes <= isize::MAX as usize / 4).then_some(bytes / size_of::<Lanes>())
    };
    let lanes = match (layout, Picture::of(dims)) {
        (Layout::Blocked, Some(picture)) => count(&picture.in_groups()),
        _ => count(dims).map(lanes_for),
    };
    lanes.ok_or_else(|| {
        Error::invalid(format!(
            "the shape {dims:?} of {name} is beyond the address space"
        ))
    })
}

/// A constant in a layout.
pub(super) fn in_layout(value: &Value, data: &[f32], layout: Layout) -> Result<Vec<Lanes>> {
    let mut to = zeroed(lanes(&value.name, &value.dims, layout)?);
    match (layout, Picture::of(&value.dims)) {
        (Layout::Blocked, Some(picture)) if !data.is_empty() => {
            let image = picture.channels * picture.plane();
            let blocked = to.len() / picture.images;
            for (from, to) in data.chunks_exact(image).zip(to.chunks_exact_mut(blocked)) {
                block(from, picture.plane(), to);
            }
        }
        _ => numbers_mut(&mut to)[..data.len()].copy_from_slice(data),
    }
    Ok(to)
}

/// A constant of up to four axes, blocked; one channel is repeated to `channels`.
pub(super) fn repeated(value: &Value, data: &[f32], channels: usize) -> Result<Vec<Lanes>> {
    let mut dims = value.dims.clone();
    while dims.len() < 4 {
        dims.insert(0, 1);
    }
    if dims[1] == 1 && channels > 1 {
        return Ok(data.iter().map(|&x| Lanes([x; LANES])).collect());
    }
    let value = Value {
        dims,
        ..value.clone()
    };
    in_layout(&value, data, Layout::Blocked)
}
