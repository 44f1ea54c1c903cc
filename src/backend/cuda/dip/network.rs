//! A network's memory, and one iteration of all its instances, operation by operation.
//!
//! Every buffer holds all slots' maps and is taken once, when the engine is made. The launches of an
//! iteration depend on the network's depth alone.

use std::collections::HashMap;

use super::super::backend::{CudaBackend, to_u32};
use super::super::driver::{self, Address, Buffer, Device};
use super::layers::{Batch, Conv, Line, Maps, Norm, Parameters, Statistics, tensor};
use crate::backend::Precision;
use crate::dip::{NetSpec, Padding};
use crate::error::Result;

/// Maps of all slots, channels × height × width.
struct Features {
    buffer: Buffer<f32>,
    /// Elements of a slot.
    elements: usize,
    plane: usize,
}

/// Takes memory for all slots.
struct Planner<'a> {
    device: &'a Device,
    capacity: usize,
    places: HashMap<String, usize>,
    padding: Padding,
    /// Elements of the largest map that a gradient is taken by.
    largest: usize,
    /// Channels of the widest normalization.
    widest: usize,
    /// Numbers of room for a convolution on tensor cores.
    room: usize,
}

impl Features {
    fn all(&self) -> Maps {
        Maps::new(self.buffer.at(0), self.elements)
    }

    /// Without the first channels.
    fn after(&self, channels: usize) -> Maps {
        self.all().skip(channels * self.plane)
    }
}

/// Convolution, batch normalization, LeakyReLU.
struct Block {
    conv: Conv,
    norm: Norm,
    /// Where the weight of each starts in the parameter vector; its bias follows.
    conv_at: usize,
    norm_at: usize,
    convolved: Features,
    statistics: Buffer<Statistics>,
    /// The block's output; `None` where it goes into maps that others write too.
    output: Option<Features>,
}

struct Level {
    skip: Option<Block>,
    down: Block,
    mid: Block,
    /// The skip branch's channels, then the deeper levels'.
    merged: Features,
    merge: Norm,
    merge_at: usize,
    merge_statistics: Buffer<Statistics>,
    normalized: Features,
    up: Block,
    fuse: Block,
    /// Channels of the skip branch.
    beside: usize,
    /// Size of what is upsampled.
    deeper: [u32; 3],
    d_merged: Features,
    /// The derivative by the deeper level's input; `None` at the deepest.
    d_deeper: Option<Features>,
}

/// Where the parts of an instance's numbers lie.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// Parameters, and the input after them.
    pub values: Maps,
    /// The same layout; the input is there only where it is optimized.
    pub gradients: Maps,
    /// Numbers of the parameter vector.
    pub parameters: usize,
}

impl State {
    /// A layer's weight and bias in `values` or `gradients`.
    fn layer(&self, maps: Maps, at: usize, weights: usize) -> Parameters {
        Parameters {
            weight: maps.skip(at),
            bias: maps.skip(at + weights),
        }
    }
}

/// The layers of a network of one size.
pub(super) struct Network {
    spec: NetSpec,
    levels: Vec<Level>,
    out: Conv,
    out_at: usize,
    /// The network's output, and the loss's derivative by it.
    output: Features,
    /// Derivatives on their way back, of one layer and the next.
    passing: [Features; 2],
    /// Room for a normalization's derivative.
    lines: Buffer<Line>,
    /// Room for convolutions on tensor cores, so many numbers a slot; `None` where all are float32.
    matrices: Option<(Buffer<f32>, usize)>,
}

impl Planner<'_> {
    fn features(&self, channels: usize, height: usize, width: usize) -> Result<Features> {
        let elements = channels * height * width;
        to_u32(elements, "numbers of a layer")?;
        Ok(Features {
            buffer: self.device.allocate(elements * self.capacity)?,
            elements,
            plane: height * width,
        })
    }

    fn make_room(&mut self, conv: &Conv) {
        if tensor::suits(conv) {
            self.room = self.room.max(tensor::room(conv));
        }
    }

    fn block(
        &mut self,
        name: &str,
        [inputs, outputs]: [usize; 2],
        [kernel, stride]: [u32; 2],
        [height, width]: [usize; 2],
        own_output: bool,
    ) -> Result<Block> {
        let conv = Conv {
            inputs: inputs as u32,
            outputs: outputs as u32,
            kernel,
            stride,
            padding: self.padding,
            height: height as u32,
            width: width as u32,
        };
        self.make_room(&conv);
        let (height, width) = (conv.out_height() as usize, conv.out_width() as usize);
        self.largest = self.largest.max(outputs * height * width);
        self.widest = self.widest.max(outputs);
        let output = || self.features(outputs, height, width);
        Ok(Block {
            conv,
            norm: Norm {
                channels: outputs as u32,
                plane: (height * width) as u32,
                leaky: true,
            },
            conv_at: self.places[&format!("{name}_conv.weight")],
            norm_at: self.places[&format!("{name}_bn.weight")],
            convolved: output()?,
            statistics: self.device.allocate(outputs * self.capacity)?,
            output: own_output.then(output).transpose()?,
        })
    }

    fn level(&mut self, spec: &NetSpec, k: usize, height: usize, width: usize) -> Result<Level> {
        let (height, width) = (height >> k, width >> k);
        let (whole, half) = ([height, width], [height / 2, width / 2]);
        let (input, down, up) = (spec.level_input(k), spec.down[k], spec.up[k]);
        let (beside, deeper) = (spec.skip[k], spec.level_deeper(k));
        let merged = beside + deeper;
        let name = |layer: &str| format!("level{k}.{layer}");
        let skip = (beside > 0)
            .then(|| self.block(&name("skip"), [input, beside], [1, 1], whole, false))
            .transpose()?;
        self.widest = self.widest.max(merged);
        self.largest = self.largest.max(deeper * half[0] * half[1]);
        Ok(Level {
            skip,
            down: self.block(&name("down"), [input, down], [3, 2], whole, true)?,
            mid: self.block(&name("mid"), [down, down], [3, 1], half, true)?,
            merged: self.features(merged, height, width)?,
            merge: Norm {
                channels: merged as u32,
                plane: (height * width) as u32,
                leaky: false,
            },
            merge_at: self.places[&name("merge_bn.weight")],
            merge_statistics: self.device.allocate(merged * self.capacity)?,
            normalized: self.features(merged, height, width)?,
            up: self.block(&name("up"), [merged, up], [3, 1], whole, true)?,
            fuse: self.block(&name("fuse"), [up, up], [1, 1], whole, true)?,
            beside,
            deeper: [deeper as u32, half[0] as u32, half[1] as u32],
            d_merged: self.features(merged, height, width)?,
            d_deeper: (k + 1 < spec.levels())
                .then(|| self.features(down, half[0], half[1]))
                .transpose()?,
        })
    }
}

impl Network {
    /// Memory for `capacity` instances. The specification fits the size.
    pub(super) fn new(
        backend: &CudaBackend,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
    ) -> Result<Self> {
        let device = &backend.device;
        let parameters = spec.parameters().into_iter();
        let mut planner = Planner {
            device,
            capacity,
            places: parameters.map(|p| (p.name, p.offset)).collect(),
            padding: spec.padding,
            largest: 0,
            widest: 0,
            room: 0,
        };
        let levels: Result<Vec<Level>> = (0..spec.levels())
            .map(|k| planner.level(spec, k, height, width))
            .collect();
        let out = Conv {
            inputs: spec.up[0] as u32,
            outputs: spec.output_channels as u32,
            kernel: 1,
            stride: 1,
            padding: Padding::Zero,
            height: height as u32,
            width: width as u32,
        };
        planner.make_room(&out);
        let room = planner.room;
        let matrices = (backend.precision == Precision::Bf16 && room > 0)
            .then(|| device.allocate(room * capacity));
        let passing = || planner.features(planner.largest, 1, 1);
        Ok(Network {
            levels: levels?,
            out,
            out_at: planner.places["out_conv.weight"],
            output: planner.features(spec.output_channels, height, width)?,
            passing: [passing()?, passing()?],
            lines: device.allocate(planner.widest * capacity)?,
            matrices: matrices.transpose()?.map(|buffer| (buffer, room)),
            spec: spec.clone(),
        })
    }

    /// The network's output before the sigmoid; after the loss, the loss's derivative by it.
    pub(super) fn output(&self) -> Maps {
        self.output.all()
    }

    /// Room for convolutions on tensor cores, where they are wanted.
    pub(super) fn matrices(&self) -> Option<Maps> {
        let (buffer, room) = self.matrices.as_ref()?;
        Some(Maps::new(buffer.at(0), *room))
    }

    /// From the input to [`output`](Self::output).
    pub(super) fn forward(
        &self,
        batch: &Batch<'_>,
        state: &State,
        input: Maps,
    ) -> driver::Result<()> {
        let level = &self.levels[0];
        self.forward_level(batch, state, 0, input)?;
        let parameters = state.layer(state.values, self.out_at, self.out.weights());
        batch.conv_forward(&self.out, level.features(), parameters, self.output.all())
    }

    fn forward_level(
        &self,
        batch: &Batch<'_>,
        state: &State,
        k: usize,
        input: Maps,
    ) -> driver::Result<()> {
        let level = &self.levels[k];
        if let Some(skip) = &level.skip {
            skip.forward(batch, state, input, level.merged.all())?;
        }
        let half = level.down.forward_own(batch, state, input)?;
        let mut half = level.mid.forward_own(batch, state, half)?;
        if let Some(deeper) = self.levels.get(k + 1) {
            self.forward_level(batch, state, k + 1, half)?;
            half = deeper.features();
        }
        let merged = level.merged.after(level.beside);
        batch.upsample_forward(self.spec.upsample, level.deeper, half, merged)?;
        batch.norm_forward(
            &level.merge,
            level.merged.all(),
            level.merge_parameters(state, state.values),
            level.merge_statistics.at(0),
            level.normalized.all(),
        )?;
        let up = level.up.forward_own(batch, state, level.normalized.all())?;
        level.fuse.forward_own(batch, state, up)?;
        Ok(())
    }

    /// From the loss's derivative by [`output`](Self::output) to those by the parameters, and by the input
    /// where that is optimized.
    pub(super) fn backward(
        &self,
        batch: &Batch<'_>,
        state: &State,
        input: Maps,
    ) -> driver::Result<()> {
        let weights = self.out.weights();
        let parameters = state.layer(state.values, self.out_at, weights);
        let gradients = state.layer(state.gradients, self.out_at, weights);
        let features = self.levels[0].features();
        let (d, passed) = (self.output.all(), self.passing[0].all());
        batch.conv_backward_weights(&self.out, features, d, gradients)?;
        batch.conv_backward_data(&self.out, d, parameters, passed, false)?;
        let d_input = self
            .spec
            .optimize_input
            .then(|| state.gradients.skip(state.parameters));
        self.backward_level(batch, state, 0, input, d_input)
    }

    /// From the derivative by the level's output, in `passing[0]`, to the one by its input, where that is
    /// asked for.
    fn backward_level(
        &self,
        batch: &Batch<'_>,
        state: &State,
        k: usize,
        input: Maps,
        d_input: Option<Maps>,
    ) -> driver::Result<()> {
        let level = &self.levels[k];
        let lines = self.lines.at(0);
        let [ping, pong] = [self.passing[0].all(), self.passing[1].all()];
        let (up, normalized) = (level.up.output(), level.normalized.all());
        level
            .fuse
            .backward(batch, state, lines, up, ping, Some((pong, false)))?;
        let d_merged = level.d_merged.all();
        level.up.backward(
            batch,
            state,
            lines,
            normalized,
            pong,
            Some((d_merged, false)),
        )?;
        batch.norm_backward(
            &level.merge,
            level.merged.all(),
            level.merge_parameters(state, state.values),
            level.merge_statistics.at(0),
            d_merged,
            level.merge_parameters(state, state.gradients),
            lines,
        )?;
        let d_deeper = level.d_merged.after(level.beside);
        batch.upsample_backward(self.spec.upsample, level.deeper, d_deeper, ping)?;
        let mid = level.mid.output();
        let d = match &level.d_deeper {
            Some(d_deeper) => {
                let d_deeper = d_deeper.all();
                self.backward_level(batch, state, k + 1, mid, Some(d_deeper))?;
                d_deeper
            }
            None => ping,
        };
        let down = level.down.output();
        level
            .mid
            .backward(batch, state, lines, down, d, Some((pong, false)))?;
        level.down.backward(
            batch,
            state,
            lines,
            input,
            pong,
            d_input.map(|d| (d, false)),
        )?;
        match &level.skip {
            Some(skip) => skip.backward(
                batch,
                state,
                lines,
                input,
                d_merged,
                d_input.map(|d| (d, true)),
            ),
            None => Ok(()),
        }
    }
}

impl Level {
    /// Its output.
    fn features(&self) -> Maps {
        self.fuse.output()
    }

    fn merge_parameters(&self, state: &State, maps: Maps) -> Parameters {
        state.layer(maps, self.merge_at, self.merge.channels as usize)
    }
}

impl Block {
    /// The block's own output.
    fn output(&self) -> Maps {
        self.output
            .as_ref()
            .expect("only the skip branch has none")
            .all()
    }

    fn parameters(&self, state: &State, maps: Maps) -> [Parameters; 2] {
        [
            state.layer(maps, self.conv_at, self.conv.weights()),
            state.layer(maps, self.norm_at, self.norm.channels as usize),
        ]
    }

    fn forward(&self, batch: &Batch<'_>, state: &State, x: Maps, y: Maps) -> driver::Result<()> {
        let [conv, norm] = self.parameters(state, state.values);
        let convolved = self.convolved.all();
        batch.conv_forward(&self.conv, x, conv, convolved)?;
        batch.norm_forward(&self.norm, convolved, norm, self.statistics.at(0), y)
    }

    fn forward_own(&self, batch: &Batch<'_>, state: &State, x: Maps) -> driver::Result<Maps> {
        let y = self.output();
        self.forward(batch, state, x, y)?;
        Ok(y)
    }

    /// `d` is the derivative by the output, and is used up; `dx` takes the one by the input, added to what
    /// is there if so said.
    fn backward(
        &self,
        batch: &Batch<'_>,
        state: &State,
        lines: Address,
        x: Maps,
        d: Maps,
        dx: Option<(Maps, bool)>,
    ) -> driver::Result<()> {
        let [conv, norm] = self.parameters(state, state.values);
        let [d_conv, d_norm] = self.parameters(state, state.gradients);
        let (convolved, statistics) = (self.convolved.all(), self.statistics.at(0));
        batch.norm_backward(&self.norm, convolved, norm, statistics, d, d_norm, lines)?;
        batch.conv_backward_weights(&self.conv, x, d, d_conv)?;
        match dx {
            Some((dx, accumulate)) => batch.conv_backward_data(&self.conv, d, conv, dx, accumulate),
            None => Ok(()),
        }
    }
}
