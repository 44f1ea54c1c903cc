//! Structural similarity (Wang et al., "Image quality assessment: from error visibility to structural
//! similarity", 2004): the host's computation, and the constants for the GPU's kernel.

use super::shape::ImageShape;

/// Taps of the Gaussian window on each axis.
pub(crate) const WINDOW: usize = 11;
/// Constants that keep the quotients of means and of variances finite, for values in `[0, 1]`.
pub(crate) const C1: f64 = 0.01 * 0.01;
pub(crate) const C2: f64 = 0.03 * 0.03;
const SIGMA: f64 = 1.5;

/// The window's weights along an axis, with sum 1: [`WINDOW`] of them or, in a smaller picture, as many as the
/// side of the largest odd square that fits.
pub(crate) fn window(shape: ImageShape) -> Vec<f64> {
    let fit = WINDOW.min(shape.height).min(shape.width).max(1);
    gaussian(fit - usize::from(fit.is_multiple_of(2)))
}

/// A Gaussian of `n` taps that sum to 1.
fn gaussian(n: usize) -> Vec<f64> {
    let center = (n / 2) as f64;
    let weight = |i: usize| (-(i as f64 - center).powi(2) / (2.0 * SIGMA * SIGMA)).exp();
    let weights: Vec<f64> = (0..n).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Structural similarity of two CHW pictures with values in `[0, 1]`: the mean over channels and over all
/// positions at which the whole window (11×11, σ = 1.5) fits; 1 for pictures without pixels.
///
/// In smaller pictures the window is the largest odd square that fits, with the same σ.
pub fn ssim<T: Copy + Into<f64>>(shape: ImageShape, a: &[T], b: &[T]) -> f64 {
    if shape.elements() == 0 {
        return 1.0;
    }
    let window = window(shape);
    let plane = shape.height * shape.width;
    let channels = a.chunks_exact(plane).zip(b.chunks_exact(plane));
    let sum: f64 = channels
        .map(|(a, b)| ssim_of_plane(a, b, shape.width, &window))
        .sum();
    sum / shape.channels as f64
}

/// SSIM of one channel.
fn ssim_of_plane<T: Copy + Into<f64>>(a: &[T], b: &[T], width: usize, window: &[f64]) -> f64 {
    let mean_a = local_mean(a, b, width, window, |a, _| a);
    let mean_b = local_mean(a, b, width, window, |_, b| b);
    let square_a = local_mean(a, b, width, window, |a, _| a * a);
    let square_b = local_mean(a, b, width, window, |_, b| b * b);
    let product = local_mean(a, b, width, window, |a, b| a * b);
    let at = |i: usize| {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (va, vb) = (square_a[i] - ma * ma, square_b[i] - mb * mb);
        let covariance = product[i] - ma * mb;
        (2.0 * ma * mb + C1) * (2.0 * covariance + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    };
    (0..mean_a.len()).map(at).sum::<f64>() / mean_a.len() as f64
}

/// `f` of the two pictures, filtered with `window` along rows and columns where it fits.
fn local_mean<T: Copy + Into<f64>>(
    a: &[T],
    b: &[T],
    width: usize,
    window: &[f64],
    f: impl Fn(f64, f64) -> f64,
) -> Vec<f64> {
    let (height, narrow) = (a.len() / width, width + 1 - window.len());
    let mut rows = vec![0.0; height * narrow];
    let mut row = vec![0.0; width];
    let inputs = a.chunks_exact(width).zip(b.chunks_exact(width));
    for ((a, b), out) in inputs.zip(rows.chunks_exact_mut(narrow)) {
        for (value, (&a, &b)) in row.iter_mut().zip(a.iter().zip(b)) {
            *value = f(a.into(), b.into());
        }
        for (i, &k) in window.iter().enumerate() {
            add_scaled(out, k, &row[i..]);
        }
    }
    let mut out = vec![0.0; (height + 1 - window.len()) * narrow];
    for (y, out) in out.chunks_exact_mut(narrow).enumerate() {
        for (row, &k) in rows[y * narrow..].chunks_exact(narrow).zip(window) {
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

    fn shape(height: usize, width: usize) -> ImageShape {
        ImageShape {
            channels: 3,
            height,
            width,
        }
    }

    #[test]
    fn equal_pictures_are_perfect_at_any_size() {
        for (height, width) in [(1, 1), (2, 30), (10, 11), (30, 2)] {
            let picture: Vec<f64> = (0..3 * height * width)
                .map(|i| (i * 7 % 11) as f64 / 11.0)
                .collect();
            let similarity = ssim(shape(height, width), &picture, &picture);
            assert!((similarity - 1.0).abs() < 1e-12);
        }
        assert_eq!(ssim::<f32>(shape(0, 4), &[], &[]), 1.0);
    }

    #[test]
    fn small_pictures_have_a_smaller_window() {
        // One pixel: the variances vanish and the means remain.
        let (a, b) = ([0.5; 3], [0.25; 3]);
        let luminance = (2.0 * 0.5 * 0.25 + C1) / (0.5 * 0.5 + 0.25 * 0.25 + C1);
        let similarity = ssim(shape(1, 1), &a, &b);
        assert!((similarity - luminance).abs() < 1e-12);
        let taps = |height, width| window(shape(height, width)).len();
        assert_eq!(
            [taps(2, 30), taps(9, 10), taps(10, 12), taps(12, 11)],
            [1, 9, 9, 11]
        );
    }
}
