//! Softmax and its logarithm.

use super::super::driver::{self, Address, Result, Work};
use super::super::kernels::classifier_reduce as kernels;
use super::axes::bytes;
use super::operation::{Backward, Forward, Operation, Reads};
use super::rows::{Rows, RowsArgs};

driver::arguments! {
    pub(super) struct SoftmaxArgs {
        x: Address,
        y: Address,
        rows: RowsArgs,
        logarithm: u32,
    }

    pub(super) struct SoftmaxBackwardArgs {
        y: Address,
        gradient: Address,
        to: Address,
        rows: RowsArgs,
        logarithm: u32,
        accumulate: u32,
    }
}

/// Softmax along one axis.
#[derive(Debug)]
pub(super) struct Softmax {
    logarithm: bool,
    rows: Rows,
}

impl Softmax {
    /// Softmax, or its logarithm, of a tensor of shape `dims`.
    ///
    /// # Errors
    /// The tensor has too many elements.
    pub(super) fn new(logarithm: bool, axis: usize, dims: &[usize]) -> crate::error::Result<Self> {
        let outer = dims[..axis].iter().product();
        let inner = dims[axis + 1..].iter().product();
        Ok(Softmax {
            logarithm,
            rows: Rows::new(outer, dims[axis], inner)?,
        })
    }
}

impl Operation for Softmax {
    fn forward(&self, pass: Forward<'_>) -> Result<()> {
        let elements = self.rows.elements();
        for (part, rows, launch) in self.rows.parts(pass.images) {
            let arguments = SoftmaxArgs {
                x: part.of(pass.inputs[0], elements),
                y: part.of(pass.output, elements),
                rows,
                logarithm: self.logarithm.into(),
            };
            let launch = launch.doing(Work {
                bytes: bytes(part.images, 2 * elements),
                ..Work::default()
            });
            pass.device
                .launch(&kernels::CLASSIFIER_SOFTMAX, launch, &arguments)?;
        }
        Ok(())
    }

    fn backward(&self, pass: Backward<'_>) -> Result<()> {
        let elements = self.rows.elements();
        for (part, rows, launch) in self.rows.parts(pass.images) {
            let arguments = SoftmaxBackwardArgs {
                y: part.of(pass.output, elements),
                gradient: part.of(pass.gradient, elements),
                to: part.of(pass.to, elements),
                rows,
                logarithm: self.logarithm.into(),
                accumulate: pass.accumulate.into(),
            };
            let launch = launch.doing(Work {
                bytes: bytes(part.images, (3 + usize::from(pass.accumulate)) * elements),
                // In the sum, or of the logarithm in what is written.
                multiply_adds: part.count(elements).into(),
                ..Work::default()
            });
            pass.device
                .launch(&kernels::CLASSIFIER_SOFTMAX_BACKWARD, launch, &arguments)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads {
            inputs: false,
            output: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Input, Node, check};
    use super::*;
    use crate::backend::cuda::driver::test_devices;
    use crate::classifier::Op;

    #[test]
    fn softmax_along_every_axis() {
        let shapes: [&[usize]; 5] = [
            &[1, 18, 5, 35],
            &[3, 2, 17],
            &[1, 1, 1],
            &[2, 2500],
            &[1, 16_500],
        ];
        for device in test_devices() {
            for dims in shapes {
                for axis in 0..dims.len() {
                    for logarithm in [false, true] {
                        let operation = Softmax::new(logarithm, axis, dims).unwrap();
                        let op = match logarithm {
                            false => Op::Softmax { axis },
                            true => Op::LogSoftmax { axis },
                        };
                        let name = format!("{op:?} of {dims:?}");
                        let node = Node {
                            op,
                            inputs: vec![Input {
                                // Whose exponentials are beyond float32.
                                from: |x| 200.0 * x + 100.0,
                                ..Input::computed(dims)
                            }],
                            output: dims.to_vec(),
                            terms: dims[axis],
                        };
                        check(&name, &device, &operation, &node);
                    }
                }
            }
        }
    }
}
