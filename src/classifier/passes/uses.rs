//! The edges of a graph, as the passes look them up.

use crate::classifier::graph::{Graph, Node, ValueId};

/// Who makes and who uses each value; node numbers are places in [`Graph::nodes`].
pub(super) struct Uses {
    producer: Vec<Option<usize>>,
    pub users: Vec<Vec<usize>>,
}

impl Uses {
    pub(super) fn of(graph: &Graph) -> Self {
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
    pub(super) fn producer<'a>(&self, graph: &'a Graph, id: ValueId) -> Option<&'a Node> {
        // Values that a pass has added are constants, and not listed.
        let index = (*self.producer.get(id.0)?)?;
        Some(&graph.nodes[index])
    }

    /// The node that makes a value which nothing uses but one node, and that is not the output.
    pub(super) fn sole_producer<'a>(&self, graph: &'a Graph, id: ValueId) -> Option<&'a Node> {
        let sole = id != graph.output && self.users.get(id.0)?.len() == 1;
        self.producer(graph, id).filter(|_| sole)
    }
}
