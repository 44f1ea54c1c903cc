//! A picture and what became of it.

use std::path::Path;

use crate::defense::{Outcome, Verdict};
use crate::error::{Error, Result};
use crate::files::replace::Replacement;
use crate::picture::{Picture, write_png};

/// A purified picture.
#[derive(Clone, Debug)]
pub struct Purified {
    /// What was purified, of the classifier's size.
    pub input: Picture,
    /// What the defense found and made of it, with every number that it decided by.
    pub outcome: Outcome,
}

impl Purified {
    /// Whether the picture was attacked.
    pub fn verdict(&self) -> Verdict {
        self.outcome.verdict
    }

    /// How much speaks for an attack, from 0 to 1.
    pub fn score(&self) -> f64 {
        self.outcome.score
    }

    /// What the classifier says of the input.
    pub fn input_label(&self) -> usize {
        self.outcome.input.label()
    }

    /// What the classifier says of the output.
    pub fn output_label(&self) -> usize {
        self.outcome.output.label()
    }

    /// The output, of the classifier's size.
    pub fn picture(&self) -> Picture {
        let pixels = self.outcome.pixels.clone();
        Picture::new(self.input.shape, pixels)
    }

    /// Writes the output as an 8-bit RGB PNG; a file of this name is replaced once the new one is whole.
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
