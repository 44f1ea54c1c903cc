//! The classifier behind the defense, as a victim.

use super::decision::{Decision, Way};
use super::{Adaptive, Rule};
use crate::attack::looks::each_seen;
use crate::attack::losses::Loss;
use crate::attack::victim::{Classifier, Slope, Victim};
use crate::backend::{ImageShape, Viewpoint};
use crate::defense::{DeviceDefense, Outcome, Reading, Verdict, Vote};
use crate::error::{Error, Result};
use crate::picture::Picture;

/// A classifier and the whole defense before it.
///
/// [`read`](Victim::read) gives what a user of the defended system sees: the classifier's logits of the
/// defense's output, computed with the defense's own seed. [`gradient`](Victim::gradient) gives the
/// attacker's approximation, computed with the attacker's seeds; a [`Slope`]'s reading is still what a user sees, so
/// that an attack knows each success.
///
/// A purification's random numbers depend on the picture's content too: each step of an attack draws new
/// ones, even with the same seed.
///
/// Reading an image costs one purification, its gradient one for each draw, and one more if the defense's own seed is
/// none of theirs. The images of a call share the defense's launches: call with [`batch`](Self::batch) images or more.
///
/// What the rules approximate:
///
/// - identity: the defense has the derivative 1. Where the verdict is `clean`, the output is the picture
///   itself, and the gradient is exactly the classifier's.
/// - trajectory: a point of a segment is `(1 − t)·x_t + t·x`, with the reconstruction `x_t` and the
///   picture `x`. The derivative of `x_t` by `x` is taken to be 1, so that of every point is
///   `(1 − t) + t = 1`; each point counts as its vote does. Clipping to `[0, 1]` is ignored. The
///   gradient of a mirrored vote is mirrored back, which is exact.
/// - decision, ways: votes as in trajectory; the input and its views have their exact gradients.
pub struct Defended<'a> {
    defense: &'a mut dyn DeviceDefense,
    adaptive: Adaptive,
    /// The defense's own seed.
    seed: u64,
    /// The way that the gradients follow; `None` for the nearest one.
    way: Option<Way>,
    purifications: u64,
    classified: u64,
}

impl<'a> Defended<'a> {
    /// The classifier behind `defense`. After each call the defense has its own seed again.
    ///
    /// # Errors
    /// `adaptive.draws` is 0.
    pub fn new(defense: &'a mut dyn DeviceDefense, adaptive: Adaptive) -> Result<Self> {
        adaptive.validate()?;
        Ok(Defended {
            seed: defense.options().reconstruct.seed,
            defense,
            adaptive,
            way: None,
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

    /// Images classified by its purifications so far, without those classified for gradients.
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
        loss: &Loss,
        outcome: &Outcome,
    ) -> Result<Slope> {
        let (loss, gradient) = match self.adaptive.rule {
            Rule::Queries => {
                return Err(Error::invalid("an attack by queries has no gradient")
                    .hint("use `through=identity`, `through=trajectory`, `through=decision` or `through=ways`"));
            }
            Rule::Identity => mean(
                self.classifier()
                    .gradient(&[&outcome.pixels], std::slice::from_ref(loss))?,
            ),
            Rule::Trajectory => {
                let voters = self.defense.voters(place, &outcome.map)?;
                let losses = vec![loss.clone(); voters.len()];
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
            Rule::Decision | Rule::Ways => self.decision_slope(place, image, loss, outcome)?,
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
        loss: &Loss,
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
        let ascent = decision.ascent(loss, self.way);
        let voters = self.defense.voters(place, map)?;
        let viewpoints = self.defense.viewpoints();
        let shape = self.defense.shape();
        let seen = self.defense.views(place)?;
        // Each image to differentiate, its viewpoint, and the derivative of the loss by its logits.
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
            let mut seen = None;
            for seed in self.adaptive.draws(self.seed) {
                let outcomes = self.purify(images, seed)?;
                for (i, outcome) in outcomes.iter().enumerate() {
                    draws[i].push(self.slope(i, images[i], &losses[i], outcome)?);
                }
                if seed == self.seed {
                    seen = Some(outcomes.into_iter().map(|outcome| outcome.output).collect());
                }
            }
            let seen: Vec<Reading> = seen.map_or_else(|| self.read(images), Ok)?;
            for (draws, reading) in draws.into_iter().zip(seen) {
                let (loss, gradient) = mean(draws);
                slopes.push(Slope {
                    reading,
                    loss,
                    gradient,
                });
            }
        }
        Ok(slopes)
    }

    fn ways(&self) -> usize {
        match self.adaptive.rule {
            Rule::Ways => Way::ALL.len(),
            _ => 1,
        }
    }

    fn follow(&mut self, way: usize) {
        self.way = match self.adaptive.rule {
            Rule::Ways => Way::ALL.get(way).copied(),
            _ => None,
        };
    }
}

/// The mean loss and the mean gradient of one or more slopes.
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

/// Turns a derivative by a view's pixels into one by the image's, and adds it to `sum`: the transpose of
/// making the view.
fn add_seen(sum: &mut [f32], by_view: &[f32], from: Viewpoint, shape: ImageShape) {
    each_seen(from, shape, |to, of| sum[of] += by_view[to]);
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
