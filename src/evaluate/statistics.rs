//! Shares with their confidence intervals, ROC areas and means.

use serde::Serialize;

/// 97.5% quantile of the standard normal: two-sided 95%.
const Z: f64 = 1.959_963_984_540_054;

/// A count as a share of a total, with its 95% confidence interval.
///
/// The interval is Wilson's score interval ("Probable inference, the law of succession, and statistical
/// inference", JASA 22, 1927): unlike the normal approximation it holds for few pictures and for shares
/// near 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Proportion {
    /// How many have the property.
    pub count: usize,
    /// How many there are in total.
    pub of: usize,
    /// `count / of`; `None` if `of` is 0, as the interval's ends are.
    pub share: Option<f64>,
    /// Lower end of the interval, in `[0, 1]`.
    pub low: Option<f64>,
    /// Upper end of the interval, in `[0, 1]`.
    pub high: Option<f64>,
}

impl Proportion {
    /// The proportion `count / of`; `count` is at most `of`.
    pub fn new(count: usize, of: usize) -> Proportion {
        if of == 0 {
            return Proportion::default();
        }
        let (n, share) = (of as f64, count as f64 / of as f64);
        let scale = 1.0 + Z * Z / n;
        let center = (share + Z * Z / (2.0 * n)) / scale;
        let half = Z / scale * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        // There the ends are exactly 0 and 1, which rounding errors would miss.
        let low = if count == 0 { 0.0 } else { center - half };
        let high = if count == of { 1.0 } else { center + half };
        Proportion {
            count,
            of,
            share: Some(share),
            low: Some(low),
            high: Some(high),
        }
    }

    /// How many of `all` are true.
    pub fn of(all: impl IntoIterator<Item = bool>) -> Proportion {
        let (mut count, mut of) = (0, 0);
        for one in all {
            count += usize::from(one);
            of += 1;
        }
        Proportion::new(count, of)
    }

    /// Width of the interval, from 0 to 1; 1 if `of` is 0.
    pub fn width(&self) -> f64 {
        self.high.unwrap_or(1.0) - self.low.unwrap_or(0.0)
    }
}

/// Area under the ROC curve of a score that is higher for `positive` than for `negative`.
///
/// This is Mann and Whitney's statistic ("On a test of whether one of two random variables is
/// stochastically larger than the other", 1947): the share of pairs in which the positive score is higher,
/// with equal scores counted half. `None` if one of the two is empty.
pub fn roc_area(positive: &[f64], negative: &[f64]) -> Option<f64> {
    if positive.is_empty() || negative.is_empty() {
        return None;
    }
    let mut sorted = negative.to_vec();
    sorted.sort_by(f64::total_cmp);
    let below = |x: f64| sorted.partition_point(|y| *y < x);
    let up_to = |x: f64| sorted.partition_point(|y| *y <= x);
    let won: usize = positive.iter().map(|&x| below(x) + up_to(x)).sum();
    Some(won as f64 / 2.0 / (positive.len() * negative.len()) as f64)
}

/// The mean; `None` if there are no numbers.
pub(super) fn mean(all: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut of) = (0.0, 0);
    for one in all {
        sum += one;
        of += 1;
    }
    (of > 0).then(|| sum / f64::from(of))
}

/// The median; of an even number the smaller of the two in the middle. `None` if there are no numbers.
pub(super) fn lower_median(mut all: Vec<f32>) -> Option<f32> {
    all.sort_by(f32::total_cmp);
    all.get(all.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(a: Option<f64>, b: f64, tolerance: f64) {
        let a = a.unwrap();
        assert!((a - b).abs() <= tolerance, "{a} {b}");
    }

    #[test]
    fn intervals_are_the_published_ones() {
        // Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine
        // 17, 1998, table I, method 3 (the score interval without continuity correction).
        for (count, of, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let interval = Proportion::new(count, of);
            assert_near(interval.low, low, 5e-5);
            assert_near(interval.high, high, 5e-5);
        }
        // By hand, for 0 of n: high = z²/(n + z²).
        assert_near(Proportion::new(0, 10).high, Z * Z / (10.0 + Z * Z), 1e-12);
    }

    #[test]
    fn intervals_are_symmetric_and_end_at_0_and_1() {
        let (few, most) = (Proportion::new(3, 17), Proportion::new(14, 17));
        assert_near(few.low, 1.0 - most.high.unwrap(), 1e-12);
        assert_eq!(Proportion::new(9, 9).high, Some(1.0));
        assert_eq!(Proportion::new(0, 9).low, Some(0.0));
        assert_eq!(Proportion::new(0, 0).share, None);
        assert_eq!(Proportion::new(0, 0).width(), 1.0);
        assert_eq!(
            Proportion::of([true, false, true, true]),
            Proportion::new(3, 4)
        );
    }

    #[test]
    fn areas_are_counted_by_hand() {
        // Pairs: 0.8 beats 0.1 and 0.4; 0.4 beats 0.1 and ties with 0.4.
        assert_eq!(roc_area(&[0.8, 0.4], &[0.1, 0.4]), Some(3.5 / 4.0));
        assert_eq!(roc_area(&[1.0, 2.0], &[0.0, 0.5]), Some(1.0));
        assert_eq!(roc_area(&[0.0], &[1.0, 2.0]), Some(0.0));
        assert_eq!(roc_area(&[0.5; 3], &[0.5; 4]), Some(0.5));
        assert_eq!(roc_area(&[], &[0.5]), None);
        assert_eq!(roc_area(&[0.5], &[]), None);
        // scikit-learn's example of roc_auc_score.
        assert_eq!(roc_area(&[0.35, 0.8], &[0.1, 0.4]), Some(0.75));
    }

    #[test]
    fn means_of_nothing_are_none() {
        assert_eq!(mean([]), None);
        assert_eq!(mean([1.0, 2.0, 6.0]), Some(3.0));
    }

    #[test]
    fn a_median_is_one_of_the_numbers() {
        assert_eq!(lower_median(vec![]), None);
        assert_eq!(lower_median(vec![3.0]), Some(3.0));
        assert_eq!(lower_median(vec![f32::INFINITY, 1.0]), Some(1.0));
        assert_eq!(lower_median(vec![4.0, 2.0, 8.0]), Some(4.0));
        assert_eq!(lower_median(vec![4.0, 2.0, 8.0, 0.0]), Some(2.0));
    }
}
