//! Counts of a run's results so far.

use serde_json::{Map, Value, json};

use super::line::Line;
use crate::defense::Verdict;
use crate::run::record::ImageRecord;

/// Counts of a run's results; failed pictures have no result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pictures with a result.
    pub pictures: usize,
    /// Pictures with the verdict `adversarial`.
    pub adversarial: usize,
    /// Pictures with the verdict `clean`.
    pub clean: usize,
    /// Pictures with the verdict `undecided`.
    pub undecided: usize,
    /// Attacked pictures that fool the classifier.
    pub fooled: usize,
    /// Pictures whose true label is known.
    pub labeled: usize,
    /// Pictures whose input label is the true label.
    pub right_before: usize,
    /// Pictures whose output label is the true label.
    pub right_after: usize,
}

impl Tally {
    /// Counts a result.
    pub fn add(&mut self, line: &Line) {
        self.pictures += 1;
        match line.verdict {
            Some(Verdict::Adversarial) => self.adversarial += 1,
            Some(Verdict::Clean) => self.clean += 1,
            Some(Verdict::Undecided) => self.undecided += 1,
            None => {}
        }
        self.fooled += usize::from(line.success == Some(true));
        if line.label.is_some() {
            self.labeled += 1;
            self.right_before += usize::from(line.input_label == line.label);
            self.right_after += usize::from(line.output_label == line.label);
        }
    }

    /// Counts a result that is not in a journal yet.
    pub fn add_record(&mut self, record: &ImageRecord) {
        self.add(&Line {
            image: String::new(),
            label: record.label,
            input_label: record.input_label,
            output_label: record.output_label,
            verdict: record.verdict,
            success: record.more.get("success").and_then(Value::as_bool),
            error: None,
            output: None,
        });
    }

    /// Each verdict's name and how many pictures have it.
    pub fn verdicts(&self) -> [(&'static str, usize); 3] {
        [
            ("adversarial", self.adversarial),
            ("clean", self.clean),
            ("undecided", self.undecided),
        ]
    }

    /// The counts for `run.json` of `command`.
    pub fn describe(&self, command: &str) -> Map<String, Value> {
        let mut more = Map::new();
        match command {
            "purify" => {
                let verdicts = self.verdicts().map(|(name, n)| (name.to_owned(), n.into()));
                more.insert(
                    "verdicts".into(),
                    Value::Object(verdicts.into_iter().collect()),
                );
            }
            "attack" => drop(more.insert("fooled".into(), self.fooled.into())),
            _ => {}
        }
        if self.labeled > 0 {
            more.insert(
                "labeled".into(),
                json!({
                    "pictures": self.labeled,
                    "right_before": self.right_before,
                    "right_after": self.right_after,
                }),
            );
        }
        more
    }

    /// The counts as lines that `purify` prints.
    pub fn lines(&self) -> Vec<String> {
        let verdicts = self.verdicts().map(|(name, n)| format!("{n} {name}"));
        let mut lines = vec![verdicts.join(", ")];
        if self.labeled > 0 {
            lines.push(format!(
                "of {} with a true label, {} were classified rightly before, {} after",
                self.labeled, self.right_before, self.right_after
            ));
        }
        lines
    }
}
