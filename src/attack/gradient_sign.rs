//! Steps in the maximum norm: FGSM, BIM and PGD.

use super::{AttackOptions, Iterate};
use crate::io::Picture;
use crate::random::{Purpose, RandomKey};

/// A point of the ball, uniform in each pixel.
pub(super) fn start(options: &AttackOptions, picture: &Picture, image: &mut [f32]) {
    let key = RandomKey {
        seed: options.seed,
        image: picture.hash(),
        tile: 0,
    };
    key.uniform(Purpose::AttackStart, 0, image.len(), |i, u| {
        image[i] = (picture.pixels[i] + options.eps * (2.0 * u - 1.0)).clamp(0.0, 1.0);
    });
}

/// One step along the gradient's sign, back into the ball and into `[0, 1]`.
pub(super) fn step(options: &AttackOptions, iterate: Iterate<'_>) {
    let Iterate {
        clean,
        image,
        gradient,
    } = iterate;
    for ((pixel, &clean), &slope) in image.iter_mut().zip(clean).zip(gradient) {
        // torch.sign: nothing moves where the gradient is zero.
        let sign = if slope == 0.0 { 0.0 } else { slope.signum() };
        let change = (*pixel + options.alpha * sign - clean).clamp(-options.eps, options.eps);
        *pixel = (clean + change).clamp(0.0, 1.0);
    }
}
