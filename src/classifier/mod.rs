//! The victim: ONNX import, our own graph, and the passes that make it fit to run.

pub mod function;
pub mod graph;
pub mod layout;
pub mod onnx;
pub mod passes;

pub use function::Function;
pub use graph::{
    Binary, Conv, Graph, LoadOptions, Node, Op, PadMode, Pads, Pool, Reduction, Value, ValueId,
    Window,
};
