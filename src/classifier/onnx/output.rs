//! The choice among a model's outputs, and what is made of it: a row of logits.

use std::collections::HashSet;

use super::body::{Known, Names};
use super::builder::{Builder, Item};
use super::proto::{self, DataType};
use super::shortened;
use crate::classifier::function::Function;
use crate::classifier::graph::{Op, PadMode, ValueId};
use crate::error::Message;

/// An output that may be the logits.
#[derive(Clone, Copy)]
struct Row<'a> {
    name: &'a str,
    id: ValueId,
    /// Whether it is that without a change of shape.
    flat: bool,
}

/// Settles on an output, `wanted` if that is given, and makes it the graph's.
///
/// # Errors
/// None is a row of logits, several may be, or it hangs on nodes that were refused.
pub(super) fn choose(
    graph: &proto::Graph,
    wanted: Option<&str>,
    names: &Names<'_>,
    builder: &mut Builder,
    refused: &[String],
) -> Result<(), Message> {
    let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted == name);
    if let Some(wanted) = wanted
        && !graph.output.iter().any(|output| output.name == wanted)
    {
        let all = quoted(graph.output.iter().map(|output| output.name.as_str()));
        return Err(format!("has no output \"{wanted}\" (it has: {all})").into());
    }
    let (mut rows, mut others) = (Vec::new(), Vec::new());
    let mut unknown = false;
    for output in graph.output.iter().filter(|output| is_wanted(&output.name)) {
        let name = output.name.as_str();
        let known =
            (names.get(name)).ok_or_else(|| format!("output \"{name}\" is defined by nothing"))?;
        match known {
            Known::Item(Item::Value { id, dims })
                if matches!(dims[..], [1, _] | [1, _, 1, 1] | [1]) =>
            {
                let (id, flat) = (*id, dims.len() == 2);
                rows.push(Row { name, id, flat });
            }
            Known::Item(item) => others.push(format!("\"{name}\" {:?}", item.dims())),
            Known::Refused | Known::Absent => unknown |= wanted.is_some() || may_be_logits(output),
        }
    }
    if rows.iter().any(|row| row.flat) {
        rows.retain(|row| row.flat);
    }
    let named = |name: &str| rows.iter().find(|row| row.name.eq_ignore_ascii_case(name));
    let chosen = match named("logits").or_else(|| named("output")) {
        Some(&row) => row,
        None if unknown => {
            let message = Message::from(format!(
                "{} node{} cannot be run: {}",
                refused.len(),
                if refused.len() == 1 { "" } else { "s" },
                refused.join("; ")
            ));
            return Err(match rows.is_empty() {
                true => message,
                false => message.hint(format!(
                    "or choose another output with `output_name` ({})",
                    quoted(rows.iter().map(|row| row.name))
                )),
            });
        }
        None => match ends(&rows, builder)[..] {
            [row] => row,
            [] => {
                return Err(format!(
                    "has no output of one row of logits an image that depends on the image (it has: {})",
                    others.join(", ")
                ).into());
            }
            ref several => {
                let message = format!(
                    "has several outputs that may be the logits ({})",
                    quoted(several.iter().map(|row| row.name))
                );
                return Err(Message::from(message).hint("choose one with `output_name`"));
            }
        },
    };
    builder.graph.source.output = chosen.name.to_string();
    builder.graph.output = chosen.id;
    logits(builder).map_err(|reason| format!("output \"{}\" {reason}", chosen.name).into())
}

/// Names for a message.
fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names
        .map(|name| format!("\"{}\"", shortened(name, 100)))
        .collect();
    names.join(", ")
}

/// The rows that no other row is made of; of a row and its probabilities, the row.
fn ends<'a>(rows: &[Row<'a>], builder: &Builder) -> Vec<Row<'a>> {
    let (nodes, values) = (&builder.graph.nodes, builder.graph.values.len());
    let among = |rows: &[Row<'_>]| {
        let mut is = vec![false; values];
        rows.iter().for_each(|row| is[row.id.0] = true);
        is
    };
    // Probabilities of rows that are outputs too.
    let (all, mut probabilities) = (among(rows), vec![false; values]);
    for node in nodes {
        let input = node.inputs[0].0;
        probabilities[node.output.0] = match node.op {
            Op::Softmax { .. } | Op::LogSoftmax { .. } | Op::Map(Function::Sigmoid) => all[input],
            Op::Reshape => probabilities[input],
            _ => false,
        };
    }
    let mut rows: Vec<Row<'a>> = (rows.iter().copied())
        .filter(|row| !probabilities[row.id.0])
        .collect();
    let (is, mut leads) = (among(&rows), vec![false; values]);
    for node in nodes.iter().rev() {
        if is[node.output.0] || leads[node.output.0] {
            node.inputs.iter().for_each(|input| leads[input.0] = true);
        }
    }
    rows.retain(|row| !leads[row.id.0]);
    // One value under several names is one row.
    let mut seen = HashSet::new();
    rows.retain(|row| seen.insert(row.id));
    rows
}

/// Makes two logits of one, and a row of what has another shape.
fn logits(builder: &mut Builder) -> Result<(), String> {
    let id = builder.graph.output;
    let dims = builder.graph.value(id).dims.clone();
    let classes = dims.iter().product();
    let mut row = Item::Value { id, dims };
    match builder.graph.last().map(|node| (&node.op, node.inputs[0])) {
        Some((Op::Map(Function::Sigmoid), id)) if classes == 1 => {
            let dims = builder.graph.value(id).dims.clone();
            row = Item::Value { id, dims };
        }
        Some((Op::Map(Function::Sigmoid), _)) => {
            return Err(format!(
                "is a sigmoid of each of {classes} classes: several may be true of one picture, and the \
                 defense is for classifiers whose classes exclude each other"
            ));
        }
        Some((Op::Softmax { .. } | Op::LogSoftmax { .. }, _)) if classes == 1 => {
            return Err("is a softmax over one class, which is 1 for every picture".into());
        }
        _ => {}
    }
    if row.dims().len() != 2 {
        row = builder.apply("logits/row", Op::Reshape, &[row], vec![1, classes])?;
    }
    if classes == 1 {
        builder.graph.source.binary = true;
        // Padding leaves the zero a zero where the logit is infinite.
        let op = Op::Pad {
            before: vec![0, 1],
            mode: PadMode::Constant(0.0),
        };
        row = builder.apply("logits/binary", op, &[row], vec![1, 2])?;
    }
    if let Item::Value { id, .. } = row {
        builder.graph.output = id;
    }
    Ok(())
}

/// Whether an output's declaration allows it to be the logits.
fn may_be_logits(output: &proto::ValueInfo) -> bool {
    let Some(tensor) = (output.kind.as_ref()).and_then(|kind| kind.tensor.as_ref()) else {
        return true;
    };
    let float = matches!(
        tensor.element(),
        DataType::Undefined | DataType::Float | DataType::Float16 | DataType::Double
    );
    let rank = tensor.shape.as_ref().map(|shape| shape.dim.len());
    float && matches!(rank, None | Some(1 | 2 | 4))
}
