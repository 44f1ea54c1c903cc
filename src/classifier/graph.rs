//! The graph that every backend executes.
//!
//! A graph says what happens to **one image**: every shape in it is the ONNX shape at batch size 1,
//! and all of them are known. A batch is any number of independent copies: for `n` images a value
//! of shape `dims` is `n` blocks of `dims` elements, one after another, and constants exist once.
//! Nodes never mix images, so where the leading dimension is `k` (1 for most layers, the number of
//! windows in a Swin transformer), a backend may run the `n` blocks as one tensor whose leading
//! dimension is `n·k`.

use std::sync::Arc;

use super::Function;
use crate::picture::ImageShape;

/// Names a value of a graph: an index into [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub usize);

/// A tensor: one that is computed for each image, or a constant. All are float32.
#[derive(Clone, Debug)]
pub struct Value {
    /// The ONNX name; passes that make values derive theirs from it.
    pub name: String,
    /// Shape, row-major, at batch size 1.
    pub dims: Vec<usize>,
    /// A constant's elements; `None` for what is computed from the image.
    pub data: Option<Arc<[f32]>>,
}

impl Value {
    /// Elements (of one image's block, where the value is computed).
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// One operation. Its output's shape is the output value's `dims`.
#[derive(Clone, Debug)]
pub struct Node {
    /// The ONNX node's name, or its output's where it has none.
    pub name: String,
    /// What is computed.
    pub op: Op,
    /// What each stands for is said at the [`Op`].
    pub inputs: Vec<ValueId>,
    /// The value that the node computes; no other node computes it.
    pub output: ValueId,
}

/// Rows and columns of zeros (or of nothing, for a pool) around a picture.
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
/// Output row `y` reads input rows `y·strides[0] − pads.top + k·dilations[0]` for `k` in
/// `0..kernel[0]`, columns alike; rows outside the input are padding. The last window of a pool may
/// reach beyond the bottom and right padding too (ONNX's `ceil_mode`); the output's shape tells.
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
    /// Whether the padding counts in an average's divisor. What a window covers beyond the
    /// padding never counts.
    pub count_include_pad: bool,
}

/// An elementwise function of two tensors, which broadcast as NumPy's do.
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

/// What a reduction keeps of the elements it joins.
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

/// An operation with its attributes resolved.
///
/// Pictures are NCHW. "Constant" inputs are always constants (their values have data); the others
/// may be either, except that at least one input of every node is computed from the image.
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
    /// The function of each element.
    Map(Function),
    /// Inputs broadcast to the output's shape.
    Binary(Binary),
    /// Padding and what lies beyond it never is the maximum.
    MaxPool(Pool),
    /// The mean of each window; [`Pool::count_include_pad`] says what it is divided by.
    AveragePool(Pool),
    /// Joins the elements along `axes` (ascending). The output's shape keeps them as 1 or drops
    /// them; the order of its elements is the same.
    Reduce {
        /// What each set of joined elements becomes.
        kind: Reduction,
        /// Indices of the joined axes, from 0, ascending.
        axes: Vec<usize>,
    },
    /// `(x − mean) / sqrt(variance + epsilon)`, with the statistics of the elements along `axis` and
    /// all axes after it.
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
    /// The same elements in a new shape: flatten, squeeze and unsqueeze too.
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
    /// `before` elements of padding ahead of each axis; the output's shape tells how many follow.
    Pad {
        /// For each axis, the padding's elements before the input's first.
        before: Vec<usize>,
        /// What the padding holds.
        mode: PadMode,
    },
    /// The input broadcast to the output's shape.
    Expand,
    /// Output index `i` on `axis` reads input index `indices[i]`. The output's shape may hold the
    /// axis as several, or drop it; the order of its elements is the same.
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
    /// The function that the operation ends with, where it is one that can end with one.
    pub fn activation(&self) -> Option<Function> {
        match self {
            Op::Conv(Conv { activation, .. })
            | Op::Gemm { activation }
            | Op::ScaleShift { activation } => *activation,
            _ => None,
        }
    }

    /// Where the operation keeps the function it ends with.
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

/// How a model's file lays its images out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum InputLayout {
    /// Channels before rows and columns.
    #[default]
    Nchw,
    /// Channels last.
    Nhwc,
}

impl InputLayout {
    /// As options spell it.
    pub fn name(self) -> &'static str {
        match self {
            InputLayout::Nchw => "nchw",
            InputLayout::Nhwc => "nhwc",
        }
    }
}

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Height and width to run at, for a model that leaves them free; one that fixes others is
    /// refused.
    pub image_size: Option<(usize, usize)>,
    /// Where the model has its channels; by default where its input's shape has 1 or 3.
    pub input_layout: Option<InputLayout>,
    /// The output that is the logits, for a model that has several.
    pub output_name: Option<String>,
}

/// What of the model's file the graph stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Source {
    /// Name of the output that the logits are.
    pub output: String,
    /// How the model lays images out; the graph takes them channels first.
    pub layout: InputLayout,
    /// Whether the model takes integers from 0 to 255, of which the graph makes pixels in `[0, 1]`.
    pub bytes: bool,
    /// Whether the model has one logit `z`, of which the graph makes the two `(0, z)`.
    pub binary: bool,
}

/// A classifier: from an image to a row of logits.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The image, `[1, channels, height, width]`, 1 or 3 channels.
    pub input: ValueId,
    /// The logits, `[1, classes]`.
    pub output: ValueId,
    /// In an order in which every input is computed before it is used.
    pub nodes: Vec<Node>,
    /// The tensors, indexed by [`ValueId`].
    pub values: Vec<Value>,
    /// What the user should know about this model, one line each.
    pub warnings: Vec<String>,
    /// What of the model's file the graph stands for.
    pub source: Source,
}

impl Graph {
    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }

    /// A constant's elements, `None` for what is computed from the image.
    pub fn constant(&self, id: ValueId) -> Option<&[f32]> {
        self.values[id.0].data.as_deref()
    }

    /// Shape of the images it takes.
    pub fn input_shape(&self) -> ImageShape {
        let dims = &self.value(self.input).dims;
        ImageShape {
            channels: dims[1],
            height: dims[2],
            width: dims[3],
        }
    }

    /// Length of a row of logits.
    pub fn classes(&self) -> usize {
        self.value(self.output).dims[1]
    }

    /// The node that makes the output, changes of shape looked through.
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

    /// Whether the output is probabilities (a softmax, perhaps in another shape) instead of logits.
    pub fn output_is_softmax(&self) -> bool {
        let last = self.last();
        last.is_some_and(|node| matches!(node.op, Op::Softmax { .. }))
    }

    /// Puts `(x − mean) / std`, by channel, in front of the first layer, so that the graph takes
    /// pixels in `[0, 1]`. `mean` and `std` have the input's channels; `std` has no zero.
    pub fn normalize_input(&mut self, mean: &[f32], std: &[f32]) {
        let dims = self.value(self.input).dims.clone();
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
        let output = self.add_value(Value {
            name: "normalized".into(),
            dims,
            data: None,
        });
        for node in &mut self.nodes {
            for input in node.inputs.iter_mut().filter(|input| **input == self.input) {
                *input = output;
            }
        }
        let node = Node {
            name: "normalize".into(),
            op: Op::ScaleShift { activation: None },
            inputs: vec![self.input, scale, shift],
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
