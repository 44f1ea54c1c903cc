//! Convolution.

use std::ops::Range;

use super::operand::Operand;
use crate::classifier::Conv;

/// Outputs along an axis whose input lies inside the picture for kernel element `offset`
/// (dilation included), and the input of output 0, which may lie before the picture.
fn reach(
    outputs: usize,
    inputs: usize,
    stride: usize,
    offset: usize,
    pad: usize,
) -> (Range<usize>, isize) {
    let start = offset as isize - pad as isize;
    let first = if start < 0 {
        start.unsigned_abs().div_ceil(stride)
    } else {
        0
    };
    let end = (inputs as isize - start)
        .max(0)
        .unsigned_abs()
        .div_ceil(stride);
    (first..end.min(outputs).max(first), start)
}

/// Calls `f(weight index, output row start, input row start, columns, column start, stride)` for
/// every kernel element of every pair of channels and every output row it reaches.
fn rows(
    conv: &Conv,
    x: &[usize],
    weight: &[usize],
    y: &[usize],
    mut f: impl FnMut(usize, usize, usize, Range<usize>, isize),
) {
    let window = conv.window;
    let [kh, kw] = window.kernel;
    let outputs = y[1] / conv.group;
    for image in 0..y[0] {
        for o in 0..y[1] {
            for i in 0..weight[1] {
                let channel = o / outputs * weight[1] + i;
                for k in 0..kh * kw {
                    let (ky, kx) = (k / kw * window.dilations[0], k % kw * window.dilations[1]);
                    let (stride, pads) = (window.strides, window.pads);
                    let (down, top) = reach(y[2], x[2], stride[0], ky, pads.top);
                    let (across, left) = reach(y[3], x[3], stride[1], kx, pads.left);
                    for row in down {
                        let from = (row * stride[0]).wrapping_add_signed(top);
                        f(
                            (o * weight[1] + i) * kh * kw + k,
                            ((image * y[1] + o) * y[2] + row) * y[3],
                            ((image * x[1] + channel) * x[2] + from) * x[3],
                            across.clone(),
                            left,
                        );
                    }
                }
            }
        }
    }
}

/// `convolution + bias + residual`.
pub(super) fn forward(conv: &Conv, inputs: &[Operand<'_>], dims: &[usize]) -> Vec<f64> {
    let (x, weight, bias) = (inputs[0], inputs[1], inputs[2].data);
    let plane = dims[2] * dims[3];
    let mut output: Vec<f64> = (0..dims.iter().product())
        .map(|i: usize| bias[i / plane % dims[1]])
        .collect();
    let stride = conv.window.strides[1];
    rows(
        conv,
        x.dims,
        weight.dims,
        dims,
        |w, to, from, across, left| {
            let weight = weight.data[w];
            for column in across {
                let at = (from + column * stride).wrapping_add_signed(left);
                output[to + column] += weight * x.data[at];
            }
        },
    );
    if let Some(residual) = inputs.get(3) {
        for (y, r) in output.iter_mut().zip(residual.data) {
            *y += r;
        }
    }
    output
}

/// The gradient by the picture.
pub(super) fn backward(
    conv: &Conv,
    inputs: &[Operand<'_>],
    dims: &[usize],
    gradient: &[f64],
) -> Vec<f64> {
    let (x, weight) = (inputs[0], inputs[1]);
    let mut by_picture = vec![0.0; x.data.len()];
    let stride = conv.window.strides[1];
    rows(
        conv,
        x.dims,
        weight.dims,
        dims,
        |w, to, from, across, left| {
            let weight = weight.data[w];
            for column in across {
                let at = (from + column * stride).wrapping_add_signed(left);
                by_picture[at] += weight * gradient[to + column];
            }
        },
    );
    by_picture
}
