//! Concatenation.

use super::super::driver::{self, Address, Buffer, Device, Result, Work};
use super::super::kernels::classifier_moves as kernels;
use super::axes::{Divisor, bytes, check_elements, parts, per_thread};
use super::operation::{Backward, Forward, Operation};

driver::arguments! {
    pub(super) struct CopyRowsArgs {
        from: Address,
        to: Address,
        length: Divisor,
        repeat: Divisor,
        from_stride: u32,
        to_stride: u32,
        elements: u32,
        accumulate: u32,
    }
}

/// Tensors one after another along an axis.
pub(super) struct Concat {
    parts: Vec<Joined>,
    /// Rows of an image: one for each element of the axes ahead of the joined one.
    rows: usize,
    /// Elements of a row of the output.
    whole: usize,
    /// As divisors: the rows of an image, and more rows than there are.
    once_an_image: Divisor,
    never: Divisor,
}

/// Where a tensor comes from.
enum Source {
    Constant(Buffer<f32>),
    /// Which of the computed inputs it is.
    Computed(usize),
}

/// One of the tensors.
struct Joined {
    source: Source,
    /// Elements of a row, and where they start in one of the output.
    length: usize,
    first: usize,
    divisor: Divisor,
}

impl Concat {
    /// A concatenation along `axis` of tensors, each of a shape and, if it is a constant, elements; to
    /// one of shape `output`.
    ///
    /// # Errors
    /// The output has too many elements, or there is no memory for the constants.
    pub(super) fn new(
        device: &Device,
        axis: usize,
        parts: &[(&[usize], Option<&[f32]>)],
        output: &[usize],
    ) -> crate::error::Result<Self> {
        let (rows, whole) = output.split_at(axis);
        let (rows, whole) = (
            rows.iter().product::<usize>(),
            whole.iter().product::<usize>(),
        );
        check_elements(rows.saturating_mul(whole))?;
        let (mut end, mut computed) = (0, 0);
        let joined = parts.iter().map(|(dims, constant)| {
            let (length, first) = (dims[axis..].iter().product(), end);
            end += length;
            let source = match constant {
                Some(elements) => Source::Constant(device.allocate_with(elements)?),
                None => {
                    computed += 1;
                    Source::Computed(computed - 1)
                }
            };
            Ok(Joined {
                source,
                length,
                first,
                divisor: Divisor::new(length)?,
            })
        });
        Ok(Concat {
            parts: joined.collect::<crate::error::Result<_>>()?,
            rows,
            whole,
            once_an_image: Divisor::new(rows)?,
            never: Divisor::new(i32::MAX as usize)?,
        })
    }
}

impl Operation for Concat {
    fn forward(&self, pass: Forward<'_>) -> Result<()> {
        for joined in &self.parts {
            let size = self.rows * joined.length;
            for (part, elements) in parts(pass.images, self.rows * self.whole, size) {
                let (from, repeat, images) = match &joined.source {
                    Source::Constant(elements) => (elements.at(0), self.once_an_image, 1),
                    Source::Computed(input) => {
                        let from = part.of(pass.inputs[*input], size);
                        (from, self.never, part.images)
                    }
                };
                let arguments = CopyRowsArgs {
                    from,
                    to: part
                        .of(pass.output, self.rows * self.whole)
                        .offset(joined.first * size_of::<f32>()),
                    length: joined.divisor,
                    repeat,
                    from_stride: joined.length as u32,
                    to_stride: self.whole as u32,
                    elements,
                    accumulate: 0,
                };
                let launch = per_thread(elements).doing(Work {
                    bytes: bytes(images, size) + bytes(part.images, size),
                    ..Work::default()
                });
                pass.device
                    .launch(&kernels::CLASSIFIER_COPY_ROWS, launch, &arguments)?;
            }
        }
        Ok(())
    }

    fn backward(&self, pass: Backward<'_>) -> Result<()> {
        let wanted = |joined: &&Joined| matches!(joined.source, Source::Computed(input) if input == pass.input);
        let Some(joined) = self.parts.iter().find(wanted) else {
            return Ok(());
        };
        let size = self.rows * joined.length;
        for (part, elements) in parts(pass.images, self.rows * self.whole, size) {
            let arguments = CopyRowsArgs {
                from: part
                    .of(pass.gradient, self.rows * self.whole)
                    .offset(joined.first * size_of::<f32>()),
                to: part.of(pass.to, size),
                length: joined.divisor,
                repeat: self.never,
                from_stride: self.whole as u32,
                to_stride: joined.length as u32,
                elements,
                accumulate: pass.accumulate.into(),
            };
            let launch = per_thread(elements).doing(Work {
                bytes: bytes(part.images, (2 + usize::from(pass.accumulate)) * size),
                ..Work::default()
            });
            pass.device
                .launch(&kernels::CLASSIFIER_COPY_ROWS, launch, &arguments)?;
        }
        Ok(())
    }

    fn constant_bytes(&self) -> usize {
        let bytes = self.parts.iter().map(|joined| match &joined.source {
            Source::Constant(data) => data.bytes(),
            Source::Computed(_) => 0,
        });
        bytes.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Input, Node, check};
    use super::*;
    use crate::backend::cuda::driver::test_devices;
    use crate::classifier::Op;

    #[test]
    fn concatenations() {
        // The axis, its length in each tensor, of which the negative are constants, and the others'.
        let cases: [(usize, &[isize], [usize; 4]); 5] = [
            (1, &[16, 3, -2, 16], [1, 0, 5, 3]),
            (3, &[5, -1, 2], [2, 18, 5, 0]),
            (2, &[-1, 4], [1, 7, 0, 3]),
            (0, &[1, 2, -1], [0, 3, 2, 2]),
            (1, &[1], [1, 0, 1, 1]),
        ];
        for device in test_devices() {
            for (axis, lengths, others) in cases {
                let with = |length: usize| {
                    let mut dims = others;
                    dims[axis] = length;
                    dims
                };
                let input = |length: isize| match length {
                    0.. => Input::computed(&with(length as usize)),
                    _ => Input::random(&with(length.unsigned_abs()), 1.0, 5),
                };
                let inputs: Vec<Input> = lengths.iter().copied().map(input).collect();
                let parts: Vec<(&[usize], Option<&[f32]>)> = (inputs.iter())
                    .map(|input| (&input.dims[..], input.constant.as_deref()))
                    .collect();
                let output = with(lengths.iter().map(|length| length.unsigned_abs()).sum());
                let operation = Concat::new(&device, axis, &parts, &output).unwrap();
                let node = Node {
                    op: Op::Concat { axis },
                    inputs,
                    output: output.to_vec(),
                    terms: 1,
                };
                let name = format!("{lengths:?} on {axis} of {others:?}");
                check(&name, &device, &operation, &node);
            }
        }
    }
}
