//! The median filter.

use serde::{Deserialize, Serialize};

use super::{Baseline, check, per_channel};
use crate::error::{Error, Result};
use crate::picture::Picture;

/// The largest window's side.
const MAX_SIZE: usize = 15;

/// The median filter (Xu et al., "Feature squeezing: detecting adversarial examples in deep neural
/// networks", 2018): each value becomes the median of the square window around it, in each channel separately.
/// Beyond an edge the picture is mirrored with the edge pixel repeated, as in SciPy's `reflect`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Median {
    /// The window's side in pixels, odd, from 1 to 15.
    pub size: usize,
}

impl Default for Median {
    /// A window of 3×3.
    fn default() -> Self {
        Median { size: 3 }
    }
}

impl Baseline for Median {
    fn name(&self) -> String {
        format!("median-{}", self.size)
    }

    fn validate(&self) -> Result<()> {
        match self.size % 2 == 1 && self.size <= MAX_SIZE {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "median: size must be odd and from 1 to {MAX_SIZE}, not {}",
                self.size
            ))),
        }
    }

    fn apply(&self, picture: &Picture) -> Result<Vec<f32>> {
        check(self, picture)?;
        Ok(per_channel(picture, |plane, height, width| {
            filter(plane, height, width, self.size)
        }))
    }
}

/// The medians of one channel.
fn filter(plane: &[f32], height: usize, width: usize, size: usize) -> Vec<f32> {
    // The indices `i + k - size / 2` for every k of the window, mirrored at the edges.
    let around = |i: usize, n: usize| (0..size).map(move |k| mirrored(i + k, size / 2, n));
    let mut window = Vec::with_capacity(size * size);
    let mut medians = Vec::with_capacity(plane.len());
    for y in 0..height {
        for x in 0..width {
            window.clear();
            for row in around(y, height) {
                window.extend(around(x, width).map(|column| plane[row * width + column]));
            }
            let middle = window.len() / 2;
            medians.push(*window.select_nth_unstable_by(middle, f32::total_cmp).1);
        }
    }
    medians
}

/// Index in `0..n` of pixel `i - before`, with the axis mirrored at both ends, edge pixels repeated, as often as
/// needed.
fn mirrored(i: usize, before: usize, n: usize) -> usize {
    let period = 2 * n;
    let place = (i + period * before - before) % period;
    place.min(period - 1 - place)
}
