//! A picture and its purification.

use std::path::Path;

use crate::defense::{Outcome, Verdict};
use crate::error::{Error, Result};
use crate::files::replace::Replacement;
use crate::picture::{Picture, write_png};

/// A purified picture.
#[derive(Clone, Debug)]
pub struct Purified {
    /// The input, in the classifier's size.
    pub input: Picture,
    /// The defense's result, with every number that it decided by.
    pub outcome: Outcome,
}

impl Purified {
    /// Whether the picture was attacked.
    pub fn verdict(&self) -> Verdict {
        self.outcome.verdict
    }

    /// How strongly the evidence speaks for the recovered label against the input label, from 0 (clean) to 1
    /// (adversarial).
    pub fn score(&self) -> f64 {
        self.outcome.score
    }

    /// The input label: the classifier's label of the input.
    pub fn input_label(&self) -> usize {
        self.outcome.input.label()
    }

    /// The output label: the classifier's label of the output.
    pub fn output_label(&self) -> usize {
        self.outcome.output.label()
    }

    /// The output, in the classifier's size.
    pub fn picture(&self) -> Picture {
        let pixels = self.outcome.pixels.clone();
        Picture::of(self.input.shape, pixels)
    }

    /// Writes the output as an 8-bit RGB PNG. An existing file of this name is replaced when the new one is
    /// complete.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut file = Replacement::create(path)?;
        write_png(file.writer(), self.input.shape, &self.outcome.pixels)
            .map_err(Error::io(path))?;
        file.finish()
    }
}
