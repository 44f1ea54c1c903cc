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
    ///
    /// `mirrored` is what the classifier sees in the input's mirror image, where that is asked for.
    pub fn judge(
        &self,
        input: &Reading,
        mirrored: Option<&Reading>,
        support: Vec<f64>,
    ) -> Judgement {
        let recovered = best_other(&support, input.label());
        let score = recovered.map_or(0.0, |label| score(input, mirrored, &support, label));
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
/// Three things count. The odds of the two labels where the map votes: behind the reconstructions an
/// adversarial label fades. How far these odds have moved from those at the input: a clean picture's
/// reconstruction is doubted where the picture itself was, an adversarial one's is not. And how far they
/// move when the input is merely mirrored: a photograph is as good either way, noise that was made for
/// one of them is not. The latter two weigh less than the first and are bounded, since attacks can choose
/// the confidence at the input freely. The numbers were measured on pictures attacked through
/// EfficientNet-Lite0 (docs/tuning.md).
pub(crate) fn score(
    input: &Reading,
    mirrored: Option<&Reading>,
    support: &[f64],
    label: usize,
) -> f64 {
    // Below this a probability is as good as zero, and so that logarithms are finite.
    let log = |p: f64| p.max(1e-12).ln();
    let odds = |of: &dyn Fn(usize) -> f64| log(of(label)) - log(of(input.label()));
    let odds = Odds {
        support: odds(&|class| support[class]),
        input: odds(&|class| input.probability(class)),
        mirrored: mirrored.map(|mirrored| odds(&|class| mirrored.probability(class))),
    };
    1.0 / (1.0 + (-evidence(odds).0).exp())
}

/// The odds, as logarithms, of a label against the input label.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odds {
    /// Where the map votes.
    pub support: f64,
    /// At the input.
    pub input: f64,
    /// At the input's mirror image, where it was read.
    pub mirrored: Option<f64>,
}

/// The score's logit, and its derivatives by the odds: of the support, at the input, in the mirror.
pub(crate) fn evidence(odds: Odds) -> (f64, [f64; 3]) {
    let moved = odds.support - odds.input;
    let by_moved = if moved < MOST_MOVED {
        WEIGHT_MOVED
    } else {
        0.0
    };
    let mut value = odds.support + WEIGHT_MOVED * (moved.min(MOST_MOVED) - EVEN_MOVED);
    let mut by_mirrored = 0.0;
    if let Some(mirrored) = odds.mirrored {
        let turned = mirrored - odds.input;
        if turned.abs() < MOST_TURNED {
            by_mirrored = WEIGHT_TURNED;
        }
        value += WEIGHT_TURNED * (turned.clamp(-MOST_TURNED, MOST_TURNED) - EVEN_TURNED);
    }
    let by_input = -by_moved - by_mirrored;
    (value, [1.0 + by_moved, by_input, by_mirrored])
}

/// Weight of the odds' movement against the odds themselves.
const WEIGHT_MOVED: f64 = 0.25;
/// Movement, in nats, that speaks for neither verdict.
const EVEN_MOVED: f64 = 4.5;
/// Movement, in nats, beyond which more says nothing more.
const MOST_MOVED: f64 = 8.0;

/// Weight of the odds' change in the mirror.
const WEIGHT_TURNED: f64 = 0.5;
/// Change in the mirror, in nats, that speaks for neither verdict.
const EVEN_TURNED: f64 = 1.0;
/// Change in the mirror, in nats, either way, beyond which more says nothing more.
const MOST_TURNED: f64 = 4.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// The score of label 1 for probabilities of labels 0 and 1 at the input, and their support.
    fn score_of(input: [f64; 2], support: [f64; 2]) -> f64 {
        let logits = input.map(|p| p.ln() as f32);
        score(&Reading::new(&logits), None, &support, 1)
    }

    #[test]
    fn an_input_whose_label_the_mirror_does_not_share_is_suspect() {
        let input = Reading::new(&[1.0, 0.0]);
        let judged = |mirrored: Option<[f32; 2]>| {
            let mirrored = mirrored.map(|logits| Reading::new(&logits));
            score(&input, mirrored.as_ref(), &[0.5, 0.5], 1)
        };
        let same = judged(Some([1.0, 0.0]));
        let turned = judged(Some([0.0, 2.0]));
        assert!(same < judged(None) && judged(None) < turned);
        // More than the bound counts no more.
        assert_eq!(judged(Some([0.0, 9.0])), judged(Some([0.0, 30.0])));
        assert_eq!(judged(Some([9.0, 0.0])), judged(Some([30.0, 0.0])));
    }

    #[test]
    fn the_evidence_has_the_derivatives_that_it_says() {
        for (support, input, mirrored) in [
            (0.4, -3.0, Some(-1.0)),
            (0.4, -3.0, None),
            (6.0, -9.0, Some(-3.0)),
            (-2.0, 1.0, Some(-4.5)),
        ] {
            let at = |step: [f64; 3]| {
                let odds = Odds {
                    support: support + step[0],
                    input: input + step[1],
                    mirrored: mirrored.map(|odds: f64| odds + step[2]),
                };
                evidence(odds)
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
