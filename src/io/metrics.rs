//! How far two pictures are apart.

use crate::backend::ImageShape;

/// Wang et al. 2004: an 11×11 Gaussian window with σ = 1.5.
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

/// Mean squared error over all elements; 0 for no elements.
pub fn mean_squared_error(a: &[f32], b: &[f32]) -> f64 {
    let square = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).powi(2);
    a.iter().zip(b).map(square).sum::<f64>() / a.len().max(1) as f64
}

/// Peak signal-to-noise ratio in dB for a peak of 1, over all elements; infinite for equal pictures.
pub fn psnr(a: &[f32], b: &[f32]) -> f64 {
    decibels(mean_squared_error(a, b))
}

/// The peak signal-to-noise ratio, in dB for a peak of 1, that a mean squared error means; infinite
/// for 0.
pub fn decibels(mean_squared_error: f64) -> f64 {
    -10.0 * mean_squared_error.log10()
}

/// Structural similarity (Wang et al., "Image quality assessment: from error visibility to structural
/// similarity", 2004) of two CHW pictures with values in `[0, 1]`: the mean over the places where the
/// whole window fits, and over channels.
///
/// In pictures smaller than the window it is the largest odd square that fits, with the same σ.
pub fn ssim(shape: ImageShape, a: &[f32], b: &[f32]) -> f64 {
    let fit = WINDOW.min(shape.height).min(shape.width);
    let kernel = gaussian(fit - usize::from(fit.is_multiple_of(2)));
    let plane = shape.height * shape.width;
    let channels = a.chunks_exact(plane).zip(b.chunks_exact(plane));
    let sum: f64 = channels
        .map(|(a, b)| ssim_of_plane(a, b, shape.width, &kernel))
        .sum();
    sum / shape.channels as f64
}

/// SSIM of one channel.
fn ssim_of_plane(a: &[f32], b: &[f32], width: usize, kernel: &[f64]) -> f64 {
    let mean_a = local_mean(a, b, width, kernel, |a, _| a);
    let mean_b = local_mean(a, b, width, kernel, |_, b| b);
    let square_a = local_mean(a, b, width, kernel, |a, _| a * a);
    let square_b = local_mean(a, b, width, kernel, |_, b| b * b);
    let product = local_mean(a, b, width, kernel, |a, b| a * b);
    let at = |i: usize| {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (va, vb) = (square_a[i] - ma * ma, square_b[i] - mb * mb);
        let covariance = product[i] - ma * mb;
        (2.0 * ma * mb + C1) * (2.0 * covariance + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    };
    (0..mean_a.len()).map(at).sum::<f64>() / mean_a.len() as f64
}

/// A Gaussian of `n` taps that sum to 1.
fn gaussian(n: usize) -> Vec<f64> {
    let center = (n / 2) as f64;
    let weight = |i: usize| (-(i as f64 - center).powi(2) / (2.0 * SIGMA * SIGMA)).exp();
    let weights: Vec<f64> = (0..n).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// `f` of the two pictures, filtered with `kernel` along rows and columns where it fits.
fn local_mean(
    a: &[f32],
    b: &[f32],
    width: usize,
    kernel: &[f64],
    f: impl Fn(f64, f64) -> f64,
) -> Vec<f64> {
    let (height, narrow) = (a.len() / width, width + 1 - kernel.len());
    let mut rows = vec![0.0; height * narrow];
    let mut row = vec![0.0; width];
    let inputs = a.chunks_exact(width).zip(b.chunks_exact(width));
    for ((a, b), out) in inputs.zip(rows.chunks_exact_mut(narrow)) {
        for (value, (&a, &b)) in row.iter_mut().zip(a.iter().zip(b)) {
            *value = f(a.into(), b.into());
        }
        for (i, &k) in kernel.iter().enumerate() {
            add_scaled(out, k, &row[i..]);
        }
    }
    let mut out = vec![0.0; (height + 1 - kernel.len()) * narrow];
    for (y, out) in out.chunks_exact_mut(narrow).enumerate() {
        for (row, &k) in rows[y * narrow..].chunks_exact(narrow).zip(kernel) {
            add_scaled(out, k, row);
        }
    }
    out
}

/// `out += k·x`.
fn add_scaled(out: &mut [f64], k: f64, x: &[f64]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += k * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::picture::{planes_of, rgb};
    use crate::io::resample::test_picture;

    /// A smooth picture, and one with noise of up to `128 / weakness` levels.
    fn pair(height: usize, width: usize, weakness: u8) -> (Vec<f32>, Vec<f32>) {
        let smooth: Vec<u8> = (0..height * width * 3)
            .map(|i| {
                let (y, x, c) = (i / 3 / width, i / 3 % width, i % 3);
                ((y * 7 + x * 3 + c * 40) % 200 + 28) as u8
            })
            .collect();
        let noise = test_picture(height, width);
        let noisy: Vec<u8> = smooth
            .iter()
            .zip(&noise)
            .map(|(&s, &n)| {
                let noise = i32::from(n / weakness) - i32::from(128 / weakness);
                (i32::from(s) + noise).clamp(0, 255) as u8
            })
            .collect();
        (planes_of(&smooth), planes_of(&noisy))
    }

    #[test]
    fn numbers_are_those_of_scikit_image() {
        // scikit-image 0.26: peak_signal_noise_ratio, and structural_similarity with
        // gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.
        for (height, width, weakness, psnr_there, ssim_there) in [
            (20, 17, 8, 28.810096821665102, 0.8228221648104639),
            (11, 11, 4, 22.794812256125816, 0.4769538637205197),
            (33, 40, 16, 34.8051947193131, 0.9575616151468024),
        ] {
            let (a, b) = pair(height, width, weakness);
            assert!((psnr(&a, &b) - psnr_there).abs() < 1e-9);
            let ssim_here = ssim(rgb(height, width), &a, &b);
            assert!(
                (ssim_here - ssim_there).abs() < 1e-9,
                "{ssim_here} {ssim_there}"
            );
        }
    }

    #[test]
    fn equal_pictures_are_perfect_at_any_size() {
        for (height, width) in [(1, 1), (2, 30), (10, 11), (30, 2)] {
            let (a, _) = pair(height, width, 8);
            assert_eq!(psnr(&a, &a), f64::INFINITY);
            assert!((ssim(rgb(height, width), &a, &a) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn small_pictures_have_a_smaller_window() {
        // One pixel: the variances vanish and the means remain.
        let (a, b) = ([0.5; 3], [0.25; 3]);
        let luminance = (2.0 * 0.5 * 0.25 + C1) / (0.5 * 0.5 + 0.25 * 0.25 + C1);
        assert!((ssim(rgb(1, 1), &a, &b) - luminance).abs() < 1e-12);
    }
}
