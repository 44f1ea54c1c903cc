//! The cpu backend: float32, SIMD and threads.

pub mod blocked;
pub mod classifier;
pub mod function;
pub mod peak;
pub mod simd;
