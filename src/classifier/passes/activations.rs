//! Recognizes activations that exports spell out in simpler operations.

use super::uses::Uses;
use crate::classifier::function::Function;
use crate::classifier::graph::{Binary, Graph, Op, ValueId};

/// A product: a number times some values.
struct Product {
    number: f64,
    values: Vec<ValueId>,
}

/// Longest chain of multiplications that an activation is spelt in.
const DEPTH: usize = 4;

/// Replaces products that are an activation by the function.
pub(super) fn recognize(graph: &mut Graph) {
    let uses = Uses::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if !matches!(node.op, Op::Binary(Binary::Mul | Binary::Div)) {
            continue;
        }
        let product = product(graph, &uses, node.output, DEPTH);
        let found = match product.values[..] {
            [a] => clipped(graph, &uses, a, product.number),
            [a, b] => gated(graph, &uses, a, b, product.number)
                .or_else(|| gated(graph, &uses, b, a, product.number)),
            _ => None,
        };
        if let Some((function, input)) = found
            && graph.value(input).dims == graph.value(node.output).dims
        {
            let node = &mut graph.nodes[index];
            node.op = Op::Map(function);
            node.inputs = vec![input];
        }
    }
}

/// A constant that is one number.
fn number(graph: &Graph, id: ValueId) -> Option<f64> {
    match graph.constant(id) {
        Some(&[number]) => Some(number.into()),
        _ => None,
    }
}

/// Takes a value apart into factors.
fn product(graph: &Graph, uses: &Uses, id: ValueId, depth: usize) -> Product {
    if let Some(number) = number(graph, id) {
        let values = Vec::new();
        return Product { number, values };
    }
    let whole = Product {
        number: 1.0,
        values: vec![id],
    };
    let Some(node) = uses.producer(graph, id).filter(|_| depth > 0) else {
        return whole;
    };
    let factor = |i: usize| product(graph, uses, node.inputs[i], depth - 1);
    match node.op {
        Op::Binary(Binary::Mul) => {
            let (a, b) = (factor(0), factor(1));
            Product {
                number: a.number * b.number,
                values: [a.values, b.values].concat(),
            }
        }
        Op::Binary(Binary::Div) => match number(graph, node.inputs[1]) {
            Some(divisor) => {
                let a = factor(0);
                Product {
                    number: a.number / divisor,
                    ..a
                }
            }
            None => whole,
        },
        _ => whole,
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-4 * b.abs()
}

/// The function and argument of a value that a function makes.
fn map(graph: &Graph, uses: &Uses, id: ValueId) -> Option<(Function, ValueId)> {
    let node = uses.producer(graph, id)?;
    match node.op {
        Op::Map(function) => Some((function, node.inputs[0])),
        _ => None,
    }
}

/// `x` of `x + number`.
fn plus(graph: &Graph, uses: &Uses, id: ValueId, wanted: f64) -> Option<ValueId> {
    let node = uses.producer(graph, id)?;
    if node.op != Op::Binary(Binary::Add) {
        return None;
    }
    let is = |id| number(graph, id).is_some_and(|number| close(number, wanted));
    match (node.inputs[0], node.inputs[1]) {
        (x, shift) | (shift, x) if is(shift) => Some(x),
        _ => None,
    }
}

/// `clip(x + 3, 0, 6)/6`.
fn clipped(graph: &Graph, uses: &Uses, id: ValueId, scale: f64) -> Option<(Function, ValueId)> {
    let (clip, shifted) = map(graph, uses, id)?;
    let six = Function::Clip {
        low: 0.0,
        high: 6.0,
    };
    if clip != six || !close(scale, 1.0 / 6.0) {
        return None;
    }
    let hard = Function::HardSigmoid {
        alpha: 1.0 / 6.0,
        beta: 0.5,
    };
    Some((hard, plus(graph, uses, shifted, 3.0)?))
}

/// `number·x·gate(x)`.
fn gated(
    graph: &Graph,
    uses: &Uses,
    x: ValueId,
    gate: ValueId,
    number: f64,
) -> Option<(Function, ValueId)> {
    let found = |function, of: ValueId| (of == x).then_some((function, x));
    if let Some((_, of)) = clipped(graph, uses, gate, number) {
        return found(Function::HardSwish, of);
    }
    if close(number, 0.5) {
        let (erf, scaled) = map(graph, uses, plus(graph, uses, gate, 1.0)?)?;
        let inner = product(graph, uses, scaled, DEPTH);
        let fits = close(inner.number, std::f64::consts::FRAC_1_SQRT_2);
        return match inner.values[..] {
            [of] if erf == Function::Erf && fits => found(Function::Gelu, of),
            _ => None,
        };
    }
    if number != 1.0 {
        return None;
    }
    match map(graph, uses, gate)? {
        (Function::Sigmoid, of) => found(Function::Silu, of),
        (Function::HardSigmoid { alpha, beta }, of)
            if close(alpha.into(), 1.0 / 6.0) && beta == 0.5 =>
        {
            found(Function::HardSwish, of)
        }
        (Function::Tanh, inner) => match map(graph, uses, inner)? {
            (Function::Softplus, of) => found(Function::Mish, of),
            _ => None,
        },
        _ => None,
    }
}
