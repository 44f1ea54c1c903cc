//! Quantized numbers, which are run in float: weights are what they stand for; what is computed from the
//! image is cut to the range of its quantized type, but not rounded to its steps.

use super::builder::{Call, Item, Outputs, axis, size};
use super::proto::DataType;
use super::tensor::{Constant, Data};
use crate::classifier::function::Function;
use crate::classifier::graph::{Binary, Op};

/// What the user should know about a model of quantized numbers.
const WARNING: &str = "its quantized numbers are run in float: what is computed from a picture is cut to \
                       their range, but not rounded to their steps, so logits differ by some steps from \
                       the quantized model's";

/// The least and the greatest number of a type.
fn range(kind: DataType) -> Result<[f32; 2], String> {
    Ok(match kind {
        DataType::Uint4 => [0.0, 15.0],
        DataType::Int4 => [-8.0, 7.0],
        DataType::Uint8 => [0.0, 255.0],
        DataType::Int8 => [-128.0, 127.0],
        DataType::Uint16 => [0.0, 65_535.0],
        DataType::Int16 => [-32_768.0, 32_767.0],
        kind => return Err(format!("numbers quantized to {kind:?} are not supported")),
    })
}

/// Integers as floats.
fn float(call: &mut Call<'_>, item: Item) -> Result<Item, String> {
    match item {
        Item::Constant(Constant {
            dims,
            data: Data::Int(data),
            ..
        }) => {
            call.builder.reserve(&dims)?;
            let data: Vec<f32> = data.iter().map(|&x| x as f32).collect();
            Ok(Item::floats(dims, data))
        }
        item => Ok(item),
    }
}

/// Scales or zero points, so that they broadcast to `dims`: one for all, for each place on an axis, or for
/// each block of places.
fn parameter(call: &mut Call<'_>, index: usize, dims: &[usize]) -> Result<Option<Item>, String> {
    let along = call.int("axis", 1)?;
    let block = size(call.int("block_size", 0)?)?;
    let Some(constant) = call.optional_constant(index)? else {
        return Ok(None);
    };
    let given = constant.dims.clone();
    let item = float(call, Item::Constant(constant))?;
    if given.iter().all(|&n| n == 1) && block == 0 {
        return call.reshape(item, vec![]).map(Some);
    }
    let axis = axis(along, dims.len())?;
    let mut shape = vec![1; dims.len()];
    shape[axis] = dims[axis];
    if given == [dims[axis]] {
        return call.reshape(item, shape).map(Some);
    }
    let mut blocks = dims.to_vec();
    if block > 0 {
        blocks[axis] = dims[axis].div_ceil(block);
        if given == blocks {
            let indices = (0..dims[axis]).map(|i| i / block).collect();
            let op = Op::Gather { axis, indices };
            return call.apply(op, &[item], dims.to_vec()).map(Some);
        }
    }
    Err(format!("parameters {given:?} do not fit {dims:?}"))
}

/// `(x − zero)·scale`.
pub(super) fn dequantize(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    call.ignore("output_dtype");
    let dims = x.dims().to_vec();
    let scale = parameter(call, 1, &dims)?.ok_or("its scale is missing")?;
    let mut x = float(call, x)?;
    if let Some(zero) = parameter(call, 2, &dims)? {
        x = call.binary(Binary::Sub, &x, &zero)?;
    }
    Ok(vec![call.binary(Binary::Mul, &x, &scale)?])
}

/// `x/scale + zero`, rounded where `x` is constant, cut to the range of the zero's type.
pub(super) fn quantize(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    call.ignore("saturate");
    call.ignore("precision");
    let kind = match (call.optional_constant(2)?, call.int("output_dtype", 0)?) {
        (Some(zero), _) => zero.kind,
        (None, 0) => DataType::Uint8,
        (None, kind) => i32::try_from(kind)
            .ok()
            .and_then(|kind| DataType::try_from(kind).ok())
            .ok_or_else(|| format!("output_dtype {kind} is not supported"))?,
    };
    let [low, high] = range(kind)?;
    let dims = x.dims().to_vec();
    let scale = parameter(call, 1, &dims)?.ok_or("its scale is missing")?;
    let zero = parameter(call, 2, &dims)?;
    let mut steps = call.binary(Binary::Div, &x, &scale)?;
    if let Item::Constant(constant) = &steps
        && let Data::Float(data) = &constant.data
    {
        call.builder.reserve(&dims)?;
        let rounded: Vec<f32> = data.iter().map(|x| x.round_ties_even()).collect();
        steps = Item::floats(dims, rounded);
    } else if !call.builder.graph.warnings.iter().any(|w| w == WARNING) {
        call.builder.graph.warnings.push(WARNING.into());
    }
    if let Some(zero) = zero {
        steps = call.binary(Binary::Add, &steps, &zero)?;
    }
    Ok(vec![call.map(Function::Clip { low, high }, &steps)?])
}
