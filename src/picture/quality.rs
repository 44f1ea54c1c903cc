//! Mean squared error and PSNR of two pictures.

/// Mean squared error over all elements; 0 for no elements.
pub fn mean_squared_error(a: &[f32], b: &[f32]) -> f64 {
    let square = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).powi(2);
    a.iter().zip(b).map(square).sum::<f64>() / a.len().max(1) as f64
}

/// Peak signal-to-noise ratio in dB for a peak of 1, over all elements; infinite for equal pictures.
pub fn psnr(a: &[f32], b: &[f32]) -> f64 {
    decibels(mean_squared_error(a, b))
}

/// Converts a mean squared error to a peak signal-to-noise ratio in dB, for a peak of 1; infinite for 0.
pub fn decibels(mean_squared_error: f64) -> f64 {
    -10.0 * mean_squared_error.log10()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::resample::test_picture;
    use crate::picture::ssim;
    use crate::picture::{planes_of, rgb};

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
    fn equal_pictures_are_perfect() {
        let (a, _) = pair(10, 11, 8);
        assert_eq!(psnr(&a, &a), f64::INFINITY);
    }
}
