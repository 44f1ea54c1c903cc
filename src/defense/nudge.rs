//! Where no path has a point of the recovered label: a reconstruction is changed a little until it has it.
//!
//! The input's views can speak for a label that is second everywhere on the map. A picture of that label is
//! then made as an anti-adversary is (Alfarra et al. 2022, "Combating Adversaries with Anti-Adversaries"): by
//! small steps along the classifier's own gradient, which raise the label's margin.

use super::{Oracle, Reading};
use crate::error::Result;

/// How far a step moves each pixel: one level of an 8-bit picture.
const STEP: f32 = 1.0 / 255.0;

/// More steps would draw a new picture rather than nudge one.
const MAX_STEPS: usize = 8;

/// Moves an image until the margin of `label` reaches `wanted`, or the steps are spent.
pub(super) fn nudge(
    oracle: &mut dyn Oracle,
    (label, wanted): (usize, f64),
    pixels: &mut [f32],
) -> Result<()> {
    for _ in 0..MAX_STEPS {
        let mut margin = |_: usize, logits: &[f32], derivative: &mut [f32]| {
            derivative.fill(0.0);
            if let Some(rival) = Reading::new(logits).rival(label) {
                derivative[label] = 1.0;
                derivative[rival] = -1.0;
            }
        };
        let (reading, uphill) = (oracle.differentiate(&[&*pixels], &mut margin)?).swap_remove(0);
        if reading.margin(label) >= wanted {
            break;
        }
        for (pixel, slope) in pixels.iter_mut().zip(uphill) {
            let way = f32::from(i8::from(slope > 0.0) - i8::from(slope < 0.0));
            *pixel = (*pixel + STEP * way).clamp(0.0, 1.0);
        }
    }
    Ok(())
}
