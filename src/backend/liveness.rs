//! When the buffers of a classifier's steps are alive, and so where they lie in an image's arena.

use super::placement::{Lifetime, place};
use crate::classifier::Function;
use crate::error::{Error, Result};

/// Names a buffer: an index into [`Outline::buffers`].
pub(super) type BufferId = usize;

/// Where a buffer lies in an arena, in the arena's units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub offset: usize,
    pub len: usize,
}

/// What a backward pass reads of the forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    pub inputs: bool,
    pub output: bool,
}

/// What a step works on. Lengths are in the arena's units.
#[derive(Clone, Copy, Debug)]
pub(super) struct LiveStep<'a> {
    pub inputs: &'a [BufferId],
    pub output: BufferId,
    /// What the step ends with; whoever runs the schedule takes the gradient through it.
    pub activation: Option<Function>,
    pub reads: Reads,
    /// Scratch memory of the forward pass.
    pub scratch: usize,
    /// Scratch memory of the backward pass.
    pub backward_scratch: usize,
}

/// Steps in the order in which they run, and the lengths of their buffers.
#[derive(Clone, Debug)]
pub(super) struct Outline<'a> {
    pub steps: Vec<LiveStep<'a>>,
    pub buffers: &'a [usize],
    /// The image and the logits.
    pub input: BufferId,
    pub output: BufferId,
}

/// Where a step's forward pass reads and writes.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    pub inputs: Vec<Span>,
    pub output: Span,
    /// Where the argument of the activation is kept, when its derivative needs it.
    pub argument: Option<Span>,
    pub scratch: Span,
}

/// Where a step's backward pass reads and writes.
#[derive(Clone, Debug)]
pub(super) struct Backward {
    pub step: usize,
    /// Of the activation, the value or argument that gives its derivative.
    pub known: Option<Span>,
    pub inputs: Vec<Span>,
    pub output: Span,
    pub gradient: Span,
    pub scratch: Span,
    pub calls: Vec<Call>,
}

/// The gradient by one input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub input: usize,
    pub to: Span,
    /// Whether another step has already written there.
    pub accumulate: bool,
}

/// A pass over steps, with every buffer's place.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    /// Length of an arena.
    pub arena: usize,
    pub input: Span,
    pub output: Span,
    pub forward: Vec<Forward>,
    /// The gradient by the logits and, where they depend on it, by the image.
    pub loss: Span,
    pub by_input: Option<Span>,
    /// In the order in which they run.
    pub backward: Vec<Backward>,
}

/// Memory objects, with their lifetimes.
#[derive(Default)]
struct Objects(Vec<Lifetime>);

impl Objects {
    /// A new object, first written at `time`.
    fn add(&mut self, len: usize, time: usize) -> usize {
        self.0.push(Lifetime {
            len,
            first: time,
            last: time,
        });
        self.0.len() - 1
    }

    fn extend(&mut self, object: usize, time: usize) {
        let lifetime = &mut self.0[object];
        lifetime.last = lifetime.last.max(time);
    }
}

/// The backward pass of a step, before places are known; numbers are objects.
struct Draft {
    step: usize,
    known: Option<usize>,
    inputs: Vec<usize>,
    output: Option<usize>,
    gradient: usize,
    scratch: usize,
    calls: Vec<(usize, usize, bool)>,
}

impl Schedule {
    /// A forward pass, and the backward pass if wanted.
    ///
    /// # Errors
    /// The arena would be beyond the address space.
    pub(super) fn new(plan: &Outline<'_>, gradient: bool) -> Result<Schedule> {
        let steps = &plan.steps;
        // Time 0 writes the image, step i runs at i + 1, the loss follows, then steps in reverse.
        let loss = steps.len() + 1;
        let back = |step: usize| loss + steps.len() - step;
        let end = loss + steps.len() + 1;
        let mut objects = Objects::default();
        let values: Vec<usize> = plan
            .buffers
            .iter()
            .map(|&len| objects.add(len, 0))
            .collect();
        let mut scratches = Vec::new();
        let mut arguments = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            let time = i + 1;
            objects.0[values[step.output]].first = time;
            objects.extend(values[step.output], time);
            for &input in step.inputs {
                objects.extend(values[input], time);
            }
            scratches.push(objects.add(step.scratch, time));
            let keeps = gradient && step.activation.is_some_and(|f| !f.derivative_from_value());
            arguments.push(keeps.then(|| objects.add(plan.buffers[step.output], time)));
        }
        objects.extend(values[plan.output], loss);

        let depends = depends_on_input(plan);
        let mut gradients: Vec<Option<usize>> = vec![None; plan.buffers.len()];
        let by_logits = objects.add(
            if gradient {
                plan.buffers[plan.output]
            } else {
                0
            },
            loss,
        );
        if gradient {
            gradients[plan.output] = Some(by_logits);
        }
        let mut drafts = Vec::new();
        for (i, step) in steps.iter().enumerate().rev() {
            let Some(by_output) = gradients[step.output] else {
                continue;
            };
            if !depends[step.output] {
                continue;
            }
            let time = back(i);
            objects.extend(by_output, time);
            let known = step.activation.map(|_| {
                let known = arguments[i].unwrap_or(values[step.output]);
                objects.extend(known, time);
                known
            });
            let mut inputs = Vec::new();
            if step.reads.inputs {
                for &input in step.inputs {
                    objects.extend(values[input], time);
                    inputs.push(values[input]);
                }
            }
            let output = step.reads.output.then(|| {
                objects.extend(values[step.output], time);
                values[step.output]
            });
            let mut calls = Vec::new();
            for (n, &input) in step.inputs.iter().enumerate() {
                if !depends[input] {
                    continue;
                }
                let accumulate = gradients[input].is_some();
                let to =
                    *gradients[input].get_or_insert_with(|| objects.add(plan.buffers[input], time));
                calls.push((n, to, accumulate));
            }
            drafts.push(Draft {
                step: i,
                known,
                inputs,
                output,
                gradient: by_output,
                scratch: objects.add(step.backward_scratch, time),
                calls,
            });
        }
        let by_input = gradients[plan.input];
        if let Some(object) = by_input {
            objects.extend(object, end);
        }

        let placement = place(&objects.0)
            .filter(|placement| placement.len <= isize::MAX as usize / 64)
            .ok_or_else(|| {
                Error::invalid("the model's activations are beyond the address space")
            })?;
        let at = |object: usize| Span {
            offset: placement.offsets[object],
            len: objects.0[object].len,
        };
        let places = |list: &[usize]| list.iter().map(|&object| at(object)).collect();
        let of_buffers = |list: &[BufferId]| list.iter().map(|&b| at(values[b])).collect();
        let forward = steps
            .iter()
            .enumerate()
            .map(|(i, step)| Forward {
                inputs: of_buffers(step.inputs),
                output: at(values[step.output]),
                argument: arguments[i].map(at),
                scratch: at(scratches[i]),
            })
            .collect();
        let backward = drafts
            .iter()
            .map(|draft| Backward {
                step: draft.step,
                known: draft.known.map(at),
                inputs: places(&draft.inputs),
                output: draft.output.map(at).unwrap_or_default(),
                gradient: at(draft.gradient),
                scratch: at(draft.scratch),
                calls: draft
                    .calls
                    .iter()
                    .map(|&(input, to, accumulate)| Call {
                        input,
                        to: at(to),
                        accumulate,
                    })
                    .collect(),
            })
            .collect();
        Ok(Schedule {
            arena: placement.len,
            input: at(values[plan.input]),
            output: at(values[plan.output]),
            forward,
            loss: at(by_logits),
            by_input: by_input.map(at),
            backward,
        })
    }
}

/// Which buffers are computed from the image.
fn depends_on_input(plan: &Outline<'_>) -> Vec<bool> {
    let mut depends = vec![false; plan.buffers.len()];
    depends[plan.input] = true;
    for step in &plan.steps {
        depends[step.output] = step.inputs.iter().any(|&input| depends[input]);
    }
    depends
}
