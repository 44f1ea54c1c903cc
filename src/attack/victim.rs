//! What attacks are made on, and what they can ask of it.

use super::losses::Loss;
use crate::defense::{Oracle, Reading};
use crate::error::Result;

/// An image's logits, its loss, and the gradient of the loss.
#[derive(Clone, Debug)]
pub struct Slope {
    /// What the victim says of the image.
    pub reading: Reading,
    /// The loss of the image.
    pub loss: f64,
    /// The derivative of the loss by each pixel, CHW; 0 where the victim gives no finite number.
    pub gradient: Vec<f32>,
}

/// What an attack is made on: a classifier, alone or behind a defense.
///
/// Its answer for an image must not depend on the other images of a call.
pub trait Victim {
    /// Number of classes.
    fn classes(&self) -> usize;
    /// The logits of each image (CHW, in `[0, 1]`).
    ///
    /// # Errors
    /// The device fails.
    fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>>;
    /// The logits of each image, and the gradient of its loss; `losses[i]` is that of `images[i]`.
    ///
    /// # Errors
    /// The device fails, or the victim has no gradient.
    fn gradient(&mut self, images: &[&[f32]], losses: &[Loss]) -> Result<Vec<Slope>>;
    /// Number of ways to a wrong answer whose gradients it gives apart; an attack is made along each, until one
    /// succeeds.
    fn ways(&self) -> usize {
        1
    }
    /// From now on gradients are those of this way, below [`ways`](Self::ways).
    fn follow(&mut self, way: usize) {
        let _ = way;
    }
}

/// A classifier without any defense.
pub struct Classifier<'a> {
    oracle: &'a mut dyn Oracle,
}

impl<'a> Classifier<'a> {
    /// The classifier that `oracle` runs, as a victim.
    pub fn new(oracle: &'a mut dyn Oracle) -> Self {
        Classifier { oracle }
    }
}

impl Victim for Classifier<'_> {
    fn classes(&self) -> usize {
        self.oracle.classes()
    }

    fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>> {
        self.oracle.classify(images)
    }

    fn gradient(&mut self, images: &[&[f32]], losses: &[Loss]) -> Result<Vec<Slope>> {
        let mut values = vec![0.0; images.len()];
        let mut derivative = |i: usize, logits: &[f32], derivative: &mut [f32]| {
            values[i] = losses[i].evaluate(&Reading::new(logits), derivative);
        };
        let slopes = self.oracle.differentiate(images, &mut derivative)?;
        let slopes = slopes.into_iter().zip(values);
        Ok(slopes
            .map(|((reading, gradient), loss)| Slope {
                reading,
                loss,
                gradient,
            })
            .collect())
    }
}
