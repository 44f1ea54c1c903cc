//! Steps in the Euclidean norm: PGD-L2.

use super::{AttackOptions, Iterate};
use crate::io::Picture;
use crate::random::{Purpose, RandomKey};

/// Keeps a vanishing gradient's norm from being divided by (torchattacks' `eps_for_division`).
const LEAST_NORM: f64 = 1e-10;

/// Euclidean length, summed in float64.
pub(super) fn norm(change: impl Iterator<Item = f32>) -> f64 {
    change.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// A random direction with a length uniform in `[0, eps]`.
pub(super) fn start(options: &AttackOptions, picture: &Picture, image: &mut [f32]) {
    let key = RandomKey {
        seed: options.seed,
        image: picture.hash(),
        tile: 0,
    };
    let mut change = vec![0.0; image.len()];
    key.normal(Purpose::AttackStart, 0, image.len(), |i, g| change[i] = g);
    let mut length = 0.0;
    key.uniform(Purpose::AttackStart, 1, 1, |_, u| {
        length = f64::from(u * options.eps)
    });
    let scale = (length / norm(change.iter().copied()).max(LEAST_NORM)) as f32;
    for ((pixel, &clean), &change) in image.iter_mut().zip(&picture.pixels).zip(&change) {
        *pixel = (clean + scale * change).clamp(0.0, 1.0);
    }
}

/// One step along the normalised gradient, back into the ball and into `[0, 1]`.
pub(super) fn step(options: &AttackOptions, iterate: Iterate<'_>) {
    let Iterate {
        clean,
        image,
        gradient,
    } = iterate;
    let length = norm(gradient.iter().copied()) + LEAST_NORM;
    let scale = (f64::from(options.alpha) / length) as f32;
    for (pixel, &slope) in image.iter_mut().zip(gradient) {
        *pixel += scale * slope;
    }
    let length = norm(image.iter().zip(clean).map(|(a, b)| a - b));
    let shrink = (f64::from(options.eps) / length.max(LEAST_NORM)).min(1.0) as f32;
    for (pixel, &clean) in image.iter_mut().zip(clean) {
        *pixel = (clean + shrink * (*pixel - clean)).clamp(0.0, 1.0);
    }
}
