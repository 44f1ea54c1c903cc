//! A classifier as its callers know it: what it says of images in the host's memory, and its gradients.

use super::Reading;
use crate::backend::{ImageShape, LossGradient};
use crate::error::Result;

/// A classifier on a device of any kind, asked about images in the host's memory.
///
/// Images are CHW with values in `[0, 1]`. What it says of one does not depend, bit by bit, on the other
/// images of a call.
pub trait Oracle: Send {
    /// Shape of the images that it takes.
    fn shape(&self) -> ImageShape;

    /// Number of classes.
    fn classes(&self) -> usize;

    /// Images that it takes at a time; calls with more are split.
    fn batch(&self) -> usize;

    /// Images that it has classified so far, those of gradients included.
    fn classified(&self) -> u64;

    /// What it says of each image.
    ///
    /// # Errors
    /// An image of another size; the device's errors.
    fn classify(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>>;

    /// The same, and how a scalar of each image's logits changes with its pixels (CHW): 0 where the
    /// classifier gives no finite number. `by_logits` gives the scalars' derivatives by the logits.
    ///
    /// # Errors
    /// As [`classify`](Self::classify).
    fn differentiate(
        &mut self,
        images: &[&[f32]],
        by_logits: &mut LossGradient<'_>,
    ) -> Result<Vec<(Reading, Vec<f32>)>>;
}
