//! The operations of DIP networks: one launch each, or a few, for all instances in use.

pub mod tensor;

use bytemuck::{Pod, Zeroable};

use super::super::driver::{self, Address, Device, Kernel, Launch, Result, Work, shared_bytes};
use super::super::kernels::{dip_conv, dip_norm, dip_step, dip_upsample};
use crate::dip::{
    ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, BN_EPSILON, LEAKY_SLOPE, Padding, Upsample,
};

/// Channels that a thread of a convolution computes: CHANNELS in the kernels' source.
const CHANNELS: u32 = 4;
const CONV_THREADS: u32 = 128;
const THREADS: u32 = 256;
const WARP: u32 = 32;

driver::arguments! {
    /// Feature maps, parameters or the like of all slots: slot `s` has its own at `data + s · stride`.
    pub struct Maps {
        data: Address,
        stride: u64,
    }

    struct ConvArgs {
        slots: Address,
        x: Maps,
        y: Maps,
        weight: Maps,
        bias: Maps,
        inputs: u32,
        outputs: u32,
        height: u32,
        width: u32,
        out_height: u32,
        out_width: u32,
        stride: u32,
        reflect: u32,
        accumulate: u32,
    }

    /// What normalisation knows of a channel.
    #[derive(Debug, Pod, Zeroable)]
    pub struct Statistics {
        rest: f64,
        precision: f64,
        mean: f32,
        scale: f32,
    }

    /// A part of the derivative of a channel.
    #[derive(Debug, Pod, Zeroable)]
    pub struct Line {
        slant: f32,
        slant_rest: f32,
        level: f32,
    }

    struct NormArgs {
        slots: Address,
        x: Maps,
        statistics: Address,
        weight: Maps,
        bias: Maps,
        y: Maps,
        channels: u32,
        plane: u32,
        slope: f32,
        epsilon: f64,
    }

    struct NormBackwardArgs {
        slots: Address,
        x: Maps,
        statistics: Address,
        weight: Maps,
        bias: Maps,
        dy: Maps,
        dweight: Maps,
        dbias: Maps,
        lines: Address,
        channels: u32,
        plane: u32,
        slope: f32,
    }

    struct UpsampleArgs {
        slots: Address,
        x: Maps,
        y: Maps,
        channels: u32,
        height: u32,
        width: u32,
        bilinear: u32,
    }

    struct JitterArgs {
        slots: Address,
        iterations: Address,
        keys: Address,
        z: Maps,
        out: Maps,
        elements: u32,
        sigma: f32,
    }

    struct LossArgs {
        slots: Address,
        iterations: Address,
        x: Maps,
        target: Maps,
        picture: Maps,
        errors: Maps,
        elements: u32,
        keep: f32,
    }

    struct AdamArgs {
        slots: Address,
        iterations: Address,
        values: Maps,
        gradients: Maps,
        first: Maps,
        second: Maps,
        count: u32,
        learning_rate: f32,
        epsilon: f32,
        beta2: f32,
        log_beta1: f32,
        log_beta2: f32,
        one_less_beta1: f32,
        one_less_beta2: f32,
    }

    struct IterationsArgs {
        slots: Address,
        iterations: Address,
        count: u32,
    }
}

impl Maps {
    /// With the first slot's at `data`, and the next one's `stride` elements further on.
    pub fn new(data: Address, stride: usize) -> Maps {
        Maps {
            data,
            stride: stride as u64,
        }
    }

    /// With its elements a number of places further on.
    pub fn skip(self, elements: usize) -> Maps {
        Maps {
            data: self.data.offset(elements * size_of::<f32>()),
            ..self
        }
    }
}

/// A convolution of kernel 1 or 3, stride 1 or 2, and padding of half the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    pub inputs: u32,
    pub outputs: u32,
    pub kernel: u32,
    pub stride: u32,
    pub padding: Padding,
    /// Of its input.
    pub height: u32,
    pub width: u32,
}

impl Conv {
    pub fn out_height(&self) -> u32 {
        self.height.div_ceil(self.stride)
    }
    pub fn out_width(&self) -> u32 {
        self.width.div_ceil(self.stride)
    }
    /// Numbers in its weight, `[outputs, inputs, kernel, kernel]`.
    pub fn weights(&self) -> usize {
        (self.outputs * self.inputs * self.kernel * self.kernel) as usize
    }

    /// Numbers of `x`.
    fn input(&self) -> u64 {
        u64::from(self.inputs) * u64::from(self.height) * u64::from(self.width)
    }

    /// Those of `x` that are read: a 1×1 kernel with a stride leaves some out.
    fn input_read(&self) -> u64 {
        match self.kernel {
            1 => u64::from(self.inputs) * u64::from(self.out_height() * self.out_width()),
            _ => self.input(),
        }
    }

    /// What each direction cannot do without for one instance: `y`, the weight, and `others`; the taps
    /// that zero padding skips are not counted.
    fn work(&self, others: u64) -> Work {
        // Of one axis of n pixels: three taps an output, less one at each end that lies in the padding.
        let taps = |n: u32| {
            let out = n.div_ceil(self.stride);
            match (self.kernel, self.padding) {
                (1, _) => u64::from(out),
                (_, Padding::Reflect) => 3 * u64::from(out),
                (_, Padding::Zero) => {
                    let beyond = self.stride * (out - 1) + 1 >= n;
                    3 * u64::from(out) - 1 - u64::from(beyond)
                }
            }
        };
        let (inputs, outputs) = (u64::from(self.inputs), u64::from(self.outputs));
        let y = outputs * u64::from(self.out_height()) * u64::from(self.out_width());
        work(
            y + self.weights() as u64 + others,
            inputs * outputs * taps(self.height) * taps(self.width),
        )
    }
}

/// Work of so many numbers that are read or written, and so many multiply-adds.
fn work(numbers: u64, multiply_adds: u64) -> Work {
    Work {
        bytes: numbers * size_of::<f32>() as u64,
        multiply_adds,
        ..Work::default()
    }
}

/// Where a layer has its weight and its bias, or their derivatives.
#[derive(Clone, Copy)]
pub struct Parameters {
    pub weight: Maps,
    pub bias: Maps,
}

/// A normalisation's channels and the pixels of each, and whether LeakyReLU follows.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub channels: u32,
    pub plane: u32,
    pub leaky: bool,
}

impl Norm {
    fn slope(&self) -> f32 {
        if self.leaky { LEAKY_SLOPE as f32 } else { 1.0 }
    }

    /// A block to a channel: no larger than keeps its threads busy.
    fn per_channel(&self) -> Launch {
        let threads = (self.plane / 4).next_multiple_of(WARP).clamp(WARP, THREADS);
        let shared = shared_bytes([2 * (threads / WARP) as usize * size_of::<f64>()]);
        Launch::new([self.channels, 1, 1], threads).with_shared(shared)
    }

    fn per_element(&self) -> Launch {
        per_thread(self.channels * self.plane)
    }

    /// Work of so many numbers and multiply-adds for an element, and so many bytes for a channel.
    fn work(&self, numbers: u64, multiply_adds: u64, channel: usize) -> Work {
        let elements = u64::from(self.channels) * u64::from(self.plane);
        let mut work = work(numbers * elements, multiply_adds * elements);
        work.bytes += u64::from(self.channels) * channel as u64;
        work
    }
}

/// Weight and bias of a channel, or their derivatives, in bytes.
const AFFINE: usize = 2 * size_of::<f32>();

/// A thread to each of `n`.
fn per_thread(n: u32) -> Launch {
    Launch::new([n.div_ceil(THREADS), 1, 1], THREADS)
}

/// Sums of squared errors that [`Batch::loss`] leaves for pictures of so many elements.
pub fn error_sums(elements: u32) -> u32 {
    elements.div_ceil(THREADS)
}

/// The instances in use, for which operations are launched.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub device: &'a Device,
    /// Their slots.
    pub slots: Address,
    pub count: u32,
    /// Iterations that every slot has done.
    pub iterations: Address,
    /// Room for convolutions on tensor cores; `None` where all are float32.
    pub matrices: Option<Maps>,
}

impl Batch<'_> {
    /// For every instance; the grid's first axis, the block and the work are those of one.
    fn launch<A: driver::Arguments>(
        &self,
        kernel: &Kernel,
        one: Launch,
        arguments: &A,
    ) -> Result<()> {
        let all = Launch {
            grid: [one.grid[0], self.count, 1],
            work: one.work.times(self.count),
            ..one
        };
        self.device.launch(kernel, all, arguments)
    }

    fn conv_args(&self, conv: &Conv, x: Maps, y: Maps, parameters: Parameters) -> ConvArgs {
        ConvArgs {
            slots: self.slots,
            x,
            y,
            weight: parameters.weight,
            bias: parameters.bias,
            inputs: conv.inputs,
            outputs: conv.outputs,
            height: conv.height,
            width: conv.width,
            out_height: conv.out_height(),
            out_width: conv.out_width(),
            stride: conv.stride,
            reflect: (conv.padding == Padding::Reflect).into(),
            accumulate: 0,
        }
    }

    /// Room for tensor cores, where a layer is for them.
    fn matrices_for(&self, conv: &Conv) -> Option<Maps> {
        self.matrices.filter(|_| tensor::suits(conv))
    }

    /// `y = bias + weight * x`.
    pub fn conv_forward(
        &self,
        conv: &Conv,
        x: Maps,
        parameters: Parameters,
        y: Maps,
    ) -> Result<()> {
        if let Some(room) = self.matrices_for(conv) {
            return self.conv_forward_tensor(room, conv, x, parameters, y);
        }
        let kernel = match conv.kernel {
            1 => &dip_conv::DIP_CONV1_FORWARD,
            _ => &dip_conv::DIP_CONV3_FORWARD,
        };
        let blocks = (conv.out_height() * conv.out_width()).div_ceil(CONV_THREADS);
        let grid = [blocks * conv.outputs.div_ceil(CHANNELS), 1, 1];
        let arguments = self.conv_args(conv, x, y, parameters);
        let work = conv.work(conv.input_read() + u64::from(conv.outputs));
        let launch = Launch::new(grid, CONV_THREADS).doing(work);
        self.launch(kernel, launch, &arguments)
    }

    /// `dx` = the derivative by the input, or that much more.
    pub fn conv_backward_data(
        &self,
        conv: &Conv,
        dy: Maps,
        parameters: Parameters,
        dx: Maps,
        accumulate: bool,
    ) -> Result<()> {
        if let Some(room) = self.matrices_for(conv) {
            return self.conv_backward_data_tensor(room, conv, dy, parameters, dx, accumulate);
        }
        let kernel = match conv.kernel {
            1 => &dip_conv::DIP_CONV1_BACKWARD_DATA,
            _ => &dip_conv::DIP_CONV3_BACKWARD_DATA,
        };
        let blocks = (conv.height * conv.width).div_ceil(CONV_THREADS);
        let grid = [blocks * conv.inputs.div_ceil(CHANNELS), 1, 1];
        let arguments = ConvArgs {
            accumulate: accumulate.into(),
            ..self.conv_args(conv, dx, dy, parameters)
        };
        let passes = if accumulate { 2 } else { 1 };
        let work = conv.work(passes * conv.input());
        let launch = Launch::new(grid, CONV_THREADS).doing(work);
        self.launch(kernel, launch, &arguments)
    }

    /// The derivatives by weight and bias.
    pub fn conv_backward_weights(
        &self,
        conv: &Conv,
        x: Maps,
        dy: Maps,
        gradients: Parameters,
    ) -> Result<()> {
        if let Some(room) = self.matrices_for(conv) {
            return self.conv_backward_weights_tensor(room, conv, x, dy, gradients);
        }
        let kernel = match conv.kernel {
            1 => &dip_conv::DIP_CONV1_BACKWARD_WEIGHTS,
            _ => &dip_conv::DIP_CONV3_BACKWARD_WEIGHTS,
        };
        let blocks = (conv.outputs * conv.inputs).div_ceil(CONV_THREADS / WARP);
        let arguments = self.conv_args(conv, x, dy, gradients);
        let work = conv.work(conv.input_read() + u64::from(conv.outputs));
        let launch = Launch::new([blocks, 1, 1], CONV_THREADS).doing(work);
        self.launch(kernel, launch, &arguments)
    }

    /// Fills `statistics` (a [`Statistics`] for each channel of each slot) from `x`, and `y` with the
    /// normalised `x`.
    pub fn norm_forward(
        &self,
        norm: &Norm,
        x: Maps,
        parameters: Parameters,
        statistics: Address,
        y: Maps,
    ) -> Result<()> {
        let arguments = NormArgs {
            slots: self.slots,
            x,
            statistics,
            weight: parameters.weight,
            bias: parameters.bias,
            y,
            channels: norm.channels,
            plane: norm.plane,
            slope: norm.slope(),
            epsilon: BN_EPSILON,
        };
        let known = size_of::<Statistics>();
        let statistics = norm.per_channel().doing(norm.work(1, 1, known));
        self.launch(&dip_norm::DIP_NORM_STATISTICS, statistics, &arguments)?;
        let forward = norm.per_element().doing(norm.work(2, 1, known + AFFINE));
        self.launch(&dip_norm::DIP_NORM_FORWARD, forward, &arguments)
    }

    /// Turns the derivative by the output, `d`, to the one by the input, and gives those by weight and
    /// bias; `lines` is room for a [`Line`] for each channel of each slot.
    #[allow(clippy::too_many_arguments)] // A normalisation's numbers, each in its own place.
    pub fn norm_backward(
        &self,
        norm: &Norm,
        x: Maps,
        parameters: Parameters,
        statistics: Address,
        d: Maps,
        gradients: Parameters,
        lines: Address,
    ) -> Result<()> {
        let arguments = NormBackwardArgs {
            slots: self.slots,
            x,
            statistics,
            weight: parameters.weight,
            bias: parameters.bias,
            dy: d,
            dweight: gradients.weight,
            dbias: gradients.bias,
            lines,
            channels: norm.channels,
            plane: norm.plane,
            slope: norm.slope(),
        };
        let known = size_of::<Statistics>() + AFFINE + size_of::<Line>();
        let parameters = norm.per_channel().doing(norm.work(2, 2, known + AFFINE));
        let kernel = &dip_norm::DIP_NORM_BACKWARD_PARAMETERS;
        self.launch(kernel, parameters, &arguments)?;
        let backward = norm.per_element().doing(norm.work(3, 4, known));
        self.launch(&dip_norm::DIP_NORM_BACKWARD, backward, &arguments)
    }

    fn upsample_args(&self, mode: Upsample, size: [u32; 3], x: Maps, y: Maps) -> UpsampleArgs {
        let [channels, height, width] = size;
        UpsampleArgs {
            slots: self.slots,
            x,
            y,
            channels,
            height,
            width,
            bilinear: (mode == Upsample::Bilinear).into(),
        }
    }

    /// `y` = `x`, of `size` (channels, height, width), twice as large.
    pub fn upsample_forward(&self, mode: Upsample, size: [u32; 3], x: Maps, y: Maps) -> Result<()> {
        let arguments = self.upsample_args(mode, size, x, y);
        let elements = size.iter().product::<u32>();
        let multiply_adds = match mode {
            Upsample::Nearest => 0,
            Upsample::Bilinear => 4 * 3 * u64::from(elements),
        };
        let work = work(5 * u64::from(elements), multiply_adds);
        let launch = per_thread(4 * elements).doing(work);
        self.launch(&dip_upsample::DIP_UPSAMPLE_FORWARD, launch, &arguments)
    }

    /// The derivative by the upsampled picture's source, which has `size`.
    pub fn upsample_backward(
        &self,
        mode: Upsample,
        size: [u32; 3],
        dy: Maps,
        dx: Maps,
    ) -> Result<()> {
        let arguments = self.upsample_args(mode, size, dx, dy);
        let elements = size.iter().product::<u32>();
        // On either axis two pixels to each or, less one at the ends, four.
        let terms = |n: u32| match mode {
            Upsample::Nearest => 2 * u64::from(n),
            Upsample::Bilinear => 4 * u64::from(n) - 2,
        };
        let [channels, height, width] = size;
        let work = work(
            5 * u64::from(elements),
            u64::from(channels) * terms(height) * terms(width),
        );
        let launch = per_thread(elements).doing(work);
        self.launch(&dip_upsample::DIP_UPSAMPLE_BACKWARD, launch, &arguments)
    }

    /// `out = z + sigma · N(0, 1)`, drawn from `keys`: three words a slot.
    pub fn jitter(
        &self,
        sigma: f32,
        elements: u32,
        keys: Address,
        z: Maps,
        out: Maps,
    ) -> Result<()> {
        let arguments = JitterArgs {
            slots: self.slots,
            iterations: self.iterations,
            keys,
            z,
            out,
            elements,
            sigma,
        };
        // With three words of the key, and the iteration.
        let work = work(2 * u64::from(elements) + 4, elements.into());
        let launch = per_thread(elements.div_ceil(4)).doing(work);
        self.launch(&dip_step::DIP_JITTER, launch, &arguments)
    }

    /// `picture` = sigmoid of `x`, or the average of those; `x` = the derivative of the mean squared error
    /// from `target`; `errors` = [`error_sums`] of the squared errors.
    pub fn loss(
        &self,
        elements: u32,
        keep: f32,
        x: Maps,
        target: Maps,
        picture: Maps,
        errors: Maps,
    ) -> Result<()> {
        let arguments = LossArgs {
            slots: self.slots,
            iterations: self.iterations,
            x,
            target,
            picture,
            errors,
            elements,
            keep,
        };
        let shared = shared_bytes([(THREADS / WARP) as usize * size_of::<f32>()]);
        // x is read and written, the target read, the picture written and, for an average, read; the first
        // iteration has nothing to average yet.
        let (numbers, averaged) = match keep {
            0.0 => (4, 0),
            _ => (5, elements.into()),
        };
        let numbers = numbers * u64::from(elements) + u64::from(error_sums(elements));
        let launch = per_thread(elements)
            .with_shared(shared)
            .doing(work(numbers, averaged));
        self.launch(&dip_step::DIP_LOSS, launch, &arguments)
    }

    /// Moves `count` values of every instance against their gradients.
    pub fn adam(
        &self,
        count: u32,
        learning_rate: f64,
        values: Maps,
        gradients: Maps,
        moments: [Maps; 2],
    ) -> Result<()> {
        let arguments = AdamArgs {
            slots: self.slots,
            iterations: self.iterations,
            values,
            gradients,
            first: moments[0],
            second: moments[1],
            count,
            learning_rate: learning_rate as f32,
            epsilon: ADAM_EPSILON as f32,
            beta2: ADAM_BETA2 as f32,
            log_beta1: ADAM_BETA1.ln() as f32,
            log_beta2: ADAM_BETA2.ln() as f32,
            one_less_beta1: (1.0 - ADAM_BETA1) as f32,
            one_less_beta2: (1.0 - ADAM_BETA2) as f32,
        };
        // Values and both moments are read and written, gradients read.
        let work = work(7 * u64::from(count), 2 * u64::from(count));
        self.launch(
            &dip_step::DIP_ADAM,
            per_thread(count).doing(work),
            &arguments,
        )
    }

    /// Counts an iteration, once it is done.
    pub fn count_iteration(&self) -> Result<()> {
        let arguments = IterationsArgs {
            slots: self.slots,
            iterations: self.iterations,
            count: self.count,
        };
        // The slot, and its iterations read and written.
        let work = work(3, 0).times(self.count);
        let launch = per_thread(self.count).doing(work);
        self.device
            .launch(&dip_step::DIP_ITERATIONS, launch, &arguments)
    }
}

#[cfg(test)]
mod tests;
