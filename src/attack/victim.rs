//! What attacks can ask of what they attack.

use super::losses::Loss;
use crate::backend::{At, Backend, ClassifierEngine, ImageBuffer};
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
        let mut slopes = Vec::with_capacity(images.len());
        let batch = self.images.len();
        for (part, losses) in images.chunks(batch).zip(losses.chunks(batch)) {
            self.upload(part)?;
            let mut values = vec![0.0; part.len()];
            let mut derivative = |i: usize, logits: &[f32], derivative: &mut [f32]| {
                values[i] = losses[i].evaluate(&Reading::new(logits), derivative);
            };
            let at = first(&self.images, part.len());
            let logits = self
                .engine
                .gradient(&at, &mut derivative, &mut self.gradients, 0)?;
            let rows = logits.chunks_exact(self.engine.classes());
            for (i, (row, loss)) in rows.zip(values).enumerate() {
                let mut gradient = self.backend.download(At::new(&self.gradients, i))?;
                for slope in gradient.iter_mut().filter(|slope| !slope.is_finite()) {
                    *slope = 0.0;
                }
                slopes.push(Slope {
                    reading: Reading::new(row),
                    loss,
                    gradient,
                });
            }
        }
        Ok(slopes)
    }
}
