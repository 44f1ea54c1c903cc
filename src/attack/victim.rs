//! What attacks can ask of what they attack.

use super::losses::Loss;
use crate::defense::{Oracle, Reading};
use crate::error::Result;

/// What an image's loss says of where to go.
#[derive(Clone, Debug)]
pub struct Slope {
    /// What the victim says of the image.
    pub reading: Reading,
    /// The loss there.
    pub loss: f64,
    /// Its derivative by each pixel, CHW; 0 where the victim gives no finite number.
    pub gradient: Vec<f32>,
}

/// Something with an opinion of images: a classifier, alone or behind a defense.
///
/// What it says of an image must not depend on the other images of a call.
pub trait Victim {
    /// Number of classes.
    fn classes(&self) -> usize;
    /// What it says of each image (CHW, in `[0, 1]`).
    fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>>;
    /// The same, and how each image's loss changes with its pixels; one loss an image.
    fn gradient(&mut self, images: &[&[f32]], losses: &[Loss]) -> Result<Vec<Slope>>;
}

/// A classifier without any defense.
pub struct Classifier<'a> {
    oracle: &'a mut dyn Oracle,
}

impl<'a> Classifier<'a> {
    /// The victim that is this classifier.
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
