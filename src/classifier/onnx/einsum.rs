//! Einsum of two operands as a batched matrix product, which is what exporters use it for.

use super::builder::{Call, Item, Outputs};
use crate::classifier::graph::Op;

/// The labels of an operand's axes, each once.
fn labels(text: &str) -> Result<Vec<char>, String> {
    let labels: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let distinct = (labels.iter().enumerate()).all(|(i, label)| !labels[..i].contains(label));
    match distinct && labels.iter().all(char::is_ascii_alphabetic) {
        true => Ok(labels),
        false => Err(format!("equation part \"{text}\" is not supported")),
    }
}

/// `x`, whose axes are labelled `from`, with its axes in the order `to`.
fn ordered(call: &mut Call<'_>, x: Item, from: &[char], to: &[char]) -> Result<Item, String> {
    let place = |label| from.iter().position(|other| other == label);
    let perm: Option<Vec<usize>> = to.iter().map(place).collect();
    let perm = perm
        .filter(|perm| perm.len() == from.len())
        .ok_or("an axis of only one operand is summed, which is not supported")?;
    let dims = perm.iter().map(|&axis| x.dims()[axis]).collect();
    call.apply(Op::Transpose { perm }, &[x], dims)
}

pub fn einsum(call: &mut Call<'_>) -> Outputs {
    let equation = call.string("equation", "")?;
    let (operands, output) = equation
        .split_once("->")
        .ok_or("an equation without an output is not supported")?;
    let (left, right) = match operands.split(',').collect::<Vec<_>>()[..] {
        [left, right] if call.count() == 2 => (labels(left)?, labels(right)?),
        _ => return Err("only two operands are supported".into()),
    };
    let output = labels(output)?;
    let (a, b) = (call.input(0)?, call.input(1)?);
    if a.dims().len() != left.len() || b.dims().len() != right.len() {
        return Err(format!(
            "equation {equation} does not fit {:?} and {:?}",
            a.dims(),
            b.dims()
        ));
    }
    let select = |from: &[char], in_other: bool, other: &[char], in_output: bool| -> Vec<char> {
        (from.iter().copied())
            .filter(|label| other.contains(label) == in_other)
            .filter(|label| output.contains(label) == in_output)
            .collect()
    };
    let batch = select(&left, true, &right, true);
    let summed = select(&left, true, &right, false);
    let rows = select(&left, false, &right, true);
    let columns = select(&right, false, &left, true);
    let size = |of: &[char]| -> Result<Vec<usize>, String> {
        of.iter()
            .map(|label| {
                let at = |labels: &[char], item: &Item| {
                    let axis = labels.iter().position(|other| other == label)?;
                    Some(item.dims()[axis])
                };
                match (at(&left, &a), at(&right, &b)) {
                    (Some(n), Some(m)) if n != m => {
                        Err(format!("axis {label} is {n} and {m} long"))
                    }
                    (Some(n), _) | (None, Some(n)) => Ok(n),
                    (None, None) => Err(format!("nothing has axis {label}")),
                }
            })
            .collect()
    };
    let (batch_dims, row_dims, column_dims) = (size(&batch)?, size(&rows)?, size(&columns)?);
    let (m, k, n): (usize, usize, usize) = (
        row_dims.iter().product(),
        size(&summed)?.iter().product(),
        column_dims.iter().product(),
    );
    size(&output)?;
    let a = ordered(call, a, &left, &[&batch[..], &rows, &summed].concat())?;
    let a = call.reshape(a, [&batch_dims[..], &[m, k]].concat())?;
    let b = ordered(call, b, &right, &[&batch[..], &summed, &columns].concat())?;
    let b = call.reshape(b, [&batch_dims[..], &[k, n]].concat())?;
    let product = call.apply(Op::MatMul, &[a, b], [&batch_dims[..], &[m, n]].concat())?;
    let apart = [&batch_dims[..], &row_dims, &column_dims].concat();
    let product = call.reshape(product, apart)?;
    let order = [batch, rows, columns].concat();
    Ok(vec![ordered(call, product, &order, &output)?])
}
