//! Operators that exist for shape arithmetic, most of whose results are constants.

use std::sync::Arc;

use super::builder::{Call, Item, Outputs, axes, size};
use super::compose::reduced;
use super::fold::{self, Test};
use super::proto::DataType;
use super::tensor::{Constant, Data};
use crate::classifier::layout;

fn constant(dims: Vec<usize>, data: Data) -> Outputs {
    Ok(vec![Item::Constant(Constant::new(dims, data))])
}

pub(super) fn shape(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len() as i64;
    let clamp = |at: i64| if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank);
    let start = clamp(call.int("start", 0)?) as usize;
    let end = clamp(call.int("end", rank)?) as usize;
    let dims = x.dims().get(start..end).unwrap_or_default();
    let shape = Constant::integers(dims.iter().map(|&dim| dim as i64));
    Ok(vec![Item::Constant(shape)])
}

pub(super) fn element_count(call: &mut Call<'_>) -> Outputs {
    let elements = Constant::elements(call.input(0)?.dims())?;
    constant(vec![], Data::Int([elements as i64].into()))
}

pub(super) fn constant_of_shape(call: &mut Call<'_>) -> Outputs {
    let target = call.integers(0)?.ok_or("its shape is missing")?;
    let dims = target
        .iter()
        .map(|&n| size(n))
        .collect::<Result<Vec<_>, _>>()?;
    call.builder.reserve(&dims)?;
    let elements = Constant::elements(&dims)?;
    let data = match call.tensor("value")? {
        None => Data::Float(vec![0.0; elements].into()),
        Some(value) => match call.builder.decode(value)?.data {
            Data::Float(value) if value.len() == 1 => Data::Float(vec![value[0]; elements].into()),
            Data::Int(value) if value.len() == 1 => Data::Int(vec![value[0]; elements].into()),
            Data::Bool(value) if value.len() == 1 => Data::Bool(vec![value[0]; elements].into()),
            _ => return Err("its value is not a single number".into()),
        },
    };
    constant(dims, data)
}

/// The Constant operator.
pub(super) fn literal(call: &mut Call<'_>) -> Outputs {
    if let Some(tensor) = call.tensor("value")? {
        return Ok(vec![Item::Constant(call.builder.decode(tensor)?)]);
    }
    if let Some(list) = call.int_list("value_ints")? {
        call.builder.charge(&[list.len()])?;
        return constant(vec![list.len()], Data::Int(list.into()));
    }
    if let Some(list) = call.float_list("value_floats")? {
        call.builder.charge(&[list.len()])?;
        return constant(vec![list.len()], Data::Float(list.into()));
    }
    if call.has("value_int") {
        let value = call.int("value_int", 0)?;
        return constant(vec![], Data::Int([value].into()));
    }
    if call.has("value_float") {
        let value = call.float("value_float", 0.0)?;
        return constant(vec![], Data::Float([value].into()));
    }
    Err("it has no tensor or numbers".into())
}

pub(super) fn range(call: &mut Call<'_>) -> Outputs {
    let bounds = [call.constant(0)?, call.constant(1)?, call.constant(2)?];
    let data: Vec<Data> = bounds.into_iter().map(|bound| bound.data).collect();
    let count = |distance: f64, step: f64| -> Result<usize, String> {
        match (distance / step).ceil() {
            count if count.is_nan() => Err("its step is 0".into()),
            count => size(count.clamp(0.0, 1e18) as i64),
        }
    };
    match &data[..] {
        [Data::Int(start), Data::Int(end), Data::Int(step)] => {
            let ([start], [end], [step]) = (&start[..], &end[..], &step[..]) else {
                return Err("its bounds are not single numbers".into());
            };
            let distance = end.checked_sub(*start).ok_or("its bounds overflow")?;
            let n = count(distance as f64, *step as f64)?;
            call.builder.reserve(&[n])?;
            let at = |i: usize| start.wrapping_add(step.wrapping_mul(i as i64));
            constant(vec![n], Data::Int((0..n).map(at).collect()))
        }
        [Data::Float(start), Data::Float(end), Data::Float(step)] => {
            let ([start], [end], [step]) = (&start[..], &end[..], &step[..]) else {
                return Err("its bounds are not single numbers".into());
            };
            let n = count(f64::from(end - start), f64::from(*step))?;
            call.builder.reserve(&[n])?;
            let at = |i: usize| start + step * i as f32;
            constant(vec![n], Data::Float((0..n).map(at).collect()))
        }
        _ => Err("its bounds differ in type".into()),
    }
}

pub(super) fn cast(call: &mut Call<'_>) -> Outputs {
    let to = call.int("to", 0)?;
    let kind = element_type(to).ok_or_else(|| format!("a cast to type {to} is not supported"))?;
    cast_to(call, kind)
}

/// A cast to the type of another tensor. Of those computed from the image all are floats.
pub(super) fn cast_like(call: &mut Call<'_>) -> Outputs {
    let kind = match call.input(1)? {
        Item::Constant(constant) => constant.kind,
        Item::Value { .. } => DataType::Float,
    };
    cast_to(call, kind)
}

/// The element type of this number.
fn element_type(number: i64) -> Option<DataType> {
    let number = i32::try_from(number).ok()?;
    DataType::try_from(number).ok()
}

fn cast_to(call: &mut Call<'_>, kind: DataType) -> Outputs {
    let x = call.input(0)?;
    // Both are about floats of 8 bits.
    call.ignore("saturate");
    call.ignore("round_mode");
    let float = matches!(
        kind,
        DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16
    );
    let Item::Constant(constant) = &x else {
        return match float {
            true => Ok(vec![x]),
            false => Err("a tensor computed from the image is cast to integers".into()),
        };
    };
    call.builder.reserve(&constant.dims)?;
    let data = match (&constant.data, kind) {
        (Data::Float(_), _) if float => constant.data.clone(),
        (Data::Int(data), _) if float => Data::Float(data.iter().map(|&x| x as f32).collect()),
        (Data::Bool(data), _) if float => Data::Float(data.iter().map(|&x| x.into()).collect()),
        (data, DataType::Bool) => Data::Bool(match data {
            Data::Float(data) => data.iter().map(|&x| x != 0.0).collect(),
            Data::Int(data) => data.iter().map(|&x| x != 0).collect(),
            Data::Bool(data) => data.clone(),
        }),
        (
            data,
            DataType::Int32
            | DataType::Int64
            | DataType::Uint8
            | DataType::Int8
            | DataType::Uint16
            | DataType::Int16
            | DataType::Uint32
            | DataType::Uint64,
        ) => Data::Int(match data {
            Data::Float(data) => data.iter().map(|&x| x as i64).collect(),
            Data::Int(data) => data.clone(),
            Data::Bool(data) => data.iter().map(|&x| x.into()).collect(),
        }),
        _ => return Err(format!("a cast to type {kind:?} is not supported")),
    };
    Ok(vec![Item::Constant(Constant {
        dims: constant.dims.clone(),
        data,
        kind,
    })])
}

/// The IsNaN operator. What is computed from the image is a number, unless a constant brought in an
/// infinity; the condition is one for all elements, and broadcasts.
pub(super) fn is_nan(call: &mut Call<'_>) -> Outputs {
    match call.input(0)? {
        Item::Constant(Constant {
            dims,
            data: Data::Float(data),
            ..
        }) => {
            call.builder.reserve(&dims)?;
            constant(dims, Data::Bool(data.iter().map(|x| x.is_nan()).collect()))
        }
        Item::Constant(constant) => Err(format!("its input is {}", constant.data.kind())),
        x if call.builder.is_finite(&x) => {
            constant(vec![1; x.dims().len()], Data::Bool([false].into()))
        }
        _ => Err("its input may be infinite or no number, by an infinite constant".into()),
    }
}

/// The EyeLike operator: ones on a diagonal.
pub(super) fn diagonal(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let [rows, columns] = *x.dims() else {
        return Err(format!("its input has shape {:?}", x.dims()));
    };
    let k = call.int("k", 0)?;
    let kind = match (call.int("dtype", 0)?, &x) {
        (0, Item::Constant(constant)) => constant.kind,
        (0, Item::Value { .. }) => DataType::Float,
        (kind, _) => element_type(kind).ok_or("its dtype is not supported")?,
    };
    call.builder.reserve(&[rows, columns])?;
    let is_one = |i: usize| (i % columns) as i64 == ((i / columns) as i64).saturating_add(k);
    let ones = (0..rows * columns).map(|i| i64::from(is_one(i))).collect();
    let ones = Item::Constant(Constant::new(vec![rows, columns], Data::Int(ones)));
    call.replace_input(0, ones);
    cast_to(call, kind)
}

/// Comparisons, And, Or.
pub(super) fn test(call: &mut Call<'_>) -> Outputs {
    let test = match call.node.op_type.as_str() {
        "Equal" => Test::Equal,
        "Less" => Test::Less,
        "LessOrEqual" => Test::LessOrEqual,
        "Greater" => Test::Greater,
        "GreaterOrEqual" => Test::GreaterOrEqual,
        "And" => Test::And,
        _ => Test::Or,
    };
    let (a, b) = (call.constant(0)?, call.constant(1)?);
    let dims = fold::broadcast(&a.dims, &b.dims)?;
    call.builder.reserve(&dims)?;
    Ok(vec![Item::Constant(fold::test(test, &a, &b)?)])
}

pub(super) fn not(call: &mut Call<'_>) -> Outputs {
    let x = call.constant(0)?;
    call.builder.reserve(&x.dims)?;
    match x.data {
        Data::Bool(data) => constant(x.dims, Data::Bool(data.iter().map(|x| !x).collect())),
        data => Err(format!("{} inputs are not supported", data.kind())),
    }
}

/// The Where operator.
pub(super) fn choose(call: &mut Call<'_>) -> Outputs {
    let condition = call.constant(0)?;
    let (a, b) = (call.input(1)?, call.input(2)?);
    Ok(vec![call.choose(&condition, &a, &b)?])
}

/// The Trilu operator: what lies above or below a diagonal, zeros elsewhere.
pub(super) fn triangle(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let upper = call.int("upper", 1)? != 0;
    let k = match call.integers(1)?.as_deref() {
        None => 0,
        Some(&[k]) => k,
        Some(_) => return Err("its diagonal is not a single number".into()),
    };
    let [.., rows, columns] = *x.dims() else {
        return Err(format!("its input has shape {:?}", x.dims()));
    };
    call.builder.reserve(&[rows, columns])?;
    let kept = |i: usize| {
        let (row, column) = ((i / columns) as i64, (i % columns) as i64);
        let diagonal = row.saturating_add(k);
        match upper {
            true => column >= diagonal,
            false => column <= diagonal,
        }
    };
    let condition = (0..rows * columns).map(kept).collect();
    let condition = Constant::new(vec![rows, columns], Data::Bool(condition));
    let zero = match &x {
        Item::Constant(constant) => match constant.data {
            Data::Float(_) => Data::Float([0.0].into()),
            Data::Int(_) => Data::Int([0].into()),
            Data::Bool(_) => Data::Bool([false].into()),
        },
        Item::Value { .. } => Data::Float([0.0].into()),
    };
    let zero = Item::Constant(Constant::new(vec![], zero));
    Ok(vec![call.choose(&condition, &x, &zero)?])
}

/// ReduceProd of integers, which is how a shape's elements are counted.
pub(super) fn reduce_product(call: &mut Call<'_>) -> Outputs {
    let x = call.constant(0)?;
    let keep = call.int("keepdims", 1)? != 0;
    let list = call.list("axes", 1)?.unwrap_or_default();
    let rank = x.dims.len();
    let axes = match (list.is_empty(), call.int("noop_with_empty_axes", 0)? != 0) {
        (true, true) => return Ok(vec![Item::Constant(x)]),
        (true, false) => (0..rank).collect(),
        (false, _) => axes(&list, rank)?,
    };
    let Data::Int(data) = &x.data else {
        return Err(format!("{} inputs are not supported", x.data.kind()));
    };
    let dims = reduced(&x.dims, &axes, keep);
    call.builder.reserve(&dims)?;
    let mut products = vec![1i64; dims.iter().product()];
    for (to, &x) in layout::reduced(&x.dims, &axes).into_iter().zip(&data[..]) {
        products[to] = (products[to].checked_mul(x)).ok_or("its product overflows")?;
    }
    constant(dims, Data::Int(products.into()))
}

/// The Mod operator.
pub(super) fn remainder(call: &mut Call<'_>) -> Outputs {
    let fmod = call.int("fmod", 0)? != 0;
    let (a, b) = (call.constant(0)?, call.constant(1)?);
    let dims = fold::broadcast(&a.dims, &b.dims)?;
    call.builder.reserve(&dims)?;
    Ok(vec![Item::Constant(fold::remainder(&a, &b, fmod)?)])
}

/// Floor, Ceil and Round of constants.
pub(super) fn round(call: &mut Call<'_>) -> Outputs {
    let (dims, data) = call.floats(0)?;
    call.builder.reserve(&dims)?;
    let round = match call.node.op_type.as_str() {
        "Floor" => f32::floor,
        "Ceil" => f32::ceil,
        _ => f32::round_ties_even,
    };
    let rounded: Arc<[f32]> = data.iter().map(|&x| round(x)).collect();
    constant(dims, Data::Float(rounded))
}
