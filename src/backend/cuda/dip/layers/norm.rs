//! Normalization, and the activation behind it.

use bytemuck::{Pod, Zeroable};

use super::batch::{Batch, Maps, Parameters, THREADS, WARP, per_thread, work};
use crate::backend::cuda::driver::{self, Address, Launch, Result, Work, shared_bytes};
use crate::backend::cuda::kernels::dip_norm;
use crate::dip::{BN_EPSILON, LEAKY_SLOPE};

driver::arguments! {
    /// What normalization knows of a channel.
    #[derive(Debug, Pod, Zeroable)]
    pub(crate) struct Statistics {
        residual: f64,
        precision: f64,
        mean: f32,
        scale: f32,
    }

    /// A part of the derivative of a channel.
    #[derive(Debug, Pod, Zeroable)]
    pub(crate) struct Line {
        coefficient: f32,
        coefficient_low: f32,
        level: f32,
    }

    pub(super) struct NormArgs {
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

    pub(super) struct NormBackwardArgs {
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
}

/// A normalization's channels and the pixels of each, and whether LeakyReLU follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
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

impl Batch<'_> {
    /// Fills `statistics` (a [`Statistics`] for each channel of each slot) from `x`, and `y` with the
    /// normalized `x`.
    pub(crate) fn norm_forward(
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
    #[allow(clippy::too_many_arguments)] // A normalization's numbers, each in its own place.
    pub(crate) fn norm_backward(
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
}
