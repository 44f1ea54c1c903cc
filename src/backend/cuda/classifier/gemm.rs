//! Linear layers: products with a constant matrix on the last axis.

use super::super::driver::{Buffer, Device, Result};
use super::matmul::{Operand, Product};
use super::operation::{Backward, Forward, Operation};
use super::product::{self, Ending};
use crate::error;

/// `activation(x · weightᵀ + bias + residual)`. Computed inputs: x, and the residual if there is one.
pub(super) struct Gemm {
    forward: Product,
    backward: Product,
    weight: Buffer<f32>,
    bias: Buffer<f32>,
    residual: bool,
    /// Of an image's output.
    elements: usize,
}

impl Gemm {
    /// From `[.., in]` to `[.., out]`, with a weight `[out, in]` and a bias `[out]`; the residual has the
    /// output's shape.
    ///
    /// # Errors
    /// The shapes are too large for a GPU, or its memory does not suffice.
    pub(super) fn new(
        device: &Device,
        input: &[usize],
        output: &[usize],
        weight: &[f32],
        bias: &[f32],
        residual: bool,
    ) -> error::Result<Gemm> {
        let (outputs, elements) = (bias.len(), output.iter().product::<usize>());
        let inputs = input.last().copied().unwrap_or(1);
        let rows = elements / outputs.max(1);
        let all = |line| Operand {
            elements: rows * line,
            constant: false,
            line,
            by_term: true,
        };
        let constant = |by_term| Operand {
            elements: weight.len(),
            constant: true,
            line: inputs,
            by_term,
        };
        let product =
            |shape, left, right| Product::new(device, shape, left, right, &[vec![[0, 0]]]);
        Ok(Gemm {
            forward: product([rows, outputs, inputs], all(inputs), constant(true))?,
            backward: product([rows, inputs, outputs], all(outputs), constant(false))?,
            weight: device.allocate_with(weight)?,
            bias: device.allocate_with(bias)?,
            residual,
            elements,
        })
    }
}

impl Operation for Gemm {
    fn forward(&self, pass: Forward<'_>) -> Result<()> {
        let residual = self.residual.then(|| pass.inputs[1]);
        let ending = Ending::forward(Some(self.bias.at(0)), residual, pass.activation);
        let operands = [pass.inputs[0], self.weight.at(0)];
        self.forward
            .launch(pass.device, pass.images, operands, pass.output, ending)
    }

    fn backward(&self, pass: Backward<'_>) -> Result<()> {
        if pass.input == 1 {
            return product::residual_backward(&pass, self.elements);
        }
        let ending = Ending::backward(pass.to, pass.accumulate);
        let operands = [pass.gradient, self.weight.at(0)];
        self.backward
            .launch(pass.device, pass.images, operands, pass.to, ending)
    }

    fn constant_bytes(&self) -> usize {
        let tables = self.forward.constant_bytes() + self.backward.constant_bytes();
        self.weight.bytes() + self.bias.bytes() + tables
    }
}
