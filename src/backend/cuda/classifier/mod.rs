//! The cuda backend's classifier engine.
//!
//! Values lie row-major, as the graph has them: for `n` images `n` blocks of a value's elements, one
//! after another. So an operation's launches cover all images of a batch.

mod function;
pub mod operation;

#[cfg(test)]
mod tests;
