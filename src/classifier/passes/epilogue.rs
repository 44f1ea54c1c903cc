//! Lets layers end with the residual that is added to them and the activation that follows.

use super::uses::Uses;
use crate::classifier::graph::{Binary, Graph, Node, Op, ValueId};

/// Fuses residual additions into convolutions and linear layers, and activations into whatever can
/// end with one.
pub(super) fn fuse(graph: &mut Graph) {
    let uses = Uses::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let fused = match node.op {
            Op::Binary(Binary::Add) => {
                let (a, b) = (node.inputs[0], node.inputs[1]);
                residual(graph, &uses, a, b).or_else(|| residual(graph, &uses, b, a))
            }
            Op::Map(_) => activation(graph, &uses, node),
            _ => None,
        };
        if let Some((op, inputs)) = fused {
            let node = &mut graph.nodes[index];
            node.op = op;
            node.inputs = inputs;
        }
    }
}

/// The layer that makes `sum`, with `other` added.
fn residual(
    graph: &Graph,
    uses: &Uses,
    sum: ValueId,
    other: ValueId,
) -> Option<(Op, Vec<ValueId>)> {
    let layer = uses.sole_producer(graph, sum)?;
    let fits = matches!(layer.op, Op::Conv(_) | Op::Gemm { .. })
        && layer.op.activation().is_none()
        && layer.inputs.len() == 3
        && graph.constant(other).is_none()
        && graph.value(sum).dims == graph.value(other).dims;
    let inputs = [&layer.inputs[..], &[other]].concat();
    fits.then(|| (layer.op.clone(), inputs))
}

/// The layer before an activation, ending with it.
fn activation(graph: &Graph, uses: &Uses, node: &Node) -> Option<(Op, Vec<ValueId>)> {
    let Op::Map(function) = node.op else {
        return None;
    };
    let layer = uses.sole_producer(graph, node.inputs[0])?;
    let mut op = layer.op.clone();
    let place = op.activation_mut().filter(|place| place.is_none())?;
    *place = Some(function);
    Some((op, layer.inputs.clone()))
}
