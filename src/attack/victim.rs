//! What attacks can ask of what they attack.

use super::losses::Loss;
use crate::backend::{At, Backend, ClassifierEngine, ImageBuffer, LossGradient};
use crate::defense::Reading;
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

/// Something with an opinion of images: a classifier, alone or behind a defence.
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

/// A classifier without any defence, on a device.
pub struct Classifier<'a, B: Backend> {
    backend: &'a B,
    engine: &'a mut B::Classifier,
    images: B::Images,
    gradients: B::Images,
}

impl<'a, B: Backend> Classifier<'a, B> {
    /// The victim that `engine` runs, with room on the device for `batch` images and their gradients
    /// at a time; calls with more are split.
    ///
    /// # Errors
    /// The device has no room for them.
    pub fn new(backend: &'a B, engine: &'a mut B::Classifier, batch: usize) -> Result<Self> {
        let (shape, batch) = (engine.input_shape(), batch.max(1));
        Ok(Classifier {
            images: backend.allocate(shape, batch)?,
            gradients: backend.allocate(shape, batch)?,
            backend,
            engine,
        })
    }

    fn upload(&mut self, images: &[&[f32]]) -> Result<()> {
        for (i, image) in images.iter().enumerate() {
            self.backend.upload(image, &mut self.images, i)?;
        }
        Ok(())
    }

    /// What it says of each image, and how a scalar of the image's logits changes with its pixels: 0
    /// where that is no finite number. `derivative` gives the scalars' derivatives by the logits.
    pub(super) fn differentiate(
        &mut self,
        images: &[&[f32]],
        derivative: &mut LossGradient<'_>,
    ) -> Result<Vec<(Reading, Vec<f32>)>> {
        let mut found = Vec::with_capacity(images.len());
        for part in images.chunks(self.images.len()) {
            self.upload(part)?;
            let first_of_part = found.len();
            let mut derivative = |i: usize, logits: &[f32], by_logit: &mut [f32]| {
                derivative(first_of_part + i, logits, by_logit);
            };
            let at = first(&self.images, part.len());
            let logits = self
                .engine
                .gradient(&at, &mut derivative, &mut self.gradients, 0)?;
            for (i, row) in logits.chunks_exact(self.engine.classes()).enumerate() {
                let mut gradient = self.backend.download(At::new(&self.gradients, i))?;
                for slope in gradient.iter_mut().filter(|slope| !slope.is_finite()) {
                    *slope = 0.0;
                }
                found.push((Reading::new(row), gradient));
            }
        }
        Ok(found)
    }
}

/// The first `count` images of a buffer.
fn first<I>(images: &I, count: usize) -> Vec<At<'_, I>> {
    (0..count).map(|i| At::new(images, i)).collect()
}

impl<B: Backend> Victim for Classifier<'_, B> {
    fn classes(&self) -> usize {
        self.engine.classes()
    }

    fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>> {
        let mut readings = Vec::with_capacity(images.len());
        for part in images.chunks(self.images.len()) {
            self.upload(part)?;
            let logits = self.engine.logits(&first(&self.images, part.len()))?;
            readings.extend(logits.chunks_exact(self.engine.classes()).map(Reading::new));
        }
        Ok(readings)
    }

    fn gradient(&mut self, images: &[&[f32]], losses: &[Loss]) -> Result<Vec<Slope>> {
        let mut values = vec![0.0; images.len()];
        let mut derivative = |i: usize, logits: &[f32], derivative: &mut [f32]| {
            values[i] = losses[i].evaluate(&Reading::new(logits), derivative);
        };
        let slopes = self.differentiate(images, &mut derivative)?;
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
