//! Normalization: by statistics of the training set, and by a tensor's own.

use std::sync::Arc;

use super::builder::{Call, Item, Outputs, axis, size};
use super::fold;
use crate::classifier::function::Function;
use crate::classifier::graph::{Binary, Conv, Op, Pads, Reduction, Window};

/// `(x − mean)/sqrt(variance + epsilon)`, statistics along `axis` and all after it.
fn normalized(call: &mut Call<'_>, x: Item, axis: usize, epsilon: f32) -> Result<Item, String> {
    let dims = x.dims().to_vec();
    call.apply(Op::Normalize { axis, epsilon }, &[x], dims)
}

/// `x` times or plus a constant that broadcasts to its shape.
fn with(call: &mut Call<'_>, binary: Binary, x: Item, constant: Item) -> Result<Item, String> {
    let dims = x.dims().to_vec();
    if fold::broadcast(&dims, constant.dims())? != dims {
        return Err(format!(
            "parameters {:?} do not fit {dims:?}",
            constant.dims()
        ));
    }
    call.binary(binary, &x, &constant)
}

pub(super) fn layer(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len();
    let first = axis(call.int("axis", -1)?, rank)?;
    let epsilon = call.float("epsilon", 1e-5)?;
    call.ignore("stash_type");
    let scale = call.floats(1)?;
    let mut y = normalized(call, x, first, epsilon)?;
    y = with(call, Binary::Mul, y, Item::floats(scale.0, scale.1))?;
    if call.optional(2).is_some() {
        let shift = call.floats(2)?;
        y = with(call, Binary::Add, y, Item::floats(shift.0, shift.1))?;
    }
    Ok(vec![y])
}

/// `x` over the root of the mean of its squares, along an axis and all after it, times a scale.
pub(super) fn by_root_mean_square(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len();
    let first = axis(call.int("axis", -1)?, rank)?;
    let epsilon = call.float("epsilon", 1e-5)?;
    call.ignore("stash_type");
    let (dims, scale) = call.floats(1)?;
    let axes: Vec<usize> = (first..rank).collect();
    let squares = call.binary(Binary::Mul, &x, &x)?;
    let mean = call.reduce(Reduction::Mean, &axes, true, &squares)?;
    let mean = call.with_number(Binary::Add, &mean, epsilon)?;
    let root = call.map(Function::Sqrt, &mean)?;
    let y = call.binary(Binary::Div, &x, &root)?;
    Ok(vec![with(call, Binary::Mul, y, Item::floats(dims, scale))?])
}

pub(super) fn batch(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let epsilon = call.float("epsilon", 1e-5)?;
    call.ignore("momentum");
    // Until opset 8: whether statistics are of a channel, not of each of its pixels.
    if call.int("spatial", 1)? == 0 {
        return Err("spatial 0 is not supported".into());
    }
    if call.int("training_mode", 0)? != 0 {
        return match x {
            Item::Constant(_) => standardized(call, epsilon),
            Item::Value { .. } => {
                Err("training_mode is not supported; export the model in evaluation mode".into())
            }
        };
    }
    let channels = match x.dims() {
        [_, channels, ..] => *channels,
        dims => return Err(format!("its input has shape {dims:?}")),
    };
    let parameters = (1..5)
        .map(|i| parameter(call, i, channels))
        .collect::<Result<Vec<_>, _>>()?;
    let scale = |c: usize| {
        f64::from(parameters[0][c]) / (f64::from(parameters[3][c]) + f64::from(epsilon)).sqrt()
    };
    let shift = |c: usize| f64::from(parameters[1][c]) - f64::from(parameters[2][c]) * scale(c);
    let scales: Arc<[f32]> = (0..channels).map(|c| scale(c) as f32).collect();
    let shifts: Arc<[f32]> = (0..channels).map(|c| shift(c) as f32).collect();
    let dims = x.dims().to_vec();
    let inputs = [
        x,
        Item::floats(vec![channels], scales),
        Item::floats(vec![channels], shifts),
    ];
    call.finish(Op::ScaleShift { activation: None }, &inputs, dims)
}

/// Batch normalization in training mode, which is how weight-standardized networks (NFNet) export the
/// standardization of their weights.
fn standardized(call: &mut Call<'_>, epsilon: f32) -> Outputs {
    let (dims, data) = call.floats(0)?;
    let [_, channels, ref rest @ ..] = dims[..] else {
        return Err(format!("its input has shape {dims:?}"));
    };
    let (scale, shift) = (parameter(call, 1, channels)?, parameter(call, 2, channels)?);
    call.builder.reserve(&dims)?;
    let inner: usize = rest.iter().product();
    let channel = |i: usize| i / inner % channels;
    let count = data.len() as f64 / channels as f64;
    let mut means = vec![0.0; channels];
    for (i, &x) in data.iter().enumerate() {
        means[channel(i)] += f64::from(x) / count;
    }
    let mut variances = vec![0.0; channels];
    for (i, &x) in data.iter().enumerate() {
        variances[channel(i)] += (f64::from(x) - means[channel(i)]).powi(2) / count;
    }
    let one = |(i, &x): (usize, &f32)| {
        let c = channel(i);
        let deviation = (variances[c] + f64::from(epsilon)).sqrt();
        let standard = (f64::from(x) - means[c]) / deviation;
        (standard * f64::from(scale[c]) + f64::from(shift[c])) as f32
    };
    let standard: Arc<[f32]> = data.iter().enumerate().map(one).collect();
    Ok(vec![Item::floats(dims, standard)])
}

/// An input of one number for each channel.
fn parameter(call: &Call<'_>, index: usize, channels: usize) -> Result<Arc<[f32]>, String> {
    match call.floats(index)? {
        (dims, data) if dims == [channels] => Ok(data),
        (dims, _) => Err(format!(
            "input {} is {dims:?} for {channels} channels",
            index + 1
        )),
    }
}

pub(super) fn instance(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let epsilon = call.float("epsilon", 1e-5)?;
    let rank = x.dims().len();
    if rank < 3 {
        return Err(format!("its input has shape {:?}", x.dims()));
    }
    let channels = x.dims()[1];
    let y = normalized(call, x, 2, epsilon)?;
    scaled(call, y, channels)
}

/// The second input times `y` plus the third, either one number for each of `groups` on axis 1.
fn scaled(call: &mut Call<'_>, y: Item, groups: usize) -> Outputs {
    let mut by_group = vec![1; y.dims().len() - 1];
    by_group[0] = groups;
    let scale = Item::floats(by_group.clone(), parameter(call, 1, groups)?);
    let shift = Item::floats(by_group, parameter(call, 2, groups)?);
    let y = with(call, Binary::Mul, y, scale)?;
    Ok(vec![with(call, Binary::Add, y, shift)?])
}

/// GroupNormalization: a scale and a shift for each channel, or before opset 21 for each group.
pub(super) fn group(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let epsilon = call.float("epsilon", 1e-5)?;
    let groups = size(call.int("num_groups", 0)?)?;
    // The precision of the statistics.
    call.ignore("stash_type");
    let dims = x.dims().to_vec();
    let [images, channels, ref rest @ ..] = dims[..] else {
        return Err(format!("its input has shape {dims:?}"));
    };
    if groups == 0 || !channels.is_multiple_of(groups) || channels == 0 {
        return Err(format!("{channels} channels are not {groups} groups"));
    }
    let each = channels / groups * rest.iter().product::<usize>();
    let x = call.reshape(x, vec![images, groups, each])?;
    let y = normalized(call, x, 2, epsilon)?;
    if call.opset >= 21 {
        let y = call.reshape(y, dims)?;
        return scaled(call, y, channels);
    }
    let y = scaled(call, y, groups)?.remove(0);
    Ok(vec![call.reshape(y, dims)?])
}

/// `x/(bias + alpha/size·sum)^beta` with the sum of squares over `size` neighboring channels: a
/// convolution of the squares with a banded matrix.
pub(super) fn local_response(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let alpha = call.float("alpha", 1e-4)?;
    let beta = call.float("beta", 0.75)?;
    let bias = call.float("bias", 1.0)?;
    let window = size(call.int("size", 0)?)?;
    if window == 0 || ![alpha, beta, bias].iter().all(|x| x.is_finite()) {
        return Err(format!(
            "size {window}, alpha {alpha}, beta {beta} and bias {bias} are not supported"
        ));
    }
    let dims = x.dims().to_vec();
    let [images, channels, ref rest @ ..] = dims[..] else {
        return Err(format!("its input has shape {dims:?}"));
    };
    call.builder.reserve(&[channels, channels])?;
    let (before, after) = ((window - 1) / 2, window / 2);
    let weight = alpha / window as f32;
    let band: Arc<[f32]> = (0..channels * channels)
        .map(|i| (i / channels, i % channels))
        .map(
            |(to, from)| match from + before >= to && from <= to + after {
                true => weight,
                false => 0.0,
            },
        )
        .collect();
    let squares = call.binary(Binary::Mul, &x, &x)?;
    let plane = match *rest {
        [height, width] => [height, width],
        _ => [1, rest.iter().product()],
    };
    let picture = vec![images, channels, plane[0], plane[1]];
    let squares = call.reshape(squares, picture.clone())?;
    let inputs = [
        squares,
        Item::floats(vec![channels, channels, 1, 1], band),
        Item::floats(vec![channels], vec![bias; channels]),
    ];
    let op = Op::Conv(Conv {
        window: Window {
            kernel: [1, 1],
            strides: [1, 1],
            dilations: [1, 1],
            pads: Pads::default(),
        },
        group: 1,
        activation: None,
    });
    let sums = call.apply(op, &inputs, picture)?;
    let sums = call.reshape(sums, dims)?;
    let divisor = call.with_number(Binary::Pow, &sums, beta)?;
    Ok(vec![call.binary(Binary::Div, &x, &divisor)?])
}

/// `x` over its norm along an axis; 0 where that is 0.
pub(super) fn by_norm(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let axis = axis(call.int("axis", -1)?, x.dims().len())?;
    let norm = match call.int("p", 2)? {
        1 => {
            let sizes = call.map(Function::Abs, &x)?;
            call.reduce(Reduction::Sum, &[axis], true, &sizes)?
        }
        2 => call.reduce(Reduction::L2, &[axis], true, &x)?,
        p => return Err(format!("p {p} is not supported")),
    };
    let divisor = call.with_number(Binary::Max, &norm, f32::MIN_POSITIVE)?;
    Ok(vec![call.binary(Binary::Div, &x, &divisor)?])
}
