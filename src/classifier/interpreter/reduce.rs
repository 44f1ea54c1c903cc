//! Reductions, normalization and softmax.

use super::operand::Operand;
use crate::classifier::{Reduction, layout};

pub(super) fn reduce(kind: Reduction, axes: &[usize], x: Operand<'_>, dims: &[usize]) -> Vec<f64> {
    let start = match kind {
        Reduction::Max => f64::NEG_INFINITY,
        _ => 0.0,
    };
    let mut output = vec![start; dims.iter().product()];
    for (to, &x) in layout::reduced(x.dims, axes).into_iter().zip(x.data) {
        match kind {
            Reduction::Mean | Reduction::Sum => output[to] += x,
            Reduction::Max => output[to] = output[to].max(x),
            Reduction::L2 => output[to] += x * x,
        }
    }
    let joined = x.data.len() as f64 / output.len() as f64;
    match kind {
        Reduction::Mean => output.iter_mut().for_each(|y| *y /= joined),
        Reduction::L2 => output.iter_mut().for_each(|y| *y = y.sqrt()),
        Reduction::Sum | Reduction::Max => {}
    }
    output
}

/// Equal maxima share the gradient; that of a norm of zeros is 0, as in PyTorch.
pub(super) fn reduce_backward(
    kind: Reduction,
    axes: &[usize],
    x: Operand<'_>,
    output: Operand<'_>,
    gradient: &[f64],
) -> Vec<f64> {
    let to = layout::reduced(x.dims, axes);
    let joined = x.data.len() as f64 / output.data.len() as f64;
    let mut maxima = vec![0.0; output.data.len()];
    for (&to, &x) in to.iter().zip(x.data) {
        maxima[to] += if x == output.data[to] { 1.0 } else { 0.0 };
    }
    let derivative = |to: usize, x: f64| match kind {
        Reduction::Mean => 1.0 / joined,
        Reduction::Sum => 1.0,
        Reduction::Max if x == output.data[to] => 1.0 / maxima[to],
        Reduction::L2 if output.data[to] > 0.0 => x / output.data[to],
        Reduction::Max | Reduction::L2 => 0.0,
    };
    let pairs = to.iter().zip(x.data);
    pairs
        .map(|(&to, &x)| gradient[to] * derivative(to, x))
        .collect()
}

fn mean(terms: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = terms.len() as f64;
    terms.sum::<f64>() / count
}

/// A row's elements with mean 0 and variance 1, and what they were divided by.
fn standard(epsilon: f32, row: &[f64]) -> (Vec<f64>, f64) {
    let center = mean(row.iter().copied());
    let variance = mean(row.iter().map(|x| (x - center).powi(2)));
    let deviation = (variance + f64::from(epsilon)).sqrt();
    let standard = row.iter().map(|x| (x - center) / deviation).collect();
    (standard, deviation)
}

/// Elements of the axes from `axis` on.
fn row(axis: usize, dims: &[usize]) -> usize {
    dims[axis..].iter().product::<usize>().max(1)
}

pub(super) fn normalize(axis: usize, epsilon: f32, x: Operand<'_>) -> Vec<f64> {
    let rows = x.data.chunks_exact(row(axis, x.dims));
    rows.flat_map(|row| standard(epsilon, row).0).collect()
}

/// `(g − mean(g) − y·mean(g·y)) / deviation`, where `y` is the output.
pub(super) fn normalize_backward(
    axis: usize,
    epsilon: f32,
    x: Operand<'_>,
    gradient: &[f64],
) -> Vec<f64> {
    let length = row(axis, x.dims);
    let rows = x.data.chunks_exact(length);
    rows.zip(gradient.chunks_exact(length))
        .flat_map(|(row, g)| {
            let (y, deviation) = standard(epsilon, row);
            let plain = mean(g.iter().copied());
            let along = mean(g.iter().zip(&y).map(|(g, y)| g * y));
            let by = move |(g, y): (&f64, f64)| (g - plain - y * along) / deviation;
            g.iter().zip(y).map(by)
        })
        .collect()
}

/// `x − ln Σ eˣ` along an axis.
pub(super) fn log_softmax(axis: usize, x: Operand<'_>) -> Vec<f64> {
    let groups = layout::reduced(x.dims, &[axis]);
    let length = x.dims[axis].max(1);
    let mut maxima = vec![f64::NEG_INFINITY; x.data.len() / length];
    for (&group, &x) in groups.iter().zip(x.data) {
        maxima[group] = maxima[group].max(x);
    }
    let mut sums = vec![0.0; maxima.len()];
    for (&group, &x) in groups.iter().zip(x.data) {
        sums[group] += (x - maxima[group]).exp();
    }
    let pairs = groups.iter().zip(x.data);
    pairs
        .map(|(&group, &x)| x - maxima[group] - sums[group].ln())
        .collect()
}

pub(super) fn softmax(axis: usize, x: Operand<'_>) -> Vec<f64> {
    log_softmax(axis, x).into_iter().map(f64::exp).collect()
}

/// Sums of `terms` along an axis of `dims`, at each element.
fn sums(axis: usize, dims: &[usize], terms: impl Iterator<Item = f64>) -> Vec<f64> {
    let groups = layout::reduced(dims, &[axis]);
    let mut sums = vec![0.0; groups.len() / dims[axis].max(1)];
    for (&group, term) in groups.iter().zip(terms) {
        sums[group] += term;
    }
    groups.into_iter().map(|group| sums[group]).collect()
}

pub(super) fn softmax_backward(axis: usize, output: Operand<'_>, gradient: &[f64]) -> Vec<f64> {
    let y = output.data;
    let inner = sums(
        axis,
        output.dims,
        y.iter().zip(gradient).map(|(y, g)| y * g),
    );
    (0..y.len())
        .map(|i| y[i] * (gradient[i] - inner[i]))
        .collect()
}

pub(super) fn log_softmax_backward(axis: usize, output: Operand<'_>, gradient: &[f64]) -> Vec<f64> {
    let y = output.data;
    let total = sums(axis, output.dims, gradient.iter().copied());
    (0..y.len())
        .map(|i| gradient[i] - y[i].exp() * total[i])
        .collect()
}
