//! Convolutions.

use super::batch::{Batch, Maps, Parameters, WARP};
use super::shape::Conv;
use super::tensor;
use crate::backend::cuda::driver::{self, Address, Launch, Result};
use crate::backend::cuda::kernels::dip_conv;
use crate::dip::Padding;

/// Channels that a thread of a convolution computes: CHANNELS in the kernels' source.
const CHANNELS: u32 = 4;
const THREADS: u32 = 128;

driver::arguments! {
    pub(super) struct ConvArgs {
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
}

impl Batch<'_> {
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
    pub(crate) fn conv_forward(
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
        let blocks = (conv.out_height() * conv.out_width()).div_ceil(THREADS);
        let grid = [blocks * conv.outputs.div_ceil(CHANNELS), 1, 1];
        let arguments = self.conv_args(conv, x, y, parameters);
        let work = conv.work(conv.input_read() + u64::from(conv.outputs));
        let launch = Launch::new(grid, THREADS).doing(work);
        self.launch(kernel, launch, &arguments)
    }

    /// `dx` = the derivative by the input, or that much more.
    pub(crate) fn conv_backward_data(
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
        let blocks = (conv.height * conv.width).div_ceil(THREADS);
        let grid = [blocks * conv.inputs.div_ceil(CHANNELS), 1, 1];
        let arguments = ConvArgs {
            accumulate: accumulate.into(),
            ..self.conv_args(conv, dx, dy, parameters)
        };
        let passes = if accumulate { 2 } else { 1 };
        let work = conv.work(passes * conv.input());
        let launch = Launch::new(grid, THREADS).doing(work);
        self.launch(kernel, launch, &arguments)
    }

    /// The derivatives by weight and bias.
    pub(crate) fn conv_backward_weights(
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
        let blocks = (conv.outputs * conv.inputs).div_ceil(THREADS / WARP);
        let arguments = self.conv_args(conv, x, dy, gradients);
        let work = conv.work(conv.input_read() + u64::from(conv.outputs));
        let launch = Launch::new([blocks, 1, 1], THREADS).doing(work);
        self.launch(kernel, launch, &arguments)
    }
}
