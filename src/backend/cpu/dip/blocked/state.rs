//! What an instance keeps between iterations.

use super::plan::BlockedPlan;
use crate::backend::cpu::blocked::{PackedWeights, layout};
use crate::backend::cpu::dip::lanes::adam::{Rates, step};
use crate::backend::cpu::simd::{Isa, LANES, Lanes};
use crate::dip::{NetSpec, initial_input, initial_parameters};
use crate::error::{Error, Result};
use crate::random::RandomKey;
use rayon::prelude::*;

/// Lanes that an optimizer's work item moves.
const CHUNK: usize = 4096;

/// Zeroed memory.
///
/// # Errors
/// It is not to be had.
pub(super) fn zeroed(n: usize) -> Result<Vec<Lanes>> {
    bytemuck::allocation::try_zeroed_vec(n).map_err(|()| {
        Error::invalid(
            "no memory for a DIP network on a picture of this size; use tiles or a smaller network",
        )
    })
}

/// Numbers that Adam moves, their gradient and its moments.
pub(super) struct Trained {
    pub values: Vec<Lanes>,
    pub gradient: Vec<Lanes>,
    first: Vec<Lanes>,
    second: Vec<Lanes>,
}

impl Trained {
    fn new(n: usize) -> Result<Trained> {
        Ok(Trained {
            values: zeroed(n)?,
            gradient: zeroed(n)?,
            first: zeroed(n)?,
            second: zeroed(n)?,
        })
    }

    fn reset(&mut self) {
        self.first.fill(Lanes::ZERO);
        self.second.fill(Lanes::ZERO);
    }

    fn step(&mut self, rates: &Rates) {
        adam(
            rates,
            &mut self.values,
            &mut self.first,
            &mut self.second,
            &self.gradient,
        );
    }
}

/// A convolution's weights, the same way.
pub(super) struct Weights {
    pub values: PackedWeights,
    pub gradient: PackedWeights,
    first: Vec<Lanes>,
    second: Vec<Lanes>,
}

fn adam(
    rates: &Rates,
    values: &mut [Lanes],
    first: &mut [Lanes],
    second: &mut [Lanes],
    gradient: &[Lanes],
) {
    values
        .par_chunks_mut(CHUNK)
        .zip(first.par_chunks_mut(CHUNK))
        .zip(second.par_chunks_mut(CHUNK))
        .zip(gradient.par_chunks(CHUNK))
        .for_each(|(((values, first), second), gradient)| {
            step(Isa::detect(), rates, values, first, second, gradient);
        });
}

/// Groups of lanes that an instance takes.
pub(super) fn lanes(plan: &BlockedPlan) -> usize {
    let plane = plan.size[0] * plan.size[1];
    let spec = &plan.spec;
    let weights: usize = plan.convs.iter().map(|conv| conv.packed()).sum();
    let norms: usize = plan.norms.iter().map(|norm| 2 * norm.groups()).sum();
    let copies = if spec.optimize_input { 4 } else { 1 };
    let input = copies * layout::groups(spec.input_depth) * plane;
    4 * (weights + norms) + input + 2 * layout::groups(spec.output_channels) * plane
}

/// One instance.
pub(super) struct State {
    /// `None` where the slot is free.
    pub key: Option<RandomKey>,
    /// Iterations behind it.
    pub iteration: u32,
    /// Mean squared error of the last one.
    pub loss: f64,
    /// One for each convolution.
    pub weights: Vec<Weights>,
    /// Biases of convolutions that a normalization follows, which subtracts them again: they are kept,
    /// not used, and their gradient is zero.
    biases: Vec<Vec<f32>>,
    /// Bias of the last convolution.
    pub bias: Trained,
    /// Weight and bias of each normalization, its tensors' channels in groups of their own.
    pub norms: Vec<[Trained; 2]>,
    pub input: Trained,
    pub target: Vec<Lanes>,
    /// The last output, or the outputs' average.
    pub picture: Vec<Lanes>,
}

impl State {
    /// # Errors
    /// There is too little memory.
    pub(super) fn new(plan: &BlockedPlan) -> Result<State> {
        let plane = plan.size[0] * plan.size[1];
        let picture = layout::groups(plan.spec.output_channels) * plane;
        let input = layout::groups(plan.spec.input_depth) * plane;
        let moved = if plan.spec.optimize_input { input } else { 0 };
        let weights = plan.convs.iter().map(|conv| {
            let values = PackedWeights::zeroed_forward(&conv.shape, &conv.sources)?;
            Ok(Weights {
                gradient: PackedWeights::zeroed_forward(&conv.shape, &conv.sources)?,
                first: zeroed(values.data().len())?,
                second: zeroed(values.data().len())?,
                values,
            })
        });
        let norms = plan
            .norms
            .iter()
            .map(|norm| Ok([Trained::new(norm.groups())?, Trained::new(norm.groups())?]));
        let biases = plan.convs[..plan.last()].iter();
        Ok(State {
            key: None,
            iteration: 0,
            loss: 0.0,
            weights: weights.collect::<Result<_>>()?,
            biases: biases.map(|conv| vec![0.0; conv.bias.len()]).collect(),
            bias: Trained::new(layout::groups(plan.spec.output_channels))?,
            norms: norms.collect::<Result<_>>()?,
            input: Trained {
                values: zeroed(input)?,
                ..Trained::new(moved)?
            },
            target: zeroed(picture)?,
            picture: zeroed(picture)?,
        })
    }

    /// Starts an instance.
    pub(super) fn load(&mut self, plan: &BlockedPlan, target: &[f32], key: RandomKey) {
        let [height, width] = plan.size;
        let plane = height * width;
        self.key = Some(key);
        self.iteration = 0;
        self.set_parameters(plan, &initial_parameters(&plan.spec, &key));
        self.set_input(&initial_input(&plan.spec, height, width, &key), plane);
        layout::block(target, plane, &mut self.target);
        self.picture.fill(Lanes::ZERO);
        for weights in &mut self.weights {
            weights.first.fill(Lanes::ZERO);
            weights.second.fill(Lanes::ZERO);
        }
        self.norms
            .as_flattened_mut()
            .iter_mut()
            .for_each(Trained::reset);
        self.bias.reset();
        self.input.reset();
    }

    /// Replaces the parameters, in layout order.
    pub(super) fn set_parameters(&mut self, plan: &BlockedPlan, values: &[f32]) {
        for (conv, weights) in plan.convs.iter().zip(&mut self.weights) {
            weights.values.set_oihw(&values[conv.weight.clone()]);
        }
        for (conv, bias) in plan.convs.iter().zip(&mut self.biases) {
            bias.copy_from_slice(&values[conv.bias.clone()]);
        }
        let bias = &values[plan.convs[plan.last()].bias.clone()];
        layout::block(bias, 1, &mut self.bias.values);
        for (norm, trained) in plan.norms.iter().zip(&mut self.norms) {
            let [weight, bias] = trained;
            join(
                &norm.tensors,
                &values[norm.weight.clone()],
                &mut weight.values,
            );
            join(&norm.tensors, &values[norm.bias.clone()], &mut bias.values);
        }
    }

    /// Parameters, in layout order.
    pub(super) fn parameters(&self, plan: &BlockedPlan) -> Vec<f64> {
        let mut out = self.collect(plan, |t| &t.values, |w| &w.values);
        for (conv, bias) in plan.convs.iter().zip(&self.biases) {
            for (out, &bias) in out[conv.bias.clone()].iter_mut().zip(bias) {
                *out = bias.into();
            }
        }
        out
    }

    /// Gradients of the last iteration, in layout order.
    pub(super) fn gradients(&self, plan: &BlockedPlan) -> Vec<f64> {
        self.collect(plan, |t| &t.gradient, |w| &w.gradient)
    }

    fn collect(
        &self,
        plan: &BlockedPlan,
        trained: impl Fn(&Trained) -> &Vec<Lanes>,
        packed: impl Fn(&Weights) -> &PackedWeights,
    ) -> Vec<f64> {
        let mut out = vec![0.0; plan.parameters];
        let mut put = |range: &std::ops::Range<usize>, values: Vec<f32>| {
            for (out, value) in out[range.clone()].iter_mut().zip(values) {
                *out = value.into();
            }
        };
        for (conv, weights) in plan.convs.iter().zip(&self.weights) {
            put(&conv.weight, packed(weights).to_oihw());
        }
        let last = &plan.convs[plan.last()];
        put(&last.bias, split(&[last.bias.len()], trained(&self.bias)));
        for (norm, [weight, bias]) in plan.norms.iter().zip(&self.norms) {
            put(&norm.weight, split(&norm.tensors, trained(weight)));
            put(&norm.bias, split(&norm.tensors, trained(bias)));
        }
        out
    }

    /// Replaces the input, CHW.
    pub(super) fn set_input(&mut self, pixels: &[f32], plane: usize) {
        layout::block(pixels, plane, &mut self.input.values);
    }

    /// One step of Adam on everything that is optimized.
    pub(super) fn step(&mut self, spec: &NetSpec) {
        self.iteration += 1;
        let rates = Rates::new(spec.learning_rate, [self.iteration; LANES]);
        for w in &mut self.weights {
            adam(
                &rates,
                w.values.data_mut(),
                &mut w.first,
                &mut w.second,
                w.gradient.data(),
            );
        }
        for trained in self.norms.as_flattened_mut() {
            trained.step(&rates);
        }
        self.bias.step(&rates);
        if spec.optimize_input {
            self.input.step(&rates);
        }
    }
}

/// Channel values of several tensors, each in groups of its own.
fn join(tensors: &[usize], values: &[f32], out: &mut [Lanes]) {
    let (mut channel, mut group) = (0, 0);
    for &count in tensors {
        let groups = layout::groups(count);
        layout::block(
            &values[channel..channel + count],
            1,
            &mut out[group..group + groups],
        );
        channel += count;
        group += groups;
    }
}

/// The inverse of [`join`].
fn split(tensors: &[usize], values: &[Lanes]) -> Vec<f32> {
    let mut out = vec![0.0; tensors.iter().sum()];
    let (mut channel, mut group) = (0, 0);
    for &count in tensors {
        let groups = layout::groups(count);
        layout::unblock(
            &values[group..group + groups],
            1,
            &mut out[channel..channel + count],
        );
        channel += count;
        group += groups;
    }
    out
}
