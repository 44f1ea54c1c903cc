//! The victim: ONNX import, our own graph, and the passes that make it fit to run.

/// A classifier's graph.
#[derive(Clone, Debug)]
pub struct Graph {}
