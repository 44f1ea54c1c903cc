//! Convolutions of sixteen instances at a time, each lane with its own weights.
//!
//! Forward pass and input gradient are the same loop, a [`Correlation`], over differently placed
//! weights: the gradient of a stride-1 convolution is a correlation with the flipped kernel, that of a
//! stride-2 convolution four correlations, one for each parity of row and column, with the taps that
//! reach such pixels.
//!
//! A register tile holds up to 4 output channels × 4 pixels, so that each loaded input serves every
//! output channel and each loaded weight every pixel: 16 multiply-adds for 8 loads.

use super::norm::Channel;
use super::view::{View, lanes, load, store};
use crate::backend::cpu::simd::{F32x16, Isa, Kernel, Lanes, dispatch_on};

/// A convolution's shape and where its weights `[output][input][row][column]` start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conv {
    pub weight: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// 1 or 3.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
}

/// The taps of a [`Correlation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taps {
    /// 3×3, outputs one input pixel apart.
    Square,
    /// 3×3, outputs two input pixels apart.
    SquareByTwo,
    /// Rows × columns of 1 or 2 taps, outputs one input pixel apart.
    Phase(usize, usize),
}

/// `y[o][p] = start + Σ_{i,tap} weight[o][i][tap] · x[i][p + tap]`; every place is an index of the memory
/// it lies in, every distance in elements.
#[derive(Clone, Copy, Debug)]
struct Correlation {
    taps: Taps,
    inputs: usize,
    outputs: usize,
    /// Output pixels.
    height: usize,
    width: usize,
    /// The first tap of the first output pixel.
    x: usize,
    x_channel: usize,
    x_row: usize,
    /// The first output pixel.
    y: usize,
    y_channel: usize,
    y_row: usize,
    y_column: usize,
    /// The weight of output 0, input 0 and the first tap.
    weight: usize,
    weight_output: usize,
    weight_input: usize,
    weight_row: isize,
    weight_column: isize,
}

/// What a correlation adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Zero,
    /// The biases, from this index of the parameters on.
    Bias(usize),
    /// What the output holds.
    Output,
}

impl Correlation {
    /// Rows, columns and stride of the taps.
    fn reach(&self) -> (usize, usize, usize) {
        match self.taps {
            Taps::Square => (3, 3, 1),
            Taps::SquareByTwo => (3, 3, 2),
            Taps::Phase(rows, columns) => (rows, columns, 1),
        }
    }

    /// Panics unless every access lies inside memory of these lengths: what the unsafe loops rely on.
    fn check(&self, weights: usize, memory: usize) {
        let (rows, columns, stride) = self.reach();
        let last = |channels: usize, channel, height: usize, row, width: usize, column| {
            (channels - 1) * channel + (height - 1) * row + (width - 1) * column
        };
        assert!(self.inputs > 0 && self.outputs > 0 && self.height > 0 && self.width > 0);
        let (tall, wide) = (
            (self.height - 1) * stride + rows,
            (self.width - 1) * stride + columns,
        );
        assert!(self.x + last(self.inputs, self.x_channel, tall, self.x_row, wide, 1) < memory);
        let (height, width) = (self.height, self.width);
        let y = last(
            self.outputs,
            self.y_channel,
            height,
            self.y_row,
            width,
            self.y_column,
        );
        assert!(self.y + y < memory);
        // The first weight of the last channels, and how far the taps lead from it.
        let first = last(
            self.outputs,
            self.weight_output,
            self.inputs,
            self.weight_input,
            1,
            0,
        );
        let down = (rows as isize - 1) * self.weight_row;
        let across = (columns as isize - 1) * self.weight_column;
        let lowest = down.min(0) + across.min(0) + self.weight as isize;
        let highest = down.max(0) + across.max(0) + (self.weight + first) as isize;
        assert!(lowest >= 0 && (highest as usize) < weights);
    }
}

/// Runs a [`Correlation`].
struct Correlate<'a> {
    job: Correlation,
    start: Start,
    weights: &'a [Lanes],
    memory: &'a mut [Lanes],
    /// Get the sums over each output channel's pixels, where their means will be.
    sums: Option<&'a mut [Channel]>,
}

impl Kernel for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        self.job.check(self.weights.len(), self.memory.len());
        if let Start::Bias(bias) = self.start {
            assert!(bias + self.job.outputs <= self.weights.len());
        }
        match self.job.taps {
            Taps::Square => self.outputs::<V, 3, 3, 1>(),
            Taps::SquareByTwo => self.outputs::<V, 3, 3, 2>(),
            Taps::Phase(1, 1) => self.outputs::<V, 1, 1, 1>(),
            Taps::Phase(1, 2) => self.outputs::<V, 1, 2, 1>(),
            Taps::Phase(2, 1) => self.outputs::<V, 2, 1, 1>(),
            Taps::Phase(2, 2) => self.outputs::<V, 2, 2, 1>(),
            Taps::Phase(..) => unreachable!("phases have one or two taps"),
        }
    }
}

impl Correlate<'_> {
    /// Output channels in register tiles of up to four, or two where registers are few.
    #[inline(always)]
    fn outputs<V: F32x16, const ROWS: usize, const COLUMNS: usize, const STRIDE: usize>(mut self) {
        let widest = if V::REGISTERS >= 32 { 4 } else { 2 };
        let mut first = 0;
        while first < self.job.outputs {
            let count = (self.job.outputs - first).min(widest);
            match count {
                1 => self.plane::<V, 1, ROWS, COLUMNS, STRIDE>(first),
                2 => self.plane::<V, 2, ROWS, COLUMNS, STRIDE>(first),
                3 => self.plane::<V, 3, ROWS, COLUMNS, STRIDE>(first),
                _ => self.plane::<V, 4, ROWS, COLUMNS, STRIDE>(first),
            }
            first += count;
        }
    }

    /// All pixels of output channels `first .. first + O`.
    #[inline(always)]
    fn plane<
        V: F32x16,
        const O: usize,
        const ROWS: usize,
        const COLUMNS: usize,
        const STRIDE: usize,
    >(
        &mut self,
        first: usize,
    ) {
        let width = self.job.width;
        let mut totals = [V::splat(0.0); O];
        for y in 0..self.job.height {
            // Rows are summed apart: rounding errors grow with the row and column length, not with their product.
            let mut sums = [V::splat(0.0); O];
            let mut x = 0;
            if V::REGISTERS >= 32 {
                while x + 4 <= width {
                    // SAFETY: `run` has checked every place that the correlation reaches.
                    unsafe { self.tile::<V, O, 4, ROWS, COLUMNS, STRIDE>(first, y, x, &mut sums) };
                    x += 4;
                }
            } else {
                while x + 2 <= width {
                    // SAFETY: `run` has checked every place that the correlation reaches.
                    unsafe { self.tile::<V, O, 2, ROWS, COLUMNS, STRIDE>(first, y, x, &mut sums) };
                    x += 2;
                }
            }
            while x < width {
                // SAFETY: `run` has checked every place that the correlation reaches.
                unsafe { self.tile::<V, O, 1, ROWS, COLUMNS, STRIDE>(first, y, x, &mut sums) };
                x += 1;
            }
            for o in 0..O {
                totals[o] = totals[o].add(sums[o]);
            }
        }
        if let Some(sums) = &mut self.sums {
            for o in 0..O {
                sums[first + o].mean = lanes(totals[o]);
            }
        }
    }

    /// `O` output channels × `P` pixels.
    ///
    /// # Safety
    /// `job.check` passed for the memory, the channels and pixels are the job's.
    #[inline(always)]
    unsafe fn tile<
        V: F32x16,
        const O: usize,
        const P: usize,
        const ROWS: usize,
        const COLUMNS: usize,
        const STRIDE: usize,
    >(
        &mut self,
        first: usize,
        y: usize,
        x: usize,
        sums: &mut [V; O],
    ) {
        let job = &self.job;
        // SAFETY: the caller's promise; `check` has bounded the largest and smallest offsets formed here.
        unsafe {
            let memory = self.memory.as_mut_ptr();
            let out = memory.add(job.y + first * job.y_channel + y * job.y_row + x * job.y_column);
            let mut acc = [[V::splat(0.0); P]; O];
            match self.start {
                Start::Zero => {}
                Start::Bias(bias) => {
                    for o in 0..O {
                        acc[o] = [load(self.weights.as_ptr().add(bias + first + o)); P];
                    }
                }
                Start::Output => {
                    for o in 0..O {
                        for p in 0..P {
                            acc[o][p] = load(out.add(o * job.y_channel + p * job.y_column));
                        }
                    }
                }
            }
            let mut input = memory
                .add(job.x + STRIDE * (y * job.x_row + x))
                .cast_const();
            let mut weight = self
                .weights
                .as_ptr()
                .add(job.weight + first * job.weight_output);
            for _ in 0..job.inputs {
                for row in 0..ROWS {
                    let input = input.add(row * job.x_row);
                    let weight = weight.offset(row as isize * job.weight_row);
                    for column in 0..COLUMNS {
                        let weight = weight.offset(column as isize * job.weight_column);
                        let mut pixels = [V::splat(0.0); P];
                        for p in 0..P {
                            pixels[p] = load(input.add(STRIDE * p + column));
                        }
                        for o in 0..O {
                            let weight: V = load(weight.add(o * job.weight_output));
                            for p in 0..P {
                                acc[o][p] = weight.mul_add(pixels[p], acc[o][p]);
                            }
                        }
                    }
                }
                input = input.wrapping_add(job.x_channel);
                weight = weight.wrapping_add(job.weight_input);
            }
            for o in 0..O {
                for p in 0..P {
                    store(out.add(o * job.y_channel + p * job.y_column), acc[o][p]);
                    sums[o] = sums[o].add(acc[o][p]);
                }
            }
        }
    }
}

impl Conv {
    /// Distance in pixels from an output's place to its first tap.
    fn reach(&self) -> usize {
        self.kernel / 2
    }

    /// The weights of one output channel.
    fn output_weights(&self) -> usize {
        self.inputs * self.kernel * self.kernel
    }

    /// Weights of the convolution.
    pub(super) fn weights(&self) -> usize {
        self.outputs * self.output_weights()
    }

    /// Panics unless the maps fit the convolution.
    pub(super) fn check(&self, x: &View, y: &View) {
        assert_eq!((x.channels, y.channels), (self.inputs, self.outputs));
        assert_eq!(
            (x.height, x.width),
            (y.height * self.stride, y.width * self.stride)
        );
        assert!(matches!((self.kernel, self.stride), (1 | 3, 1) | (3, 2)));
    }

    /// `y = start + conv(x)`, the border of `x` holding what the padding shows; `sums` gets each output
    /// channel's sum.
    #[allow(clippy::too_many_arguments)] // the operands of a convolution
    pub(super) fn forward(
        &self,
        isa: Isa,
        start: Start,
        weights: &[Lanes],
        memory: &mut [Lanes],
        x: &View,
        y: &View,
        sums: Option<&mut [Channel]>,
    ) {
        self.check(x, y);
        assert!(x.border >= self.reach() && (x.at >= y.end() || y.at >= x.end()));
        let job = Correlation {
            taps: match (self.kernel, self.stride) {
                (3, 1) => Taps::Square,
                (3, _) => Taps::SquareByTwo,
                _ => Taps::Phase(1, 1),
            },
            inputs: self.inputs,
            outputs: self.outputs,
            height: y.height,
            width: y.width,
            x: x.index(0, 0, 0) - self.reach() * (x.row() + 1),
            x_channel: x.channel(),
            x_row: x.row(),
            y: y.index(0, 0, 0),
            y_channel: y.channel(),
            y_row: y.row(),
            y_column: 1,
            weight: self.weight,
            weight_output: self.output_weights(),
            weight_input: self.kernel * self.kernel,
            weight_row: 3,
            weight_column: 1,
        };
        let correlate = Correlate {
            job,
            start,
            weights,
            memory,
            sums,
        };
        dispatch_on(isa, correlate);
    }

    /// The derivative by `x`, given the one by `y`, whose border is zero; on `edge` pixels of the border
    /// of `dx` too, where the padding has let outputs see pixels a second time.
    #[allow(clippy::too_many_arguments)] // the operands of a convolution
    pub(super) fn input_gradient(
        &self,
        isa: Isa,
        start: Start,
        weights: &[Lanes],
        memory: &mut [Lanes],
        dx: &View,
        dy: &View,
        edge: usize,
    ) {
        self.check(dx, dy);
        assert!(dx.border >= edge && edge <= self.reach());
        assert!(dx.at >= dy.end() || dy.at >= dx.end());
        let kernel = self.kernel as isize;
        let mut run = |taps, rows: Phase, columns: Phase| {
            assert!(dy.border >= rows.before.max(columns.before));
            let job = Correlation {
                taps,
                inputs: self.outputs,
                outputs: self.inputs,
                height: rows.count,
                width: columns.count,
                x: dy.index(0, 0, 0) - rows.before * dy.row() - columns.before,
                x_channel: dy.channel(),
                x_row: dy.row(),
                y: dx.at
                    + (dx.border - edge + rows.first) * dx.row()
                    + (dx.border - edge + columns.first),
                y_channel: dx.channel(),
                y_row: self.stride * dx.row(),
                y_column: self.stride,
                weight: self.weight + rows.tap * self.kernel + columns.tap,
                weight_output: self.kernel * self.kernel,
                weight_input: self.output_weights(),
                weight_row: -(self.stride as isize) * kernel,
                weight_column: -(self.stride as isize),
            };
            let correlate = Correlate {
                job,
                start,
                weights,
                memory,
                sums: None,
            };
            dispatch_on(isa, correlate);
        };
        if self.stride == 1 {
            let whole = |n: usize| Phase {
                first: 0,
                count: n + 2 * edge,
                before: self.reach() + edge,
                tap: self.kernel - 1,
            };
            let taps = match self.kernel {
                3 => Taps::Square,
                _ => Taps::Phase(1, 1),
            };
            run(taps, whole(dy.height), whole(dy.width));
            return;
        }
        // Row 2a is seen by output a through tap 1, row 2a + 1 by output a through tap 2 and by a + 1
        // through tap 0. With an edge, rows start at -1 and end at the row after the last.
        let phase = |odd: bool, n: usize| Phase {
            first: if edge == 1 {
                usize::from(!odd)
            } else {
                usize::from(odd)
            },
            count: n + edge,
            before: if odd { edge } else { 0 },
            tap: if odd { 2 } else { 1 },
        };
        for odd_row in [false, true] {
            for odd_column in [false, true] {
                let taps = Taps::Phase(1 + usize::from(odd_row), 1 + usize::from(odd_column));
                run(taps, phase(odd_row, dy.height), phase(odd_column, dy.width));
            }
        }
    }
}

/// The outputs of an input gradient's correlation on one axis.
#[derive(Clone, Copy)]
struct Phase {
    /// The first output, counted from the edge's.
    first: usize,
    count: usize,
    /// How far before `dy` the first output's first tap lies.
    before: usize,
    /// That tap's place in the kernel.
    tap: usize,
}
