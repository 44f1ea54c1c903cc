//! The numbers that pixels are on the host.

use std::ops::{Add, Mul, Sub};

/// The number type of a host backend.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Into<f64>
    + From<f32>
    + 'static
{
    /// Rounds to the nearest.
    fn from_f64(x: f64) -> Self;
    /// Rounds to the nearest.
    fn to_f32(self) -> f32;
}

impl Real for f32 {
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Real for f64 {
    fn from_f64(x: f64) -> Self {
        x
    }
    fn to_f32(self) -> f32 {
        self as f32
    }
}
