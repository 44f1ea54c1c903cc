//! Layers: convolution, normalization, matrix products, pooling.

use std::sync::Arc;

use super::builder::{Call, Item, Outputs, axis, size};
use super::fold;
use crate::classifier::function::Function;
use crate::classifier::graph::{Binary, Conv, Op, Pads, Pool, Reduction, Window};

/// Largest kernel and padding along an axis.
const MAX_KERNEL: usize = 4096;

/// A list attribute of one positive number for each of `axes` axes; ones where it is left out.
fn numbers(list: Option<Vec<i64>>, axes: usize, name: &str) -> Result<Vec<usize>, String> {
    let Some(list) = list else {
        return Ok(vec![1; axes]);
    };
    match list.len() == axes && list.iter().all(|&n| n > 0) {
        true => list.iter().map(|&n| size(n)).collect(),
        false => Err(format!("{name} {list:?} are not {axes} positive numbers")),
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

/// How a kernel moves along one axis, and how long the output is.
#[derive(Clone, Copy)]
struct Line {
    kernel: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    after: usize,
    output: usize,
}

impl Line {
    /// Along an axis of this length, one by one.
    fn whole(length: usize) -> Self {
        Line {
            kernel: 1,
            stride: 1,
            dilation: 1,
            before: 0,
            after: 0,
            output: length,
        }
    }

    /// Whether it leaves an axis as it is.
    fn is_whole(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.before + self.after == 0
    }
}

/// The window of a kernel that moves like this vertically and horizontally.
fn window([rows, columns]: [Line; 2]) -> Window {
    Window {
        kernel: [rows.kernel, columns.kernel],
        strides: [rows.stride, columns.stride],
        dilations: [rows.dilation, columns.dilation],
        pads: Pads {
            top: rows.before,
            left: columns.before,
            bottom: rows.after,
            right: columns.after,
        },
    }
}

/// The attributes that convolutions and pools share, for a kernel on an input of these lengths.
fn lines(call: &mut Call<'_>, kernel: &[usize], input: &[usize]) -> Result<Vec<Line>, String> {
    let axes = input.len();
    let strides = numbers(call.ints("strides")?, axes, "strides")?;
    let dilations = numbers(call.ints("dilations")?, axes, "dilations")?;
    let ceil = call.int("ceil_mode", 0)? != 0;
    let auto = call.string("auto_pad", "NOTSET")?;
    let explicit = call.ints("pads")?;
    if kernel.iter().any(|&k| k == 0 || k > MAX_KERNEL) {
        return Err(format!("kernel {kernel:?} is not supported"));
    }
    if input.contains(&0) {
        return Err("its input is empty".into());
    }
    let extent = |i: usize| (kernel[i] - 1) * dilations[i] + 1;
    let (mut before, mut after) = (vec![0; axes], vec![0; axes]);
    match (auto.as_str(), explicit) {
        ("NOTSET", None) | ("VALID", _) => {}
        ("NOTSET", Some(pads)) => {
            if pads.len() != 2 * axes {
                return Err(format!("pads {pads:?} are not two for each axis"));
            }
            let sizes = pads.iter().map(|&pad| size(pad));
            before = sizes.collect::<Result<_, _>>()?;
            after = before.split_off(axes);
        }
        ("SAME_UPPER" | "SAME_LOWER", _) => {
            for i in 0..axes {
                let reach = (input[i].div_ceil(strides[i]) - 1) * strides[i] + extent(i);
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
    let line = |i: usize| {
        let padded = before[i] + input[i] + after[i];
        let room = padded.checked_sub(extent(i)).ok_or_else(|| {
            format!(
                "its kernel reaches over {} pixels of a padded picture of {padded}",
                extent(i)
            )
        })?;
        let steps = match ceil {
            false => room / strides[i],
            // A window that would start beyond the picture is left out.
            true => room
                .div_ceil(strides[i])
                .min((before[i] + input[i] - 1) / strides[i]),
        };
        Ok(Line {
            kernel: kernel[i],
            stride: strides[i],
            dilation: dilations[i],
            before: before[i],
            after: after[i],
            output: 1 + steps,
        })
    };
    (0..axes).map(line).collect()
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
    let kernel = &weight_dims[2..];
    if let Some(shape) = call.ints("kernel_shape")?
        && numbers(Some(shape.clone()), kernel.len(), "kernel_shape")? != kernel
    {
        return Err(format!("kernel_shape {shape:?} is not its weights'"));
    }
    let bias = match call.optional(2) {
        None => vec![0.0; out].into(),
        Some(_) => match call.floats(2)? {
            (dims, bias) if dims == [out] => bias,
            (dims, _) => return Err(format!("bias {dims:?} does not fit {out} channels")),
        },
    };
    let lines = match lines(call, kernel, &x.dims()[2..])?[..] {
        [rows, columns] => [rows, columns],
        [columns] => [Line::whole(1), columns],
        _ => unreachable!("a picture has two axes, a signal one"),
    };
    let [rows, columns] = lines.map(|line| line.output);
    call.builder.reserve(&weight_dims)?;
    let op = Op::Conv(Conv {
        window: window(lines),
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

/// MaxPool and AveragePool. A volume is pooled twice: every picture, then in depth.
pub(super) fn pool(call: &mut Call<'_>) -> Outputs {
    let mut x = call.input(0)?;
    let dims = x.dims().to_vec();
    let (images, channels, spatial) = match dims[..] {
        [images, channels, ref spatial @ ..] if (1..=3).contains(&spatial.len()) => {
            (images, channels, spatial)
        }
        _ => {
            return Err(format!(
                "its input has shape {dims:?}; only NCHW pictures, NCL signals and NCDHW volumes are \
                 supported"
            ));
        }
    };
    let kernel = call
        .ints("kernel_shape")?
        .ok_or("its kernel_shape is missing")?;
    let kernel = numbers(Some(kernel), spatial.len(), "kernel_shape")?;
    let lines = lines(call, &kernel, spatial)?;
    let average = call.node.op_type == "AveragePool";
    // Of indices, which are not given.
    call.ignore("storage_order");
    let count_include_pad = average && call.int("count_include_pad", 0)? != 0;
    // How many pictures there are, of which size, and how the kernel moves over them.
    let passes = match (spatial, &lines[..]) {
        (&[width], &[columns]) => vec![(channels, [1, width], [Line::whole(1), columns])],
        (&[depth, height, width], &[planes, rows, columns]) => {
            let each = rows.output * columns.output;
            vec![
                (channels * depth, [height, width], [rows, columns]),
                (channels, [depth, each], [planes, Line::whole(each)]),
            ]
        }
        (spatial, lines) => vec![(channels, [spatial[0], spatial[1]], [lines[0], lines[1]])],
    };
    for (pictures, [height, width], lines) in passes {
        if lines.iter().all(Line::is_whole) {
            continue;
        }
        let pool = Pool {
            window: window(lines),
            count_include_pad,
        };
        let op = if average {
            Op::AveragePool(pool)
        } else {
            Op::MaxPool(pool)
        };
        let [rows, columns] = lines.map(|line| line.output);
        x = call.reshape(x, vec![images, pictures, height, width])?;
        x = call.apply(op, &[x], vec![images, pictures, rows, columns])?;
    }
    let outputs = lines.iter().map(|line| line.output);
    let dims = [images, channels].into_iter().chain(outputs).collect();
    Ok(vec![call.reshape(x, dims)?])
}

/// The function that a layer of com.microsoft ends with, its numbers in these attributes.
fn activation(call: &mut Call<'_>, numbers: [Option<f32>; 2]) -> Result<Option<Function>, String> {
    let number = |i: usize, default: f32| numbers[i].unwrap_or(default);
    Ok(Some(match call.string("activation", "")?.as_str() {
        "" => return Ok(None),
        "Relu" => Function::Relu,
        "Sigmoid" => Function::Sigmoid,
        "Tanh" => Function::Tanh,
        "LeakyRelu" => Function::LeakyRelu {
            alpha: number(0, 0.01),
        },
        "HardSigmoid" => Function::HardSigmoid {
            alpha: number(0, 0.2),
            beta: number(1, 0.5),
        },
        "Clip" => Function::Clip {
            low: number(0, f32::NEG_INFINITY),
            high: number(1, f32::INFINITY),
        },
        other => return Err(format!("activation {other} is not supported")),
    }))
}

/// ONNX Runtime's Conv that adds a fourth input and ends with an activation.
pub(super) fn fused_conv(call: &mut Call<'_>) -> Outputs {
    let parameters = call.float_list("activation_params")?.unwrap_or_default();
    let parameters = [0, 1].map(|i| parameters.get(i).copied());
    let function = activation(call, parameters)?;
    let mut y = conv(call)?.remove(0);
    if let Some(residual) = call.optional(3) {
        y = call.binary(Binary::Add, &y, &residual)?;
    }
    ending(call, function, y)
}

/// ONNX Runtime's Gemm that ends with an activation.
pub(super) fn fused_gemm(call: &mut Call<'_>) -> Outputs {
    let mut parameter = |name: &'static str| match call.has(name) {
        true => call.float(name, 0.0).map(Some),
        false => Ok(None),
    };
    let parameters = [
        parameter("activation_alpha")?,
        parameter("activation_beta")?,
    ];
    call.ignore("activation_gamma");
    let function = activation(call, parameters)?;
    let y = gemm(call)?.remove(0);
    ending(call, function, y)
}

fn ending(call: &mut Call<'_>, function: Option<Function>, y: Item) -> Outputs {
    match function {
        None => Ok(vec![y]),
        Some(function) => Ok(vec![call.map(function, &y)?]),
    }
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
