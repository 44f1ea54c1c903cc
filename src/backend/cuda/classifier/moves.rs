//! Operations that only move elements.
//!
//! All of them are separable (see [`layout`]): forward, a term of each output axis says where an element
//! comes from; backward, lists of each input axis say where an element went to. Lists are as long as the
//! axes, not as the tensors.

use super::super::driver::{self, Address, Buffer, Device, Result, Work};
use super::super::kernels::classifier_moves as kernels;
use super::axes::{AXES, Axes, Axis, bytes, check_elements, merged, parts};
use super::operation::{Backward, Forward, Operation};
use super::rows::team_launch;
use super::transpose::Transpose;
use crate::classifier::layout::{self, PADDING};
use crate::classifier::{Op, PadMode};
use crate::error::Error;

/// Marks an axis without a list: NO_LIST in the kernels' source.
const NO_LIST: u32 = u32::MAX;
const WARP: u32 = 32;

driver::arguments! {
    struct MoveArgs {
        from: Address,
        to: Address,
        lists: Address,
        axes: Axes,
        first: [u32; AXES],
        start: u32,
        elements: u32,
        fill: f32,
        accumulate: u32,
        team: u32,
    }
}

/// A move of the elements of one input.
pub(super) struct Moves {
    forward: Gather,
    backward: Gather,
    /// What padding holds.
    fill: f32,
}

/// An axis of the elements to write. For each of its coordinates, terms of where in the other tensor the
/// elements are that are added up: those of coordinate `c` from `begins[c]` to `begins[c + 1]`.
struct Terms {
    begins: Vec<usize>,
    terms: Vec<u32>,
}

impl Terms {
    /// For each coordinate the one term that a table has, if any.
    fn of(table: &[usize]) -> Terms {
        let mut begins = vec![0];
        let mut terms = vec![];
        for &from in table {
            if from != PADDING {
                terms.push(from as u32);
            }
            begins.push(terms.len());
        }
        Terms { begins, terms }
    }

    /// The other way round: for each of `length` coordinates, `distance` apart in the table, what is made
    /// of it, `stride` apart; ascending.
    fn inverse(table: &[usize], length: usize, distance: usize, stride: usize) -> Terms {
        let pairs = || {
            let moved = table
                .iter()
                .enumerate()
                .filter(|(_, from)| **from != PADDING);
            moved.map(|(i, &from)| (from / distance.max(1), (i * stride) as u32))
        };
        let mut begins = vec![0; length + 1];
        for (coordinate, _) in pairs() {
            begins[coordinate + 1] += 1;
        }
        for coordinate in 0..length {
            begins[coordinate + 1] += begins[coordinate];
        }
        let mut ends = begins.clone();
        let mut terms = vec![0; begins[length]];
        for (coordinate, term) in pairs() {
            terms[ends[coordinate]] = term;
            ends[coordinate] += 1;
        }
        Terms { begins, terms }
    }

    fn len(&self) -> usize {
        self.begins.len() - 1
    }

    /// The first term and the distance to the next one's, where every coordinate has one and they are
    /// evenly spaced, modulo 2^32.
    fn line(&self) -> Option<(u32, u32)> {
        let first = *self.terms.first()?;
        let step = self.terms.get(1).map_or(0, |next| next.wrapping_sub(first));
        let single = self.begins.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let even = self
            .terms
            .windows(2)
            .all(|pair| pair[1].wrapping_sub(pair[0]) == step);
        (single && even).then_some((first, step))
    }
}

/// Elements that are written, and where each one's terms are.
struct Gather {
    axes: Axes,
    /// The axes' lists, and where each starts.
    lists: Buffer<u32>,
    first: [u32; AXES],
    start: u32,
    /// Elements of an image that are written, and that are there to read.
    elements: usize,
    from: usize,
    /// Elements of an image that are read.
    reads: usize,
    team: u32,
    /// How it is done in tiles, where they are wanted.
    transpose: Option<Transpose>,
}

impl Gather {
    /// From the axes of what is written, the first one outermost, and the elements of what is read.
    fn new(device: &Device, axes: Vec<Terms>, from: usize) -> crate::error::Result<Gather> {
        let elements: usize = axes.iter().map(Terms::len).product();
        let total = axes.iter().map(|axis| axis.terms.len());
        let total = total.fold(1_usize, usize::saturating_mul);
        let (mut start, mut lists, mut firsts) = (0_u32, vec![], vec![]);
        let mut laid = vec![Axis::images(from)];
        for axis in &axes {
            let size = axis.len();
            if let Some((first, step)) = axis.line() {
                start = start.wrapping_add(first);
                laid.push(Axis::new(size, step as usize));
                continue;
            }
            firsts.push(lists.len() as u32);
            laid.push(Axis { size, stride: None });
            let terms = lists.len() + axis.begins.len();
            lists.extend(axis.begins.iter().map(|begin| (terms + begin) as u32));
            lists.extend(&axis.terms);
        }
        check_elements(lists.len())?;
        let laid = merged(laid);
        let mut first = [NO_LIST; AXES];
        let with_lists = laid
            .iter()
            .zip(0..AXES)
            .filter(|(axis, _)| axis.stride.is_none());
        for ((_, k), list) in with_lists.zip(firsts) {
            first[k] = list;
        }
        Ok(Gather {
            transpose: Transpose::new(&laid, elements, start)?,
            axes: Axes::new(&laid)?,
            lists: device.allocate_with(&lists)?,
            first,
            start,
            elements,
            from,
            reads: total.min(from),
            // Where elements are sums of many, a warp to each.
            team: if total / WARP as usize >= elements {
                WARP
            } else {
                1
            },
        })
    }

    /// Writes `to` from `from`, or adds to it.
    fn run(
        &self,
        device: &Device,
        images: usize,
        [from, to]: [Address; 2],
        fill: f32,
        accumulate: bool,
    ) -> Result<()> {
        let largest = self.elements.max(self.from);
        for (part, elements) in parts(images, largest, self.elements) {
            let between = [part.of(from, self.from), part.of(to, self.elements)];
            let written = (1 + usize::from(accumulate)) * self.elements;
            let work = Work {
                bytes: bytes(part.images, self.reads + written),
                ..Work::default()
            };
            if let Some(transpose) = &self.transpose {
                transpose.run(device, part.images, between, accumulate, work)?;
                continue;
            }
            let arguments = MoveArgs {
                from: between[0],
                to: between[1],
                lists: self.lists.at(0),
                axes: self.axes,
                first: self.first,
                start: self.start,
                elements,
                fill,
                accumulate: accumulate.into(),
                team: self.team,
            };
            let launch = team_launch(elements, self.team).with_shared(0).doing(work);
            device.launch(&kernels::CLASSIFIER_MOVE, launch, &arguments)?;
        }
        Ok(())
    }
}

/// The length of the input axis that each of the operation's tables goes along, and the distance of
/// neighbors on it; an axis that is not there has the length 1.
fn input_axes(op: &Op, input: &[usize], tables: usize) -> Vec<(usize, usize)> {
    let strides = layout::strides(input);
    let of = |axis: usize| (input[axis], strides[axis]);
    match op {
        Op::Transpose { perm } => perm.iter().map(|&axis| of(axis)).collect(),
        Op::Expand => {
            let new = std::iter::repeat_n((1, 1), tables - input.len());
            new.chain((0..input.len()).map(of)).collect()
        }
        Op::Gather { axis, .. } => {
            let outer = input[..*axis].iter().product();
            vec![
                (outer, strides[*axis] * input[*axis]),
                of(*axis),
                (strides[*axis], 1),
            ]
        }
        Op::Reshape => vec![(input.iter().product(), 1)],
        _ => (0..input.len()).map(of).collect(),
    }
}

impl Moves {
    /// A move, its tables on the device.
    ///
    /// # Errors
    /// The operation does not only move elements, the tensors have too many elements or too many axes
    /// that cannot be joined, or there is no memory for the tables.
    pub(super) fn new(
        device: &Device,
        op: &Op,
        input: &[usize],
        output: &[usize],
    ) -> crate::error::Result<Self> {
        let elements = |dims: &[usize]| dims.iter().product::<usize>();
        check_elements(elements(input))?;
        check_elements(elements(output))?;
        let tables = layout::tables(op, input, output)
            .ok_or_else(|| Error::invalid(format!("{} does more than move elements", op.name())))?;
        let input_axes = input_axes(op, input, tables.len());

        let forward = tables.iter().map(|table| Terms::of(table)).collect();

        let sizes: Vec<usize> = tables.iter().map(Vec::len).collect();
        let strides = layout::strides(&sizes);
        let mut inverse: Vec<(usize, Terms)> = (tables.iter().zip(&input_axes).zip(strides))
            .map(|((table, &(length, distance)), stride)| {
                (distance, Terms::inverse(table, length, distance, stride))
            })
            .collect();
        // The input's own order of axes; of those that are no longer than 1 it does not matter.
        inverse.sort_by_key(|(distance, _)| std::cmp::Reverse(*distance));
        let backward = inverse.into_iter().map(|(_, terms)| terms).collect();

        let fill = match op {
            Op::Pad {
                mode: PadMode::Constant(value),
                ..
            } => *value,
            _ => 0.0,
        };
        Ok(Moves {
            forward: Gather::new(device, forward, elements(input))?,
            backward: Gather::new(device, backward, elements(output))?,
            fill,
        })
    }
}

impl Operation for Moves {
    fn forward(&self, pass: Forward<'_>) -> Result<()> {
        let between = [pass.inputs[0], pass.output];
        (self.forward).run(pass.device, pass.images, between, self.fill, false)
    }

    fn backward(&self, pass: Backward<'_>) -> Result<()> {
        let between = [pass.gradient, pass.to];
        (self.backward).run(pass.device, pass.images, between, 0.0, pass.accumulate)
    }

    fn constant_bytes(&self) -> usize {
        self.forward.lists.bytes() + self.backward.lists.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Input, Node, check};
    use super::*;
    use crate::backend::cuda::driver::test_devices;

    fn check_moves(cases: &[(&[usize], Op, &[usize])]) {
        for device in test_devices() {
            for (dims, op, output) in cases {
                let operation = Moves::new(&device, op, dims, output).unwrap();
                let ratio = output.iter().product::<usize>() / dims.iter().product::<usize>();
                let node = Node {
                    op: op.clone(),
                    inputs: vec![Input::computed(dims)],
                    output: output.to_vec(),
                    // Elements that one can be read by.
                    terms: 32 * (1 + ratio),
                };
                check(&format!("{op:?} of {dims:?}"), &device, &operation, &node);
            }
        }
    }

    fn transpose(perm: &[usize]) -> Op {
        Op::Transpose {
            perm: perm.to_vec(),
        }
    }

    fn slice(starts: &[usize], steps: &[isize]) -> Op {
        Op::Slice {
            starts: starts.to_vec(),
            steps: steps.to_vec(),
        }
    }

    fn pad(before: &[usize], mode: PadMode) -> Op {
        Op::Pad {
            before: before.to_vec(),
            mode,
        }
    }

    fn gather(axis: usize, indices: &[usize]) -> Op {
        Op::Gather {
            axis,
            indices: indices.to_vec(),
        }
    }

    #[test]
    fn transpositions() {
        check_moves(&[
            (&[1, 18, 5, 3], transpose(&[0, 2, 3, 1]), &[1, 5, 3, 18]),
            (&[1, 18, 5, 3], transpose(&[0, 1, 3, 2]), &[1, 18, 3, 5]),
            (&[2, 18, 5, 3], transpose(&[3, 2, 1, 0]), &[3, 5, 18, 2]),
            (&[2, 3], transpose(&[0, 1]), &[2, 3]),
            // A Swin transformer's windows.
            (
                &[1, 2, 7, 3, 7, 5],
                transpose(&[0, 1, 3, 2, 4, 5]),
                &[1, 2, 3, 7, 7, 5],
            ),
            // In tiles.
            (&[40, 70], transpose(&[1, 0]), &[70, 40]),
            (&[2, 17, 5, 9], transpose(&[0, 2, 3, 1]), &[2, 5, 9, 17]),
            (&[2, 19, 3, 33], transpose(&[2, 0, 3, 1]), &[3, 2, 33, 19]),
            (&[18, 2, 16, 3], transpose(&[3, 1, 2, 0]), &[3, 2, 16, 18]),
            (&[1, 1, 1], transpose(&[2, 0, 1]), &[1, 1, 1]),
        ]);
    }

    #[test]
    fn slices() {
        check_moves(&[
            (
                &[1, 20, 5, 4],
                slice(&[0, 0, 1, 3], &[1, 1, 2, -1]),
                &[1, 20, 2, 4],
            ),
            (
                &[1, 20, 5, 4],
                slice(&[0, 3, 0, 0], &[1, 2, 1, 1]),
                &[1, 8, 5, 4],
            ),
            (
                &[1, 40, 5, 4],
                slice(&[0, 16, 0, 0], &[1, 1, 1, 1]),
                &[1, 24, 5, 4],
            ),
            (
                &[3, 40, 5, 4],
                slice(&[2, 16, 1, 0], &[-1, 1, 1, 1]),
                &[2, 16, 3, 4],
            ),
            (&[1, 9, 7], slice(&[0, 8, 6], &[1, -3, -2]), &[1, 3, 4]),
            (&[1, 9], slice(&[0, 4], &[1, 1]), &[1, 1]),
        ]);
    }

    #[test]
    fn padding() {
        let constant = PadMode::Constant;
        check_moves(&[
            (
                &[1, 18, 5, 3],
                pad(&[0, 0, 1, 2], constant(0.5)),
                &[1, 18, 8, 6],
            ),
            (
                &[1, 18, 5, 3],
                pad(&[0, 0, 3, 2], PadMode::Reflect),
                &[1, 18, 12, 6],
            ),
            (
                &[1, 18, 5, 3],
                pad(&[0, 0, 1, 4], PadMode::Edge),
                &[1, 18, 7, 9],
            ),
            (
                &[1, 4, 5, 3],
                pad(&[1, 2, 0, 0], constant(-1.0)),
                &[3, 7, 5, 3],
            ),
            (&[1, 1, 1], pad(&[0, 2, 3], PadMode::Edge), &[1, 5, 4]),
        ]);
    }

    #[test]
    fn expansions() {
        check_moves(&[
            (&[1, 18, 1, 3], Op::Expand, &[2, 18, 4, 3]),
            (&[1, 1, 4, 3], Op::Expand, &[1, 5, 4, 3]),
            (&[3, 1], Op::Expand, &[2, 3, 3, 4]),
            // Sums long enough for a warp each.
            (&[1, 3, 1, 1], Op::Expand, &[1, 3, 9, 11]),
            (&[], Op::Expand, &[2, 50]),
        ]);
    }

    #[test]
    fn gathers() {
        check_moves(&[
            (
                &[1, 18, 5, 3],
                gather(2, &[4, 0, 0, 1, 1, 2]),
                &[1, 18, 6, 3],
            ),
            (&[1, 18, 5, 3], gather(1, &[17, 2, 2]), &[1, 3, 5, 3]),
            (&[1, 18, 5, 3], gather(3, &[1]), &[1, 18, 5]),
            (&[1, 18, 5, 3], gather(2, &[1, 0, 2, 4]), &[1, 18, 2, 2, 3]),
            (&[2, 5], gather(0, &[1, 1, 0, 1]), &[4, 5]),
        ]);
    }

    #[test]
    fn what_is_no_move_is_refused() {
        for device in test_devices() {
            assert!(Moves::new(&device, &Op::MatMul, &[2, 2], &[2, 2]).is_err());
            // Turned around, no two axes can be joined.
            const TOO_MANY: usize = AXES + 1;
            let turned: Vec<usize> = (0..TOO_MANY).rev().collect();
            let dims = [2; TOO_MANY];
            assert!(Moves::new(&device, &transpose(&turned), &dims, &dims).is_err());
        }
    }

    /// Every struct of the kernels' sources has a mirror of the same layout.
    #[cfg(feature = "emulator")]
    #[test]
    fn structs_have_the_kernels_layout() {
        use super::super::concat::CopyRowsArgs;
        use super::super::transpose::TransposeArgs;
        use crate::backend::cuda::driver::{assert_mirrored, mirror};
        let mirrors = [
            mirror::<MoveArgs>(),
            mirror::<CopyRowsArgs>(),
            mirror::<TransposeArgs>(),
        ];
        assert_mirrored(&[kernels::LAYOUTS], &mirrors);
    }
}
