//! Rewrites of a graph that leave what it computes as it is, up to rounding.

mod dead;

use super::Graph;

/// All passes, in an order in which each finds what the ones before it make.
pub fn run(graph: &mut Graph) {
    dead::remove(graph);
}
