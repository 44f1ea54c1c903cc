//! Bit-depth reduction.

use serde::{Deserialize, Serialize};

use super::{Baseline, check, within};
use crate::error::Result;
use crate::picture::Picture;

/// Bit-depth reduction (Xu et al., "Feature squeezing: detecting adversarial examples in deep neural
/// networks", 2018): each value is rounded to the nearest of `2^bits` levels from 0 to 1, halves to even.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BitDepth {
    /// Bits of each value, from 1 to 8.
    pub bits: u32,
}

impl Default for BitDepth {
    /// 3 bits, as in Guo et al.'s comparison.
    fn default() -> Self {
        BitDepth { bits: 3 }
    }
}

impl Baseline for BitDepth {
    fn name(&self) -> String {
        format!("bits-{}", self.bits)
    }

    fn validate(&self) -> Result<()> {
        within("bits", self.bits, 1, 8)
    }

    fn apply(&self, picture: &Picture) -> Result<Vec<f32>> {
        check(self, picture)?;
        let steps = ((1u32 << self.bits) - 1) as f32;
        let nearest = |x: &f32| (x * steps).round_ties_even() / steps;
        Ok(picture.pixels.iter().map(nearest).collect())
    }
}
