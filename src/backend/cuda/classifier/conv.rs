//! Convolutions and their gradients by the picture.

mod gather;

use self::gather::{Direction, Gather, Padding, Tables, Tap, TapClass};
use super::super::driver::{self, Address, Buffer, Device, Kernel, Launch, Result, Work};
use super::super::kernels::{classifier_conv, classifier_depthwise};
use super::operation::{Backward, Forward, Operation};
use super::product::{self, Ending, SLICE, Tiled};
use crate::classifier::Conv;
use crate::error;

const DEPTHWISE_THREADS: u32 = 128;
/// Output pixels that a thread of a depthwise kernel computes: PIXELS in the kernels' source.
const PIXELS: usize = 4;

driver::arguments! {
    struct ClassifierConvArgs {
        gather: Gather,
        x: Address,
        weight: Address,
        y: Address,
        ending: Ending,
        row: u32,
    }

    struct DepthwiseArgs {
        gather: Gather,
        x: Address,
        weight: Address,
        y: Address,
        ending: Ending,
        top: i32,
        left: i32,
    }
}

static POINTWISE: [Tiled; 3] = product::kernels(
    &classifier_conv::CLASSIFIER_POINTWISE_LARGE,
    &classifier_conv::CLASSIFIER_POINTWISE_FLAT,
    &classifier_conv::CLASSIFIER_POINTWISE_SMALL,
);
static GATHERED: [Tiled; 3] = product::kernels(
    &classifier_conv::CLASSIFIER_CONV_LARGE,
    &classifier_conv::CLASSIFIER_CONV_FLAT,
    &classifier_conv::CLASSIFIER_CONV_SMALL,
);

/// How a pass is computed.
#[derive(Clone, Copy)]
enum Way {
    /// As a matrix product.
    Product(&'static [Tiled]),
    /// Channel by channel, with windows whose first row and column these are.
    Windows(&'static Kernel, [i32; 2]),
    /// Channel by channel, by the table of taps.
    Taps,
}

/// One direction of a convolution.
struct Pass {
    way: Way,
    /// With the tables' addresses.
    shape: Gather,
    taps: Buffer<Tap>,
    classes: Buffer<TapClass>,
    weight: Buffer<f32>,
    class_count: u32,
    /// Of the largest class, in each picture.
    pixels: usize,
    /// For each picture.
    multiply_adds: u64,
}

impl Pass {
    fn new(
        device: &Device,
        direction: Direction,
        conv: &Conv,
        pictures: [&[usize]; 2],
        weight: &[f32],
    ) -> error::Result<Pass> {
        let depthwise = pictures.iter().all(|dims| dims.get(1) == Some(&conv.group));
        let padding = match depthwise {
            true => Padding {
                terms: 1,
                outputs: 1,
            },
            false => Padding {
                terms: SLICE,
                outputs: 4,
            },
        };
        let tables = Tables::new(direction, conv, pictures, weight, padding)?;
        let way = match tables.window() {
            _ if !depthwise && tables.is_pointwise() => Way::Product(&POINTWISE),
            _ if !depthwise => Way::Product(&GATHERED),
            Some((size, first)) => windows(size, tables.steps())
                .map_or(Way::Taps, |kernel| Way::Windows(kernel, first)),
            None => Way::Taps,
        };
        let taps = device.allocate_with(&tables.taps)?;
        let classes = device.allocate_with(&tables.classes)?;
        Ok(Pass {
            way,
            shape: Gather {
                taps: taps.at(0),
                classes: classes.at(0),
                ..tables.shape
            },
            taps,
            classes,
            weight: device.allocate_with(&tables.weight)?,
            class_count: tables.classes.len() as u32,
            pixels: tables.pixels(),
            multiply_adds: tables.multiply_adds(),
        })
    }

    fn launch(
        &self,
        device: &Device,
        pictures: usize,
        x: Address,
        y: Address,
        ending: Ending,
    ) -> Result<()> {
        let shape = self.shape;
        let elements = |channels: u32, height: u32, width: u32| {
            (shape.groups * channels) as usize * (height as usize * width as usize) * pictures
        };
        let read = elements(shape.inputs, shape.height, shape.width);
        let written = elements(shape.outputs, shape.out_height, shape.out_width);
        let numbers = read + self.weight.len() + written + if ending.reads() { written } else { 0 };
        let work = Work {
            bytes: (numbers * size_of::<f32>()) as u64,
            multiply_adds: self.multiply_adds * pictures as u64,
            ..Work::default()
        };
        let gather = Gather {
            // More are refused at the launch, for their pixels.
            pictures: pictures.try_into().unwrap_or(u32::MAX),
            ..shape
        };
        let (weight, outputs) = (self.weight.at(0), shape.outputs as usize);
        let pixels = self.pixels * pictures;
        match self.way {
            Way::Product(kernels) => {
                let row = shape.outputs.next_multiple_of(4);
                let arguments = ClassifierConvArgs {
                    gather,
                    x,
                    weight,
                    y,
                    ending,
                    row,
                };
                let others = [shape.groups, self.class_count];
                product::launch(
                    device,
                    kernels,
                    [outputs, pixels, 1],
                    others,
                    work,
                    &arguments,
                )
            }
            Way::Windows(kernel, [top, left]) => {
                let arguments = DepthwiseArgs {
                    gather,
                    x,
                    weight,
                    y,
                    ending,
                    top,
                    left,
                };
                let parts = (shape.out_height as usize).div_ceil(PIXELS);
                let threads = shape.groups as usize * pictures * parts * shape.out_width as usize;
                device.launch(kernel, channels_launch(threads, 1).doing(work), &arguments)
            }
            Way::Taps => {
                let arguments = DepthwiseArgs {
                    gather,
                    x,
                    weight,
                    y,
                    ending,
                    top: 0,
                    left: 0,
                };
                let kernel = &classifier_depthwise::CLASSIFIER_DEPTHWISE;
                let launch = channels_launch(shape.groups as usize * pixels, self.class_count);
                device.launch(kernel, launch.doing(work), &arguments)
            }
        }
    }

    fn constant_bytes(&self) -> usize {
        self.taps.bytes() + self.classes.bytes() + self.weight.bytes()
    }
}

/// The kernel for windows of a size that are so far apart.
fn windows(size: u32, steps: [u32; 2]) -> Option<&'static Kernel> {
    match (size, steps) {
        (3, [1, 1]) => Some(&classifier_depthwise::CLASSIFIER_DEPTHWISE_3),
        (3, [2, 2]) => Some(&classifier_depthwise::CLASSIFIER_DEPTHWISE_3_STEP_2),
        (5, [1, 1]) => Some(&classifier_depthwise::CLASSIFIER_DEPTHWISE_5),
        (5, [2, 2]) => Some(&classifier_depthwise::CLASSIFIER_DEPTHWISE_5_STEP_2),
        _ => None,
    }
}

/// Of a depthwise kernel, for so many threads.
fn channels_launch(threads: usize, classes: u32) -> Launch {
    let blocks = threads.div_ceil(DEPTHWISE_THREADS as usize);
    let x = product::grid(blocks, threads);
    Launch::new([x, 1, classes], DEPTHWISE_THREADS)
}

/// A convolution with constant weights. Computed inputs: the picture, and the residual if there is one.
struct Convolution {
    /// Pictures of an image, and elements of its output.
    pictures: usize,
    elements: usize,
    bias: Buffer<f32>,
    residual: bool,
    forward: Pass,
    backward: Pass,
}

/// A convolution of `[k, c, h, w]` to `[k, out, oh, ow]`, where each of the batch's images has `k` pictures;
/// `weight` is `[out, c/group, kh, kw]`, `bias` `[out]`. Its computed inputs are the picture and, where there
/// is a `residual`, one of the output's shape.
///
/// # Errors
/// The shapes are too large for a GPU, or its memory does not suffice.
pub(super) fn operation(
    device: &Device,
    conv: &Conv,
    input: &[usize],
    output: &[usize],
    weight: &[f32],
    bias: &[f32],
    residual: bool,
) -> error::Result<Box<dyn Operation>> {
    let convolution = Convolution::new(device, conv, [input, output], weight, bias, residual)?;
    Ok(Box::new(convolution))
}

impl Convolution {
    /// See [`operation`].
    fn new(
        device: &Device,
        conv: &Conv,
        pictures: [&[usize]; 2],
        weight: &[f32],
        bias: &[f32],
        residual: bool,
    ) -> error::Result<Convolution> {
        let pass = |direction| Pass::new(device, direction, conv, pictures, weight);
        Ok(Convolution {
            forward: pass(Direction::Forward)?,
            backward: pass(Direction::Backward)?,
            pictures: pictures[1][0],
            elements: pictures[1].iter().product(),
            bias: device.allocate_with(bias)?,
            residual,
        })
    }
}

impl Operation for Convolution {
    fn forward(&self, pass: Forward<'_>) -> Result<()> {
        let residual = self.residual.then(|| pass.inputs[1]);
        let ending = Ending::forward(Some(self.bias.at(0)), residual, pass.activation);
        let pictures = pass.images * self.pictures;
        self.forward
            .launch(pass.device, pictures, pass.inputs[0], pass.output, ending)
    }

    fn backward(&self, pass: Backward<'_>) -> Result<()> {
        if pass.input == 1 {
            return product::residual_backward(&pass, self.elements);
        }
        let ending = Ending::backward(pass.to, pass.accumulate);
        let pictures = pass.images * self.pictures;
        self.backward
            .launch(pass.device, pictures, pass.gradient, pass.to, ending)
    }

    fn constant_bytes(&self) -> usize {
        self.bias.bytes() + self.forward.constant_bytes() + self.backward.constant_bytes()
    }
}

#[cfg(test)]
mod tests;
