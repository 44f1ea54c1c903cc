//! The lines of `cells.jsonl`: one picture under one attack, and every defense's answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::defense::Verdict;

/// One line of `cells.jsonl`.
///
/// Fields that do not apply are left out. A picture whose clean version is not known (others may leave
/// attacked ones alone) has a line `clean` without answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The picture's id.
    pub image: String,
    /// Its true label.
    pub label: Option<usize>,
    /// The attack's name; `clean` for the picture itself.
    pub attack: String,
    /// Why the picture does not count; there is then one line of it, `clean`, without answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excluded: Option<Excluded>,
    /// Why the picture failed; tried again when the run is resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Largest change of a value by the attack, for pixels in `[0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linf: Option<f64>,
    /// Euclidean length of the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l2: Option<f64>,
    /// The attack's time: its part of its batch's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack_seconds: Option<f64>,
    /// The attacked picture's file, relative to the run folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<String>,
    /// Of clean pictures: the share of values by which the classifier's cross-entropy does not change,
    /// its derivative being zero or no number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_gradient: Option<f64>,
    /// The whole defense's score, from 0 (clean) to 1 (adversarial).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// By defense.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub defenses: BTreeMap<String, Answer>,
}

/// Why a picture does not count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Excluded {
    /// The classifier is wrong about it when it is clean.
    WrongWhenClean { predicted: usize },
    /// Nothing says its true label.
    NoLabel,
}

/// What a defense made of an attacked picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The classifier's label of the output.
    pub label: usize,
    /// Its probability.
    pub confidence: f64,
    /// Of the output against the clean picture, in dB; null where they are equal or it is not known.
    pub psnr: Option<f64>,
    /// Of the output against the clean picture; null where that is not known.
    pub ssim: Option<f64>,
    /// Time of this defense alone; absent where it is a part of another's run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl Cell {
    /// Whether `defense` gives the true label.
    pub fn is_right(&self, defense: &str) -> Option<bool> {
        let answer = self.defenses.get(defense)?;
        Some(Some(answer.label) == self.label)
    }
}
