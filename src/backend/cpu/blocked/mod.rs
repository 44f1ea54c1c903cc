//! Convolutions on channel-blocked activations.
//!
//! Channels lie in groups of 16 (one [`Lanes`](super::simd::Lanes)), so a vector holds 16 channels of
//! one pixel and every pixel's neighbor is one vector away. All dense kernels are the same register
//! tile (`tile.rs`): several vectors times several broadcast scalars, summed along a run.
//!
//! | kernel | vectors | scalars | run |
//! | --- | --- | --- | --- |
//! | [`conv_forward`] | weights, 16 output channels | input at several pixels | input channels × taps |
//! | [`conv_backward_data`] | weights, 16 input channels | output gradient at several pixels | output channels × taps |
//! | [`conv_backward_weights`] | output gradient, 16 channels | input, several channels | pixels |
//!
//! Padding, stride phases and the affine map and activation that batch normalization puts before a
//! convolution are applied while the rows that a work item needs are gathered into the cache
//! (`gather.rs`), so the tile sees a plain valid convolution of stride 1.
//!
//! Every output element is one chain of multiply-adds whose order depends on the shape alone: results
//! have the same bits on any number of threads and in any batch.

// Register tiles are arrays of constant size, indexed alike: loops over indices keep them in registers.
#![allow(clippy::needless_range_loop)]

mod backward_data;
mod backward_weights;
mod depthwise;
mod forward;
mod gather;
pub mod layout;
mod scratch;
mod shape;
mod tile;
mod weights;

#[cfg(test)]
mod tests;

pub use backward_data::{Destination, conv_backward_data};
pub use backward_weights::{backward_weights_workspace, conv_backward_weights};
pub use depthwise::{DepthwiseWeights, depthwise_backward_data, depthwise_forward};
pub use forward::{Epilogue, conv_forward};
pub use gather::{Affine, Source};
pub use shape::{ConvShape, Pads};
pub use tile::Activation;
pub use weights::PackedWeights;

pub use crate::dip::Padding;
