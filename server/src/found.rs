//! What was found of one picture, as far as responses need it.

use backstitch::defense::Reading;
use backstitch::picture::write_png;
use backstitch::scheduler::Purified;
use backstitch::{Picture, Verdict};

/// What was found of one picture. The decision map, which takes far more memory, is left behind.
#[derive(Clone, Debug)]
pub struct Found {
    /// The purified picture, in the classifier's size.
    pub picture: Picture,
    /// Whether the picture was attacked.
    pub verdict: Verdict,
    /// How strongly the evidence speaks against the input label, from 0 to 1.
    pub score: f64,
    /// What the classifier says of the input.
    pub input: Reading,
    /// What the classifier says of the output.
    pub output: Reading,
}

impl Found {
    /// What responses need of a purified picture.
    pub fn new(purified: Purified) -> Found {
        let picture = purified.picture();
        let outcome = purified.outcome;
        Found {
            picture,
            verdict: outcome.verdict,
            score: outcome.score,
            input: outcome.input,
            output: outcome.output,
        }
    }

    /// The purified picture as PNG: the bytes that `backstitch purify` writes.
    pub fn png(&self) -> Vec<u8> {
        let mut png = Vec::new();
        let written = write_png(&mut png, self.picture.shape, &self.picture.pixels);
        written.expect("memory takes every byte, and the size is a classifier's");
        png
    }
}
