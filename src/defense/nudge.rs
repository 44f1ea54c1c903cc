//! A picture that lacks the recovered label, or its margin, is nudged: it is changed by small steps along the
//! classifier's gradient that raise the label's margin, as in Alfarra et al. 2022, "Combating Adversaries with
//! Anti-Adversaries".
//!
//! The mean of the paths' images, rounded to 8 bits, often has another label than they have. And if the evidence of
//! the input's views is for a label that no point of the map has, a reconstruction is nudged to it.

use super::outcome::Shown;
use super::{Oracle, Reading};
use crate::error::Result;

/// Change of each value in a step: one level of an 8-bit picture.
const STEP: f32 = 1.0 / 255.0;

/// Bounds the change to 8/255, so that the picture still looks like what it was made from.
const MAX_STEPS: usize = 8;

/// A picture that has the label and gains less than this in a step, in logits, has no more to gain: a classifier
/// whose outputs are probabilities may never reach the wanted margin.
const LEAST_GAIN: f64 = 1.0 / 64.0;

/// Rounds a picture's values to the 256 levels of 8 bits.
pub(super) fn round(pixels: &mut [f32]) {
    for pixel in pixels {
        *pixel = (*pixel * 255.0).round() / 255.0;
    }
}

/// Changes a picture until the margin of `label` reaches `wanted` logits, for at most [`MAX_STEPS`] steps. Returns
/// the picture with the largest margin, and the number of steps to it.
///
/// `shown` is as it will be stored, and so is the result: rounded, if it is stored with 8 bits.
pub(super) fn nudge(
    oracle: &mut dyn Oracle,
    (label, wanted): (usize, f64),
    shown: Shown,
    eight_bit: bool,
) -> Result<(Shown, usize)> {
    let margin = |shown: &Shown| shown.reading.margin(label);
    let (mut best, mut steps_to_best) = (shown, 0);
    let mut pixels = best.pixels.clone();
    for step in 1..=MAX_STEPS {
        if margin(&best) >= wanted {
            break;
        }
        let mut by_logits = |_: usize, logits: &[f32], derivative: &mut [f32]| {
            derivative.fill(0.0);
            if let Some(rival) = Reading::new(logits).rival(label) {
                derivative[label] = 1.0;
                derivative[rival] = -1.0;
            }
        };
        let uphill = (oracle.differentiate(&[&pixels], &mut by_logits)?).swap_remove(0);
        for (pixel, slope) in pixels.iter_mut().zip(uphill.1) {
            let way = f32::from(i8::from(slope > 0.0) - i8::from(slope < 0.0));
            *pixel = (*pixel + STEP * way).clamp(0.0, 1.0);
        }
        if eight_bit {
            round(&mut pixels);
        }
        let next = Shown {
            reading: oracle.classify(&[&pixels])?.swap_remove(0),
            pixels: pixels.clone(),
        };
        let gain = margin(&next) - margin(&best);
        let saturated = margin(&best) > 0.0 && gain < LEAST_GAIN;
        if gain > 0.0 {
            (best, steps_to_best) = (next, step);
        }
        if saturated {
            break;
        }
    }
    Ok((best, steps_to_best))
}
