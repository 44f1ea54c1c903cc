//! Reductions along axes.

use super::super::driver::{self, Address, Result, Work};
use super::super::kernels::classifier_reduce as kernels;
use super::axes::{Axes, Axis, bytes, check_elements, merged, parts, per_thread};
use super::operation::{Backward, Forward, Operation, Reads};
use super::rows::{team, team_launch};
use crate::classifier::{Reduction, layout};

driver::arguments! {
    struct ReduceArgs {
        x: Address,
        y: Address,
        kept: Axes,
        joined: Axes,
        rows: u32,
        length: u32,
        kind: u32,
        team: u32,
    }

    struct ReduceSharesArgs {
        x: Address,
        y: Address,
        gradient: Address,
        shares: Address,
        kept: Axes,
        joined: Axes,
        rows: u32,
        length: u32,
        team: u32,
    }

    struct ReduceBackwardArgs {
        x: Address,
        y: Address,
        gradient: Address,
        to: Address,
        axes: Axes,
        elements: u32,
        kind: u32,
        length: f32,
        accumulate: u32,
    }
}

/// Joins the elements along axes.
pub(super) struct Reduce {
    kind: Reduction,
    /// The axes of the output and of a row, in the input; and the input's, in the output.
    kept: Axes,
    joined: Axes,
    all: Axes,
    /// Elements of an image.
    input: usize,
    output: usize,
    /// Elements of a row, and the threads that share one.
    length: usize,
    team: u32,
}

impl Reduce {
    /// A reduction of a tensor of shape `input` along `axes`, ascending.
    ///
    /// # Errors
    /// The tensor has too many elements, or too many axes that cannot be joined.
    pub(super) fn new(
        kind: Reduction,
        axes: &[usize],
        input: &[usize],
    ) -> crate::error::Result<Self> {
        let sizes = |joined: bool| -> Vec<usize> {
            let chosen = (0..input.len()).filter(|axis| axes.contains(axis) == joined);
            chosen.map(|axis| input[axis]).collect()
        };
        let elements: usize = input.iter().product();
        check_elements(elements)?;
        let (output, length) = (
            sizes(false).iter().product::<usize>(),
            sizes(true).iter().product::<usize>(),
        );
        check_elements(output)?;
        let strides = layout::strides(input);
        let in_input = |joined: bool| {
            let chosen = (0..input.len()).filter(move |axis| axes.contains(axis) == joined);
            chosen.map(|axis| Axis::new(input[axis], strides[axis]))
        };
        let joined = merged(in_input(true));
        // Neighboring elements of a row lie side by side, or those of neighboring rows do.
        let adjacent = joined.last().is_some_and(|axis| axis.stride == Some(1));
        let kept = merged([Axis::images(elements)].into_iter().chain(in_input(false)));
        let mut of_kept = layout::strides(&sizes(false)).into_iter();
        let in_output = (0..input.len()).map(|axis| match axes.contains(&axis) {
            true => Axis::new(input[axis], 0),
            false => Axis::new(input[axis], of_kept.next().unwrap_or(0)),
        });
        let all = merged([Axis::images(output)].into_iter().chain(in_output));
        Ok(Reduce {
            kind,
            kept: Axes::new(&kept)?,
            joined: Axes::new(&joined)?,
            all: Axes::new(&all)?,
            input: elements,
            output,
            length,
            team: team(length, adjacent),
        })
    }

    /// As kernels have it.
    fn kind(&self) -> u32 {
        match self.kind {
            Reduction::Mean => 0,
            Reduction::Sum => 1,
            Reduction::Max => 2,
            Reduction::L2 => 3,
        }
    }
}

impl Operation for Reduce {
    fn forward(&self, pass: Forward<'_>) -> Result<()> {
        let largest = self.input.max(self.output);
        for (part, rows) in parts(pass.images, largest, self.output) {
            let arguments = ReduceArgs {
                x: part.of(pass.inputs[0], self.input),
                y: part.of(pass.output, self.output),
                kept: self.kept,
                joined: self.joined,
                rows,
                length: self.length as u32,
                kind: self.kind(),
                team: self.team,
            };
            let launch = team_launch(rows, self.team).doing(Work {
                bytes: bytes(part.images, self.input + self.output),
                multiply_adds: match self.kind {
                    Reduction::L2 => part.count(self.input).into(),
                    _ => 0,
                },
                ..Work::default()
            });
            pass.device
                .launch(&kernels::CLASSIFIER_REDUCE, launch, &arguments)?;
        }
        Ok(())
    }

    fn backward(&self, pass: Backward<'_>) -> Result<()> {
        let known = self.reads().inputs;
        let largest = self.input.max(self.output);
        for (part, elements) in parts(pass.images, largest, self.input) {
            let mut gradient = part.of(pass.gradient, self.output);
            let (mut x, mut y) = (Address(0), Address(0));
            if known {
                x = part.of(pass.inputs[0], self.input);
                y = part.of(pass.output, self.output);
            }
            if self.kind == Reduction::Max {
                let rows = part.count(self.output);
                let shares = part.of(pass.scratch, self.output);
                let arguments = ReduceSharesArgs {
                    x,
                    y,
                    gradient,
                    shares,
                    kept: self.kept,
                    joined: self.joined,
                    rows,
                    length: self.length as u32,
                    team: self.team,
                };
                let launch = team_launch(rows, self.team).doing(Work {
                    bytes: bytes(part.images, self.input + 3 * self.output),
                    ..Work::default()
                });
                pass.device
                    .launch(&kernels::CLASSIFIER_REDUCE_SHARES, launch, &arguments)?;
                gradient = shares;
            }
            let arguments = ReduceBackwardArgs {
                x,
                y,
                gradient,
                to: part.of(pass.to, self.input),
                axes: self.all,
                elements,
                kind: self.kind(),
                length: self.length as f32,
                accumulate: pass.accumulate.into(),
            };
            let of_input = 1 + usize::from(known) + usize::from(pass.accumulate);
            let of_output = 1 + usize::from(known);
            let launch = per_thread(elements).doing(Work {
                bytes: bytes(part.images, of_input * self.input + of_output * self.output),
                ..Work::default()
            });
            pass.device
                .launch(&kernels::CLASSIFIER_REDUCE_BACKWARD, launch, &arguments)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        let known = matches!(self.kind, Reduction::Max | Reduction::L2);
        Reads {
            inputs: known,
            output: known,
        }
    }

    fn backward_scratch(&self) -> usize {
        match self.kind {
            Reduction::Max => self.output,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Input, Node, check};
    use super::*;
    use crate::backend::cuda::driver::{Device, test_devices};
    use crate::classifier::Op;

    const KINDS: [Reduction; 4] = [
        Reduction::Mean,
        Reduction::Sum,
        Reduction::Max,
        Reduction::L2,
    ];

    fn check_case(device: &Device, axes: &[usize], dims: &[usize], from: fn(f32) -> f32) {
        for kind in KINDS {
            let op = Op::Reduce {
                kind,
                axes: axes.to_vec(),
            };
            let kept = (0..dims.len()).filter(|axis| !axes.contains(axis));
            let joined: usize = axes.iter().map(|&axis| dims[axis]).product();
            let node = Node {
                inputs: vec![Input {
                    from,
                    ..Input::computed(dims)
                }],
                output: kept.map(|axis| dims[axis]).collect(),
                terms: joined,
                op,
            };
            let operation = Reduce::new(kind, axes, dims).unwrap();
            check(
                &format!("{:?} of {dims:?}", node.op),
                device,
                &operation,
                &node,
            );
        }
    }

    #[test]
    fn reductions() {
        let cases: [(&[usize], &[usize]); 16] = [
            // The whole picture, by threads, warps and blocks.
            (&[2, 3], &[1, 20, 3, 5]),
            (&[2, 3], &[1, 19, 7, 7]),
            (&[2, 3], &[1, 2, 47, 44]),
            (&[1, 2, 3], &[1, 3, 74, 75]),
            // Axes ahead, between and apart.
            (&[1], &[1, 18, 5, 33]),
            (&[3], &[1, 18, 5, 3]),
            (&[2], &[1, 18, 5, 3]),
            (&[1, 3], &[1, 18, 5, 3]),
            (&[1, 3], &[1, 3, 5, 18]),
            (&[0, 2], &[3, 4, 5, 2]),
            (&[0, 2, 4], &[2, 3, 4, 2, 5]),
            (&[0], &[7]),
            (&[0], &[1, 4, 2]),
            (&[], &[2, 3]),
            (&[0, 1, 2], &[1, 1, 1]),
            (&[1, 3, 5], &[2, 3, 2, 4, 3, 2, 2]),
        ];
        for device in test_devices() {
            for (axes, dims) in cases {
                check_case(&device, axes, dims, |x| x);
            }
        }
    }

    #[test]
    fn equal_maxima_share_and_norms_of_zeros_have_no_gradient() {
        for device in test_devices() {
            check_case(&device, &[2, 3], &[1, 20, 3, 7], |x| (2.0 * x).round());
            check_case(&device, &[1], &[1, 20, 3, 7], |x| x.max(0.0));
            check_case(&device, &[1, 3], &[1, 4, 3, 5], |_| 0.0);
        }
    }

    #[test]
    fn a_tensor_of_too_many_axes_is_refused() {
        let axes: Vec<usize> = (0..20).step_by(2).collect();
        assert!(Reduce::new(Reduction::Sum, &axes, &[2; 20]).is_err());
    }

    /// Every struct of the kernels' sources has a mirror of the same layout.
    #[cfg(feature = "emulator")]
    #[test]
    fn structs_have_the_kernels_layout() {
        use super::super::normalize::{NormalizeArgs, NormalizeBackwardArgs};
        use super::super::softmax::{SoftmaxArgs, SoftmaxBackwardArgs};
        use crate::backend::cuda::driver::{assert_mirrored, mirror};
        let mirrors = [
            mirror::<ReduceArgs>(),
            mirror::<ReduceSharesArgs>(),
            mirror::<ReduceBackwardArgs>(),
            mirror::<NormalizeArgs>(),
            mirror::<NormalizeBackwardArgs>(),
            mirror::<SoftmaxArgs>(),
            mirror::<SoftmaxBackwardArgs>(),
        ];
        assert_mirrored(&[kernels::LAYOUTS], &mirrors);
    }
}
