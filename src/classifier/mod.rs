//! The classifier: ONNX import, our own graph, and the passes that make it fit to run.
//!
//! [`Graph::load`] is the way in: [`onnx`] translates a file operator by operator, with every shape
//! resolved and shape arithmetic folded by the `interpreter`; `passes` rewrite the graph; backends
//! execute it. An operator is one row of [`onnx::OPERATORS`] and the function it names; only one that is
//! not a combination of existing [`Op`]s needs a new variant, and then one place in the interpreter and
//! in each backend.

pub(crate) mod function;
pub(crate) mod graph;
pub(crate) mod interpreter;
pub(crate) mod layout;
mod load;
#[doc(hidden)] // for the crate's own tests, benchmarks and binary
pub mod onnx;
pub(crate) mod passes;

pub use function::Function;
pub use graph::{
    Binary, Conv, Graph, InputLayout, LoadOptions, Node, Op, PadMode, Pads, Pool, Reduction,
    Source, Value, ValueId, Window,
};
