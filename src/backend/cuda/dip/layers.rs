//! The operations of DIP networks: one launch each, or a few, for all instances in use.

mod batch;
mod conv;
mod norm;
mod shape;
mod step;
pub mod tensor;
#[cfg(test)]
mod tests;
mod upsample;

pub use self::batch::{Batch, Maps, Parameters};
pub use self::norm::{Line, Norm, Statistics};
pub use self::shape::Conv;
pub use self::step::{AdamRates, error_sums};
