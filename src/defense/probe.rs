//! Probing: many images are classified, in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::{Oracle, Reading};
use crate::backend::{At, Blend, ClassifierEngine, ImageOps, ImageShape, LossGradient, Push, View};
use crate::error::{Error, Result};

/// The most points that are probed between two images; neighbors among more would be nearly equal.
pub(super) const MAX_POINTS: usize = 1 << 16;

/// Logits that a thread processes at a time: for fewer, distributing rows to threads takes longer than
/// processing them.
const MIN_LOGITS_PER_THREAD: usize = 1 << 14;

/// Makes images on the device, a batch at a time, and classifies them.
pub struct Prober<O: ImageOps, C: ClassifierEngine<Images = O::Images>> {
    ops: O,
    classifier: C,
    /// Where a batch's images are made.
    scratch: O::Images,
    /// The gradients of a batch; `None` before the first call that needs them.
    gradients: Option<O::Images>,
    batch: usize,
    classified: u64,
    interrupt: Arc<AtomicBool>,
}

impl<O: ImageOps, C: ClassifierEngine<Images = O::Images>> Prober<O, C> {
    /// A prober that makes and classifies up to `batch` images at a time.
    pub fn new(ops: O, classifier: C, batch: usize) -> Result<Self> {
        let batch = batch.max(1);
        let scratch = ops.allocate(classifier.input_shape(), batch)?;
        Ok(Prober {
            ops,
            classifier,
            scratch,
            gradients: None,
            batch,
            classified: 0,
            interrupt: Arc::default(),
        })
    }

    /// The same, whose calls fail with [`Error::Interrupted`] before their next batch while `flag` is true.
    pub(crate) fn interrupted_by(self, flag: Arc<AtomicBool>) -> Self {
        Prober {
            interrupt: flag,
            ..self
        }
    }

    /// Fails while the flag of [`interrupted_by`](Self::interrupted_by) is true.
    pub(super) fn go_on(&self) -> Result<()> {
        go_on(&self.interrupt)
    }

    /// The operations that make its images.
    pub(crate) fn ops(&self) -> &O {
        &self.ops
    }

    /// The readings of the images that `make` writes. `make` gets a chunk of `jobs` and writes the chunk's job
    /// `i` to image `i` of the buffer.
    pub fn probe<J>(
        &mut self,
        jobs: &[J],
        mut make: impl FnMut(&O, &[J], &mut O::Images) -> Result<()>,
    ) -> Result<Vec<Reading>> {
        let mut readings = Vec::with_capacity(jobs.len());
        let _phase = self.ops.phase("probe");
        for chunk in jobs.chunks(self.batch) {
            self.go_on()?;
            make(&self.ops, chunk, &mut self.scratch)?;
            let images: Vec<_> = (0..chunk.len())
                .map(|i| At::new(&self.scratch, i))
                .collect();
            let logits = self.classifier.logits(&images)?;
            let classes = self.classifier.classes();
            // A GPU waits here, so all threads share the work.
            let rows = logits.par_chunks_exact(classes);
            let rows = rows.with_min_len(MIN_LOGITS_PER_THREAD.div_ceil(classes));
            readings.par_extend(rows.map(Reading::new));
        }
        self.classified += jobs.len() as u64;
        Ok(readings)
    }

    /// Readings of points on segments.
    pub fn blends(&mut self, jobs: &[Blend<'_, O::Images>]) -> Result<Vec<Reading>> {
        self.probe(jobs, |ops, jobs, out| ops.blend(jobs, out, 0))
    }

    /// Readings of pushed images.
    pub fn pushes(&mut self, jobs: &[Push<'_, O::Images>]) -> Result<Vec<Reading>> {
        self.probe(jobs, |ops, jobs, out| ops.push(jobs, out, 0))
    }

    /// Readings of views of images.
    pub fn views(&mut self, jobs: &[View<'_, O::Images>]) -> Result<Vec<Reading>> {
        self.probe(jobs, |ops, jobs, out| ops.view(jobs, out, 0))
    }

    /// Readings of images as they are.
    pub fn images(&mut self, images: &[At<'_, O::Images>]) -> Result<Vec<Reading>> {
        self.probe(images, |ops, images, out| ops.copy(images, out, 0))
    }

    /// Refuses images that the classifier does not take.
    fn check(&self, images: &[&[f32]]) -> Result<()> {
        let shape = self.shape();
        match images.iter().find(|image| image.len() != shape.elements()) {
            None => Ok(()),
            Some(image) => Err(Error::invalid(format!(
                "an image has {} values, but the classifier takes {shape}",
                image.len()
            ))),
        }
    }
}

impl<O: ImageOps, C: ClassifierEngine<Images = O::Images>> Oracle for Prober<O, C> {
    fn shape(&self) -> ImageShape {
        self.classifier.input_shape()
    }

    fn classes(&self) -> usize {
        self.classifier.classes()
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn classified(&self) -> u64 {
        self.classified
    }

    fn classify(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>> {
        self.check(images)?;
        self.probe(images, upload)
    }

    fn differentiate(
        &mut self,
        images: &[&[f32]],
        by_logits: &mut LossGradient<'_>,
    ) -> Result<Vec<(Reading, Vec<f32>)>> {
        self.check(images)?;
        let gradients = match &mut self.gradients {
            Some(gradients) => gradients,
            none => none.insert(
                self.ops
                    .allocate(self.classifier.input_shape(), self.batch)?,
            ),
        };
        let mut found = Vec::with_capacity(images.len());
        for chunk in images.chunks(self.batch) {
            go_on(&self.interrupt)?;
            upload(&self.ops, chunk, &mut self.scratch)?;
            let first = found.len();
            let mut of_chunk = |i: usize, logits: &[f32], derivative: &mut [f32]| {
                by_logits(first + i, logits, derivative);
            };
            let at: Vec<_> = (0..chunk.len())
                .map(|i| At::new(&self.scratch, i))
                .collect();
            let logits = (self.classifier).gradient(&at, &mut of_chunk, gradients, 0)?;
            for (i, row) in logits.chunks_exact(self.classifier.classes()).enumerate() {
                let mut gradient = self.ops.download(At::new(&*gradients, i))?;
                for slope in gradient.iter_mut().filter(|slope| !slope.is_finite()) {
                    *slope = 0.0;
                }
                found.push((Reading::new(row), gradient));
            }
        }
        self.classified += images.len() as u64;
        Ok(found)
    }
}

/// Fails while `interrupt` is true.
fn go_on(interrupt: &AtomicBool) -> Result<()> {
    match interrupt.load(Ordering::Relaxed) {
        true => Err(Error::Interrupted),
        false => Ok(()),
    }
}

/// Copies images to the device.
fn upload<O: ImageOps>(ops: &O, images: &[&[f32]], out: &mut O::Images) -> Result<()> {
    let mut images = images.iter().enumerate();
    images.try_for_each(|(i, image)| ops.upload(image, out, i))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backend::Backend;
    use crate::backend::cpu::CpuBackend;
    use crate::classifier::{Graph, LoadOptions};

    /// The classifier of `tests/fixtures`, two images at a time.
    fn prober() -> impl Oracle {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/toy.onnx");
        let graph = Graph::load(&file, &LoadOptions::default()).unwrap();
        let engine = CpuBackend::FLOAT32.classifier(&graph, 2).unwrap();
        Prober::new(CpuBackend::FLOAT32, engine, 2).unwrap()
    }

    #[test]
    fn images_that_are_more_than_a_batch_have_the_answers_that_each_has_alone() {
        let mut oracle = prober();
        let elements = oracle.shape().elements();
        let image = |seed: usize| -> Vec<f32> {
            let level = |i: usize| ((i * (seed + 3)) % 251) as f32 / 250.0;
            (0..elements).map(level).collect()
        };
        let images: Vec<Vec<f32>> = (0..5).map(image).collect();
        let images: Vec<&[f32]> = images.iter().map(|image| &image[..]).collect();
        // Of each image another logit.
        let by_logits = |first: usize| {
            move |i: usize, logits: &[f32], derivative: &mut [f32]| {
                derivative.fill(0.0);
                derivative[(first + i) % logits.len()] = 1.0;
            }
        };
        let readings = oracle.classify(&images).unwrap();
        let slopes = oracle.differentiate(&images, &mut by_logits(0)).unwrap();
        assert_eq!((readings.len(), slopes.len()), (5, 5));
        for (i, image) in images.iter().enumerate() {
            let alone = oracle.classify(&[image]).unwrap();
            assert_eq!(alone[0].logits(), readings[i].logits());
            let alone = oracle.differentiate(&[image], &mut by_logits(i)).unwrap();
            assert_eq!(alone[0].0.logits(), slopes[i].0.logits());
            assert_eq!(alone[0].1, slopes[i].1);
        }
        assert_ne!(slopes[0].1, slopes[1].1);
        assert_eq!(oracle.classified(), 20);
    }

    #[test]
    fn images_of_another_size_are_refused() {
        let mut oracle = prober();
        let elements = oracle.shape().elements();
        for wrong in [0, elements - 1, 2 * elements] {
            let images = [&vec![0.5; elements][..], &vec![0.5; wrong][..]];
            let error = oracle.classify(&images).unwrap_err().to_string();
            assert!(
                error.contains(&format!("an image has {wrong} values")),
                "{error}"
            );
            let unused = &mut |_: usize, _: &[f32], _: &mut [f32]| ();
            assert!(oracle.differentiate(&images, unused).is_err());
        }
        assert_eq!(oracle.classified(), 0);
    }
}
