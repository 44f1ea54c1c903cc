//! GatherND and ScatterND by constant indices: what exporters write for `x[:, rows, columns]` and
//! `mask[1:3] = 5`.

use std::sync::Arc;

use super::builder::{Call, Item, Outputs, size};
use super::tensor::{Constant, Data};
use crate::classifier::graph::Op;

/// The GatherND operator.
pub(super) fn gather(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let batch = size(call.int("batch_dims", 0)?)?;
    let indices = call.constant(1)?;
    let Data::Int(places) = &indices.data else {
        return Err(format!("indices are {}", indices.data.kind()));
    };
    let misfit = || format!("indices {:?} do not fit {:?}", indices.dims, x.dims());
    let (&depth, outer) = indices.dims.split_last().ok_or_else(misfit)?;
    let rank = x.dims().len();
    if depth == 0 || batch > outer.len() || batch >= rank || depth > rank - batch {
        return Err(misfit());
    }
    let (shared, rest) = x.dims().split_at(batch);
    if outer[..batch] != *shared {
        return Err(misfit());
    }
    let (named, below) = rest.split_at(depth);
    let (each, row): (usize, usize) = (named.iter().product(), below.iter().product());
    let in_batch: usize = outer[batch..].iter().product();
    call.builder.reserve(outer)?;
    let rows = (places.chunks_exact(depth).enumerate())
        .map(|(i, index)| match position(index, named) {
            Some(position) => Ok(i / in_batch * each + position),
            None => Err(format!("index {index:?} is beyond {named:?}")),
        })
        .collect::<Result<Vec<usize>, _>>()?;
    let dims = [outer, below].concat();
    let all = shared.iter().product::<usize>() * each;
    let y = picked(call, x, [all, row], rows)?;
    Ok(vec![call.reshape(y, dims)?])
}

/// Rows of a tensor that has as many, of this length, as `shape` says.
fn picked(
    call: &mut Call<'_>,
    x: Item,
    shape: [usize; 2],
    indices: Vec<usize>,
) -> Result<Item, String> {
    let [rows, row] = shape;
    let x = call.reshape(x, vec![1, rows, row])?;
    let dims = vec![1, indices.len(), row];
    call.apply(Op::Gather { axis: 1, indices }, &[x], dims)
}

pub(super) fn scatter(call: &mut Call<'_>) -> Outputs {
    let reduction = call.string("reduction", "none")?;
    if reduction != "none" {
        return Err(format!("reduction {reduction} is not supported"));
    }
    let (data, indices, updates) = (call.input(0)?, call.constant(1)?, call.input(2)?);
    call.builder.reserve(data.dims())?;
    call.builder.reserve(updates.dims())?;
    let Data::Int(places) = &indices.data else {
        return Err(format!("indices are {}", indices.data.kind()));
    };
    // An index names the first `depth` axes; what lies below them is one row of updates.
    let (depth, outer) = match indices.dims.split_last() {
        Some((&depth, outer)) if (1..=data.dims().len()).contains(&depth) => (depth, outer),
        _ => {
            return Err(format!(
                "indices {:?} do not fit {:?}",
                indices.dims,
                data.dims()
            ));
        }
    };
    let (named, below) = data.dims().split_at(depth);
    if updates.dims() != [outer, below].concat() {
        return Err(format!(
            "updates {:?} do not fit indices {:?} into {:?}",
            updates.dims(),
            indices.dims,
            data.dims()
        ));
    }
    let row: usize = below.iter().product();
    let to = (places.chunks_exact(depth))
        .map(|index| match position(index, named) {
            Some(position) => Ok(position),
            None => Err(format!("index {index:?} is beyond {named:?}")),
        })
        .collect::<Result<Vec<usize>, _>>()?;
    let (Item::Constant(data), Item::Constant(updates)) = (&data, &updates) else {
        // Picked from the rows of both, one after the other; a row that is replaced twice is the last.
        let (rows, dims) = (named.iter().product::<usize>(), data.dims().to_vec());
        let mut from: Vec<usize> = (0..rows).collect();
        for (i, &to) in to.iter().enumerate() {
            from[to] = rows + i;
        }
        let all = rows + to.len();
        let parts = [
            call.reshape(data, vec![1, rows, row])?,
            call.reshape(updates, vec![1, to.len(), row])?,
        ];
        let both = call.apply(Op::Concat { axis: 1 }, &parts, vec![1, all, row])?;
        let y = picked(call, both, [all, row], from)?;
        return Ok(vec![call.reshape(y, dims)?]);
    };
    let starts: Vec<usize> = to.iter().map(|to| to * row).collect();
    let data = Constant {
        data: match (&data.data, &updates.data) {
            (Data::Float(data), Data::Float(updates)) => {
                Data::Float(replaced(data, &starts, row, updates))
            }
            (Data::Int(data), Data::Int(updates)) => {
                Data::Int(replaced(data, &starts, row, updates))
            }
            (Data::Bool(data), Data::Bool(updates)) => {
                Data::Bool(replaced(data, &starts, row, updates))
            }
            (data, updates) => {
                return Err(format!(
                    "{} updates of a {} tensor",
                    updates.kind(),
                    data.kind()
                ));
            }
        },
        dims: data.dims.clone(),
        kind: data.kind,
    };
    Ok(vec![Item::Constant(data)])
}

/// Where an index, negative ones counted from the end, lies in a tensor of shape `dims`.
fn position(index: &[i64], dims: &[usize]) -> Option<usize> {
    index.iter().zip(dims).try_fold(0, |at, (&i, &dim)| {
        let from_start = if i < 0 { i + dim as i64 } else { i };
        let i = usize::try_from(from_start).ok().filter(|&i| i < dim)?;
        Some(at * dim + i)
    })
}

/// `data` with rows of `updates` written from `starts` on, later ones over earlier ones.
fn replaced<T: Copy>(data: &[T], starts: &[usize], row: usize, updates: &[T]) -> Arc<[T]> {
    let mut data = data.to_vec();
    for (i, &start) in starts.iter().enumerate() {
        data[start..start + row].copy_from_slice(&updates[i * row..(i + 1) * row]);
    }
    data.into()
}

#[cfg(test)]
mod tests {
    use crate::classifier::onnx::tests::logits;
    use crate::classifier::onnx::write::*;

    /// `x + data`, with what `indices` name of data replaced by updates.
    fn model(indices: &[i64], shape: &[i64], updates: &[i64]) -> ModelWriter {
        let numbers: Vec<f32> = (1..=updates.iter().product())
            .map(|i| 100.0 * i as f32)
            .collect();
        ModelWriter::new(16, &[FREE, 1, 2, 3])
            .floats("data", &[2, 3], &[10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
            .ints("flat", indices)
            .ints("shape", shape)
            .node("Reshape", &["flat", "shape"], &["indices"], &[])
            .floats("updates", updates, &numbers)
            .node("ScatterND", &["data", "indices", "updates"], &["s"], &[])
            .node("Sub", &["x", "s"], &["d"], &[])
            .node("Sub", &["d", "x"], &["m"], &[])
            .node("Flatten", &["m"], &["y"], &[])
    }

    #[test]
    fn replaces_elements_and_rows() {
        let written = |model: ModelWriter| -> Vec<f64> {
            let logits = logits(&model.load().unwrap());
            logits.iter().map(|x| -x.round()).collect()
        };
        let elements = model(&[0, 1, -1, -1], &[2, 2], &[2]);
        assert_eq!(written(elements), [10.0, 100.0, 30.0, 40.0, 50.0, 200.0]);
        let rows = model(&[1, 1], &[2, 1], &[2, 3]);
        assert_eq!(written(rows), [10.0, 20.0, 30.0, 400.0, 500.0, 600.0]);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        for (indices, shape, updates, reason) in [
            (&[0, 3][..], &[1, 2][..], &[1][..], "index [0, 3] is beyond"),
            (&[i64::MIN, 0], &[1, 2], &[1], "is beyond"),
            (&[0, 0, 0], &[1, 3], &[1], "indices [1, 3] do not fit"),
            (&[0, 1], &[1, 2], &[2], "updates [2] do not fit"),
            (&[0, 1], &[2, 1], &[2], "updates [2] do not fit"),
        ] {
            let error = model(indices, shape, updates).load().unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
