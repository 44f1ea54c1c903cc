//! Operations on constants: what makes the shape arithmetic of exports disappear.
//!
//! Every shape is known at load, so whatever depends on shapes alone is a constant.

use std::sync::Arc;

use super::tensor::{Constant, Data};
use crate::classifier::graph::{Binary, Op, PadMode, Reduction};
use crate::classifier::interpreter::{self, Operand};
use crate::classifier::layout::{self, PADDING};

/// The shape that two shapes broadcast to.
///
/// # Errors
/// They do not broadcast.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], axis: usize| match (axis + dims.len()).checked_sub(rank) {
        Some(axis) => dims[axis],
        None => 1,
    };
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (1, n) | (n, 1) => Ok(n),
            (n, m) if n == m => Ok(n),
            _ => Err(format!("shapes {a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

/// The operation on constants; `dims` is the shape of its result.
///
/// # Errors
/// The operation is none on integers or booleans, or the arithmetic overflows.
pub(super) fn apply(op: &Op, inputs: &[&Constant], dims: &[usize]) -> Result<Constant, String> {
    let x = inputs[0];
    let kinds: Vec<&str> = inputs.iter().map(|input| input.data.kind()).collect();
    if kinds.iter().any(|kind| *kind != kinds[0]) {
        return Err(format!("its inputs are {}", kinds.join(" and ")));
    }
    let data = match (op, &x.data) {
        (Op::Reshape, data) => data.clone(),
        (Op::Concat { axis }, _) => concat(*axis, inputs),
        (Op::Binary(binary), Data::Int(_)) => Data::Int(integers(*binary, inputs, dims)?),
        (Op::Reduce { kind, axes }, Data::Int(data)) => {
            Data::Int(reduce_integers(*kind, axes, data, &x.dims, dims)?)
        }
        (op, data) => match (layout::sources(op, &x.dims, dims), data) {
            (Some(sources), data) => moved(op, data, &sources),
            (None, Data::Float(_)) => Data::Float(floats(op, inputs, dims)),
            (None, data) => return Err(format!("{} inputs are not supported", data.kind())),
        },
    };
    Ok(Constant {
        dims: dims.to_vec(),
        data,
        kind: x.kind,
    })
}

/// Elements in other places.
fn moved(op: &Op, data: &Data, sources: &[usize]) -> Data {
    fn pick<T: Copy>(data: &[T], sources: &[usize], padding: T) -> Arc<[T]> {
        let at = |&from: &usize| if from == PADDING { padding } else { data[from] };
        sources.iter().map(at).collect()
    }
    let padding = match op {
        Op::Pad {
            mode: PadMode::Constant(value),
            ..
        } => *value,
        _ => 0.0,
    };
    match data {
        Data::Float(data) => Data::Float(pick(data, sources, padding)),
        Data::Int(data) => Data::Int(pick(data, sources, padding as i64)),
        Data::Bool(data) => Data::Bool(pick(data, sources, padding != 0.0)),
    }
}

/// What the interpreter computes of float constants.
fn floats(op: &Op, inputs: &[&Constant], dims: &[usize]) -> Arc<[f32]> {
    let wide = |input: &&Constant| -> Vec<f64> {
        match &input.data {
            Data::Float(data) => data.iter().map(|&x| x.into()).collect(),
            Data::Int(_) | Data::Bool(_) => Vec::new(),
        }
    };
    let wide: Vec<Vec<f64>> = inputs.iter().map(wide).collect();
    let operands: Vec<Operand<'_>> = (inputs.iter().zip(&wide))
        .map(|(input, data)| Operand {
            dims: &input.dims,
            data,
        })
        .collect();
    let output = interpreter::forward(op, &operands, dims);
    output.into_iter().map(|x| x as f32).collect()
}

/// Joins constants of one type.
fn concat(axis: usize, inputs: &[&Constant]) -> Data {
    fn join<T: Copy>(axis: usize, parts: Vec<(&[usize], &Arc<[T]>)>) -> Arc<[T]> {
        let outer: usize = parts[0].0[..axis].iter().product();
        let mut joined = Vec::new();
        for row in 0..outer {
            for (dims, data) in &parts {
                let length: usize = dims[axis..].iter().product();
                joined.extend_from_slice(&data[row * length..][..length]);
            }
        }
        joined.into()
    }
    macro_rules! joined {
        ($kind:ident) => {{
            let part = |input: &&'_ Constant| match &input.data {
                Data::$kind(data) => Some(data.clone()),
                _ => None,
            };
            let data: Vec<_> = inputs.iter().filter_map(part).collect();
            let dims = inputs.iter().map(|input| input.dims.as_slice());
            Data::$kind(join(axis, dims.zip(&data).collect()))
        }};
    }
    match inputs[0].data {
        Data::Float(_) => joined!(Float),
        Data::Int(_) => joined!(Int),
        Data::Bool(_) => joined!(Bool),
    }
}

/// A function of two broadcast operands.
fn zip<A: Copy, B: Copy, T>(
    (a, a_dims): (&[A], &[usize]),
    (b, b_dims): (&[B], &[usize]),
    dims: &[usize],
    f: impl Fn(A, B) -> Option<T>,
) -> Result<Arc<[T]>, String> {
    let (i, j) = (
        layout::broadcast(a_dims, dims),
        layout::broadcast(b_dims, dims),
    );
    i.into_iter()
        .zip(j)
        .map(|(i, j)| f(a[i], b[j]))
        .collect::<Option<Arc<[T]>>>()
        .ok_or_else(|| "its integer arithmetic overflows or divides by zero".into())
}

fn integers(op: Binary, inputs: &[&Constant], dims: &[usize]) -> Result<Arc<[i64]>, String> {
    let (Data::Int(a), Data::Int(b)) = (&inputs[0].data, &inputs[1].data) else {
        return Err("its inputs are not both integers".into());
    };
    let operands = ((&a[..], &inputs[0].dims[..]), (&b[..], &inputs[1].dims[..]));
    zip(operands.0, operands.1, dims, |a: i64, b: i64| match op {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div => a.checked_div(b),
        Binary::Pow => a.checked_pow(b.try_into().ok()?),
        Binary::Min => Some(a.min(b)),
        Binary::Max => Some(a.max(b)),
    })
}

fn reduce_integers(
    kind: Reduction,
    axes: &[usize],
    data: &[i64],
    input: &[usize],
    output: &[usize],
) -> Result<Arc<[i64]>, String> {
    let start = match kind {
        Reduction::Sum => 0,
        Reduction::Max => i64::MIN,
        Reduction::Mean | Reduction::L2 => return Err("integer inputs are not supported".into()),
    };
    let mut reduced = vec![start; output.iter().product()];
    for (to, &x) in layout::reduced(input, axes).into_iter().zip(data) {
        reduced[to] = match kind {
            Reduction::Max => x.max(reduced[to]),
            _ => x.checked_add(reduced[to]).ok_or("its sum overflows")?,
        };
    }
    Ok(reduced.into())
}

/// Operations that exist on constants only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
}

/// A comparison or a logical operation.
///
/// # Errors
/// The operands' types are not one that it takes, or they do not broadcast.
pub(super) fn test(test: Test, a: &Constant, b: &Constant) -> Result<Constant, String> {
    fn ordered<T: PartialOrd>(test: Test, a: T, b: T) -> Option<bool> {
        Some(match test {
            Test::Equal => a == b,
            Test::Less => a < b,
            Test::LessOrEqual => a <= b,
            Test::Greater => a > b,
            Test::GreaterOrEqual => a >= b,
            Test::And | Test::Or => return None,
        })
    }
    let dims = broadcast(&a.dims, &b.dims)?;
    let data = match (&a.data, &b.data) {
        (Data::Int(x), Data::Int(y)) => zip((x, &a.dims), (y, &b.dims), &dims, |x: i64, y: i64| {
            ordered(test, x, y)
        }),
        (Data::Float(x), Data::Float(y)) => {
            zip((x, &a.dims), (y, &b.dims), &dims, |x: f32, y: f32| {
                ordered(test, x, y)
            })
        }
        (Data::Bool(x), Data::Bool(y)) => {
            zip((x, &a.dims), (y, &b.dims), &dims, |x, y| match test {
                Test::And => Some(x && y),
                Test::Or => Some(x || y),
                Test::Equal => Some(x == y),
                _ => None,
            })
        }
        _ => Err(String::new()),
    };
    let data = data.map_err(|_| {
        let kinds = (a.data.kind(), b.data.kind());
        format!("{} and {} inputs are not supported", kinds.0, kinds.1)
    })?;
    Ok(Constant::new(dims, Data::Bool(data)))
}

/// `a` where `condition`, else `b`.
///
/// # Errors
/// The condition is not boolean, `a` and `b` differ in type, or the three do not broadcast to `dims`.
pub(super) fn choose(
    condition: &Constant,
    a: &Constant,
    b: &Constant,
    dims: &[usize],
) -> Result<Constant, String> {
    let Data::Bool(condition_data) = &condition.data else {
        return Err("its condition is not boolean".into());
    };
    fn chosen<T: Copy>(condition: &[bool], from: [Vec<usize>; 3], a: &[T], b: &[T]) -> Arc<[T]> {
        let [c, i, j] = from;
        (c.iter().zip(i.iter().zip(j)))
            .map(|(&c, (&i, j))| if condition[c] { a[i] } else { b[j] })
            .collect()
    }
    let from = [condition, a, b].map(|constant| layout::broadcast(&constant.dims, dims));
    let data = match (&a.data, &b.data) {
        (Data::Float(a), Data::Float(b)) => Data::Float(chosen(condition_data, from, a, b)),
        (Data::Int(a), Data::Int(b)) => Data::Int(chosen(condition_data, from, a, b)),
        (Data::Bool(a), Data::Bool(b)) => Data::Bool(chosen(condition_data, from, a, b)),
        (a, b) => return Err(format!("it chooses between {} and {}", a.kind(), b.kind())),
    };
    Ok(Constant {
        dims: dims.to_vec(),
        data,
        kind: a.kind,
    })
}

/// The remainder with the divisor's sign, or with the dividend's (`fmod`).
///
/// # Errors
/// The operands are not integers, do not broadcast, or a divisor is 0.
pub(super) fn remainder(a: &Constant, b: &Constant, fmod: bool) -> Result<Constant, String> {
    let (Data::Int(x), Data::Int(y)) = (&a.data, &b.data) else {
        return Err("only integer inputs are supported".into());
    };
    let dims = broadcast(&a.dims, &b.dims)?;
    let data = zip((x, &a.dims), (y, &b.dims), &dims, |x: i64, y: i64| {
        let r = x.checked_rem(y)?;
        let other_sign = r != 0 && (r < 0) != (y < 0);
        Some(if other_sign && !fmod { r + y } else { r })
    })?;
    Ok(Constant::new(dims, Data::Int(data)))
}
