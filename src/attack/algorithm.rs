//! What every attack is, and the checks of its numbers.

use super::ball::Ball;
use super::climb::Subject;
use super::victim::Victim;
use crate::error::{Error, Result};

/// An attack with its numbers.
pub trait Attack {
    /// Checks every number, for a victim of `classes` classes and an attack on the own label or
    /// (`targeted`) towards another.
    ///
    /// # Errors
    /// One that cannot be used.
    fn validate(&self, classes: usize, targeted: bool) -> Result<()>;

    /// What bounds the change; `None` where the attack looks for a small one.
    fn ball(&self) -> Option<Ball>;

    /// The attacked images, CHW in `[0, 1]`, in the subjects' order and inside their balls.
    ///
    /// `eight_bit` says that the images will be rounded.
    fn run(
        &self,
        victim: &mut dyn Victim,
        subjects: &[Subject<'_>],
        eight_bit: bool,
    ) -> Result<Vec<Vec<f32>>>;
}

/// Refuses a number that is not above 0.
pub(super) fn above_zero(option: &str, x: f32) -> Result<()> {
    match x.is_finite() && x > 0.0 {
        true => Ok(()),
        false => Err(Error::option(option, format!("must be above 0, not {x}"))),
    }
}

/// Refuses a number below 0.
pub(super) fn at_least_zero(option: &str, x: f32) -> Result<()> {
    match x.is_finite() && x >= 0.0 {
        true => Ok(()),
        false => Err(Error::option(
            option,
            format!("must be 0 or above, not {x}"),
        )),
    }
}
