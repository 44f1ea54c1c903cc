//! The walk through the network: forward into the deepest level and out of it, backward likewise, then Adam.

use super::super::memory::View;
use super::super::step::Op;
use super::{Block, Conv, Incoming, Network, Raw};
use crate::dip::NetSpec;

/// What the forward pass of a level leaves.
struct Level {
    skip: Option<Block>,
    down: Block,
    mid: Block,
    /// What is upsampled.
    half: Raw,
    merge_records: usize,
    up: Block,
    fuse: Block,
    deeper: Option<Box<Level>>,
}

impl<'a> Network<'a> {
    /// With the steps of an iteration.
    pub(crate) fn of(spec: &'a NetSpec, height: usize, width: usize) -> Self {
        let mut network = Network::new(spec, height, width);
        network.iteration();
        network
    }

    fn iteration(&mut self) {
        let whole = [self.height, self.width];
        let mut input = Raw {
            view: self.fixed(self.parameters),
            norm: None,
            slope: 1.0,
            channels: self.spec.input_depth,
        };
        if self.spec.jitter > 0.0 {
            let mut draft = self.step(Op::JitterInput, input.channels, whole);
            let noisy = self.memory.map(input.channels, whole, false);
            (draft.x, draft.y) = (Some(input.view), Some(noisy));
            self.push(draft);
            input.view = noisy;
        }
        let level = self.forward(0, input);
        let out = Conv {
            inputs: self.spec.up[0],
            outputs: self.spec.output_channels,
            stride: 1,
            size: whole,
            at: self.offsets["out_conv.weight"],
        };
        let output = self.convolve_pixel(&out, level.fuse.raw);
        let mut draft = self.step(Op::Loss, out.outputs, whole);
        draft.x = Some(output);
        self.push(draft);
        self.weights_pixel(&out, level.fuse.raw, output);
        let incoming = Incoming {
            d: output,
            via: Some(out),
        };
        self.input_gradient = self.backward(0, &level, input, incoming);
        let gradients = self.fixed(self.parameters + self.input);
        self.adam(self.fixed(0), gradients, self.parameters, 0);
        if let Some(gradient) = self.input_gradient {
            let values = self.fixed(self.parameters);
            self.adam(values, gradient, self.input, self.parameters);
        }
    }

    fn adam(&mut self, values: View, gradients: View, count: usize, first: usize) {
        let mut draft = self.step(Op::Adam, count, [1, 1]);
        (draft.y, draft.d) = (Some(values), Some(gradients));
        draft.step.weight = first as u32;
        self.push(draft);
    }

    fn forward(&mut self, k: usize, x: Raw) -> Level {
        let spec = self.spec;
        let (whole, half) = (
            [self.height >> k, self.width >> k],
            [self.height >> (k + 1), self.width >> (k + 1)],
        );
        let places = |network: &Self, layer: &str| {
            [
                network.offset(k, layer, "conv"),
                network.offset(k, layer, "bn"),
            ]
        };
        let conv = |inputs, outputs, stride, at| Conv {
            inputs,
            outputs,
            stride,
            size: if stride == 2 { half } else { whole },
            at,
        };
        let skip = (spec.skip[k] > 0).then(|| {
            let [at, norm_at] = places(self, "skip");
            let conv = conv(x.channels, spec.skip[k], 1, at);
            let y = self.convolve_pixel(&conv, x);
            self.block(conv, norm_at, y)
        });
        let [at, norm_at] = places(self, "down");
        let down = conv(x.channels, spec.down[k], 2, at);
        let staged = self.staged(x, whole, &down);
        let down = self.wide_block(down, norm_at, staged);
        let [at, norm_at] = places(self, "mid");
        let mid = Conv {
            size: half,
            ..conv(spec.down[k], spec.down[k], 1, at)
        };
        let staged = self.staged(down.raw, half, &mid);
        let mid = self.wide_block(mid, norm_at, staged);
        let deeper = (k + 1 < spec.levels()).then(|| Box::new(self.forward(k + 1, mid.raw)));
        let upsampled = deeper.as_ref().map_or(mid.raw, |deeper| deeper.fuse.raw);
        let low = self.memory.map(upsampled.channels, half, false);
        self.activate(upsampled, half, low);
        let channels = spec.skip[k] + upsampled.channels;
        let merged = self.memory.map(channels, whole, true);
        self.merge(skip.as_ref(), low, upsampled.channels, whole, merged);
        let norm_at = self.offset(k, "merge", "bn");
        let merge_records = self.statistics(merged, channels, whole, norm_at);
        let [at, norm_at] = places(self, "up");
        let up = conv(channels, spec.up[k], 1, at);
        let merge = plain(merged, merge_records, channels);
        let staged = self.stage(merge, whole, merged, &up);
        let up = self.wide_block(up, norm_at, staged);
        let [at, norm_at] = places(self, "fuse");
        let fuse = conv(spec.up[k], spec.up[k], 1, at);
        let y = self.convolve_pixel(&fuse, up.raw);
        let fuse = self.block(fuse, norm_at, y);
        Level {
            skip,
            down,
            mid,
            half: upsampled,
            merge_records,
            up,
            fuse,
            deeper,
        }
    }

    /// The derivative by the level's input, where one is wanted.
    fn backward(&mut self, k: usize, level: &Level, x: Raw, incoming: Incoming) -> Option<View> {
        let whole = [self.height >> k, self.width >> k];
        let half = level.mid.conv.size;
        let fuse = level.fuse.raw.view;
        self.normalized(
            level.fuse.raw,
            level.fuse.norm_at,
            whole,
            incoming,
            fuse,
            false,
        );
        self.weights_pixel(&level.fuse.conv, level.up.raw, fuse);
        let incoming = Incoming {
            d: fuse,
            via: Some(level.fuse.conv),
        };
        let channels = level.up.conv.inputs;
        let d = self.memory.map(level.up.raw.channels, whole, true);
        self.normalized(level.up.raw, level.up.norm_at, whole, incoming, d, true);
        // What `up` saw, and then, in its place, what the merge normalization saw.
        let low = self.memory.map(level.half.channels, half, false);
        self.activate(level.half, half, low);
        let merged = self.memory.map(channels, whole, true);
        let skip = level.skip.as_ref();
        self.merge(skip, low, level.half.channels, whole, merged);
        let merge = plain(merged, level.merge_records, channels);
        let staged = self.stage(merge, whole, merged, &level.up.conv);
        self.weights(&level.up.conv, merged, d);
        self.merge(skip, low, level.half.channels, whole, merged);
        let d_merged = self.memory.map(channels, whole, false);
        self.spread(&level.up.conv, staged.packed, d, d_merged, whole);
        let norm_at = self.offset(k, "merge", "bn");
        self.normalized(merge, norm_at, whole, plainly(d_merged), d_merged, false);
        if let Some(skip) = skip {
            let d = skip.raw.view;
            self.normalized(skip.raw, skip.norm_at, whole, plainly(d_merged), d, false);
            self.weights_pixel(&skip.conv, x, d);
        }
        let mut d = self.memory.map(level.half.channels, half, false);
        let mut draft = self.step(Op::Upsampled, level.half.channels, half);
        (draft.y, draft.d) = (
            Some(d),
            Some(d_merged.after(channels - level.half.channels)),
        );
        self.push(draft);
        if let Some(deeper) = &level.deeper {
            let by_mid = self.backward(k + 1, deeper, level.mid.raw, plainly(d));
            d = by_mid.expect("deeper levels are always asked for it");
        }
        let d = self.wide_backward(&level.mid, level.down.raw, half, d, true);
        let d = d.expect("asked for");
        let wanted = k > 0 || self.spec.optimize_input;
        let d = self.wide_backward(&level.down, x, whole, d, wanted)?;
        if let Some(skip) = skip {
            let mut draft = self.conv_step(Op::SpreadPixel, &skip.conv, 1, whole);
            (draft.y, draft.d) = (Some(d), Some(skip.raw.view));
            self.push(draft);
        }
        Some(d)
    }

    /// From the derivative by a block's output to the one by its input `x` of `size`, if that is wanted.
    fn wide_backward(
        &mut self,
        block: &Block,
        x: Raw,
        size: [usize; 2],
        d: View,
        wanted: bool,
    ) -> Option<View> {
        let by_conv = self.memory.map(block.conv.outputs, block.conv.size, true);
        self.normalized(
            block.raw,
            block.norm_at,
            block.conv.size,
            plainly(d),
            by_conv,
            true,
        );
        let staged = self.staged(x, size, &block.conv);
        self.weights(&block.conv, staged.view, by_conv);
        wanted.then(|| {
            let y = self.memory.map(block.conv.inputs, size, false);
            self.spread(&block.conv, staged.packed, by_conv, y, size);
            y
        })
    }
}

/// What a normalization without activation gives.
fn plain(view: View, records: usize, channels: usize) -> Raw {
    Raw {
        view,
        norm: Some(records),
        slope: 1.0,
        channels,
    }
}

/// A derivative that is there as it is.
fn plainly(d: View) -> Incoming {
    Incoming { d, via: None }
}
