//! A network as a list of steps over views of a group's working memory.
//!
//! To stay in cache, the backward pass reuses the forward pass's places: the derivative by what batch
//! normalization takes overwrites it, and the derivative by a convolution's input overwrites that
//! input, once the weight gradient has been taken. Only a level's input that a skip branch reads too
//! has a second place.

use super::conv::Conv;
use super::norm::Norm;
use super::view::View;
use crate::backend::cpu::simd::Lanes;
use crate::dip::{NetSpec, Padding, Upsample};
use crate::error::{Error, Result};

/// A network laid out for one image size.
pub(super) struct LanePlan {
    /// In the forward pass's order.
    pub steps: Vec<LaneStep>,
    /// The last convolution and its bias; reads `features`, writes `output`.
    pub out: Conv,
    pub out_bias: usize,
    pub features: Map,
    pub output: View,
    /// The network's input, and the derivative by it if the input is optimized.
    pub input: View,
    pub input_gradient: Option<View>,
    pub padding: Padding,
    pub upsample: Upsample,
    /// Parameters of an instance.
    pub parameters: usize,
    /// Elements of the working memory.
    pub memory: usize,
    /// Normalized channels: each has a mean and a scale.
    pub normalized: usize,
}

/// What the network consists of.
pub(super) enum LaneStep {
    Block(Block),
    Merge(Merge),
}

/// A feature map and the derivative by it, which may share a place.
#[derive(Clone, Copy)]
pub(super) struct Map {
    pub value: View,
    pub gradient: View,
}

impl Map {
    fn shared(view: View) -> Map {
        Map {
            value: view,
            gradient: view,
        }
    }
}

/// Where a normalization's parameters and statistics start.
#[derive(Clone, Copy)]
pub(super) struct NormSpan {
    pub weight: usize,
    pub bias: usize,
    pub statistics: usize,
    pub channels: usize,
}

impl NormSpan {
    /// Its channels among all normalized ones.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.statistics..self.statistics + self.channels
    }

    /// Its parameters.
    pub(super) fn norm<'a>(&self, parameters: &'a [Lanes], leaky: bool) -> Norm<'a> {
        Norm {
            weight: &parameters[self.weight..][..self.channels],
            bias: &parameters[self.bias..][..self.channels],
            leaky,
        }
    }
}

/// Convolution, batch normalization, LeakyReLU.
pub(super) struct Block {
    pub conv: Conv,
    pub norm: NormSpan,
    pub x: View,
    /// Where the derivative by `x` goes, if anywhere.
    pub dx: Option<View>,
    /// Whether it adds to what another branch has put there.
    pub adds: bool,
    /// The convolution's output, then the derivative by it.
    pub convolved: View,
    pub y: Map,
}

/// Upsampling, concatenation with the skip branch, batch normalization.
pub(super) struct Merge {
    pub deeper: Map,
    /// Skip channels first; then the derivative by them.
    pub merged: View,
    pub skip: usize,
    pub norm: NormSpan,
    pub y: View,
}

impl Merge {
    /// The channels of `merged` that come from the deeper level.
    pub(super) fn upsampled(&self) -> View {
        let channels = self.merged.channels - self.skip;
        self.merged.part(self.skip, channels)
    }
}

impl LanePlan {
    /// Lays out a network for pictures of `height × width`.
    ///
    /// # Errors
    /// The network is impossible, cannot fit that size, or would need more memory than can be
    /// addressed.
    pub(super) fn new(spec: &NetSpec, height: usize, width: usize) -> Result<LanePlan> {
        spec.check_size(height, width)?;
        // No level has more maps than these, none larger than the picture with a border of two.
        let channels: usize = (0..spec.levels())
            .map(|k| 2 * spec.level_input(k) + 4 * spec.down[k] + 2 * spec.skip[k])
            .chain((0..spec.levels()).map(|k| 2 * (spec.skip[k] + spec.level_deeper(k))))
            .chain(spec.up.iter().map(|up| 4 * up))
            .sum::<usize>()
            + spec.output_channels;
        let plane = (height as u128 + 4).saturating_mul(width as u128 + 4);
        if plane.saturating_mul(channels as u128) > 1 << 40 {
            return Err(Error::invalid(format!(
                "no memory for a DIP network on {height}×{width} (height × width); use smaller tiles"
            )));
        }
        Ok(Builder::new(spec).build(height, width))
    }
}

/// Hands out places.
struct Builder<'a> {
    spec: &'a NetSpec,
    steps: Vec<LaneStep>,
    parameter: usize,
    memory: usize,
    normalized: usize,
}

impl<'a> Builder<'a> {
    fn new(spec: &'a NetSpec) -> Self {
        Builder {
            spec,
            steps: vec![],
            parameter: 0,
            memory: 0,
            normalized: 0,
        }
    }

    fn build(mut self, height: usize, width: usize) -> LanePlan {
        let spec = self.spec;
        let input = self.view(spec.input_depth, height, width, 1);
        let input = self.level_input(0, input);
        let trains_input = spec.optimize_input;
        let features = self.level(0, input, trains_input);
        let (out, out_bias) = self.conv(spec.up[0], spec.output_channels, 1, 1);
        let output = self.view(spec.output_channels, height, width, 0);
        LanePlan {
            out,
            out_bias,
            features,
            output,
            input: input.value,
            input_gradient: trains_input.then_some(input.gradient),
            padding: spec.padding,
            upsample: spec.upsample,
            parameters: self.parameter,
            memory: self.memory,
            normalized: self.normalized,
            steps: self.steps,
        }
    }

    fn view(&mut self, channels: usize, height: usize, width: usize, border: usize) -> View {
        let view = View {
            at: self.memory,
            channels,
            height,
            width,
            border,
        };
        self.memory = view.end();
        view
    }

    /// Level `k`'s input, whose derivative has a place of its own if two branches read it.
    fn level_input(&mut self, k: usize, value: View) -> Map {
        let mut map = Map::shared(value);
        if self.spec.skip[k] > 0 {
            map.gradient = self.view(value.channels, value.height, value.width, value.border);
        }
        map
    }

    fn conv(
        &mut self,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
    ) -> (Conv, usize) {
        let conv = Conv {
            weight: self.parameter,
            inputs,
            outputs,
            kernel,
            stride,
        };
        let bias = self.parameter + conv.weights();
        self.parameter = bias + outputs;
        (conv, bias)
    }

    fn norm(&mut self, channels: usize) -> NormSpan {
        let norm = NormSpan {
            weight: self.parameter,
            bias: self.parameter + channels,
            statistics: self.normalized,
            channels,
        };
        self.parameter += 2 * channels;
        self.normalized += channels;
        norm
    }

    /// Level `k` and everything below; gives its output. The parameters come in layout order.
    fn level(&mut self, k: usize, x: Map, wants_gradient: bool) -> Map {
        let spec = self.spec;
        let (skip, down, up) = (spec.skip[k], spec.down[k], spec.up[k]);
        let (height, width) = (x.value.height, x.value.width);
        let merged = self.view(skip + spec.level_deeper(k), height, width, 0);
        let dx = wants_gradient.then_some(x.gradient);
        if skip > 0 {
            let y = Map::shared(merged.part(0, skip));
            self.block(x.value, dx, true, y, 1, 1);
        }
        let (height, width) = (height / 2, width / 2);
        let halved = self.view(down, height, width, 1);
        self.block(x.value, dx, false, Map::shared(halved), 3, 2);
        let deepest = k + 1 == spec.levels();
        let middle = self.view(down, height, width, usize::from(!deepest));
        let middle = if deepest {
            Map::shared(middle)
        } else {
            self.level_input(k + 1, middle)
        };
        self.block(halved, Some(halved), false, middle, 3, 1);

        // The layout has a level's merge, up and fuse before the deeper level's tensors.
        let norm = self.norm(merged.channels);
        let (height, width) = (2 * height, 2 * width);
        let normalized = self.view(merged.channels, height, width, 1);
        let risen = self.view(up, height, width, 0);
        let fused = Map::shared(self.view(up, height, width, 0));
        let before = self.steps.len();
        self.block(
            normalized,
            Some(normalized),
            false,
            Map::shared(risen),
            3,
            1,
        );
        self.block(risen, Some(risen), false, fused, 1, 1);
        let rise = self.steps.split_off(before);
        let deeper = if deepest {
            middle
        } else {
            self.level(k + 1, middle, true)
        };
        self.steps.push(LaneStep::Merge(Merge {
            deeper,
            merged,
            skip,
            norm,
            y: normalized,
        }));
        self.steps.extend(rise);
        fused
    }

    fn block(
        &mut self,
        x: View,
        dx: Option<View>,
        adds: bool,
        y: Map,
        kernel: usize,
        stride: usize,
    ) {
        let outputs = y.value.channels;
        // The input gradient of a 3×3 convolution reads this far beyond the derivative by its output.
        let border = match (kernel, stride, self.spec.padding) {
            (3, 1, Padding::Reflect) => 2,
            (3, ..) => 1,
            _ => 0,
        };
        let (conv, _) = self.conv(x.channels, outputs, kernel, stride);
        let norm = self.norm(outputs);
        let convolved = self.view(outputs, y.value.height, y.value.width, border);
        self.steps.push(LaneStep::Block(Block {
            conv,
            norm,
            x,
            dx,
            adds,
            convolved,
            y,
        }));
    }
}
