//! If no path has a point of the recovered label, a reconstruction is nudged until it has the label.
//!
//! This happens when the evidence of the input's views is for a label that no point of the map has. A
//! picture of that label is then made by small steps along the classifier's gradient that raise the label's
//! margin, as in Alfarra et al. 2022, "Combating Adversaries with Anti-Adversaries".

use super::{Oracle, Reading};
use crate::error::Result;

/// Change of each value in a step: one level of an 8-bit picture.
const STEP: f32 = 1.0 / 255.0;

/// Bounds the change to 8/255, so that the picture still looks like the reconstruction.
const MAX_STEPS: usize = 8;

/// Changes an image until the margin of `label` reaches `wanted` logits, for at most [`MAX_STEPS`] steps.
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
