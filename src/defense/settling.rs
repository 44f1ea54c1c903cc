//! Early stopping: an image stops when its verdict is settled, that is, when more iterations are unlikely to
//! change it.
//!
//! At every checkpoint after the warm-up, the points that vote on the segment of the consensus (of the
//! restart, if there is only one) are probed and judged like a whole map. The image stops after a number of
//! judgments in a row that agree, with scores that are far enough from the thresholds. The judgments use the
//! image's own reconstructions only, so other images and the engine's capacity do not change when it stops.

use super::verdict::{Judgment, Verdict, VerdictOptions};
use crate::error::{Error, Result};

/// When a verdict is settled.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SettlingOptions {
    /// Number of judgments in a row that must agree, at least 1.
    pub probes: usize,
    /// Least distance of their scores from both thresholds, in `[0, 1]`.
    pub margin: f64,
}

impl Default for SettlingOptions {
    fn default() -> Self {
        SettlingOptions {
            probes: 3,
            margin: 0.1,
        }
    }
}

impl SettlingOptions {
    /// Checks both numbers.
    pub fn validate(&self) -> Result<()> {
        if self.probes == 0 {
            return Err(Error::option("settled_probes", "must be 1 or more"));
        }
        if !(0.0..=1.0).contains(&self.margin) {
            let wrong = format!("must be in [0, 1], not {}", self.margin);
            return Err(Error::option("settled_margin", wrong));
        }
        Ok(())
    }
}

/// The judgments of one image so far.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// The last judgment's verdict and, if that is `adversarial`, its recovered label. The recovered label of
    /// other verdicts changes no output and need not agree.
    last: Option<(Verdict, Option<usize>)>,
    /// How many judgments in a row agree with it.
    agree: usize,
}

impl Settling {
    /// Adds the next judgment, and says whether the verdict is settled now.
    pub(super) fn add(
        &mut self,
        options: &SettlingOptions,
        verdict: &VerdictOptions,
        judgment: &Judgment,
    ) -> bool {
        let thresholds = [verdict.clean_below, verdict.adversarial_from];
        let sure = |threshold: f64| (judgment.score - threshold).abs() >= options.margin;
        if !thresholds.into_iter().all(sure) {
            *self = Settling::default();
            return false;
        }
        let now = Some((judgment.verdict, judgment.wanted()));
        self.agree = if now == self.last { self.agree + 1 } else { 1 };
        self.last = now;
        self.agree >= options.probes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place in `judgments`, as score and recovered label, at which the verdict is settled.
    fn settled_at(judgments: &[(f64, usize)]) -> Option<usize> {
        let options = SettlingOptions {
            probes: 3,
            margin: 0.1,
        };
        let verdict = VerdictOptions {
            clean_below: 0.4,
            adversarial_from: 0.5,
            ..VerdictOptions::default()
        };
        let mut settling = Settling::default();
        judgments.iter().position(|&(score, label)| {
            let judgment = Judgment {
                support: vec![],
                recovered: Some(label),
                score,
                verdict: verdict.verdict(score),
            };
            settling.add(&options, &verdict, &judgment)
        })
    }

    #[test]
    fn so_many_sure_judgments_in_a_row_settle_the_verdict() {
        assert_eq!(settled_at(&[(0.9, 1), (0.7, 1), (0.8, 1)]), Some(2));
        assert_eq!(settled_at(&[(0.9, 1), (0.1, 1), (0.9, 1), (0.9, 1)]), None);
        // Too close to a threshold: the count starts anew.
        let near = [(0.9, 1), (0.9, 1), (0.55, 1), (0.9, 1), (0.9, 1), (0.9, 1)];
        assert_eq!(settled_at(&near), Some(5));
        // Between the thresholds nothing is ever far from both.
        assert_eq!(settled_at(&[(0.45, 1); 9]), None);
    }

    #[test]
    fn the_label_counts_where_it_is_the_answer() {
        let changes = [(0.9, 1), (0.9, 2), (0.9, 2), (0.9, 2)];
        assert_eq!(settled_at(&changes), Some(3));
        assert_eq!(settled_at(&[(0.1, 1), (0.1, 2), (0.1, 3)]), Some(2));
    }

    #[test]
    fn unusable_numbers_are_refused() {
        for (probes, margin) in [(0, 0.1), (3, -0.1), (3, 1.1), (3, f64::NAN)] {
            assert!(SettlingOptions { probes, margin }.validate().is_err());
        }
    }
}
