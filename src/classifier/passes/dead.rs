//! Removes what the output does not depend on.

use crate::classifier::graph::{Graph, ValueId};

/// Removes nodes that the output does not depend on, and then values that no node names.
pub(super) fn remove(graph: &mut Graph) {
    let mut live = vec![false; graph.values.len()];
    live[graph.input.0] = true;
    live[graph.output.0] = true;
    for node in graph.nodes.iter().rev() {
        if live[node.output.0] {
            for input in &node.inputs {
                live[input.0] = true;
            }
        }
    }
    graph.nodes.retain(|node| live[node.output.0]);

    let mut kept = 0;
    let places: Vec<usize> = (live.iter())
        .map(|&live| {
            kept += usize::from(live);
            kept.saturating_sub(1)
        })
        .collect();
    let mut live = live.into_iter();
    graph.values.retain(|_| live.next() == Some(true));
    let place = |id: &mut ValueId| id.0 = places[id.0];
    place(&mut graph.input);
    place(&mut graph.output);
    for node in &mut graph.nodes {
        node.inputs.iter_mut().for_each(place);
        place(&mut node.output);
    }
}
