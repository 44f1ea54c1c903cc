//! From a graph to steps over buffers.
//!
//! A value is a buffer; what a reshape makes is the buffer it reshapes. Consecutive elementwise nodes are
//! one step, where nobody else wants what lies between them.

use super::super::backend::to_u32;
use super::super::driver::Device;
use super::concat::Concat;
use super::conv;
use super::elementwise::{Elementwise, LINKS, Tensor};
use super::gemm::Gemm;
use super::matmul::MatMul;
use super::moves::Moves;
use super::normalize::Normalize;
use super::operation::Operation;
use super::pool::{self, Pool};
use super::reduce::Reduce;
use super::softmax::Softmax;
use crate::backend::liveness::{self, BufferId, Outline};
use crate::classifier::{Function, Graph, Node, Op, ValueId};
use crate::error::{Error, Result};

/// Numbers that buffers are filled up to: 128 bytes, a line of the device's cache.
const ALIGNMENT: usize = 32;

/// One operation on buffers.
pub(super) struct ClassifierStep {
    pub operation: Box<dyn Operation>,
    pub inputs: Vec<BufferId>,
    pub output: BufferId,
    /// Numbers of the output, for each image.
    pub elements: usize,
    /// What the operation ends with.
    pub activation: Option<Function>,
}

/// A graph as steps.
pub(super) struct ClassifierPlan {
    pub steps: Vec<ClassifierStep>,
    /// Numbers of every buffer, for each image.
    pub buffers: Vec<usize>,
    /// The image and the logits.
    pub input: BufferId,
    pub output: BufferId,
}

impl ClassifierPlan {
    /// Plans `graph`, its constants on `device`.
    ///
    /// # Errors
    /// Shapes beyond what the kernels can address, or no memory for the constants; the message names the
    /// node.
    pub(super) fn new(device: &Device, graph: &Graph) -> Result<ClassifierPlan> {
        let mut planner = Planner {
            device,
            graph,
            steps: Vec::new(),
            buffers: Vec::new(),
            places: vec![None; graph.values.len()],
        };
        let input = planner.buffer(graph.value(graph.input).elements())?;
        planner.places[graph.input.0] = Some(input);
        let chains = chains(graph);
        for (i, node) in graph.nodes.iter().enumerate() {
            planner.node(&chains, i).map_err(|error| {
                Error::invalid(format!("{} ({}): {error}", node.name, node.op.name()))
            })?;
        }
        let output = planner.computed(graph.output)?;
        Ok(ClassifierPlan {
            steps: planner.steps,
            buffers: planner.buffers,
            input,
            output,
        })
    }

    /// What a schedule is made of.
    pub(super) fn outline(&self) -> Outline<'_> {
        let steps = self.steps.iter().map(|step| liveness::LiveStep {
            inputs: &step.inputs,
            output: step.output,
            activation: step.activation,
            reads: step.operation.reads(),
            scratch: 0,
            backward_scratch: step
                .operation
                .backward_scratch()
                .next_multiple_of(ALIGNMENT),
        });
        Outline {
            steps: steps.collect(),
            buffers: &self.buffers,
            input: self.input,
            output: self.output,
        }
    }
}

/// Where a node stands in a chain of elementwise ones.
#[derive(Clone, Copy, Default)]
struct Link {
    /// The node whose output it goes on from.
    previous: Option<usize>,
    /// Whether another node goes on from its own output.
    continued: bool,
    /// Nodes up to this one.
    length: usize,
}

/// The chains of a graph: each node goes on from an elementwise one whose output has the node's own shape
/// and is wanted by nobody else; of two, from the longer chain.
fn chains(graph: &Graph) -> Vec<Link> {
    let mut wanted = vec![0; graph.values.len()];
    wanted[graph.output.0] += 1;
    let mut made_by = vec![None; graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        made_by[node.output.0] = Some(i);
        for input in &node.inputs {
            wanted[input.0] += 1;
        }
    }
    let mut links = vec![Link::default(); graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        if !matches!(node.op, Op::Map(_) | Op::ScaleShift { .. } | Op::Binary(_)) {
            continue;
        }
        let elements = graph.value(node.output).elements();
        let previous = (node.inputs.iter())
            .filter(|id| wanted[id.0] == 1 && graph.value(**id).elements() == elements)
            .filter_map(|id| made_by[id.0])
            .filter(|&made_by| (1..LINKS).contains(&links[made_by].length))
            .max_by_key(|&made_by| (links[made_by].length, made_by));
        if let Some(previous) = previous {
            links[previous].continued = true;
        }
        links[i].previous = previous;
        links[i].length = 1 + previous.map_or(0, |previous| links[previous].length);
    }
    links
}

struct Planner<'a> {
    device: &'a Device,
    graph: &'a Graph,
    steps: Vec<ClassifierStep>,
    buffers: Vec<usize>,
    /// Of each value, its buffer.
    places: Vec<Option<BufferId>>,
}

impl Planner<'_> {
    /// A buffer of so many numbers for each image.
    fn buffer(&mut self, elements: usize) -> Result<BufferId> {
        to_u32(elements, "numbers of a value")?;
        self.buffers.push(elements.next_multiple_of(ALIGNMENT));
        Ok(self.buffers.len() - 1)
    }

    fn dims(&self, id: ValueId) -> &[usize] {
        &self.graph.value(id).dims
    }

    fn tensor(&self, id: ValueId) -> Tensor<'_> {
        let value = self.graph.value(id);
        Tensor {
            dims: &value.dims,
            constant: value.data.as_deref(),
        }
    }

    /// Adds a step that computes a value.
    fn push(
        &mut self,
        operation: Box<dyn Operation>,
        inputs: Vec<BufferId>,
        output: ValueId,
        activation: Option<Function>,
    ) -> Result<BufferId> {
        let elements = self.graph.value(output).elements();
        let buffer = self.buffer(elements)?;
        self.steps.push(ClassifierStep {
            operation,
            inputs,
            output: buffer,
            elements,
            activation,
        });
        self.places[output.0] = Some(buffer);
        Ok(buffer)
    }

    /// A value's buffer; a constant is copied there for each image.
    fn computed(&mut self, id: ValueId) -> Result<BufferId> {
        if let Some(buffer) = self.places[id.0] {
            return Ok(buffer);
        }
        if self.graph.constant(id).is_none() {
            let name = &self.graph.value(id).name;
            return Err(Error::invalid(format!(
                "{name} is used before it is computed"
            )));
        }
        let copy = Elementwise::new(self.device, self.tensor(id), self.dims(id))?;
        self.push(Box::new(copy), Vec::new(), id, None)
    }

    /// The buffers of those of these values that are computed.
    fn all_computed(&mut self, values: &[ValueId]) -> Result<Vec<BufferId>> {
        let graph = self.graph;
        let computed = values.iter().filter(|id| graph.constant(**id).is_none());
        computed.map(|&id| self.computed(id)).collect()
    }

    /// The buffers of a node's inputs, but for the constants that its operation has itself.
    fn inputs(&mut self, node: &Node) -> Result<Vec<BufferId>> {
        match &node.op {
            Op::Conv(_) | Op::Gemm { .. } => {
                let inputs = [&node.inputs[..1], &node.inputs[3..]].concat();
                inputs.into_iter().map(|id| self.computed(id)).collect()
            }
            _ => self.all_computed(&node.inputs),
        }
    }

    /// Plans node `i`.
    fn node(&mut self, chains: &[Link], i: usize) -> Result<()> {
        let node = &self.graph.nodes[i];
        match &node.op {
            Op::Reshape => {
                let buffer = self.computed(node.inputs[0])?;
                self.places[node.output.0] = Some(buffer);
            }
            Op::Map(_) | Op::ScaleShift { .. } | Op::Binary(_) => {
                if !chains[i].continued {
                    self.chain(chains, i)?;
                }
            }
            op => {
                let operation = self.operation(node)?;
                let inputs = self.inputs(node)?;
                self.push(operation, inputs, node.output, op.activation())?;
            }
        }
        Ok(())
    }

    /// What computes a node that is no chain's.
    fn operation(&self, node: &Node) -> Result<Box<dyn Operation>> {
        let (x, output) = (self.dims(node.inputs[0]), self.dims(node.output));
        Ok(match &node.op {
            Op::Conv(conv) => {
                let (weight, bias) = (self.constant(node, 1)?, self.constant(node, 2)?);
                let residual = node.inputs.len() > 3;
                conv::operation(self.device, conv, x, output, weight, bias, residual)?
            }
            Op::Gemm { .. } => {
                let (weight, bias) = (self.constant(node, 1)?, self.constant(node, 2)?);
                let residual = node.inputs.len() > 3;
                Box::new(Gemm::new(self.device, x, output, weight, bias, residual)?)
            }
            Op::MatMul => {
                let [left, right] = [0, 1].map(|i| self.part(node.inputs[i]));
                Box::new(MatMul::new(self.device, left, right, output)?)
            }
            Op::MaxPool(pool) => Box::new(Pool::new(pool::PoolKind::Max, pool, x, output)?),
            Op::AveragePool(pool) => Box::new(Pool::new(pool::PoolKind::Average, pool, x, output)?),
            Op::Reduce { kind, axes } => Box::new(Reduce::new(*kind, axes, x)?),
            Op::Normalize { axis, epsilon } => Box::new(Normalize::new(*axis, *epsilon, x)?),
            Op::Softmax { axis } => Box::new(Softmax::new(false, *axis, x)?),
            Op::LogSoftmax { axis } => Box::new(Softmax::new(true, *axis, x)?),
            Op::Concat { axis } => {
                let parts: Vec<_> = node.inputs.iter().map(|&id| self.part(id)).collect();
                Box::new(Concat::new(self.device, *axis, &parts, output)?)
            }
            op => Box::new(Moves::new(self.device, op, x, output)?),
        })
    }

    /// A value's shape and, of a constant, its elements.
    fn part(&self, id: ValueId) -> (&[usize], Option<&[f32]>) {
        (self.dims(id), self.graph.constant(id))
    }

    /// Plans the chain that ends with node `last`.
    fn chain(&mut self, chains: &[Link], last: usize) -> Result<()> {
        let graph = self.graph;
        let mut nodes = vec![last];
        while let Some(previous) = chains[nodes[nodes.len() - 1]].previous {
            nodes.push(previous);
        }
        nodes.reverse();
        let first = &graph.nodes[nodes[0]];
        let computed = |id: &&ValueId| graph.constant(**id).is_none();
        let head = *first
            .inputs
            .iter()
            .find(computed)
            .unwrap_or(&first.inputs[0]);
        let mut operands = vec![head];
        let mut chain = Elementwise::new(self.device, self.tensor(head), self.dims(first.output))?;
        let mut value = head;
        for node in nodes.into_iter().map(|i| &graph.nodes[i]) {
            let operand = self.link(&mut chain, node, value)?;
            operands.extend(operand);
            value = node.output;
        }
        let inputs = self.all_computed(&operands)?;
        self.push(Box::new(chain), inputs, value, None)?;
        Ok(())
    }

    /// Adds a node to a chain whose value so far is `value`, one of the node's inputs; the other one, if
    /// it has two.
    fn link(
        &self,
        chain: &mut Elementwise,
        node: &Node,
        value: ValueId,
    ) -> Result<Option<ValueId>> {
        let output = self.dims(node.output);
        match &node.op {
            Op::Map(function) => chain.map(*function)?,
            Op::ScaleShift { activation } => {
                let (scale, shift) = (self.constant(node, 1)?, self.constant(node, 2)?);
                chain.scale_shift(self.device, scale, shift, output, *activation)?;
            }
            Op::Binary(op) => {
                let right = node.inputs[0] != value;
                let operand = node.inputs[usize::from(!right)];
                chain.binary(self.device, *op, right, self.tensor(operand), output)?;
                return Ok(Some(operand));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Input `i` of a node, which must be a constant.
    fn constant(&self, node: &Node, i: usize) -> Result<&[f32]> {
        self.graph.constant(node.inputs[i]).ok_or_else(|| {
            Error::invalid(format!("input {i} is computed where a constant is needed"))
        })
    }
}
