//! Operations that only move elements, as tables: which input element each output element copies.
//!
//! All of them are separable: an output element's source is a sum of one term per output axis. The
//! tables serve shape arithmetic on integers, the reference, and backends that have no better way.

use super::graph::{Op, PadMode};

/// Marks an output element that copies nothing: constant padding.
pub(crate) const PADDING: usize = usize::MAX;

/// Elements between neighbors along each axis, row-major.
pub(crate) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    strides
}

/// For each output element the index of the input element it copies, or [`PADDING`]; `None` for an
/// operation that does more than move the elements of one input.
///
/// The shapes must be the operation's: as they are in a graph.
pub(crate) fn sources(op: &Op, input: &[usize], output: &[usize]) -> Option<Vec<usize>> {
    Some(sums(&tables(op, input, output)?))
}

/// What [`sources`] sums: an output element's source is one term from each table, the last table
/// running fastest, or [`PADDING`] where one of the terms is.
pub(crate) fn tables(op: &Op, input: &[usize], output: &[usize]) -> Option<Vec<Vec<usize>>> {
    let stride = strides(input);
    let axes = |table: &dyn Fn(usize) -> Vec<usize>| (0..output.len()).map(table).collect();
    let tables: Vec<Vec<usize>> = match op {
        Op::Reshape => vec![(0..input.iter().product()).collect()],
        Op::Transpose { perm } => axes(&|axis| {
            let from = perm[axis];
            (0..output[axis]).map(|i| i * stride[from]).collect()
        }),
        Op::Slice { starts, steps } => axes(&|axis| {
            let at = |i| starts[axis].wrapping_add_signed(steps[axis] * i as isize);
            (0..output[axis]).map(|i| at(i) * stride[axis]).collect()
        }),
        Op::Pad { before, mode } => axes(&|axis| {
            let at = |i| match padded(i, before[axis], input[axis], *mode) {
                PADDING => PADDING,
                from => from * stride[axis],
            };
            (0..output[axis]).map(at).collect()
        }),
        Op::Expand => broadcast_tables(input, output),
        Op::Gather { axis, indices } => vec![
            (0..input[..*axis].iter().product())
                .map(|i: usize| i * stride[*axis] * input[*axis])
                .collect(),
            indices.iter().map(|i| i * stride[*axis]).collect(),
            (0..stride[*axis]).collect(),
        ],
        _ => return None,
    };
    Some(tables)
}

/// For each element of `output` the index of the element of `input` that broadcasting puts there.
pub(crate) fn broadcast(input: &[usize], output: &[usize]) -> Vec<usize> {
    sums(&broadcast_tables(input, output))
}

fn broadcast_tables(input: &[usize], output: &[usize]) -> Vec<Vec<usize>> {
    let (stride, new) = (strides(input), output.len() - input.len());
    (0..output.len())
        .map(|axis| match axis.checked_sub(new) {
            Some(from) if input[from] > 1 => (0..output[axis]).map(|i| i * stride[from]).collect(),
            _ => vec![0; output[axis]],
        })
        .collect()
}

/// For each element of `input` the index of the element of the reduction along `axes` that it joins.
pub(crate) fn reduced(input: &[usize], axes: &[usize]) -> Vec<usize> {
    let kept: Vec<usize> = (0..input.len())
        .map(|axis| if axes.contains(&axis) { 1 } else { input[axis] })
        .collect();
    broadcast(&kept, input)
}

/// Where position `i` of a padded axis of `length` elements comes from.
fn padded(i: usize, before: usize, length: usize, mode: PadMode) -> usize {
    let inside = before..before + length;
    match mode {
        _ if inside.contains(&i) => i - before,
        PadMode::Constant(_) => PADDING,
        PadMode::Reflect if i < before => before - i,
        PadMode::Reflect => 2 * (length - 1) - (i - before),
        PadMode::Edge if i < before => 0,
        PadMode::Edge => length - 1,
    }
}

/// The sum of every combination of one term from each table, the last table running fastest.
fn sums(tables: &[Vec<usize>]) -> Vec<usize> {
    tables.iter().fold(vec![0], |sums, table| {
        let mut longer = Vec::with_capacity(sums.len() * table.len());
        for &sum in &sums {
            longer.extend(table.iter().map(|&term| match (sum, term) {
                (PADDING, _) | (_, PADDING) => PADDING,
                (sum, term) => sum + term,
            }));
        }
        longer
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_elements() {
        let op = Op::Transpose { perm: vec![1, 0] };
        assert_eq!(sources(&op, &[2, 3], &[3, 2]).unwrap(), [0, 3, 1, 4, 2, 5]);
        let op = Op::Slice {
            starts: vec![1, 2],
            steps: vec![1, -2],
        };
        assert_eq!(sources(&op, &[2, 3], &[1, 2]).unwrap(), [5, 3]);
        let op = Op::Gather {
            axis: 1,
            indices: vec![2, 0],
        };
        assert_eq!(sources(&op, &[2, 3, 1], &[2, 2, 1]).unwrap(), [2, 0, 5, 3]);
        assert_eq!(broadcast(&[2, 1], &[2, 2, 2]), [0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(reduced(&[2, 3], &[0]), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn pads() {
        let pad = |mode| {
            let op = Op::Pad {
                before: vec![2],
                mode,
            };
            sources(&op, &[3], &[7]).unwrap()
        };
        let p = PADDING;
        assert_eq!(pad(PadMode::Constant(1.0)), [p, p, 0, 1, 2, p, p]);
        assert_eq!(pad(PadMode::Reflect), [2, 1, 0, 1, 2, 1, 0]);
        assert_eq!(pad(PadMode::Edge), [0, 0, 0, 1, 2, 2, 2]);
    }
}
