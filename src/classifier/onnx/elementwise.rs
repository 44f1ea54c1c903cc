//! Functions of single elements, and reductions.

use super::builder::{Call, Item, Outputs, axes, axis};
use super::compose::reduced;
use super::fold;
use super::tensor::{Constant, Data};
use crate::classifier::function::Function;
use crate::classifier::graph::{Binary, Op, Reduction};

/// Operators of one input that are a [`Function`].
pub(super) fn map(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let function = match call.node.op_type.as_str() {
        "Relu" => Function::Relu,
        "LeakyRelu" => Function::LeakyRelu {
            alpha: call.float("alpha", 0.01)?,
        },
        "Sigmoid" => Function::Sigmoid,
        "HardSigmoid" => Function::HardSigmoid {
            alpha: call.float("alpha", 0.2)?,
            beta: call.float("beta", 0.5)?,
        },
        "HardSwish" => Function::HardSwish,
        "Tanh" => Function::Tanh,
        "Elu" => Function::Elu {
            alpha: call.float("alpha", 1.0)?,
        },
        "Selu" => Function::Selu {
            alpha: call.float("alpha", 1.673_263_2)?,
            gamma: call.float("gamma", 1.050_701)?,
        },
        "Softplus" => Function::Softplus,
        "Mish" => Function::Mish,
        "Gelu" => match call.string("approximate", "none")?.as_str() {
            "none" => Function::Gelu,
            "tanh" => Function::GeluTanh,
            other => return Err(format!("approximate {other} is not supported")),
        },
        "Erf" => Function::Erf,
        "Exp" => Function::Exp,
        "Log" => Function::Log,
        "Sqrt" => Function::Sqrt,
        "Reciprocal" => Function::Reciprocal,
        "Neg" => Function::Neg,
        "Abs" => Function::Abs,
        other => return Err(format!("{other} is not a function of one number")),
    };
    let dims = x.dims().to_vec();
    if let (Item::Constant(constant), Function::Neg | Function::Abs) = (&x, function)
        && let Data::Int(data) = &constant.data
    {
        call.builder.reserve(&dims)?;
        let signed = |x: &i64| match function {
            Function::Neg => x.checked_neg(),
            _ => x.checked_abs(),
        };
        let data: Option<_> = data.iter().map(signed).collect();
        let data = Data::Int(data.ok_or("its integer arithmetic overflows")?);
        return Ok(vec![Item::Constant(Constant::new(dims, data))]);
    }
    call.finish(Op::Map(function), &[x], dims)
}

/// ONNX Runtime's Gelu of a sum with a second input, which is left out where there is none.
pub(super) fn biased(call: &mut Call<'_>) -> Outputs {
    let mut x = call.input(0)?;
    if let Some(bias) = call.optional(1) {
        x = call.binary(Binary::Add, &x, &bias)?;
    }
    let function = match call.node.op_type.as_str() {
        "FastGelu" => Function::GeluTanh,
        _ => Function::Gelu,
    };
    Ok(vec![call.map(function, &x)?])
}

/// `x·sigmoid(alpha·x)`: Swish, and ONNX Runtime's QuickGelu.
pub(super) fn swish(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let default = if call.node.op_type == "Swish" {
        1.0
    } else {
        1.702
    };
    let alpha = call.float("alpha", default)?;
    let scaled = call.with_number(Binary::Mul, &x, alpha)?;
    let gate = call.map(Function::Sigmoid, &scaled)?;
    Ok(vec![call.binary(Binary::Mul, &x, &gate)?])
}

/// Elu of `x/alpha`, times `alpha`.
pub(super) fn celu(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let alpha = call.float("alpha", 1.0)?;
    if !(alpha > 0.0 && alpha.is_finite()) {
        return Err(format!("alpha {alpha} is not supported"));
    }
    let scaled = call.with_number(Binary::Div, &x, alpha)?;
    let elu = call.map(Function::Elu { alpha: 1.0 }, &scaled)?;
    Ok(vec![call.with_number(Binary::Mul, &elu, alpha)?])
}

/// `x/(1 + |x|)`.
pub(super) fn softsign(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let size = call.map(Function::Abs, &x)?;
    let above = call.with_number(Binary::Add, &size, 1.0)?;
    Ok(vec![call.binary(Binary::Div, &x, &above)?])
}

pub(super) fn prelu(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let (dims, slope) = call.floats(1)?;
    if fold::broadcast(x.dims(), &dims)? != x.dims() {
        return Err(format!("slope {dims:?} does not fit {:?}", x.dims()));
    }
    if let [alpha, rest @ ..] = &slope[..]
        && rest.iter().all(|other| other == alpha)
    {
        return Ok(vec![call.map(Function::LeakyRelu { alpha: *alpha }, &x)?]);
    }
    // An infinity is in one of the two parts, the other is 0.
    let negative = Function::Clip {
        low: f32::NEG_INFINITY,
        high: 0.0,
    };
    let negative = call.map(negative, &x)?;
    let sloped = call.binary(Binary::Mul, &negative, &Item::floats(dims, slope))?;
    let positive = call.map(Function::Relu, &x)?;
    Ok(vec![call.binary(Binary::Add, &positive, &sloped)?])
}

pub(super) fn clip(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    // Before opset 11 the bounds were attributes, and some exporters still write them.
    let low = call.float("min", f32::NEG_INFINITY)?;
    let high = call.float("max", f32::INFINITY)?;
    let function = Function::Clip {
        low: call.scalar(1)?.unwrap_or(low),
        high: call.scalar(2)?.unwrap_or(high),
    };
    let dims = x.dims().to_vec();
    call.finish(Op::Map(function), &[x], dims)
}

/// Operators of two or more inputs that are a [`Binary`].
pub(super) fn binary(call: &mut Call<'_>) -> Outputs {
    let binary = match call.node.op_type.as_str() {
        "Add" | "Sum" | "Mean" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Pow" => Binary::Pow,
        "Min" => Binary::Min,
        _ => Binary::Max,
    };
    let mut result = call.input(0)?;
    for i in 1..call.count() {
        let mut other = call.input(i)?;
        if binary == Binary::Pow
            && let Item::Constant(exponent) = &other
            && let Data::Int(data) = &exponent.data
            && !matches!(&result, Item::Constant(base) if matches!(base.data, Data::Int(_)))
        {
            let data: Vec<f32> = data.iter().map(|&x| x as f32).collect();
            other = Item::floats(exponent.dims.clone(), data);
        }
        let dims = fold::broadcast(result.dims(), other.dims())?;
        result = call.apply(Op::Binary(binary), &[result, other], dims)?;
    }
    if call.node.op_type == "Mean" {
        result = call.with_number(Binary::Div, &result, call.count() as f32)?;
    }
    Ok(vec![result])
}

pub(super) fn reduce(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let keep = call.int("keepdims", 1)? != 0;
    let list = call.list("axes", 1)?.unwrap_or_default();
    let rank = x.dims().len();
    let nothing = call.int("noop_with_empty_axes", 0)? != 0;
    let axes = match list.is_empty() {
        true if nothing => return Ok(vec![x]),
        true => (0..rank).collect(),
        false => axes(&list, rank)?,
    };
    let y = match call.node.op_type.as_str() {
        "ReduceMean" => call.reduce(Reduction::Mean, &axes, keep, &x)?,
        "ReduceSum" => call.reduce(Reduction::Sum, &axes, keep, &x)?,
        "ReduceL2" => call.reduce(Reduction::L2, &axes, keep, &x)?,
        "ReduceMax" => call.reduce(Reduction::Max, &axes, keep, &x)?,
        "ReduceMin" => {
            let negative = negated(call, &x)?;
            let largest = call.reduce(Reduction::Max, &axes, keep, &negative)?;
            negated(call, &largest)?
        }
        "ReduceL1" => {
            let sizes = call.map(Function::Abs, &x)?;
            call.reduce(Reduction::Sum, &axes, keep, &sizes)?
        }
        "ReduceSumSquare" => {
            let squares = call.binary(Binary::Mul, &x, &x)?;
            call.reduce(Reduction::Sum, &axes, keep, &squares)?
        }
        "ReduceLogSum" => {
            let sum = call.reduce(Reduction::Sum, &axes, keep, &x)?;
            call.map(Function::Log, &sum)?
        }
        "ReduceLogSumExp" => {
            // The maximum is taken out, so that no exponential overflows; an infinite one cannot be.
            let finite = Function::Clip {
                low: f32::MIN,
                high: f32::MAX,
            };
            let largest = call.reduce(Reduction::Max, &axes, true, &x)?;
            let largest = call.map(finite, &largest)?;
            let below = call.binary(Binary::Sub, &x, &largest)?;
            let exponentials = call.map(Function::Exp, &below)?;
            let sum = call.reduce(Reduction::Sum, &axes, true, &exponentials)?;
            let log = call.map(Function::Log, &sum)?;
            let y = call.binary(Binary::Add, &log, &largest)?;
            call.reshape(y, reduced(x.dims(), &axes, keep))?
        }
        other => return Err(format!("{other} is not a reduction")),
    };
    Ok(vec![y])
}

/// `−x`, of integers too.
fn negated(call: &mut Call<'_>, x: &Item) -> Result<Item, String> {
    match x {
        Item::Constant(Constant {
            data: Data::Int(_), ..
        }) => {
            let minus = Item::Constant(Constant::new(vec![], Data::Int([-1].into())));
            call.binary(Binary::Mul, x, &minus)
        }
        x => call.map(Function::Neg, x),
    }
}

/// A product with the triangular matrix of the elements that each sum takes.
pub(super) fn cumulative_sum(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let Some([axis_input]) = call
        .integers(1)?
        .as_deref()
        .map(<[i64; 1]>::try_from)
        .and_then(Result::ok)
    else {
        return Err("its axis is not a single number".into());
    };
    let axis = axis(axis_input, x.dims().len())?;
    let exclusive = call.int("exclusive", 0)? != 0;
    let reverse = call.int("reverse", 0)? != 0;
    let n = x.dims()[axis];
    call.builder.reserve(&[n, n])?;
    let takes = |to: usize, from: usize| match (reverse, exclusive) {
        (false, false) => from <= to,
        (false, true) => from < to,
        (true, false) => from >= to,
        (true, true) => from > to,
    };
    let matrix = (0..n * n)
        .map(|i| f32::from(u8::from(takes(i / n, i % n))))
        .collect();
    Ok(vec![call.product_along(axis, n, matrix, x)?])
}
