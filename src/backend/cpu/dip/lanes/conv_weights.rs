//! Weight gradients of convolutions, sixteen instances at a time.
//!
//! A register tile holds one kernel row of up to 4 × 2 or 3 × 3 channel pairs and runs along the pixels
//! of a few rows; its sums are then added to memory. So a tile's operands stay in the nearest cache,
//! and rounding errors grow with the block and the number of blocks, not with the number of pixels.

use super::conv::Conv;
use super::view::{View, lanes, load, vector};
use crate::backend::cpu::simd::{F32x16, Isa, Kernel, Lanes, dispatch_on};

/// About how many pixels a tile sums before it adds to memory.
const BLOCK_PIXELS: usize = 64;

impl Conv {
    /// The derivative by the weights, into the same places of `gradients`; the border of `x` holds what
    /// the padding shows.
    pub(super) fn weight_gradient(
        &self,
        isa: Isa,
        memory: &[Lanes],
        x: &View,
        dy: &View,
        gradients: &mut [Lanes],
    ) {
        self.check(x, dy);
        assert!(x.border >= self.kernel / 2);
        assert!(x.end() <= memory.len() && dy.end() <= memory.len());
        let gradients = &mut gradients[self.weight..][..self.weights()];
        gradients.fill(Lanes::ZERO);
        let kernel = WeightGradient {
            conv: *self,
            memory,
            x,
            dy,
            rows: 0..0,
            gradients,
        };
        dispatch_on(isa, kernel);
    }
}

/// Adds the weight gradient to `gradients`.
struct WeightGradient<'a> {
    conv: Conv,
    memory: &'a [Lanes],
    x: &'a View,
    dy: &'a View,
    /// The rows of outputs that tiles sum over at present.
    rows: std::ops::Range<usize>,
    /// The convolution's own.
    gradients: &'a mut [Lanes],
}

impl Kernel for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(mut self) {
        let block = BLOCK_PIXELS.div_ceil(self.dy.width);
        for top in (0..self.dy.height).step_by(block) {
            self.rows = top..(top + block).min(self.dy.height);
            match (self.conv.kernel, self.conv.stride) {
                (3, 1) => self.outputs::<V, 3, 1>(),
                (3, _) => self.outputs::<V, 3, 2>(),
                _ => self.outputs::<V, 1, 1>(),
            }
        }
    }
}

impl WeightGradient<'_> {
    /// Every output channel, as many at a time as the registers allow.
    #[inline(always)]
    fn outputs<V: F32x16, const K: usize, const STRIDE: usize>(&mut self) {
        let widest = if V::REGISTERS >= 32 { 4 } else { 2 };
        let mut first = 0;
        while first < self.conv.outputs {
            let count = (self.conv.outputs - first).min(widest);
            match count {
                1 => self.inputs::<V, 1, 3, K, STRIDE>(first),
                2 => self.inputs::<V, 2, 3, K, STRIDE>(first),
                3 => self.inputs::<V, 3, 3, K, STRIDE>(first),
                _ => self.inputs::<V, 4, 2, K, STRIDE>(first),
            }
            first += count;
        }
    }

    /// Every input channel, `I` at a time, for output channels `output .. output + O`.
    #[inline(always)]
    fn inputs<V: F32x16, const O: usize, const I: usize, const K: usize, const STRIDE: usize>(
        &mut self,
        output: usize,
    ) {
        let mut input = 0;
        while V::REGISTERS >= 32 && input + I <= self.conv.inputs {
            for row in 0..K {
                self.tile::<V, O, I, K, STRIDE>(output, input, row);
            }
            input += I;
        }
        while input < self.conv.inputs {
            for row in 0..K {
                self.tile::<V, O, 1, K, STRIDE>(output, input, row);
            }
            input += 1;
        }
    }

    /// One row of the kernel of `O × I` channel pairs.
    #[inline(always)]
    fn tile<V: F32x16, const O: usize, const I: usize, const K: usize, const STRIDE: usize>(
        &mut self,
        output: usize,
        input: usize,
        row: usize,
    ) {
        let (x, dy) = (self.x, self.dy);
        let (x_channel, dy_channel) = (x.channel(), dy.channel());
        let mut acc = [[[V::splat(0.0); K]; I]; O];
        for y in self.rows.clone() {
            let tap = x.at
                + input * x_channel
                + (y * STRIDE + row + x.border - K / 2) * x.row()
                + (x.border - K / 2);
            let place = dy.index(output, y, 0);
            for column in 0..dy.width {
                // SAFETY: both maps lie inside the memory, and `x` has the border that the kernel's
                // taps need (checked by `weight_gradient`); channels, rows and columns are the maps'.
                unsafe {
                    let x = self.memory.as_ptr().add(tap + column * STRIDE);
                    let dy = self.memory.as_ptr().add(place + column);
                    let mut d = [V::splat(0.0); O];
                    for o in 0..O {
                        d[o] = load(dy.add(o * dy_channel));
                    }
                    for i in 0..I {
                        for k in 0..K {
                            let x: V = load(x.add(i * x_channel + k));
                            for o in 0..O {
                                acc[o][i][k] = x.mul_add(d[o], acc[o][i][k]);
                            }
                        }
                    }
                }
            }
        }
        for o in 0..O {
            for i in 0..I {
                let pair = (output + o) * self.conv.inputs + input + i;
                for k in 0..K {
                    let gradient = &mut self.gradients[(pair * K + row) * K + k];
                    *gradient = lanes(vector::<V>(gradient).add(acc[o][i][k]));
                }
            }
        }
    }
}
