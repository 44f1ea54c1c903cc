//! Steps of one size along the cross-entropy's gradient: FGSM, BIM, PGD and MI-FGSM.

use serde::{Deserialize, Serialize};

use super::algorithm::{Attack, above_zero, at_least_zero};
use super::ball::{Ball, Norm};
use super::climb::{Climber, Subject, climb};
use super::losses::Loss;
use super::victim::{Slope, Victim};
use crate::error::Result;

/// Goodfellow et al. 2015: one step along the gradient's sign, to the edge of the ball.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fgsm {
    /// Radius in the maximum norm, pixels in `[0, 1]`.
    pub eps: f32,
}

/// Kurakin et al. 2017: FGSM iterated from the image itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bim {
    /// Radius in the maximum norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Change of each pixel in a step, pixels in `[0, 1]`.
    pub step_size: f32,
    /// Gradient steps.
    pub steps: usize,
}

/// Madry et al. 2018: BIM from a random start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pgd {
    /// Radius in the maximum norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Change of each pixel in a step, pixels in `[0, 1]`.
    pub step_size: f32,
    /// Gradient steps.
    pub steps: usize,
    /// Start at a random point of the ball, not at the image.
    pub random_start: bool,
}

/// PGD in the Euclidean ball.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PgdL2 {
    /// Radius in the Euclidean norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Euclidean length of a step.
    pub step_size: f32,
    /// Gradient steps.
    pub steps: usize,
    /// Start at a random point of the ball, not at the image.
    pub random_start: bool,
}

/// Dong et al. 2018: BIM along an accumulated gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MiFgsm {
    /// Radius in the maximum norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Change of each pixel in a step, pixels in `[0, 1]`.
    pub step_size: f32,
    /// Gradient steps.
    pub steps: usize,
    /// Factor of the accumulated gradient at each step, at least 0.
    pub decay: f32,
}

// The defaults are those of torchattacks.

impl Default for Fgsm {
    fn default() -> Self {
        Fgsm { eps: 8.0 / 255.0 }
    }
}

impl Default for Bim {
    fn default() -> Self {
        Bim {
            eps: 8.0 / 255.0,
            step_size: 2.0 / 255.0,
            steps: 10,
        }
    }
}

impl Default for Pgd {
    fn default() -> Self {
        Pgd {
            eps: 8.0 / 255.0,
            step_size: 2.0 / 255.0,
            steps: 10,
            random_start: true,
        }
    }
}

impl Default for PgdL2 {
    fn default() -> Self {
        PgdL2 {
            eps: 1.0,
            step_size: 0.2,
            steps: 10,
            random_start: true,
        }
    }
}

impl Default for MiFgsm {
    fn default() -> Self {
        MiFgsm {
            eps: 8.0 / 255.0,
            step_size: 2.0 / 255.0,
            steps: 10,
            decay: 1.0,
        }
    }
}

/// The scheme that all of them follow.
struct Scheme {
    ball: Ball,
    step_size: f32,
    steps: usize,
    random_start: bool,
    /// Factor of the accumulated gradient at each step; `None` to follow the last gradient alone.
    decay: Option<f32>,
}

struct Walk<'a> {
    subject: &'a Subject<'a>,
    scheme: &'a Scheme,
    image: Vec<f32>,
    /// The accumulated gradient; empty where none is accumulated.
    momentum: Vec<f32>,
}

impl Climber for Walk<'_> {
    fn image(&self) -> &[f32] {
        &self.image
    }

    fn loss(&self) -> Loss {
        Loss::CrossEntropy(self.subject.aim)
    }

    fn advance(&mut self, slope: Slope) {
        let ball = &self.scheme.ball;
        let direction = match self.scheme.decay {
            None => &slope.gradient,
            Some(decay) => {
                accumulate(&mut self.momentum, &slope.gradient, decay);
                &self.momentum
            }
        };
        ball.ascend(&mut self.image, direction, self.scheme.step_size);
        ball.project(&mut self.image, self.subject.clean());
    }
}

/// Multiplies `momentum` by `decay` and adds the gradient, scaled to a mean magnitude of 1.
pub(super) fn accumulate(momentum: &mut [f32], gradient: &[f32], decay: f32) {
    let sum: f64 = gradient.iter().map(|x| f64::from(x.abs())).sum();
    let scale = match sum > 0.0 {
        true => (gradient.len() as f64 / sum) as f32,
        false => 0.0,
    };
    for (momentum, slope) in momentum.iter_mut().zip(gradient) {
        *momentum = decay * *momentum + scale * slope;
    }
}

impl Scheme {
    fn validate(&self) -> Result<()> {
        above_zero("eps", self.ball.eps)?;
        at_least_zero("step_size", self.step_size)?;
        at_least_zero("decay", self.decay.unwrap_or(0.0))
    }

    fn run(&self, victim: &mut dyn Victim, subjects: &[Subject<'_>]) -> Result<Vec<Vec<f32>>> {
        let start = |subject: &Subject<'_>| match self.random_start {
            true => self.ball.point(subject.clean(), &subject.key(0)),
            false => subject.clean().to_vec(),
        };
        let walk = |subject| {
            let image = start(subject);
            let elements = self.decay.map_or(0, |_| image.len());
            Walk {
                subject,
                scheme: self,
                image,
                momentum: vec![0.0; elements],
            }
        };
        let mut walks: Vec<Walk<'_>> = subjects.iter().map(walk).collect();
        climb(victim, &mut walks, self.steps)?;
        Ok(walks.into_iter().map(|walk| walk.image).collect())
    }
}

/// Makes each options' type an attack through its scheme.
macro_rules! schemes {
    ($($name:ident: |$options:ident| $scheme:expr;)*) => {$(
        impl $name {
            fn scheme(&self) -> Scheme {
                let $options = self;
                $scheme
            }
        }

        impl Attack for $name {
            fn validate(&self, _classes: usize, _targeted: bool) -> Result<()> {
                self.scheme().validate()
            }

            fn ball(&self) -> Option<Ball> {
                Some(self.scheme().ball)
            }

            fn run(
                &self,
                victim: &mut dyn Victim,
                subjects: &[Subject<'_>],
                _eight_bit: bool,
            ) -> Result<Vec<Vec<f32>>> {
                self.scheme().run(victim, subjects)
            }
        }
    )*};
}

schemes! {
    Fgsm: |o| Scheme {
        ball: Ball { norm: Norm::Linf, eps: o.eps },
        step_size: o.eps,
        steps: 1,
        random_start: false,
        decay: None,
    };
    Bim: |o| Scheme {
        ball: Ball { norm: Norm::Linf, eps: o.eps },
        step_size: o.step_size,
        steps: o.steps,
        random_start: false,
        decay: None,
    };
    Pgd: |o| Scheme {
        ball: Ball { norm: Norm::Linf, eps: o.eps },
        step_size: o.step_size,
        steps: o.steps,
        random_start: o.random_start,
        decay: None,
    };
    PgdL2: |o| Scheme {
        ball: Ball { norm: Norm::L2, eps: o.eps },
        step_size: o.step_size,
        steps: o.steps,
        random_start: o.random_start,
        decay: None,
    };
    MiFgsm: |o| Scheme {
        ball: Ball { norm: Norm::Linf, eps: o.eps },
        step_size: o.step_size,
        steps: o.steps,
        random_start: false,
        decay: Some(o.decay),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn momentum_is_the_decayed_sum_of_gradients_of_mean_magnitude_1() {
        let mut momentum = vec![0.0; 4];
        accumulate(&mut momentum, &[2.0, -2.0, 0.0, 4.0], 0.5);
        assert_eq!(momentum, [1.0, -1.0, 0.0, 2.0]);
        accumulate(&mut momentum, &[0.0, 0.25, -0.75, 0.0], 0.5);
        assert_eq!(momentum, [0.5, -0.5 + 1.0, -3.0, 1.0]);
        accumulate(&mut momentum, &[0.0; 4], 0.5);
        assert_eq!(momentum, [0.25, 0.25, -1.5, 0.5]);
    }
}
