//! The shape of a convolution.

use super::batch::work;
use crate::backend::cuda::driver::Work;
use crate::dip::Padding;

/// A convolution of kernel 1 or 3, stride 1 or 2, and padding of half the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
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
    pub(crate) fn out_height(&self) -> u32 {
        self.height.div_ceil(self.stride)
    }
    pub(crate) fn out_width(&self) -> u32 {
        self.width.div_ceil(self.stride)
    }
    /// Numbers in its weight, `[outputs, inputs, kernel, kernel]`.
    pub(crate) fn weights(&self) -> usize {
        (self.outputs * self.inputs * self.kernel * self.kernel) as usize
    }

    /// Numbers of `x`.
    pub(crate) fn input(&self) -> u64 {
        u64::from(self.inputs) * u64::from(self.height) * u64::from(self.width)
    }

    /// Those of `x` that are read: a 1×1 kernel with a stride leaves some out.
    pub(crate) fn input_read(&self) -> u64 {
        match self.kernel {
            1 => u64::from(self.inputs) * u64::from(self.out_height() * self.out_width()),
            _ => self.input(),
        }
    }

    /// What each direction cannot do without for one instance: `y`, the weight, and `others`; the taps
    /// that zero padding skips are not counted.
    pub(crate) fn work(&self, others: u64) -> Work {
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
