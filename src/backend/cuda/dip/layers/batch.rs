//! The instances that operations are launched for, and where they have their numbers.

use crate::backend::cuda::driver::{self, Address, Device, Kernel, Launch, Result, Work};

/// Threads of a block where nothing else is said.
pub(super) const THREADS: u32 = 256;
pub(super) const WARP: u32 = 32;

driver::arguments! {
    /// Feature maps, parameters or the like of all slots: slot `s` has its own at `data + s · stride`.
    pub(crate) struct Maps {
        data: Address,
        stride: u64,
    }
}

impl Maps {
    /// With the first slot's at `data`, and the next one's `stride` elements further on.
    pub(crate) fn new(data: Address, stride: usize) -> Maps {
        Maps {
            data,
            stride: stride as u64,
        }
    }

    /// With its elements a number of places further on.
    pub(crate) fn skip(self, elements: usize) -> Maps {
        Maps {
            data: self.data.offset(elements * size_of::<f32>()),
            ..self
        }
    }
}

/// Where a layer has its weight and its bias, or their derivatives.
#[derive(Clone, Copy)]
pub(crate) struct Parameters {
    pub weight: Maps,
    pub bias: Maps,
}

/// The instances in use, for which operations are launched.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub device: &'a Device,
    /// Their slots.
    pub slots: Address,
    pub count: u32,
    /// Iterations that every slot has done.
    pub iterations: Address,
    /// Room for convolutions on tensor cores; `None` where all are float32.
    pub matrices: Option<Maps>,
}

impl Batch<'_> {
    /// For every instance; the grid's first axis, the block and the work are those of one.
    pub(crate) fn launch<A: driver::Arguments>(
        &self,
        kernel: &Kernel,
        one: Launch,
        arguments: &A,
    ) -> Result<()> {
        let all = Launch {
            grid: [one.grid[0], self.count, 1],
            work: one.work.times(self.count),
            ..one
        };
        self.device.launch(kernel, all, arguments)
    }
}

/// Work of so many numbers that are read or written, and so many multiply-adds.
pub(super) fn work(numbers: u64, multiply_adds: u64) -> Work {
    Work {
        bytes: numbers * size_of::<f32>() as u64,
        multiply_adds,
        ..Work::default()
    }
}

/// A thread to each of `n`.
pub(super) fn per_thread(n: u32) -> Launch {
    Launch::new([n.div_ceil(THREADS), 1, 1], THREADS)
}
