//! The trait of all attacks, and checks of their numbers.

use super::ball::Ball;
use super::climb::Subject;
use super::victim::Victim;
use crate::error::{Error, Result};

/// An attack with its numbers.
pub trait Attack {
    /// Checks every number, for a victim of `classes` classes. `targeted` says that the attack leads to a
    /// class, not only away from the picture's.
    ///
    /// # Errors
    /// A number that cannot be used.
    fn validate(&self, classes: usize, targeted: bool) -> Result<()>;

    /// The ball that bounds the change; `None` where nothing does, because the attack minimizes it.
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
