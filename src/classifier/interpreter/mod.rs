//! The graph's operations in float64 by plain loops, and their derivatives: what constants are folded
//! with, and what the reference backend runs.

mod conv;
mod elementwise;
mod matrix;
mod operand;
mod pool;
mod reduce;

pub(crate) use self::operand::Operand;

use super::graph::{Op, PadMode};
use super::layout::{self, PADDING};

/// The operation's output, of shape `dims`.
pub(crate) fn forward(op: &Op, inputs: &[Operand<'_>], dims: &[usize]) -> Vec<f64> {
    let mut output = linear_part(op, inputs, dims);
    if let Some(function) = op.activation() {
        for x in &mut output {
            *x = function.value(*x);
        }
    }
    output
}

/// The operation without the activation it ends with.
fn linear_part(op: &Op, inputs: &[Operand<'_>], dims: &[usize]) -> Vec<f64> {
    let x = inputs[0];
    match op {
        Op::Conv(conv) => conv::forward(conv, inputs, dims),
        Op::Gemm { .. } => matrix::gemm(inputs),
        Op::MatMul => matrix::matmul(x, inputs[1], dims),
        Op::ScaleShift { .. } => elementwise::scale_shift(inputs),
        Op::Map(function) => x.data.iter().map(|&x| function.value(x)).collect(),
        Op::Binary(binary) => elementwise::binary(*binary, x, inputs[1], dims),
        Op::MaxPool(pool) => pool::max(pool, x, dims),
        Op::AveragePool(pool) => pool::average(pool, x, dims),
        Op::Reduce { kind, axes } => reduce::reduce(*kind, axes, x, dims),
        Op::Normalize { axis, epsilon } => reduce::normalize(*axis, *epsilon, x),
        Op::Softmax { axis } => reduce::softmax(*axis, x),
        Op::LogSoftmax { axis } => reduce::log_softmax(*axis, x),
        Op::Concat { axis } => concat(*axis, inputs),
        Op::Reshape
        | Op::Transpose { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Expand
        | Op::Gather { .. } => {
            let padding = match op {
                Op::Pad {
                    mode: PadMode::Constant(value),
                    ..
                } => f64::from(*value),
                _ => 0.0,
            };
            moved(op, x.dims, dims)
                .into_iter()
                .map(|from| x.data.get(from).copied().unwrap_or(padding))
                .collect()
        }
    }
}

/// The gradient by each input, given that by the output; `None` by what is always constant.
pub(crate) fn backward(
    op: &Op,
    inputs: &[Operand<'_>],
    output: Operand<'_>,
    gradient: &[f64],
) -> Vec<Option<Vec<f64>>> {
    let through_activation: Vec<f64>;
    let gradient = match op.activation() {
        None => gradient,
        Some(function) => {
            let before = linear_part(op, inputs, output.dims);
            let pairs = before.iter().zip(gradient);
            through_activation = pairs.map(|(&x, g)| function.derivative(x) * g).collect();
            &through_activation
        }
    };
    let x = inputs[0];
    match op {
        Op::Conv(conv) => {
            let by_picture = conv::backward(conv, inputs, output.dims, gradient);
            with_residual(by_picture, inputs, gradient)
        }
        Op::Gemm { .. } => with_residual(matrix::gemm_backward(inputs, gradient), inputs, gradient),
        Op::MatMul => matrix::matmul_backward(x, inputs[1], output.dims, gradient)
            .map(Some)
            .into(),
        Op::ScaleShift { .. } => {
            vec![
                Some(elementwise::scale_shift_backward(inputs, gradient)),
                None,
                None,
            ]
        }
        Op::Map(function) => {
            let pairs = x.data.iter().zip(gradient);
            vec![Some(
                pairs.map(|(&x, g)| function.derivative(x) * g).collect(),
            )]
        }
        Op::Binary(binary) => elementwise::binary_backward(*binary, x, inputs[1], output, gradient)
            .map(Some)
            .into(),
        Op::MaxPool(pool) => vec![Some(pool::max_backward(pool, x, output.dims, gradient))],
        Op::AveragePool(pool) => {
            vec![Some(pool::average_backward(pool, x, output.dims, gradient))]
        }
        Op::Reduce { kind, axes } => {
            vec![Some(reduce::reduce_backward(
                *kind, axes, x, output, gradient,
            ))]
        }
        Op::Normalize { axis, epsilon } => {
            vec![Some(reduce::normalize_backward(
                *axis, *epsilon, x, gradient,
            ))]
        }
        Op::Softmax { axis } => vec![Some(reduce::softmax_backward(*axis, output, gradient))],
        Op::LogSoftmax { axis } => {
            vec![Some(reduce::log_softmax_backward(*axis, output, gradient))]
        }
        Op::Concat { axis } => concat_backward(*axis, inputs, gradient),
        Op::Reshape
        | Op::Transpose { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Expand
        | Op::Gather { .. } => {
            let mut by_input = vec![0.0; x.data.len()];
            for (from, g) in moved(op, x.dims, output.dims).into_iter().zip(gradient) {
                if from != PADDING {
                    by_input[from] += g;
                }
            }
            vec![Some(by_input)]
        }
    }
}

/// Gradients of a layer whose fourth input, if there is one, is a residual.
fn with_residual(
    by_input: Vec<f64>,
    inputs: &[Operand<'_>],
    gradient: &[f64],
) -> Vec<Option<Vec<f64>>> {
    let mut gradients = vec![Some(by_input), None, None];
    gradients.resize(inputs.len(), Some(gradient.to_vec()));
    gradients
}

fn moved(op: &Op, input: &[usize], output: &[usize]) -> Vec<usize> {
    layout::sources(op, input, output).expect("only called for operations that move elements")
}

/// Elements ahead of `axis`, and from `axis` on.
fn split(dims: &[usize], axis: usize) -> (usize, usize) {
    (dims[..axis].iter().product(), dims[axis..].iter().product())
}

fn concat(axis: usize, inputs: &[Operand<'_>]) -> Vec<f64> {
    let outer = split(inputs[0].dims, axis).0;
    let mut output = Vec::new();
    for row in 0..outer {
        for input in inputs {
            let length = split(input.dims, axis).1;
            output.extend_from_slice(&input.data[row * length..][..length]);
        }
    }
    output
}

fn concat_backward(axis: usize, inputs: &[Operand<'_>], gradient: &[f64]) -> Vec<Option<Vec<f64>>> {
    let outer = split(inputs[0].dims, axis).0;
    let mut gradients = vec![Vec::new(); inputs.len()];
    let mut rest = gradient;
    for _ in 0..outer {
        for (input, by_input) in inputs.iter().zip(&mut gradients) {
            let (row, after) = rest.split_at(split(input.dims, axis).1);
            by_input.extend_from_slice(row);
            rest = after;
        }
    }
    gradients.into_iter().map(Some).collect()
}
