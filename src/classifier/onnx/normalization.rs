//! Normalisation by the image's own statistics, in simpler operations.

use super::builder::{Call, Item, Outputs, axis};
use super::fold;
use crate::classifier::function::Function;
use crate::classifier::graph::{Binary, Op, Reduction};

/// `(x − mean)/sqrt(variance + epsilon)`, statistics along `axes`.
fn normalized(
    call: &mut Call<'_>,
    x: Item,
    axes: Vec<usize>,
    epsilon: f32,
) -> Result<Item, String> {
    let dims = x.dims().to_vec();
    let mut reduced = dims.clone();
    for &axis in &axes {
        reduced[axis] = 1;
    }
    let mean = Op::Reduce {
        kind: Reduction::Mean,
        axes,
    };
    let binary = Op::Binary;
    let centre = call.apply(mean.clone(), std::slice::from_ref(&x), reduced.clone())?;
    let centred = call.apply(binary(Binary::Sub), &[x, centre], dims.clone())?;
    let both = [centred.clone(), centred.clone()];
    let squares = call.apply(binary(Binary::Mul), &both, dims.clone())?;
    let variance = call.apply(mean, &[squares], reduced.clone())?;
    let epsilon = Item::floats(vec![], [epsilon]);
    let sum = call.apply(binary(Binary::Add), &[variance, epsilon], reduced.clone())?;
    let deviation = call.apply(Op::Map(Function::Sqrt), &[sum], reduced)?;
    call.apply(binary(Binary::Div), &[centred, deviation], dims)
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
    let mut y = normalized(call, x, (first..rank).collect(), epsilon)?;
    y = with(call, Binary::Mul, y, Item::floats(scale.0, scale.1))?;
    if call.optional(2).is_some() {
        let shift = call.floats(2)?;
        y = with(call, Binary::Add, y, Item::floats(shift.0, shift.1))?;
    }
    Ok(vec![y])
}

pub fn instance(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let epsilon = call.float("epsilon", 1e-5)?;
    let rank = x.dims().len();
    if rank < 3 {
        return Err(format!("its input has shape {:?}", x.dims()));
    }
    let channels = x.dims()[1];
    let mut parameters = Vec::new();
    for i in 1..3 {
        let (dims, data) = call.floats(i)?;
        if dims != [channels] {
            return Err(format!(
                "input {} is {dims:?} for {channels} channels",
                i + 1
            ));
        }
        let mut by_channel = vec![1; rank - 1];
        by_channel[0] = channels;
        parameters.push(Item::floats(by_channel, data));
    }
    let y = normalized(call, x, (2..rank).collect(), epsilon)?;
    let y = with(call, Binary::Mul, y, parameters.remove(0))?;
    Ok(vec![with(call, Binary::Add, y, parameters.remove(0))?])
}
