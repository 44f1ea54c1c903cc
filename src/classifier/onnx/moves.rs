//! Operators that move elements, and those that leave them as they are.

use super::builder::{Call, Item, Outputs, axes, axis, size};
use super::tensor::{Constant, Data};
use crate::classifier::graph::{Op, PadMode};

/// Identity, and Dropout as it is in inference.
pub(super) fn identity(call: &mut Call<'_>) -> Outputs {
    Ok(vec![call.input(0)?])
}

pub(super) fn dropout(call: &mut Call<'_>) -> Outputs {
    call.ignore("ratio");
    call.ignore("seed");
    if let Some(constant) = call.optional_constant(2)?
        && constant.data != Data::Bool([false].into())
    {
        return Err("training_mode is not supported; export the model in evaluation mode".into());
    }
    identity(call)
}

pub(super) fn flatten(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len();
    let at = match call.int("axis", 1)? {
        at if at == rank as i64 => rank,
        at => axis(at, rank)?,
    };
    let (outer, inner) = x.dims().split_at(at);
    let dims = vec![outer.iter().product(), inner.iter().product()];
    Ok(vec![call.reshape(x, dims)?])
}

pub(super) fn reshape(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let target = call.integers(1)?.ok_or("its shape is missing")?;
    let keep_zero = call.int("allowzero", 0)? != 0;
    let mut dims = Vec::new();
    let mut free = None;
    for (i, &dim) in target.iter().enumerate() {
        dims.push(match dim {
            -1 if free.replace(i).is_some() => {
                return Err(format!("shape {target:?} leaves two dimensions open"));
            }
            -1 => 1,
            0 if !keep_zero => *(x.dims().get(i))
                .ok_or_else(|| format!("shape {target:?} copies a dimension that is not there"))?,
            dim => size(dim)?,
        });
    }
    if let Some(free) = free {
        let (have, others) = (Constant::elements(x.dims())?, Constant::elements(&dims)?);
        if others == 0 || have % others != 0 {
            return Err(format!("{:?} does not reshape to {target:?}", x.dims()));
        }
        dims[free] = have / others;
    }
    Ok(vec![call.reshape(x, dims)?])
}

pub(super) fn squeeze(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len();
    let removed = match call.list("axes", 1)? {
        Some(list) => axes(&list, rank)?,
        // The leading axis counts images: it is 1 here, and need not be elsewhere.
        None => {
            let first = usize::from(matches!(x, Item::Value { .. }));
            (first..rank).filter(|&i| x.dims()[i] == 1).collect()
        }
    };
    if let Some(axis) = removed.iter().find(|&&axis| x.dims()[axis] != 1) {
        return Err(format!("axis {axis} of {:?} is not 1", x.dims()));
    }
    let kept = (0..rank).filter(|axis| !removed.contains(axis));
    let dims = kept.map(|axis| x.dims()[axis]).collect();
    Ok(vec![call.reshape(x, dims)?])
}

pub(super) fn unsqueeze(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let list = call.list("axes", 1)?.ok_or("its axes are missing")?;
    let mut dims = x.dims().to_vec();
    Constant::elements(&vec![1; dims.len() + list.len()])?;
    for axis in axes(&list, dims.len() + list.len())? {
        dims.insert(axis, 1);
    }
    Ok(vec![call.reshape(x, dims)?])
}

pub(super) fn transpose(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len();
    let perm: Vec<usize> = match call.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(list) if list.len() == rank => {
            axes(&list, rank)?;
            (list.iter())
                .map(|&a| axis(a, rank))
                .collect::<Result<_, _>>()?
        }
        Some(list) => return Err(format!("perm {list:?} does not fit {:?}", x.dims())),
    };
    let dims = perm.iter().map(|&axis| x.dims()[axis]).collect();
    call.finish(Op::Transpose { perm }, &[x], dims)
}

pub(super) fn concat(call: &mut Call<'_>) -> Outputs {
    let inputs = (0..call.count())
        .map(|i| call.input(i))
        .collect::<Result<Vec<_>, _>>()?;
    let mut dims = call.input(0)?.dims().to_vec();
    let axis = axis(call.int("axis", 0)?, dims.len())?;
    for input in &inputs[1..] {
        let mut other = input.dims().to_vec();
        if other.len() != dims.len() {
            return Err(format!("shapes {dims:?} and {other:?} do not join"));
        }
        let length = std::mem::replace(&mut other[axis], dims[axis]);
        if other != dims {
            return Err(format!(
                "shapes {dims:?} and {:?} do not join",
                input.dims()
            ));
        }
        dims[axis] += length;
    }
    call.finish(Op::Concat { axis }, &inputs, dims)
}

pub(super) fn slice(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len();
    // Before opset 10 they were attributes.
    let starts = call.list("starts", 1)?.ok_or("its starts are missing")?;
    let ends = call.list("ends", 2)?.ok_or("its ends are missing")?;
    let along = match call.list("axes", 3)? {
        Some(list) => (list.iter())
            .map(|&a| axis(a, rank))
            .collect::<Result<Vec<_>, _>>()?,
        None => (0..starts.len().min(rank)).collect(),
    };
    let by = call.integers(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    let n = starts.len();
    if [ends.len(), along.len(), by.len()] != [n; 3] {
        return Err("its starts, ends, axes and steps differ in length".into());
    }
    let mut dims = x.dims().to_vec();
    let (mut first, mut steps) = (vec![0; rank], vec![1; rank]);
    for i in 0..n {
        let length = x.dims()[along[i]] as i64;
        let from_start = |at: i64| {
            if at < 0 {
                at.saturating_add(length)
            } else {
                at
            }
        };
        let (start, end, step) = (from_start(starts[i]), from_start(ends[i]), by[i]);
        let (start, distance) = match step {
            0 => return Err("its step is 0".into()),
            1.. => {
                let start = start.clamp(0, length);
                (start, end.clamp(0, length) - start)
            }
            _ => {
                let start = start.clamp(-1, length - 1);
                (start, start - end.clamp(-1, length - 1))
            }
        };
        let step_size = step.unsigned_abs() as usize;
        dims[along[i]] = (distance.max(0) as usize).div_ceil(step_size);
        first[along[i]] = start.max(0) as usize;
        // Steps longer than the axis take one element; what they are does not matter then.
        steps[along[i]] = step.clamp(-length - 1, length + 1) as isize;
    }
    let op = Op::Slice {
        starts: first,
        steps,
    };
    call.finish(op, &[x], dims)
}

pub(super) fn split(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len();
    let axis = axis(call.int("axis", 0)?, rank)?;
    let length = x.dims()[axis];
    let parts = call.node.output.len();
    call.ignore("num_outputs");
    let sizes = match call.list("split", 1)? {
        Some(list) => list
            .iter()
            .map(|&n| size(n))
            .collect::<Result<Vec<_>, _>>()?,
        None => {
            let each = length.div_ceil(parts.max(1));
            let start = |i: usize| (i * each).min(length);
            (0..parts).map(|i| start(i + 1) - start(i)).collect()
        }
    };
    if sizes.len() != parts || sizes.iter().sum::<usize>() != length {
        return Err(format!(
            "{sizes:?} do not split {length} into {parts} outputs"
        ));
    }
    let mut outputs = Vec::new();
    let mut starts = vec![0; rank];
    for part in sizes {
        let mut dims = x.dims().to_vec();
        dims[axis] = part;
        let op = Op::Slice {
            starts: starts.clone(),
            steps: vec![1; rank],
        };
        outputs.push(call.apply(op, std::slice::from_ref(&x), dims)?);
        starts[axis] += part;
    }
    Ok(outputs)
}

pub(super) fn pad(call: &mut Call<'_>) -> Outputs {
    let mut x = call.input(0)?;
    let rank = x.dims().len();
    // Before opset 11 pads and value were attributes.
    let pads = call.list("pads", 1)?.ok_or("its pads are missing")?;
    let mode = call.string("mode", "constant")?;
    let value = call.float("value", 0.0)?;
    let value = match call.optional_constant(2)?.map(|constant| constant.data) {
        None => value,
        Some(Data::Float(data)) if data.len() == 1 => data[0],
        Some(Data::Int(data)) if data.len() == 1 => data[0] as f32,
        Some(_) => return Err("its value is not a single number".into()),
    };
    let along = match call.integers(3)? {
        Some(list) => (list.iter())
            .map(|&a| axis(a, rank))
            .collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * along.len() {
        return Err(format!("pads {pads:?} do not fit {:?}", x.dims()));
    }
    let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
    for (i, &axis) in along.iter().enumerate() {
        before[axis] = pads[i];
        after[axis] = pads[along.len() + i];
    }
    // Negative padding cuts off.
    if pads.iter().any(|&pad| pad < 0) {
        let cut = |pad: i64| pad.min(0).unsigned_abs() as usize;
        let mut dims = x.dims().to_vec();
        for axis in 0..rank {
            let left = cut(before[axis]).saturating_add(cut(after[axis]));
            dims[axis] = (dims[axis].checked_sub(left))
                .ok_or_else(|| format!("pads {pads:?} cut off more than there is"))?;
        }
        let op = Op::Slice {
            starts: before.iter().map(|&pad| cut(pad)).collect(),
            steps: vec![1; rank],
        };
        x = call.apply(op, &[x], dims)?;
    }
    let sizes = |pads: &[i64]| pads.iter().map(|&pad| size(pad.max(0))).collect();
    let (before, after): (Vec<usize>, Vec<usize>) = match (sizes(&before), sizes(&after)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    let dims: Vec<usize> = (0..rank)
        .map(|axis| before[axis] + x.dims()[axis] + after[axis])
        .collect();
    let longest = |axis: usize| before[axis].max(after[axis]);
    if mode == "wrap" {
        return wrapped(call, x, &before, &dims);
    }
    let mode = match mode.as_str() {
        "constant" => PadMode::Constant(value),
        "reflect" if (0..rank).all(|axis| longest(axis) < x.dims()[axis].max(1)) => {
            PadMode::Reflect
        }
        "edge" if (0..rank).all(|axis| longest(axis) == 0 || x.dims()[axis] > 0) => PadMode::Edge,
        _ => return Err(format!("mode {mode} with pads {pads:?} is not supported")),
    };
    call.finish(Op::Pad { before, mode }, &[x], dims)
}

/// `x` repeated beyond its ends, one axis after another, to the shape `dims`.
fn wrapped(call: &mut Call<'_>, mut x: Item, before: &[usize], dims: &[usize]) -> Outputs {
    for axis in 0..dims.len() {
        let (length, output) = (x.dims()[axis], dims[axis]);
        if output == length {
            continue;
        }
        if length == 0 {
            return Err("its input is empty".into());
        }
        call.builder.reserve(&[output])?;
        // Counted from a multiple of the length ahead of the first element.
        let first = length - before[axis] % length;
        let indices = (0..output).map(|i| (first + i) % length).collect();
        let mut longer = x.dims().to_vec();
        longer[axis] = output;
        x = call.apply(Op::Gather { axis, indices }, &[x], longer)?;
    }
    Ok(vec![x])
}

pub(super) fn expand(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let target = call.integers(1)?.ok_or("its shape is missing")?;
    let target = target
        .iter()
        .map(|&n| size(n))
        .collect::<Result<Vec<_>, _>>()?;
    let dims = super::fold::broadcast(x.dims(), &target)?;
    call.finish(Op::Expand, &[x], dims)
}

pub(super) fn tile(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let repeats = call.integers(1)?.ok_or("its repeats are missing")?;
    if repeats.len() != x.dims().len() {
        return Err(format!("repeats {repeats:?} do not fit {:?}", x.dims()));
    }
    // Each axis gets one of length 1 before it, which is broadcast and then joined with it.
    let (mut apart, mut wide, mut dims) = (Vec::new(), Vec::new(), Vec::new());
    for (&length, &repeat) in x.dims().iter().zip(&repeats) {
        let repeat = size(repeat)?;
        apart.extend([1, length]);
        wide.extend([repeat, length]);
        dims.push(length.checked_mul(repeat).ok_or("its output overflows")?);
    }
    let x = call.reshape(x, apart)?;
    let x = call.apply(Op::Expand, &[x], wide)?;
    Ok(vec![call.reshape(x, dims)?])
}

pub(super) fn gather(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let axis = axis(call.int("axis", 0)?, x.dims().len())?;
    let constant = call.constant(1)?;
    let Data::Int(list) = &constant.data else {
        return Err("its indices are not integers".into());
    };
    let length = x.dims()[axis];
    let indices = list
        .iter()
        .map(|&index| super::builder::axis(index, length))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| format!("an index is beyond an axis of {length}"))?;
    let dims = [&x.dims()[..axis], &constant.dims, &x.dims()[axis + 1..]].concat();
    call.finish(Op::Gather { axis, indices }, &[x], dims)
}

/// Largest side of a block of pixels.
const MAX_BLOCK: usize = 4096;

/// The side of DepthToSpace's and SpaceToDepth's blocks, and the picture's `[images, channels, height,
/// width]`.
fn blocks(call: &mut Call<'_>, x: &Item) -> Result<(usize, [usize; 4]), String> {
    let block = size(call.int("blocksize", 0)?)?;
    let picture = <[usize; 4]>::try_from(x.dims())
        .map_err(|_| format!("its input has shape {:?}", x.dims()))?;
    if block == 0 || block > MAX_BLOCK || picture.contains(&0) {
        return Err(format!(
            "blocks of {block} in {picture:?} are not supported"
        ));
    }
    Ok((block, picture))
}

/// `x` seen as `apart`, its axes exchanged, seen as `dims`.
fn rearranged(
    call: &mut Call<'_>,
    x: Item,
    apart: Vec<usize>,
    perm: &[usize],
    dims: Vec<usize>,
) -> Outputs {
    let x = call.reshape(x, apart)?;
    let perm = perm.to_vec();
    let moved = perm.iter().map(|&axis| x.dims()[axis]).collect();
    let x = call.apply(Op::Transpose { perm }, &[x], moved)?;
    Ok(vec![call.reshape(x, dims)?])
}

pub(super) fn depth_to_space(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let (b, [n, c, h, w]) = blocks(call, &x)?;
    if !c.is_multiple_of(b * b) {
        return Err(format!("{c} channels are not {b}×{b} of another picture"));
    }
    let each = c / (b * b);
    let (apart, perm) = match call.string("mode", "DCR")?.as_str() {
        "DCR" => (vec![n, b, b, each, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => (vec![n, each, b, b, h, w], [0, 1, 4, 2, 5, 3]),
        mode => return Err(format!("mode {mode} is not supported")),
    };
    rearranged(call, x, apart, &perm, vec![n, each, h * b, w * b])
}

pub(super) fn space_to_depth(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let (b, [n, c, h, w]) = blocks(call, &x)?;
    if !h.is_multiple_of(b) || !w.is_multiple_of(b) {
        return Err(format!("a picture of {h}×{w} is not blocks of {b}×{b}"));
    }
    let (rows, columns) = (h / b, w / b);
    let apart = vec![n, c, rows, b, columns, b];
    let dims = vec![n, c * b * b, rows, columns];
    rearranged(call, x, apart, &[0, 3, 5, 1, 2, 4], dims)
}
