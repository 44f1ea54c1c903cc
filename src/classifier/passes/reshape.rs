//! Removes operations that move nothing, and joins neighbors that move elements twice.

use super::uses::Uses;
use crate::classifier::graph::{Graph, Op, ValueId};

/// Removes operations that leave their input as it is; joins reshapes, and transpositions.
pub(super) fn simplify(graph: &mut Graph) {
    let uses = Uses::of(graph);
    // What stands for each value from now on.
    let mut same: Vec<ValueId> = (0..graph.values.len()).map(ValueId).collect();
    for index in 0..graph.nodes.len() {
        let mut node = graph.nodes[index].clone();
        for input in &mut node.inputs {
            *input = same[input.0];
        }
        let before = uses.producer(graph, node.inputs[0]);
        match (&mut node.op, before) {
            (Op::Reshape, Some(before)) if before.op == Op::Reshape => {
                node.inputs[0] = before.inputs[0];
            }
            (Op::Transpose { perm }, Some(before)) => {
                if let Op::Transpose { perm: first } = &before.op {
                    perm.iter_mut().for_each(|axis| *axis = first[*axis]);
                    node.inputs[0] = before.inputs[0];
                }
            }
            _ => {}
        }
        let (input, output) = (graph.value(node.inputs[0]), graph.value(node.output));
        if let Op::Transpose { perm } = &node.op {
            let moved = perm.iter().filter(|&&axis| input.dims[axis] > 1);
            if moved.is_sorted() {
                node.op = Op::Reshape;
            }
        }
        let nothing = input.dims == output.dims
            && match &node.op {
                Op::Reshape | Op::Expand | Op::Pad { .. } => true,
                Op::Concat { .. } => node.inputs.len() == 1,
                // Of the same shape, they take every element; only its order could differ.
                Op::Slice { steps, .. } => steps.iter().all(|&step| step > 0),
                _ => false,
            };
        if nothing {
            same[node.output.0] = node.inputs[0];
        }
        graph.nodes[index] = node;
    }
    graph.output = same[graph.output.0];
}
