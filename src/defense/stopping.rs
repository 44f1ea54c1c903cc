//! DIPDefend's stopping rule: which reconstruction becomes the output when none can be stitched.
//!
//! Dai et al. 2020 measure the PSNR of the reconstruction against the input (the smallest of all tiles),
//! smooth it by Holt's double exponential smoothing with λ = 0.002 an iteration, and stop at the smoothed
//! curve's maximum. Here the rule gets one value for each checkpoint.

use super::TrajectoryPoint;

/// Weight of a new value in the smoothing of level and trend, for one iteration, as published.
const LAMBDA: f64 = 0.002;

/// Index of the trajectory's point with the largest smoothed PSNR.
///
/// The smoothing is converted from one iteration to the probe interval: the past has the weight
/// `(1 − λ)^interval`.
pub(super) fn smoothed_psnr_maximum(trajectory: &[TrajectoryPoint]) -> usize {
    let psnr: Vec<f64> = trajectory.iter().map(|p| p.least_tile_psnr).collect();
    let interval = trajectory.first().map_or(1, |p| p.iteration);
    maximum_of_smoothed(&psnr, interval)
}

fn maximum_of_smoothed(psnr: &[f64], interval: u32) -> usize {
    if psnr.len() < 2 {
        return 0;
    }
    let past = (1.0 - LAMBDA).powi(interval as i32);
    let (mut level, mut trend) = (psnr[0], psnr[1] - psnr[0]);
    let (mut best, mut most) = (0, psnr[0]);
    for (i, &value) in psnr.iter().enumerate().skip(1) {
        let next = (1.0 - past) * value + past * (level + trend);
        trend = (1.0 - past) * (next - level) + past * trend;
        level = next;
        if level > most {
            (best, most) = (i, level);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_that_keeps_rising_is_followed_to_its_end() {
        let psnr: Vec<f64> = (0..50).map(|i| 10.0 + f64::from(i)).collect();
        assert_eq!(maximum_of_smoothed(&psnr, 1), 49);
    }

    #[test]
    fn a_curve_that_falls_stops_the_overshooting_level() {
        // The level follows its trend past the peak, then turns.
        let psnr: Vec<f64> = (0..4000)
            .map(|i| 20.0 - (f64::from(i) / 400.0 - 1.0).powi(2))
            .collect();
        let stop = maximum_of_smoothed(&psnr, 1);
        assert!((400..3999).contains(&stop), "{stop}");
    }

    #[test]
    fn a_single_probe_is_the_answer() {
        assert_eq!(maximum_of_smoothed(&[3.0], 20), 0);
    }
}
