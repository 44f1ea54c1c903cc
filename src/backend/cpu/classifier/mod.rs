//! The cpu backend's classifier engine.
//!
//! A graph becomes a plan of steps over buffers (`plan`), whose spans in one arena per image in
//! flight are fixed by their lifetimes (`schedule`). Steps are operations with their
//! constants packed once, one file per family. Images run side by side, one a thread; what is left of
//! a batch, and a single image, is shared out within the steps.

mod broadcast;
mod conv;
mod elementwise;
mod gemm;
mod layout;
mod matmul;
mod moves;
mod normalize;
mod operation;
mod plan;
mod pool;
mod reduce;
mod scale_shift;
mod scatter;
mod softmax;
#[cfg(test)]
mod tests;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use self::operation::{Backward, Inputs, numbers, numbers_mut};
use self::plan::ClassifierPlan;
use crate::backend::checks::{check_classified, check_gradients};
use crate::backend::cpu::simd::Lanes;
use crate::backend::host::HostImages;
use crate::backend::liveness::{Schedule, Span};
use crate::backend::{At, ClassifierEngine, ImageShape, LossGradient};
use crate::classifier::Graph;
use crate::error::{Error, Result};

/// Runs any [`Graph`] in float32.
///
/// What it says of an image has the same bits in any batch and on any number of threads.
pub struct CpuClassifier {
    shape: ImageShape,
    classes: usize,
    batch: usize,
    plan: ClassifierPlan,
    logits: Schedule,
    /// Made when a gradient is first asked for.
    gradient: Option<Schedule>,
    /// One for each image in flight.
    arenas: Vec<Mutex<Vec<Lanes>>>,
}

impl CpuClassifier {
    /// An engine that has up to `batch` images in flight, one a thread.
    ///
    /// # Errors
    /// Shapes beyond what this machine can address; the message names the node.
    pub fn new(graph: &Graph, batch: usize) -> Result<Self> {
        let plan = ClassifierPlan::new(graph)?;
        let logits = Schedule::new(&plan.outline(), false)?;
        Ok(CpuClassifier {
            shape: graph.input_shape(),
            classes: graph.classes(),
            batch: batch.max(1),
            plan,
            logits,
            gradient: None,
            arenas: Vec::new(),
        })
    }

    /// Makes arenas of `len` groups for as many of `images` as run at once. Returns how many.
    fn reserve(&mut self, images: usize, len: usize) -> Result<usize> {
        let wanted = images.min(self.batch).min(rayon::current_num_threads());
        while self.arenas.len() < wanted {
            self.arenas.push(Mutex::default());
        }
        for arena in &mut self.arenas[..wanted] {
            let arena = arena.get_mut().map_err(|_| failed())?;
            if arena.len() < len {
                let bytes = len * size_of::<Lanes>();
                arena.try_reserve_exact(len - arena.len()).map_err(|_| {
                    Error::invalid(format!(
                        "no memory for the classifier's activations, {bytes} bytes an image"
                    ))
                })?;
                arena.resize(len, Lanes::ZERO);
            }
        }
        Ok(wanted)
    }

    fn run_forward(&self, schedule: &Schedule, arena: &mut [Lanes], pixels: &[f32]) {
        let arena = Arena::new(arena, schedule);
        // SAFETY: here and below, spans that a schedule gives to what is alive at the same time are
        // disjoint, and all lie within the arena.
        unsafe {
            numbers_mut(arena.get_mut(schedule.input))[..pixels.len()].copy_from_slice(pixels);
            for (step, at) in self.plan.steps.iter().zip(&schedule.forward) {
                let inputs = Inputs::new(arena.base, &at.inputs);
                let output = arena.get_mut(at.output);
                let scratch = arena.get_mut(at.scratch);
                match (at.argument, step.activation) {
                    (Some(argument), Some(function)) => {
                        let argument = arena.get_mut(argument);
                        step.operation.forward(inputs, None, argument, scratch);
                        elementwise::apply(function, argument, output);
                    }
                    _ => step
                        .operation
                        .forward(inputs, step.activation, output, scratch),
                }
            }
        }
    }

    /// Writes the gradient by the image, given that by the logits; after [`Self::run_forward`].
    fn run_backward(
        &self,
        schedule: &Schedule,
        arena: &mut [Lanes],
        by_logits: &[f32],
        out: &mut [f32],
    ) {
        let arena = Arena::new(arena, schedule);
        // SAFETY: as in `run_forward`.
        unsafe {
            numbers_mut(arena.get_mut(schedule.loss))[..by_logits.len()].copy_from_slice(by_logits);
            for at in &schedule.backward {
                let step = &self.plan.steps[at.step];
                if let (Some(function), Some(known)) = (step.activation, at.known) {
                    elementwise::chain(function, arena.get(known), arena.get_mut(at.gradient));
                }
                for call in &at.calls {
                    step.operation.backward(Backward {
                        input: call.input,
                        inputs: Inputs::new(arena.base, &at.inputs),
                        output: arena.get(at.output),
                        gradient: arena.get(at.gradient),
                        to: arena.get_mut(call.to),
                        accumulate: call.accumulate,
                        scratch: arena.get_mut(at.scratch),
                    });
                }
            }
            match schedule.by_input {
                Some(span) => out.copy_from_slice(&numbers(arena.get(span))[..out.len()]),
                None => out.fill(0.0),
            }
        }
    }
}

impl CpuClassifier {
    /// As many images at a time as there are arenas: all forward, their losses on the calling thread
    /// in the images' order, all backward.
    fn run_gradient(
        &mut self,
        schedule: &Schedule,
        images: &[At<'_, HostImages<f32>>],
        mut loss_gradient: impl FnMut(usize, &[f32], &mut [f32]),
        out: &mut HostImages<f32>,
        first: usize,
    ) -> Result<Vec<f32>> {
        let workers = self.reserve(images.len(), schedule.arena)?;
        let classes = self.classes;
        let mut logits = vec![0.0; images.len() * classes];
        let mut by_logits = vec![0.0; workers * classes];
        for start in (0..images.len()).step_by(workers.max(1)) {
            let wave = &images[start..images.len().min(start + workers)];
            let logits = &mut logits[start * classes..][..wave.len() * classes];
            {
                let rows = rows(logits, classes);
                each_image(wave.len(), wave.len(), |_, i| {
                    if let (Ok(mut arena), Ok(mut row)) = (self.arenas[i].lock(), rows[i].lock()) {
                        self.run_forward(schedule, &mut arena, wave[i].pixels());
                        let Span { offset, len } = schedule.output;
                        row.copy_from_slice(&numbers(&arena[offset..][..len])[..classes]);
                    }
                });
            }
            by_logits.fill(0.0);
            for i in 0..wave.len() {
                let row = i * classes..(i + 1) * classes;
                loss_gradient(start + i, &logits[row.clone()], &mut by_logits[row]);
            }
            let pixels = out.images_mut(first + start, wave.len());
            let rows = rows(pixels, self.shape.elements());
            each_image(wave.len(), wave.len(), |_, i| {
                if let (Ok(mut arena), Ok(mut row)) = (self.arenas[i].lock(), rows[i].lock()) {
                    let by_logits = &by_logits[i * classes..][..classes];
                    self.run_backward(schedule, &mut arena, by_logits, &mut row);
                }
            });
        }
        Ok(logits)
    }
}

/// A panic in an earlier call left an arena in an unknown state.
fn failed() -> Error {
    Error::Device("the classifier failed in an earlier call".into())
}

/// The spans of a schedule in memory.
struct Arena {
    base: *mut Lanes,
}

impl Arena {
    fn new(arena: &mut [Lanes], schedule: &Schedule) -> Self {
        assert!(arena.len() >= schedule.arena);
        Arena {
            base: arena.as_mut_ptr(),
        }
    }

    /// # Safety
    /// The span lies within the arena, and nothing writes to it while the result is used.
    unsafe fn get<'a>(&self, span: Span) -> &'a [Lanes] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.base.add(span.offset), span.len) }
    }

    /// # Safety
    /// The span lies within the arena, and nothing else touches it while the result is used.
    unsafe fn get_mut<'a>(&self, span: Span) -> &'a mut [Lanes] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(span.offset), span.len) }
    }
}

/// Calls `f(worker, image)` for images `0..count`, on `workers` threads at once.
fn each_image(workers: usize, count: usize, f: impl Fn(usize, usize) + Sync) {
    let next = AtomicUsize::new(0);
    rayon::broadcast(|context| {
        // Threads beyond the workers help inside the images.
        if context.index() < workers {
            loop {
                let image = next.fetch_add(1, Ordering::Relaxed);
                if image >= count {
                    break;
                }
                f(context.index(), image);
            }
        }
    });
}

/// The rows of a buffer, each for one thread at a time.
fn rows(buffer: &mut [f32], row: usize) -> Vec<Mutex<&mut [f32]>> {
    buffer
        .chunks_exact_mut(row.max(1))
        .map(Mutex::new)
        .collect()
}

impl ClassifierEngine for CpuClassifier {
    type Images = HostImages<f32>;

    fn input_shape(&self) -> ImageShape {
        self.shape
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn bytes(&self) -> usize {
        let constants = self.plan.steps.iter().map(|s| s.operation.constant_bytes());
        let arena = |arena: &Mutex<Vec<Lanes>>| match arena.lock() {
            Ok(arena) => size_of_val(&**arena),
            Err(poisoned) => size_of_val(&**poisoned.into_inner()),
        };
        constants.sum::<usize>() + self.arenas.iter().map(arena).sum::<usize>()
    }

    fn logits(&mut self, images: &[At<'_, HostImages<f32>>]) -> Result<Vec<f32>> {
        check_classified(images, self.shape)?;
        let workers = self.reserve(images.len(), self.logits.arena)?;
        let mut logits = vec![0.0; images.len() * self.classes];
        let rows = rows(&mut logits, self.classes);
        each_image(workers, images.len(), |worker, i| {
            if let (Ok(mut arena), Ok(mut row)) = (self.arenas[worker].lock(), rows[i].lock()) {
                self.run_forward(&self.logits, &mut arena, images[i].pixels());
                let Span { offset, len } = self.logits.output;
                row.copy_from_slice(&numbers(&arena[offset..][..len])[..self.classes]);
            }
        });
        drop(rows);
        Ok(logits)
    }

    fn gradient(
        &mut self,
        images: &[At<'_, HostImages<f32>>],
        loss_gradient: &mut LossGradient<'_>,
        out: &mut HostImages<f32>,
        first: usize,
    ) -> Result<Vec<f32>> {
        check_classified(images, self.shape)?;
        check_gradients(out, self.shape, first, images.len())?;
        let schedule = match self.gradient.take() {
            Some(schedule) => schedule,
            None => {
                for step in &mut self.plan.steps {
                    step.operation.prepare_backward()?;
                }
                Schedule::new(&self.plan.outline(), true)?
            }
        };
        let loss = |i: usize, logits: &[f32], by: &mut [f32]| loss_gradient(i, logits, by);
        let result = self.run_gradient(&schedule, images, loss, out, first);
        self.gradient = Some(schedule);
        result
    }
}
