//! The cpu backend: float32, SIMD and threads.

pub mod dip;
pub mod simd;
