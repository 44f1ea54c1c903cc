//! From an ONNX file to a graph that is fit to run.

use std::path::Path;

use super::graph::{Graph, LoadOptions};
use super::{onnx, passes};
use crate::error::Result;

impl Graph {
    /// Loads the ONNX model at `path`, fit to run.
    ///
    /// # Errors
    /// The file cannot be read, is not a sound ONNX model, or holds what cannot be run: then the
    /// error lists every such node with its reason.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Graph> {
        let mut graph = onnx::import(path.as_ref(), options)?;
        passes::run(&mut graph);
        Ok(graph)
    }
}
