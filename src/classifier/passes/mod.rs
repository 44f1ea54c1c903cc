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
mod uses;

use super::graph::Graph;

/// All passes, in an order in which each finds what the ones before it make.
pub(crate) fn run(graph: &mut Graph) {
    for pass in [
        reshape::simplify,
        activations::recognize,
        normalize::recognize,
        scale_shift::fold,
        scale_shift::fold_ahead,
        pad::fold,
        epilogue::fuse,
    ] {
        pass(graph);
        dead::remove(graph);
    }
}
