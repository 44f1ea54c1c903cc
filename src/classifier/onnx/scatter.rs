//! ScatterND: what exporters write for `mask[1:3] = 5`, here on constants.

use std::sync::Arc;

use super::builder::{Call, Item, Outputs};
use super::tensor::{Constant, Data};

pub(super) fn scatter(call: &mut Call<'_>) -> Outputs {
    let reduction = call.string("reduction", "none")?;
    if reduction != "none" {
        return Err(format!("reduction {reduction} is not supported"));
    }
    let (data, indices, updates) = (call.constant(0)?, call.constant(1)?, call.constant(2)?);
    call.builder.reserve(&data.dims)?;
    call.builder.reserve(&updates.dims)?;
    let Data::Int(places) = &indices.data else {
        return Err(format!("indices are {}", indices.data.kind()));
    };
    // An index names the first `depth` axes; what lies below them is one row of updates.
    let (depth, outer) = match indices.dims.split_last() {
        Some((&depth, outer)) if (1..=data.dims.len()).contains(&depth) => (depth, outer),
        _ => {
            return Err(format!(
                "indices {:?} do not fit {:?}",
                indices.dims, data.dims
            ));
        }
    };
    let (named, below) = data.dims.split_at(depth);
    if updates.dims != [outer, below].concat() {
        return Err(format!(
            "updates {:?} do not fit indices {:?} into {:?}",
            updates.dims, indices.dims, data.dims
        ));
    }
    let row = below.iter().product();
    let starts = (places.chunks_exact(depth))
        .map(|index| match position(index, named) {
            Some(position) => Ok(position * row),
            None => Err(format!("index {index:?} is beyond {named:?}")),
        })
        .collect::<Result<Vec<usize>, _>>()?;
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
        dims: data.dims,
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
