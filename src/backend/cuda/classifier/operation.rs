//! What the engine asks of an operation.

use super::super::driver::{Address, Device, Result};
pub(crate) use crate::backend::liveness::Reads;
use crate::classifier::Function;

/// A forward pass.
pub(crate) struct Forward<'a> {
    pub device: &'a Device,
    /// Images of the batch.
    pub images: usize,
    /// The computed inputs, in the node's order; constants are the operation's own.
    pub inputs: &'a [Address],
    /// What the operation ends with.
    pub activation: Option<Function>,
    pub output: Address,
}

/// A backward pass: the gradient by one input.
pub(crate) struct Backward<'a> {
    pub device: &'a Device,
    /// Images of the batch.
    pub images: usize,
    /// Which of the computed inputs.
    pub input: usize,
    /// The computed inputs; only to be read where [`Operation::reads`] says so.
    pub inputs: &'a [Address],
    /// The output, likewise.
    pub output: Address,
    /// The gradient by the output, before its activation.
    pub gradient: Address,
    /// Where the gradient by the input goes.
    pub to: Address,
    /// Whether it is added to what `to` holds.
    pub accumulate: bool,
    /// [`Operation::backward_scratch`] numbers for each image.
    pub scratch: Address,
}

/// One operation on values of known shapes, its constants on the device.
///
/// Every output element is one chain of arithmetic that depends on shapes alone, not on the number of
/// images. An operation is made from a graph's node before any batch is run, and its launches are the
/// same for every batch of the same size. A value of all images of a batch has fewer than 2^31 elements.
pub(crate) trait Operation: Send {
    /// Computes the output, ending with the activation (of the operations that can have one).
    ///
    /// # Errors
    /// The device refuses a launch.
    fn forward(&self, pass: Forward<'_>) -> Result<()>;

    /// Computes the gradient by one input.
    ///
    /// # Errors
    /// As for [`forward`](Self::forward).
    fn backward(&self, pass: Backward<'_>) -> Result<()>;

    /// What [`backward`](Self::backward) reads.
    fn reads(&self) -> Reads {
        Reads::default()
    }

    /// Numbers of scratch memory that [`backward`](Self::backward) needs for each image.
    fn backward_scratch(&self) -> usize {
        0
    }
    /// Bytes of constants that it holds on the device.
    fn constant_bytes(&self) -> usize {
        0
    }
}
