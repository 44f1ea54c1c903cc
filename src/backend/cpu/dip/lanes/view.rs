//! Where feature maps lie in a group's working memory.

use crate::backend::cpu::simd::{F32x16, Lanes};

/// A feature map of sixteen instances: `[channel][y][x][lane]`, each channel's plane with a border of
/// `border` pixels on every side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Index of its first element, border included.
    pub at: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub border: usize,
}

impl View {
    /// Elements from one row to the next.
    #[inline(always)]
    pub(super) fn row(&self) -> usize {
        self.width + 2 * self.border
    }

    /// Elements from one channel to the next.
    #[inline(always)]
    pub(super) fn channel(&self) -> usize {
        (self.height + 2 * self.border) * self.row()
    }

    /// Pixels of a channel, without the border.
    #[inline(always)]
    pub(super) fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// The element after the last.
    pub(super) fn end(&self) -> usize {
        self.at + self.channels * self.channel()
    }

    /// Index of pixel `(y, x)` of a channel.
    #[inline(always)]
    pub(super) fn index(&self, channel: usize, y: usize, x: usize) -> usize {
        self.at + channel * self.channel() + (y + self.border) * self.row() + x + self.border
    }

    /// Channels `first .. first + count` of the map.
    pub(super) fn part(&self, first: usize, count: usize) -> View {
        View {
            at: self.at + first * self.channel(),
            channels: count,
            ..*self
        }
    }

    /// Whether `other` has the same channels, height and width.
    pub(super) fn same_size(&self, other: &View) -> bool {
        (self.channels, self.height, self.width) == (other.channels, other.height, other.width)
    }
}

/// # Safety
/// `from` is valid for reads.
#[inline(always)]
pub(super) unsafe fn load<V: F32x16>(from: *const Lanes) -> V {
    // SAFETY: the caller's promise; `Lanes` is sixteen floats.
    unsafe { V::load(from.cast()) }
}

/// # Safety
/// `to` is valid for writes.
#[inline(always)]
pub(super) unsafe fn store<V: F32x16>(to: *mut Lanes, value: V) {
    // SAFETY: the caller's promise; `Lanes` is sixteen floats.
    unsafe { value.store(to.cast()) }
}

/// A vector as memory keeps it.
#[inline(always)]
pub(super) fn lanes<V: F32x16>(value: V) -> Lanes {
    Lanes(value.to_array())
}

/// A vector from memory.
#[inline(always)]
pub(super) fn vector<V: F32x16>(lanes: &Lanes) -> V {
    V::from_array(lanes.0)
}
