//! Following gradients: what all white-box attacks share.

use rayon::prelude::*;

use super::losses::{Aim, Loss};
use super::victim::{Slope, Victim};
use crate::defense::Reading;
use crate::error::Result;
use crate::picture::Picture;
use crate::random::RandomKey;

/// A picture under attack.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The clean picture.
    pub picture: &'a Picture,
    /// What the attack wants the victim to say of the picture.
    pub aim: Aim,
    /// What the victim says of the clean picture.
    pub input: Reading,
    /// Key of the random numbers: the run's seed and the picture's content.
    pub key: RandomKey,
}

impl Subject<'_> {
    /// The clean pixels, CHW.
    pub fn clean(&self) -> &[f32] {
        &self.picture.pixels
    }

    /// The source of random numbers of restart `run`.
    pub fn key(&self, run: usize) -> RandomKey {
        RandomKey {
            tile: run as u32,
            ..self.key
        }
    }
}

/// The state of an attack on one picture.
pub(super) trait Climber: Send {
    /// The image whose gradient is needed next.
    fn image(&self) -> &[f32];
    /// The loss to differentiate there.
    fn loss(&self) -> Loss;
    /// Makes a step, given the gradient at [`image`](Self::image).
    fn advance(&mut self, slope: Slope);
    /// Whether the attack needs no more gradients.
    fn is_done(&self) -> bool {
        false
    }
}

/// Advances all climbers together, `steps` times or until all are done.
pub(super) fn climb<C: Climber>(
    victim: &mut dyn Victim,
    climbers: &mut [C],
    steps: usize,
) -> Result<()> {
    for _ in 0..steps {
        let mut active: Vec<&mut C> = climbers.iter_mut().filter(|c| !c.is_done()).collect();
        if active.is_empty() {
            break;
        }
        let images: Vec<&[f32]> = active.iter().map(|climber| climber.image()).collect();
        let losses: Vec<Loss> = active.iter().map(|climber| climber.loss()).collect();
        let slopes = victim.gradient(&images, &losses)?;
        active
            .par_iter_mut()
            .zip(slopes)
            .for_each(|(climber, slope)| climber.advance(slope));
    }
    Ok(())
}
