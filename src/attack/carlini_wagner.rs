//! Carlini and Wagner's attack in the Euclidean norm.

use serde::{Deserialize, Serialize};

use super::algorithm::{Attack, above_zero, at_least_zero};
use super::ball::Ball;
use super::climb::{Climber, Subject, climb};
use super::losses::Loss;
use super::victim::{Slope, Victim};
use crate::error::Result;

/// Carlini and Wagner 2017: minimizes `‖x' − x‖² + c · max(−margin, −confidence)` with Adam over `w`, for
/// `x' = (tanh w + 1) / 2`.
///
/// The result is the nearest image that meets the aim with that confidence; torchattacks does not require
/// the confidence. `c` is fixed, as in torchattacks: there is no search for it. Every tenth of the steps,
/// a picture whose objective has risen is given up; torchattacks gives up the batch when the sum rises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CarliniWagner {
    /// Weight of the margin relative to the squared distance, above 0.
    pub c: f32,
    /// The margin that the image must have, in logits, at least 0 (the paper's kappa).
    pub confidence: f32,
    /// Adam steps for each picture that is not given up.
    pub steps: usize,
    /// Adam's learning rate, above 0.
    pub learning_rate: f32,
}

impl Default for CarliniWagner {
    /// The defaults of torchattacks.
    fn default() -> Self {
        CarliniWagner {
            c: 1.0,
            confidence: 0.0,
            steps: 50,
            learning_rate: 0.01,
        }
    }
}

/// Factor of a pixel's distance from 1/2 before it becomes `w`, as in the authors' code: the `w` of pixels
/// at 0 and 1 would be infinite.
const INSIDE: f32 = 0.999_999;

// Adam's usual constants.
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

struct Descent<'a> {
    subject: &'a Subject<'a>,
    options: &'a CarliniWagner,
    w: Vec<f32>,
    image: Vec<f32>,
    /// Adam's first and second moments.
    moments: Vec<[f32; 2]>,
    /// Steps done.
    steps: usize,
    /// The objective when it was last checked.
    checked: f64,
    /// Squared distance and pixels of the nearest image that meets the aim.
    nearest: Option<(f64, Vec<f32>)>,
    done: bool,
}

impl<'a> Descent<'a> {
    fn new(options: &'a CarliniWagner, subject: &'a Subject<'a>) -> Self {
        let pixels = subject.clean().iter();
        let w: Vec<f32> = pixels.map(|x| ((2.0 * x - 1.0) * INSIDE).atanh()).collect();
        Descent {
            subject,
            options,
            image: w.iter().map(|w| (w.tanh() + 1.0) / 2.0).collect(),
            moments: vec![[0.0; 2]; w.len()],
            w,
            steps: 0,
            checked: f64::INFINITY,
            nearest: None,
            done: false,
        }
    }

    /// Keeps the image if it meets the aim and no nearer one is known.
    fn keep(&mut self, slope: &Slope, squared: f64) {
        let aim = self.subject.aim;
        let far = self.nearest.as_ref().is_some_and(|(d, _)| *d <= squared);
        let confidence = f64::from(self.options.confidence);
        if !far && aim.met(&slope.reading) && aim.margin(&slope.reading) >= confidence {
            self.nearest = Some((squared, self.image.clone()));
        }
    }

    /// One step of Adam; `gradient` is that of the margin.
    fn step(&mut self, gradient: &[f32]) {
        let CarliniWagner {
            c, learning_rate, ..
        } = *self.options;
        self.steps += 1;
        let correction = |beta: f32| 1.0 - beta.powi(self.steps.min(100_000) as i32);
        let (first, second) = (correction(BETA1), correction(BETA2));
        let clean = self.subject.clean().iter().zip(gradient);
        let state = self.w.iter_mut().zip(&mut self.image);
        for (((w, x), [m, v]), (clean, slope)) in state.zip(&mut self.moments).zip(clean) {
            // The derivative of (tanh w + 1) / 2 is 2·x·(1 − x).
            let by_pixel = 2.0 * (*x - clean) - c * slope;
            let by_w = by_pixel * 2.0 * *x * (1.0 - *x);
            *m = BETA1 * *m + (1.0 - BETA1) * by_w;
            *v = BETA2 * *v + (1.0 - BETA2) * by_w * by_w;
            *w -= learning_rate * (*m / first) / ((*v / second).sqrt() + EPSILON);
            *x = (w.tanh() + 1.0) / 2.0;
        }
    }
}

impl Climber for Descent<'_> {
    fn image(&self) -> &[f32] {
        &self.image
    }

    fn loss(&self) -> Loss {
        Loss::Margin {
            aim: self.subject.aim,
            confidence: self.options.confidence,
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn advance(&mut self, slope: Slope) {
        let distance = super::ball::distance(&self.image, self.subject.clean());
        let squared = distance * distance;
        self.keep(&slope, squared);
        if self.steps.is_multiple_of((self.options.steps / 10).max(1)) {
            let objective = squared - f64::from(self.options.c) * slope.loss;
            if objective > self.checked {
                self.done = true;
                return;
            }
            self.checked = objective;
        }
        self.step(&slope.gradient);
    }
}

impl Attack for CarliniWagner {
    fn validate(&self, _classes: usize, _targeted: bool) -> Result<()> {
        above_zero("c", self.c)?;
        above_zero("learning_rate", self.learning_rate)?;
        at_least_zero("confidence", self.confidence)
    }

    fn ball(&self) -> Option<Ball> {
        None
    }

    fn run(
        &self,
        victim: &mut dyn Victim,
        subjects: &[Subject<'_>],
        _eight_bit: bool,
    ) -> Result<Vec<Vec<f32>>> {
        let descents = subjects.iter().map(|subject| Descent::new(self, subject));
        let mut descents: Vec<Descent<'_>> = descents.collect();
        climb(victim, &mut descents, self.steps)?;
        let found = descents.into_iter().map(|descent| match descent.nearest {
            Some((_, image)) => image,
            None => descent.subject.clean().to_vec(),
        });
        Ok(found.collect())
    }
}
