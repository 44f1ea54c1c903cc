//! The baselines that evaluations compare with: known transformations of the picture only, without a classifier
//! and random numbers.
//!
//! Each is a struct of its options that implements [`Baseline`]; [`Method`] is any of them. DIPDefend, which
//! evaluations compare with too, uses this crate's engine and is part of the defense.

mod bit_depth;
mod jpeg;
mod median;
mod method;
#[cfg(test)]
mod tests;
mod total_variation;

pub use bit_depth::BitDepth;
pub use jpeg::Jpeg;
pub use median::Median;
pub use method::{Method, Nothing, defaults};
pub use total_variation::TotalVariation;

use crate::error::{Error, Result};
use crate::picture::Picture;

/// A defense that transforms the picture alone. The same picture always gives the same result.
pub trait Baseline: Send + Sync {
    /// What tables call it: the transformation and its strength, such as `jpeg-75`.
    fn name(&self) -> String;

    /// Checks every option.
    ///
    /// # Errors
    /// One that cannot be used; the message names it and its range.
    fn validate(&self) -> Result<()>;

    /// The transformed picture: CHW in `[0, 1]`, of the same shape.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), or the picture's pixels are not those of its shape, or not in
    /// `[0, 1]`.
    fn apply(&self, picture: &Picture) -> Result<Vec<f32>>;
}

/// Checks a baseline's options and the picture that it is for.
fn check(baseline: &dyn Baseline, picture: &Picture) -> Result<()> {
    baseline.validate()?;
    let shape = picture.shape;
    if shape.channels != 3
        || shape.height == 0
        || shape.width == 0
        || picture.pixels.len() != 3 * shape.height * shape.width
    {
        return Err(Error::invalid(format!(
            "{}: {} numbers are no picture of {} channels and {}×{} pixels",
            baseline.name(),
            picture.pixels.len(),
            shape.channels,
            shape.width,
            shape.height
        )));
    }
    match picture.pixels.iter().find(|x| !(0.0..=1.0).contains(*x)) {
        Some(bad) => Err(Error::invalid(format!(
            "{}: a pixel is {bad}; pixels must be from 0 to 1",
            baseline.name()
        ))),
        None => Ok(()),
    }
}

/// Refuses an option that is out of its range, both ends of which are allowed.
fn within<T: PartialOrd + std::fmt::Display>(option: &str, x: T, from: T, to: T) -> Result<()> {
    match from <= x && x <= to {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{option} must be from {from} to {to}, not {x}"
        ))),
    }
}

/// The picture with `f(plane, height, width)` in each channel's place.
fn per_channel(picture: &Picture, f: impl Fn(&[f32], usize, usize) -> Vec<f32>) -> Vec<f32> {
    let (height, width) = (picture.shape.height, picture.shape.width);
    let planes = picture.pixels.chunks_exact(height * width);
    planes.flat_map(|plane| f(plane, height, width)).collect()
}
