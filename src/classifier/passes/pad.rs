//! Folds zeros around a picture into the padding of the layer that reads it.

use super::uses::Uses;
use crate::classifier::graph::{Graph, Node, Op, PadMode, Pads, ValueId};

/// Folds zero padding into convolutions and average pools.
pub(super) fn fold(graph: &mut Graph) {
    let uses = Uses::of(graph);
    for index in 0..graph.nodes.len() {
        let padding = uses.producer(graph, graph.nodes[index].inputs[0]);
        let Some((picture, more)) = padding.and_then(|node| around(graph, node)) else {
            continue;
        };
        let node = &mut graph.nodes[index];
        let pads = match &mut node.op {
            Op::Conv(conv) => &mut conv.window.pads,
            // The zeros are part of the average.
            Op::AveragePool(pool)
                if pool.count_include_pad || pool.window.pads == Pads::default() =>
            {
                pool.count_include_pad = true;
                &mut pool.window.pads
            }
            _ => continue,
        };
        pads.top += more.top;
        pads.left += more.left;
        pads.bottom += more.bottom;
        pads.right += more.right;
        node.inputs[0] = picture;
    }
}

/// What a node pads with zeros at the four sides only, and by how much.
fn around(graph: &Graph, node: &Node) -> Option<(ValueId, Pads)> {
    let Op::Pad {
        before,
        mode: PadMode::Constant(0.0),
    } = &node.op
    else {
        return None;
    };
    let (input, output) = (
        &graph.value(node.inputs[0]).dims,
        &graph.value(node.output).dims,
    );
    if input.len() != 4 || input[..2] != output[..2] {
        return None;
    }
    let after = |axis: usize| output[axis] - input[axis] - before[axis];
    let pads = Pads {
        top: before[2],
        left: before[3],
        bottom: after(2),
        right: after(3),
    };
    Some((node.inputs[0], pads))
}
