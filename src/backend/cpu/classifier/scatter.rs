//! The gradient by a picture of few channels, as a network's first convolution needs it.
//!
//! A channel-blocked kernel would fill 3 of 16 lanes. Here a matrix product gives, for each pixel of the
//! output, what it adds to every number its window reads, and these lie side by side in a picture whose
//! channels are its innermost axis ("col2im").

use rayon::prelude::*;

use super::gemm::{Product, Strided, pack, packed_len};
use super::operation::{lanes_for, numbers, numbers_mut};
use crate::backend::cpu::blocked::ConvShape;
use crate::backend::cpu::simd::{LANES, Lanes, zeroed};
use crate::dip::Padding;

/// Most channels of the picture.
const CHANNELS: usize = 4;
/// Rows of the picture that one thread sums at a time.
const ROWS: usize = 32;
/// Most scratch memory, in groups of lanes: 64 MiB. Padding and kernels of a small model file could ask
/// for any amount.
const SCRATCH: usize = 1 << 20;

/// A convolution's weights, for its gradient by the picture.
pub(super) struct Scatter {
    shape: ConvShape,
    /// For each group of output channels the packed matrix `[channel][kernel row][kernel column][in]`.
    panels: Vec<Vec<Lanes>>,
}

impl Scatter {
    /// Whether this is the way to the gradient of a convolution without groups.
    pub(super) fn fits(shape: &ConvShape) -> bool {
        shape.in_channels <= CHANNELS
            && shape.dilation == [1, 1]
            && shape.padding == Padding::Zero
            && Self::scratch(shape) <= SCRATCH
    }

    /// From weights `[out][in][kernel][kernel]`.
    pub(super) fn new(shape: ConvShape, oihw: &[f32]) -> Self {
        let (taps, channels) = (shape.taps(), shape.in_channels);
        let n = taps * channels;
        let panels = oihw.chunks(LANES * n).map(|group| {
            let k = group.len() / n;
            let of = |i: usize| group[i / n * n + i % channels * taps + i % n / channels];
            let matrix: Vec<f32> = (0..k * n).map(of).collect();
            let mut panels = zeroed(packed_len(k, n));
            pack(Strided::row_major(&matrix, n), k, n, &mut panels);
            panels
        });
        Scatter {
            panels: panels.collect(),
            shape,
        }
    }

    /// Bytes of the weights.
    pub(super) fn bytes(&self) -> usize {
        self.panels
            .iter()
            .map(|panels| size_of_val(&**panels))
            .sum()
    }

    /// Numbers of a row of the padded picture.
    fn line(shape: &ConvShape) -> usize {
        let width = shape.input[1] + shape.pads.left + shape.pads.right;
        width.saturating_mul(shape.in_channels)
    }

    /// Groups of lanes of scratch memory for one band of rows.
    fn band(shape: &ConvShape) -> usize {
        let window = shape.taps().saturating_mul(shape.in_channels);
        let products = shape.output()[1].saturating_mul(window);
        lanes_for(
            Self::line(shape)
                .saturating_mul(ROWS)
                .saturating_add(products),
        )
    }

    /// Groups of lanes of scratch memory that [`run`](Self::run) needs.
    pub(super) fn scratch(shape: &ConvShape) -> usize {
        let bands = shape.input[0].div_ceil(ROWS);
        bands.saturating_mul(Self::band(shape))
    }

    /// Writes, or adds, the gradient by one picture, given that by its output; both channel-blocked.
    pub(super) fn run(
        &self,
        gradient: &[Lanes],
        to: &mut [Lanes],
        accumulate: bool,
        scratch: &mut [Lanes],
    ) {
        let shape = &self.shape;
        let (channels, width) = (shape.in_channels, shape.input[1]);
        let left = shape.pads.left * channels;
        to.par_chunks_mut(ROWS * width)
            .zip(scratch.par_chunks_exact_mut(Self::band(shape)))
            .enumerate()
            .for_each(|(band, (to, scratch))| {
                let line = Self::line(shape);
                let (picture, products) = numbers_mut(scratch).split_at_mut(ROWS * line);
                picture.fill(0.0);
                let rows = band * ROWS..band * ROWS + to.len() / width;
                self.sum(gradient, rows, picture, products);
                for (to, line) in to.chunks_exact_mut(width).zip(picture.chunks_exact(line)) {
                    let pixels = line[left..].chunks_exact(channels);
                    for (to, pixel) in to.iter_mut().zip(pixels) {
                        for (to, &x) in to.0.iter_mut().zip(pixel) {
                            *to = if accumulate { *to + x } else { x };
                        }
                    }
                }
            });
    }

    /// Adds to rows `rows` of the picture what all output rows whose windows reach them add, in the
    /// output's order: the same sums however the rows are cut into bands.
    fn sum(
        &self,
        gradient: &[Lanes],
        rows: std::ops::Range<usize>,
        picture: &mut [f32],
        products: &mut [f32],
    ) {
        let shape = &self.shape;
        let [height, width] = shape.output();
        let [down, across] = shape.stride;
        let [kernel, _] = shape.kernel;
        let (line, window) = (Self::line(shape), shape.kernel[1] * shape.in_channels);
        let n = kernel * window;
        // In rows of the padded picture.
        let rows = rows.start + shape.pads.top..rows.end + shape.pads.top;
        let first = (rows.start + 1).saturating_sub(kernel).div_ceil(down);
        for y in first..height.min(rows.end.div_ceil(down)) {
            for (group, panels) in self.panels.iter().enumerate() {
                let plane = &gradient[group * height * width..][..height * width];
                let product = Product {
                    n,
                    k: LANES.min(shape.out_channels - group * LANES),
                    a: Strided::row_major(numbers(plane), LANES),
                    b: panels,
                    bias: None,
                    accumulate: group > 0,
                };
                assert!(products.len() >= width * n);
                // SAFETY: the products hold `width` rows of `n` numbers.
                unsafe { product.run(y * width..(y + 1) * width, 0..n, products.as_mut_ptr(), n) };
            }
            for k in 0..kernel {
                let row = y * down + k;
                if !rows.contains(&row) {
                    continue;
                }
                let line = &mut picture[(row - rows.start) * line..][..line];
                for (x, products) in products.chunks_exact(n).take(width).enumerate() {
                    let to = &mut line[x * across * shape.in_channels..][..window];
                    for (to, product) in to.iter_mut().zip(&products[k * window..]) {
                        *to += product;
                    }
                }
            }
        }
    }
}
