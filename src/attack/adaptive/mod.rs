//! Attacks through the defense: the classifier and the whole defense before it as one [`Victim`].
//!
//! A purification has no gradient to follow: it fits networks, searches for boundaries, and decides. A
//! [`Rule`] says what an attack uses instead; [`Defended`] applies it, so that every attack of this crate
//! runs against the whole system. The attack's success is decided by the real defense with its own seed.

mod decision;
mod defended;
#[cfg(test)]
mod tests;

pub use defended::Defended;

#[cfg(doc)]
use super::Victim;
use crate::error::{Error, Result};

/// What an attack uses in place of the gradient of the defended system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// No gradient: only the defended system's logits for the pictures it is asked about. For square
    Queries,
    /// BPDA (Athalye et al. 2018): the gradient at the output, as if purification changed nothing
    Identity,
    /// The mean gradient at the votes: reconstructions, points behind them, their mirror images
    Trajectory,
    /// The gradient of the decision itself: label and score, from the votes and the input together
    Decision,
    /// The same toward one way to a wrong answer after another, each to its end: a false alarm, a wrong label
    /// that is judged clean, a third label, an undecided output that is wrong
    Ways,
}

/// Which seeds an attack's own purifications have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Seeds {
    /// The attacker knows the defense's seed
    #[default]
    Fixed,
    /// The attacker knows everything but the seed, and draws others
    Fresh,
}

/// How an attack gets through the defense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Adaptive {
    /// What the attack follows in place of the defended system's gradient.
    pub rule: Rule,
    /// Purifications of different seeds over which each gradient is averaged: expectation over
    /// transformation (Athalye et al. 2018). Draws share no restart's seed.
    pub draws: u32,
    /// Seeds of the attack's own purifications.
    pub seeds: Seeds,
}

impl Adaptive {
    /// An attack by `rule`, with one draw and the defense's seed.
    pub fn new(rule: Rule) -> Self {
        Adaptive {
            rule,
            draws: 1,
            seeds: Seeds::Fixed,
        }
    }

    /// Checks the number of draws.
    ///
    /// # Errors
    /// `draws` is 0.
    pub fn validate(&self) -> Result<()> {
        match self.draws {
            0 => Err(Error::option("draws", "must be 1 or more")),
            _ => Ok(()),
        }
    }

    /// The seed of each draw, for a defense of seed `own`.
    fn draws(self, own: u64) -> impl Iterator<Item = u64> {
        let first = match self.seeds {
            Seeds::Fixed => 0,
            Seeds::Fresh => 1,
        };
        (0..u64::from(self.draws)).map(move |draw| own.wrapping_add((first + draw) * SEED_STRIDE))
    }
}

/// Distance of the draws' seeds. Restart `r` of a draw has the draw's seed plus `r`, and there are fewer
/// restarts than this.
const SEED_STRIDE: u64 = 1 << 32;
