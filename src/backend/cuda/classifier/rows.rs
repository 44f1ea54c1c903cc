//! Rows of elements, and the threads that share one.

use super::super::driver::{self, Launch, shared_bytes};
use super::axes::{Divisor, Part, THREADS, check_elements, parts};
use crate::error::Result;

const WARP: u32 = 32;

driver::arguments! {
    /// `Rows` of `kernels/classifier_reduce.cu`.
    #[derive(Debug)]
    pub(super) struct RowsArgs {
        count: u32,
        length: u32,
        inner: Divisor,
        team: u32,
    }
}

/// The rows of a tensor `[outer, length, inner]` along its middle axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    outer: usize,
    length: usize,
    inner: usize,
    step: Divisor,
}

impl Rows {
    /// # Errors
    /// There are too many elements.
    pub(super) fn new(outer: usize, length: usize, inner: usize) -> Result<Rows> {
        check_elements(outer.saturating_mul(length).saturating_mul(inner))?;
        Ok(Rows {
            outer,
            length,
            inner,
            step: Divisor::new(inner)?,
        })
    }

    /// Of an image.
    pub(super) fn elements(&self) -> usize {
        self.outer * self.length * self.inner
    }

    /// A batch of `images` images in parts that can be counted, none of them empty: each with its rows as
    /// kernels take them, and a launch for them.
    pub(super) fn parts(&self, images: usize) -> impl Iterator<Item = (Part, RowsArgs, Launch)> {
        let elements = self.elements();
        parts(images, elements, elements).map(|(part, _)| {
            let (rows, launch) = self.of(part.images);
            (part, rows, launch)
        })
    }

    fn of(&self, images: usize) -> (RowsArgs, Launch) {
        let count = (images * self.outer * self.inner) as u32;
        let team = team(self.length, self.inner == 1);
        let arguments = RowsArgs {
            count,
            length: self.length as u32,
            inner: self.step,
            team,
        };
        (arguments, team_launch(count, team))
    }
}

/// Threads that share a row of so many elements: many only where they lie side by side, for else
/// neighboring rows do, and a thread to each of those reads them together.
pub(super) fn team(length: usize, adjacent: bool) -> u32 {
    match length {
        _ if !adjacent => 1,
        0..16 => 1,
        16..2048 => WARP,
        2048..16384 => 256,
        _ => 1024,
    }
}

/// A team to each row, with the shared memory of a team's sums of two values.
pub(super) fn team_launch(rows: u32, team: u32) -> Launch {
    let block = team.max(THREADS);
    let shared = shared_bytes([2 * (block / WARP) as usize * size_of::<f32>()]);
    Launch::new([rows.div_ceil(block / team), 1, 1], block).with_shared(shared)
}
