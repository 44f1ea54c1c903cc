//! Reads an ONNX file into a [`Graph`].
//!
//! A model is imported at batch size 1, where every shape is a number, and everything that depends
//! on shapes alone is a constant: see [`graph`](super::graph) for why that loses nothing.

mod builder;
mod compose;
mod einsum;
mod elementwise;
mod fold;
mod layers;
mod moves;
mod normalization;
pub mod proto;
mod resize;
#[cfg(test)]
pub mod samples;
mod scatter;
mod shapes;
mod table;
pub mod tensor;
#[cfg(test)]
mod tests;
mod wire;
#[cfg(test)]
pub mod write;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use prost::Message;

pub use self::table::{OPERATORS, Operator};

use self::builder::{Builder, Call, Item};
use self::proto::DataType;
use self::tensor::Files;
use super::graph::{Graph, LoadOptions};
use crate::error::{Error, Result};

/// Opsets whose operators are known.
pub const OPSETS: std::ops::RangeInclusive<i64> = 11..=20;
/// Largest model file: protobuf's own limit. Larger models keep their weights in external files.
const MAX_FILE: u64 = 1 << 31;

/// Imports the model at `path`, operator by operator.
///
/// # Errors
/// The file cannot be read, is not a sound ONNX model, or holds what cannot be run: then the error
/// lists every such node.
pub fn import(path: &Path, options: &LoadOptions) -> Result<Graph> {
    let model = read(path)?;
    translate(path, model, options).map_err(|message| Error::file(path, one_line(&message)))
}

/// Reads and decodes a file.
fn read(path: &Path) -> Result<proto::Model> {
    let file = File::open(path).map_err(Error::io(path))?;
    let metadata = file.metadata().map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::file(path, "is not a file; give an ONNX model"));
    }
    if metadata.len() > MAX_FILE {
        return Err(Error::file(
            path,
            "is larger than 2 GiB, which no ONNX file is; export with external data",
        ));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    (file.take(MAX_FILE).read_to_end(&mut bytes)).map_err(Error::io(path))?;
    wire::check(&bytes).map_err(|message| Error::file(path, message))?;
    // Tensors share the file's bytes.
    proto::Model::decode(prost::bytes::Bytes::from(bytes))
        .map_err(|error| Error::file(path, format!("is not an ONNX model: {error}")))
}

/// A name or reason of a length that can be read, whatever the file holds.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(300).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A message on one line, whatever names the file holds.
fn one_line(message: &str) -> String {
    message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn translate(path: &Path, model: proto::Model, options: &LoadOptions) -> Result<Graph, String> {
    let graph = (model.graph.as_ref())
        .filter(|graph| !graph.node.is_empty())
        .ok_or("is not an ONNX model: it has no graph")?;
    let standard = |domain: &str| matches!(domain, "" | "ai.onnx");
    let opset = (model.opset_import.iter())
        .find(|set| standard(&set.domain))
        .map(|set| set.version)
        .ok_or("names no opset of the standard operators; is it truncated?")?;
    if !OPSETS.contains(&opset) {
        return Err(format!(
            "has opset {opset}; export it with opset_version 17 (11 to 20 are supported)"
        ));
    }

    let mut files = Files::new(path);
    let mut items: HashMap<&str, Option<Item>> = HashMap::new();
    let mut stored = 0;
    for tensor in &graph.initializer {
        let constant = files.constant(tensor)?;
        stored += constant.data.len();
        let item = Some(Item::Constant(constant));
        if items.insert(&tensor.name, item).is_some() {
            return Err(format!("defines the tensor \"{}\" twice", tensor.name));
        }
    }
    let (name, dims) = input(graph, &items, options)?;
    let mut builder = Builder::new(name, dims, files, stored);
    items.insert(name, Some(builder.image()));

    let used: HashSet<&str> = (graph.node.iter())
        .flat_map(|node| &node.input)
        .chain(graph.output.iter().map(|output| &output.name))
        .map(String::as_str)
        .filter(|name| !name.is_empty())
        .collect();
    let mut refused = Vec::new();
    for index in sorted(graph, &items)? {
        let node = &graph.node[index];
        let result = match table::operator(&node.op_type).filter(|_| standard(&node.domain)) {
            None => Some(Err("is not supported".to_string())),
            Some(operator) => inputs(node, &items).map(|inputs| {
                let mut call = Call::new(&mut builder, node, label(node), opset, inputs);
                let outputs = (operator.translate)(&mut call)?;
                call.check(&outputs, &used)?;
                Ok(outputs)
            }),
        };
        let mut outputs = match result {
            Some(Ok(outputs)) => outputs.into_iter(),
            Some(Err(reason)) => {
                let name = shortened(label(node));
                let op = shortened(&node.op_type);
                refused.push(format!("{name} ({op}): {}", shortened(&reason)));
                Vec::new().into_iter()
            }
            // What feeds it was refused, so there is no telling.
            None => Vec::new().into_iter(),
        };
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            items.insert(name, outputs.next());
        }
    }
    choose_output(graph, &items, &mut builder, refused)?;
    let mut graph = builder.graph;
    if graph.output_is_softmax() {
        graph.warnings.push(format!(
            "{}: the output is a softmax: probabilities, not logits; margins and attacks are better \
             on a model exported without it",
            path.display()
        ));
    }
    Ok(graph)
}

/// What messages call a node.
fn label(node: &proto::Node) -> &str {
    match (node.name.as_str(), node.output.first()) {
        ("", Some(output)) => output,
        (name, _) => name,
    }
}

/// A node's inputs; `None` where one of them could not be made.
fn inputs(node: &proto::Node, items: &HashMap<&str, Option<Item>>) -> Option<Vec<Option<Item>>> {
    (node.input.iter())
        .map(|name| match name.as_str() {
            "" => Some(None),
            name => items.get(name)?.clone().map(Some),
        })
        .collect()
}

/// The image's name and shape.
fn input<'a>(
    graph: &'a proto::Graph,
    items: &HashMap<&str, Option<Item>>,
    options: &LoadOptions,
) -> Result<(&'a str, Vec<usize>), String> {
    let mut inputs = (graph.input.iter()).filter(|input| !items.contains_key(&*input.name));
    let input = inputs.next().ok_or("has no input")?;
    if let Some(second) = inputs.next() {
        return Err(format!(
            "has more than one input (\"{}\", \"{}\"); a classifier takes one image",
            input.name, second.name
        ));
    }
    let name = &input.name;
    let tensor = (input.kind.as_ref()).and_then(|kind| kind.tensor.as_ref());
    let kind = tensor.map_or(DataType::Undefined, proto::TensorType::element);
    if !matches!(kind, DataType::Float | DataType::Float16 | DataType::Double) {
        return Err(format!(
            "input \"{name}\" is not a float tensor; images are handed over in [0, 1]"
        ));
    }
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
    let sizes: Vec<Option<i64>> = shape
        .ok_or_else(|| format!("input \"{name}\" has no shape"))?
        .dim
        .iter()
        .map(|dim| match dim.value {
            Some(proto::DimValue::Size(size)) if size > 0 => Some(size),
            _ => None,
        })
        .collect();
    let shown: Vec<String> = (sizes.iter())
        .map(|size| size.map_or("?".into(), |size| size.to_string()))
        .collect();
    let shown = shown.join("×");
    let [batch, channels, height, width] = sizes[..] else {
        return Err(format!(
            "input \"{name}\" is {shown}; a classifier takes images×channels×height×width"
        ));
    };
    if let Some(batch) = batch.filter(|&batch| batch != 1) {
        return Err(format!(
            "input \"{name}\" is {shown}, its batch fixed at {batch}; export it with a free batch or \
             one of 1"
        ));
    }
    let channels = match channels {
        Some(channels @ (1 | 3)) => channels as usize,
        _ => {
            let hint = match sizes[3] {
                Some(1 | 3) => " (it takes channels last; export it with channels first)",
                _ => "",
            };
            return Err(format!(
                "input \"{name}\" is {shown}; images have 1 or 3 channels, in the second place{hint}"
            ));
        }
    };
    let mut dims = vec![1, channels];
    for (axis, (size, wanted)) in [
        ("height", (height, options.image_size.map(|size| size.0))),
        ("width", (width, options.image_size.map(|size| size.1))),
    ] {
        dims.push(match (size, wanted) {
            (None, None) => {
                return Err(format!(
                    "input \"{name}\" is {shown}: its {axis} is free; give the image size to run at, with --size"
                ));
            }
            (Some(size), Some(wanted)) if size != wanted as i64 => {
                return Err(format!(
                    "input \"{name}\" is {shown}: its {axis} is fixed at {size}, not {wanted}"
                ));
            }
            (None, Some(0)) => return Err(format!("no image has {axis} 0")),
            (Some(size), _) => builder::size(size)?,
            (None, Some(wanted)) => builder::size(wanted.try_into().unwrap_or(-1))?,
        });
    }
    builder::check_size(&dims)?;
    Ok((name, dims))
}

/// Nodes in an order in which inputs come before their use; the file's own where it is one.
fn sorted(graph: &proto::Graph, items: &HashMap<&str, Option<Item>>) -> Result<Vec<usize>, String> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if items.contains_key(name.as_str()) || producers.insert(name, index).is_some() {
                return Err(format!("defines the tensor \"{name}\" twice"));
            }
        }
    }
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); graph.node.len()];
    let mut missing = vec![0usize; graph.node.len()];
    for (index, node) in graph.node.iter().enumerate() {
        for name in node.input.iter().filter(|name| !name.is_empty()) {
            match producers.get(name.as_str()) {
                Some(&producer) => {
                    users[producer].push(index);
                    missing[index] += 1;
                }
                None if items.contains_key(name.as_str()) => {}
                None => {
                    return Err(format!(
                        "node {} ({}) takes \"{name}\", which nothing defines",
                        label(node),
                        node.op_type
                    ));
                }
            }
        }
    }
    let mut ready: BTreeSet<usize> = (0..missing.len()).filter(|&i| missing[i] == 0).collect();
    let mut order = Vec::new();
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &user in &users[index] {
            missing[user] -= 1;
            if missing[user] == 0 {
                ready.insert(user);
            }
        }
    }
    match missing.iter().position(|&count| count > 0) {
        None => Ok(needed(graph, order)),
        Some(index) => Err(format!(
            "is cyclic: node {} depends on itself",
            label(&graph.node[index])
        )),
    }
}

/// The nodes of `order` that the graph's outputs depend on.
fn needed(graph: &proto::Graph, mut order: Vec<usize>) -> Vec<usize> {
    let mut names: HashSet<&str> = graph.output.iter().map(|output| &*output.name).collect();
    order.reverse();
    order.retain(|&index| {
        let node = &graph.node[index];
        let used = (node.output.iter()).any(|name| names.contains(name.as_str()));
        if used {
            names.extend(node.input.iter().map(String::as_str));
        }
        used
    });
    order.reverse();
    order
}

/// Settles on the first output that is a row of floats.
fn choose_output(
    graph: &proto::Graph,
    items: &HashMap<&str, Option<Item>>,
    builder: &mut Builder,
    refused: Vec<String>,
) -> Result<(), String> {
    let mut seen = Vec::new();
    for output in &graph.output {
        let item = (items.get(output.name.as_str()))
            .ok_or_else(|| format!("output \"{}\" is defined by nothing", output.name))?;
        let Some(item) = item else {
            if declared_logits(output) {
                break; // It is this one, or would be.
            }
            continue;
        };
        match item {
            Item::Value { id, dims } if matches!(dims[..], [1, _]) => {
                builder.graph.output = *id;
                return Ok(());
            }
            Item::Value { dims, .. } if matches!(dims[..], [1, _, 1, 1]) => {
                let flat = vec![1, dims[1]];
                let op = super::Op::Reshape;
                let name = format!("{}/flat", output.name);
                if let Item::Value { id, .. } =
                    builder.apply(&name, op, std::slice::from_ref(item), flat)?
                {
                    builder.graph.output = id;
                }
                return Ok(());
            }
            item => seen.push(format!("\"{}\" {:?}", output.name, item.dims())),
        }
    }
    match refused.len() {
        0 => Err(format!(
            "has no output of one row of logits an image that depends on the image (it has: {})",
            seen.join(", ")
        )),
        n => Err(format!(
            "{n} node{} cannot be run: {}",
            if n == 1 { "" } else { "s" },
            refused.join("; ")
        )),
    }
}

/// Whether an output's declaration allows it to be the logits.
fn declared_logits(output: &proto::ValueInfo) -> bool {
    let Some(tensor) = (output.kind.as_ref()).and_then(|kind| kind.tensor.as_ref()) else {
        return true;
    };
    let float = matches!(
        tensor.element(),
        DataType::Undefined | DataType::Float | DataType::Float16 | DataType::Double
    );
    let rank = tensor.shape.as_ref().map(|shape| shape.dim.len());
    float && matches!(rank, None | Some(2 | 4))
}
