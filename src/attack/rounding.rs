//! Rounding to 8 bits without leaving the ball.

use super::{Norm, l2};

/// Rounds `image` to multiples of 1/255 in such a way that it stays within `eps` of `clean`.
///
/// In the maximum norm each pixel is rounded to the nearest multiple inside its interval. In the
/// Euclidean norm, rounding to the nearest is kept where the result is inside; else each pixel is
/// rounded towards the clean one, which only shortens the change where the clean pixel is itself a
/// multiple. A clean pixel that is not a multiple and has none within reach goes to its own nearest:
/// no 8-bit image is closer.
pub fn round_into_ball(image: &mut [f32], clean: &[f32], norm: Norm, eps: f32) {
    let eps = f64::from(eps);
    match norm {
        Norm::Linf => {
            for (pixel, &clean) in image.iter_mut().zip(clean) {
                let clean = f64::from(clean);
                let least = level_above((clean - eps).max(0.0));
                let most = level_below((clean + eps).min(1.0));
                *pixel = if least <= most {
                    from_level((f64::from(*pixel) * 255.0).round().clamp(least, most))
                } else {
                    from_level((clean * 255.0).round())
                };
            }
        }
        Norm::L2 => {
            let nearest: Vec<f32> = image
                .iter()
                .map(|&x| from_level((f64::from(x) * 255.0).round()))
                .collect();
            let length = l2::norm(nearest.iter().zip(clean).map(|(a, b)| a - b));
            if length <= eps * (1.0 + 1e-6) {
                image.copy_from_slice(&nearest);
                return;
            }
            for (pixel, &clean) in image.iter_mut().zip(clean) {
                let (x, clean) = (f64::from(*pixel), f64::from(clean));
                let towards = if x >= clean {
                    level_below(x)
                } else {
                    level_above(x)
                };
                let passed = (towards / 255.0 - clean) * (x - clean) < 0.0;
                *pixel = from_level(if passed {
                    (clean * 255.0).round()
                } else {
                    towards
                });
            }
        }
    }
}

/// Float32 pixels of 8-bit files are multiples up to this many levels.
const SLACK: f64 = 1e-4;

fn level_below(x: f64) -> f64 {
    (x * 255.0 + SLACK).floor()
}

fn level_above(x: f64) -> f64 {
    (x * 255.0 - SLACK).ceil()
}

fn from_level(level: f64) -> f32 {
    (level.clamp(0.0, 255.0) / 255.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn eight_bit_images_stay_in_the_ball(
            levels in proptest::collection::vec((0u8..=255, -1.0f32..=1.0), 1..200),
            eps in 0.0f32..0.2,
        ) {
            let clean: Vec<f32> = levels.iter().map(|&(level, _)| f32::from(level) / 255.0).collect();
            let change = |scale: f32| -> Vec<f32> {
                let pixels = levels.iter().zip(&clean);
                pixels.map(|(&(_, u), &x)| (x + scale * u).clamp(0.0, 1.0)).collect()
            };
            let mut image = change(eps);
            round_into_ball(&mut image, &clean, Norm::Linf, eps);
            for (a, b) in image.iter().zip(&clean) {
                prop_assert!((a - b).abs() <= eps + 1e-6);
                prop_assert!((a * 255.0 - (a * 255.0).round()).abs() < 1e-4);
            }
            let radius = l2::norm(change(eps).iter().zip(&clean).map(|(a, b)| a - b)) as f32;
            let mut image = change(eps);
            round_into_ball(&mut image, &clean, Norm::L2, radius);
            let length = l2::norm(image.iter().zip(&clean).map(|(a, b)| a - b));
            prop_assert!(length <= f64::from(radius) * (1.0 + 1e-5) + 1e-6);
        }
    }

    #[test]
    fn a_radius_that_is_no_level_is_rounded_inwards() {
        let clean = [100.0 / 255.0];
        let mut image = [clean[0] + 0.01];
        round_into_ball(&mut image, &clean, Norm::Linf, 0.01);
        // 0.01 is 2.55 levels: three would leave the ball.
        assert_eq!(image[0], 102.0 / 255.0);
    }
}
