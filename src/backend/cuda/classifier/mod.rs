//! The cuda backend's classifier engine.
//!
//! Values lie row-major, as the graph has them: for `n` images `n` blocks of a value's elements, one
//! after another. So an operation's launches cover all images of a batch.

mod axes;
pub mod concat;
mod function;
pub mod moves;
pub mod normalize;
pub mod operation;
pub mod pool;
pub mod reduce;
mod rows;
pub mod softmax;
mod transpose;

#[cfg(test)]
mod tests;
