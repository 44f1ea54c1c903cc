//! Attacks made to outlast a change of the picture or of the classifier: steps along the mean gradient of several
//! copies of the image.
//!
//! DI-, TI-, VMI- and SI-NI-FGSM are those of torchattacks, with its defaults. Their random numbers are drawn for each
//! picture, where torchattacks draws one size and place for a whole batch.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::algorithm::{Attack, above_zero, at_least_zero};
use super::ball::{Ball, Norm};
use super::climb::Subject;
use super::looks::{Look, Shrunk};
use super::losses::Loss;
use super::projected_gradient::accumulate;
use super::victim::Victim;
use crate::backend::{ImageShape, Viewpoint};
use crate::defense::MapOptions;
use crate::error::{Error, Result};
use crate::random::{Purpose, RandomKey};

/// Xie et al. 2019: MI-FGSM on images that are at random made smaller and put on black.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiFgsm {
    /// Radius in the maximum norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Change of each pixel in a step, pixels in `[0, 1]`.
    pub step_size: f32,
    /// Gradient steps.
    pub steps: usize,
    /// Factor of the accumulated gradient at each step, at least 0.
    pub decay: f32,
    /// The smallest size, as a part of the image's; above 0, at most 1.
    pub resize_rate: f32,
    /// Probability that the image is made smaller in a step.
    pub diversity_prob: f32,
}

/// Dong et al. 2019: DI-FGSM with a gradient that is smoothed as if the image were moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TiFgsm {
    /// Radius in the maximum norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Change of each pixel in a step, pixels in `[0, 1]`.
    pub step_size: f32,
    /// Gradient steps.
    pub steps: usize,
    /// Factor of the accumulated gradient at each step, at least 0.
    pub decay: f32,
    /// Size of the Gaussian kernel in pixels, an odd number; it ends at 3 standard deviations.
    pub kernel_size: usize,
    /// The smallest size, as a part of the image's; above 0, at most 1.
    pub resize_rate: f32,
    /// Probability that the image is made smaller in a step.
    pub diversity_prob: f32,
}

/// Wang and He 2021: MI-FGSM whose gradient is corrected by how much those around the image differ from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmiFgsm {
    /// Radius in the maximum norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Change of each pixel in a step, pixels in `[0, 1]`.
    pub step_size: f32,
    /// Gradient steps.
    pub steps: usize,
    /// Factor of the accumulated gradient at each step, at least 0.
    pub decay: f32,
    /// Images around the image at which a step looks.
    pub neighbors: usize,
    /// How far their pixels may be from the image's, as a multiple of `eps`.
    pub neighborhood: f32,
}

/// Lin et al. 2020: MI-FGSM with the gradient one step ahead, averaged over darker copies of the image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiNiFgsm {
    /// Radius in the maximum norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Change of each pixel in a step, pixels in `[0, 1]`.
    pub step_size: f32,
    /// Gradient steps.
    pub steps: usize,
    /// Factor of the accumulated gradient at each step, at least 0.
    pub decay: f32,
    /// Copies, each half as bright as the one before.
    pub copies: usize,
}

/// PGD averaged over what the defense looks at: the image and, by default, its nine mirrored and moved views.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PgdViews {
    /// Radius in the maximum norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Change of each pixel in a step, pixels in `[0, 1]`.
    pub step_size: f32,
    /// Gradient steps.
    pub steps: usize,
    /// Start at a random point of the ball, not at the image.
    pub random_start: bool,
}

const EPS: f32 = 8.0 / 255.0;
const STEP_SIZE: f32 = 2.0 / 255.0;

impl Default for DiFgsm {
    fn default() -> Self {
        DiFgsm {
            eps: EPS,
            step_size: STEP_SIZE,
            steps: 10,
            decay: 0.0,
            resize_rate: 0.9,
            diversity_prob: 0.5,
        }
    }
}

impl Default for TiFgsm {
    fn default() -> Self {
        TiFgsm {
            eps: EPS,
            step_size: STEP_SIZE,
            steps: 10,
            decay: 0.0,
            kernel_size: 15,
            resize_rate: 0.9,
            diversity_prob: 0.5,
        }
    }
}

impl Default for VmiFgsm {
    fn default() -> Self {
        VmiFgsm {
            eps: EPS,
            step_size: STEP_SIZE,
            steps: 10,
            decay: 1.0,
            neighbors: 5,
            neighborhood: 1.5,
        }
    }
}

impl Default for SiNiFgsm {
    fn default() -> Self {
        SiNiFgsm {
            eps: EPS,
            step_size: STEP_SIZE,
            steps: 10,
            decay: 1.0,
            copies: 5,
        }
    }
}

impl Default for PgdViews {
    fn default() -> Self {
        PgdViews {
            eps: EPS,
            step_size: STEP_SIZE,
            steps: 10,
            random_start: true,
        }
    }
}

/// What all of them share.
struct Steps {
    eps: f32,
    step_size: f32,
    count: usize,
    decay: f32,
    random_start: bool,
}

impl Steps {
    fn ball(&self) -> Ball {
        Ball {
            norm: Norm::Linf,
            eps: self.eps,
        }
    }

    fn validate(&self) -> Result<()> {
        above_zero("eps", self.eps)?;
        at_least_zero("step_size", self.step_size)?;
        at_least_zero("decay", self.decay)
    }
}

/// One picture's attack.
struct Walk<'a> {
    subject: &'a Subject<'a>,
    image: Vec<f32>,
    /// The accumulated gradient.
    momentum: Vec<f32>,
    /// What the last step's gradients leave for the next, VMI-FGSM's variance; 0 at first.
    left: Vec<f32>,
}

/// How a step's gradient is made of those of several copies.
trait Average: Sync {
    fn steps(&self) -> Steps;

    fn validate(&self) -> Result<()> {
        self.steps().validate()
    }

    /// How far along the accumulated gradient the copies are made, in units of it.
    fn ahead(&self) -> f32 {
        0.0
    }

    /// The copies at which the victim is asked for gradients in a step, one or more.
    fn looks(&self, shape: ImageShape, key: &RandomKey, step: usize) -> Vec<Look>;

    /// The gradient to follow, of those by the image at each look.
    fn join(&self, gradients: Vec<Vec<f32>>, _left: &mut Vec<f32>, _shape: ImageShape) -> Vec<f32> {
        mean(&gradients)
    }
}

impl<T: Average> Attack for T {
    fn validate(&self, _classes: usize, _targeted: bool) -> Result<()> {
        Average::validate(self)
    }

    fn ball(&self) -> Option<Ball> {
        Some(self.steps().ball())
    }

    fn run(
        &self,
        victim: &mut dyn Victim,
        subjects: &[Subject<'_>],
        _eight_bit: bool,
    ) -> Result<Vec<Vec<f32>>> {
        let steps = self.steps();
        let ball = steps.ball();
        let walk = |subject| {
            let clean = Subject::clean(subject);
            Walk {
                subject,
                image: match steps.random_start {
                    true => ball.point(clean, &subject.key(0)),
                    false => clean.to_vec(),
                },
                momentum: vec![0.0; clean.len()],
                left: vec![0.0; clean.len()],
            }
        };
        let mut walks: Vec<Walk<'_>> = subjects.iter().map(walk).collect();
        for step in 0..steps.count {
            let asked = walks.par_iter().map(|walk| {
                let shape = walk.subject.picture.shape;
                let ahead = walk.image.iter().zip(&walk.momentum);
                let from: Vec<f32> = ahead.map(|(x, m)| x + self.ahead() * m).collect();
                let looks = self.looks(shape, &walk.subject.key(0), step).into_iter();
                looks
                    .map(|look| (look.of(&from, shape), look))
                    .collect::<Vec<_>>()
            });
            let asked: Vec<Vec<(Vec<f32>, Look)>> = asked.collect();
            let copies = || {
                asked
                    .iter()
                    .zip(&walks)
                    .flat_map(|(of, walk)| of.iter().zip(std::iter::repeat(walk)))
            };
            let images: Vec<&[f32]> = copies().map(|((image, _), _)| &image[..]).collect();
            let losses: Vec<Loss> = copies()
                .map(|(_, walk)| Loss::CrossEntropy(walk.subject.aim))
                .collect();
            let mut slopes = victim.gradient(&images, &losses)?.into_iter();
            for (walk, asked) in walks.iter_mut().zip(&asked) {
                let shape = walk.subject.picture.shape;
                let back = asked.iter().zip(slopes.by_ref());
                let gradients = back.map(|((_, look), slope)| look.back(slope.gradient, shape));
                let gradient = self.join(gradients.collect(), &mut walk.left, shape);
                accumulate(&mut walk.momentum, &gradient, steps.decay);
                ball.ascend(&mut walk.image, &walk.momentum, steps.step_size);
                ball.project(&mut walk.image, walk.subject.clean());
            }
        }
        Ok(walks.into_iter().map(|walk| walk.image).collect())
    }
}

fn mean(gradients: &[Vec<f32>]) -> Vec<f32> {
    let mut mean = vec![0.0; gradients[0].len()];
    for gradient in gradients {
        mean.iter_mut().zip(gradient).for_each(|(m, g)| *m += g);
    }
    mean.iter_mut().for_each(|m| *m /= gradients.len() as f32);
    mean
}

/// The image, made smaller with probability `prob`, to a random size from `rate` of its own on, at a random place.
fn diverse((rate, prob): (f32, f32), shape: ImageShape, key: &RandomKey, step: usize) -> Look {
    let mut drawn = [0.0; 4];
    key.uniform(Purpose::AttackSearch, step as u32, 4, |i, u| drawn[i] = u);
    let [whether, size, top, left] = drawn;
    if whether >= prob {
        return Look::AsItIs;
    }
    // Of the whole numbers from 0 on, without `below` itself.
    let below = |below: usize, u: f32| ((u * below as f32) as usize).min(below.saturating_sub(1));
    let smallest = |n: usize| ((n as f32 * rate) as usize).clamp(1, n);
    // Sides shrink alike, as far as their pixels allow.
    let side = |n: usize| smallest(n) + below(n - smallest(n), size);
    let (height, width) = (side(shape.height), side(shape.width));
    Look::Shrunk(Shrunk {
        height,
        width,
        top: below(shape.height - height, top),
        left: below(shape.width - width, left),
    })
}

fn validate_diversity(rate: f32, prob: f32) -> Result<()> {
    if !(rate > 0.0 && rate <= 1.0) {
        let wrong = format!("must be above 0 and at most 1, not {rate}");
        return Err(Error::option("resize_rate", wrong));
    }
    match (0.0..=1.0).contains(&prob) {
        true => Ok(()),
        false => {
            let wrong = format!("must be in [0, 1], not {prob}");
            Err(Error::option("diversity_prob", wrong))
        }
    }
}

impl Average for DiFgsm {
    fn steps(&self) -> Steps {
        Steps {
            eps: self.eps,
            step_size: self.step_size,
            count: self.steps,
            decay: self.decay,
            random_start: false,
        }
    }

    fn validate(&self) -> Result<()> {
        validate_diversity(self.resize_rate, self.diversity_prob)?;
        self.steps().validate()
    }

    fn looks(&self, shape: ImageShape, key: &RandomKey, step: usize) -> Vec<Look> {
        vec![diverse(
            (self.resize_rate, self.diversity_prob),
            shape,
            key,
            step,
        )]
    }
}

impl Average for TiFgsm {
    fn steps(&self) -> Steps {
        Steps {
            eps: self.eps,
            step_size: self.step_size,
            count: self.steps,
            decay: self.decay,
            random_start: false,
        }
    }

    fn validate(&self) -> Result<()> {
        if self.kernel_size.is_multiple_of(2) || self.kernel_size > MAX_KERNEL {
            let wrong = format!(
                "must be an odd number up to {MAX_KERNEL}, not {}",
                self.kernel_size
            );
            return Err(Error::option("kernel_size", wrong));
        }
        validate_diversity(self.resize_rate, self.diversity_prob)?;
        self.steps().validate()
    }

    fn looks(&self, shape: ImageShape, key: &RandomKey, step: usize) -> Vec<Look> {
        vec![diverse(
            (self.resize_rate, self.diversity_prob),
            shape,
            key,
            step,
        )]
    }

    fn join(&self, gradients: Vec<Vec<f32>>, _left: &mut Vec<f32>, shape: ImageShape) -> Vec<f32> {
        smooth(&mean(&gradients), &gaussian(self.kernel_size), shape)
    }
}

/// A larger kernel than any picture's.
const MAX_KERNEL: usize = 1023;

/// A Gaussian from -3 to 3 standard deviations, at `size` places, of sum 1.
fn gaussian(size: usize) -> Vec<f32> {
    let at = |i: usize| match size {
        1 => 0.0,
        _ => 6.0 * i as f64 / (size - 1) as f64 - 3.0,
    };
    let raw: Vec<f64> = (0..size).map(|i| (-at(i).powi(2) / 2.0).exp()).collect();
    let sum: f64 = raw.iter().sum();
    raw.iter().map(|x| (x / sum) as f32).collect()
}

/// Each plane convolved with the kernel in both directions; what is beyond its edges is 0.
fn smooth(gradient: &[f32], kernel: &[f32], shape: ImageShape) -> Vec<f32> {
    let (height, width) = (shape.height, shape.width);
    let along = |values: &[f32], i: usize, at: usize, n: usize, stride: usize| -> f32 {
        let half = kernel.len() / 2;
        let first = half.saturating_sub(at);
        let taps = kernel.iter().enumerate().skip(first);
        let inside = taps.take_while(|(tap, _)| at + tap < n + half);
        inside
            .map(|(tap, weight)| weight * values[i + tap * stride - half * stride])
            .sum()
    };
    let places = 0..gradient.len();
    let rows: Vec<f32> = places
        .clone()
        .map(|i| along(gradient, i, i % width, width, 1))
        .collect();
    places
        .map(|i| along(&rows, i, i / width % height, height, width))
        .collect()
}

impl Average for VmiFgsm {
    fn steps(&self) -> Steps {
        Steps {
            eps: self.eps,
            step_size: self.step_size,
            count: self.steps,
            decay: self.decay,
            random_start: false,
        }
    }

    fn validate(&self) -> Result<()> {
        if self.neighbors == 0 {
            return Err(Error::option("neighbors", "must be 1 or more"));
        }
        at_least_zero("neighborhood", self.neighborhood)?;
        self.steps().validate()
    }

    fn looks(&self, shape: ImageShape, key: &RandomKey, step: usize) -> Vec<Look> {
        let reach = self.eps * self.neighborhood;
        let near = |neighbor| {
            let mut change = vec![0.0; shape.elements()];
            let sequence = (step * self.neighbors + neighbor) as u32;
            key.uniform(Purpose::AttackSearch, sequence, change.len(), |i, u| {
                change[i] = reach * (2.0 * u - 1.0);
            });
            Look::Near(change)
        };
        std::iter::once(Look::AsItIs)
            .chain((0..self.neighbors).map(near))
            .collect()
    }

    fn join(&self, gradients: Vec<Vec<f32>>, left: &mut Vec<f32>, _shape: ImageShape) -> Vec<f32> {
        let (here, around) = (&gradients[0], mean(&gradients[1..]));
        let followed = here.iter().zip(&*left).map(|(g, v)| g + v).collect();
        let variance = around.iter().zip(here);
        *left = variance.map(|(around, here)| around - here).collect();
        followed
    }
}

impl Average for SiNiFgsm {
    fn steps(&self) -> Steps {
        Steps {
            eps: self.eps,
            step_size: self.step_size,
            count: self.steps,
            decay: self.decay,
            random_start: false,
        }
    }

    fn validate(&self) -> Result<()> {
        if self.copies == 0 {
            return Err(Error::option("copies", "must be 1 or more"));
        }
        self.steps().validate()
    }

    fn ahead(&self) -> f32 {
        self.decay * self.step_size
    }

    fn looks(&self, _shape: ImageShape, _key: &RandomKey, _step: usize) -> Vec<Look> {
        let copies = 0..self.copies;
        copies
            .map(|copy| Look::Scaled(0.5_f32.powi(copy as i32)))
            .collect()
    }
}

impl Average for PgdViews {
    fn steps(&self) -> Steps {
        Steps {
            eps: self.eps,
            step_size: self.step_size,
            count: self.steps,
            decay: 0.0,
            random_start: self.random_start,
        }
    }

    fn looks(&self, shape: ImageShape, _key: &RandomKey, _step: usize) -> Vec<Look> {
        let views = MapOptions::default().viewpoints(shape);
        let upright = std::iter::once(Viewpoint::default());
        upright.chain(views).map(Look::Seen).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::tests::numbers;

    const SHAPE: ImageShape = ImageShape {
        channels: 3,
        height: 10,
        width: 13,
    };

    #[test]
    fn small_images_lie_inside_and_have_all_sizes() {
        let (mut whole, mut sizes) = (0, std::collections::BTreeSet::new());
        for step in 0..400 {
            match diverse((0.5, 0.5), SHAPE, &RandomKey::default(), step) {
                Look::Shrunk(place) => {
                    assert!(place.top + place.height < SHAPE.height, "{place:?}");
                    assert!(place.left + place.width < SHAPE.width, "{place:?}");
                    sizes.insert(place.width);
                }
                _ => whole += 1,
            }
        }
        assert!((150..250).contains(&whole), "{whole}");
        // From 6, half of 13, to 12.
        assert_eq!(
            sizes.into_iter().collect::<Vec<_>>(),
            [6, 7, 8, 9, 10, 11, 12]
        );
        // A picture that cannot be made smaller stays whole.
        let whole = diverse((1.0, 1.0), SHAPE, &RandomKey::default(), 0);
        let image = numbers(1, SHAPE.elements());
        assert_eq!(whole.of(&image, SHAPE), image);
    }

    #[test]
    fn smoothing_is_a_sum_of_neighbors_with_the_kernel_s_weights() {
        let kernel = gaussian(5);
        assert!((kernel.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        // At 0 and at 1.5 standard deviations.
        assert!((kernel[1] / kernel[2] - (-1.125_f32).exp()).abs() < 1e-6);
        let image = numbers(2, SHAPE.elements());
        let smoothed = smooth(&image, &kernel, SHAPE);
        for (plane, row, column) in [(0, 0, 0), (1, 5, 6), (2, 9, 12), (1, 1, 11)] {
            let mut expected = 0.0;
            for (down, by_row) in kernel.iter().enumerate() {
                for (right, by_column) in kernel.iter().enumerate() {
                    let (y, x) = (row + down, column + right);
                    if (2..12).contains(&y) && (2..15).contains(&x) {
                        let at = (plane * SHAPE.height + y - 2) * SHAPE.width + x - 2;
                        expected += by_row * by_column * image[at];
                    }
                }
            }
            let found = smoothed[(plane * SHAPE.height + row) * SHAPE.width + column];
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn unusable_numbers_are_refused() {
        let refused = |attack: &dyn Attack| assert!(attack.validate(5, false).is_err());
        for resize_rate in [0.0, 1.5, f32::NAN] {
            refused(&DiFgsm {
                resize_rate,
                ..DiFgsm::default()
            });
        }
        refused(&DiFgsm {
            diversity_prob: -0.5,
            ..DiFgsm::default()
        });
        for kernel_size in [0, 4, 1025] {
            refused(&TiFgsm {
                kernel_size,
                ..TiFgsm::default()
            });
        }
        refused(&VmiFgsm {
            neighbors: 0,
            ..VmiFgsm::default()
        });
        refused(&VmiFgsm {
            neighborhood: f32::INFINITY,
            ..VmiFgsm::default()
        });
        refused(&SiNiFgsm {
            copies: 0,
            ..SiNiFgsm::default()
        });
        refused(&PgdViews {
            eps: 0.0,
            ..PgdViews::default()
        });
    }
}
