//! Matrix products: a register tile of rows × vectors of columns, over packed columns.
//!
//! Every element is one chain of fused multiply-adds over k in ascending order, from the bias or the
//! result's former content on, whatever tile computes it: results do not depend on how the work is cut.

// Register tiles are loops over the indices of several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch};

/// A matrix in memory, row- or column-major: one of the distances is 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strided<'a> {
    data: &'a [f32],
    /// Distance between rows.
    row: usize,
    /// Distance between columns.
    column: usize,
}

impl<'a> Strided<'a> {
    /// A row-major matrix of `columns` columns.
    pub(super) fn row_major(data: &'a [f32], columns: usize) -> Self {
        Strided {
            data,
            row: columns,
            column: 1,
        }
    }

    /// The same matrix with rows and columns exchanged.
    pub(super) fn transposed(self) -> Self {
        Strided {
            data: self.data,
            row: self.column,
            column: self.row,
        }
    }

    /// Whether an element of a `rows` × `columns` matrix lies beyond the data.
    fn exceeds(&self, rows: usize, columns: usize) -> bool {
        rows > 0
            && columns > 0
            && (rows - 1) * self.row + (columns - 1) * self.column >= self.data.len()
    }
}

/// Groups of lanes that a packed k × n matrix takes.
pub(super) fn packed_len(k: usize, n: usize) -> usize {
    k * n.div_ceil(LANES)
}

/// Packs a k × n matrix into panels of 16 columns, each k × 16; columns beyond n are zero.
///
/// # Panics
/// `to` is not [`packed_len`] long, or the matrix exceeds its data.
pub(super) fn pack(from: Strided<'_>, k: usize, n: usize, to: &mut [Lanes]) {
    assert!(to.len() == packed_len(k, n) && !from.exceeds(k, n));
    for (panel, to) in to.chunks_exact_mut(k.max(1)).enumerate() {
        let first = panel * LANES;
        let columns = LANES.min(n - first);
        if columns < LANES {
            to.fill(Lanes::ZERO);
        }
        if from.column == 1 {
            for (row, to) in to.iter_mut().enumerate() {
                let start = row * from.row + first;
                to.0[..columns].copy_from_slice(&from.data[start..start + columns]);
            }
            continue;
        }
        // Column by column, as a transposed matrix lies, in stretches that stay in the cache.
        for (stretch, to) in to.chunks_mut(64).enumerate() {
            for column in 0..columns {
                let start = stretch * 64 * from.row + (first + column) * from.column;
                let numbers = from.data[start..].iter().step_by(from.row.max(1));
                for (to, &x) in to.iter_mut().zip(numbers) {
                    to.0[column] = x;
                }
            }
        }
    }
}

/// A product `a · b + bias` of an m × k and a packed k × n matrix.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub n: usize,
    pub k: usize,
    /// The left matrix; its rows are those of the result.
    pub a: Strided<'a>,
    /// The right matrix, packed.
    pub b: &'a [Lanes],
    /// Added to every row; n long.
    pub bias: Option<&'a [f32]>,
    /// Whether the product is added to what the result holds.
    pub accumulate: bool,
}

impl Product<'_> {
    /// Computes columns `columns` of rows `rows` into `c`, whose first number is the first of those,
    /// with `stride` numbers from one row to the next.
    ///
    /// # Safety
    /// `c` is valid for reads and writes of those numbers, which nothing else touches meanwhile.
    ///
    /// # Panics
    /// The rows or columns exceed the matrices, or the first column is not a multiple of 16.
    pub(super) unsafe fn run(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        c: *mut f32,
        stride: usize,
    ) {
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        assert!(
            columns.start.is_multiple_of(LANES)
                && columns.end <= self.n
                && self.b.len() == packed_len(self.k, self.n)
                && !self.a.exceeds(rows.end, self.k)
                && self.bias.is_none_or(|bias| bias.len() == self.n)
        );
        dispatch(Tiles {
            product: self,
            rows,
            columns,
            c,
            stride,
        });
    }
}

/// Rows of the inner dimension that are multiplied before the result's sums go back to memory.
const DEPTH: usize = 128;
/// Columns whose packed `DEPTH` rows stay in the second-level cache while rows pass over them.
const WIDTH: usize = 960;

struct Tiles<'a> {
    product: &'a Product<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    c: *mut f32,
    stride: usize,
}

impl Kernel for Tiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        // The largest tiles whose sums, and a row of the right matrix, fit the registers. More vectors
        // than rows would be read oftener than they are used; fewer leave more rows of the left matrix
        // than there are registers to point at them.
        let along = self.product.a.column == 1;
        match (V::REGISTERS >= 32, along) {
            (true, true) => self.blocks::<V, 8, 3, true>(),
            (true, false) => self.blocks::<V, 8, 3, false>(),
            (false, true) => self.blocks::<V, 6, 1, true>(),
            (false, false) => self.blocks::<V, 6, 1, false>(),
        }
    }
}

/// Where in the result, and in the inner dimension, a tile lies.
#[derive(Clone, Copy)]
struct Extent {
    row: usize,
    column: usize,
    first: usize,
    depth: usize,
}

impl Tiles<'_> {
    /// Tiles of `R` rows × `C` vectors; `ALONG` says that the rows of the left matrix, not its columns,
    /// are contiguous.
    #[inline(always)]
    fn blocks<V: F32x16, const R: usize, const C: usize, const ALONG: bool>(&self) {
        let k = self.product.k;
        for start in self.columns.clone().step_by(WIDTH) {
            let end = (start + WIDTH).min(self.columns.end);
            for first in (0..k.max(1)).step_by(DEPTH) {
                let depth = DEPTH.min(k - first);
                let mut row = self.rows.start;
                while row < self.rows.end {
                    let rows = (self.rows.end - row).min(R);
                    let mut column = start;
                    while column < end {
                        let extent = Extent {
                            row,
                            column,
                            first,
                            depth,
                        };
                        if end - column >= C * LANES {
                            self.tiles::<V, R, C, ALONG>(rows, extent);
                            column += C * LANES;
                        } else {
                            self.tiles::<V, R, 1, ALONG>(rows, extent);
                            column += LANES;
                        }
                    }
                    row += rows;
                }
            }
        }
    }

    /// A tile of `rows <= R` rows, in parts of a few fixed heights.
    #[inline(always)]
    fn tiles<V: F32x16, const R: usize, const C: usize, const ALONG: bool>(
        &self,
        rows: usize,
        mut extent: Extent,
    ) {
        let end = extent.row + rows;
        while extent.row < end {
            extent.row += match end - extent.row {
                1 => self.tile::<V, 1, C, ALONG>(extent),
                2 | 3 => self.tile::<V, 2, C, ALONG>(extent),
                left if left < R => self.tile::<V, 4, C, ALONG>(extent),
                _ => self.tile::<V, R, C, ALONG>(extent),
            };
        }
    }

    /// `R` rows of `C` vectors, for one block of the inner dimension. Returns `R`.
    #[inline(always)]
    fn tile<V: F32x16, const R: usize, const C: usize, const ALONG: bool>(
        &self,
        extent: Extent,
    ) -> usize {
        let Product { k, a, b, .. } = *self.product;
        let begins = extent.first == 0;
        let ends = extent.first + extent.depth == k;
        // Only a single vector is ever cut off by the end of a row.
        let count = if C == 1 {
            LANES.min(self.columns.end - extent.column)
        } else {
            LANES
        };
        let mut sums = [[V::splat(0.0); C]; R];
        // SAFETY: `Product::run` has checked that `b` holds whole panels of k rows and that the rows
        // and columns lie in `a`; its caller, that they lie in `c`.
        unsafe {
            let to = |r: usize, c: usize| {
                let column = extent.column - self.columns.start + c * LANES;
                self.c
                    .add((extent.row - self.rows.start + r) * self.stride + column)
            };
            if !begins || self.product.accumulate {
                for r in 0..R {
                    for c in 0..C {
                        sums[r][c] = load_part(to(r, c), count);
                    }
                }
            } else if let Some(bias) = self.product.bias {
                let mut vectors = [V::splat(0.0); C];
                for c in 0..C {
                    vectors[c] = load_part(bias.as_ptr().add(extent.column + c * LANES), count);
                }
                sums = [vectors; R];
            }
            let mut left = a
                .data
                .as_ptr()
                .add(extent.row * a.row + extent.first * a.column);
            let mut right = b
                .as_ptr()
                .add(extent.column / LANES * k + extent.first)
                .cast::<f32>();
            for _ in 0..extent.depth {
                let mut vectors = [V::splat(0.0); C];
                for c in 0..C {
                    vectors[c] = V::load(right.add(c * k * LANES));
                }
                for r in 0..R {
                    let x = V::splat(*left.add(if ALONG { r * a.row } else { r }));
                    for c in 0..C {
                        sums[r][c] = x.mul_add(vectors[c], sums[r][c]);
                    }
                }
                left = left.wrapping_add(if ALONG { 1 } else { a.column });
                right = right.add(LANES);
            }
            if ends
                && self.product.accumulate
                && let Some(bias) = self.product.bias
            {
                for c in 0..C {
                    let bias: V = load_part(bias.as_ptr().add(extent.column + c * LANES), count);
                    for r in 0..R {
                        sums[r][c] = sums[r][c].add(bias);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    store_part(sums[r][c], to(r, c), count);
                }
            }
        }
        R
    }
}

/// The first `count` lanes from memory, the others zero.
///
/// # Safety
/// `from` is valid for reads of `count <= 16` floats.
#[inline(always)]
pub(super) unsafe fn load_part<V: F32x16>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        if count == LANES {
            return V::load(from);
        }
        let mut lanes = [0.0; LANES];
        std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
        V::from_array(lanes)
    }
}

/// The first `count` lanes to memory.
///
/// # Safety
/// `to` is valid for writes of `count <= 16` floats.
#[inline(always)]
pub(super) unsafe fn store_part<V: F32x16>(vector: V, to: *mut f32, count: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if count == LANES {
            vector.store(to);
        } else {
            std::ptr::copy_nonoverlapping(vector.to_array().as_ptr(), to, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::zeroed;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut word = seed;
        (0..n)
            .map(|_| {
                word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (word >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    #[test]
    fn products_of_any_size_and_stride_are_the_sums() {
        for (m, k, n) in [
            (1, 1, 1),
            (1, 70, 1000),
            (13, 5, 33),
            (25, 64, 31),
            (12, 3, 16),
            (7, 0, 5),
            (197, 31, 65),
        ] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let bias = numbers(n, 3);
            let a_transposed: Vec<f32> = (0..m * k).map(|i| a[i % m * k + i / m]).collect();
            let b_transposed: Vec<f32> = (0..k * n)
                .map(|i| b[i % k.max(1) * n + i / k.max(1)])
                .collect();
            for transposed in [false, true] {
                let (left, right) = if transposed {
                    (
                        Strided::row_major(&a_transposed, m).transposed(),
                        Strided::row_major(&b_transposed, k).transposed(),
                    )
                } else {
                    (Strided::row_major(&a, k), Strided::row_major(&b, n))
                };
                let mut panels = zeroed(packed_len(k, n));
                pack(right, k, n, &mut panels);
                let product = Product {
                    n,
                    k,
                    a: left,
                    b: &panels,
                    bias: Some(&bias),
                    accumulate: true,
                };
                let mut c = vec![1.0; m * n];
                // SAFETY: here and below, the rows and columns lie in the buffer.
                unsafe { product.run(0..m, 0..n, c.as_mut_ptr(), n) };
                for (i, &c) in c.iter().enumerate() {
                    let exact: f64 = (0..k)
                        .map(|p| f64::from(a[i / n * k + p]) * f64::from(b[p * n + i % n]))
                        .sum::<f64>()
                        + f64::from(bias[i % n])
                        + 1.0;
                    // Each of the k + 2 roundings is below 2^-24 of a partial sum, at most k + 2.
                    let bound = ((k + 2) * (k + 2)) as f64 * 2f64.powi(-24);
                    assert!(
                        (f64::from(c) - exact).abs() <= bound,
                        "{m} {k} {n}: {c} {exact}"
                    );
                }
                // The smaller tiles of processors with fewer registers, too.
                let mut portable = vec![1.0; m * n];
                let tiles = Tiles {
                    product: &product,
                    rows: 0..m,
                    columns: 0..n,
                    c: portable.as_mut_ptr(),
                    stride: n,
                };
                tiles.run::<crate::backend::cpu::simd::Portable>();
                for (&portable, &c) in portable.iter().zip(&c) {
                    let bound = ((k + 2) * (k + 2)) as f32 * 2f32.powi(-23);
                    assert!((portable - c).abs() <= bound, "{m} {k} {n}");
                }
                // Cut in rows and columns, bit by bit the same.
                let mut cut = vec![1.0; m * n];
                for row in 0..m {
                    for first in (0..n).step_by(16) {
                        let columns = first..(first + 16).min(n);
                        let to = cut[row * n + first..].as_mut_ptr();
                        // SAFETY: `cut` has `m` rows of `n`, and the columns lie in them.
                        unsafe { product.run(row..row + 1, columns, to, n) };
                    }
                }
                assert_eq!(c, cut);
            }
        }
    }
}
