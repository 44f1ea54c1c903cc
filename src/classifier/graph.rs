//! The graph that every backend executes.
//!
//! A graph says what happens to **one image**: every shape in it is the ONNX shape at batch size 1,
//! and all of them are known. A batch is any number of independent copies: for `n` images a value
//! of shape `dims` is `n` blocks of `dims` elements, one after another, and constants exist once.
//! Nodes never mix images, so where the leading dimension is `k` (1 for most layers, the number of
//! windows in a Swin transformer), a backend may run the `n` blocks as one tensor whose leading
//! dimension is `n·k`.

use std::path::PathBuf;
use std::sync::Arc;

use super::Function;
use crate::picture::ImageShape;

/// Identifies a value of a graph: an index into [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub usize);

/// A float32 tensor: a constant, or one that is computed for each image.
#[derive(Clone, Debug)]
pub struct Value {
    /// The ONNX name; passes derive the names of new values from those they replace.
    pub name: String,
    /// Shape, row-major, at batch size 1.
    pub dims: Vec<usize>,
    /// A constant's elements; `None` for a value that is computed from the image.
    pub data: Option<Arc<[f32]>>,
}

impl Value {
    /// Number of elements, for one image.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// One operation. Its output's shape is the output value's `dims`.
#[derive(Clone, Debug)]
pub struct Node {
    /// The ONNX node's name, or its output's if it has none.
    pub name: String,
    /// What is computed.
    pub op: Op,
    /// The values that the node reads, in the order that [`Op`] documents.
    pub inputs: Vec<ValueId>,
    /// The value that the node computes; no other node computes it.
    pub output: ValueId,
}

/// Rows and columns of padding around a picture: zeros for a convolution, nothing for a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pads {
    /// Rows above the picture.
    pub top: usize,
    /// Columns to the left of the picture.
    pub left: usize,
    /// Rows below the picture.
    pub bottom: usize,
    /// Columns to the right of the picture.
    pub right: usize,
}

/// How a kernel moves over a picture; pairs are (vertical, horizontal).
///
/// Output row `y` reads input rows `y·strides[0] − pads.top + k·dilations[0]` for `k` in `0..kernel[0]`, and columns
/// likewise; rows outside the input are padding. The last window of a pool may reach beyond the padding at the bottom
/// and right (ONNX's `ceil_mode`); this follows from the output's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width of the kernel in elements, before dilation.
    pub kernel: [usize; 2],
    /// Input rows and columns between neighboring output elements.
    pub strides: [usize; 2],
    /// Input rows and columns between neighboring kernel elements; 1 for a dense kernel.
    pub dilations: [usize; 2],
    /// The padding around the input.
    pub pads: Pads,
}

/// Attributes of [`Op::Conv`].
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// How the kernel moves over the picture.
    pub window: Window,
    /// Groups that the input's and the output's channels are split into; group `i` of the output depends on
    /// group `i` of the input alone.
    pub group: usize,
    /// The function applied last; `None` for none.
    pub activation: Option<Function>,
}

/// Attributes of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How the pool's window moves over the picture.
    pub window: Window,
    /// Whether an average's divisor counts the padding. It never counts what a window covers beyond the padding.
    pub count_include_pad: bool,
}

/// An elementwise function of two tensors, which broadcast by NumPy's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a − b`.
    Sub,
    /// `a · b`.
    Mul,
    /// `a / b`.
    Div,
    /// `a` to the power `b`.
    Pow,
    /// The smaller of `a` and `b`.
    Min,
    /// The larger of `a` and `b`.
    Max,
}

/// What a reduction computes from the elements it joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The arithmetic mean.
    Mean,
    /// The sum.
    Sum,
    /// The largest element.
    Max,
    /// Square root of the sum of squares.
    L2,
}

/// An operation with its attributes.
///
/// Pictures are NCHW. Inputs called constant always are constants (their values have data); others may be constant
/// or computed, but at least one input of every node is computed from the image.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Inputs: picture `[k, in, h, w]`; constant weight `[out, in/group, kh, kw]`; constant bias
    /// `[out]`; and, where there are four, a residual of the output's shape. Output
    /// `activation(convolution + bias + residual)`.
    Conv(Conv),
    /// A linear layer on the last axis. Inputs: `[.., in]`; constant weight `[out, in]`; constant
    /// bias `[out]`; and, where there are four, a residual of the output's shape. Output
    /// `activation(x·weightᵀ + bias + residual)`, `[.., out]`.
    Gemm {
        /// The function applied last; `None` for none.
        activation: Option<Function>,
    },
    /// Matrix products over the last two axes, `[.., m, k] × [.., k, n]`; the axes before them
    /// broadcast.
    MatMul,
    /// `activation(x·scale + shift)` by channel: inputs `[k, c, ..]`, constant `[c]`, constant `[c]`.
    ScaleShift {
        /// The function applied last; `None` for none.
        activation: Option<Function>,
    },
    /// A function applied to each element.
    Map(Function),
    /// A function of two inputs, which broadcast to the output's shape.
    Binary(Binary),
    /// The maximum of each window, without the padding and what is beyond it.
    MaxPool(Pool),
    /// The mean of each window; [`Pool::count_include_pad`] says what it is divided by.
    AveragePool(Pool),
    /// Joins the elements along `axes`. In the output's shape these axes are 1 or dropped; the order of the elements
    /// is the same in both cases.
    Reduce {
        /// What each set of joined elements becomes.
        kind: Reduction,
        /// Indices of the joined axes, from 0, ascending.
        axes: Vec<usize>,
    },
    /// `(x − mean) / sqrt(variance + epsilon)`, with mean and variance over `axis` and all axes after it.
    Normalize {
        /// Index of the first normalized axis, from 0.
        axis: usize,
        /// Added to the variance, so that nothing is divided by 0.
        epsilon: f32,
    },
    /// `exp(x) / Σ exp(x)`, with the sum along `axis`.
    Softmax {
        /// Index of the axis, from 0.
        axis: usize,
    },
    /// `x − ln Σ exp(x)`, with the sum along `axis`.
    LogSoftmax {
        /// Index of the axis, from 0.
        axis: usize,
    },
    /// The same elements in a new shape; also ONNX's flatten, squeeze and unsqueeze.
    Reshape,
    /// Output axis `i` is input axis `perm[i]`.
    Transpose {
        /// For each output axis, the index of its input axis.
        perm: Vec<usize>,
    },
    /// The inputs one after another along `axis`; their other axes are equal.
    Concat {
        /// Index of the axis, from 0.
        axis: usize,
    },
    /// Output index `i` on an axis reads input index `starts + i·steps`.
    Slice {
        /// For each axis, the first input index that is read.
        starts: Vec<usize>,
        /// For each axis, the step from one input index to the next; negative to read backwards.
        steps: Vec<isize>,
    },
    /// Padding around the input: `before` elements at each axis's start; those at its end follow from the output's
    /// shape.
    Pad {
        /// For each axis, the padding's elements before the input's first.
        before: Vec<usize>,
        /// What the padding holds.
        mode: PadMode,
    },
    /// The input broadcast to the output's shape.
    Expand,
    /// Output index `i` on `axis` reads input index `indices[i]`. The output's shape may have several axes in place of
    /// this one, or none; the order of the elements is the same.
    Gather {
        /// Index of the input's axis, from 0.
        axis: usize,
        /// The input indices that are read, from 0, in the output's order.
        indices: Vec<usize>,
    },
}

/// What padding holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// This number.
    Constant(f32),
    /// The picture mirrored, its edge not repeated.
    Reflect,
    /// The edge repeated.
    Edge,
}

impl Op {
    /// The function applied last; `None` if there is none, or if the operation cannot have one.
    pub fn activation(&self) -> Option<Function> {
        match self {
            Op::Conv(Conv { activation, .. })
            | Op::Gemm { activation }
            | Op::ScaleShift { activation } => *activation,
            _ => None,
        }
    }

    /// The place for the function applied last; `None` if the operation cannot have one.
    pub fn activation_mut(&mut self) -> Option<&mut Option<Function>> {
        match self {
            Op::Conv(Conv { activation, .. })
            | Op::Gemm { activation }
            | Op::ScaleShift { activation } => Some(activation),
            _ => None,
        }
    }

    /// The operation's name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv(_) => "Conv",
            Op::Gemm { .. } => "Gemm",
            Op::MatMul => "MatMul",
            Op::ScaleShift { .. } => "ScaleShift",
            Op::Map(_) => "Map",
            Op::Binary(_) => "Binary",
            Op::MaxPool(_) => "MaxPool",
            Op::AveragePool(_) => "AveragePool",
            Op::Reduce { .. } => "Reduce",
            Op::Normalize { .. } => "Normalize",
            Op::Softmax { .. } => "Softmax",
            Op::LogSoftmax { .. } => "LogSoftmax",
            Op::Reshape => "Reshape",
            Op::Transpose { .. } => "Transpose",
            Op::Concat { .. } => "Concat",
            Op::Slice { .. } => "Slice",
            Op::Pad { .. } => "Pad",
            Op::Expand => "Expand",
            Op::Gather { .. } => "Gather",
        }
    }
}

/// The order of the axes of a model's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum InputLayout {
    /// Channels first: image, channel, row, column.
    #[default]
    Nchw,
    /// Channels last: image, row, column, channel.
    Nhwc,
}

impl InputLayout {
    /// The layout's name in options: `nchw` or `nhwc`.
    pub fn name(self) -> &'static str {
        match self {
            InputLayout::Nchw => "nchw",
            InputLayout::Nhwc => "nhwc",
        }
    }
}

/// Options of loading a model.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Height and width of the input, in pixels, for a model that leaves them free; a model that fixes other sizes is
    /// refused.
    pub image_size: Option<(usize, usize)>,
    /// The order of the input's axes; `None`: the channels are the axis of 1 or 3 in its shape.
    pub input_layout: Option<InputLayout>,
    /// Name of the output that is the logits, for a model that has several outputs.
    pub output_name: Option<String>,
}

/// Which part of a model's file the graph stands for, and what was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Source {
    /// Name of the model's output that gives the logits.
    pub output: String,
    /// The order of the model's input axes; the graph's input has channels first.
    pub layout: InputLayout,
    /// Whether the model takes integers from 0 to 255; the graph takes pixels in `[0, 1]` in any case.
    pub bytes: bool,
    /// Whether the model has a single logit `z`; the graph gives the two logits `(0, z)`.
    pub binary: bool,
}

/// A classifier: computes a row of logits from an image.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The image, `[1, channels, height, width]`, 1 or 3 channels.
    pub input: ValueId,
    /// The logits, `[1, classes]`.
    pub output: ValueId,
    /// The nodes, in an order in which every value is computed before it is used.
    pub nodes: Vec<Node>,
    /// The tensors, indexed by [`ValueId`].
    pub values: Vec<Value>,
    /// Warnings about this model for the user, one line each.
    pub warnings: Vec<String>,
    /// Which part of the model's file the graph stands for, and what was changed.
    pub source: Source,
    /// The files of external data that were read.
    pub external: Vec<PathBuf>,
}

impl Graph {
    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }

    /// A constant's elements; `None` for a value that is computed from the image.
    pub fn constant(&self, id: ValueId) -> Option<&[f32]> {
        self.values[id.0].data.as_deref()
    }

    /// Shape of the images that it takes.
    pub fn input_shape(&self) -> ImageShape {
        let dims = &self.value(self.input).dims;
        ImageShape {
            channels: dims[1],
            height: dims[2],
            width: dims[3],
        }
    }

    /// Number of classes: the length of a row of logits.
    pub fn classes(&self) -> usize {
        self.value(self.output).dims[1]
    }

    /// The node that computes the output, before any nodes that only reshape it; `None` if there is none.
    pub fn last(&self) -> Option<&Node> {
        let mut id = self.output;
        for node in self.nodes.iter().rev() {
            match node.op {
                _ if node.output != id => {}
                Op::Reshape => id = node.inputs[0],
                _ => return Some(node),
            }
        }
        None
    }

    /// Whether the output is probabilities instead of logits: a softmax, possibly reshaped.
    pub fn output_is_softmax(&self) -> bool {
        let last = self.last();
        last.is_some_and(|node| matches!(node.op, Op::Softmax { .. }))
    }

    /// Inserts `(x − mean) / std` for each channel before the first layer, so that the graph takes pixels in `[0, 1]`.
    /// `mean` and `std` have one number for each channel; those of `std` are not 0.
    pub fn normalize_input(&mut self, mean: &[f32], std: &[f32]) {
        let mut constant = |name: &str, data: Vec<f32>| {
            self.add_value(Value {
                name: name.into(),
                dims: vec![data.len()],
                data: Some(data.into()),
            })
        };
        let scale = constant("normalize_scale", std.iter().map(|s| 1.0 / s).collect());
        let shifts = mean.iter().zip(std).map(|(m, s)| -m / s);
        let shift = constant("normalize_shift", shifts.collect());
        let op = Op::ScaleShift { activation: None };
        self.put_first("normalize", op, &[scale, shift]);
    }

    /// Reverses the order of the channels in front of the first layer, so that a graph which takes blue, green,
    /// red takes red, green, blue.
    pub fn reverse_channels(&mut self) {
        let indices = (0..self.input_shape().channels).rev().collect();
        self.put_first("reverse_channels", Op::Gather { axis: 1, indices }, &[]);
    }

    /// Puts a node that keeps the image's shape in front of all others; `constants` are its inputs after the image.
    fn put_first(&mut self, name: &str, op: Op, constants: &[ValueId]) {
        let output = self.add_value(Value {
            name: name.into(),
            dims: self.value(self.input).dims.clone(),
            data: None,
        });
        for node in &mut self.nodes {
            for input in node.inputs.iter_mut().filter(|input| **input == self.input) {
                *input = output;
            }
        }
        let node = Node {
            name: name.into(),
            op,
            inputs: [&[self.input][..], constants].concat(),
            output,
        };
        self.nodes.insert(0, node);
    }

    /// Adds a value.
    pub fn add_value(&mut self, value: Value) -> ValueId {
        self.values.push(value);
        ValueId(self.values.len() - 1)
    }
}
