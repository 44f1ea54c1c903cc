//! Functions of single elements, and reductions.

use super::builder::{Call, Item, Outputs, axes};
use super::fold;
use super::tensor::{Constant, Data};
use crate::classifier::function::Function;
use crate::classifier::graph::{Binary, Op, Reduction};

/// Operators of one input that are a [`Function`].
pub fn map(call: &mut Call<'_>) -> Outputs {
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
        return Ok(vec![Item::Constant(Constant { dims, data })]);
    }
    call.finish(Op::Map(function), &[x], dims)
}

pub fn clip(call: &mut Call<'_>) -> Outputs {
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
pub fn binary(call: &mut Call<'_>) -> Outputs {
    let binary = match call.node.op_type.as_str() {
        "Add" | "Sum" => Binary::Add,
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
    Ok(vec![result])
}

pub fn reduce(call: &mut Call<'_>) -> Outputs {
    let kind = match call.node.op_type.as_str() {
        "ReduceMean" => Reduction::Mean,
        "ReduceSum" => Reduction::Sum,
        "ReduceL2" => Reduction::L2,
        _ => Reduction::Max,
    };
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
    let mut dims = x.dims().to_vec();
    for &axis in axes.iter().rev() {
        match keep {
            true => dims[axis] = 1,
            false => drop(dims.remove(axis)),
        }
    }
    call.finish(Op::Reduce { kind, axes }, &[x], dims)
}
