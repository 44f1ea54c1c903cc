//! The cuda backend's classifier engine.
//!
//! Values lie row-major, as the graph has them: for `n` images `n` blocks of a value's elements, one
//! after another. So an operation's launches cover all images of a batch.

pub mod conv;
mod function;
pub mod gemm;
pub mod matmul;
pub mod operation;
mod product;

#[cfg(test)]
mod tests;
