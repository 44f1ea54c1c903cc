//! Rewrites of a graph that leave what it computes as it is, up to rounding.
//!
//! A pass that joins two nodes puts the joint one in the later's place; the earlier one, which
//! nothing uses any more, goes as dead code.

mod activations;
mod dead;
mod epilogue;
mod normalize;
mod pad;
mod reshape;
mod scale_shift;
#[cfg(test)]
mod tests;

use super::graph::{Graph, Node, ValueId};

/// All passes, in an order in which each finds what the ones before it make.
pub fn run(graph: &mut Graph) {
    for pass in [
        reshape::simplify,
        activations::recognise,
        normalize::recognise,
        scale_shift::fold,
        scale_shift::fold_ahead,
        pad::fold,
        epilogue::fuse,
    ] {
        pass(graph);
        dead::remove(graph);
    }
}

/// Who makes and who uses each value; node numbers are places in [`Graph::nodes`].
struct Uses {
    producer: Vec<Option<usize>>,
    users: Vec<Vec<usize>>,
}

impl Uses {
    fn of(graph: &Graph) -> Self {
        let mut uses = Uses {
            producer: vec![None; graph.values.len()],
            users: vec![Vec::new(); graph.values.len()],
        };
        for (index, node) in graph.nodes.iter().enumerate() {
            uses.producer[node.output.0] = Some(index);
            for input in &node.inputs {
                uses.users[input.0].push(index);
            }
        }
        uses
    }

    /// The node that makes a value.
    fn producer<'a>(&self, graph: &'a Graph, id: ValueId) -> Option<&'a Node> {
        // Values that a pass has added are constants, and not listed.
        let index = (*self.producer.get(id.0)?)?;
        Some(&graph.nodes[index])
    }

    /// The node that makes a value which nothing uses but one node, and that is not the output.
    fn sole_producer<'a>(&self, graph: &'a Graph, id: ValueId) -> Option<&'a Node> {
        let sole = id != graph.output && self.users.get(id.0)?.len() == 1;
        self.producer(graph, id).filter(|_| sole)
    }
}
