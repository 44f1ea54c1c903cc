//! The program of an iteration: steps, one behind the other, and the maps that they use. Which steps, says
//! the walk through the network.

mod walk;

use std::collections::HashMap;

use super::memory::{ALIGNED, Home, Memory, View};
use super::step::{
    MAX_STEPS, MAX_THREADS, Map, NOWHERE, Op, PACKED, RECORD, Step, WARP, reciprocal,
};
use crate::dip::{LEAKY_SLOPE, NetSpec, Padding};

/// The program of an iteration, and the block's memory.
#[derive(Debug)]
pub(crate) struct ResidentPlan {
    pub steps: Vec<Step>,
    pub threads: u32,
    /// Numbers in the block's memory.
    pub floats: usize,
    /// Numbers of an instance: parameters, input, those that Adam moves, and of a picture.
    pub parameters: usize,
    pub input: usize,
    pub trained: usize,
    pub elements: usize,
    pub gradients_at: u32,
    pub input_gradient_at: u32,
    pub moments_at: u32,
    pub target_at: u32,
    pub partials_at: u32,
    /// Of the convolutions and their derivatives, an iteration.
    pub multiply_adds: u64,
}

/// A step before its maps have places.
struct Draft {
    step: Step,
    x: Option<View>,
    y: Option<View>,
    d: Option<View>,
    packed: Option<View>,
}

/// A map as it is kept: the network's input, or what is normalized with its records.
#[derive(Clone, Copy)]
struct Raw {
    view: View,
    norm: Option<usize>,
    /// Of LeakyReLU; 1 where there is none.
    slope: f32,
    channels: usize,
}

/// A convolution: where its weight starts, and the size of its output.
#[derive(Clone, Copy)]
struct Conv {
    inputs: usize,
    outputs: usize,
    stride: usize,
    size: [usize; 2],
    at: usize,
}

/// What a 3×3 convolution reads: the map in its margin, and the packed weight.
#[derive(Clone, Copy)]
struct Staged {
    view: View,
    packed: View,
}

/// A convolution, the normalization behind it, and its output.
struct Block {
    conv: Conv,
    norm_at: usize,
    raw: Raw,
}

/// The derivative by an activated output: in a map, or behind a 1×1 convolution.
#[derive(Clone, Copy)]
struct Incoming {
    d: View,
    via: Option<Conv>,
}

/// Writes the program.
pub(super) struct Network<'a> {
    spec: &'a NetSpec,
    height: usize,
    width: usize,
    offsets: HashMap<String, usize>,
    parameters: usize,
    input: usize,
    drafts: Vec<Draft>,
    memory: Memory,
    /// Numbers before the maps.
    fixed: usize,
    /// Channels of the widest normalization.
    widest: usize,
    input_gradient: Option<View>,
    multiply_adds: u64,
}

impl<'a> Network<'a> {
    /// With no step yet.
    fn new(spec: &'a NetSpec, height: usize, width: usize) -> Self {
        let parameters = spec.parameter_count();
        let input = spec.input_depth * height * width;
        Network {
            spec,
            height,
            width,
            offsets: spec
                .parameters()
                .into_iter()
                .map(|p| (p.name, p.offset))
                .collect(),
            parameters,
            input,
            drafts: vec![],
            memory: Memory::default(),
            fixed: (2 * parameters + input).next_multiple_of(ALIGNED),
            widest: 0,
            input_gradient: None,
            multiply_adds: 0,
        }
    }

    pub(super) fn trained(&self) -> usize {
        let input = if self.spec.optimize_input {
            self.input
        } else {
            0
        };
        self.parameters + input
    }

    /// Numbers of the block's memory, and where each map starts.
    pub(super) fn places(&self) -> (usize, Vec<usize>) {
        self.memory.places(self.partials_at() + self.partials())
    }

    fn fixed(&self, at: usize) -> View {
        View {
            home: Home::Fixed(at),
            offset: 0,
            pitch: self.width,
            plane: self.height * self.width,
        }
    }

    /// A step on `inputs` channels of a size.
    fn step(&self, op: Op, inputs: usize, [height, width]: [usize; 2]) -> Draft {
        Draft {
            step: Step {
                op: op as u32,
                inputs: inputs as u32,
                height: height as u32,
                width: width as u32,
                per_row: reciprocal(width),
                per_plane: reciprocal(height * width),
                stride: 1,
                rows: 1,
                parts: 1,
                crew: 1,
                packed: NOWHERE,
                via: NOWHERE,
                norm: NOWHERE,
                slope: 1.0,
                ..Step::default()
            },
            x: None,
            y: None,
            d: None,
            packed: None,
        }
    }

    fn push(&mut self, draft: Draft) {
        let now = self.drafts.len();
        let used = [draft.x, draft.y, draft.d, draft.packed];
        for view in used.into_iter().flatten() {
            self.memory.use_at(view, now);
        }
        self.drafts.push(draft);
    }

    /// Sets a step to read x as the layer behind it sees it.
    fn seen(draft: Draft, raw: Raw) -> Draft {
        Draft {
            x: Some(raw.view),
            step: Step {
                norm: raw.norm.map_or(NOWHERE, |norm| norm as u32),
                slope: raw.slope,
                ..draft.step
            },
            ..draft
        }
    }

    /// Normalizes and activates a raw map into `y`.
    fn activate(&mut self, raw: Raw, size: [usize; 2], y: View) {
        let mut draft = Self::seen(self.step(Op::Stage, raw.channels, size), raw);
        draft.y = Some(y);
        self.push(draft);
    }

    /// The same for a 3×3 convolution, with y's margin.
    fn stage(&mut self, raw: Raw, size: [usize; 2], y: View, conv: &Conv) -> Staged {
        let packed = self.memory.take(PACKED * conv.inputs * conv.outputs);
        let mut draft = Self::seen(self.step(Op::Stage, raw.channels, size), raw);
        (draft.y, draft.packed) = (Some(y), Some(packed));
        draft.step.outputs = conv.outputs as u32;
        draft.step.weight = conv.at as u32;
        draft.step.margin = 1;
        self.push(draft);
        Staged { view: y, packed }
    }

    /// The same into a new map.
    fn staged(&mut self, raw: Raw, size: [usize; 2], conv: &Conv) -> Staged {
        let y = self.memory.map(raw.channels, size, true);
        self.stage(raw, size, y, conv)
    }

    /// Sees to it that the records of x are known, at a place of their own.
    fn statistics(&mut self, x: View, channels: usize, size: [usize; 2], weight: usize) -> usize {
        let records = self.fixed;
        self.fixed += channels * RECORD;
        self.widest = self.widest.max(channels);
        let mut draft = self.step(Op::Statistics, channels, size);
        draft.x = Some(x);
        draft.step.weight = weight as u32;
        draft.step.norm = records as u32;
        self.push(draft);
        records
    }

    /// A step of a convolution or a derivative of it, on a size.
    fn conv_step(&mut self, op: Op, conv: &Conv, taps: usize, size: [usize; 2]) -> Draft {
        let pixels = conv.size[0] * conv.size[1];
        self.multiply_adds += (taps * conv.inputs * conv.outputs * pixels) as u64;
        let mut draft = self.step(op, conv.inputs, size);
        draft.step.outputs = conv.outputs as u32;
        draft.step.stride = conv.stride as u32;
        draft.step.weight = conv.at as u32;
        draft
    }

    /// What a layer's convolution and normalization are called in the parameter vector.
    fn offset(&self, level: usize, layer: &str, part: &str) -> usize {
        self.offsets[&format!("level{level}.{layer}_{part}.weight")]
    }

    /// Ends a block: its convolution's output is in `y`.
    fn block(&mut self, conv: Conv, norm_at: usize, y: View) -> Block {
        let norm = self.statistics(y, conv.outputs, conv.size, norm_at);
        Block {
            conv,
            norm_at,
            raw: Raw {
                view: y,
                norm: Some(norm),
                slope: LEAKY_SLOPE as f32,
                channels: conv.outputs,
            },
        }
    }

    /// A block with a 3×3 convolution of what is staged.
    fn wide_block(&mut self, conv: Conv, norm_at: usize, staged: Staged) -> Block {
        let y = self.memory.map(conv.outputs, conv.size, false);
        let mut draft = self.conv_step(Op::Convolve, &conv, 9, conv.size);
        (draft.x, draft.y) = (Some(staged.view), Some(y));
        draft.packed = Some(staged.packed);
        self.push(draft);
        self.block(conv, norm_at, y)
    }

    /// A 1×1 convolution into a new map.
    fn convolve_pixel(&mut self, conv: &Conv, x: Raw) -> View {
        let y = self.memory.map(conv.outputs, conv.size, false);
        let draft = self.conv_step(Op::ConvolvePixel, conv, 1, conv.size);
        let mut draft = Self::seen(draft, x);
        draft.y = Some(y);
        self.push(draft);
        y
    }

    /// The skip branch's channels, activated, and then the upsampled ones, into `merged`.
    fn merge(
        &mut self,
        skip: Option<&Block>,
        low: View,
        channels: usize,
        size: [usize; 2],
        merged: View,
    ) {
        let mut beside = 0;
        if let Some(skip) = skip {
            self.activate(skip.raw, size, merged);
            beside = skip.raw.channels;
        }
        // A thread works between pixels of the source.
        let between = size.map(|side| side / 2 + 1);
        let mut draft = self.step(Op::Upsample, channels, between);
        (draft.x, draft.y) = (Some(low), Some(merged.after(beside)));
        self.push(draft);
    }

    /// `y` = the derivative by what is normalized.
    fn normalized(
        &mut self,
        x: Raw,
        norm_at: usize,
        size: [usize; 2],
        incoming: Incoming,
        y: View,
        margin: bool,
    ) {
        let mut draft = Self::seen(self.step(Op::Normalized, x.channels, size), x);
        (draft.y, draft.d) = (Some(y), Some(incoming.d));
        draft.step.weight = norm_at as u32;
        draft.step.margin = margin.into();
        draft.step.keeps = (y.home != x.view.home).into();
        if let Some(conv) = incoming.via {
            draft.step.via = conv.at as u32;
            draft.step.outputs = conv.outputs as u32;
            self.multiply_adds += (conv.inputs * conv.outputs * size[0] * size[1]) as u64;
        }
        self.push(draft);
    }

    fn weights(&mut self, conv: &Conv, staged: View, d: View) {
        let mut draft = self.conv_step(Op::Weights, conv, 9, conv.size);
        (draft.x, draft.d) = (Some(staged), Some(d));
        self.push(draft);
    }

    fn weights_pixel(&mut self, conv: &Conv, x: Raw, d: View) {
        let draft = self.conv_step(Op::WeightsPixel, conv, 1, conv.size);
        let mut draft = Self::seen(draft, x);
        draft.d = Some(d);
        self.push(draft);
    }

    /// The derivative by a 3×3 convolution's input, of `size`.
    fn spread(&mut self, conv: &Conv, packed: View, d: View, y: View, size: [usize; 2]) {
        let (op, shared) = match conv.stride {
            1 => (Op::Spread, size),
            _ => (Op::SpreadTwo, conv.size),
        };
        let mut draft = self.conv_step(op, conv, 9, shared);
        (draft.y, draft.d, draft.packed) = (Some(y), Some(d), Some(packed));
        self.push(draft);
        if self.spec.padding == Padding::Reflect {
            let mut draft = self.conv_step(Op::Mirror, conv, 0, size);
            (draft.y, draft.d) = (Some(y), Some(d));
            self.push(draft);
        }
    }

    fn partials_at(&self) -> usize {
        self.fixed
    }

    /// Four numbers for every channel and part.
    fn partials(&self) -> usize {
        4 * self.widest.max(MAX_THREADS / WARP)
    }

    /// The program of `blocks` blocks side by side, with moments and target outside.
    pub(super) fn plan(&self, places: &[usize], blocks: usize) -> Option<ResidentPlan> {
        let pixels = self.height * self.width;
        let threads = (MAX_THREADS / blocks.max(1)).min(pixels.next_multiple_of(WARP));
        if blocks == 0 || self.drafts.len() > MAX_STEPS {
            return None;
        }
        let place = |view: View| Map {
            at: match view.home {
                Home::Fixed(at) => (at + view.offset) as u32,
                Home::Shared(map) => (places[map] + view.offset) as u32,
            },
            pitch: view.pitch as u32,
            plane: view.plane as u32,
        };
        let steps = self.drafts.iter().map(|draft| {
            let mut step = Step {
                x: draft.x.map_or(Map::default(), place),
                y: draft.y.map_or(Map::default(), place),
                d: draft.d.map_or(Map::default(), place),
                packed: draft.packed.map_or(NOWHERE, |view| place(view).at),
                ..draft.step
            };
            step.share(threads)?;
            Some(step)
        });
        let at = |view: View| place(view).at;
        Some(ResidentPlan {
            steps: steps.collect::<Option<_>>()?,
            threads: threads as u32,
            floats: 0,
            parameters: self.parameters,
            input: self.input,
            trained: self.trained(),
            elements: self.spec.output_channels * pixels,
            gradients_at: (self.parameters + self.input) as u32,
            input_gradient_at: self.input_gradient.map_or(NOWHERE, at),
            moments_at: NOWHERE,
            target_at: NOWHERE,
            partials_at: self.partials_at() as u32,
            multiply_adds: self.multiply_adds,
        })
    }
}
