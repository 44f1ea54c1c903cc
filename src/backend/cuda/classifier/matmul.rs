//! Products of matrices, computed or constant, and their gradients.

use bytemuck::{Pod, Zeroable};

use super::super::backend::to_u32;
use super::super::driver::{self, Address, Buffer, Device, Result, Work};
use super::super::kernels::classifier_matmul;
use super::operation::{Backward, Forward, Operation, Reads};
use super::product::{self, Ending, SLICE, Tiled};
use crate::classifier::layout;
use crate::error::{self, Error};

driver::arguments! {
    /// Where the two matrices of a product start in their operands' elements of one image.
    #[derive(Pod, Zeroable)]
    struct Pair {
        left: u32,
        right: u32,
    }

    /// An operand in memory.
    #[derive(Debug)]
    pub(super) struct Matrix {
        data: Address,
        image: u64,
        step: u32,
        term_step: u32,
    }

    struct MatMulArgs {
        left: Matrix,
        right: Matrix,
        pairs: Address,
        y: Address,
        ending: Ending,
        rows: u32,
        columns: u32,
        terms: u32,
        matrices: u32,
        products: u32,
    }
}

static KERNELS: [Tiled; 3] = product::kernels(
    &classifier_matmul::CLASSIFIER_MATMUL_LARGE,
    &classifier_matmul::CLASSIFIER_MATMUL_FLAT,
    &classifier_matmul::CLASSIFIER_MATMUL_SMALL,
);

/// An operand of a [`Product`]: how a sum's terms, and the rows (of the left one) or columns (of the right
/// one) lie in memory.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    /// Elements of an image, or of the constant.
    pub elements: usize,
    pub constant: bool,
    /// Elements of a line of memory.
    pub line: usize,
    /// Whether terms are neighbors in memory, not rows or columns.
    pub by_term: bool,
}

impl Operand {
    fn matrix(&self, data: Address) -> Matrix {
        // Fits: see `Product::new`.
        let line = self.line as u32;
        let (step, term_step) = if self.by_term { (line, 1) } else { (1, line) };
        Matrix {
            data,
            image: if self.constant {
                0
            } else {
                self.elements as u64
            },
            step,
            term_step,
        }
    }

    fn bytes(&self, images: usize) -> usize {
        let copies = if self.constant { 1 } else { images };
        copies * self.elements * size_of::<f32>()
    }
}

/// For each image some matrices, rows × columns, one after another: each a sum of products.
pub(super) struct Product {
    kernels: &'static [Tiled],
    rows: usize,
    columns: usize,
    terms: usize,
    matrices: usize,
    products: usize,
    left: Operand,
    right: Operand,
    pairs: Buffer<Pair>,
    /// Whether the images are one matrix.
    joined: bool,
}

impl Product {
    /// `pairs`: for each matrix, where the left and the right matrices of its products start; all have as
    /// many. Where an image has one matrix, of one product with a constant, its rows and those of the other
    /// images are one matrix.
    ///
    /// # Errors
    /// The shapes are too large for a GPU, or its memory does not suffice.
    pub(super) fn new(
        device: &Device,
        [rows, columns, terms]: [usize; 3],
        left: Operand,
        right: Operand,
        pairs: &[Vec<[usize; 2]>],
    ) -> error::Result<Product> {
        let what = "elements of a matrix product";
        let elements = rows.saturating_mul(columns).saturating_mul(pairs.len());
        for n in [
            elements,
            left.elements,
            right.elements,
            rows,
            columns,
            terms,
        ] {
            to_u32(n, what)?;
        }
        for operand in [left, right] {
            to_u32(operand.line.saturating_mul(SLICE), what)?;
        }
        let table: Vec<Pair> = (pairs.iter().flatten())
            .map(|pair| {
                let [left, right] = pair.map(|start| start as u32);
                Pair { left, right }
            })
            .collect();
        let products = pairs.first().map_or(0, Vec::len);
        Ok(Product {
            kernels: &KERNELS,
            rows,
            columns,
            terms,
            matrices: pairs.len(),
            products,
            left,
            right,
            pairs: device.allocate_with(&table)?,
            joined: pairs.len() == 1
                && products == 1
                && right.constant
                && !left.constant
                && left.by_term,
        })
    }

    /// Computes the product of operands for `images` images.
    pub(super) fn launch(
        &self,
        device: &Device,
        images: usize,
        [left, right]: [Address; 2],
        y: Address,
        ending: Ending,
    ) -> Result<()> {
        let (rows, matrices) = match self.joined {
            true => (self.rows * images, 1),
            false => (self.rows, self.matrices * images),
        };
        let written = images * self.matrices * self.rows * self.columns;
        let output = written * size_of::<f32>() * if ending.reads() { 2 } else { 1 };
        let work = Work {
            bytes: (self.left.bytes(images) + self.right.bytes(images) + output) as u64,
            multiply_adds: written as u64 * self.terms as u64 * self.products as u64,
            ..Work::default()
        };
        let arguments = MatMulArgs {
            left: self.left.matrix(left),
            right: self.right.matrix(right),
            pairs: self.pairs.at(0),
            y,
            ending,
            // More are refused at the launch.
            rows: rows.try_into().unwrap_or(u32::MAX),
            columns: self.columns as u32,
            terms: self.terms as u32,
            matrices: self.matrices as u32,
            products: self.products as u32,
        };
        product::launch(
            device,
            self.kernels,
            [rows, self.columns, matrices],
            [1, 1],
            work,
            &arguments,
        )
    }

    /// Bytes of constants on the device.
    pub(super) fn constant_bytes(&self) -> usize {
        self.pairs.bytes()
    }
}

/// Products over the last two axes, `[.., m, k] × [.., k, n]`; the axes before them broadcast. Its computed
/// inputs are the operands that are not constant.
pub(super) struct MatMul {
    forward: Product,
    /// The gradients by the left and the right operand.
    backward: [Product; 2],
    constants: [Option<Buffer<f32>>; 2],
}

impl MatMul {
    /// An operand is its dims, and its elements if it is constant.
    ///
    /// # Errors
    /// The shapes are too large for a GPU, or its memory does not suffice.
    pub(super) fn new(
        device: &Device,
        left: (&[usize], Option<&[f32]>),
        right: (&[usize], Option<&[f32]>),
        output: &[usize],
    ) -> error::Result<MatMul> {
        let ([of_left @ .., m, k], [of_right @ .., _, n], [batch @ .., _, _]) =
            (left.0, right.0, output)
        else {
            return Err(Error::invalid("matrices have two axes"));
        };
        let (m, k, n) = (*m, *k, *n);
        // Which matrix of each operand a matrix of the output is a product of. Products with one and the
        // same matrix are one product, of more rows.
        let [left_matrices, right_matrices, outputs] =
            [of_left, of_right, batch].map(|axes| axes.iter().product());
        let same = right_matrices == 1 && left_matrices == outputs;
        let (m, lefts, rights) = match same {
            true => (m * outputs, vec![0], vec![0]),
            false => (
                m,
                layout::broadcast(of_left, batch),
                layout::broadcast(of_right, batch),
            ),
        };
        let operand = |(dims, data): (&[usize], Option<&[f32]>), line, by_term| Operand {
            elements: dims.iter().product(),
            constant: data.is_some(),
            line,
            by_term,
        };
        let gradient = |by_term| operand((output, None), n, by_term);
        let mut of_output = vec![];
        let mut by_left = vec![vec![]; if same { 1 } else { left_matrices }];
        let mut by_right = vec![vec![]; right_matrices];
        for (i, (&of_left, &of_right)) in lefts.iter().zip(&rights).enumerate() {
            let [left, right, to] = [of_left * m * k, of_right * k * n, i * m * n];
            of_output.push(vec![[left, right]]);
            by_left[of_left].push([to, right]);
            by_right[of_right].push([left, to]);
        }
        let constant =
            |data: Option<&[f32]>| data.map(|data| device.allocate_with(data)).transpose();
        Ok(MatMul {
            forward: Product::new(
                device,
                [m, n, k],
                operand(left, k, true),
                operand(right, n, false),
                &of_output,
            )?,
            backward: [
                Product::new(
                    device,
                    [m, k, n],
                    gradient(true),
                    operand(right, n, true),
                    &by_left,
                )?,
                Product::new(
                    device,
                    [k, n, m],
                    operand(left, k, false),
                    gradient(false),
                    &by_right,
                )?,
            ],
            constants: [constant(left.1)?, constant(right.1)?],
        })
    }

    /// Where an operand is: its own if it is constant, or one of the computed inputs.
    fn operand(&self, side: usize, inputs: &[Address]) -> Address {
        match (&self.constants[side], &self.constants[0]) {
            (Some(constant), _) => constant.at(0),
            (None, Some(_)) => inputs[0],
            (None, None) => inputs[side],
        }
    }
}

impl Operation for MatMul {
    fn forward(&self, pass: Forward<'_>) -> Result<()> {
        let operands = [0, 1].map(|side| self.operand(side, pass.inputs));
        let ending = Ending::forward(None, None, pass.activation);
        self.forward
            .launch(pass.device, pass.images, operands, pass.output, ending)
    }

    fn backward(&self, pass: Backward<'_>) -> Result<()> {
        let side = if self.constants[0].is_some() {
            1
        } else {
            pass.input
        };
        let other = self.operand(1 - side, pass.inputs);
        let operands = match side {
            0 => [pass.gradient, other],
            _ => [other, pass.gradient],
        };
        let ending = Ending::backward(pass.to, pass.accumulate);
        self.backward[side].launch(pass.device, pass.images, operands, pass.to, ending)
    }

    fn reads(&self) -> Reads {
        Reads {
            inputs: self.constants.iter().all(Option::is_none),
            output: false,
        }
    }

    fn constant_bytes(&self) -> usize {
        let products = [&self.forward].into_iter().chain(&self.backward);
        let constants = self.constants.iter().flatten().map(Buffer::bytes);
        products.map(Product::constant_bytes).sum::<usize>() + constants.sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
