//! The classifier behind the defense, as a victim.

use super::decision::Decision;
use super::{Adaptive, Rule};
use crate::attack::losses::Loss;
use crate::attack::victim::{Classifier, Slope, Victim};
use crate::backend::{ImageShape, Viewpoint};
use crate::defense::{DeviceDefense, Outcome, Reading, Verdict, Vote};
use crate::error::{Error, Result};
use crate::picture::Picture;

/// A classifier and the whole defense before it.
///
/// [`read`](Victim::read) says what a user of the defended system sees: the classifier's logits of the
/// defense's output, by the defense's own seed. [`gradient`](Victim::gradient) is the attacker's
/// approximation, by the seeds that the attacker has; a [`Slope`]'s reading is the mean of the
/// logits over the draws, so that of one draw is what the defense says by its seed.
///
/// A purification's random numbers depend on its picture's content too: from one step of an attack to
/// the next they are drawn anew, also with the same seed.
///
/// A reading costs a purification an image, a gradient as many as there are draws. Images of a call
/// share the defense's launches: call with [`batch`](Self::batch) images or more.
///
/// What the rules take for granted:
///
/// - identity: where the verdict is `clean` the output is the picture itself, and the gradient the
///   classifier's.
/// - trajectory: points lie at `(1 − t)·x_t + t·x` on the line from the reconstruction `x_t` to the
///   picture `x`. With `x_t` taken for the identity of `x`, its derivative is `(1 − t) + t = 1` for
///   each of them, and each counts as much as its vote. Clipping to `[0, 1]` is taken for the
///   identity too. The derivative of a vote in the mirror, by the pixels of the point's mirror image,
///   is mirrored back: by the chain rule, exactly.
/// - decision: the votes as in trajectory, the input and its views by their true gradients.
pub struct Defended<'a> {
    defense: &'a mut dyn DeviceDefense,
    adaptive: Adaptive,
    /// The defense's own.
    seed: u64,
    purifications: u64,
    classified: u64,
}

impl<'a> Defended<'a> {
    /// The victim that `defense` protects, which goes on with its own seed afterwards.
    ///
    /// # Errors
    /// No draws.
    pub fn new(defense: &'a mut dyn DeviceDefense, adaptive: Adaptive) -> Result<Self> {
        adaptive.validate()?;
        Ok(Defended {
            seed: defense.options().reconstruct.seed,
            defense,
            adaptive,
            purifications: 0,
            classified: 0,
        })
    }

    /// Images that are purified together.
    pub fn batch(&self) -> usize {
        self.defense.places()
    }

    /// Purifications so far.
    pub fn purifications(&self) -> u64 {
        self.purifications
    }

    /// Images that its purifications have classified so far; gradients come on top.
    pub fn classified(&self) -> u64 {
        self.classified
    }

    /// The classifier alone.
    fn classifier(&mut self) -> Classifier<'_> {
        Classifier::new(self.defense.oracle_mut())
    }

    /// Purifies up to a batch of images.
    fn purify(&mut self, images: &[&[f32]], seed: u64) -> Result<Vec<Outcome>> {
        let picture = |pixels: &&[f32]| Picture {
            shape: self.defense.shape(),
            pixels: pixels.to_vec(),
            eight_bit: false,
        };
        let pictures: Vec<Picture> = images.iter().map(picture).collect();
        self.purifications += images.len() as u64;
        let before = self.defense.oracle().classified();
        self.defense.set_seed(seed);
        let outcomes = self.defense.purify(&pictures.iter().collect::<Vec<_>>());
        self.defense.set_seed(self.seed);
        self.classified += self.defense.oracle().classified() - before;
        outcomes
    }

    /// The rule's slope for image `place` of the batch that gave `outcome`.
    fn slope(
        &mut self,
        place: usize,
        image: &[f32],
        loss: Loss,
        outcome: &Outcome,
    ) -> Result<Slope> {
        let (loss, gradient) = match self.adaptive.rule {
            Rule::Queries => {
                return Err(Error::invalid("an attack by queries has no gradient")
                    .hint("use `through=identity`, `through=trajectory` or `through=decision`"));
            }
            Rule::Identity => mean(self.classifier().gradient(&[&outcome.pixels], &[loss])?),
            Rule::Trajectory => {
                let voters = self.defense.voters(place, &outcome.map)?;
                let losses = vec![loss; voters.len()];
                let mut slopes = self.classifier().gradient(&views(&voters), &losses)?;
                let shape = self.defense.shape();
                for (vote, slope) in outcome.map.votes().zip(&mut slopes) {
                    if vote.mirrored {
                        let mut upright = vec![0.0; image.len()];
                        add_seen(&mut upright, &slope.gradient, Viewpoint::MIRROR, shape);
                        slope.gradient = upright;
                    }
                }
                mean(slopes)
            }
            Rule::Decision => self.decision_slope(place, image, loss, outcome)?,
        };
        Ok(Slope {
            reading: outcome.output.clone(),
            loss,
            gradient,
        })
    }

    fn decision_slope(
        &mut self,
        place: usize,
        image: &[f32],
        loss: Loss,
        outcome: &Outcome,
    ) -> Result<(f64, Vec<f32>)> {
        let options = self.defense.options();
        let shown = match outcome.verdict {
            Verdict::Undecided => true,
            Verdict::Clean => options.always,
            Verdict::Adversarial => false,
        };
        let map = &outcome.map;
        let votes = map.votes().map(|vote| vote.reading).collect();
        let decision = Decision::new(
            &options.verdict,
            options.always,
            (&map.input, &map.views),
            votes,
            shown.then_some(&outcome.output),
        );
        let ascent = decision.ascent(&loss);
        let voters = self.defense.voters(place, map)?;
        let viewpoints = self.defense.viewpoints();
        let shape = self.defense.shape();
        let seen = self.defense.views(place)?;
        // What is asked, how it is seen, and the derivative by its logits.
        let upright = Viewpoint::default();
        let of_vote = |vote: Vote<'_>| match vote.mirrored {
            true => Viewpoint::MIRROR,
            false => upright,
        };
        let shown = ascent.shown.map(|row| (&outcome.pixels[..], upright, row));
        let asked: Vec<(&[f32], Viewpoint, Vec<f32>)> = views(&voters)
            .into_iter()
            .zip(map.votes().map(of_vote))
            .zip(ascent.votes)
            .chain([((image, upright), ascent.input)])
            .chain(views(&seen).into_iter().zip(viewpoints).zip(ascent.views))
            .map(|((image, from), row)| (image, from, row))
            .chain(shown)
            .collect();
        let images: Vec<&[f32]> = asked.iter().map(|asked| asked.0).collect();
        let mut by_logit = |i: usize, _: &[f32], out: &mut [f32]| out.copy_from_slice(&asked[i].2);
        let slopes = (self.defense.oracle_mut()).differentiate(&images, &mut by_logit)?;
        let mut gradient = vec![0.0; image.len()];
        for ((_, slope), (_, from, _)) in slopes.iter().zip(&asked) {
            add_seen(&mut gradient, slope, *from, shape);
        }
        Ok((ascent.loss, gradient))
    }
}

impl Victim for Defended<'_> {
    fn classes(&self) -> usize {
        self.defense.oracle().classes()
    }

    fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>> {
        let mut readings = Vec::with_capacity(images.len());
        for batch in images.chunks(self.batch()) {
            let outcomes = self.purify(batch, self.seed)?;
            readings.extend(outcomes.into_iter().map(|outcome| outcome.output));
        }
        Ok(readings)
    }

    fn gradient(&mut self, images: &[&[f32]], losses: &[Loss]) -> Result<Vec<Slope>> {
        let batch = self.batch();
        let mut slopes = Vec::with_capacity(images.len());
        for (images, losses) in images.chunks(batch).zip(losses.chunks(batch)) {
            let mut draws: Vec<Vec<Slope>> = images.iter().map(|_| Vec::new()).collect();
            for seed in self.adaptive.draws(self.seed) {
                let outcomes = self.purify(images, seed)?;
                for (i, outcome) in outcomes.iter().enumerate() {
                    draws[i].push(self.slope(i, images[i], losses[i], outcome)?);
                }
            }
            slopes.extend(draws.into_iter().map(expectation));
        }
        Ok(slopes)
    }
}

/// The slope over draws; there is one at least.
fn expectation(draws: Vec<Slope>) -> Slope {
    let mut logits = vec![0.0; draws[0].reading.classes()];
    for draw in &draws {
        add(&mut logits, draw.reading.logits());
    }
    divide(&mut logits, draws.len());
    let (loss, gradient) = mean(draws);
    Slope {
        reading: Reading::new(&logits),
        loss,
        gradient,
    }
}

/// The means of the slopes' losses and gradients; there is one at least.
fn mean(slopes: Vec<Slope>) -> (f64, Vec<f32>) {
    let count = slopes.len();
    let mut gradient = vec![0.0; slopes[0].gradient.len()];
    let mut loss = 0.0;
    for slope in slopes {
        loss += slope.loss;
        add(&mut gradient, &slope.gradient);
    }
    divide(&mut gradient, count);
    (loss / count as f64, gradient)
}

fn views(images: &[Vec<f32>]) -> Vec<&[f32]> {
    images.iter().map(|image| &image[..]).collect()
}

/// Adds a derivative by a view's pixels, as one by the image's: the transpose of taking the view.
fn add_seen(sum: &mut [f32], by_view: &[f32], from: Viewpoint, shape: ImageShape) {
    let (height, width) = (shape.height, shape.width);
    for (i, slope) in by_view.iter().enumerate() {
        let (row, column) = from.shows((i / width % height, i % width), (height, width));
        let plane = i / (height * width);
        sum[(plane * height + row) * width + column] += slope;
    }
}

fn add(sum: &mut [f32], numbers: &[f32]) {
    for (sum, x) in sum.iter_mut().zip(numbers) {
        *sum += x;
    }
}

fn divide(numbers: &mut [f32], count: usize) {
    for x in numbers {
        *x /= count as f32;
    }
}
