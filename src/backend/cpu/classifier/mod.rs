//! The cpu backend's classifier engine.

mod gemm;
mod memory;
