//! Whether an image is adversarial: the shape of its decision map, as one number and one word.

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
            clean_below: 0.42,
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

    /// Judges an input by the support of all classes.
    pub fn judge(&self, input: &Reading, support: Vec<f64>) -> Judgement {
        let recovered = best_other(&support, input.label());
        let score = recovered.map_or(0.0, |label| score(input, &support, label));
        Judgement {
            support,
            recovered,
            score,
            verdict: self.verdict(score),
        }
    }
}

/// What the support of all classes says of an input.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// By class.
    pub support: Vec<f64>,
    /// The best supported label other than the input label; `None` where the classifier has but one.
    pub recovered: Option<usize>,
    pub score: f64,
    pub verdict: Verdict,
}

/// How strongly the support speaks for `label` against the input label, in `[0, 1]`; ½ is the even
/// point.
///
/// Two things count. The odds of the two labels where the map votes: behind the reconstructions an
/// adversarial label fades. And how far these odds have moved from those at the input: a clean
/// picture's reconstruction is doubted where the picture itself was, an adversarial one's is not.
/// The second weighs a quarter of the first and is bounded, since attacks can choose the confidence
/// at the input freely. The numbers were measured on pictures attacked through EfficientNet-Lite0.
pub(crate) fn score(input: &Reading, support: &[f64], label: usize) -> f64 {
    // Below this a probability is as good as zero, and so that logarithms are finite.
    let log = |p: f64| p.max(1e-12).ln();
    let odds = log(support[label]) - log(support[input.label()]);
    let odds_at_input = log(input.probability(label)) - log(input.confidence());
    1.0 / (1.0 + (-evidence(odds, odds_at_input).0).exp())
}

/// The score's logit, from the odds of the two labels (as logarithms) where the map votes and at the
/// input; and its derivatives by the two.
pub(crate) fn evidence(odds: f64, odds_at_input: f64) -> (f64, [f64; 2]) {
    let moved = odds - odds_at_input;
    let weight = if moved < MOST_MOVED {
        WEIGHT_MOVED
    } else {
        0.0
    };
    let value = odds + WEIGHT_MOVED * (moved.min(MOST_MOVED) - EVEN_MOVED);
    (value, [1.0 + weight, -weight])
}

/// Weight of the odds' movement against the odds themselves.
const WEIGHT_MOVED: f64 = 0.25;
/// Movement, in nats, that speaks for neither verdict.
const EVEN_MOVED: f64 = 4.5;
/// Movement, in nats, beyond which more says nothing more.
const MOST_MOVED: f64 = 8.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// The score of label 1 for probabilities of labels 0 and 1 at the input, and their support.
    fn score_of(input: [f64; 2], support: [f64; 2]) -> f64 {
        let logits = input.map(|p| p.ln() as f32);
        score(&Reading::new(&logits), &support, 1)
    }

    #[test]
    fn support_and_movement_both_count() {
        let sure = [0.999_999, 0.000_001];
        let unsure = [0.55, 0.45];
        assert!(score_of(sure, [0.1, 0.9]) > 0.9);
        assert!(score_of(sure, [0.9, 0.1]) < 0.5);
        // The same map convicts an input that was sure, and not one that was as doubtful.
        assert!(score_of(sure, [0.6, 0.4]) > 0.5);
        assert!(score_of(unsure, [0.6, 0.4]) < 0.5);
        // But a label that takes over convicts it too.
        assert!(score_of(unsure, [0.1, 0.9]) > 0.5);
    }

    #[test]
    fn vanished_probabilities_give_a_number() {
        assert!(score_of([1.0, 0.0], [0.0, 0.0]).is_finite());
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
