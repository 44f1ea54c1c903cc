//! Pooling.

use super::operand::Operand;
use crate::classifier::Pool;

/// Calls `f(output index, input indices in the picture, divisor of an average)` for every window.
fn windows(pool: &Pool, x: &[usize], y: &[usize], mut f: impl FnMut(usize, &[usize], usize)) {
    let window = pool.window;
    let pads = [
        (window.pads.top, window.pads.bottom),
        (window.pads.left, window.pads.right),
    ];
    // Along one axis: the inputs of output `i`, and how many kernel elements lie in the padded picture.
    let along = |axis: usize, i: usize| {
        let (before, after) = pads[axis];
        let size = x[2 + axis];
        let places = (0..window.kernel[axis])
            .map(|k| i * window.strides[axis] + k * window.dilations[axis])
            .filter(|place| *place < before + size + after);
        let inside: Vec<usize> = places
            .clone()
            .filter(|place| (before..before + size).contains(place))
            .map(|place| place - before)
            .collect();
        (inside, places.count())
    };
    let mut cells = Vec::new();
    for plane in 0..y[0] * y[1] {
        for row in 0..y[2] {
            let (rows, padded_rows) = along(0, row);
            for column in 0..y[3] {
                let (columns, padded_columns) = along(1, column);
                cells.clear();
                for r in &rows {
                    cells.extend(columns.iter().map(|c| (plane * x[2] + r) * x[3] + c));
                }
                let divisor = if pool.count_include_pad {
                    padded_rows * padded_columns
                } else {
                    cells.len()
                };
                f((plane * y[2] + row) * y[3] + column, &cells, divisor);
            }
        }
    }
}

/// The first of the largest.
fn largest(x: &[f64], cells: &[usize]) -> Option<usize> {
    cells
        .iter()
        .copied()
        .reduce(|best, cell| if x[cell] > x[best] { cell } else { best })
}

pub(super) fn max(pool: &Pool, x: Operand<'_>, dims: &[usize]) -> Vec<f64> {
    let mut output = vec![f64::NEG_INFINITY; dims.iter().product()];
    windows(pool, x.dims, dims, |to, cells, _| {
        if let Some(cell) = largest(x.data, cells) {
            output[to] = x.data[cell];
        }
    });
    output
}

pub(super) fn max_backward(
    pool: &Pool,
    x: Operand<'_>,
    dims: &[usize],
    gradient: &[f64],
) -> Vec<f64> {
    let mut by_picture = vec![0.0; x.data.len()];
    windows(pool, x.dims, dims, |to, cells, _| {
        if let Some(cell) = largest(x.data, cells) {
            by_picture[cell] += gradient[to];
        }
    });
    by_picture
}

pub(super) fn average(pool: &Pool, x: Operand<'_>, dims: &[usize]) -> Vec<f64> {
    let mut output = vec![0.0; dims.iter().product()];
    windows(pool, x.dims, dims, |to, cells, divisor| {
        let sum: f64 = cells.iter().map(|&cell| x.data[cell]).sum();
        output[to] = sum / divisor.max(1) as f64;
    });
    output
}

pub(super) fn average_backward(
    pool: &Pool,
    x: Operand<'_>,
    dims: &[usize],
    gradient: &[f64],
) -> Vec<f64> {
    let mut by_picture = vec![0.0; x.data.len()];
    windows(pool, x.dims, dims, |to, cells, divisor| {
        for &cell in cells {
            by_picture[cell] += gradient[to] / divisor.max(1) as f64;
        }
    });
    by_picture
}
