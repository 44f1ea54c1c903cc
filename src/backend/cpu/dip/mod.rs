//! DIP engines of the cpu backend.

pub mod blocked;
pub mod lanes;
