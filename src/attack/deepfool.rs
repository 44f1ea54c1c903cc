//! DeepFool: steps to the nearest decision boundary of the linearized classifier.

use serde::{Deserialize, Serialize};

use super::algorithm::{Attack, at_least_zero};
use super::ball::{Ball, length};
use super::climb::Subject;
use super::losses::Loss;
use super::victim::{Slope, Victim};
use crate::error::{Error, Result};

/// Moosavi-Dezfooli et al. 2016: linearizes the classifier and steps over the nearest decision boundary,
/// until the label changes.
///
/// The change is small in the Euclidean norm, but has no bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeepFool {
    /// Largest number of steps for a picture; its search ends when the label changes.
    pub steps: usize,
    /// By how much each step is longer than the distance to the boundary: 0.02 is 2%. At least 0.
    pub overshoot: f32,
    /// How many classes are considered, the label included: those with the largest logits on the clean
    /// picture. Each but the label costs a gradient in each step. At least 2.
    pub candidates: usize,
}

impl Default for DeepFool {
    /// The steps and overshoot of torchattacks, which considers all classes; 10 is from the authors' code.
    fn default() -> Self {
        DeepFool {
            steps: 50,
            overshoot: 0.02,
            candidates: 10,
        }
    }
}

/// A linearized boundary.
struct Wall {
    /// The normal that points away from the label's side.
    gradient: Vec<f32>,
    /// Euclidean length of the normal.
    steepness: f64,
    /// Euclidean distance of the image.
    distance: f64,
}

struct Walk<'a> {
    subject: &'a Subject<'a>,
    image: Vec<f32>,
    label: usize,
    /// The classes that are considered, by falling logit on the clean picture.
    others: Vec<usize>,
    /// The nearest boundary known in this step.
    nearest: Option<Wall>,
    done: bool,
}

impl<'a> Walk<'a> {
    fn new(options: &DeepFool, subject: &'a Subject<'a>) -> Self {
        let label = subject.aim.class();
        let best = subject.input.top(options.candidates).into_iter();
        Walk {
            subject,
            image: subject.clean().to_vec(),
            label,
            others: best
                .map(|(class, _)| class)
                .filter(|&class| class != label)
                .collect(),
            nearest: None,
            done: subject.aim.met(&subject.input),
        }
    }

    fn look(&mut self, slope: Slope) {
        let steepness = length(slope.gradient.iter().copied());
        let distance = slope.loss.abs() / steepness;
        let nearest = self.nearest.as_ref().map_or(f64::INFINITY, |w| w.distance);
        // False where the gradient is zero, which gives no boundary.
        if distance < nearest {
            self.nearest = Some(Wall {
                gradient: slope.gradient,
                steepness,
                distance,
            });
        }
    }

    fn step(&mut self, overshoot: f32) {
        let Some(wall) = self.nearest.take() else {
            self.done = true;
            return;
        };
        let scale = ((1.0 + f64::from(overshoot)) * wall.distance / wall.steepness) as f32;
        for (pixel, slope) in self.image.iter_mut().zip(&wall.gradient) {
            *pixel = (*pixel + scale * slope).clamp(0.0, 1.0);
        }
    }
}

impl Attack for DeepFool {
    fn validate(&self, _classes: usize, _targeted: bool) -> Result<()> {
        if self.candidates < 2 {
            return Err(Error::option("candidates", "must be 2 or more"));
        }
        at_least_zero("overshoot", self.overshoot)
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
        let walks = subjects.iter().map(|subject| Walk::new(self, subject));
        let mut walks: Vec<Walk<'_>> = walks.collect();
        for _ in 0..self.steps {
            let mut active: Vec<&mut Walk<'_>> = walks.iter_mut().filter(|w| !w.done).collect();
            if active.is_empty() {
                break;
            }
            // One class for all pictures at a time, so that only two gradients for each are in memory.
            for place in 0..self.candidates {
                let looking = active
                    .iter_mut()
                    .filter_map(|w| w.others.get(place).copied().map(|other| (w, other)));
                let (mut looking, losses): (Vec<_>, Vec<_>) = looking
                    .map(|(walk, other)| {
                        let label = walk.label;
                        (walk, Loss::Difference { label, other })
                    })
                    .unzip();
                if looking.is_empty() {
                    break;
                }
                let images: Vec<&[f32]> = looking.iter().map(|walk| &walk.image[..]).collect();
                let slopes = victim.gradient(&images, &losses)?;
                for (walk, slope) in looking.iter_mut().zip(slopes) {
                    walk.look(slope);
                }
            }
            for walk in &mut active {
                walk.step(self.overshoot);
            }
            let images: Vec<&[f32]> = active.iter().map(|walk| &walk.image[..]).collect();
            let readings = victim.read(&images)?;
            for (walk, reading) in active.iter_mut().zip(readings) {
                walk.done |= walk.subject.aim.met(&reading);
            }
        }
        Ok(walks.into_iter().map(|walk| walk.image).collect())
    }
}
