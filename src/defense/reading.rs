//! What the classifier says of one image.

use crate::error::{Error, Result};

/// Lower bound of the log-probabilities that are added up. A classifier may rule a class out with −∞, which
/// would make sums and differences useless.
pub(crate) const MIN_LOG_PROB: f64 = -1e4;

/// The logits of one image, with the label and the probabilities that follow from them.
#[derive(Clone, Debug)]
pub struct Reading {
    logits: Box<[f32]>,
    label: usize,
    /// ln Σ exp(logit), in float64.
    normalizer: f64,
}

impl Reading {
    /// The reading of a row of logits. Of equal largest logits the first gives the label.
    pub fn new(logits: &[f32]) -> Reading {
        let mut label = 0;
        for (class, logit) in logits.iter().enumerate() {
            if *logit > logits[label] {
                label = class;
            }
        }
        let largest = logits.get(label).map_or(0.0, |&x| f64::from(x));
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
        Reading {
            logits: logits.into(),
            label,
            normalizer: largest + sum.ln(),
        }
    }

    /// Refuses logits that give no probabilities: NaN, +∞, or −∞ for every class. A single −∞ rules its class
    /// out and is valid.
    pub fn check(&self) -> Result<()> {
        if self.normalizer.is_finite() {
            return Ok(());
        }
        Err(
            Error::invalid("the classifier's logits for this image are not numbers")
                .hint("check `mean`, `std` and the model"),
        )
    }

    /// The class with the largest logit.
    pub fn label(&self) -> usize {
        self.label
    }

    /// Softmax probability of the label, from 0 to 1.
    pub fn confidence(&self) -> f64 {
        self.probability(self.label)
    }

    /// Softmax probability of a class, from 0 to 1.
    pub fn probability(&self, class: usize) -> f64 {
        self.log_probability(class).exp()
    }

    /// Natural logarithm of the softmax probability, accurate even if the probability itself underflows to 0.
    pub fn log_probability(&self, class: usize) -> f64 {
        f64::from(self.logits[class]) - self.normalizer
    }

    /// Natural logarithm of the softmax probability, at least [`MIN_LOG_PROB`].
    pub(crate) fn floored_log_probability(&self, class: usize) -> f64 {
        self.log_probability(class).max(MIN_LOG_PROB)
    }

    /// The class other than `class` with the largest logit, the first of equal ones; `None` if there is only
    /// one class.
    pub fn rival(&self, class: usize) -> Option<usize> {
        let others = (0..self.classes()).filter(|other| *other != class);
        others.reduce(|best, next| match self.logits[next] > self.logits[best] {
            true => next,
            false => best,
        })
    }

    /// The margin `f_c − max_{j≠c} f_j` in logits: above 0 exactly if class `c` alone has the largest logit.
    pub fn margin(&self, class: usize) -> f64 {
        let others = self.logits.iter().enumerate().filter(|(c, _)| *c != class);
        let runner_up = others.fold(f32::NEG_INFINITY, |largest, (_, &x)| largest.max(x));
        f64::from(self.logits[class]) - f64::from(runner_up)
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.logits.len()
    }

    /// The logits, one for each class.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// The `count` most probable classes with their probabilities, most probable first.
    pub fn top(&self, count: usize) -> Vec<(usize, f64)> {
        let mut order: Vec<usize> = (0..self.classes()).collect();
        order.sort_by(|&a, &b| self.logits[b].total_cmp(&self.logits[a]).then(a.cmp(&b)));
        let top = order.into_iter().take(count);
        top.map(|class| (class, self.probability(class))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_that_say_nothing_are_refused() {
        let infinite = f32::INFINITY;
        for logits in [[1.0, f32::NAN], [infinite, 0.0], [-infinite, -infinite]] {
            assert!(Reading::new(&logits).check().is_err(), "{logits:?}");
        }
        assert!(Reading::new(&[1.0, -infinite]).check().is_ok());
    }

    #[test]
    fn reads_label_probability_and_margin() {
        let reading = Reading::new(&[1.0, 3.0, 3.0, -200.0]);
        assert_eq!(reading.label(), 1);
        let e = std::f64::consts::E;
        assert!((reading.confidence() - e / (2.0 * e + 1.0 / e)).abs() < 1e-12);
        assert_eq!(reading.margin(1), 0.0);
        assert_eq!(reading.margin(0), -2.0);
        assert_eq!(
            reading.top(2).iter().map(|t| t.0).collect::<Vec<_>>(),
            [1, 2]
        );
        assert_eq!(
            [1, 2, 0].map(|class| reading.rival(class)),
            [Some(2), Some(1), Some(1)]
        );
        assert_eq!(Reading::new(&[1.0]).rival(0), None);
        let sum: f64 = (0..4).map(|c| reading.probability(c)).sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let reading = Reading::new(&[1e30, -1e30]);
        assert_eq!((reading.label(), reading.confidence()), (0, 1.0));
    }
}
