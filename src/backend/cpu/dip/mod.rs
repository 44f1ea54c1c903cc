//! DIP engines of the cpu backend.

pub mod lanes;
