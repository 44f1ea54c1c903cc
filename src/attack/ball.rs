//! The ball around a clean image that an attack may not leave.

use serde::{Deserialize, Serialize};

use crate::random::{Purpose, RandomKey};

/// The norm that bounds a perturbation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// The largest change of a pixel
    #[default]
    Linf,
    /// The Euclidean length of the change
    L2,
}

/// All images whose distance from a clean one is at most `eps`, with pixels in `[0, 1]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ball {
    /// Norm in which `eps` measures the change.
    pub norm: Norm,
    /// Radius, above 0, for pixels in `[0, 1]`.
    pub eps: f32,
}

/// Lower bound of norms that are divided by, for gradients of 0 (torchattacks' `eps_for_division`).
const MIN_NORM: f64 = 1e-10;

/// Euclidean length, summed in float64.
pub(super) fn length(change: impl Iterator<Item = f32>) -> f64 {
    change.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Euclidean distance, summed in float64.
pub(super) fn distance(a: &[f32], b: &[f32]) -> f64 {
    length(a.iter().zip(b).map(|(a, b)| a - b))
}

impl Ball {
    /// Moves an image by `step`, measured in the ball's norm, in the direction that raises the loss most.
    /// The result may be outside the ball.
    pub(super) fn ascend(&self, image: &mut [f32], gradient: &[f32], step: f32) {
        match self.norm {
            Norm::Linf => {
                for (pixel, &slope) in image.iter_mut().zip(gradient) {
                    // As `torch.sign`: the pixel stays where the gradient is 0.
                    let sign = if slope == 0.0 { 0.0 } else { slope.signum() };
                    *pixel += step * sign;
                }
            }
            Norm::L2 => {
                let length = length(gradient.iter().copied()) + MIN_NORM;
                let scale = (f64::from(step) / length) as f32;
                for (pixel, &slope) in image.iter_mut().zip(gradient) {
                    *pixel += scale * slope;
                }
            }
        }
    }

    /// Moves an image into the ball around `clean`, and clips it to `[0, 1]`.
    pub(super) fn project(&self, image: &mut [f32], clean: &[f32]) {
        match self.norm {
            Norm::Linf => {
                for (pixel, &clean) in image.iter_mut().zip(clean) {
                    let change = (*pixel - clean).clamp(-self.eps, self.eps);
                    *pixel = (clean + change).clamp(0.0, 1.0);
                }
            }
            Norm::L2 => {
                let length = distance(image, clean).max(MIN_NORM);
                let shrink = (f64::from(self.eps) / length).min(1.0) as f32;
                for (pixel, &clean) in image.iter_mut().zip(clean) {
                    *pixel = (clean + shrink * (*pixel - clean)).clamp(0.0, 1.0);
                }
            }
        }
    }

    /// A random point of the ball, PGD's start: in the maximum norm uniform in each pixel, in the Euclidean
    /// norm a random direction with a length that is uniform in `[0, eps]`.
    pub(super) fn point(&self, clean: &[f32], key: &RandomKey) -> Vec<f32> {
        let change = match self.norm {
            Norm::Linf => {
                let mut change = vec![0.0; clean.len()];
                key.uniform(Purpose::AttackStart, 0, clean.len(), |i, u| {
                    change[i] = self.eps * (2.0 * u - 1.0);
                });
                change
            }
            Norm::L2 => {
                let mut size = 0.0;
                key.uniform(Purpose::AttackStart, 1, 1, |_, u| size = u * self.eps);
                self.direction(clean.len(), key, size)
            }
        };
        moved(clean, &change)
    }

    /// A random point of the ball's surface, clipped to `[0, 1]`: APGD's start.
    pub(super) fn surface(&self, clean: &[f32], key: &RandomKey) -> Vec<f32> {
        moved(clean, &self.direction(clean.len(), key, self.eps))
    }

    /// A random change whose norm is `size`.
    fn direction(&self, count: usize, key: &RandomKey, size: f32) -> Vec<f32> {
        let mut change = vec![0.0; count];
        let norm = match self.norm {
            Norm::Linf => {
                key.uniform(Purpose::AttackStart, 0, count, |i, u| {
                    change[i] = 2.0 * u - 1.0
                });
                change
                    .iter()
                    .fold(0.0, |most: f32, x| most.max(x.abs()))
                    .into()
            }
            Norm::L2 => {
                key.normal(Purpose::AttackStart, 0, count, |i, g| change[i] = g);
                length(change.iter().copied())
            }
        };
        let scale = (f64::from(size) / norm.max(MIN_NORM)) as f32;
        change.iter_mut().for_each(|x| *x *= scale);
        change
    }
}

fn moved(clean: &[f32], change: &[f32]) -> Vec<f32> {
    let pixels = clean.iter().zip(change);
    pixels.map(|(x, d)| (x + d).clamp(0.0, 1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: [f32; 5] = [0.5, 0.02, 0.9, 0.4, 0.6];

    #[test]
    fn steps_are_as_long_as_asked_and_projections_end_inside() {
        let gradient = [1.0, -2.0, 0.0, 4.0, 2.0];
        let mut image = CLEAN;
        let ball = Ball {
            norm: Norm::Linf,
            eps: 0.05,
        };
        let near = |image: &[f32], expected: [f32; 5]| {
            let off = image.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) < 1e-6, "{image:?}");
        };
        ball.ascend(&mut image, &gradient, 0.1);
        near(&image, [0.6, -0.08, 0.9, 0.5, 0.7]);
        ball.project(&mut image, &CLEAN);
        near(&image, [0.55, 0.0, 0.9, 0.45, 0.65]);

        let mut image = CLEAN;
        let ball = Ball {
            norm: Norm::L2,
            eps: 0.05,
        };
        ball.ascend(&mut image, &gradient, 0.1);
        // The gradient's length is 5.
        near(&image, [0.52, -0.02, 0.9, 0.48, 0.64]);
        ball.project(&mut image, &CLEAN);
        near(&image, [0.51, 0.0, 0.9, 0.44, 0.62]);
    }

    #[test]
    fn random_points_lie_in_the_ball_and_differ() {
        let clean = vec![0.5; 300];
        let key = |seed| RandomKey {
            seed,
            image: 4,
            tile: 0,
        };
        for norm in [Norm::Linf, Norm::L2] {
            let ball = Ball { norm, eps: 0.25 };
            let size = |image: &[f32]| match norm {
                Norm::Linf => image
                    .iter()
                    .fold(0.0, |most: f64, x| most.max(f64::from((x - 0.5).abs()))),
                Norm::L2 => distance(image, &clean),
            };
            for seed in 0..5 {
                let (inside, outermost) = (
                    ball.point(&clean, &key(seed)),
                    ball.surface(&clean, &key(seed)),
                );
                assert!(size(&inside) <= 0.25 + 1e-6);
                assert!((size(&outermost) - 0.25).abs() < 1e-6);
                assert_ne!(inside, ball.point(&clean, &key(seed + 1)));
            }
        }
    }
}
