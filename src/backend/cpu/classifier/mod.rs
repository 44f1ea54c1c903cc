//! The cpu backend's classifier engine.

mod function;
mod gemm;
mod memory;
