//! Operations on single elements.

use super::operand::Operand;
use crate::classifier::{Binary, layout};

/// `x·scale + shift` by channel.
pub(super) fn scale_shift(inputs: &[Operand<'_>]) -> Vec<f64> {
    let (scale, shift) = (inputs[1].data, inputs[2].data);
    by_channel(inputs[0], |x, channel| x * scale[channel] + shift[channel])
}

/// The gradient by `x`.
pub(super) fn scale_shift_backward(inputs: &[Operand<'_>], gradient: &[f64]) -> Vec<f64> {
    let gradient = Operand {
        dims: inputs[0].dims,
        data: gradient,
    };
    by_channel(gradient, |g, channel| g * inputs[1].data[channel])
}

fn by_channel(x: Operand<'_>, f: impl Fn(f64, usize) -> f64) -> Vec<f64> {
    let plane: usize = x.dims[2..].iter().product();
    x.data
        .iter()
        .enumerate()
        .map(|(i, &value)| f(value, i / plane % x.dims[1]))
        .collect()
}

pub(super) fn binary(op: Binary, a: Operand<'_>, b: Operand<'_>, dims: &[usize]) -> Vec<f64> {
    let sources = layout::broadcast(a.dims, dims)
        .into_iter()
        .zip(layout::broadcast(b.dims, dims));
    sources
        .map(|(i, j)| {
            let (a, b) = (a.data[i], b.data[j]);
            match op {
                Binary::Add => a + b,
                Binary::Sub => a - b,
                Binary::Mul => a * b,
                Binary::Div => a / b,
                Binary::Pow => a.powf(b),
                Binary::Min => a.min(b),
                Binary::Max => a.max(b),
            }
        })
        .collect()
}

/// Equal operands of a minimum or maximum share its gradient, as in PyTorch. A power's gradient by
/// its exponent is 0 where the base is not positive.
pub(super) fn binary_backward(
    op: Binary,
    a: Operand<'_>,
    b: Operand<'_>,
    output: Operand<'_>,
    gradient: &[f64],
) -> [Vec<f64>; 2] {
    let mut by_a = vec![0.0; a.data.len()];
    let mut by_b = vec![0.0; b.data.len()];
    let sources = layout::broadcast(a.dims, output.dims)
        .into_iter()
        .zip(layout::broadcast(b.dims, output.dims));
    let share = |is: bool, ties: bool| match (is, ties) {
        (_, true) => 0.5,
        (true, false) => 1.0,
        (false, false) => 0.0,
    };
    for (n, (i, j)) in sources.enumerate() {
        let (x, y, g) = (a.data[i], b.data[j], gradient[n]);
        let (dx, dy) = match op {
            Binary::Add => (1.0, 1.0),
            Binary::Sub => (1.0, -1.0),
            Binary::Mul => (y, x),
            Binary::Div => (1.0 / y, -x / (y * y)),
            Binary::Pow => (
                if y == 0.0 { 0.0 } else { y * x.powf(y - 1.0) },
                if x > 0.0 {
                    output.data[n] * x.ln()
                } else {
                    0.0
                },
            ),
            Binary::Min => (share(x < y, x == y), share(y < x, x == y)),
            Binary::Max => (share(x > y, x == y), share(y > x, x == y)),
        };
        by_a[i] += g * dx;
        by_b[j] += g * dy;
    }
    [by_a, by_b]
}
