//! Recognizes normalization that exports spell out in reductions and arithmetic.

use super::uses::Uses;
use crate::classifier::function::Function;
use crate::classifier::graph::{Binary, Graph, Node, Op, Reduction, ValueId};

/// Replaces `(x − mean(x)) / sqrt(mean((x − mean(x))²) + epsilon)`, along the last axes, by
/// [`Op::Normalize`].
pub(super) fn recognize(graph: &mut Graph) {
    let uses = Uses::of(graph);
    for index in 0..graph.nodes.len() {
        if let Some((x, op)) = normalized(graph, &uses, &graph.nodes[index]) {
            let node = &mut graph.nodes[index];
            node.op = op;
            node.inputs = vec![x];
        }
    }
}

fn normalized(graph: &Graph, uses: &Uses, node: &Node) -> Option<(ValueId, Op)> {
    let (centered, deviation) = sides(node, Binary::Div)?;
    let (x, axis) = center(graph, uses, centered)?;
    let root = uses.producer(graph, deviation)?;
    if root.op != Op::Map(Function::Sqrt) {
        return None;
    }
    let sum = uses.producer(graph, root.inputs[0])?;
    let (a, b) = sides(sum, Binary::Add)?;
    let (variance, epsilon) = match (graph.constant(a), graph.constant(b)) {
        (None, Some(&[epsilon])) => (a, epsilon),
        (Some(&[epsilon]), None) => (b, epsilon),
        _ => return None,
    };
    let (squares, reduced) = mean(graph, uses, variance)?;
    let square = uses.producer(graph, squares)?;
    let base = match square.op {
        Op::Binary(Binary::Mul) if square.inputs[0] == square.inputs[1] => square.inputs[0],
        Op::Binary(Binary::Pow) if graph.constant(square.inputs[1]) == Some(&[2.0]) => {
            square.inputs[0]
        }
        _ => return None,
    };
    // Exporters may subtract the mean anew.
    let same = base == centered || center(graph, uses, base) == Some((x, axis));
    let fits = same && reduced == axis && graph.value(x).dims == graph.value(node.output).dims;
    (fits && epsilon >= 0.0).then_some((x, Op::Normalize { axis, epsilon }))
}

/// The two inputs of a node of this kind.
fn sides(node: &Node, kind: Binary) -> Option<(ValueId, ValueId)> {
    (node.op == Op::Binary(kind)).then(|| (node.inputs[0], node.inputs[1]))
}

/// What a value is the mean of, and the first of the axes, where they are the last ones and kept as 1.
fn mean(graph: &Graph, uses: &Uses, id: ValueId) -> Option<(ValueId, usize)> {
    let node = uses.producer(graph, id)?;
    let Op::Reduce {
        kind: Reduction::Mean,
        axes,
    } = &node.op
    else {
        return None;
    };
    let x = node.inputs[0];
    let rank = graph.value(x).dims.len();
    let first = *axes.first()?;
    let last = axes.iter().copied().eq(first..rank);
    (last && graph.value(id).dims.len() == rank).then_some((x, first))
}

/// `x` and the first axis of `x − mean(x)`.
fn center(graph: &Graph, uses: &Uses, id: ValueId) -> Option<(ValueId, usize)> {
    let (x, center) = sides(uses.producer(graph, id)?, Binary::Sub)?;
    mean(graph, uses, center).filter(|&(of, _)| of == x)
}
