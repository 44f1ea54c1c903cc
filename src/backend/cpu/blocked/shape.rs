//! What a convolution computes: sizes, strides and padding.

use crate::backend::cpu::simd::Lanes;
use crate::dip::Padding;
use crate::error::{Error, Result};

use super::layout::groups;

/// Pixels of padding on each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pads {
    pub top: usize,
    pub left: usize,
    pub bottom: usize,
    pub right: usize,
}

impl Pads {
    /// The same on all four sides.
    pub fn all(n: usize) -> Pads {
        Pads {
            top: n,
            left: n,
            bottom: n,
            right: n,
        }
    }
}

/// A convolution's sizes. Pairs are `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    pub in_channels: usize,
    pub out_channels: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub pads: Pads,
    /// What the padding holds.
    pub padding: Padding,
    /// Height and width of the input.
    pub input: [usize; 2],
}

impl ConvShape {
    /// A square kernel of stride 1 whose zero padding keeps the size (for odd kernels).
    pub fn same(
        in_channels: usize,
        out_channels: usize,
        kernel: usize,
        input: [usize; 2],
    ) -> ConvShape {
        ConvShape {
            in_channels,
            out_channels,
            kernel: [kernel; 2],
            stride: [1; 2],
            dilation: [1; 2],
            pads: Pads::all(kernel / 2),
            padding: Padding::Zero,
            input,
        }
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Input rows and columns that one output pixel's window spans.
    pub(super) fn extent(&self) -> [usize; 2] {
        [0, 1].map(|a| (self.kernel[a] - 1) * self.dilation[a] + 1)
    }

    /// Height and width of the output. Meaningful once [`check`](Self::check) has passed.
    pub fn output(&self) -> [usize; 2] {
        let [height, width] = self.padded();
        let [rows, columns] = self.extent();
        [
            (height - rows) / self.stride[0] + 1,
            (width - columns) / self.stride[1] + 1,
        ]
    }

    /// Height and width of the padded input.
    pub(super) fn padded(&self) -> [usize; 2] {
        [
            self.input[0] + self.pads.top + self.pads.bottom,
            self.input[1] + self.pads.left + self.pads.right,
        ]
    }

    /// Multiply-adds of one image, counted as two operations each.
    pub fn flops(&self) -> f64 {
        let [height, width] = self.output();
        2.0 * [
            self.in_channels,
            self.out_channels,
            self.taps(),
            height,
            width,
        ]
        .iter()
        .map(|&n| n as f64)
        .product::<f64>()
    }

    /// Whether output pixel `i` sees input pixel `i` alone, so that the image is one long row.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == [1; 2] && self.stride == [1; 2] && self.pads == Pads::default()
    }

    /// The same convolution with the picture as one row, for pointwise ones.
    pub(super) fn flattened(&self) -> ConvShape {
        if !self.is_pointwise() {
            return *self;
        }
        ConvShape {
            input: [1, self.input[0] * self.input[1]],
            ..*self
        }
    }

    /// Checks that the convolution exists and its tensors are addressable.
    ///
    /// # Errors
    /// Says which size cannot be.
    pub fn check(&self) -> Result<()> {
        // Far beyond any network, and products of a few of them do not overflow.
        const MOST: usize = 1 << 20;
        let refused = |what: &str| Error::invalid(format!("a convolution with {what}: {self:?}"));
        let Pads {
            top,
            left,
            bottom,
            right,
        } = self.pads;
        let positive = [
            self.kernel,
            self.stride,
            self.dilation,
            self.input,
            [self.in_channels, self.out_channels],
        ];
        if positive.as_flattened().contains(&0) {
            return Err(refused("a size of 0"));
        }
        let pads = [top, left, bottom, right];
        if positive
            .as_flattened()
            .iter()
            .chain(&pads)
            .any(|&n| n > MOST)
        {
            return Err(refused("a size of over a million"));
        }
        let [rows, columns] = self.extent();
        let [height, width] = self.padded();
        if rows > height || columns > width {
            return Err(refused("a kernel larger than its padded input"));
        }
        if self.padding == Padding::Reflect
            && (top.max(bottom) >= self.input[0] || left.max(right) >= self.input[1])
        {
            return Err(refused("reflection padding as large as its input"));
        }
        let addressable = |channels: usize, [height, width]: [usize; 2]| {
            [height, width, size_of::<Lanes>()]
                .iter()
                .try_fold(groups(channels), |n, &size| n.checked_mul(size))
                .is_some_and(|n| n <= isize::MAX as usize)
        };
        let weights = [self.kernel[0], self.kernel[1], groups(self.out_channels)]
            .iter()
            .try_fold(self.in_channels, |n, &size| n.checked_mul(size));
        if !addressable(self.in_channels, self.padded())
            || !addressable(self.out_channels, self.output())
            || weights.is_none_or(|n| n > isize::MAX as usize / size_of::<Lanes>())
        {
            return Err(refused("tensors beyond the address space"));
        }
        Ok(())
    }

    /// Refuses tensors whose channels are not the input's.
    pub(super) fn check_channels(
        &self,
        tensors: impl Iterator<Item = usize> + Clone,
    ) -> Result<()> {
        let sum = tensors.clone().try_fold(0_usize, |n, c| n.checked_add(c));
        if sum == Some(self.in_channels) && !tensors.clone().any(|c| c == 0) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "tensors of {:?} channels for a convolution whose input has {}",
            tensors.collect::<Vec<_>>(),
            self.in_channels
        )))
    }

    /// Refuses a buffer that does not hold `images` images of `channels` × `size`.
    pub(super) fn check_buffer(
        name: &str,
        len: usize,
        images: usize,
        channels: usize,
        [height, width]: [usize; 2],
    ) -> Result<()> {
        let want = [height, width, images]
            .iter()
            .try_fold(groups(channels), |n, &size| n.checked_mul(size));
        if want == Some(len) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "a convolution's {name} holds {len} groups of lanes, not {images} images of {channels}×{height}×{width}"
        )))
    }
}
