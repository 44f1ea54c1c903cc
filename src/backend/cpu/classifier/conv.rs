//! Convolutions, on channel-blocked pictures.

use super::elementwise::transfer;
use super::operation::{Backward, Inputs, Operation};
use super::scatter::Scatter;
use crate::backend::cpu::blocked::{
    Activation, ConvShape, DepthwiseWeights, Destination, Epilogue, PackedWeights, Padding, Pads,
    Source, conv_backward_data, conv_forward, depthwise_backward_data, depthwise_forward, layout,
};
use crate::backend::cpu::simd::{LANES, Lanes};
use crate::classifier::Function;
use crate::error::Result;

/// `activation(convolution + bias + residual)`; the residual is a second input.
pub(super) struct Conv {
    images: usize,
    /// Of the whole convolution.
    shape: ConvShape,
    weights: Weights,
    bias: Vec<Lanes>,
    residual: bool,
}

enum Weights {
    Depthwise(DepthwiseWeights),
    /// Dense convolutions side by side: one, or bundles of groups that fill whole lanes on both
    /// sides, with zeros between the groups of a bundle.
    Dense(Vec<Bundle>),
}

struct Bundle {
    shape: ConvShape,
    /// First channel group of the input and of the output.
    first: [usize; 2],
    forward: PackedWeights,
    /// Made when a gradient is first asked for.
    backward: Option<Transposed>,
}

/// What the gradient by the input is computed with.
enum Transposed {
    Blocked(PackedWeights),
    Scattered(Scatter),
}

impl Transposed {
    fn bytes(&self) -> usize {
        match self {
            Transposed::Blocked(weights) => size_of_val(weights.data()),
            Transposed::Scattered(scatter) => scatter.bytes(),
        }
    }
}

impl Bundle {
    /// The bundle's part of one image's `groups` channel groups of `side` (0 input, 1 output).
    fn part(&self, side: usize) -> std::ops::Range<usize> {
        let (channels, size) = [
            (self.shape.in_channels, self.shape.input),
            (self.shape.out_channels, self.shape.output()),
        ][side];
        let plane = size[0] * size[1];
        let first = self.first[side] * plane;
        first..first + layout::groups(channels) * plane
    }
}

/// How many groups of `channels` channels fill whole lanes.
fn filling(channels: usize) -> usize {
    let mut gcd = (channels, LANES);
    while gcd.1 > 0 {
        gcd = (gcd.1, gcd.0 % gcd.1);
    }
    LANES / gcd.0
}

const CHECKED: &str = "the convolution was checked when it was planned";

impl Conv {
    /// A convolution of `images` pictures of `input` height and width, with weights
    /// `[out][in / group][kh][kw]`.
    ///
    /// # Errors
    /// The convolution's sizes are beyond what can be addressed.
    pub(super) fn new(
        conv: &crate::classifier::Conv,
        images: usize,
        channels: usize,
        input: [usize; 2],
        weight: &[f32],
        bias: &[f32],
        residual: bool,
    ) -> Result<Self> {
        let pads = conv.window.pads;
        let shape = ConvShape {
            in_channels: channels,
            out_channels: bias.len(),
            kernel: conv.window.kernel,
            stride: conv.window.strides,
            dilation: conv.window.dilations,
            pads: Pads {
                top: pads.top,
                left: pads.left,
                bottom: pads.bottom,
                right: pads.right,
            },
            padding: Padding::Zero,
            input,
        };
        shape.check()?;
        let group = conv.group;
        let weights = if group > 1 && group == shape.in_channels && group == shape.out_channels {
            Weights::Depthwise(DepthwiseWeights::new(&shape, weight)?)
        } else {
            let [each_in, each_out] = [shape.in_channels / group, shape.out_channels / group];
            // Both are powers of 2, so the larger is a multiple of the other.
            let together = filling(each_in).max(filling(each_out));
            let size = each_in * shape.taps();
            let bundles = (0..group).step_by(together).map(|first| {
                let groups = together.min(group - first);
                let shape = ConvShape {
                    in_channels: each_in * groups,
                    out_channels: each_out * groups,
                    ..shape
                };
                let mut forward = PackedWeights::zeroed_forward(&shape, &[shape.in_channels])?;
                forward.fill(|to, from, tap| {
                    if to / each_out != from / each_in {
                        return 0.0;
                    }
                    let to = first * each_out + to;
                    weight[to * size + from % each_in * shape.taps() + tap]
                });
                Ok(Bundle {
                    shape,
                    first: [each_in, each_out].map(|each| first * each / LANES),
                    forward,
                    backward: None,
                })
            });
            Weights::Dense(bundles.collect::<Result<_>>()?)
        };
        Ok(Conv {
            images,
            shape,
            weights,
            bias: layout::block_channels(bias),
            residual,
        })
    }

    /// Groups of lanes of an image of the input and of the output.
    fn image(&self) -> [usize; 2] {
        let size = |channels: usize, [height, width]: [usize; 2]| {
            layout::groups(channels) * height * width
        };
        [
            size(self.shape.in_channels, self.shape.input),
            size(self.shape.out_channels, self.shape.output()),
        ]
    }
}

/// The activation as the kernels name it.
fn named(function: Function) -> Activation {
    match function {
        Function::Relu => Activation::Relu,
        Function::Clip { low, high } => Activation::Clip { low, high },
        _ => Activation::Function(function),
    }
}

fn destination(to: &mut [Lanes], channels: usize, accumulate: bool) -> Destination<'_> {
    if accumulate {
        Destination::adding(to, channels)
    } else {
        Destination::new(to, channels)
    }
}

impl Operation for Conv {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        activation: Option<Function>,
        output: &mut [Lanes],
        _: &mut [Lanes],
    ) {
        let x = inputs.get(0);
        let residual = self.residual.then(|| inputs.get(1));
        let activation = activation.map(named).unwrap_or_default();
        match &self.weights {
            Weights::Depthwise(weights) => {
                let source = Source::plain(x, self.shape.in_channels);
                let epilogue = Epilogue {
                    bias: Some(&self.bias),
                    residual,
                    activation,
                };
                depthwise_forward(&self.shape, self.images, source, weights, &epilogue, output)
                    .expect(CHECKED);
            }
            Weights::Dense(bundles) => {
                let [from, to] = self.image();
                for image in 0..self.images {
                    let x = &x[image * from..][..from];
                    for bundle in bundles {
                        let source = Source::plain(&x[bundle.part(0)], bundle.shape.in_channels);
                        let part = bundle.part(1);
                        let groups = layout::groups(bundle.shape.out_channels);
                        let epilogue = Epilogue {
                            bias: Some(&self.bias[bundle.first[1]..][..groups]),
                            residual: residual
                                .map(|residual| &residual[image * to..][part.clone()]),
                            activation,
                        };
                        conv_forward(
                            &bundle.shape,
                            1,
                            &[source],
                            &bundle.forward,
                            &epilogue,
                            &mut output[image * to..][part],
                        )
                        .expect(CHECKED);
                    }
                }
            }
        }
    }

    fn backward(&self, pass: Backward<'_>) {
        if pass.input == 1 {
            return transfer(pass.gradient, pass.to, pass.accumulate);
        }
        match &self.weights {
            Weights::Depthwise(weights) => {
                let to = destination(pass.to, self.shape.in_channels, pass.accumulate);
                depthwise_backward_data(&self.shape, self.images, pass.gradient, weights, to)
                    .expect(CHECKED);
            }
            Weights::Dense(bundles) => {
                let [from, to] = self.image();
                for image in 0..self.images {
                    let gradient = &pass.gradient[image * to..][..to];
                    for bundle in bundles {
                        let gradient = &gradient[bundle.part(1)];
                        let part = &mut pass.to[image * from..][bundle.part(0)];
                        match bundle.backward.as_ref().expect("prepared") {
                            Transposed::Blocked(weights) => {
                                let channels = bundle.shape.in_channels;
                                let to = &mut [destination(part, channels, pass.accumulate)];
                                conv_backward_data(&bundle.shape, 1, gradient, weights, to)
                                    .expect(CHECKED);
                            }
                            Transposed::Scattered(scatter) => {
                                scatter.run(gradient, part, pass.accumulate, pass.scratch);
                            }
                        }
                    }
                }
            }
        }
    }

    fn backward_scratch(&self) -> usize {
        let Weights::Dense(bundles) = &self.weights else {
            return 0;
        };
        let shapes = bundles.iter().map(|bundle| &bundle.shape);
        let scattered = shapes.filter(|shape| Scatter::fits(shape));
        scattered.map(Scatter::scratch).max().unwrap_or(0)
    }

    fn prepare_backward(&mut self) -> Result<()> {
        if let Weights::Dense(bundles) = &mut self.weights {
            for bundle in bundles {
                bundle.backward = Some(if Scatter::fits(&bundle.shape) {
                    Transposed::Scattered(Scatter::new(bundle.shape, &bundle.forward.to_oihw()))
                } else {
                    let mut backward = bundle.forward.zeroed_transpose();
                    bundle.forward.transpose_into(&mut backward);
                    Transposed::Blocked(backward)
                });
            }
        }
        Ok(())
    }

    fn constant_bytes(&self) -> usize {
        let weights = match &self.weights {
            Weights::Depthwise(_) => {
                layout::groups(self.shape.in_channels) * self.shape.taps() * size_of::<Lanes>()
            }
            Weights::Dense(bundles) => bundles
                .iter()
                .map(|bundle| {
                    let backward = bundle.backward.as_ref().map_or(0, Transposed::bytes);
                    size_of_val(bundle.forward.data()) + backward
                })
                .sum(),
        };
        weights + size_of_val(&*self.bias)
    }
}
