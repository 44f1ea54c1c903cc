//! The operations of DIP networks: one launch each, or a few, for all instances in use.

mod batch;
mod conv;
mod norm;
mod shape;
mod step;
pub(super) mod tensor;
#[cfg(test)]
mod tests;
mod upsample;

pub(super) use self::batch::{Batch, Maps, Parameters};
pub(super) use self::norm::{Line, Norm, Statistics};
pub(super) use self::shape::Conv;
pub(super) use self::step::{AdamRates, error_sums};
