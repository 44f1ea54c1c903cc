//! The lines of `cells.jsonl`: one picture under one attack, and every defense's answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::defense::Verdict;

/// One line of `cells.jsonl`.
///
/// Fields that do not apply are left out. A picture of which only attacked versions are given has a line
/// `clean` without answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The picture's id.
    pub image: String,
    /// Its true label.
    pub label: Option<usize>,
    /// The attack's name; `clean` for the picture itself.
    pub attack: String,
    /// Why the picture does not count; its only line is then `clean`, without answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excluded: Option<Excluded>,
    /// Why the picture failed; tried again when the run is resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Largest change of a value by the attack, for pixels in `[0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linf: Option<f64>,
    /// Euclidean length of the change, for pixels in `[0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l2: Option<f64>,
    /// Seconds that the attack took: its share of its batch's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack_seconds: Option<f64>,
    /// The attacked picture's file, relative to the run folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<String>,
    /// For clean pictures: the share of values, from 0 to 1, by which the derivative of the classifier's
    /// cross-entropy is zero or not a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_gradient: Option<f64>,
    /// The whole defense's score, from 0 (clean) to 1 (adversarial).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The whole defense's verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Each defense's answer, by the defense's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub defenses: BTreeMap<String, Answer>,
}

/// Why a picture does not count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Excluded {
    /// The classifier mislabels the clean picture.
    WrongWhenClean {
        /// The classifier's label of the clean picture.
        predicted: usize,
    },
    /// Its true label is not known.
    NoLabel,
}

/// A defense's result for an attacked picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The classifier's label of the output.
    pub label: usize,
    /// Probability of the label, from 0 to 1.
    pub confidence: f64,
    /// PSNR of the output against the clean picture, in dB; null if they are equal or the clean picture is not
    /// known.
    pub psnr: Option<f64>,
    /// SSIM of the output against the clean picture; null if the clean picture is not known.
    pub ssim: Option<f64>,
    /// Seconds that this defense took; absent if it is a part of another defense's run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl Cell {
    /// Whether the output of `defense` has the true label; `None` if there is no answer.
    pub fn is_right(&self, defense: &str) -> Option<bool> {
        let answer = self.defenses.get(defense)?;
        Some(Some(answer.label) == self.label)
    }
}
