//! Layers: convolution, normalization, matrix products, pooling.

use std::sync::Arc;

use super::builder::{Call, Item, Outputs, axis, size};
use super::fold;
use crate::classifier::function::Function;
use crate::classifier::graph::{Binary, Conv, Op, Pads, Pool, Reduction, Window};

/// Largest kernel and padding along an axis.
const MAX_KERNEL: usize = 4096;

/// Height and width from a list attribute of a picture's sizes, or of the width alone of a signal,
/// which is a picture of height 1.
fn pair(
    list: Option<Vec<i64>>,
    signal: bool,
    default: [usize; 2],
    name: &str,
) -> Result<[usize; 2], String> {
    let Some(list) = list else { return Ok(default) };
    match list[..] {
        [b] if signal && b > 0 => Ok([1, size(b)?]),
        [a, b] if !signal && a > 0 && b > 0 => Ok([size(a)?, size(b)?]),
        _ => Err(format!(
            "{name} {list:?} are not {} positive numbers",
            if signal { 1 } else { 2 }
        )),
    }
}

/// `[images, channels, height, width]` of a picture, or of a signal with height 1.
fn picture(dims: &[usize]) -> Result<[usize; 4], String> {
    match *dims {
        [images, channels, height, width] => Ok([images, channels, height, width]),
        [images, channels, width] => Ok([images, channels, 1, width]),
        _ => Err(format!(
            "its input has shape {dims:?}; only NCHW pictures and NCL signals are supported"
        )),
    }
}

/// The window attributes that convolutions and pools share, and the output's height and width.
fn window(
    call: &mut Call<'_>,
    signal: bool,
    kernel: [usize; 2],
    input: [usize; 2],
) -> Result<(Window, [usize; 2]), String> {
    let strides = pair(call.ints("strides")?, signal, [1, 1], "strides")?;
    let dilations = pair(call.ints("dilations")?, signal, [1, 1], "dilations")?;
    let ceil = call.int("ceil_mode", 0)? != 0;
    let auto = call.string("auto_pad", "NOTSET")?;
    let explicit = call.ints("pads")?;
    if kernel.iter().any(|&k| k == 0 || k > MAX_KERNEL) {
        return Err(format!("kernel {kernel:?} is not supported"));
    }
    if input.contains(&0) {
        return Err("its input is empty".into());
    }
    let extent = [0, 1].map(|i| (kernel[i] - 1) * dilations[i] + 1);
    let (mut before, mut after) = ([0, 0], [0, 0]);
    match (auto.as_str(), explicit) {
        ("NOTSET", None) | ("VALID", _) => {}
        ("NOTSET", Some(pads)) => {
            let sizes: Result<Vec<usize>, String> = pads.iter().map(|&pad| size(pad)).collect();
            (before, after) = match sizes?[..] {
                [left, right] if signal => ([0, left], [0, right]),
                [top, left, bottom, right] if !signal => ([top, left], [bottom, right]),
                _ => return Err(format!("pads {pads:?} are not two for each axis")),
            };
        }
        ("SAME_UPPER" | "SAME_LOWER", _) => {
            for i in 0..2 {
                let reach = (input[i].div_ceil(strides[i]) - 1) * strides[i] + extent[i];
                let total = reach.saturating_sub(input[i]);
                let (less, more) = (total / 2, total.div_ceil(2));
                (before[i], after[i]) = match auto.as_str() {
                    "SAME_UPPER" => (less, more),
                    _ => (more, less),
                };
            }
        }
        _ => return Err(format!("auto_pad {auto} is not supported")),
    }
    if before.iter().chain(&after).any(|&pad| pad > MAX_KERNEL) {
        return Err(format!("pads {before:?} and {after:?} are not supported"));
    }
    let mut output = [0; 2];
    for i in 0..2 {
        let padded = before[i] + input[i] + after[i];
        let room = padded.checked_sub(extent[i]).ok_or_else(|| {
            format!(
                "its kernel reaches over {} pixels of a padded picture of {padded}",
                extent[i]
            )
        })?;
        output[i] = 1 + match ceil {
            false => room / strides[i],
            // A window that would start beyond the picture is left out.
            true => room
                .div_ceil(strides[i])
                .min((before[i] + input[i] - 1) / strides[i]),
        };
    }
    let pads = Pads {
        top: before[0],
        left: before[1],
        bottom: after[0],
        right: after[1],
    };
    let window = Window {
        kernel,
        strides,
        dilations,
        pads,
    };
    Ok((window, output))
}

pub(super) fn conv(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let [images, channels, height, width] = picture(x.dims())?;
    let signal = x.dims().len() == 3;
    let (weight_dims, weight) = call.floats(1)?;
    let [out, each, kh, kw] = picture(&weight_dims)?;
    if weight_dims.len() != x.dims().len() {
        return Err(format!("weights {weight_dims:?} do not fit {:?}", x.dims()));
    }
    let group = size(call.int("group", 1)?)?;
    if group == 0 || each.checked_mul(group) != Some(channels) || !out.is_multiple_of(group) {
        return Err(format!(
            "weights {weight_dims:?} in {group} groups do not fit {channels} channels"
        ));
    }
    let kernel = pair(call.ints("kernel_shape")?, signal, [kh, kw], "kernel_shape")?;
    if kernel != [kh, kw] {
        return Err(format!("kernel_shape {kernel:?} is not its weights'"));
    }
    let bias = match call.optional(2) {
        None => vec![0.0; out].into(),
        Some(_) => match call.floats(2)? {
            (dims, bias) if dims == [out] => bias,
            (dims, _) => return Err(format!("bias {dims:?} does not fit {out} channels")),
        },
    };
    let (window, [rows, columns]) = window(call, signal, kernel, [height, width])?;
    call.builder.reserve(&weight_dims)?;
    let op = Op::Conv(Conv {
        window,
        group,
        activation: None,
    });
    let inputs = [
        call.reshape(x, vec![images, channels, height, width])?,
        Item::floats(vec![out, each, kh, kw], weight),
        Item::floats(vec![out], bias),
    ];
    let y = call.apply(op, &inputs, vec![images, out, rows, columns])?;
    as_it_came(call, y, signal)
}

/// A picture, without its height where it is a signal.
fn as_it_came(call: &mut Call<'_>, picture: Item, signal: bool) -> Outputs {
    let mut dims = picture.dims().to_vec();
    if signal {
        dims.remove(2);
    }
    Ok(vec![call.reshape(picture, dims)?])
}

/// Rows and columns exchanged.
fn transposed(data: &[f32], rows: usize, columns: usize) -> Arc<[f32]> {
    (0..rows * columns)
        .map(|i| data[i % rows * columns + i / rows])
        .collect()
}

pub(super) fn gemm(call: &mut Call<'_>) -> Outputs {
    let alpha = call.float("alpha", 1.0)?;
    let beta = call.float("beta", 1.0)?;
    let mut x = call.input(0)?;
    if call.int("transA", 0)? != 0 {
        let [rows, columns] = *x.dims() else {
            return Err(format!("its input has shape {:?}", x.dims()));
        };
        let op = Op::Transpose { perm: vec![1, 0] };
        x = call.apply(op, &[x], vec![columns, rows])?;
    }
    let transposes = call.int("transB", 0)? != 0;
    let (weight_dims, mut weight) = call.floats(1)?;
    let (&[rows, n], &[a, b]) = (x.dims(), &weight_dims[..]) else {
        return Err(format!("shapes {:?} and {weight_dims:?}", x.dims()));
    };
    let (inputs, out) = if transposes { (b, a) } else { (a, b) };
    if inputs != n || n == 0 {
        return Err(format!(
            "weights {weight_dims:?} do not fit an input of {n}"
        ));
    }
    call.builder.reserve(&weight_dims)?;
    if !transposes {
        weight = transposed(&weight, a, b);
    }
    if alpha != 1.0 {
        weight = weight.iter().map(|w| alpha * w).collect();
    }
    let bias = match call.optional(2) {
        None => None,
        Some(_) => {
            let (dims, bias) = call.floats(2)?;
            if fold::broadcast(&dims, &[rows, out])? != [rows, out] {
                return Err(format!("bias {dims:?} does not fit [{rows}, {out}]"));
            }
            Some((dims, bias.iter().map(|b| beta * b).collect::<Arc<[f32]>>()))
        }
    };
    // A bias that differs from row to row is added on its own.
    let (shared, by_row) = match bias {
        None => (vec![0.0; out].into(), None),
        Some((_, bias)) if bias.len() == 1 => (vec![bias[0]; out].into(), None),
        Some((_, bias)) if bias.len() == out && rows == 1 => (bias, None),
        Some((dims, bias)) if dims.last() == Some(&out) && bias.len() == out => (bias, None),
        Some((dims, bias)) => (vec![0.0; out].into(), Some(Item::floats(dims, bias))),
    };
    let operands = [
        x,
        Item::floats(vec![out, n], weight),
        Item::floats(vec![out], shared),
    ];
    let product = call.apply(Op::Gemm { activation: None }, &operands, vec![rows, out])?;
    match by_row {
        None => Ok(vec![product]),
        Some(bias) => call.finish(Op::Binary(Binary::Add), &[product, bias], vec![rows, out]),
    }
}

pub(super) fn matmul(call: &mut Call<'_>) -> Outputs {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let fits = |a: &[usize], b: &[usize]| match (a, b) {
        ([.., k], [n]) | ([.., k], [.., n, _]) => k == n && *k > 0,
        _ => false,
    };
    if !fits(a.dims(), b.dims()) {
        return Err(format!(
            "shapes {:?} and {:?} do not multiply",
            a.dims(),
            b.dims()
        ));
    }
    if let (Item::Value { dims, .. }, Item::Constant(weight)) = (&a, &b)
        && let [n, out] = weight.dims[..]
    {
        let output = [&dims[..dims.len() - 1], &[out]].concat();
        let (_, data) = call.floats(1)?;
        call.builder.reserve(&weight.dims)?;
        let weight = Item::floats(vec![out, n], transposed(&data, n, out));
        let bias = Item::floats(vec![out], vec![0.0; out]);
        return call.finish(Op::Gemm { activation: None }, &[a, weight, bias], output);
    }
    // A vector is a matrix of one row or column, which the result drops again.
    let (vector_a, vector_b) = (a.dims().len() == 1, b.dims().len() == 1);
    let a = match vector_a {
        true => {
            let dims = vec![1, a.dims()[0]];
            call.reshape(a, dims)?
        }
        false => a,
    };
    let b = match vector_b {
        true => {
            let dims = vec![b.dims()[0], 1];
            call.reshape(b, dims)?
        }
        false => b,
    };
    let (outer_a, rows) = a.dims().split_at(a.dims().len() - 2);
    let (outer_b, columns) = b.dims().split_at(b.dims().len() - 2);
    let outer = fold::broadcast(outer_a, outer_b)?;
    let mut dropped = outer.clone();
    dropped.extend((!vector_a).then_some(rows[0]));
    dropped.extend((!vector_b).then_some(columns[1]));
    let dims = [&outer[..], &[rows[0], columns[1]]].concat();
    let product = call.apply(Op::MatMul, &[a, b], dims)?;
    Ok(vec![call.reshape(product, dropped)?])
}

/// MaxPool and AveragePool.
pub(super) fn pool(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let [images, channels, height, width] = picture(x.dims())?;
    let signal = x.dims().len() == 3;
    let kernel = call.ints("kernel_shape")?;
    let kernel = pair(kernel, signal, [0, 0], "kernel_shape")?;
    let (window, [rows, columns]) = window(call, signal, kernel, [height, width])?;
    let op = match call.node.op_type.as_str() {
        "MaxPool" => {
            // The order of indices, which are not given.
            call.ignore("storage_order");
            Op::MaxPool(Pool {
                window,
                count_include_pad: false,
            })
        }
        _ => Op::AveragePool(Pool {
            window,
            count_include_pad: call.int("count_include_pad", 0)? != 0,
        }),
    };
    let x = call.reshape(x, vec![images, channels, height, width])?;
    let y = call.apply(op, &[x], vec![images, channels, rows, columns])?;
    as_it_came(call, y, signal)
}

/// GlobalAveragePool, GlobalMaxPool and GlobalLpPool.
pub(super) fn global_pool(call: &mut Call<'_>) -> Outputs {
    let mut x = call.input(0)?;
    let rank = x.dims().len();
    if rank < 3 {
        return Err(format!("its input has shape {:?}", x.dims()));
    }
    let kind = match call.node.op_type.as_str() {
        "GlobalAveragePool" => Reduction::Mean,
        "GlobalMaxPool" => Reduction::Max,
        _ => match call.int("p", 2)? {
            1 => {
                x = call.map(Function::Abs, &x)?;
                Reduction::Sum
            }
            2 => Reduction::L2,
            p => return Err(format!("p {p} is not supported")),
        },
    };
    let axes: Vec<usize> = (2..rank).collect();
    Ok(vec![call.reduce(kind, &axes, true, &x)?])
}

/// Softmax and LogSoftmax.
pub(super) fn softmax(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let log = call.node.op_type == "LogSoftmax";
    let op = |axis| match log {
        true => Op::LogSoftmax { axis },
        false => Op::Softmax { axis },
    };
    let rank = x.dims().len();
    let dims = x.dims().to_vec();
    if call.opset >= 13 {
        let axis = axis(call.int("axis", -1)?, rank)?;
        return call.finish(op(axis), &[x], dims);
    }
    // Older opsets join all axes from this one on.
    let axis = axis(call.int("axis", 1)?, rank)?;
    let flat = vec![dims[..axis].iter().product(), dims[axis..].iter().product()];
    let x = call.reshape(x, flat.clone())?;
    let y = call.apply(op(1), &[x], flat)?;
    Ok(vec![call.reshape(y, dims)?])
}
