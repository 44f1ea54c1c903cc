//! What a work item needs besides its arguments: memory of its thread, and a share of the output.

use std::cell::RefCell;

use super::tile::{Block, Job, Tap};
use crate::backend::cpu::simd::{Isa, Lanes};

/// Memory that a thread keeps between work items, so that steady work allocates nothing.
#[derive(Default)]
pub(super) struct Scratch {
    pub lanes: Vec<Lanes>,
    pub blocks: Vec<Block>,
    pub taps: Vec<Tap>,
    pub jobs: Vec<Job>,
}

impl Scratch {
    /// Runs `f` with this thread's scratch memory.
    pub(super) fn with<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
        thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());
        SCRATCH.with_borrow_mut(f)
    }

    /// At least `n` groups of lanes, of any content.
    pub(super) fn lanes(lanes: &mut Vec<Lanes>, n: usize) -> *mut f32 {
        if lanes.len() < n {
            lanes.resize(n, Lanes::ZERO);
        }
        lanes.as_mut_ptr().cast()
    }
}

/// The instruction set of a call's work items: the processor's best, unless a test chose another.
pub(super) fn isa() -> Isa {
    #[cfg(test)]
    if let Some(isa) = super::tests::CHOSEN.get() {
        return isa;
    }
    Isa::detect()
}

/// A pointer into a buffer of which work items write disjoint parts.
#[derive(Clone, Copy)]
pub(super) struct SharedMut(*mut f32);

// SAFETY: the work items that share the pointer never touch the same element (each kernel says why).
unsafe impl Send for SharedMut {}
// SAFETY: no two threads touch the same element through it.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    pub(super) fn new(lanes: &mut [Lanes]) -> SharedMut {
        SharedMut(lanes.as_mut_ptr().cast())
    }
    pub(super) fn ptr(self) -> *mut f32 {
        self.0
    }
}

/// How a picture's output is cut into work items. Fixed by the shape, not by the thread count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    size: [usize; 2],
    /// Rows and columns of an item.
    step: [usize; 2],
    groups: usize,
    groups_step: usize,
}

/// One work item: ranges of output rows, columns and channel groups of one image.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub image: usize,
    pub rows: std::ops::Range<usize>,
    pub columns: std::ops::Range<usize>,
    pub groups: std::ops::Range<usize>,
}

impl Grid {
    /// Gathered input of an item, in groups of lanes: 512 KiB, half of a common second-level cache.
    const BUDGET: usize = 8192;
    /// Items wanted of one image, so that threads of a large machine have work.
    const WANTED: usize = 32;
    /// Pixels of an item where the picture has as many: for fewer, gathering what surrounds them and handing
    /// them to a thread takes long beside the work itself.
    const LEAST: usize = 128;

    /// Cuts an output of `size` and `groups` channel groups. A window of `r × c` output pixels reads
    /// `blocks · (r·scale[0] + halo[0]) · (c·scale[1] + halo[1])` groups of lanes.
    pub(super) fn new(
        size: [usize; 2],
        groups: usize,
        blocks: usize,
        scale: [usize; 2],
        halo: [usize; 2],
    ) -> Grid {
        let pixels = (Self::BUDGET / blocks.max(1)).max(1);
        let fit = |across: usize, axis: usize| {
            ((pixels / across.max(1)).saturating_sub(halo[axis]) / scale[axis].max(1)).max(1)
        };
        // Whole rows where one fits; a row's pieces are a whole number of register tiles.
        let tile = 28;
        let wanted_columns = if size[0] == 1 {
            size[1].div_ceil(Self::WANTED)
        } else {
            size[1]
        };
        let columns = fit(scale[0] + halo[0], 1)
            .min(wanted_columns)
            .next_multiple_of(tile)
            .min(size[1]);
        let row = columns * scale[1] + halo[1];
        let wanted_rows = size[0]
            .div_ceil(Self::WANTED)
            .max(Self::LEAST.div_ceil(columns));
        let rows = fit(row, 0).min(wanted_rows).min(size[0]);
        let spatial = size[0].div_ceil(rows) * size[1].div_ceil(columns);
        // Pairs of groups share a register tile.
        let shares = (Self::WANTED / spatial).clamp(1, groups.div_ceil(2));
        Grid {
            size,
            step: [rows, columns],
            groups,
            groups_step: groups.div_ceil(shares).next_multiple_of(2),
        }
    }

    fn counts(&self) -> [usize; 3] {
        [
            self.size[0].div_ceil(self.step[0]),
            self.size[1].div_ceil(self.step[1]),
            self.groups.div_ceil(self.groups_step),
        ]
    }

    /// Items of one image.
    pub(super) fn items(&self) -> usize {
        self.counts().iter().product()
    }

    /// Item `index` of a batch.
    pub(super) fn item(&self, index: usize) -> Item {
        let [rows, columns, groups] = self.counts();
        let range = |i: usize, step: usize, end: usize| i * step..((i + 1) * step).min(end);
        let (image, index) = (index / self.items(), index % self.items());
        let (spatial, group) = (index / groups, index % groups);
        debug_assert!(spatial < rows * columns);
        Item {
            image,
            rows: range(spatial / columns, self.step[0], self.size[0]),
            columns: range(spatial % columns, self.step[1], self.size[1]),
            groups: range(group, self.groups_step, self.groups),
        }
    }
}
