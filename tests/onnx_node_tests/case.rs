//! One of ONNX's node tests, and the classifiers that it is made into.
//!
//! A test is a model of one node (or of the function body that the node stands for), inputs, and the
//! outputs that it must give. A classifier takes one image and gives one row of logits, so a test
//! is wrapped: one of its inputs is the image in another shape, the others are initializers, and
//! one of its outputs is the logits in another shape. Every such pair is a *run* of the test. One more
//! for each output has constants only, so that the importer must fold them.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use backstitch::classifier::onnx::OPSETS;
use backstitch::classifier::onnx::proto::{
    Attribute, AttributeKind, DataType, Dim, DimValue, Graph, Model, Node, Shape, Tensor,
    TensorType, ValueInfo, ValueType,
};
use backstitch::classifier::onnx::tensor::{Constant, Data, Files};
use prost::Message;
use prost::bytes::Bytes;

/// A test whose numbers are written with four decimals.
const FOUR_DECIMALS: &str = "test_averagepool_2d_ceil_last_window_starts_on_pad";

/// A test: a model, and one set of inputs and outputs.
pub(crate) struct Case {
    pub name: String,
    model: Model,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// A way to make a classifier of a test. Shown as `input→output`, or `→output` with constants only.
pub(crate) struct Run<'a> {
    /// Which input is the image.
    image: Option<&'a Tensor>,
    /// Which output is the logits.
    logits: &'a Tensor,
}

impl Run<'_> {
    /// Whether the node is computed from the image.
    pub(crate) fn is_computed(&self) -> bool {
        self.image.is_some()
    }
}

impl fmt::Display for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = self.image.map_or("", |tensor| &tensor.name);
        write!(f, "{image}→{}", self.logits.name)
    }
}

/// A test as a classifier.
pub(crate) struct Wrapped {
    pub model: Model,
    /// The image.
    pub pixels: Vec<f32>,
    /// The logits.
    pub expected: Vec<f64>,
    /// Relative distance between neighboring numbers of the type in which the test was computed.
    pub epsilon: f64,
}

/// The tests of a folder: one for each set of numbers in it.
pub(crate) fn read(folder: &Path) -> Vec<Case> {
    let bytes = |path: PathBuf| match std::fs::read(&path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => panic!("{}: {error}", path.display()),
    };
    let name = folder.file_name().unwrap().to_string_lossy();
    let model = Model::decode(bytes(folder.join("model.onnx"))).unwrap();
    let graph = model.graph.as_ref().unwrap();
    let tensor = |set: &Path, kind: &str, i: usize, info: &ValueInfo| {
        // What is no tensor, a sequence say, stays one of undefined type.
        let tensor = match info.kind.as_ref().is_some_and(|kind| kind.tensor.is_some()) {
            true => Tensor::decode(bytes(set.join(format!("{kind}_{i}.pb")))).unwrap(),
            false => Tensor::default(),
        };
        let name = info.name.clone();
        Tensor { name, ..tensor }
    };
    let tensors = |set: &Path, kind: &str, infos: &[ValueInfo]| {
        let infos = infos.iter().enumerate();
        infos.map(|(i, info)| tensor(set, kind, i, info)).collect()
    };
    (0..)
        .map(|i| folder.join(format!("test_data_set_{i}")))
        .take_while(|set| set.is_dir())
        .map(|set| Case {
            name: name.to_string(),
            inputs: tensors(&set, "input", &graph.input),
            outputs: tensors(&set, "output", &graph.output),
            model: model.clone(),
        })
        .collect()
}

/// Whether a tensor's numbers are of one of these types.
fn is(tensor: &Tensor, kinds: &[DataType]) -> bool {
    kinds.iter().any(|&kind| tensor.data_type == kind as i32)
}

impl Case {
    fn nodes(&self) -> &[Node] {
        &self.model.graph.as_ref().unwrap().node
    }

    /// The operators of its nodes.
    pub(crate) fn operators(&self) -> impl Iterator<Item = &str> {
        self.nodes().iter().map(|node| node.op_type.as_str())
    }

    /// Whether these are all standard ones.
    pub(crate) fn is_standard(&self) -> bool {
        (self.nodes().iter()).all(|node| matches!(node.domain.as_str(), "" | "ai.onnx"))
    }

    /// Its runs: each float input with each float output that depends on it, and each output of
    /// constants. Pixels are float32, to which float64 numbers are rounded.
    pub(crate) fn runs(&self) -> Vec<Run<'_>> {
        let float = [DataType::Float, DataType::Float16, DataType::Double];
        let mut runs = Vec::new();
        for image in self.inputs.iter().filter(|x| is(x, &float)) {
            let dependent = self.dependent(&image.name);
            let logits = (self.outputs.iter())
                .filter(|y| is(y, &float) && dependent.contains(y.name.as_str()));
            runs.extend(logits.map(|logits| Run {
                image: Some(image),
                logits,
            }));
        }
        runs.extend(self.outputs.iter().map(|logits| Run {
            image: None,
            logits,
        }));
        runs
    }

    /// Tensors whose numbers depend on this one, and not just on its shape.
    fn dependent<'a>(&'a self, name: &'a str) -> HashSet<&'a str> {
        let mut names = HashSet::from([name]);
        let numeric = |node: &&Node| !matches!(node.op_type.as_str(), "Shape" | "Size");
        for node in self.nodes().iter().filter(numeric) {
            if node.input.iter().any(|name| names.contains(name.as_str())) {
                names.extend(node.output.iter().map(String::as_str));
            }
        }
        names
    }

    /// Relative distance between neighboring numbers of the least precise type that it has.
    fn epsilon(&self) -> f64 {
        let has = |kind| (self.inputs.iter().chain(&self.outputs)).any(|x| is(x, &[kind]));
        if self.name == FOUR_DECIMALS {
            1e-3
        } else if has(DataType::Bfloat16) {
            2f64.powi(-7)
        } else if has(DataType::Float16) {
            2f64.powi(-10)
        } else {
            f32::EPSILON.into()
        }
    }

    /// The classifier of a run.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn wrap(&self, run: &Run<'_>) -> Result<Wrapped, String> {
        let mut expected = numbers(run.logits)?;
        // The image of a run without one is a pixel that changes nothing.
        let pixel = floats("pixel", &[1, 1], vec![1.0]);
        let image = run.image.unwrap_or(&pixel);
        let pixels = numbers(image)?;

        let mut model = self.model.clone();
        for set in &mut model.opset_import {
            // A test has the opset in which its operator was last revised. Revisions up to the oldest
            // opset that the importer takes hold in it too; those after the newest only add element
            // types.
            set.version = set.version.clamp(*OPSETS.start(), *OPSETS.end());
        }

        let graph = model.graph.as_mut().unwrap();
        let others = self.inputs.iter().filter(|x| x.name != image.name);
        graph.initializer.extend(others.cloned());
        let head = reshape(graph, "image", &image.name, &image.dims);
        graph.node.insert(0, head);
        let row = [1, expected.len() as i64];
        let zero = floats("wrapper/zero", &[], vec![0.0]);
        if run.is_computed() {
            // The addition keeps the importer from seeing a sigmoid as the last node.
            let tail = [
                reshape(graph, &run.logits.name, "wrapper/row", &row),
                node("Add", &["wrapper/row", &zero.name], "logits", vec![]),
            ];
            graph.node.extend(tail);
        } else {
            let to = Attribute {
                name: "to".into(),
                kind: AttributeKind::Int as i32,
                i: DataType::Float as i64,
                ..Attribute::default()
            };
            let names = ["wrapper/cast", "wrapper/row", "wrapper/nothing"];
            let tail = [
                node("Cast", &[&run.logits.name], names[0], vec![to]),
                reshape(graph, names[0], names[1], &row),
                node("Mul", &[&image.name, &zero.name], names[2], vec![]),
                node("Add", &[names[1], names[2]], "logits", vec![]),
            ];
            graph.node.extend(tail);
        }
        graph.initializer.push(zero);
        // Of one logit the importer makes two.
        if expected.len() == 1 {
            expected.insert(0, 0.0);
        }
        graph.input = vec![info("image", Some(&[1, 1, 1, pixels.len() as i64]))];
        graph.output = vec![info("logits", None)];
        Ok(Wrapped {
            model,
            pixels: pixels.into_iter().map(|x| x as f32).collect(),
            expected,
            epsilon: self.epsilon(),
        })
    }
}

/// A tensor's numbers, as float32 has them.
fn numbers(tensor: &Tensor) -> Result<Vec<f64>, String> {
    let Constant { data, .. } = Files::new(Path::new("")).constant(tensor)?;
    let numbers: Vec<f64> = match data {
        Data::Float(data) => data.iter().map(|&x| x.into()).collect(),
        Data::Int(data) => data.iter().map(|&x| (x as f32).into()).collect(),
        Data::Bool(data) => data.iter().map(|&x| x.into()).collect(),
    };
    match numbers.is_empty() {
        true => Err(format!("tensor \"{}\" is empty", tensor.name)),
        false => Ok(numbers),
    }
}

fn floats(name: &str, dims: &[i64], data: Vec<f32>) -> Tensor {
    Tensor {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: data,
        ..Tensor::default()
    }
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
    Node {
        op_type: op.into(),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: vec![output.into()],
        attribute,
        ..Node::default()
    }
}

/// A node that reshapes; its target goes into the graph.
fn reshape(graph: &mut Graph, from: &str, to: &str, dims: &[i64]) -> Node {
    let shape = format!("wrapper/shape of {to}");
    graph.initializer.push(Tensor {
        name: shape.clone(),
        dims: vec![dims.len() as i64],
        data_type: DataType::Int64 as i32,
        int64_data: dims.to_vec(),
        ..Tensor::default()
    });
    node("Reshape", &[from, &shape], to, vec![])
}

/// A float input or output, of this shape or of any.
fn info(name: &str, dims: Option<&[i64]>) -> ValueInfo {
    let dim = |&size: &i64| Dim {
        value: Some(DimValue::Size(size)),
    };
    ValueInfo {
        name: name.into(),
        kind: Some(ValueType {
            tensor: Some(TensorType {
                element: DataType::Float as i32,
                shape: dims.map(|dims| Shape {
                    dim: dims.iter().map(dim).collect(),
                }),
            }),
        }),
    }
}
