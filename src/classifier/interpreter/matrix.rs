//! Matrix products.

use super::operand::Operand;
use crate::classifier::layout;

/// `x·weightᵀ + bias + residual` on the last axis.
pub(super) fn gemm(inputs: &[Operand<'_>]) -> Vec<f64> {
    let (x, weight, bias) = (inputs[0], inputs[1], inputs[2].data);
    let n = weight.dims[1];
    let mut output = Vec::new();
    for row in 0..x.data.len() / n {
        let x = &x.data[row * n..][..n];
        for (weight, bias) in weight.data.chunks_exact(n).zip(bias) {
            let product: f64 = x.iter().zip(weight).map(|(x, w)| x * w).sum();
            output.push(product + bias);
        }
    }
    if let Some(residual) = inputs.get(3) {
        for (y, r) in output.iter_mut().zip(residual.data) {
            *y += r;
        }
    }
    output
}

/// The gradient by `x`.
pub(super) fn gemm_backward(inputs: &[Operand<'_>], gradient: &[f64]) -> Vec<f64> {
    let (x, weight) = (inputs[0], inputs[1]);
    let (outputs, n) = (weight.dims[0], weight.dims[1]);
    let mut by_x = vec![0.0; x.data.len()];
    for (i, g) in gradient.iter().enumerate() {
        let (row, o) = (i / outputs, i % outputs);
        let weight = &weight.data[o * n..][..n];
        for (d, w) in by_x[row * n..][..n].iter_mut().zip(weight) {
            *d += g * w;
        }
    }
    by_x
}

/// Calls `f(index in a, index in b, index in the output)` for every product of the sum.
fn products(a: &[usize], b: &[usize], y: &[usize], mut f: impl FnMut(usize, usize, usize)) {
    let [.., m, n] = *y else { return };
    let k = a[a.len() - 1];
    let batch = &y[..y.len() - 2];
    let of_a = layout::broadcast(&a[..a.len() - 2], batch);
    let of_b = layout::broadcast(&b[..b.len() - 2], batch);
    for (matrix, (of_a, of_b)) in of_a.into_iter().zip(of_b).enumerate() {
        for row in 0..m {
            for i in 0..k {
                for column in 0..n {
                    f(
                        (of_a * m + row) * k + i,
                        (of_b * k + i) * n + column,
                        (matrix * m + row) * n + column,
                    );
                }
            }
        }
    }
}

pub(super) fn matmul(a: Operand<'_>, b: Operand<'_>, dims: &[usize]) -> Vec<f64> {
    let mut output = vec![0.0; dims.iter().product()];
    products(a.dims, b.dims, dims, |i, j, to| {
        output[to] += a.data[i] * b.data[j];
    });
    output
}

pub(super) fn matmul_backward(
    a: Operand<'_>,
    b: Operand<'_>,
    dims: &[usize],
    gradient: &[f64],
) -> [Vec<f64>; 2] {
    let mut by_a = vec![0.0; a.data.len()];
    let mut by_b = vec![0.0; b.data.len()];
    products(a.dims, b.dims, dims, |i, j, to| {
        by_a[i] += gradient[to] * b.data[j];
        by_b[j] += gradient[to] * a.data[i];
    });
    [by_a, by_b]
}
