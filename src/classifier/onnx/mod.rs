//! Reads an ONNX file into a [`Graph`].
//!
//! A model is imported at batch size 1, where every shape is a number, and everything that depends
//! on shapes alone is a constant: see `graph` for why that loses nothing.

mod body;
mod branch;
mod builder;
mod compose;
mod einsum;
mod elementwise;
mod fold;
mod input;
mod layers;
mod moves;
mod normalization;
mod output;
pub mod proto;
mod quantize;
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

use std::fs::File;
use std::io::Read;
use std::path::Path;

use prost::Message;

pub use self::table::{OPERATORS, Operator};

use self::body::{Body, Context, Known, Names, Translator};
use self::builder::{Builder, Item};
use self::input::Image;
use self::tensor::Files;
use super::graph::{Graph, LoadOptions};
use crate::error::{self, Error, Result};

/// Opsets whose operators are known.
pub const OPSETS: std::ops::RangeInclusive<i64> = 7..=26;
/// Largest model file: protobuf's own limit. Larger models keep their weights in external files.
const MAX_FILE: u64 = 1 << 31;

/// Imports the model at `path`, operator by operator.
///
/// # Errors
/// The file cannot be read, is not a sound ONNX model, or holds what cannot be run: then the error
/// lists every such node.
pub fn import(path: &Path, options: &LoadOptions) -> Result<Graph> {
    let model = read(path)?;
    translate(path, model, options).map_err(|message| Error::file(path, message))
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
    if let Some(what) = tensor::stand_in(&bytes[..bytes.len().min(tensor::START as usize)]) {
        return Err(Error::file(path, what));
    }
    wire::check(&bytes).map_err(|message| Error::file(path, message))?;
    // Tensors share the file's bytes.
    proto::Model::decode(prost::bytes::Bytes::from(bytes))
        .map_err(|error| Error::file(path, format!("is not an ONNX model: {error}")))
}

/// A name or reason of a length that can be read, whatever the file holds.
fn shortened(text: &str, length: usize) -> String {
    let mut short: String = text.chars().take(length).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn translate(
    path: &Path,
    model: proto::Model,
    options: &LoadOptions,
) -> Result<Graph, error::Message> {
    let graph = (model.graph.as_ref())
        .filter(|graph| !graph.node.is_empty())
        .ok_or("is not an ONNX model: it has no graph")?;
    let opset = body::standard_opset(&model.opset_import)
        .ok_or("names no opset of the standard operators; is it truncated?")?;
    if !OPSETS.contains(&opset) {
        return Err(format!(
            "has opset {opset}; export it with opset_version 17 ({} to {} are supported)",
            OPSETS.start(),
            OPSETS.end()
        )
        .into());
    }

    let mut files = Files::new(path);
    let mut names = Names::new();
    let mut stored = 0;
    for tensor in &graph.initializer {
        let constant = files.constant(tensor)?;
        stored += constant.data.len();
        let known = Known::Item(Item::Constant(constant));
        if names.insert(&tensor.name, known).is_some() {
            return Err(format!("defines the tensor \"{}\" twice", tensor.name).into());
        }
    }
    let image = Image::of(graph, &names, options)?;
    let mut builder = Builder::new(image.name, image.dims.clone(), files, stored);
    names.insert(image.name, image.handed(&mut builder)?);
    builder.graph.source.layout = image.layout;
    builder.graph.source.bytes = image.bytes;

    let mut translator = Translator::new(builder, &model.functions);
    let body = Body {
        nodes: &graph.node,
        outputs: graph.output.iter().map(|output| &*output.name).collect(),
    };
    translator.body(&body, &mut names, &Context::new(opset))?;
    let Translator {
        mut builder,
        refused,
        ..
    } = translator;
    let wanted = options.output_name.as_deref();
    output::choose(graph, wanted, &names, &mut builder, &refused)?;
    let mut graph = builder.finish();
    if graph.output_is_softmax() {
        let warning = "the output is a softmax: probabilities, not logits; margins and attacks are better \
                       on a model exported without it";
        graph.warnings.push(warning.into());
    }
    for warning in &mut graph.warnings {
        *warning = format!("{}: {warning}", path.display());
    }
    Ok(graph)
}
