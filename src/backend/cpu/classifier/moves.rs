//! Operations that only move elements: transpositions, slices, padding, concatenation, layouts.

use rayon::prelude::*;

use super::broadcast::Unit;
use super::operation::{Backward, Inputs, Operation, Shared, numbers, numbers_mut};
use crate::backend::cpu::blocked::layout;
use crate::backend::cpu::simd::{LANES, Lanes};
use crate::classifier::Function;
use crate::classifier::layout::PADDING;

/// An output whose every element copies one input element or is padding.
///
/// The source of an element is the sum of one term from each table, the last running fastest; tables
/// count units.
pub(super) struct Moves {
    unit: Unit,
    outer: Vec<Vec<usize>>,
    /// The innermost table: stretches of neighbors, or nothing for padding.
    inner: Vec<Stretch>,
    /// Units of an innermost row.
    row: usize,
    padding: f32,
    /// Whether no two output elements copy the same one.
    distinct: bool,
}

/// Neighbors that come from neighbors.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stretch {
    /// Where they go in the row.
    to: usize,
    /// Where they come from, [`PADDING`] for padding.
    from: usize,
    len: usize,
    /// Distance of what they come from.
    step: usize,
}

impl Moves {
    /// Moves by tables as [`crate::classifier::layout::tables`] makes them; `distinct` says that no two
    /// output elements copy the same one.
    pub(super) fn new(unit: Unit, tables: Vec<Vec<usize>>, padding: f32, distinct: bool) -> Self {
        let mut tables = merged(tables);
        let last = tables.pop().unwrap_or_else(|| vec![0]);
        let mut inner: Vec<Stretch> = Vec::new();
        for (to, &from) in last.iter().enumerate() {
            if let Some(stretch) = inner.last_mut()
                && stretch.takes(from)
            {
                stretch.len += 1;
                continue;
            }
            inner.push(Stretch {
                to,
                from,
                len: 1,
                step: 0,
            });
        }
        Moves {
            unit,
            outer: tables,
            inner,
            row: last.len(),
            padding,
            distinct,
        }
    }

    /// Rows of the output.
    fn rows(&self) -> usize {
        self.outer.iter().map(Vec::len).product()
    }

    /// Where row `i` starts in the input, [`PADDING`] where all of it is padding.
    fn start(&self, mut i: usize) -> usize {
        let mut start = 0;
        for table in self.outer.iter().rev() {
            match table[i % table.len()] {
                PADDING => return PADDING,
                term => start += term,
            }
            i /= table.len();
        }
        start
    }
}

impl Stretch {
    /// Whether the next element may come from `from`; sets the step by the second.
    fn takes(&mut self, from: usize) -> bool {
        if self.from == PADDING || from == PADDING {
            return self.from == from;
        }
        match self.len {
            1 if from >= self.from => {
                self.step = from - self.from;
                true
            }
            1 => false,
            _ => from == self.from + self.len * self.step,
        }
    }
}

/// Tables of one term left out, neighbors that are one even table joined.
fn merged(tables: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    let mut result: Vec<Vec<usize>> = Vec::new();
    let mut base = 0;
    for table in tables {
        if let [term] = table[..]
            && term != PADDING
        {
            base += term;
            continue;
        }
        let even = |table: &[usize]| {
            let step = table.get(1)?.checked_sub(table[0])?;
            let is_even = |(i, &term): (usize, &usize)| term == table[0] + i * step;
            (!table.contains(&PADDING) && table.iter().enumerate().all(is_even)).then_some(step)
        };
        if let Some(last) = result.last_mut()
            && let (Some(outer), Some(inner)) = (even(last), even(&table))
            && outer == inner * table.len()
        {
            let first = last[0] + table[0];
            *last = (0..last.len() * table.len())
                .map(|i| first + i * inner)
                .collect();
        } else {
            result.push(table);
        }
    }
    if base > 0 {
        match result.first_mut() {
            Some(first) => {
                for term in first.iter_mut().filter(|term| **term != PADDING) {
                    *term += base;
                }
            }
            None => result.push(vec![base]),
        }
    }
    result
}

impl Operation for Moves {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        _: Option<Function>,
        output: &mut [Lanes],
        _: &mut [Lanes],
    ) {
        let x = numbers(inputs.get(0));
        let (unit, rows) = (self.unit.len(), self.rows());
        let row = self.row * unit;
        numbers_mut(output)[..rows * row]
            .par_chunks_exact_mut(row.max(1))
            .with_min_len((4096 / row.max(1)).max(1))
            .enumerate()
            .for_each(|(i, to)| {
                let start = self.start(i);
                for stretch in &self.inner {
                    let to = &mut to[stretch.to * unit..][..stretch.len * unit];
                    if start == PADDING || stretch.from == PADDING {
                        to.fill(self.padding);
                        continue;
                    }
                    let from = start + stretch.from;
                    match (self.unit, stretch.step) {
                        (_, 1) => to.copy_from_slice(&x[from * unit..][..to.len()]),
                        (Unit::Number, 0) => to.fill(x[from]),
                        (Unit::Number, step) => {
                            for (to, &x) in to.iter_mut().zip(x[from..].iter().step_by(step)) {
                                *to = x;
                            }
                        }
                        (Unit::Group, step) => {
                            for (i, to) in to.chunks_exact_mut(unit).enumerate() {
                                to.copy_from_slice(&x[(from + i * step) * unit..][..unit]);
                            }
                        }
                    }
                }
            });
    }

    fn backward(&self, pass: Backward<'_>) {
        if !pass.accumulate {
            pass.to.fill(Lanes::ZERO);
        }
        let (gradient, len) = (numbers(pass.gradient), pass.to.len() * LANES);
        let unit = self.unit.len();
        let row = self.row * unit;
        let to = Shared::new(pass.to);
        let add_row = |i: usize| {
            let start = self.start(i);
            if start == PADDING {
                return;
            }
            let gradient = &gradient[i * row..][..row];
            for stretch in self.inner.iter().filter(|s| s.from != PADDING) {
                let gradient = &gradient[stretch.to * unit..][..stretch.len * unit];
                let first = (start + stretch.from) * unit;
                let step = stretch.step * unit;
                assert!(first + (stretch.len - 1) * step + unit <= len);
                for (i, gradient) in gradient.chunks_exact(unit).enumerate() {
                    for (lane, g) in gradient.iter().enumerate() {
                        // SAFETY: within the buffer, as asserted; rows that run at the same time
                        // add to different elements.
                        unsafe { *to.ptr().add(first + i * step + lane) += g };
                    }
                }
            }
        };
        if self.distinct {
            let at_once = (4096 / row.max(1)).max(1);
            (0..self.rows())
                .into_par_iter()
                .with_min_len(at_once)
                .for_each(add_row);
        } else {
            // Several elements may come from the same: one after another, in order.
            (0..self.rows()).for_each(add_row);
        }
    }

    fn constant_bytes(&self) -> usize {
        let tables: usize = self.outer.iter().map(|table| size_of_val(&**table)).sum();
        tables + size_of_val(&*self.inner)
    }
}

/// Tensors one after another along an axis.
pub(super) struct Concat {
    /// Numbers of each input's rows: one element of the axes ahead of the joined one.
    rows: Vec<usize>,
    outer: usize,
}

impl Concat {
    /// A concatenation of tensors of `outer` rows each, of so many numbers.
    pub(super) fn new(rows: Vec<usize>, outer: usize) -> Self {
        Concat { rows, outer }
    }

    /// Where input `i` starts in an output row.
    fn first(&self, i: usize) -> usize {
        self.rows[..i].iter().sum()
    }
}

impl Operation for Concat {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        _: Option<Function>,
        output: &mut [Lanes],
        _: &mut [Lanes],
    ) {
        let to = Shared::new(output);
        let whole = self.first(self.rows.len());
        for (i, &length) in self.rows.iter().enumerate() {
            let (from, first) = (numbers(inputs.get(i)), self.first(i));
            let piece = 4096.min(length.max(1));
            let pieces = length.div_ceil(piece);
            (0..self.outer * pieces)
                .into_par_iter()
                .with_min_len((4096 / piece).max(1))
                .for_each(|i| {
                    let (row, at) = (i / pieces, i % pieces * piece);
                    let from = &from[row * length + at..][..piece.min(length - at)];
                    // SAFETY: every input has its own place in each row of the output.
                    unsafe {
                        let to = to.ptr().add(row * whole + first + at);
                        std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
                    }
                });
        }
    }

    fn backward(&self, pass: Backward<'_>) {
        let (whole, first) = (self.first(self.rows.len()), self.first(pass.input));
        let (length, gradient) = (self.rows[pass.input], numbers(pass.gradient));
        numbers_mut(pass.to)[..self.outer * length]
            .par_chunks_exact_mut(length.max(1))
            .with_min_len((4096 / length.max(1)).max(1))
            .enumerate()
            .for_each(|(row, to)| {
                let from = &gradient[row * whole + first..][..length];
                for (to, from) in to.iter_mut().zip(from) {
                    *to = if pass.accumulate { *to + from } else { *from };
                }
            });
    }
}

/// A constant among computed tensors.
pub(super) struct Fill(pub Vec<Lanes>);

impl Operation for Fill {
    fn forward(&self, _: Inputs<'_>, _: Option<Function>, output: &mut [Lanes], _: &mut [Lanes]) {
        output.copy_from_slice(&self.0);
    }

    fn backward(&self, _: Backward<'_>) {}

    fn constant_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// From one layout to the other.
pub(super) struct Relayout {
    /// To the channel-blocked one, or back.
    pub to_blocked: bool,
    pub images: usize,
    pub channels: usize,
    pub plane: usize,
}

impl Relayout {
    /// `to = from` in the other layout, or `to += from`.
    fn run(&self, to_blocked: bool, from: &[Lanes], to: &mut [Lanes], accumulate: bool) {
        let numbers_of = self.channels * self.plane;
        let blocked_of = layout::groups(self.channels) * self.plane;
        for image in 0..self.images {
            if to_blocked {
                let from = &numbers(from)[image * numbers_of..][..numbers_of];
                to[image * blocked_of..][..blocked_of]
                    .par_chunks_exact_mut(self.plane.max(1))
                    .zip(from.par_chunks(16 * self.plane.max(1)))
                    .for_each(|(to, from)| block(from, self.plane, to, accumulate));
            } else {
                let from = &from[image * blocked_of..][..blocked_of];
                numbers_mut(to)[image * numbers_of..][..numbers_of]
                    .par_chunks_mut(16 * self.plane.max(1))
                    .zip(from.par_chunks_exact(self.plane.max(1)))
                    .for_each(|(to, from)| unblock(from, self.plane, to, accumulate));
            }
        }
    }
}

/// Pixels that are rearranged at a time, so that what is read in strides stays in the cache.
const TILE: usize = 64;

/// One group: up to sixteen planes to lanes.
fn block(from: &[f32], plane: usize, to: &mut [Lanes], accumulate: bool) {
    let channels = from.len() / plane;
    for (tile, to) in to.chunks_mut(TILE).enumerate() {
        if !accumulate && channels < 16 {
            to.fill(Lanes::ZERO);
        }
        for channel in 0..channels {
            let from = &from[channel * plane + tile * TILE..][..to.len()];
            for (to, &from) in to.iter_mut().zip(from) {
                let to = &mut to.0[channel];
                *to = if accumulate { *to + from } else { from };
            }
        }
    }
}

/// One group: lanes to up to sixteen planes.
fn unblock(from: &[Lanes], plane: usize, to: &mut [f32], accumulate: bool) {
    let channels = to.len() / plane;
    for (tile, from) in from.chunks(TILE).enumerate() {
        for channel in 0..channels {
            let to = &mut to[channel * plane + tile * TILE..][..from.len()];
            for (to, from) in to.iter_mut().zip(from) {
                let from = from.0[channel];
                *to = if accumulate { *to + from } else { from };
            }
        }
    }
}

impl Operation for Relayout {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        _: Option<Function>,
        output: &mut [Lanes],
        _: &mut [Lanes],
    ) {
        self.run(self.to_blocked, inputs.get(0), output, false);
    }

    fn backward(&self, pass: Backward<'_>) {
        self.run(!self.to_blocked, pass.gradient, pass.to, pass.accumulate);
    }
}
