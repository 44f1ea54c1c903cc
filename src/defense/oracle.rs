//! The interface of a classifier to its callers: logits and gradients of images in the host's memory.

use super::Reading;
use crate::backend::{ImageShape, LossGradient};
use crate::error::Result;

/// A classifier on any kind of device, for images in the host's memory.
///
/// Images are CHW with values in `[0, 1]`. The results for one image do not depend, bit by bit, on the other
/// images of a call.
pub trait Oracle: Send {
    /// Shape of the images that it takes.
    fn shape(&self) -> ImageShape;

    /// Number of classes.
    fn classes(&self) -> usize;

    /// Images that are classified at a time; calls with more are split.
    fn batch(&self) -> usize;

    /// Images classified so far, including those classified for gradients.
    fn classified(&self) -> u64;

    /// The reading of each image.
    ///
    /// # Errors
    /// An image of another size; the device's errors.
    fn classify(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>>;

    /// The reading of each image, and the gradient of a loss of its logits by its pixels (CHW; 0 where it is
    /// not finite). `by_logits` gives the derivatives of each image's loss by its logits.
    ///
    /// # Errors
    /// Those of [`classify`](Self::classify).
    fn differentiate(
        &mut self,
        images: &[&[f32]],
        by_logits: &mut LossGradient<'_>,
    ) -> Result<Vec<(Reading, Vec<f32>)>>;
}
