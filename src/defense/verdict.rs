//! Which label speaks against an input's own, and whether the input is adversarial: one number and one
//! word.

use crate::error::{Error, Result};

use super::Reading;
use super::votes::best_other;

/// What the map says of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Adversarial,
    Clean,
    /// The evidence points neither way.
    Undecided,
}

impl Verdict {
    /// The word in results.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Adversarial => "adversarial",
            Verdict::Clean => "clean",
            Verdict::Undecided => "undecided",
        }
    }
}

/// Where the score's thresholds lie.
#[derive(Clone, Debug, serde::Serialize)]
pub struct VerdictOptions {
    /// Scores up to this are `clean`.
    pub clean_below: f64,
    /// Scores from this on are `adversarial`; between the two, `undecided`.
    pub adversarial_from: f64,
}

impl Default for VerdictOptions {
    fn default() -> Self {
        VerdictOptions {
            clean_below: 0.47,
            adversarial_from: 0.5,
        }
    }
}

impl VerdictOptions {
    /// Checks both numbers.
    pub fn validate(&self) -> Result<()> {
        if 0.0 <= self.clean_below
            && self.clean_below <= self.adversarial_from
            && self.adversarial_from <= 1.0
        {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the verdict's thresholds must be in order within [0, 1], not {} and {}",
            self.clean_below, self.adversarial_from
        )))
    }

    /// The word for a score.
    pub fn verdict(&self, score: f64) -> Verdict {
        if score >= self.adversarial_from {
            Verdict::Adversarial
        } else if score <= self.clean_below {
            Verdict::Clean
        } else {
            Verdict::Undecided
        }
    }

    /// Judges an input by what the classifier says of it and of its views, and by the support of all
    /// classes.
    pub fn judge(&self, input: &Reading, views: &[Reading], support: Vec<f64>) -> Judgement {
        let evidence: Vec<f64> = support
            .iter()
            .enumerate()
            .map(|(class, &support)| of_class(input, views, support, class))
            .collect();
        let recovered = best_other(&evidence, input.label());
        let logit = |label: usize| evidence[label] - evidence[input.label()] - EVEN;
        let score = recovered.map_or(0.0, |label| 1.0 / (1.0 + (-logit(label)).exp()));
        Judgement {
            support,
            recovered,
            score,
            verdict: self.verdict(score),
        }
    }
}

/// What is said of an input.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// By class.
    pub support: Vec<f64>,
    /// The label other than the input label that most speaks for; `None` where the classifier has but
    /// one.
    pub recovered: Option<usize>,
    /// How strongly the evidence speaks for the recovered label against the input label, in `[0, 1]`; ½
    /// is the even point.
    pub score: f64,
    pub verdict: Verdict,
}

impl Judgement {
    /// The label that the output must have; `None` where the input is not adversarial.
    pub fn wanted(&self) -> Option<usize> {
        self.recovered
            .filter(|_| self.verdict == Verdict::Adversarial)
    }
}

/// Logarithms of a class's probability.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logs {
    /// Of its support: of its mean probability where the map votes.
    pub support: f64,
    /// At the input.
    pub input: f64,
    /// Their mean over the input's views, where there are any.
    pub views: Option<f64>,
}

/// What speaks for a class, in nats, and its derivatives by each of the [`Logs`].
///
/// Two things count. The class's support: behind the reconstructions an adversarial label fades, and what
/// comes forward is mostly the true one. And how much more of the class the input's views show than the
/// input itself: an attack that lowers the true label's logit does so for the picture as it stands, and
/// moved by a few pixels and in the mirror the label comes back, while the adversarial one loses. A
/// photograph is as good either way. Only logarithms show this: under a strong attack the true label's
/// probability is 1e-20 at the input and 1e-10 in the views. What was measured: docs/tuning.md.
pub(crate) fn evidence(logs: Logs) -> (f64, [f64; 3]) {
    match logs.views {
        None => (logs.support, [1.0, 0.0, 0.0]),
        Some(views) => (
            logs.support + WEIGHT_OF_VIEWS * (views - logs.input),
            [1.0, -WEIGHT_OF_VIEWS, WEIGHT_OF_VIEWS],
        ),
    }
}

/// Weight of what the views change against the support.
const WEIGHT_OF_VIEWS: f64 = 1.5;

/// The lead of the recovered label's evidence over the input label's that speaks for neither verdict, in
/// nats.
pub(crate) const EVEN: f64 = 1.9;

/// A class that is as good as ruled out: logarithms end here, so that one can count with them. A
/// classifier's own may be −∞.
pub(crate) const LEAST_LOG: f64 = -1e4;

fn of_class(input: &Reading, views: &[Reading], support: f64, class: usize) -> f64 {
    let log = |reading: &Reading| reading.log_probability(class).max(LEAST_LOG);
    let sum: f64 = views.iter().map(log).sum();
    let logs = Logs {
        support: support.ln().max(LEAST_LOG),
        input: log(input),
        views: (!views.is_empty()).then(|| sum / views.len() as f64),
    };
    evidence(logs).0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reading of these probabilities.
    fn reading<const N: usize>(probabilities: [f64; N]) -> Reading {
        Reading::new(&probabilities.map(|p| p.ln() as f32))
    }

    fn judge<const N: usize>(
        input: [f64; N],
        views: &[[f64; N]],
        support: [f64; N],
    ) -> (Option<usize>, f64) {
        let views: Vec<Reading> = views.iter().map(|&view| reading(view)).collect();
        let judged = VerdictOptions::default().judge(&reading(input), &views, support.to_vec());
        (judged.recovered, judged.score)
    }

    #[test]
    fn without_views_the_support_decides() {
        let input = [0.98, 0.01, 0.01];
        let (recovered, score) = judge(input, &[], [0.05, 0.8, 0.15]);
        assert_eq!(recovered, Some(1));
        // Odds of 16 to 1, and the even point.
        let odds: f64 = 16.0 * (-EVEN).exp();
        assert!((score - odds / (1.0 + odds)).abs() < 1e-9);
        // The input label is not recovered, however well supported.
        let (recovered, score) = judge(input, &[], [0.9, 0.04, 0.06]);
        assert_eq!(recovered, Some(2));
        assert!(score < 0.1);
    }

    #[test]
    fn a_label_that_comes_back_in_the_views_is_recovered() {
        // The attack has all but erased the third label, and its support is second.
        let input = [1.0 - 2e-9, 2e-9 - 1e-12, 1e-12];
        let support = [0.3, 0.4, 0.3];
        assert_eq!(judge(input, &[], support).0, Some(1));
        let same = judge(input, &[input, input], support);
        assert_eq!(same.0, Some(1));
        let views = [[0.9, 0.05, 0.05], [0.8, 0.1, 0.1]];
        let (recovered, score) = judge(input, &views, support);
        assert_eq!(recovered, Some(2));
        assert!(same.1 < 0.2 && score > 0.999);
        // The views' mean counts, not how many there are.
        let one = judge(input, &views[..1], support);
        assert_eq!(judge(input, &[views[0]; 3], support).0, one.0);
        assert!((judge(input, &[views[0]; 3], support).1 - one.1).abs() < 1e-9);
    }

    #[test]
    fn an_input_that_its_views_do_not_share_is_suspect() {
        let judged = |view: [f64; 2]| judge([0.9, 0.1], &[view], [0.6, 0.4]).1;
        assert!(judged([0.95, 0.05]) < judged([0.9, 0.1]));
        assert!(judged([0.9, 0.1]) < judged([0.5, 0.5]));
        assert!(judged([0.9, 0.1]) < 0.5 && judged([0.2, 0.8]) > 0.5);
    }

    #[test]
    fn the_evidence_has_the_derivatives_that_it_says() {
        for views in [Some(-1.0), None] {
            let at = |step: [f64; 3]| {
                let logs = Logs {
                    support: -0.4 + step[0],
                    input: -3.0 + step[1],
                    views: views.map(|views: f64| views + step[2]),
                };
                evidence(logs)
            };
            let (_, slopes) = at([0.0; 3]);
            for (i, slope) in slopes.into_iter().enumerate() {
                let mut step = [0.0; 3];
                step[i] = 1e-4;
                let up = at(step).0;
                step[i] = -1e-4;
                let numeric = (up - at(step).0) / 2e-4;
                assert!((numeric - slope).abs() < 1e-9, "{i}: {numeric} {slope}");
            }
        }
    }

    #[test]
    fn vanished_probabilities_give_a_number() {
        for views in [vec![], vec![[0.0, 1.0]], vec![[1.0, 0.0]]] {
            for support in [[0.0, 0.0], [1.0, 0.0]] {
                let (_, score) = judge([1.0, 0.0], &views, support);
                assert!((0.0..=1.0).contains(&score), "{views:?} {support:?}");
            }
        }
        assert_eq!(judge([1.0], &[], [1.0]), (None, 0.0));
    }

    #[test]
    fn thresholds_make_the_words() {
        let options = VerdictOptions {
            clean_below: 0.4,
            adversarial_from: 0.6,
        };
        let words = [0.4, 0.5, 0.6].map(|score| options.verdict(score));
        assert_eq!(
            words,
            [Verdict::Clean, Verdict::Undecided, Verdict::Adversarial]
        );
        for (clean_below, adversarial_from) in
            [(0.6, 0.4), (-0.1, 0.5), (0.5, 1.1), (f64::NAN, 0.5)]
        {
            assert!(
                VerdictOptions {
                    clean_below,
                    adversarial_from
                }
                .validate()
                .is_err()
            );
        }
    }
}
