//! Total-variation minimization.

use serde::{Deserialize, Serialize};

use super::{Baseline, check, per_channel};
use crate::error::{Error, Result};
use crate::picture::Picture;

/// The step of the dual ascent: 1 / (2 · axes), which converges in practice (Chambolle 2004, section 4);
/// convergence is proven for half of it.
const STEP: f64 = 0.25;
/// Iteration ends when the energy changes by less than this share of the first energy.
const TOLERANCE: f64 = 2e-4;
/// The largest number of iterations.
const MAX_ITERATIONS: usize = 200;

/// Total-variation minimization (Guo et al., "Countering adversarial images using input
/// transformations", 2018): the picture `u` that minimizes `½‖u − x‖² + weight·TV(u)` in each channel
/// separately (Rudin, Osher and Fatemi 1992), found by Chambolle's projection ("An algorithm for total variation
/// minimization and applications", 2004). TV is isotropic, with forward differences. Guo et al. also drop half of
/// the pixels at random; here no pixel is dropped, so that the result is deterministic.
///
/// Constants and stopping rule are those of scikit-image's `denoise_tv_chambolle`: iteration ends when the energy
/// `‖u − x‖² + weight·TV(u)` changes by less than 2·10⁻⁴ of its first value, or after 200 iterations. The result
/// is clipped to `[0, 1]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TotalVariation {
    /// Weight of the total variation, above 0 and at most 100; from about 0.5 on little more than the picture's
    /// mean is left.
    pub weight: f64,
}

impl Default for TotalVariation {
    /// scikit-image's default weight, 0.1.
    fn default() -> Self {
        TotalVariation { weight: 0.1 }
    }
}

impl Baseline for TotalVariation {
    fn name(&self) -> String {
        format!("tv-{}", self.weight)
    }

    fn validate(&self) -> Result<()> {
        match self.weight > 0.0 && self.weight <= 100.0 {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "tv: weight must be above 0 and at most 100, not {}",
                self.weight
            ))),
        }
    }

    fn apply(&self, picture: &Picture) -> Result<Vec<f32>> {
        check(self, picture)?;
        Ok(per_channel(picture, |plane, _, width| {
            let plane: Vec<f64> = plane.iter().map(|&x| x.into()).collect();
            let smooth = minimize(&plane, width, self.weight, TOLERANCE, MAX_ITERATIONS);
            smooth.iter().map(|&x| x.clamp(0.0, 1.0) as f32).collect()
        }))
    }
}

/// The `u` with the least `½‖u − x‖² + weight·TV(u)`, for a plane `x` of rows of `width`.
///
/// The dual variable is a vector for each pixel, of length at most `weight`; `u` is `x` less the dual's
/// divergence.
pub(super) fn minimize(
    x: &[f64],
    width: usize,
    weight: f64,
    tolerance: f64,
    iterations: usize,
) -> Vec<f64> {
    let mut dual = vec![[0.0f64; 2]; x.len()];
    let mut u = x.to_vec();
    let mut first_energy = None;
    let mut last_energy = f64::INFINITY;
    for _ in 0..iterations {
        let energy =
            descend(x, &dual, width, &mut u) + weight * ascend(&u, &mut dual, width, weight);
        let first = *first_energy.get_or_insert(energy);
        if (last_energy - energy).abs() <= tolerance * first {
            break;
        }
        last_energy = energy;
    }
    u
}

/// Computes `u` from the dual; gives the squared distance of `u` from `x`.
fn descend(x: &[f64], dual: &[[f64; 2]], width: usize, u: &mut [f64]) -> f64 {
    let mut distance = 0.0;
    for (i, (u, x)) in u.iter_mut().zip(x).enumerate() {
        let above = if i >= width { dual[i - width][0] } else { 0.0 };
        let left = if i % width > 0 { dual[i - 1][1] } else { 0.0 };
        let change = above + left - dual[i][0] - dual[i][1];
        distance += change * change;
        *u = x + change;
    }
    distance
}

/// Makes one step of the dual along the gradient of `u`, scaled to its bound; gives the total variation of `u`.
fn ascend(u: &[f64], dual: &mut [[f64; 2]], width: usize, weight: f64) -> f64 {
    let mut variation = 0.0;
    for (i, dual) in dual.iter_mut().enumerate() {
        let down = u.get(i + width).map_or(0.0, |below| below - u[i]);
        let right = if (i + 1) % width > 0 {
            u[i + 1] - u[i]
        } else {
            0.0
        };
        let length = (down * down + right * right).sqrt();
        variation += length;
        let scale = 1.0 / (1.0 + STEP / weight * length);
        dual[0] = (dual[0] - STEP * down) * scale;
        dual[1] = (dual[1] - STEP * right) * scale;
    }
    variation
}
