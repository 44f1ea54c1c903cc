//! Where no path has a point of the recovered label: a reconstruction is changed a little until it has it.
//!
//! The input's views can speak for a label that is second everywhere on the map. A picture of that label is
//! then made as an anti-adversary is (Alfarra et al. 2022, "Combating Adversaries with Anti-Adversaries"): by
//! small steps along the classifier's own gradient, which raise the label's margin.

use super::Prober;
use crate::backend::{At, ClassifierEngine, ImageOps};
use crate::error::Result;

/// How far a step moves each pixel: one level of an 8-bit picture.
const STEP: f32 = 1.0 / 255.0;

/// More steps would draw a new picture rather than nudge one.
const MOST_STEPS: usize = 8;

/// Moves image `index` of `images` until the margin of `label` reaches `wanted`, or the steps are spent.
pub(super) fn nudge<O: ImageOps, C: ClassifierEngine<Images = O::Images>>(
    ops: &O,
    prober: &mut Prober<O, C>,
    (label, wanted): (usize, f64),
    images: &mut O::Images,
    index: usize,
) -> Result<()> {
    for _ in 0..MOST_STEPS {
        let image = At::new(&*images, index);
        let (reading, uphill) = prober.margin_gradient(image, label)?;
        if reading.margin(label) >= wanted {
            break;
        }
        let mut pixels = ops.download(image)?;
        for (pixel, slope) in pixels.iter_mut().zip(uphill) {
            // Also 0 where the classifier gives no number.
            let way = f32::from(i8::from(slope > 0.0) - i8::from(slope < 0.0));
            *pixel = (*pixel + STEP * way).clamp(0.0, 1.0);
        }
        ops.upload(&pixels, images, index)?;
    }
    Ok(())
}
