//! A line of `results.jsonl`, as a resumed run reads it.

use serde::Deserialize;

use crate::defense::Verdict;

/// The fields that are read from a line.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    pub image: String,
    pub label: Option<usize>,
    pub input_label: Option<usize>,
    pub output_label: Option<usize>,
    pub verdict: Option<Verdict>,
    pub success: Option<bool>,
    pub error: Option<String>,
    #[serde(alias = "saved")]
    pub output: Option<String>,
}
