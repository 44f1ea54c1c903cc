//! Folds batch normalization, and whatever else scales and shifts channels by constants, into the
//! layer before it, or into the linear layer after it.

use super::uses::Uses;
use crate::classifier::graph::{Binary, Graph, Node, Op, Value, ValueId};

/// Most channels that a single number is repeated for: more are no channels, and a small file could
/// ask for many.
const MAX_CHANNELS: usize = 1 << 16;

/// `x·scale + shift` along one axis of `x`.
struct Affine {
    x: ValueId,
    axis: usize,
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Affine {
    /// This one of what `inner` gives, along the same axis.
    fn of(self, inner: Affine) -> Affine {
        let both = self.scale.iter().zip(self.shift);
        let shift = both.zip(&inner.shift).map(|((s, t), u)| s * u + t);
        Affine {
            shift: shift.collect(),
            scale: self
                .scale
                .iter()
                .zip(inner.scale)
                .map(|(s, r)| s * r)
                .collect(),
            ..inner
        }
    }
}

/// Folds every scale and shift into the convolution, linear layer or scale and shift before it;
/// what cannot be folded and works on axis 1 becomes an [`Op::ScaleShift`].
pub(super) fn fold(graph: &mut Graph) {
    let uses = Uses::of(graph);
    for index in 0..graph.nodes.len() {
        let Some(affine) = affine(graph, &graph.nodes[index]) else {
            continue;
        };
        let before = uses.sole_producer(graph, affine.x).cloned();
        let folded = before.and_then(|before| {
            let folded = into_layer(graph, &before, &affine);
            // Of a chain of scales and shifts only the last's weights are kept: a small file could
            // ask for many copies.
            let replaced = folded.iter().flat_map(|_| &before.inputs[1..]);
            for id in replaced.filter(|id| id.0 >= uses.users.len()) {
                graph.values[id.0].data = Some([].into());
            }
            folded
        });
        if let Some(folded) = folded.or_else(|| on_its_own(graph, &affine)) {
            let node = &mut graph.nodes[index];
            node.op = folded.0;
            node.inputs = folded.1;
        }
    }
}

/// Folds every scale and shift that nothing but one linear layer reads into that layer: those of layer
/// normalization, mostly. `W·(s·x + t) + b = (W·s)·x + (W·t + b)`.
pub(super) fn fold_ahead(graph: &mut Graph) {
    let uses = Uses::of(graph);
    for index in 0..graph.nodes.len() {
        if let Some(inputs) = absorbed(graph, &uses, index) {
            graph.nodes[index].inputs = inputs;
        }
    }
}

/// The inputs of linear layer `index` with what scales and shifts its input in its weights and bias.
fn absorbed(graph: &mut Graph, uses: &Uses, index: usize) -> Option<Vec<ValueId>> {
    let node = graph.nodes[index].clone();
    if !matches!(node.op, Op::Gemm { .. }) {
        return None;
    }
    let mut whole: Option<Affine> = None;
    let mut x = node.inputs[0];
    while let Some(before) = uses.sole_producer(graph, x)
        && let Some(affine) = affine(graph, before)
        && affine.axis + 1 == graph.value(x).dims.len()
    {
        x = affine.x;
        whole = Some(match whole {
            None => affine,
            Some(after) => after.of(affine),
        });
    }
    let affine = whole?;
    let (weight, bias) = (node.inputs[1], node.inputs[2]);
    let rows = graph.constant(weight)?.chunks_exact(affine.scale.len());
    let (mut weights, mut biases) = (Vec::new(), Vec::new());
    for (row, &b) in rows.zip(graph.constant(bias)?) {
        let shifted = row.iter().zip(&affine.shift);
        biases.push(f64::from(b) + shifted.map(|(&w, t)| f64::from(w) * t).sum::<f64>());
        let scaled = row.iter().zip(&affine.scale);
        weights.extend(scaled.map(|(&w, s)| f64::from(w) * s));
    }
    let dims = graph.value(weight).dims.clone();
    let weight = constant(graph, &format!("{}/weight", node.name), dims, weights);
    let length = vec![biases.len()];
    let bias = constant(graph, &format!("{}/bias", node.name), length, biases);
    let mut inputs = node.inputs;
    inputs[..3].copy_from_slice(&[affine.x, weight, bias]);
    Some(inputs)
}

/// What a node scales and shifts, if it does.
fn affine(graph: &Graph, node: &Node) -> Option<Affine> {
    let wide = |id: ValueId| -> Option<Vec<f64>> {
        Some(graph.constant(id)?.iter().map(|&x| x.into()).collect())
    };
    match node.op {
        Op::ScaleShift { activation: None } => Some(Affine {
            x: node.inputs[0],
            axis: 1,
            scale: wide(node.inputs[1])?,
            shift: wide(node.inputs[2])?,
        }),
        Op::Binary(binary) => {
            let (a, b) = (node.inputs[0], node.inputs[1]);
            let (x, constant) = if graph.constant(b).is_some() {
                (a, b)
            } else {
                (b, a)
            };
            let values = wide(constant)?;
            let dims = &graph.value(x).dims;
            if *dims != graph.value(node.output).dims {
                return None;
            }
            let axis = channel_axis(&graph.value(constant).dims, dims)?;
            let channels = dims[axis];
            if values.len() < channels && channels > MAX_CHANNELS {
                return None;
            }
            let values: Vec<f64> = (0..channels).map(|c| values[c % values.len()]).collect();
            let all = |value: f64| vec![value; channels];
            let (scale, shift) = match (binary, x == a) {
                (Binary::Add, _) => (all(1.0), values),
                (Binary::Sub, true) => (all(1.0), values.iter().map(|v| -v).collect()),
                (Binary::Sub, false) => (all(-1.0), values),
                (Binary::Mul, _) => (values, all(0.0)),
                (Binary::Div, true) => (values.iter().map(|v| 1.0 / v).collect(), all(0.0)),
                _ => return None,
            };
            Some(Affine {
                x,
                axis,
                scale,
                shift,
            })
        }
        _ => None,
    }
}

/// The axis of `dims` along which a constant of shape `constant` varies; for a single number that of
/// the channels.
fn channel_axis(constant: &[usize], dims: &[usize]) -> Option<usize> {
    let new = dims.len().checked_sub(constant.len())?;
    let mut varying = (0..constant.len()).filter(|&axis| constant[axis] > 1);
    match (varying.next(), varying.next()) {
        (Some(axis), None) => Some(axis + new),
        // A linear layer's channels come last, a picture's second.
        (None, _) => match dims.len() {
            0 | 1 => None,
            4 => Some(1),
            rank => Some(rank - 1),
        },
        _ => None,
    }
}

/// The constant of `values`, narrowed, in place of another.
fn constant(graph: &mut Graph, name: &str, dims: Vec<usize>, values: Vec<f64>) -> ValueId {
    graph.add_value(Value {
        name: name.to_string(),
        dims,
        data: Some(values.into_iter().map(|x| x as f32).collect()),
    })
}

/// The layer with the affine part in its weights and bias.
fn into_layer(graph: &mut Graph, layer: &Node, affine: &Affine) -> Option<(Op, Vec<ValueId>)> {
    let channels_last = graph.value(affine.x).dims.len() - 1;
    let fits = match layer.op {
        Op::Conv(_) | Op::ScaleShift { .. } => affine.axis == 1,
        Op::Gemm { .. } => affine.axis == channels_last,
        _ => false,
    };
    // What is added or applied after the layer's own sum would have to be scaled too.
    if !fits || layer.inputs.len() != 3 || layer.op.activation().is_some() {
        return None;
    }
    let (weight, bias) = (layer.inputs[1], layer.inputs[2]);
    let channels = affine.scale.len();
    let old = graph.constant(weight)?;
    let each = old.len() / channels;
    let weights: Vec<f64> = (old.iter().enumerate())
        .map(|(i, &w)| f64::from(w) * affine.scale[i / each])
        .collect();
    let biases: Vec<f64> = (graph.constant(bias)?.iter().enumerate())
        .map(|(c, &b)| f64::from(b) * affine.scale[c] + affine.shift[c])
        .collect();
    let dims = graph.value(weight).dims.clone();
    let name = &layer.name;
    let weight = constant(graph, &format!("{name}/weight"), dims, weights);
    let bias = constant(graph, &format!("{name}/bias"), vec![channels], biases);
    Some((layer.op.clone(), vec![layer.inputs[0], weight, bias]))
}

/// A scale and shift with no layer to go into.
fn on_its_own(graph: &mut Graph, affine: &Affine) -> Option<(Op, Vec<ValueId>)> {
    if affine.axis != 1 {
        return None;
    }
    let channels = vec![affine.scale.len()];
    let name = format!("{}/scaled", graph.value(affine.x).name);
    let scale = constant(graph, &name, channels.clone(), affine.scale.clone());
    let shift = constant(graph, &name, channels, affine.shift.clone());
    let op = Op::ScaleShift { activation: None };
    Some((op, vec![affine.x, scale, shift]))
}
