//! Linear layers and matrix products.

use rayon::prelude::*;

use super::elementwise::transfer;
use super::gemm::{Product, Strided, load_part, pack, packed_len, store_part};
use super::operation::{Backward, Inputs, Operation, Reads, Shared, numbers, numbers_mut};
use crate::backend::cpu::function;
use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch, zeroed};
use crate::classifier::{Function, layout};
use crate::error::Result;

/// Rows of one share of a product's result: whole register tiles, and little enough that a share's
/// sums stay in the second-level cache.
const ROWS: usize = 48;
/// Fewest columns of one share: whole register tiles too.
const COLUMNS: usize = 96;
/// Multiply-adds that are done before another thread could be told of them.
const ALONE: usize = 1 << 17;

/// Computes all rows of `product` into `c`, in parallel, and calls `finish(first, row)` on every
/// finished piece of a row; `first` counts numbers.
fn multiply(product: Product<'_>, c: &mut [f32], finish: impl Fn(usize, &mut [f32]) + Sync) {
    let Product { n, k, .. } = product;
    if c.is_empty() {
        return;
    }
    let rows = c.len() / n;
    // Columns are cut where the rows alone would not keep all threads busy to the end.
    let wanted = 4 * rayon::current_num_threads();
    let (down, across) = match rows * n * k {
        ..ALONE => (1, 1),
        _ => {
            let down = rows.div_ceil(ROWS);
            (down, wanted.div_ceil(down).min(n.div_ceil(COLUMNS)))
        }
    };
    let height = rows.div_ceil(down).next_multiple_of(8);
    let down = rows.div_ceil(height);
    let width = n.div_ceil(across).next_multiple_of(3 * LANES);
    let across = n.div_ceil(width);
    let to = Shared::of_numbers(c);
    let share = |i: usize| {
        let rows = i / across * height..rows.min((i / across + 1) * height);
        let columns = i % across * width..n.min((i % across + 1) * width);
        // SAFETY: shares are disjoint rows and columns of `c`, which holds `rows` times `n` numbers.
        unsafe {
            let first = rows.start * n + columns.start;
            product.run(rows.clone(), columns.clone(), to.ptr().add(first), n);
            for row in rows {
                let first = row * n + columns.start;
                let piece = std::slice::from_raw_parts_mut(to.ptr().add(first), columns.len());
                finish(first, piece);
            }
        }
    };
    match down * across {
        1 => share(0),
        shares => (0..shares).into_par_iter().for_each(share),
    }
}

/// `activation(x·weightᵀ + bias + residual)` for rows `x`; the residual is a second input.
pub(super) struct Gemm {
    rows: usize,
    inputs: usize,
    outputs: usize,
    /// `weightᵀ` and, for the backward pass, `weight`.
    forward: Vec<Lanes>,
    backward: Vec<Lanes>,
    bias: Vec<f32>,
    residual: bool,
}

impl Gemm {
    /// A layer from `inputs` to `bias.len()` numbers, with weights `[outputs][inputs]`.
    pub(super) fn new(
        rows: usize,
        inputs: usize,
        weight: &[f32],
        bias: &[f32],
        residual: bool,
    ) -> Self {
        let outputs = bias.len();
        let mut forward = zeroed(packed_len(inputs, outputs));
        let transposed = Strided::row_major(weight, inputs).transposed();
        pack(transposed, inputs, outputs, &mut forward);
        Gemm {
            rows,
            inputs,
            outputs,
            forward,
            backward: Vec::new(),
            bias: bias.to_vec(),
            residual,
        }
    }
}

impl Operation for Gemm {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        activation: Option<Function>,
        output: &mut [Lanes],
        _: &mut [Lanes],
    ) {
        let product = Product {
            n: self.outputs,
            k: self.inputs,
            a: Strided::row_major(numbers(inputs.get(0)), self.inputs),
            b: &self.forward,
            bias: Some(&self.bias),
            accumulate: false,
        };
        let residual = self.residual.then(|| numbers(inputs.get(1)));
        let output = &mut numbers_mut(output)[..self.rows * self.outputs];
        multiply(product, output, |first, share| {
            if residual.is_some() || activation.is_some() {
                dispatch(Finish {
                    data: share,
                    residual: residual.map(|residual| &residual[first..]),
                    activation,
                });
            }
        });
    }

    fn backward(&self, pass: Backward<'_>) {
        if pass.input == 1 {
            return transfer(pass.gradient, pass.to, pass.accumulate);
        }
        let product = Product {
            n: self.inputs,
            k: self.outputs,
            a: Strided::row_major(numbers(pass.gradient), self.outputs),
            b: &self.backward,
            bias: None,
            accumulate: pass.accumulate,
        };
        let to = &mut numbers_mut(pass.to)[..self.rows * self.inputs];
        multiply(product, to, |_, _| {});
    }

    fn prepare_backward(&mut self) -> Result<()> {
        // Element (row, column) of `weight` is (column, row) of what was packed.
        let (inputs, outputs) = (self.inputs, self.outputs);
        self.backward = zeroed(packed_len(outputs, inputs));
        let panels = self.backward.chunks_exact_mut(outputs.max(1));
        for (panel, to) in panels.enumerate() {
            for (row, to) in to.iter_mut().enumerate() {
                let from = &self.forward[row / LANES * inputs..][..inputs];
                let columns = &from[panel * LANES..inputs.min((panel + 1) * LANES)];
                for (to, from) in to.0.iter_mut().zip(columns) {
                    *to = from.0[row % LANES];
                }
            }
        }
        Ok(())
    }

    fn constant_bytes(&self) -> usize {
        size_of_val(&*self.forward) + size_of_val(&*self.backward) + size_of_val(&*self.bias)
    }
}

/// `data = activation(data + residual)`.
struct Finish<'a> {
    data: &'a mut [f32],
    residual: Option<&'a [f32]>,
    activation: Option<Function>,
}

impl Kernel for Finish<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32x16>(self) {
        for i in (0..self.data.len()).step_by(LANES) {
            let count = LANES.min(self.data.len() - i);
            // SAFETY: `count` numbers from `i` lie within the data, and the residual is as long.
            unsafe {
                let to = self.data.as_mut_ptr().add(i);
                let mut y: V = load_part(to, count);
                if let Some(residual) = self.residual {
                    y = y.add(load_part(residual[i..].as_ptr(), count));
                }
                if let Some(function) = self.activation {
                    y = function::value(function, y);
                }
                store_part(y, to, count);
            }
        }
    }
}

/// Matrix products over the last two axes; the axes before them broadcast.
pub(super) struct MatMul {
    m: usize,
    k: usize,
    n: usize,
    /// Of each product, which matrices of the two inputs it takes.
    operands: Vec<[usize; 2]>,
    /// Of each matrix of either input, the products that take it.
    users: [Vec<Vec<usize>>; 2],
}

impl MatMul {
    /// Products of tensors of shapes `a` and `b`, at least of rank 2, to one of shape `output`.
    pub(super) fn new(a: &[usize], b: &[usize], output: &[usize]) -> Self {
        let ahead = |dims: &[usize]| dims[..dims.len() - 2].to_vec();
        let batch = ahead(output);
        let operands: Vec<[usize; 2]> = layout::broadcast(&ahead(a), &batch)
            .into_iter()
            .zip(layout::broadcast(&ahead(b), &batch))
            .map(|(a, b)| [a, b])
            .collect();
        let users = [(0, a), (1, b)].map(|(side, dims)| {
            let mut users = vec![Vec::new(); ahead(dims).iter().product()];
            for (product, matrices) in operands.iter().enumerate() {
                users[matrices[side]].push(product);
            }
            users
        });
        MatMul {
            m: a[a.len() - 2],
            k: a[a.len() - 1],
            n: b[b.len() - 1],
            operands,
            users,
        }
    }

    /// Matrix `i` of `data`, whose matrices are `rows` × `columns`.
    fn matrix(data: &[Lanes], i: usize, rows: usize, columns: usize) -> Strided<'_> {
        let size = rows * columns;
        Strided::row_major(&numbers(data)[i * size..][..size], columns)
    }
}

impl Operation for MatMul {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        _: Option<Function>,
        output: &mut [Lanes],
        scratch: &mut [Lanes],
    ) {
        let MatMul { m, k, n, .. } = *self;
        let (left, right) = (inputs.get(0), inputs.get(1));
        let output = &mut numbers_mut(output)[..self.operands.len() * m * n];
        output
            .par_chunks_exact_mut((m * n).max(1))
            .zip(scratch.par_chunks_exact_mut(packed_len(k, n).max(1)))
            .zip(&self.operands)
            .for_each(|((output, panels), &[a, b])| {
                let panels = &mut panels[..packed_len(k, n)];
                pack(Self::matrix(right, b, k, n), k, n, panels);
                let product = Product {
                    n,
                    k,
                    a: Self::matrix(left, a, m, k),
                    b: panels,
                    bias: None,
                    accumulate: false,
                };
                multiply(product, output, |_, _| {});
            });
    }

    fn backward(&self, pass: Backward<'_>) {
        let MatMul { m, k, n, .. } = *self;
        let side = pass.input;
        let other = pass.inputs.get(1 - side);
        let gradient = pass.gradient;
        // By the left matrix g·bᵀ, by the right one aᵀ·g; either sums over its products.
        let ([rows, columns], inner) = [([m, k], n), ([k, n], m)][side];
        let panel = packed_len(inner, columns);
        let users = &self.users[side];
        let to = &mut numbers_mut(pass.to)[..users.len() * rows * columns];
        to.par_chunks_exact_mut((rows * columns).max(1))
            .zip(pass.scratch.par_chunks_exact_mut(panel.max(1)))
            .zip(users)
            .for_each(|((to, panels), users)| {
                let panels = &mut panels[..panel];
                if users.is_empty() && !pass.accumulate {
                    to.fill(0.0);
                }
                for (nth, &product) in users.iter().enumerate() {
                    let g = Self::matrix(gradient, product, m, n);
                    let i = self.operands[product][1 - side];
                    let (a, b) = if side == 0 {
                        (g, Self::matrix(other, i, k, n).transposed())
                    } else {
                        (Self::matrix(other, i, m, k).transposed(), g)
                    };
                    pack(b, inner, columns, panels);
                    let product = Product {
                        n: columns,
                        k: inner,
                        a,
                        b: panels,
                        bias: None,
                        accumulate: pass.accumulate || nth > 0,
                    };
                    multiply(product, to, |_, _| {});
                }
            });
    }

    fn reads(&self) -> Reads {
        Reads {
            inputs: true,
            output: false,
        }
    }

    fn scratch(&self) -> usize {
        self.operands.len() * packed_len(self.k, self.n).max(1)
    }

    fn backward_scratch(&self) -> usize {
        let left = self.users[0].len() * packed_len(self.n, self.k).max(1);
        let right = self.users[1].len() * packed_len(self.m, self.n).max(1);
        left.max(right)
    }
}
