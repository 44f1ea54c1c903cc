//! Normalization by a tensor's own statistics.

use super::super::driver::{self, Address, Result, Work};
use super::super::kernels::classifier_reduce as kernels;
use super::axes::bytes;
use super::operation::{Backward, Forward, Operation, Reads};
use super::rows::{Rows, RowsArgs};

driver::arguments! {
    pub(super) struct NormalizeArgs {
        x: Address,
        y: Address,
        rows: RowsArgs,
        epsilon: f32,
    }

    pub(super) struct NormalizeBackwardArgs {
        x: Address,
        gradient: Address,
        to: Address,
        rows: RowsArgs,
        epsilon: f32,
        accumulate: u32,
    }
}

/// `(x − mean) / sqrt(variance + epsilon)` of each row.
#[derive(Debug)]
pub(super) struct Normalize {
    rows: Rows,
    epsilon: f32,
}

impl Normalize {
    /// A normalization of a tensor of shape `dims` along `axis` and all axes after it.
    ///
    /// # Errors
    /// The tensor has too many elements.
    pub(super) fn new(axis: usize, epsilon: f32, dims: &[usize]) -> crate::error::Result<Self> {
        let (outer, row) = dims.split_at(axis);
        let rows = Rows::new(outer.iter().product(), row.iter().product(), 1)?;
        Ok(Normalize { rows, epsilon })
    }
}

impl Operation for Normalize {
    fn forward(&self, pass: Forward<'_>) -> Result<()> {
        let elements = self.rows.elements();
        for (part, rows, launch) in self.rows.parts(pass.images) {
            let arguments = NormalizeArgs {
                x: part.of(pass.inputs[0], elements),
                y: part.of(pass.output, elements),
                rows,
                epsilon: self.epsilon,
            };
            let launch = launch.doing(Work {
                bytes: bytes(part.images, 2 * elements),
                multiply_adds: part.count(elements).into(),
                ..Work::default()
            });
            pass.device
                .launch(&kernels::CLASSIFIER_NORMALIZE, launch, &arguments)?;
        }
        Ok(())
    }

    fn backward(&self, pass: Backward<'_>) -> Result<()> {
        let elements = self.rows.elements();
        for (part, rows, launch) in self.rows.parts(pass.images) {
            let arguments = NormalizeBackwardArgs {
                x: part.of(pass.inputs[0], elements),
                gradient: part.of(pass.gradient, elements),
                to: part.of(pass.to, elements),
                rows,
                epsilon: self.epsilon,
                accumulate: pass.accumulate.into(),
            };
            let launch = launch.doing(Work {
                bytes: bytes(part.images, (3 + usize::from(pass.accumulate)) * elements),
                multiply_adds: 3 * u64::from(part.count(elements)),
                ..Work::default()
            });
            pass.device
                .launch(&kernels::CLASSIFIER_NORMALIZE_BACKWARD, launch, &arguments)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads {
            inputs: true,
            output: false,
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
    fn normalizations() {
        let cases: [(usize, &[usize]); 9] = [
            (3, &[1, 18, 5, 35]),
            (2, &[1, 18, 5, 35]),
            (1, &[1, 3, 2, 17]),
            (3, &[1, 40, 7, 3]),
            (1, &[1, 2, 3, 400]),
            (2, &[1, 2, 47, 47]),
            (1, &[1, 17_000]),
            (0, &[1, 1, 5]),
            (2, &[3, 4]),
        ];
        for (axis, dims) in cases {
            let epsilon = 1e-2;
            let operation = Normalize::new(axis, epsilon, dims).unwrap();
            let node = Node {
                op: Op::Normalize { axis, epsilon },
                inputs: vec![Input::computed(dims)],
                output: dims.to_vec(),
                // Two sums over a warp or block, and what is made of them.
                terms: dims[axis..].iter().product::<usize>().min(40),
            };
            for device in test_devices() {
                check(
                    &format!("from {axis} of {dims:?}"),
                    &device,
                    &operation,
                    &node,
                );
            }
        }
    }
}
