//! Normalisation: by statistics of the training set, and by a tensor's own.

use std::sync::Arc;

use super::builder::{Call, Item, Outputs, axis};
use super::fold;
use crate::classifier::graph::{Binary, Op};

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
    call.apply(Op::Binary(binary), &[x, constant], dims)
}

pub fn layer(call: &mut Call<'_>) -> Outputs {
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

pub fn batch(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let epsilon = call.float("epsilon", 1e-5)?;
    call.ignore("momentum");
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

/// Batch normalisation in training mode, which is how weight-standardised networks (NFNet) export the
/// standardisation of their weights.
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

pub fn instance(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let epsilon = call.float("epsilon", 1e-5)?;
    let rank = x.dims().len();
    if rank < 3 {
        return Err(format!("its input has shape {:?}", x.dims()));
    }
    let channels = x.dims()[1];
    let mut by_channel = vec![1; rank - 1];
    by_channel[0] = channels;
    let scale = Item::floats(by_channel.clone(), parameter(call, 1, channels)?);
    let shift = Item::floats(by_channel, parameter(call, 2, channels)?);
    let y = normalized(call, x, 2, epsilon)?;
    let y = with(call, Binary::Mul, y, scale)?;
    Ok(vec![with(call, Binary::Add, y, shift)?])
}
