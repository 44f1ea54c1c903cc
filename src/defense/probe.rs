//! Probing: many images through the classifier, a batch a launch.

use rayon::prelude::*;

use crate::backend::{At, Backend, Blend, ClassifierEngine, ImageShape, Push, View};
use crate::error::Result;

use super::Reading;

/// The most points that are probed between two images: more are hardly different pictures.
pub(super) const MAX_POINTS: usize = 1 << 16;

/// Logits that a thread reads at a time: with fewer, handing rows from thread to thread takes longer than
/// reading them.
const READ_AT_ONCE: usize = 1 << 14;

/// Makes images on the device, a batch at a time, and reads what the classifier says of them.
pub struct Prober<'b, B: Backend> {
    backend: &'b B,
    classifier: B::Classifier,
    /// Where a batch's images are made.
    scratch: B::Images,
    batch: usize,
    /// Images classified so far.
    probes: u64,
}

impl<'b, B: Backend> Prober<'b, B> {
    /// A prober that makes and classifies up to `batch` images at a time.
    pub fn new(backend: &'b B, classifier: B::Classifier, batch: usize) -> Result<Self> {
        let scratch = backend.allocate(classifier.input_shape(), batch)?;
        Ok(Prober {
            backend,
            classifier,
            scratch,
            batch,
            probes: 0,
        })
    }

    /// Shape of the images that the classifier takes.
    pub fn shape(&self) -> ImageShape {
        self.classifier.input_shape()
    }

    /// Images classified since the start.
    pub fn probes(&self) -> u64 {
        self.probes
    }

    /// Readings of images that `make` writes: for each chunk of `jobs`, job `i` of the chunk to
    /// image `i` of the buffer.
    pub fn probe<J>(
        &mut self,
        jobs: &[J],
        mut make: impl FnMut(&B, &[J], &mut B::Images) -> Result<()>,
    ) -> Result<Vec<Reading>> {
        let mut readings = Vec::with_capacity(jobs.len());
        let _phase = self.backend.phase("probe");
        for chunk in jobs.chunks(self.batch) {
            make(self.backend, chunk, &mut self.scratch)?;
            let images: Vec<_> = (0..chunk.len())
                .map(|i| At::new(&self.scratch, i))
                .collect();
            let logits = self.classifier.logits(&images)?;
            let classes = self.classifier.classes();
            // A GPU has nothing to do meanwhile: all threads read.
            let rows = logits.par_chunks_exact(classes);
            let rows = rows.with_min_len(READ_AT_ONCE.div_ceil(classes));
            readings.par_extend(rows.map(Reading::new));
        }
        self.probes += jobs.len() as u64;
        Ok(readings)
    }

    /// Readings of points on segments.
    pub fn blends(&mut self, jobs: &[Blend<'_, B::Images>]) -> Result<Vec<Reading>> {
        self.probe(jobs, |backend, jobs, out| backend.blend(jobs, out, 0))
    }

    /// Readings of pushed images.
    pub fn pushes(&mut self, jobs: &[Push<'_, B::Images>]) -> Result<Vec<Reading>> {
        self.probe(jobs, |backend, jobs, out| backend.push(jobs, out, 0))
    }

    /// Readings of views of images.
    pub fn views(&mut self, jobs: &[View<'_, B::Images>]) -> Result<Vec<Reading>> {
        self.probe(jobs, |backend, jobs, out| backend.view(jobs, out, 0))
    }

    /// What the classifier says of an image, and the gradient of a label's margin by its pixels.
    pub fn margin_gradient(
        &mut self,
        image: At<'_, B::Images>,
        label: usize,
    ) -> Result<(Reading, Vec<f32>)> {
        let mut derivative = |_: usize, logits: &[f32], by_logit: &mut [f32]| {
            by_logit.fill(0.0);
            let most = Reading::new(logits).top(2);
            if let Some(&(rival, _)) = most.iter().find(|(class, _)| *class != label) {
                by_logit[label] = 1.0;
                by_logit[rival] = -1.0;
            }
        };
        let classifier = &mut self.classifier;
        let logits = classifier.gradient(&[image], &mut derivative, &mut self.scratch, 0)?;
        self.probes += 1;
        let gradient = self.backend.download(At::new(&self.scratch, 0))?;
        Ok((Reading::new(&logits), gradient))
    }

    /// Readings of images as they are.
    pub fn images(&mut self, images: &[At<'_, B::Images>]) -> Result<Vec<Reading>> {
        self.probe(images, |backend, images, out| backend.copy(images, out, 0))
    }
}
