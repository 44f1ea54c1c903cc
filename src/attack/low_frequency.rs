//! PGD with changes so coarse that a reconstruction keeps them: a small perturbation, enlarged to the image's size.

use serde::{Deserialize, Serialize};

use super::algorithm::{Attack, above_zero, at_least_zero};
use super::ball::{Ball, Norm};
use super::climb::{Climber, Subject, climb};
use super::looks::Resize;
use super::losses::Loss;
use super::victim::{Slope, Victim};
use crate::backend::ImageShape;
use crate::error::{Error, Result};
use crate::random::Purpose;

/// PGD within the passband of a DIP network: the perturbation has a value for each block of pixels, between which it
/// is interpolated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PgdLow {
    /// Radius in the maximum norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Change of each of the perturbation's values in a step, pixels in `[0, 1]`.
    pub step_size: f32,
    /// Gradient steps.
    pub steps: usize,
    /// Start at a random perturbation, not at the image.
    pub random_start: bool,
    /// Height and width of a block in pixels, at least 1. The default makes 28×28 values of 224×224 pixels.
    pub block: usize,
}

impl Default for PgdLow {
    fn default() -> Self {
        PgdLow {
            eps: 8.0 / 255.0,
            step_size: 2.0 / 255.0,
            steps: 10,
            random_start: true,
            block: 8,
        }
    }
}

struct Walk<'a> {
    attack: &'a PgdLow,
    subject: &'a Subject<'a>,
    /// From the perturbation's size to the image's.
    enlarge: Resize,
    /// The perturbation: channels × rows × columns of blocks.
    change: Vec<f32>,
    image: Vec<f32>,
}

/// Rows and columns of blocks.
fn blocks(shape: ImageShape, block: usize) -> (usize, usize) {
    (shape.height.div_ceil(block), shape.width.div_ceil(block))
}

impl<'a> Walk<'a> {
    fn new(attack: &'a PgdLow, subject: &'a Subject<'a>) -> Self {
        let shape = subject.picture.shape;
        let small = blocks(shape, attack.block);
        let mut change = vec![0.0; shape.channels * small.0 * small.1];
        if attack.random_start {
            let key = subject.key(0);
            key.uniform(Purpose::AttackStart, 0, change.len(), |i, u| {
                change[i] = attack.eps * (2.0 * u - 1.0);
            });
        }
        let mut walk = Walk {
            attack,
            subject,
            enlarge: Resize::between(small, (shape.height, shape.width)),
            change,
            image: vec![],
        };
        walk.draw();
        walk
    }

    /// Makes the image of the perturbation. An interpolated value is no larger than the largest.
    fn draw(&mut self) {
        let planes = self
            .change
            .chunks_exact(self.change.len() / self.subject.picture.shape.channels);
        let large = planes.flat_map(|plane| self.enlarge.apply(plane));
        let pixels = self.subject.clean().iter().zip(large);
        self.image = pixels.map(|(x, d)| (x + d).clamp(0.0, 1.0)).collect();
    }
}

impl Climber for Walk<'_> {
    fn image(&self) -> &[f32] {
        &self.image
    }

    fn loss(&self) -> Loss {
        Loss::CrossEntropy(self.subject.aim)
    }

    fn advance(&mut self, slope: Slope) {
        let shape = self.subject.picture.shape;
        let planes = slope.gradient.chunks_exact(shape.height * shape.width);
        let by_change: Vec<f32> = planes
            .flat_map(|plane| self.enlarge.transposed(plane))
            .collect();
        let ball = self.attack.ball_of_changes();
        ball.ascend(&mut self.change, &by_change, self.attack.step_size);
        for change in &mut self.change {
            *change = change.clamp(-ball.eps, ball.eps);
        }
        self.draw();
    }
}

impl PgdLow {
    fn ball_of_changes(&self) -> Ball {
        Ball {
            norm: Norm::Linf,
            eps: self.eps,
        }
    }
}

impl Attack for PgdLow {
    fn validate(&self, _classes: usize, _targeted: bool) -> Result<()> {
        if self.block == 0 {
            return Err(Error::option("block", "must be 1 or more"));
        }
        above_zero("eps", self.eps)?;
        at_least_zero("step_size", self.step_size)
    }

    fn ball(&self) -> Option<Ball> {
        Some(self.ball_of_changes())
    }

    fn run(
        &self,
        victim: &mut dyn Victim,
        subjects: &[Subject<'_>],
        _eight_bit: bool,
    ) -> Result<Vec<Vec<f32>>> {
        let walks = subjects.iter().map(|subject| Walk::new(self, subject));
        let mut walks: Vec<Walk<'_>> = walks.collect();
        climb(victim, &mut walks, self.steps)?;
        Ok(walks.into_iter().map(|walk| walk.image).collect())
    }
}
