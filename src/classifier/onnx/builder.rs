//! The graph under construction, and one node's view of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::fold;
use super::proto::{self, AttributeKind};
use super::tensor::{Constant, Data, Files};
use crate::classifier::graph::{Graph, Node, Op, Source, Value, ValueId};

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Item {
    Constant(Constant),
    /// Computed from the image.
    Value {
        id: ValueId,
        dims: Vec<usize>,
    },
}

impl Item {
    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        match self {
            Item::Constant(constant) => &constant.dims,
            Item::Value { dims, .. } => dims,
        }
    }

    /// A float constant.
    pub fn floats(dims: Vec<usize>, data: impl Into<Arc<[f32]>>) -> Item {
        Item::Constant(Constant::new(dims, Data::Float(data.into())))
    }
}

/// Largest tensor of one image, in elements: 256 MiB.
const MAX_ELEMENTS: usize = 1 << 26;
/// Largest sum of all tensors of one image, in elements.
const MAX_TOTAL: usize = 1 << 30;
/// Elements of folded constants that any file may ask for.
const FOLDED_ELEMENTS: usize = 1 << 22;
/// And for each element that the file holds.
const FOLDED_PER_STORED: usize = 8;
/// Longest list of numbers that describes an operation (not its data).
const MAX_LIST: usize = 1024;
/// Multiply-adds in folding, all together.
const FOLDED_WORK: usize = 1 << 30;

/// A graph under construction.
#[derive(Debug)]
pub struct Builder {
    pub graph: Graph,
    files: Files,
    /// Elements of computed tensors.
    total: usize,
    /// Elements that folding may still make.
    folded: usize,
    /// Multiply-adds that folding may still take.
    work: usize,
    /// Whether tensors in attributes count as folded: in functions, whose calls all have their own.
    pub metered: bool,
    /// Whether an infinity may have come into each of the graph's values, by a constant.
    infinite: Vec<bool>,
}

impl Builder {
    /// A graph that takes images of shape `dims`; the file holds `stored` elements.
    pub fn new(input: &str, dims: Vec<usize>, files: Files, stored: usize) -> Self {
        let image = Value {
            name: input.to_string(),
            dims,
            data: None,
        };
        Builder {
            graph: Graph {
                input: ValueId(0),
                output: ValueId(0),
                nodes: Vec::new(),
                values: vec![image],
                warnings: Vec::new(),
                source: Source::default(),
                external: Vec::new(),
            },
            files,
            total: 0,
            folded: FOLDED_ELEMENTS.saturating_add(stored.saturating_mul(FOLDED_PER_STORED)),
            work: FOLDED_WORK,
            metered: false,
            infinite: vec![false],
        }
    }

    /// The graph, whose output is chosen, with the files that it is from.
    pub fn finish(self) -> Graph {
        Graph {
            external: self.files.external_files(),
            ..self.graph
        }
    }

    /// The image.
    pub fn image(&self) -> Item {
        let id = self.graph.input;
        let dims = self.graph.value(id).dims.clone();
        Item::Value { id, dims }
    }

    /// Decodes a tensor of a node or a branch.
    pub fn decode(&mut self, tensor: &proto::Tensor) -> Result<Constant, String> {
        self.charge(&super::tensor::dims(tensor)?)?;
        self.files.constant(tensor)
    }

    /// Reserves a constant that the file spells out, where it is in a function.
    pub fn charge(&mut self, dims: &[usize]) -> Result<(), String> {
        match self.metered {
            true => self.reserve(dims),
            false => Ok(()),
        }
    }

    /// Whether an item's numbers are finite for every picture, but for overflow.
    pub fn is_finite(&self, item: &Item) -> bool {
        match item {
            Item::Value { id, .. } => !self.infinite[id.0],
            Item::Constant(constant) => match &constant.data {
                Data::Float(data) => data.iter().all(|x| x.is_finite()),
                Data::Int(_) | Data::Bool(_) => true,
            },
        }
    }

    /// Takes the elements of a constant of shape `dims` from what folding may make. Layers do so for
    /// their weights too: passes and backends keep a copy for each layer, shared or not.
    ///
    /// # Errors
    /// There are not so many left.
    pub fn reserve(&mut self, dims: &[usize]) -> Result<(), String> {
        let elements = Constant::elements(dims)?;
        self.folded = (self.folded.checked_sub(elements)).ok_or_else(|| {
            format!("a constant of shape {dims:?} is out of proportion to the file")
        })?;
        Ok(())
    }

    /// The value of an item.
    ///
    /// # Errors
    /// It is not a float tensor.
    fn value(&mut self, item: &Item, name: &str) -> Result<ValueId, String> {
        match item {
            Item::Value { id, .. } => Ok(*id),
            Item::Constant(Constant {
                dims,
                data: Data::Float(data),
                ..
            }) => Ok(self.graph.add_value(Value {
                name: format!("{name}/constant"),
                dims: dims.clone(),
                data: Some(data.clone()),
            })),
            Item::Constant(constant) => Err(format!(
                "an {} constant where a float tensor is needed",
                constant.data.kind()
            )),
        }
    }

    /// Adds an operation whose output has shape `dims`, or folds it where all inputs are constants.
    ///
    /// # Errors
    /// The output is empty or too large, or an input's type is wrong.
    pub fn apply(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[Item],
        dims: Vec<usize>,
    ) -> Result<Item, String> {
        let constants: Option<Vec<&Constant>> = (inputs.iter())
            .map(|input| match input {
                Item::Constant(constant) => Some(constant),
                Item::Value { .. } => None,
            })
            .collect();
        let elements = Constant::elements(&dims)?;
        if let Some(constants) = constants {
            self.reserve(&dims)?;
            let work = work(&op, &constants, elements);
            self.work = (self.work.checked_sub(work))
                .ok_or("it takes too long to compute from constants alone")?;
            let empty = elements == 0 || constants.iter().any(|input| input.data.is_empty());
            if empty && computes(&op) {
                return Err("it computes with an empty tensor".into());
            }
            return fold::apply(&op, &constants, &dims).map(Item::Constant);
        }
        if elements == 0 {
            return Err(format!("its output is empty: {dims:?}"));
        }
        check_size(&dims)?;
        self.total = self.total.saturating_add(elements);
        if self.total > MAX_TOTAL {
            return Err("all tensors together take too much memory for one image".into());
        }
        let infinite = !inputs.iter().all(|input| self.is_finite(input));
        let inputs: Vec<ValueId> = (inputs.iter())
            .map(|input| self.value(input, name))
            .collect::<Result<_, _>>()?;
        self.infinite.resize(self.graph.values.len(), false);
        self.infinite.push(infinite);
        let output = self.graph.add_value(Value {
            name: name.to_string(),
            dims: dims.clone(),
            data: None,
        });
        self.graph.nodes.push(Node {
            name: name.to_string(),
            op,
            inputs,
            output,
        });
        Ok(Item::Value { id: output, dims })
    }
}

/// Refuses a tensor that is too large for one image.
pub(super) fn check_size(dims: &[usize]) -> Result<(), String> {
    match Constant::elements(dims)? {
        n if n > MAX_ELEMENTS => Err(format!(
            "shape {dims:?} takes too much memory for one image"
        )),
        _ => Ok(()),
    }
}

/// Whether the operation does more than move elements.
fn computes(op: &Op) -> bool {
    !matches!(
        op,
        Op::Reshape
            | Op::Transpose { .. }
            | Op::Concat { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Expand
            | Op::Gather { .. }
            | Op::Binary(_)
            | Op::Map(_)
    )
}

/// About how many multiply-adds an operation takes.
fn work(op: &Op, inputs: &[&Constant], outputs: usize) -> usize {
    let each = match op {
        Op::Conv(_) => inputs[1].dims[1..].iter().product(),
        Op::Gemm { .. } => inputs[1].dims[1],
        Op::MatMul => inputs[0].dims.last().copied().unwrap_or(1),
        Op::MaxPool(pool) | Op::AveragePool(pool) => pool.window.kernel.iter().product(),
        _ => 1,
    };
    let read: usize = inputs.iter().map(|input| input.data.len()).sum();
    outputs.saturating_mul(each).saturating_add(read)
}

/// The attributes of a function's call, by name.
pub(super) type Arguments<'a> = HashMap<&'a str, &'a proto::Attribute>;

/// The attribute, or the argument that it refers to; `None` where the call leaves that out.
pub(super) fn resolve<'a>(
    attribute: &'a proto::Attribute,
    arguments: &Arguments<'a>,
) -> Option<&'a proto::Attribute> {
    match attribute.ref_attr_name.as_str() {
        "" => Some(attribute),
        name => arguments.get(name).copied(),
    }
}

/// A node to translate: its inputs, its attributes, and the graph to add to.
pub struct Call<'a> {
    pub builder: &'a mut Builder,
    pub node: &'a proto::Node,
    pub opset: i64,
    /// Name of what it adds to the graph.
    pub name: &'a str,
    /// The attribute whose graph takes the node's place.
    pub branch: Option<&'static str>,
    /// What attributes of a function's nodes may refer to.
    arguments: &'a Arguments<'a>,
    inputs: Vec<Option<Item>>,
    seen: HashSet<&'static str>,
}

/// What a node gives, in order, or why it cannot be run.
pub(super) type Outputs = Result<Vec<Item>, String>;

impl<'a> Call<'a> {
    /// A node with its inputs, `None` where an optional one is left out.
    pub fn new(
        builder: &'a mut Builder,
        node: &'a proto::Node,
        name: &'a str,
        opset: i64,
        arguments: &'a Arguments<'a>,
        inputs: Vec<Option<Item>>,
    ) -> Self {
        Call {
            builder,
            node,
            opset,
            name,
            branch: None,
            arguments,
            inputs,
            seen: HashSet::new(),
        }
    }

    /// How many inputs are given.
    pub fn count(&self) -> usize {
        self.inputs.len()
    }

    /// An input that may be left out.
    pub fn optional(&self, index: usize) -> Option<Item> {
        self.inputs.get(index).cloned().flatten()
    }

    /// An input.
    pub fn input(&self, index: usize) -> Result<Item, String> {
        self.optional(index)
            .ok_or_else(|| format!("input {} is missing", index + 1))
    }

    /// Puts another item in an input's place.
    pub fn replace_input(&mut self, index: usize, item: Item) {
        self.inputs[index] = Some(item);
    }

    /// A constant input that may be left out.
    pub fn optional_constant(&self, index: usize) -> Result<Option<Constant>, String> {
        match self.optional(index) {
            None => Ok(None),
            Some(Item::Constant(constant)) => Ok(Some(constant)),
            Some(Item::Value { .. }) => Err(format!(
                "input {} depends on the image; only a constant is supported",
                index + 1
            )),
        }
    }

    /// A constant input.
    pub fn constant(&self, index: usize) -> Result<Constant, String> {
        self.optional_constant(index)?
            .ok_or_else(|| format!("input {} is missing", index + 1))
    }

    /// A constant float input: its shape and elements.
    pub fn floats(&self, index: usize) -> Result<(Vec<usize>, Arc<[f32]>), String> {
        let constant = self.constant(index)?;
        match constant.data {
            Data::Float(data) => Ok((constant.dims, data)),
            data => Err(format!("input {} is {}, not float", index + 1, data.kind())),
        }
    }

    /// A constant input of one float element that may be left out.
    pub fn scalar(&self, index: usize) -> Result<Option<f32>, String> {
        if self.optional(index).is_none() {
            return Ok(None);
        }
        match *self.floats(index)?.1 {
            [value] => Ok(Some(value)),
            _ => Err(format!("input {} is not a single number", index + 1)),
        }
    }

    /// A constant input of integers that may be left out.
    pub fn integers(&self, index: usize) -> Result<Option<Vec<i64>>, String> {
        match self.optional_constant(index)?.map(|constant| constant.data) {
            None => Ok(None),
            Some(Data::Int(data)) if data.len() <= MAX_LIST => Ok(Some(data.to_vec())),
            Some(Data::Int(data)) => Err(format!(
                "input {} has {} elements, too many for what it describes",
                index + 1,
                data.len()
            )),
            Some(data) => Err(format!(
                "input {} is {}, not integer",
                index + 1,
                data.kind()
            )),
        }
    }

    /// An attribute, which counts as understood from now on.
    fn attribute(
        &mut self,
        name: &'static str,
        kind: AttributeKind,
    ) -> Result<Option<&'a proto::Attribute>, String> {
        self.seen.insert(name);
        let own = self.node.attribute.iter().find(|a| a.name == name);
        let Some(found) = own.and_then(|a| resolve(a, self.arguments)) else {
            return Ok(None);
        };
        if found.kind == kind as i32 || found.kind == AttributeKind::Undefined as i32 {
            return Ok(Some(found));
        }
        Err(format!("attribute {name} is not of type {kind:?}"))
    }

    /// An integer attribute.
    pub fn int(&mut self, name: &'static str, default: i64) -> Result<i64, String> {
        let found = self.attribute(name, AttributeKind::Int)?;
        Ok(found.map_or(default, |a| a.i))
    }

    /// A float attribute.
    pub fn float(&mut self, name: &'static str, default: f32) -> Result<f32, String> {
        let found = self.attribute(name, AttributeKind::Float)?;
        Ok(found.map_or(default, |a| a.f))
    }

    /// A list of integers that may be left out.
    pub fn ints(&mut self, name: &'static str) -> Result<Option<Vec<i64>>, String> {
        let Some(list) = self.int_list(name)? else {
            return Ok(None);
        };
        check_list(name, list.len())?;
        Ok(Some(list.to_vec()))
    }

    /// A list of integers of any length.
    pub fn int_list(&mut self, name: &'static str) -> Result<Option<&'a [i64]>, String> {
        let found = self.attribute(name, AttributeKind::Ints)?;
        Ok(found.map(|a| &*a.ints))
    }

    /// A list of floats of any length.
    pub fn float_list(&mut self, name: &'static str) -> Result<Option<&'a [f32]>, String> {
        let found = self.attribute(name, AttributeKind::Floats)?;
        Ok(found.map(|a| &*a.floats))
    }

    /// A string attribute.
    pub fn string(&mut self, name: &'static str, default: &str) -> Result<String, String> {
        let Some(found) = self.attribute(name, AttributeKind::String)? else {
            return Ok(default.into());
        };
        check_list(name, found.s.len())?;
        Ok(String::from_utf8_lossy(&found.s).into_owned())
    }

    /// Whether the node has an attribute.
    pub fn has(&self, name: &str) -> bool {
        let mut own = self.node.attribute.iter().filter(|a| a.name == name);
        own.any(|a| resolve(a, self.arguments).is_some())
    }

    /// A tensor attribute that may be left out.
    pub fn tensor(&mut self, name: &'static str) -> Result<Option<&'a proto::Tensor>, String> {
        let found = self.attribute(name, AttributeKind::Tensor)?;
        Ok(found.and_then(|a| a.t.as_ref()))
    }

    /// Declares an attribute harmless.
    pub fn ignore(&mut self, name: &'static str) {
        self.seen.insert(name);
    }

    /// An integer list from an input or, in older opsets, from an attribute.
    pub fn list(&mut self, name: &'static str, index: usize) -> Result<Option<Vec<i64>>, String> {
        match self.ints(name)? {
            Some(list) => Ok(Some(list)),
            None => self.integers(index),
        }
    }

    /// Refuses attributes that the translation did not look at, and outputs that it did not make
    /// but that are `used`.
    pub fn check(&self, outputs: &[Item], used: &HashSet<&str>) -> Result<(), String> {
        let unknown = (self.node.attribute.iter()).find(|a| !self.seen.contains(a.name.as_str()));
        if let Some(attribute) = unknown {
            return Err(format!("attribute {} is not supported", attribute.name));
        }
        let mut extra = self.node.output.iter().skip(outputs.len());
        match extra.any(|name| used.contains(name.as_str())) {
            false => Ok(()),
            true => Err(format!(
                "only {} of its outputs is supported",
                outputs.len()
            )),
        }
    }

    /// Adds an operation.
    pub fn apply(&mut self, op: Op, inputs: &[Item], dims: Vec<usize>) -> Result<Item, String> {
        self.builder.apply(self.name, op, inputs, dims)
    }

    /// Adds the operation that gives the node's only output.
    pub fn finish(&mut self, op: Op, inputs: &[Item], dims: Vec<usize>) -> Outputs {
        Ok(vec![self.apply(op, inputs, dims)?])
    }

    /// A shape change, where it is one.
    pub fn reshape(&mut self, item: Item, dims: Vec<usize>) -> Result<Item, String> {
        if item.dims() == dims {
            return Ok(item);
        }
        if Constant::elements(item.dims())? != Constant::elements(&dims)? {
            return Err(format!("{:?} does not reshape to {dims:?}", item.dims()));
        }
        self.apply(Op::Reshape, &[item], dims)
    }
}

/// Refuses an attribute that is out of proportion to what it describes.
fn check_list(name: &str, length: usize) -> Result<(), String> {
    match length <= MAX_LIST {
        true => Ok(()),
        false => Err(format!("attribute {name} has {length} elements, too many")),
    }
}

/// An axis, counted from the end where negative.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_start)
        .ok()
        .filter(|&axis| axis < rank)
        .ok_or_else(|| format!("axis {axis} is beyond rank {rank}"))
}

/// Distinct axes, ascending.
pub(super) fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    let mut found = (list.iter())
        .map(|&a| axis(a, rank))
        .collect::<Result<Vec<_>, _>>()?;
    found.sort_unstable();
    found.dedup();
    match found.len() == list.len() {
        true => Ok(found),
        false => Err(format!("axes {list:?} name an axis twice")),
    }
}

/// A size, far from overflow.
pub(super) fn size(value: i64) -> Result<usize, String> {
    usize::try_from(value)
        .ok()
        .filter(|&size| size <= 1 << 31)
        .ok_or_else(|| format!("{value} is not a size"))
}
