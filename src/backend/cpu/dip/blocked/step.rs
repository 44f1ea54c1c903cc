//! One iteration: forward, backward.

use std::mem::take;

use rayon::prelude::*;

use super::loss::{self, sigmoid_loss};
use super::norm::{Statistics, activate, partial_len};
use super::plan::BlockedPlan;
use super::resample::{upsample, upsample_backward};
use super::rounding::{self, Rounded};
use super::state::{State, Trained, Weights, zeroed};
use crate::backend::cpu::blocked::layout::groups;
use crate::backend::cpu::blocked::{
    ConvShape, Destination, Epilogue, PackedWeights, Source, backward_weights_workspace,
    conv_backward_data, conv_backward_weights, conv_forward,
};
use crate::backend::cpu::simd::{LANES, Lanes};
use crate::dip::LEAKY_SLOPE;
use crate::error::Result;
use crate::random::{Purpose, RandomKey};

const SLOPE: f32 = LEAKY_SLOPE as f32;

/// Memory of an iteration, which instances use in turn.
pub(super) struct Workspace {
    /// The input with its jitter; empty without jitter.
    jittered: Vec<Lanes>,
    /// Each convolution's output; the last one's becomes its gradient.
    raw: Vec<Vec<Lanes>>,
    /// Each normalization's statistics.
    norms: Vec<Statistics>,
    levels: Vec<LevelMemory>,
    gradients: Vec<LevelGradients>,
    /// Each convolution's weights for the way back, made anew in each iteration.
    transposed: Vec<PackedWeights>,
    /// Sums of chunks.
    partial: Vec<Lanes>,
    /// Sums of the weights' gradients.
    sums: Vec<Lanes>,
    /// Gradients of biases that nobody needs.
    biases: Vec<Lanes>,
    rounded: Rounded,
}

/// A level's activations that are not a convolution's output.
#[derive(Default)]
struct LevelMemory {
    /// The skip branch's output.
    skip: Vec<Lanes>,
    upsampled: Vec<Lanes>,
}

/// Gradients of a level's tensors, each first of the unit's output, then of its convolution's.
struct LevelGradients {
    /// In the end of the upsampled tensor.
    fuse: Vec<Lanes>,
    up: Vec<Lanes>,
    skip: Vec<Lanes>,
    mid: Vec<Lanes>,
    down: Vec<Lanes>,
}

/// Groups of lanes that a workspace takes, but for normalizations' sums, which are few.
pub(super) fn lanes(plan: &BlockedPlan) -> usize {
    let spec = &plan.spec;
    let levels = plan.levels.iter().enumerate().map(|(k, level)| {
        let (whole, lower) = (plane(level.size), plane(half(level.size)));
        let [deeper, up, down, skip] =
            [level.deeper, spec.up[k], spec.down[k], spec.skip[k]].map(groups);
        whole * (deeper + deeper.max(up) + up + 2 * skip) + lower * 2 * down
    });
    let convs = plan.convs.iter().map(|conv| conv.output() + conv.packed());
    let jittered = if spec.jitter > 0.0 {
        groups(spec.input_depth) * plane(plan.size)
    } else {
        0
    };
    let rounded: usize = rounding::lanes(plan).iter().sum();
    levels.sum::<usize>() + convs.sum::<usize>() + jittered + sums(plan) + rounded
}

/// Groups of lanes that the sums of the largest weights' gradient take.
fn sums(plan: &BlockedPlan) -> usize {
    let sums = plan
        .convs
        .iter()
        .map(|c| backward_weights_workspace(&c.shape));
    sums.max().unwrap_or(0)
}

/// What a convolution reads.
#[derive(Clone, Copy)]
enum Input<'a> {
    /// The input of a level, and the network's.
    Level(usize, &'a [Lanes]),
    /// A unit's output.
    Unit(usize),
    /// What a level merges.
    Merged(usize),
}

/// Pixels of a picture.
fn plane(size: [usize; 2]) -> usize {
    size[0] * size[1]
}

/// The size of the next level.
fn half(size: [usize; 2]) -> [usize; 2] {
    size.map(|n| n / 2)
}

/// Output pixels of a convolution.
fn out_plane(shape: &ConvShape) -> usize {
    plane(shape.output())
}

impl Workspace {
    /// # Errors
    /// There is too little memory.
    pub(super) fn new(plan: &BlockedPlan, state: &State) -> Result<Workspace> {
        let spec = &plan.spec;
        let picture = plane(plan.size);
        let jittered = if spec.jitter > 0.0 {
            groups(spec.input_depth) * picture
        } else {
            0
        };
        let mut levels = vec![];
        let mut gradients = vec![];
        for (k, level) in plan.levels.iter().enumerate() {
            let (whole, lower) = (plane(level.size), plane(half(level.size)));
            let deeper = groups(level.deeper);
            let [down, up] = [spec.down[k], spec.up[k]].map(groups);
            let skip = groups(spec.skip[k]);
            levels.push(LevelMemory {
                skip: zeroed(skip * whole)?,
                upsampled: zeroed(deeper * whole)?,
            });
            gradients.push(LevelGradients {
                fuse: zeroed(deeper.max(up) * whole)?,
                up: zeroed(up * whole)?,
                skip: zeroed(skip * whole)?,
                mid: zeroed(down * lower)?,
                down: zeroed(down * lower)?,
            });
        }
        let raw = plan.convs.iter().map(|conv| zeroed(conv.output()));
        let widest = plan.norms.iter().map(|n| n.groups()).max().unwrap_or(0);
        let partial = partial_len(widest, picture)
            .max(loss::partial_len(groups(spec.output_channels), picture));
        Ok(Workspace {
            jittered: zeroed(jittered)?,
            raw: raw.collect::<Result<_>>()?,
            norms: plan
                .norms
                .iter()
                .map(|norm| Statistics::new(norm.groups()))
                .collect(),
            levels,
            gradients,
            transposed: state
                .weights
                .iter()
                .map(|w| w.values.zeroed_transpose())
                .collect(),
            partial: zeroed(partial)?,
            sums: zeroed(sums(plan))?,
            biases: zeroed(widest)?,
            rounded: Rounded::new(plan)?,
        })
    }

    /// Forward and backward: leaves loss, picture and gradients in `state`.
    ///
    /// # Errors
    /// None in a plan that was made.
    pub(super) fn iterate(
        &mut self,
        plan: &BlockedPlan,
        state: &mut State,
        key: &RandomKey,
    ) -> Result<()> {
        if plan.spec.jitter > 0.0 {
            self.jitter(plan, state, key);
        }
        self.forward(plan, state)?;
        let spec = &plan.spec;
        let keep = if state.iteration == 0 {
            0.0
        } else {
            spec.averaging
        };
        state.loss = sigmoid_loss(
            &mut self.raw[plan.last()],
            &state.target,
            &mut state.picture,
            spec.output_channels,
            plane(plan.size),
            keep,
            &mut self.partial,
        );
        self.backward(plan, state)
    }

    /// Adds this iteration's noise to the input.
    fn jitter(&mut self, plan: &BlockedPlan, state: &State, key: &RandomKey) {
        let (plane, depth) = (plane(plan.size), plan.spec.input_depth);
        // Sides are even, so a plane is a whole number of the generator's blocks of four.
        self.jittered
            .par_chunks_exact_mut(4)
            .zip(state.input.values.par_chunks_exact(4))
            .enumerate()
            .with_min_len(64)
            .for_each(|(quad, (out, from))| {
                out.copy_from_slice(from);
                let (group, pixel) = (quad * 4 / plane, quad * 4 % plane);
                let channels = (depth - group * LANES).min(LANES);
                for lane in 0..channels {
                    let block = ((group * LANES + lane) * plane + pixel) / 4;
                    let four = key.normals(Purpose::Jitter, state.iteration, block as u32);
                    for (out, g) in out.iter_mut().zip(four) {
                        out.0[lane] += plan.spec.jitter * g;
                    }
                }
            });
    }

    /// A unit's output: its convolution's, normalized and activated by whoever reads it.
    fn unit<'a>(&'a self, plan: &BlockedPlan, i: usize) -> Source<'a> {
        let channels = plan.convs[i].shape.out_channels;
        Source {
            data: &self.raw[i],
            channels,
            affine: Some(self.norms[i].affine(0..groups(channels), SLOPE)),
        }
    }

    /// The input of level `k`.
    fn input<'a>(&'a self, plan: &BlockedPlan, z: &'a [Lanes], k: usize) -> Source<'a> {
        match k {
            0 if plan.spec.jitter > 0.0 => Source::plain(&self.jittered, plan.spec.input_depth),
            0 => Source::plain(z, plan.spec.input_depth),
            _ => self.unit(plan, plan.levels[k - 1].mid),
        }
    }

    /// What level `k` upsamples.
    fn deeper<'a>(&'a self, plan: &BlockedPlan, k: usize) -> Source<'a> {
        match plan.levels.get(k + 1) {
            Some(level) => self.unit(plan, level.fuse),
            None => self.unit(plan, plan.levels[k].mid),
        }
    }

    /// The input of level `k`'s up convolution: skip branch and upsampled tensor, normalized together.
    /// Without a skip branch the first is empty.
    fn merged<'a>(&'a self, plan: &BlockedPlan, k: usize) -> [Source<'a>; 2] {
        let (skip, deeper) = (plan.spec.skip[k], plan.levels[k].deeper);
        let memory = &self.levels[k];
        let norm = &self.norms[plan.levels[k].merge];
        let (first, end) = (groups(skip), groups(skip) + groups(deeper));
        [
            (&memory.skip, skip, 0..first),
            (&memory.upsampled, deeper, first..end),
        ]
        .map(|(data, channels, groups)| Source {
            data,
            channels,
            affine: Some(norm.affine(groups, 1.0)),
        })
    }

    /// A convolution's input; without a skip branch the first of the two tensors is empty.
    fn sources<'a>(&'a self, plan: &BlockedPlan, input: Input<'a>) -> [Source<'a>; 2] {
        match input {
            Input::Level(k, z) => alone(self.input(plan, z, k)),
            Input::Unit(i) => alone(self.unit(plan, i)),
            Input::Merged(k) => self.merged(plan, k),
        }
    }

    /// Measures tensor `data`, groups `first ..` of normalization `i`.
    fn measure(&mut self, state: &State, i: usize, first: usize, data: &[Lanes], plane: usize) {
        let [weight, bias] = &state.norms[i];
        self.norms[i].measure(
            first,
            data,
            plane,
            &weight.values,
            &bias.values,
            &mut self.partial,
        );
    }

    /// Runs convolution `i` on `sources`, and measures its output.
    fn convolve(
        &mut self,
        plan: &BlockedPlan,
        state: &State,
        i: usize,
        input: Input,
    ) -> Result<()> {
        let shape = &plan.convs[i].shape;
        let mut raw = take(&mut self.raw[i]);
        let last = i == plan.last();
        let epilogue = Epilogue {
            bias: last.then_some(&state.bias.values[..]),
            ..Epilogue::default()
        };
        let weights = &state.weights[i].values;
        let mut rounded = take(&mut self.rounded);
        let sources = self.sources(plan, input);
        if plan.convs[i].rounded {
            let sources = rounding::of_sources(&mut rounded.inputs, sources, plane(shape.input));
            let weights = rounding::of_weights(weights);
            conv_forward(shape, 1, some(&sources), &weights, &epilogue, &mut raw)?;
        } else {
            conv_forward(shape, 1, some(&sources), weights, &epilogue, &mut raw)?;
        }
        self.rounded = rounded;
        if !last {
            self.measure(state, i, 0, &raw, out_plane(shape));
        }
        self.raw[i] = raw;
        Ok(())
    }

    fn forward(&mut self, plan: &BlockedPlan, state: &State) -> Result<()> {
        let z = &state.input.values;
        for (k, level) in plan.levels.iter().enumerate() {
            if let Some(skip) = level.skip {
                self.convolve(plan, state, skip, Input::Level(k, z))?;
            }
            self.convolve(plan, state, level.down, Input::Level(k, z))?;
            self.convolve(plan, state, level.mid, Input::Unit(level.down))?;
        }
        for (k, level) in plan.levels.iter().enumerate().rev() {
            let whole = plane(level.size);
            let mut memory = take(&mut self.levels[k]);
            if let Some(skip) = level.skip {
                let source = self.unit(plan, skip);
                if let Some(affine) = source.affine {
                    activate(affine, source.data, whole, &mut memory.skip);
                }
                self.measure(state, level.merge, 0, &memory.skip, whole);
            }
            let source = self.deeper(plan, k);
            if let Some(affine) = source.affine {
                let (mode, size) = (plan.spec.upsample, half(level.size));
                upsample(mode, affine, source.data, size, &mut memory.upsampled);
            }
            let first = groups(plan.spec.skip[k]);
            self.measure(state, level.merge, first, &memory.upsampled, whole);
            self.levels[k] = memory;
            self.convolve(plan, state, level.up, Input::Merged(k))?;
            self.convolve(plan, state, level.fuse, Input::Unit(level.up))?;
        }
        let fuse = plan.levels[0].fuse;
        self.convolve(plan, state, plan.last(), Input::Unit(fuse))
    }

    /// Turns the gradient of unit `i`'s output into that of its convolution's, in place.
    fn normalize_backward(&mut self, norms: &mut [[Trained; 2]], i: usize, gradient: &mut [Lanes]) {
        let [weight, bias] = &mut norms[i];
        let raw = &self.raw[i];
        self.norms[i].backward(
            0,
            SLOPE,
            raw,
            gradient,
            raw.len() / weight.values.len(),
            &mut weight.gradient,
            &mut bias.gradient,
            &mut self.partial,
        );
    }

    /// The same for the tensors that level `k` merges, `skip` and `upsampled` their gradients.
    fn merge_backward(
        &mut self,
        plan: &BlockedPlan,
        k: usize,
        norms: &mut [[Trained; 2]],
        skip: &mut [Lanes],
        upsampled: &mut [Lanes],
    ) {
        let level = &plan.levels[k];
        let [weight, bias] = &mut norms[level.merge];
        let first = groups(plan.spec.skip[k]);
        let memory = &self.levels[k];
        for (first, data, gradient) in [
            (0, &memory.skip, skip),
            (first, &memory.upsampled, upsampled),
        ] {
            self.norms[level.merge].backward(
                first,
                1.0,
                data,
                gradient,
                plane(level.size),
                &mut weight.gradient,
                &mut bias.gradient,
                &mut self.partial,
            );
        }
    }

    /// Gradients of convolution `i`'s weights, and of its input where `to` wants it.
    fn convolve_backward(
        &mut self,
        plan: &BlockedPlan,
        weights: &mut [Weights],
        i: usize,
        gradient: &[Lanes],
        input: Input,
        to: &mut [Destination],
    ) -> Result<()> {
        let (shape, weights) = (&plan.convs[i].shape, &mut weights[i]);
        let rounds = plan.convs[i].rounded;
        let mut rounded = take(&mut self.rounded);
        let gradient = match rounds {
            true => rounding::of_gradient(&mut rounded.gradient, gradient),
            false => gradient,
        };
        if !to.is_empty() {
            let transposed = &mut self.transposed[i];
            weights.values.transpose_into(transposed);
            if rounds {
                rounding::round(transposed.data_mut());
            }
            conv_backward_data(shape, 1, gradient, transposed, to)?;
        }
        let (mut sums, mut biases) = (take(&mut self.sums), take(&mut self.biases));
        let mut sources = self.sources(plan, input);
        if rounds {
            sources = rounding::of_sources(&mut rounded.inputs, sources, plane(shape.input));
        }
        conv_backward_weights(
            shape,
            1,
            some(&sources),
            gradient,
            &mut weights.gradient,
            &mut biases[..groups(shape.out_channels)],
            &mut sums,
        )?;
        (self.sums, self.biases, self.rounded) = (sums, biases, rounded);
        Ok(())
    }

    fn backward(&mut self, plan: &BlockedPlan, state: &mut State) -> Result<()> {
        let State {
            weights,
            norms,
            bias,
            input,
            ..
        } = state;
        let z = &input.values;
        let mut gradients = take(&mut self.gradients);
        let last = plan.last();
        let raw = take(&mut self.raw[last]);
        let (fuse, channels) = (plan.levels[0].fuse, plan.spec.up[0]);
        let first = &mut gradients[0].fuse[..groups(channels) * plane(plan.size)];
        self.convolve_backward(
            plan,
            weights,
            last,
            &raw,
            Input::Unit(fuse),
            &mut [Destination::new(first, channels)],
        )?;
        let biases = &self.biases[..bias.gradient.len()];
        bias.gradient.copy_from_slice(biases);
        self.raw[last] = raw;

        for (k, level) in plan.levels.iter().enumerate() {
            let (this, next) = gradients[k..].split_at_mut(1);
            let LevelGradients {
                fuse,
                up,
                skip,
                mid,
                ..
            } = &mut this[0];
            let (whole, channels) = (plane(level.size), plan.spec.up[k]);
            let gradient = &mut fuse[..groups(channels) * whole];
            self.normalize_backward(norms, level.fuse, gradient);
            self.convolve_backward(
                plan,
                weights,
                level.fuse,
                gradient,
                Input::Unit(level.up),
                &mut [Destination::new(up, channels)],
            )?;
            self.normalize_backward(norms, level.up, up);
            let upsampled = &mut fuse[..groups(level.deeper) * whole];
            let mut to = [
                Destination::new(skip, plan.spec.skip[k]),
                Destination::new(upsampled, level.deeper),
            ];
            let exist = usize::from(level.skip.is_none());
            self.convolve_backward(
                plan,
                weights,
                level.up,
                up,
                Input::Merged(k),
                &mut to[exist..],
            )?;
            self.merge_backward(plan, k, norms, skip, upsampled);
            let deeper = match next.first_mut() {
                Some(next) => &mut next.fuse[..upsampled.len() / 4],
                None => &mut mid[..],
            };
            upsample_backward(plan.spec.upsample, upsampled, half(level.size), deeper);
        }

        for (k, level) in plan.levels.iter().enumerate().rev() {
            let (before, this) = gradients.split_at_mut(k);
            let LevelGradients {
                skip, mid, down, ..
            } = &mut this[0];
            self.normalize_backward(norms, level.mid, mid);
            self.convolve_backward(
                plan,
                weights,
                level.mid,
                mid,
                Input::Unit(level.down),
                &mut [Destination::new(down, plan.spec.down[k])],
            )?;
            self.normalize_backward(norms, level.down, down);
            let channels = plan.spec.level_input(k);
            let mut to = match before.last_mut() {
                Some(before) => Some(&mut before.mid),
                None if plan.spec.optimize_input => Some(&mut input.gradient),
                None => None,
            };
            let mut destination = to.as_mut().map(|to| Destination::new(to, channels));
            self.convolve_backward(
                plan,
                weights,
                level.down,
                down,
                Input::Level(k, z),
                destination.as_mut_slice(),
            )?;
            if let Some(i) = level.skip {
                self.normalize_backward(norms, i, skip);
                let mut destination = to.as_mut().map(|to| Destination::adding(to, channels));
                self.convolve_backward(
                    plan,
                    weights,
                    i,
                    skip,
                    Input::Level(k, z),
                    destination.as_mut_slice(),
                )?;
            }
        }
        self.gradients = gradients;
        Ok(())
    }
}

/// One source where two may be.
fn alone(source: Source) -> [Source; 2] {
    let none = Source {
        channels: 0,
        ..source
    };
    [none, source]
}

/// The sources that exist.
fn some<'a, 'b>(sources: &'a [Source<'b>; 2]) -> &'a [Source<'b>] {
    if sources[0].channels == 0 {
        &sources[1..]
    } else {
        sources
    }
}
