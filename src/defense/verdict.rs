//! Whether an image is adversarial: the shape of its decision map, as one number and one word.

use crate::error::{Error, Result};

use super::DecisionMap;

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
            clean_below: 0.5,
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
}

/// How strongly the map speaks for `label` against the input label, in `[0, 1]`: `label`'s part of
/// the support of the two.
pub fn score(map: &DecisionMap, support: &[f64], label: usize) -> f64 {
    let (other, input) = (support[label], support[map.input_label()]);
    other / (other + input)
}
