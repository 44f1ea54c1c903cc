//! How a convolution's output pixels are gathered from input pixels, forward and in the gradient by the
//! picture alike: the tables that the kernels go by (`kernels/gather.cuh`).
//!
//! A gradient's pixels fall into classes. With strides s, pixels of equal remainder modulo s are read with
//! the same elements of the kernel, and those of one class are a convolution of stride 1 over the outputs.

use bytemuck::{Pod, Zeroable};

use crate::backend::cuda::backend::to_u32;
use crate::backend::cuda::driver::{self, Address};
use crate::classifier::{Conv, Window};
use crate::error::{Error, Result};

/// Most classes: blocks on a grid's third axis.
const CLASSES: usize = 65_535;
/// Coordinates stay below this, in the padding too.
const FAR: usize = 1 << 29;

driver::arguments! {
    /// A term of an output pixel's sum: the input pixel, relative to the sum's anchor.
    #[derive(Pod, Zeroable, Debug, PartialEq)]
    pub(super) struct Tap {
        offset: i32,
        row: i32,
        column: i32,
        unused: i32,
    }

    /// The output pixels that read by the same taps.
    #[derive(Pod, Zeroable)]
    pub(super) struct TapClass {
        rows: u32,
        columns: u32,
        first_row: u32,
        first_column: u32,
        first: u32,
        terms: u32,
    }

    /// The shapes of both sides.
    pub(super) struct Gather {
        taps: Address,
        classes: Address,
        pictures: u32,
        groups: u32,
        inputs: u32,
        outputs: u32,
        height: u32,
        width: u32,
        out_height: u32,
        out_width: u32,
        step_down: u32,
        step_right: u32,
        out_step_down: u32,
        out_step_right: u32,
    }
}

/// Which way numbers flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// How weights are laid out.
#[derive(Clone, Copy)]
pub(super) struct Padding {
    /// Terms are padded to a multiple of this,
    pub terms: usize,
    /// and outputs to one of this.
    pub outputs: usize,
}

/// The pixels along an axis that read by the same taps.
struct Line {
    first: usize,
    count: usize,
    /// Element of the kernel, and the pixel that it is for, relative to the anchor; these ascend.
    taps: Vec<(usize, i64)>,
}

/// The classes along one axis, of `n` output pixels.
fn lines(direction: Direction, window: &Window, axis: usize, n: usize) -> Vec<Line> {
    let (stride, pad) = (
        window.strides[axis],
        [window.pads.top, window.pads.left][axis],
    );
    let elements = 0..window.kernel[axis];
    let reach = |k: usize| (k * window.dilations[axis]) as i64;
    match direction {
        Direction::Forward => vec![Line {
            first: 0,
            count: n,
            taps: elements.map(|k| (k, reach(k) - pad as i64)).collect(),
        }],
        Direction::Backward => (0..stride.min(n))
            .map(|first| {
                let from = |k| (first + pad) as i64 - reach(k);
                let taps = elements
                    .clone()
                    .rev()
                    .filter(|&k| from(k) % stride as i64 == 0);
                Line {
                    first,
                    count: (n - first).div_ceil(stride),
                    taps: taps.map(|k| (k, from(k) / stride as i64)).collect(),
                }
            })
            .collect(),
    }
}

/// What a kernel needs of a convolution, on the host.
pub(super) struct Tables {
    /// Without addresses and pictures.
    pub shape: Gather,
    pub taps: Vec<Tap>,
    pub classes: Vec<TapClass>,
    /// Of each class and group: terms × outputs, both padded.
    pub weight: Vec<f32>,
}

impl Tables {
    /// Of `conv`, from pictures `[_, c, h, w]` to pictures of their own dims; `weight` is the graph's,
    /// `[out, in/group, kh, kw]`.
    ///
    /// # Errors
    /// The shapes are too large for a GPU.
    pub(super) fn new(
        direction: Direction,
        conv: &Conv,
        pictures: [&[usize]; 2],
        weight: &[f32],
        padding: Padding,
    ) -> Result<Tables> {
        let (window, groups) = (&conv.window, conv.group);
        let [from, to] = match direction {
            Direction::Forward => pictures,
            Direction::Backward => [pictures[1], pictures[0]],
        };
        let (&[_, inputs, height, width], &[_, outputs, out_height, out_width]) = (from, to) else {
            return Err(Error::invalid("a convolution's pictures have 4 axes"));
        };
        let (inputs, outputs) = (inputs / groups, outputs / groups);
        check_reach(window, pictures)?;
        let [kh, kw] = window.kernel;
        let weight_of = |group: usize, input: usize, output: usize, tap: usize| {
            let (out, outs, of, ins) = match direction {
                Direction::Forward => (output, outputs, input, inputs),
                Direction::Backward => (input, inputs, output, outputs),
            };
            weight[((group * outs + out) * ins + of) * kh * kw + tap]
        };
        let to_u32 = |n| to_u32(n, "numbers of a convolution");
        let plane = to_u32(height.saturating_mul(width))? as usize;
        to_u32(plane.saturating_mul(inputs).saturating_mul(groups))?;
        let out_plane = to_u32(out_height.saturating_mul(out_width))? as usize;
        to_u32(out_plane.saturating_mul(outputs).saturating_mul(groups))?;

        let (mut taps, mut classes, mut packed) = (vec![], vec![], vec![]);
        let row = outputs.next_multiple_of(padding.outputs);
        let across = lines(direction, window, 1, out_width);
        for down in lines(direction, window, 0, out_height) {
            for right in &across {
                let first = taps.len();
                // Input channel, and element of the kernel.
                let mut of = vec![];
                for input in 0..inputs {
                    for &(ky, row) in &down.taps {
                        for &(kx, column) in &right.taps {
                            let offset = (input * plane) as i64 + row * width as i64 + column;
                            let narrow = |n: i64| {
                                i32::try_from(n).map_err(|_| {
                                    Error::invalid("a convolution's window is too large for a GPU")
                                })
                            };
                            taps.push(Tap {
                                offset: narrow(offset)?,
                                row: narrow(row)?,
                                column: narrow(column)?,
                                unused: 0,
                            });
                            of.push((input, ky * kw + kx));
                        }
                    }
                }
                let terms = of.len().next_multiple_of(padding.terms);
                taps.resize(first + terms, Tap::NOWHERE);
                for group in 0..groups {
                    let start = packed.len();
                    packed.resize(start + terms * row, 0.0);
                    for (k, &(input, tap)) in of.iter().enumerate() {
                        for output in 0..outputs {
                            packed[start + k * row + output] = weight_of(group, input, output, tap);
                        }
                    }
                }
                classes.push(TapClass {
                    rows: to_u32(down.count)?,
                    columns: to_u32(right.count)?,
                    first_row: to_u32(down.first)?,
                    first_column: to_u32(right.first)?,
                    first: to_u32(first)?,
                    terms: to_u32(of.len())?,
                });
            }
        }
        if classes.len() > CLASSES {
            return Err(Error::invalid(format!(
                "strides {:?} are too large for a GPU",
                window.strides
            )));
        }
        let strides = [to_u32(window.strides[0])?, to_u32(window.strides[1])?];
        let (step, out_step) = match direction {
            Direction::Forward => (strides, [1, 1]),
            Direction::Backward => ([1, 1], strides),
        };
        let shape = Gather {
            taps: Address(0),
            classes: Address(0),
            pictures: 0,
            groups: to_u32(groups)?,
            inputs: to_u32(inputs)?,
            outputs: to_u32(outputs)?,
            height: to_u32(height)?,
            width: to_u32(width)?,
            out_height: to_u32(out_height)?,
            out_width: to_u32(out_width)?,
            step_down: step[0],
            step_right: step[1],
            out_step_down: out_step[0],
            out_step_right: out_step[1],
        };
        Ok(Tables {
            shape,
            taps,
            classes,
            weight: packed,
        })
    }

    /// Whether every pixel reads itself, in all channels of its group.
    pub(super) fn is_pointwise(&self) -> bool {
        let shape = &self.shape;
        let itself = |tap: &Tap| (tap.row, tap.column) == (0, 0);
        self.classes.len() == 1
            && (shape.height, shape.width) == (shape.out_height, shape.out_width)
            && self.steps() == [1, 1]
            && self.classes[0].terms == shape.inputs
            && self.taps[..shape.inputs as usize].iter().all(itself)
    }

    /// Between the anchors of neighboring pixels.
    pub(super) fn steps(&self) -> [u32; 2] {
        [self.shape.step_down, self.shape.step_right]
    }

    /// The size and the first row and column, relative to the anchor, of the square window that every pixel
    /// reads, if there is one, in one input channel.
    pub(super) fn window(&self) -> Option<(u32, [i32; 2])> {
        let &[class] = &self.classes[..] else {
            return None;
        };
        let shape = &self.shape;
        let size = class.terms.isqrt();
        let taps = &self.taps[..class.terms as usize];
        let first = taps.first()?;
        let is_next = |(tap, k): (&Tap, u32)| {
            let at = (
                first.row + (k / size) as i32,
                first.column + (k % size) as i32,
            );
            (tap.row, tap.column) == at
        };
        let whole = size * size == class.terms
            && shape.inputs == 1
            && [shape.out_step_down, shape.out_step_right] == [1, 1]
            && taps.iter().zip(0..).all(is_next);
        whole.then_some((size, [first.row, first.column]))
    }

    /// Products of each picture's sums.
    pub(super) fn multiply_adds(&self) -> u64 {
        let pixels = |class: &TapClass| u64::from(class.rows) * u64::from(class.columns);
        let terms: u64 = (self.classes.iter())
            .map(|class| pixels(class) * u64::from(class.terms))
            .sum();
        terms * u64::from(self.shape.outputs) * u64::from(self.shape.groups)
    }

    /// Pixels of a picture's largest class, which is the first one.
    pub(super) fn pixels(&self) -> usize {
        self.classes
            .first()
            .map_or(0, |class| class.rows as usize * class.columns as usize)
    }
}

impl Tap {
    /// So far out that it reaches no picture from any anchor.
    const NOWHERE: Tap = Tap {
        offset: 0,
        row: -(1 << 30),
        column: 0,
        unused: 0,
    };
}

/// Whether all coordinates fit the kernels' arithmetic.
fn check_reach(window: &Window, pictures: [&[usize]; 2]) -> Result<()> {
    let Window {
        kernel,
        strides,
        dilations,
        pads,
    } = *window;
    for (axis, pad) in [(0, pads.top), (1, pads.left)] {
        let reach = kernel[axis].saturating_mul(dilations[axis]);
        let anchors = pictures[1][axis + 2].saturating_mul(strides[axis]);
        let far = [reach, anchors, pad, pictures[0][axis + 2], strides[axis]]
            .into_iter()
            .fold(0usize, usize::saturating_add);
        if far >= FAR {
            return Err(Error::invalid(
                "a convolution's window is too large for a GPU",
            ));
        }
    }
    Ok(())
}
