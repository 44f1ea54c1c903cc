//! Writes small ONNX models, for tests.

use std::path::PathBuf;

use prost::Message;
use prost::bytes::Bytes;

use super::proto::{
    Attribute, AttributeKind, DataType, Dim, DimValue, Graph, Model, Node, OperatorSet, Shape,
    Tensor, TensorType, ValueInfo, ValueType,
};
use crate::classifier::graph::{self, LoadOptions};
use crate::error::Result;

/// A dimension that is left free.
pub const FREE: i64 = -1;

/// A model under construction: a chain of calls, then [`ModelWriter::load`].
#[derive(Clone, Debug)]
pub struct ModelWriter {
    pub model: Model,
}

impl ModelWriter {
    /// A model with a float input `x` of these dimensions ([`FREE`] for a free one) and an output `y`.
    pub fn new(opset: i64, input: &[i64]) -> Self {
        let mut model = Model {
            ir_version: 8,
            graph: Some(Graph {
                name: "test".into(),
                ..Graph::default()
            }),
            ..Model::default()
        };
        model.opset_import.push(OperatorSet {
            domain: String::new(),
            version: opset,
        });
        let mut writer = ModelWriter { model };
        let graph = writer.graph();
        graph.input.push(info("x", input));
        graph.output.push(ValueInfo {
            name: "y".into(),
            kind: Some(ValueType {
                tensor: Some(TensorType {
                    element: DataType::Float as i32,
                    shape: None,
                }),
            }),
        });
        writer
    }

    pub fn graph(&mut self) -> &mut Graph {
        self.model.graph.as_mut().unwrap()
    }

    /// A float initializer.
    pub fn floats(mut self, name: &str, dims: &[i64], data: &[f32]) -> Self {
        self.graph().initializer.push(floats(name, dims, data));
        self
    }

    /// A float initializer of well-spread numbers around 0.
    pub fn weights(self, name: &str, dims: &[i64]) -> Self {
        let seed: usize = name.bytes().map(usize::from).sum();
        let n: i64 = dims.iter().product();
        let data: Vec<f32> = (0..n as usize)
            .map(|i| ((i * 7919 + seed * 104_729) % 1999) as f32 / 1000.0 - 1.0)
            .map(|w| w * 0.5)
            .collect();
        self.floats(name, dims, &data)
    }

    /// An integer initializer along one axis.
    pub fn ints(mut self, name: &str, data: &[i64]) -> Self {
        self.graph().initializer.push(Tensor {
            name: name.into(),
            dims: vec![data.len() as i64],
            data_type: DataType::Int64 as i32,
            int64_data: data.to_vec(),
            ..Tensor::default()
        });
        self
    }

    /// A node, named after its first output.
    pub fn node(
        mut self,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[Attribute],
    ) -> Self {
        self.graph().node.push(Node {
            name: format!("node_{}", outputs[0]),
            op_type: op.into(),
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: outputs.iter().map(|&name| name.into()).collect(),
            attribute: attributes.to_vec(),
            ..Node::default()
        });
        self
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }

    /// Imports the model without passes.
    pub fn import(&self) -> Result<graph::Graph> {
        let (_folder, path) = saved(&self.bytes());
        super::import(&path, &LoadOptions::default())
    }

    /// Loads the model.
    pub fn load(&self) -> Result<graph::Graph> {
        let (_folder, path) = saved(&self.bytes());
        graph::Graph::load(&path, &LoadOptions::default())
    }
}

/// Bytes in a file `model.onnx` of a folder that goes when the first is dropped.
pub fn saved(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// A float input or output.
pub fn info(name: &str, dims: &[i64]) -> ValueInfo {
    let dim = |&size: &i64| Dim {
        value: Some(match size {
            FREE => DimValue::Name("free".into()),
            size => DimValue::Size(size),
        }),
    };
    ValueInfo {
        name: name.into(),
        kind: Some(ValueType {
            tensor: Some(TensorType {
                element: DataType::Float as i32,
                shape: Some(Shape {
                    dim: dims.iter().map(dim).collect(),
                }),
            }),
        }),
    }
}

/// A float tensor.
pub fn floats(name: &str, dims: &[i64], data: &[f32]) -> Tensor {
    let raw: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        raw_data: raw.into(),
        ..Tensor::default()
    }
}

fn attribute(name: &str, kind: AttributeKind) -> Attribute {
    Attribute {
        name: name.into(),
        kind: kind as i32,
        ..Attribute::default()
    }
}

pub fn int(name: &str, i: i64) -> Attribute {
    Attribute {
        i,
        ..attribute(name, AttributeKind::Int)
    }
}

pub fn float(name: &str, f: f32) -> Attribute {
    Attribute {
        f,
        ..attribute(name, AttributeKind::Float)
    }
}

pub fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute {
        ints: ints.to_vec(),
        ..attribute(name, AttributeKind::Ints)
    }
}

pub fn string(name: &str, value: &str) -> Attribute {
    Attribute {
        s: Bytes::copy_from_slice(value.as_bytes()),
        ..attribute(name, AttributeKind::String)
    }
}

pub fn tensor(name: &str, value: Tensor) -> Attribute {
    Attribute {
        t: Some(value),
        ..attribute(name, AttributeKind::Tensor)
    }
}
