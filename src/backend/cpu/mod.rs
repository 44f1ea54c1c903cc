//! The cpu backend: float32, SIMD and threads.

pub mod blocked;
pub mod dip;
pub mod peak;
pub mod simd;
