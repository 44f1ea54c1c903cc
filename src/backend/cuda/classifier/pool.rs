//! Pools.

use super::super::backend::to_u32;
use super::super::driver::{self, Address, Result, Work};
use super::super::kernels::classifier_pool as kernels;
use super::axes::{Divisor, bytes, check_elements, parts, per_thread};
use super::operation::{Backward, Forward, Operation, Reads};
use crate::classifier;
use crate::error::Error;

driver::arguments! {
    #[derive(Debug)]
    struct PoolAxis {
        size: Divisor,
        outputs: Divisor,
        stride: Divisor,
        dilation: Divisor,
        kernel: u32,
        before: u32,
        padded: u32,
    }

    struct PoolArgs {
        x: Address,
        y: Address,
        gradient: Address,
        to: Address,
        down: PoolAxis,
        across: PoolAxis,
        elements: u32,
        maximum: u32,
        count_include_pad: u32,
        accumulate: u32,
    }
}

/// What a pool makes of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PoolKind {
    Max,
    Average,
}

/// A maximum or average over windows.
#[derive(Debug)]
pub(super) struct Pool {
    kind: PoolKind,
    down: PoolAxis,
    across: PoolAxis,
    count_include_pad: bool,
    /// Elements of an image.
    input: usize,
    output: usize,
}

impl Pool {
    /// A pool of pictures of shape `input`, `[k, channels, height, width]`, and so the output.
    ///
    /// # Errors
    /// The sizes are beyond what kernels count, or there are no windows.
    pub(super) fn new(
        kind: PoolKind,
        pool: &classifier::Pool,
        input: &[usize],
        output: &[usize],
    ) -> crate::error::Result<Self> {
        let window = pool.window;
        let pads = window.pads;
        let pads = [(pads.top, pads.bottom), (pads.left, pads.right)];
        let axis = |axis: usize| {
            let (size, outputs) = (input[2 + axis], output[2 + axis]);
            let [kernel, stride, dilation] =
                [window.kernel, window.strides, window.dilations].map(|n| n[axis]);
            if [kernel, stride, dilation, outputs].contains(&0) {
                return Err(Error::invalid("a pool without windows"));
            }
            // Every place that a window can reach is counted.
            let reach = (kernel - 1).saturating_mul(dilation);
            let last = (outputs - 1).saturating_mul(stride).saturating_add(reach);
            let (before, after) = pads[axis];
            let padded = before.saturating_add(size).saturating_add(after);
            to_u32(last.max(padded), "pixels beside each other")?;
            Ok(PoolAxis {
                size: Divisor::new(size)?,
                outputs: Divisor::new(outputs)?,
                stride: Divisor::new(stride)?,
                dilation: Divisor::new(dilation)?,
                kernel: to_u32(kernel, "pixels of a window")?,
                before: before as u32,
                padded: padded as u32,
            })
        };
        let (down, across) = (axis(0)?, axis(1)?);
        let [input, output] = [input, output].map(|dims| dims.iter().product());
        check_elements(input)?;
        check_elements(output)?;
        Ok(Pool {
            kind,
            down,
            across,
            count_include_pad: pool.count_include_pad,
            input,
            output,
        })
    }

    fn arguments(&self, elements: u32) -> PoolArgs {
        PoolArgs {
            x: Address(0),
            y: Address(0),
            gradient: Address(0),
            to: Address(0),
            down: self.down,
            across: self.across,
            elements,
            maximum: (self.kind == PoolKind::Max).into(),
            count_include_pad: self.count_include_pad.into(),
            accumulate: 0,
        }
    }
}

impl Operation for Pool {
    fn forward(&self, pass: Forward<'_>) -> Result<()> {
        let largest = self.input.max(self.output);
        for (part, elements) in parts(pass.images, largest, self.output) {
            let arguments = PoolArgs {
                x: part.of(pass.inputs[0], self.input),
                y: part.of(pass.output, self.output),
                ..self.arguments(elements)
            };
            let launch = per_thread(elements).doing(Work {
                bytes: bytes(part.images, self.input + self.output),
                ..Work::default()
            });
            pass.device
                .launch(&kernels::CLASSIFIER_POOL, launch, &arguments)?;
        }
        Ok(())
    }

    fn backward(&self, pass: Backward<'_>) -> Result<()> {
        let maximum = self.kind == PoolKind::Max;
        let largest = self.input.max(self.output);
        for (part, elements) in parts(pass.images, largest, self.input) {
            let mut arguments = PoolArgs {
                gradient: part.of(pass.gradient, self.output),
                to: part.of(pass.to, self.input),
                accumulate: pass.accumulate.into(),
                ..self.arguments(elements)
            };
            let mut numbers = self.output + self.input * (1 + usize::from(pass.accumulate));
            if maximum {
                arguments.x = part.of(pass.inputs[0], self.input);
                arguments.y = part.of(pass.output, self.output);
                numbers += self.input + self.output;
            }
            let launch = per_thread(elements).doing(Work {
                bytes: bytes(part.images, numbers),
                ..Work::default()
            });
            pass.device
                .launch(&kernels::CLASSIFIER_POOL_BACKWARD, launch, &arguments)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        let maximum = self.kind == PoolKind::Max;
        Reads {
            inputs: maximum,
            output: maximum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Input, Node, check};
    use super::*;
    use crate::backend::cuda::driver::test_devices;
    use crate::classifier::{Op, Pads, Window};

    fn pads(top: usize, left: usize, bottom: usize, right: usize) -> Pads {
        Pads {
            top,
            left,
            bottom,
            right,
        }
    }

    /// Kernel, strides, dilations, padding, input and output.
    type Case = (
        [usize; 2],
        [usize; 2],
        [usize; 2],
        Pads,
        [usize; 4],
        [usize; 2],
    );

    fn check_case(case: &Case, from: fn(f32) -> f32) {
        let &(kernel, strides, dilations, pads, dims, [height, width]) = case;
        let output = [dims[0], dims[1], height, width];
        for count_include_pad in [false, true] {
            let pool = classifier::Pool {
                window: Window {
                    kernel,
                    strides,
                    dilations,
                    pads,
                },
                count_include_pad,
            };
            for (kind, op) in [
                (PoolKind::Max, Op::MaxPool(pool)),
                (PoolKind::Average, Op::AveragePool(pool)),
            ] {
                let name = format!("{op:?} of {dims:?}");
                let operation = Pool::new(kind, &pool, &dims, &output).unwrap();
                let input = Input {
                    from,
                    ..Input::computed(&dims)
                };
                let node = Node {
                    op,
                    inputs: vec![input],
                    output: output.to_vec(),
                    terms: kernel[0] * kernel[1],
                };
                for device in test_devices() {
                    check(&name, &device, &operation, &node);
                }
            }
        }
    }

    #[test]
    fn pools() {
        let cases: [Case; 9] = [
            (
                [2, 2],
                [2, 2],
                [1, 1],
                pads(0, 0, 0, 0),
                [1, 17, 9, 7],
                [4, 3],
            ),
            (
                [3, 3],
                [2, 2],
                [1, 1],
                pads(1, 1, 1, 1),
                [2, 5, 9, 7],
                [5, 4],
            ),
            // The last window reaches beyond the padding.
            (
                [3, 2],
                [2, 2],
                [1, 1],
                pads(1, 0, 0, 1),
                [1, 3, 7, 6],
                [4, 3],
            ),
            (
                [3, 3],
                [2, 2],
                [1, 1],
                pads(0, 0, 0, 0),
                [1, 2, 6, 8],
                [3, 4],
            ),
            (
                [2, 3],
                [1, 1],
                [2, 1],
                pads(0, 0, 0, 0),
                [1, 1, 5, 5],
                [3, 3],
            ),
            (
                [3, 2],
                [2, 1],
                [2, 3],
                pads(2, 3, 2, 1),
                [1, 2, 8, 7],
                [4, 8],
            ),
            // Pixels that no window reads.
            (
                [1, 1],
                [3, 2],
                [1, 1],
                pads(0, 0, 0, 0),
                [1, 2, 7, 7],
                [3, 4],
            ),
            (
                [1, 1],
                [1, 1],
                [1, 1],
                pads(0, 0, 0, 0),
                [1, 2, 1, 1],
                [1, 1],
            ),
            // Windows larger than the picture.
            (
                [5, 7],
                [1, 1],
                [1, 1],
                pads(2, 3, 2, 3),
                [1, 3, 3, 4],
                [3, 4],
            ),
        ];
        for case in &cases {
            check_case(case, |x| x);
        }
    }

    #[test]
    fn ties_go_to_the_first() {
        let cases: [Case; 3] = [
            (
                [3, 3],
                [1, 1],
                [1, 1],
                pads(1, 1, 1, 1),
                [1, 5, 9, 11],
                [9, 11],
            ),
            (
                [3, 3],
                [2, 2],
                [1, 1],
                pads(0, 0, 0, 0),
                [1, 2, 6, 8],
                [3, 4],
            ),
            (
                [2, 3],
                [1, 2],
                [2, 2],
                pads(1, 2, 1, 2),
                [1, 2, 6, 7],
                [6, 4],
            ),
        ];
        for case in &cases {
            check_case(case, |x| (2.0 * x).round());
            check_case(case, |x| x.max(0.0));
        }
    }

    #[test]
    fn sizes_that_cannot_be_counted_are_refused() {
        let pool = |kernel, dilation| classifier::Pool {
            window: Window {
                kernel: [kernel, 1],
                strides: [1, 1],
                dilations: [dilation, 1],
                pads: pads(0, 0, 0, 0),
            },
            count_include_pad: true,
        };
        let new = |pool: &classifier::Pool, height| {
            Pool::new(PoolKind::Max, pool, &[1, 1, height, 1], &[1, 1, 1, 1]).map(|_| ())
        };
        assert!(new(&pool(3, 1 << 29), 1).is_ok());
        assert!(new(&pool(3, 1 << 30), 1).is_err());
        assert!(new(&pool(usize::MAX, usize::MAX), 1).is_err());
        assert!(new(&pool(0, 1), 1).is_err());
        assert!(new(&pool(1, 1), 1 << 31).is_err());
    }

    /// Every struct of the kernels' sources has a mirror of the same layout.
    #[cfg(feature = "emulator")]
    #[test]
    fn structs_have_the_kernels_layout() {
        use crate::backend::cuda::driver::{assert_mirrored, mirror};
        assert_mirrored(&[kernels::LAYOUTS], &[mirror::<PoolArgs>()]);
    }
}
