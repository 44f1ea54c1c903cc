//! From a graph to steps over buffers: which layout each value lies in, and what computes it.
//!
//! Convolutions and pools work on channel-blocked pictures, products and softmax on row-major tensors;
//! everything else follows the layout its input already has. A value that is wanted in the other
//! layout too gets a step that makes it, once.

use std::sync::Arc;

use super::broadcast::Unit;
use super::conv;
use super::elementwise::{Map, Pair, Side};
use super::layout::{Layout, Picture, in_layout, lanes, repeated};
use super::matmul::{Gemm, MatMul};
use super::moves::{Concat, Fill, Moves, Relayout};
use super::normalize::Normalize;
use super::operation::Operation;
use super::pool::{self, Pool};
use super::reduce::Reduce;
use super::scale_shift::ScaleShift;
use super::softmax::Softmax;
use crate::backend::cpu::simd::LANES;
use crate::backend::liveness::{self, BufferId, Outline};
use crate::classifier::layout::tables;
use crate::classifier::{Conv, Function, Graph, Node, Op, PadMode, Pads, ValueId, Window};
use crate::error::{Error, Result};

/// One operation on buffers.
pub(super) struct ClassifierStep {
    pub operation: Box<dyn Operation>,
    pub inputs: Vec<BufferId>,
    pub output: BufferId,
    /// What the operation ends with.
    pub activation: Option<Function>,
}

/// A graph as steps.
pub(super) struct ClassifierPlan {
    pub steps: Vec<ClassifierStep>,
    /// Groups of lanes of every buffer.
    pub buffers: Vec<usize>,
    /// The image and the logits, row-major.
    pub input: BufferId,
    pub output: BufferId,
}

impl ClassifierPlan {
    /// Plans `graph`.
    ///
    /// # Errors
    /// Shapes beyond what can be addressed; the message names the node.
    pub(super) fn new(graph: &Graph) -> Result<ClassifierPlan> {
        let mut planner = Planner {
            graph,
            steps: Vec::new(),
            buffers: Vec::new(),
            places: vec![[None; 2]; graph.values.len()],
        };
        let input = planner.buffer(lanes(
            "the image",
            &graph.value(graph.input).dims,
            Layout::Rows,
        )?);
        planner.set(graph.input, Layout::Rows, input);
        for node in &graph.nodes {
            planner.node(node).map_err(|error| {
                Error::invalid(format!("{} ({}): {error}", node.name, node.op.name()))
            })?;
        }
        let output = planner.get(graph.output, Layout::Rows)?;
        Ok(ClassifierPlan {
            steps: planner.steps,
            buffers: planner.buffers,
            input,
            output,
        })
    }
}

impl ClassifierPlan {
    /// What a schedule is made of.
    pub(super) fn outline(&self) -> Outline<'_> {
        let steps = self.steps.iter().map(|step| liveness::LiveStep {
            inputs: &step.inputs,
            output: step.output,
            activation: step.activation,
            reads: step.operation.reads(),
            scratch: step.operation.scratch(),
            backward_scratch: step.operation.backward_scratch(),
        });
        Outline {
            steps: steps.collect(),
            buffers: &self.buffers,
            input: self.input,
            output: self.output,
        }
    }
}

/// An operation, and the values it takes in its layout.
struct Planned {
    operation: Box<dyn Operation>,
    inputs: Vec<ValueId>,
}

impl Planned {
    fn new(operation: impl Operation + 'static, inputs: &[ValueId]) -> Option<Planned> {
        Some(Planned {
            operation: Box::new(operation),
            inputs: inputs.to_vec(),
        })
    }
}

struct Planner<'a> {
    graph: &'a Graph,
    steps: Vec<ClassifierStep>,
    buffers: Vec<usize>,
    /// Of each value, its buffers: row-major and blocked.
    places: Vec<[Option<BufferId>; 2]>,
}

impl Planner<'_> {
    fn buffer(&mut self, len: usize) -> BufferId {
        self.buffers.push(len);
        self.buffers.len() - 1
    }

    fn dims(&self, id: ValueId) -> &[usize] {
        &self.graph.value(id).dims
    }

    fn place(&self, id: ValueId, layout: Layout) -> Option<BufferId> {
        self.places[id.0][layout as usize]
    }

    /// Notes where a value lies: in both layouts, where they are the same.
    fn set(&mut self, id: ValueId, layout: Layout, buffer: BufferId) {
        self.places[id.0][layout as usize] = Some(buffer);
        if Picture::of(self.dims(id)).is_some_and(|picture| picture.is_vector()) {
            self.places[id.0] = [Some(buffer); 2];
        }
    }

    /// A value's buffer in a layout, with a step that makes it if there is none yet.
    fn get(&mut self, id: ValueId, layout: Layout) -> Result<BufferId> {
        if let Some(buffer) = self.place(id, layout) {
            return Ok(buffer);
        }
        let value = self.graph.value(id);
        let len = lanes(&value.name, &value.dims, layout)?;
        let (operation, inputs): (Box<dyn Operation>, _) = if let Some(data) = &value.data {
            (Box::new(Fill(in_layout(value, data, layout)?)), Vec::new())
        } else {
            let other = match layout {
                Layout::Rows => Layout::Blocked,
                Layout::Blocked => Layout::Rows,
            };
            let (Some(from), Some(picture)) = (self.place(id, other), Picture::of(&value.dims))
            else {
                return Err(Error::invalid(format!(
                    "{} is used before it is computed",
                    value.name
                )));
            };
            let relayout = Relayout {
                to_blocked: layout == Layout::Blocked,
                images: picture.images,
                channels: picture.channels,
                plane: picture.plane(),
            };
            (Box::new(relayout), vec![from])
        };
        let output = self.buffer(len);
        self.steps.push(ClassifierStep {
            operation,
            inputs,
            output,
            activation: None,
        });
        self.set(id, layout, output);
        Ok(output)
    }

    /// Plans one node.
    fn node(&mut self, node: &Node) -> Result<()> {
        if node.op == Op::Reshape {
            let buffer = self.get(node.inputs[0], Layout::Rows)?;
            self.set(node.output, Layout::Rows, buffer);
            return Ok(());
        }
        if self.patches(node)? {
            return Ok(());
        }
        let only_blocked = |&id: &ValueId| {
            self.place(id, Layout::Blocked).is_some() && self.place(id, Layout::Rows).is_none()
        };
        let order = if node.inputs.iter().any(only_blocked) {
            [Layout::Blocked, Layout::Rows]
        } else {
            [Layout::Rows, Layout::Blocked]
        };
        for layout in order {
            let Some(planned) = self.operation(node, layout)? else {
                continue;
            };
            let inputs = (planned.inputs.iter())
                .map(|&id| self.get(id, layout))
                .collect::<Result<_>>()?;
            return self.push(node, planned.operation, inputs, layout);
        }
        Err(Error::invalid(
            "the cpu backend cannot compute it with these shapes",
        ))
    }

    /// Plans a convolution of patches; whether it is one.
    fn patches(&mut self, node: &Node) -> Result<bool> {
        let output = self.graph.value(node.output);
        let x = node.inputs[0];
        let (Op::Conv(conv), Some(picture), &[_, _, height, width]) =
            (&node.op, Picture::of(self.dims(x)), &output.dims[..])
        else {
            return Ok(false);
        };
        let Some((conv, channels, moves)) = patches(conv, picture, [height, width]) else {
            return Ok(false);
        };
        let planned = self.convolution(node, &conv, channels)?;
        let image = self.get(x, Layout::Rows)?;
        let rearranged = self.buffer(lanes(
            output.name.as_str(),
            &channels.dims(),
            Layout::Blocked,
        )?);
        self.steps.push(ClassifierStep {
            operation: Box::new(moves),
            inputs: vec![image],
            output: rearranged,
            activation: None,
        });
        let mut inputs = vec![rearranged];
        for &residual in &planned.inputs[1..] {
            inputs.push(self.get(residual, Layout::Blocked)?);
        }
        self.push(node, planned.operation, inputs, Layout::Blocked)?;
        Ok(true)
    }

    /// A convolution of pictures of these sizes, with the node's weights.
    fn convolution(&self, node: &Node, conv: &Conv, picture: Picture) -> Result<Planned> {
        let (weight, bias) = (self.constant(node, 1)?, self.constant(node, 2)?);
        let inputs = [&node.inputs[..1], &node.inputs[3..]].concat();
        let residual = inputs.len() > 1;
        let Picture {
            images,
            channels,
            size,
        } = picture;
        let operation = conv::Conv::new(conv, images, channels, size, weight, bias, residual)?;
        Ok(Planned {
            operation: Box::new(operation),
            inputs,
        })
    }

    /// Input `i` of a node, which must be a constant.
    fn constant(&self, node: &Node, i: usize) -> Result<&[f32]> {
        self.graph.constant(node.inputs[i]).ok_or_else(|| {
            Error::invalid(format!("input {i} is computed where a constant is needed"))
        })
    }

    /// Adds the step that computes a node's output in a layout.
    fn push(
        &mut self,
        node: &Node,
        operation: Box<dyn Operation>,
        inputs: Vec<BufferId>,
        layout: Layout,
    ) -> Result<()> {
        let value = self.graph.value(node.output);
        let output = self.buffer(lanes(&value.name, &value.dims, layout)?);
        self.steps.push(ClassifierStep {
            operation,
            inputs,
            output,
            activation: node.op.activation(),
        });
        let layout = match value.dims.len() {
            4 => layout,
            _ => Layout::Rows,
        };
        self.set(node.output, layout, output);
        Ok(())
    }

    /// What computes a node in a layout; `None` where it cannot be computed there.
    fn operation(&self, node: &Node, layout: Layout) -> Result<Option<Planned>> {
        let x = node.inputs[0];
        let (dims, output) = (self.dims(x), self.dims(node.output));
        let blocked = layout == Layout::Blocked;
        let picture = Picture::of(dims);
        if blocked && picture.is_none() && !matches!(node.op, Op::Binary(_)) {
            return Ok(None);
        }
        Ok(match (&node.op, picture) {
            (Op::Conv(conv), Some(picture)) if blocked => {
                Some(self.convolution(node, conv, picture)?)
            }
            (Op::MaxPool(pool), Some(picture)) if blocked => {
                let size = [output[2], output[3]];
                Planned::new(
                    Pool::new(pool::PoolKind::Max, pool, picture.size, size),
                    &[x],
                )
            }
            (Op::AveragePool(pool), Some(picture)) if blocked => {
                let size = [output[2], output[3]];
                Planned::new(
                    Pool::new(pool::PoolKind::Average, pool, picture.size, size),
                    &[x],
                )
            }
            (Op::Gemm { .. }, _) if !blocked => {
                let (weight, bias) = (self.constant(node, 1)?, self.constant(node, 2)?);
                let inputs = [&node.inputs[..1], &node.inputs[3..]].concat();
                let residual = inputs.len() > 1;
                let wide = dims[dims.len() - 1];
                let rows = dims[..dims.len() - 1].iter().product();
                Planned::new(Gemm::new(rows, wide, weight, bias, residual), &inputs)
            }
            (Op::MatMul, _) if !blocked => {
                let other = self.dims(node.inputs[1]);
                Planned::new(MatMul::new(dims, other, output), &node.inputs)
            }
            (Op::ScaleShift { .. }, _) => Planned::new(
                ScaleShift::new(
                    self.constant(node, 1)?,
                    self.constant(node, 2)?,
                    dims,
                    blocked,
                ),
                &[x],
            ),
            (Op::Map(function), _) => Planned::new(Map(*function), &[x]),
            (Op::Binary(binary), _) => {
                let Some((sides, shapes, output)) = self.sides(node, layout)? else {
                    return Ok(None);
                };
                let unit = if blocked { Unit::Group } else { Unit::Number };
                let shapes = [&shapes[0][..], &shapes[1]];
                let computed: Vec<ValueId> = (node.inputs.iter().copied())
                    .filter(|&id| self.graph.constant(id).is_none())
                    .collect();
                Planned::new(Pair::new(*binary, sides, unit, shapes, &output), &computed)
            }
            (Op::Reduce { kind, axes }, _) if !blocked => {
                Planned::new(Reduce::new(*kind, axes, dims, Unit::Number), &[x])
            }
            (Op::Reduce { kind, axes }, Some(picture)) => {
                let vector = Picture {
                    size: [1, 1],
                    ..picture
                };
                let whole = axes[..] == [2, 3] && vector.is_vector();
                let spatial = axes.iter().all(|&axis| axis >= 2);
                if !spatial || (output.len() != 4 && !whole) {
                    return Ok(None);
                }
                let dims = picture.in_groups();
                Planned::new(Reduce::new(*kind, axes, &dims, Unit::Group), &[x])
            }
            (Op::Normalize { axis, epsilon }, _) if !blocked => {
                Planned::new(Normalize::new(*axis, *epsilon, dims), &[x])
            }
            (Op::Softmax { axis }, _) if !blocked => {
                Planned::new(Softmax::new(false, *axis, dims), &[x])
            }
            (Op::LogSoftmax { axis }, _) if !blocked => {
                Planned::new(Softmax::new(true, *axis, dims), &[x])
            }
            (Op::Concat { axis }, _) => self.concat(node, *axis, blocked),
            (
                Op::Transpose { .. }
                | Op::Slice { .. }
                | Op::Pad { .. }
                | Op::Expand
                | Op::Gather { .. },
                _,
            ) => moves(&node.op, dims, output, blocked).and_then(|moves| Planned::new(moves, &[x])),
            _ => None,
        })
    }

    /// A two-sided operation's operands, their shapes and the output's, in units of the layout.
    #[allow(clippy::type_complexity)]
    fn sides(
        &self,
        node: &Node,
        layout: Layout,
    ) -> Result<Option<([Side; 2], [Vec<usize>; 2], Vec<usize>)>> {
        let output = self.dims(node.output);
        let picture = Picture::of(output);
        let mut inputs = 0;
        let mut side = |id: ValueId| -> Result<Option<(Side, Vec<usize>)>> {
            let value = self.graph.value(id);
            let mut dims = value.dims.clone();
            if let (Layout::Blocked, Some(picture)) = (layout, picture) {
                // NumPy's rule: new axes come first.
                while dims.len() < 4 {
                    dims.insert(0, 1);
                }
                let Some(own) = Picture::of(&dims) else {
                    return Ok(None);
                };
                // One channel for many: only a constant can be repeated beforehand.
                let repeated = own.channels == 1 && picture.channels > 1;
                if value.data.is_none() && (repeated || value.dims.len() != 4) {
                    return Ok(None);
                }
                dims = own.in_groups().to_vec();
            }
            let side = match &value.data {
                Some(data) => Side::Constant(Arc::from(match (layout, picture) {
                    (Layout::Blocked, Some(picture)) => repeated(value, data, picture.channels)?,
                    _ => in_layout(value, data, Layout::Rows)?,
                })),
                None => {
                    inputs += 1;
                    Side::Input(inputs - 1)
                }
            };
            Ok(Some((side, dims)))
        };
        if layout == Layout::Blocked && picture.is_none() {
            return Ok(None);
        }
        let (Some((left, a)), Some((right, b))) = (side(node.inputs[0])?, side(node.inputs[1])?)
        else {
            return Ok(None);
        };
        let output = match (layout, picture) {
            (Layout::Blocked, Some(picture)) => picture.in_groups().to_vec(),
            _ => output.to_vec(),
        };
        Ok(Some(([left, right], [a, b], output)))
    }

    fn concat(&self, node: &Node, axis: usize, blocked: bool) -> Option<Planned> {
        let mut rows = Vec::new();
        let mut outer = 1;
        for (i, &id) in node.inputs.iter().enumerate() {
            let mut dims = self.dims(id).to_vec();
            let mut unit = 1;
            if blocked {
                let picture = Picture::of(&dims)?;
                let last = i + 1 == node.inputs.len();
                if axis == 1 && !last && !picture.channels.is_multiple_of(LANES) {
                    return None;
                }
                dims = picture.in_groups().to_vec();
                unit = LANES;
            }
            outer = dims[..axis].iter().product();
            rows.push(dims[axis..].iter().product::<usize>() * unit);
        }
        Planned::new(Concat::new(rows, outer), &node.inputs)
    }
}

/// An operation that only moves elements; blocked, where whole groups of channels stay together.
fn moves(op: &Op, input: &[usize], output: &[usize], blocked: bool) -> Option<Moves> {
    let padding = match op {
        Op::Pad {
            mode: PadMode::Constant(value),
            ..
        } => *value,
        _ => 0.0,
    };
    let distinct = match op {
        Op::Transpose { .. } | Op::Slice { .. } => true,
        Op::Pad { mode, .. } => matches!(mode, PadMode::Constant(_)),
        _ => false,
    };
    if !blocked {
        let tables = tables(op, input, output)?;
        return Some(Moves::new(Unit::Number, tables, padding, distinct));
    }
    let (from, to) = (Picture::of(input)?, Picture::of(output)?);
    let mut op = op.clone();
    let stays = from.channels == to.channels;
    let whole = match &mut op {
        Op::Transpose { perm } => perm[1] == 1,
        Op::Slice { starts, steps } => {
            let end = starts[1] + to.channels;
            let cut = steps[1] == 1
                && starts[1].is_multiple_of(LANES)
                && (to.channels.is_multiple_of(LANES) || end == from.channels);
            if cut {
                starts[1] /= LANES;
            }
            cut
        }
        Op::Pad { before, .. } => before[1] == 0 && stays,
        Op::Expand => stays,
        Op::Gather { axis, indices } => {
            *axis != 1 && stays && to.in_groups()[*axis] == indices.len()
        }
        _ => false,
    };
    if !whole {
        return None;
    }
    let tables = tables(&op, &from.in_groups(), &to.in_groups())?;
    Some(Moves::new(Unit::Group, tables, padding, distinct))
}

/// A convolution of patches that do not overlap, as vision transformers begin with, whose channels do
/// not fill the lanes but whose pixels do: a 1×1 convolution of pictures with a channel for each pixel of a patch, and what
/// rearranges the row-major picture so, channel-blocked.
fn patches(conv: &Conv, picture: Picture, output: [usize; 2]) -> Option<(Conv, Picture, Moves)> {
    let [down, across] = conv.window.kernel;
    let one = Window {
        kernel: [1, 1],
        strides: [1, 1],
        dilations: [1, 1],
        pads: Pads::default(),
    };
    let apart = Window {
        kernel: [down, across],
        strides: [down, across],
        ..one
    };
    // Sixteen pixels of a patch are whole rows, or lie within one.
    let fills = LANES.is_multiple_of(across) && (down * across).is_multiple_of(LANES)
        || across.is_multiple_of(LANES);
    if conv.window != apart || conv.group != 1 || picture.channels >= LANES || !fills {
        return None;
    }
    let [height, width] = picture.size;
    let plane = height * width;
    let table = |len: usize, step: usize| (0..len).map(|i| i * step).collect::<Vec<_>>();
    let pixel = |i: usize| i / across * width + i % across;
    let tables = vec![
        table(picture.images, picture.channels * plane),
        table(picture.channels, plane),
        (0..down * across).step_by(LANES).map(pixel).collect(),
        table(output[0], down * width),
        table(output[1], across),
        (0..LANES).map(pixel).collect(),
    ];
    let pointwise = Conv {
        window: one,
        ..conv.clone()
    };
    let channels = Picture {
        channels: picture.channels * down * across,
        size: output,
        ..picture
    };
    Some((
        pointwise,
        channels,
        Moves::new(Unit::Number, tables, 0.0, true),
    ))
}
