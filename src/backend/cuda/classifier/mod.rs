//! The cuda backend's classifier engine.
//!
//! A graph becomes a plan of steps over buffers ([`plan`]), whose spans in one arena for a batch of
//! images are fixed by their lifetimes ([`schedule`](crate::backend::liveness)). Steps are operations
//! with their constants on the device, one file per family.
//!
//! Values lie row-major, as the graph has them: for `n` images `n` blocks of a value's elements, one
//! after another. So an operation's launches cover all images of a batch. Nothing is allocated,
//! uploaded or downloaded between the first and the last launch of a pass.

mod axes;
mod concat;
mod conv;
mod elementwise;
mod function;
mod gemm;
mod matmul;
mod moves;
mod normalize;
pub(crate) mod operation;
mod plan;
mod pool;
mod product;
mod reduce;
mod rows;
mod softmax;
mod transpose;

#[cfg(test)]
mod tests;

use self::operation::{Backward, Forward};
use self::plan::ClassifierPlan;
use super::backend::CudaBackend;
use super::driver::{self, Address, Buffer, DriverError};
use super::images::DeviceImages;
use crate::backend::checks::{check_classified, check_gradients};
use crate::backend::liveness::{Schedule, Span};
use crate::backend::{At, ClassifierEngine, ImageOps, ImageShape, LossGradient};
use crate::classifier::Graph;
use crate::error::{Error, Result};

/// Runs any [`Graph`] in float32.
///
/// What it says of an image has the same bits in any batch of any size.
pub struct CudaClassifier {
    backend: CudaBackend,
    shape: ImageShape,
    classes: usize,
    /// Images that run at once.
    batch: usize,
    plan: ClassifierPlan,
    logits: Schedule,
    /// Made when a gradient is first asked for.
    gradient: Option<Schedule>,
    /// Room for a schedule's spans, each for `batch` images.
    arena: Option<Buffer<f32>>,
}

impl CudaClassifier {
    /// An engine that runs up to `batch` images at once; fewer, where the device's memory does not
    /// suffice or a value of all images would have 2^31 elements.
    ///
    /// # Errors
    /// Shapes beyond what the kernels can address, or no memory for the constants; the message names the
    /// node.
    pub fn new(backend: &CudaBackend, graph: &Graph, batch: usize) -> Result<Self> {
        let plan = ClassifierPlan::new(&backend.device, graph)?;
        let logits = Schedule::new(&plan.outline(), false)?;
        let largest = plan.buffers.iter().copied().max().unwrap_or_default();
        Ok(CudaClassifier {
            backend: backend.clone(),
            shape: graph.input_shape(),
            classes: graph.classes(),
            batch: batch.clamp(1, (i32::MAX as usize / largest.max(1)).max(1)),
            plan,
            logits,
            gradient: None,
            arena: None,
        })
    }

    /// The arena, once it has `len` numbers for each image of a batch; halves the batch until that is to
    /// be had.
    fn reserve(&mut self, len: usize) -> Result<Buffer<f32>> {
        if let Some(arena) = self.arena.take_if(|arena| arena.len() >= len * self.batch) {
            return Ok(arena);
        }
        // What a smaller arena held is of no use, but its memory is.
        self.arena = None;
        let mut batch = self.batch;
        loop {
            match self.backend.device.allocate(len.saturating_mul(batch)) {
                Ok(arena) => {
                    if batch < self.batch {
                        log::warn!(
                            "{}: its memory suffices for {batch} images of the classifier at once, \
                             not {}",
                            self.backend.device.name(),
                            self.batch
                        );
                    }
                    self.batch = batch;
                    return Ok(arena);
                }
                Err(DriverError::OutOfMemory { .. }) if batch > 1 => batch /= 2,
                Err(DriverError::OutOfMemory { device, bytes }) => {
                    let message = format!(
                        "{device}: no memory for the classifier's activations, {bytes} bytes an image"
                    );
                    let hint = "use `device=cpu`, or a smaller classifier";
                    return Err(Error::device(message).hint(hint));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Where a span of the arena starts.
    fn at(&self, arena: &Buffer<f32>, span: Span) -> Address {
        arena.at(span.offset * self.batch)
    }

    /// Computes the logits of up to a batch of images.
    fn run_forward(
        &self,
        schedule: &Schedule,
        arena: &Buffer<f32>,
        images: &[At<'_, DeviceImages>],
    ) -> Result<Vec<f32>> {
        let input = self.at(arena, schedule.input);
        self.backend.gather(images, self.shape, input)?;
        self.launch_forward(schedule, arena, images.len())?;
        let first = schedule.output.offset * self.batch;
        Ok(arena.download(first, images.len() * self.classes)?)
    }

    /// The forward pass's launches: the same for every batch of `images` images.
    fn launch_forward(
        &self,
        schedule: &Schedule,
        arena: &Buffer<f32>,
        images: usize,
    ) -> driver::Result<()> {
        let device = &self.backend.device;
        let at = |span: Span| self.at(arena, span);
        for (step, spans) in self.plan.steps.iter().zip(&schedule.forward) {
            let inputs: Vec<Address> = spans.inputs.iter().map(|&span| at(span)).collect();
            let kept = step.activation.zip(spans.argument);
            step.operation.forward(Forward {
                device,
                images,
                inputs: &inputs,
                activation: step.activation.filter(|_| kept.is_none()),
                output: at(kept.map_or(spans.output, |(_, argument)| argument)),
            })?;
            if let Some((function, argument)) = kept {
                let numbers = images * step.elements;
                elementwise::apply(device, function, at(argument), at(spans.output), numbers)?;
            }
        }
        Ok(())
    }

    /// The backward pass's launches: the same for every batch of `images` images, after
    /// [`launch_forward`](Self::launch_forward).
    fn launch_backward(
        &self,
        schedule: &Schedule,
        arena: &Buffer<f32>,
        images: usize,
    ) -> driver::Result<()> {
        let device = &self.backend.device;
        let at = |span: Span| self.at(arena, span);
        for spans in &schedule.backward {
            let step = &self.plan.steps[spans.step];
            let gradient = at(spans.gradient);
            if let (Some(function), Some(known)) = (step.activation, spans.known) {
                let numbers = images * step.elements;
                elementwise::activation_slope(device, function, at(known), gradient, numbers)?;
            }
            let mut inputs: Vec<Address> = spans.inputs.iter().map(|&span| at(span)).collect();
            // What is not read has no span.
            inputs.resize(step.inputs.len(), Address(0));
            for call in &spans.calls {
                step.operation.backward(Backward {
                    device,
                    images,
                    input: call.input,
                    inputs: &inputs,
                    output: at(spans.output),
                    gradient,
                    to: at(call.to),
                    accumulate: call.accumulate,
                    scratch: at(spans.scratch),
                })?;
            }
        }
        Ok(())
    }

    /// A batch at a time: forward, the losses on the host, backward.
    fn run_gradient(
        &self,
        schedule: &Schedule,
        arena: &mut Buffer<f32>,
        images: &[At<'_, DeviceImages>],
        loss_gradient: &mut LossGradient<'_>,
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(images.len() * self.classes);
        for (i, batch) in images.chunks(self.batch).enumerate() {
            let start = i * self.batch;
            let logits = self.run_forward(schedule, arena, batch)?;
            let mut by_logits = vec![0.0; logits.len()];
            let rows = logits
                .chunks(self.classes)
                .zip(by_logits.chunks_mut(self.classes));
            for (i, (logits, by_logits)) in rows.enumerate() {
                loss_gradient(start + i, logits, by_logits);
            }
            arena.upload(&by_logits, schedule.loss.offset * self.batch)?;
            self.launch_backward(schedule, arena, batch.len())?;
            match schedule.by_input {
                Some(span) => {
                    let from = self.at(arena, span);
                    self.backend
                        .scatter(from, out, first + start, batch.len())?;
                }
                None => {
                    let zeros = vec![0.0; batch.len() * self.shape.elements()];
                    self.backend.upload(&zeros, out, first + start)?;
                }
            }
            all.extend(logits);
        }
        Ok(all)
    }
}

impl ClassifierEngine for CudaClassifier {
    type Images = DeviceImages;

    fn input_shape(&self) -> ImageShape {
        self.shape
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn bytes(&self) -> usize {
        let constants = self.plan.steps.iter().map(|s| s.operation.constant_bytes());
        let arena = self.arena.as_ref().map_or(0, Buffer::len);
        constants.sum::<usize>() + arena * size_of::<f32>()
    }

    fn logits(&mut self, images: &[At<'_, DeviceImages>]) -> Result<Vec<f32>> {
        check_classified(images, self.shape)?;
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let arena = self.reserve(self.logits.arena)?;
        let batches = images.chunks(self.batch);
        let logits = batches.map(|batch| self.run_forward(&self.logits, &arena, batch));
        let logits: Result<Vec<Vec<f32>>> = logits.collect();
        self.arena = Some(arena);
        Ok(logits?.concat())
    }

    fn gradient(
        &mut self,
        images: &[At<'_, DeviceImages>],
        loss_gradient: &mut LossGradient<'_>,
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<Vec<f32>> {
        check_classified(images, self.shape)?;
        check_gradients(out, self.shape, first, images.len())?;
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let schedule = match self.gradient.take() {
            Some(schedule) => schedule,
            None => Schedule::new(&self.plan.outline(), true)?,
        };
        let mut arena = self.reserve(schedule.arena)?;
        let logits = self.run_gradient(&schedule, &mut arena, images, loss_gradient, out, first);
        self.arena = Some(arena);
        self.gradient = Some(schedule);
        logits
    }
}
