//! Rounding to 8 bits, inside the ball and without losing an attack's success.

use super::ball::{Ball, Norm, distance};
use super::climb::Subject;
use super::victim::Victim;
use crate::error::Result;

/// Rounds `image` to multiples of 1/255 so that it stays inside the ball around `clean`.
///
/// In the maximum norm each pixel is rounded to the nearest multiple inside its interval. In the
/// Euclidean norm every pixel is rounded to the nearest multiple; if the result is outside the ball, the
/// change is scaled down until the rounded image is inside. If the interval of a pixel holds no multiple,
/// the pixel becomes the multiple nearest to the clean pixel: no 8-bit image is closer.
pub fn round_into_ball(image: &mut [f32], clean: &[f32], ball: Ball) {
    let eps = f64::from(ball.eps);
    match ball.norm {
        Norm::Linf => {
            for (pixel, &clean) in image.iter_mut().zip(clean) {
                let clean = f64::from(clean);
                let least = level_above((clean - eps).max(0.0));
                let most = level_below((clean + eps).min(1.0));
                *pixel = if least <= most {
                    from_level((f64::from(*pixel) * 255.0).round().clamp(least, most))
                } else {
                    nearest(clean)
                };
            }
        }
        Norm::L2 => {
            let inside = |image: &[f32]| distance(image, clean) <= eps * (1.0 + 1e-6);
            let mut best = scaled(image, clean, 1.0);
            if !inside(&best) {
                // Each pixel's rounded change grows with the scale, and so does their norm: bisection works.
                let (mut least, mut most) = (0.0, 1.0);
                best = scaled(image, clean, least);
                for _ in 0..SCALE_BITS {
                    let middle = (least + most) / 2.0;
                    let tried = scaled(image, clean, middle);
                    if inside(&tried) {
                        (least, best) = (middle, tried);
                    } else {
                        most = middle;
                    }
                }
            }
            image.copy_from_slice(&best);
        }
    }
}

/// Bisections of the scale that brings an image into the ball.
const SCALE_BITS: u32 = 10;

/// An attack without a ball: factor by which its change is lengthened at a time, and how often at most
/// (to 17 times its length).
const LONGER: f64 = 1.1;
const LENGTHENINGS: i32 = 30;

/// Rounds the images of attacks without a ball to multiples of 1/255, so that they still meet their aims.
///
/// Such attacks find changes that are smaller than half a level in most pixels, and rounding removes
/// them. If a rounded image no longer meets its aim, its change is lengthened until the rounded image
/// does; if no length up to the largest does, the result is the unlengthened image, rounded.
pub(super) fn round_minimal(
    victim: &mut dyn Victim,
    subjects: &[Subject<'_>],
    images: &mut [Vec<f32>],
) -> Result<()> {
    struct Found<'a> {
        subject: &'a Subject<'a>,
        exact: Vec<f32>,
        rounded: &'a mut Vec<f32>,
    }
    let found = subjects.iter().zip(images).map(|(subject, image)| Found {
        subject,
        exact: std::mem::replace(image, scaled(image, subject.clean(), 1.0)),
        rounded: image,
    });
    let mut open: Vec<Found<'_>> = found.collect();
    for power in 0..=LENGTHENINGS {
        let factor = LONGER.powi(power);
        let longer = |found: &Found<'_>| scaled(&found.exact, found.subject.clean(), factor);
        let tried: Vec<Vec<f32>> = open.iter().map(longer).collect();
        let views: Vec<&[f32]> = tried.iter().map(|image| &image[..]).collect();
        let readings = victim.read(&views)?;
        let mut still = Vec::new();
        for ((found, image), reading) in open.into_iter().zip(tried).zip(readings) {
            if found.subject.aim.met(&reading) {
                *found.rounded = image;
            } else if found.exact != found.subject.clean() {
                still.push(found);
            }
        }
        open = still;
        if open.is_empty() {
            break;
        }
    }
    Ok(())
}

/// `clean` with `factor` times the change to `image`, rounded to the nearest levels.
fn scaled(image: &[f32], clean: &[f32], factor: f64) -> Vec<f32> {
    let pixels = image.iter().zip(clean);
    let pixels = pixels.map(|(&x, &c)| (f64::from(x), f64::from(c)));
    pixels.map(|(x, c)| nearest(c + factor * (x - c))).collect()
}

fn nearest(x: f64) -> f32 {
    from_level((x * 255.0).round())
}

/// Float32 pixels of 8-bit files differ from multiples of 1/255 by less than this, in levels.
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
            round_into_ball(&mut image, &clean, Ball { norm: Norm::Linf, eps });
            for (a, b) in image.iter().zip(&clean) {
                prop_assert!((a - b).abs() <= eps + 1e-6);
                prop_assert!((a * 255.0 - (a * 255.0).round()).abs() < 1e-4);
            }
            let radius = distance(&change(eps), &clean) as f32;
            let mut image = change(eps);
            round_into_ball(&mut image, &clean, Ball { norm: Norm::L2, eps: radius });
            prop_assert!(distance(&image, &clean) <= f64::from(radius) * (1.0 + 1e-5) + 1e-6);
            for (a, b) in image.iter().zip(change(eps)) {
                prop_assert!((a * 255.0 - (a * 255.0).round()).abs() < 1e-4);
                prop_assert!((a - b).abs() <= eps + 0.5 / 255.0 + 1e-6);
            }
        }
    }

    #[test]
    fn a_radius_that_is_no_level_is_rounded_inwards() {
        let clean = [100.0 / 255.0];
        let mut image = [clean[0] + 0.01];
        let ball = Ball {
            norm: Norm::Linf,
            eps: 0.01,
        };
        round_into_ball(&mut image, &clean, ball);
        // 0.01 is 2.55 levels: three would leave the ball.
        assert_eq!(image[0], 102.0 / 255.0);
    }

    /// A change of less than a level a pixel, which rounding towards the clean image would undo, keeps
    /// nearly all of its length.
    #[test]
    fn the_largest_rounded_change_that_fits_is_taken() {
        let clean = vec![100.0 / 255.0; 1000];
        let pixels = clean.iter().enumerate();
        let mut image: Vec<f32> = pixels
            .map(|(i, x)| x + (i as f32 - 500.0) / 500.0 * 0.9 / 255.0)
            .collect();
        let eps = distance(&image, &clean) as f32;
        let ball = Ball {
            norm: Norm::L2,
            eps,
        };
        round_into_ball(&mut image, &clean, ball);
        let size = distance(&image, &clean);
        assert!(size <= f64::from(eps) * (1.0 + 1e-6) && size > 0.99 * f64::from(eps));
    }
}
