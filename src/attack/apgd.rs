//! Auto-PGD: PGD with momentum and a step size that adapts to its progress, on three losses.

use serde::{Deserialize, Serialize};

use super::algorithm::{Attack, above_zero};
use super::ball::{Ball, Norm};
use super::climb::{Climber, Subject, climb};
use super::losses::{Aim, Loss};
use super::rounding::round_into_ball;
use super::victim::{Slope, Victim};
use crate::error::{Error, Result};

/// Croce and Hein 2020.
///
/// The search starts on the ball's surface with steps of `2·eps`. The step size is checked at intervals
/// that become shorter. It is halved, and the search continues from the best point, in two cases: at most
/// three quarters of the steps since the last check raised the loss; or the step size was not halved at
/// the last check, and the best loss has not improved since.
///
/// A restart makes all its steps and gives the last point that meets the aim, or ends at the first. The next restart
/// is for the pictures without one. If no restart succeeds, the result is the point with the largest loss. A picture
/// that meets the aim from the start stays as it is. If images will be rounded to 8 bits, each is asked about as it
/// will be rounded, so that no success is lost by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Apgd {
    /// Norm in which `eps` measures the change.
    pub norm: Norm,
    /// Radius in this norm, pixels in `[0, 1]`.
    pub eps: f32,
    /// Gradient steps of each restart.
    pub steps: usize,
    /// Searches for a picture, each from a random start of its own, until one succeeds; at least 1.
    pub restarts: usize,
    /// End a restart at its first success: for victims whose gradients are costly.
    pub first_success: bool,
}

impl Apgd {
    /// AutoAttack's defaults, with the radii of torchattacks (in the Euclidean norm that of its PGD, 1).
    pub fn new(norm: Norm) -> Self {
        Apgd {
            norm,
            eps: match norm {
                Norm::Linf => 8.0 / 255.0,
                Norm::L2 => 1.0,
            },
            steps: 100,
            restarts: 1,
            first_success: false,
        }
    }

    fn ball(&self) -> Ball {
        Ball {
            norm: self.norm,
            eps: self.eps,
        }
    }

    /// One search for each of `losses(subject)` and each restart, until the aim is met.
    fn search(
        &self,
        victim: &mut dyn Victim,
        subjects: &[Subject<'_>],
        eight_bit: bool,
        losses: impl Fn(&Subject<'_>) -> Vec<Loss>,
    ) -> Result<Vec<Vec<f32>>> {
        let mut hunts: Vec<Hunt<'_>> = subjects
            .iter()
            .map(|subject| Hunt {
                subject,
                losses: losses(subject),
                image: subject.clean().to_vec(),
                loss: f64::NEG_INFINITY,
                done: subject.aim.met(&subject.input),
            })
            .collect();
        let most = hunts.iter().map(|hunt| hunt.losses.len()).max();
        for run in 0..most.unwrap_or(0) * self.restarts {
            let which = run / self.restarts;
            let open = hunts.iter_mut().filter(|hunt| !hunt.done);
            let mut open: Vec<_> = open.filter(|hunt| which < hunt.losses.len()).collect();
            if open.is_empty() {
                break;
            }
            let searches = open.iter().map(|hunt| {
                Search::new(
                    self,
                    hunt.subject,
                    hunt.losses[which].clone(),
                    run,
                    eight_bit,
                )
            });
            let mut searches: Vec<Search<'_>> = searches.collect();
            // One gradient at the start, and one after each step.
            climb(victim, &mut searches, self.steps + 1)?;
            for (hunt, search) in open.iter_mut().zip(searches) {
                hunt.learn(search);
            }
        }
        Ok(hunts.into_iter().map(|hunt| hunt.image).collect())
    }
}

/// What the restarts have found for one picture.
struct Hunt<'a> {
    subject: &'a Subject<'a>,
    losses: Vec<Loss>,
    image: Vec<f32>,
    /// The loss of `image`; −∞ before the first restart.
    loss: f64,
    done: bool,
}

impl Hunt<'_> {
    fn learn(&mut self, search: Search<'_>) {
        if let Some(image) = search.fooled {
            self.image = image;
            self.done = true;
        } else if search.best.loss > self.loss {
            self.loss = search.best.loss;
            self.image = search.best.image;
        }
    }
}

/// An image with its loss and gradient.
#[derive(Clone, Default)]
struct Point {
    image: Vec<f32>,
    gradient: Vec<f32>,
    loss: f64,
}

/// When the step size is checked: after 22% of the steps, then in windows that are each shorter than the
/// last by 3% of the steps, down to 6%.
struct Checkpoints {
    /// Steps of the current window.
    window: usize,
    shorter: usize,
    least: usize,
}

impl Checkpoints {
    fn new(steps: usize) -> Self {
        let share = |percent: usize| (steps * percent / 100).max(1);
        Checkpoints {
            window: share(22),
            shorter: share(3),
            least: share(6),
        }
    }

    fn next(&mut self) {
        self.window = self.window.saturating_sub(self.shorter).max(self.least);
    }
}

/// The step size is halved unless a larger share of its window's steps raised the loss.
const RISING: f64 = 0.75;

/// Share of the gradient step in each step; the rest is the change that the last step made.
const NEW: f32 = 0.75;

/// One restart for one picture and one loss.
struct Search<'a> {
    subject: &'a Subject<'a>,
    ball: Ball,
    loss: Loss,
    steps: usize,
    image: Vec<f32>,
    /// The image as it will be rounded; empty if it will not be.
    rounded: Vec<f32>,
    /// The image before the last step; empty before the first.
    before: Vec<f32>,
    step_size: f32,
    /// The point with the largest loss.
    best: Point,
    /// The last image that met the aim.
    fooled: Option<Vec<f32>>,
    /// Steps done.
    done: usize,
    /// The loss after the last step.
    last: f64,
    checkpoints: Checkpoints,
    /// Steps done in this window, and how many of them raised the loss.
    seen: usize,
    rises: usize,
    /// The best loss at the last checkpoint, and whether the step was halved there.
    best_then: f64,
    halved_then: bool,
    first_success: bool,
    eight_bit: bool,
}

impl<'a> Search<'a> {
    fn new(
        options: &Apgd,
        subject: &'a Subject<'a>,
        loss: Loss,
        run: usize,
        eight_bit: bool,
    ) -> Self {
        let ball = options.ball();
        let mut search = Search {
            subject,
            ball,
            loss,
            steps: options.steps,
            image: ball.surface(subject.clean(), &subject.key(run)),
            rounded: Vec::new(),
            before: Vec::new(),
            step_size: 2.0 * options.eps,
            best: Point::default(),
            fooled: None,
            done: 0,
            last: f64::NAN,
            checkpoints: Checkpoints::new(options.steps),
            seen: 0,
            rises: 0,
            best_then: f64::NAN,
            // As in the authors' code: the first check does not halve for want of a new best loss.
            halved_then: true,
            first_success: options.first_success,
            eight_bit,
        };
        search.round();
        search
    }

    fn round(&mut self) {
        if self.eight_bit {
            self.rounded.clone_from(&self.image);
            round_into_ball(&mut self.rounded, self.subject.clean(), self.ball);
        }
    }

    /// Halves the step size if it makes too little progress; says whether it did.
    fn check(&mut self) -> bool {
        let few = self.rises as f64 <= RISING * self.checkpoints.window as f64;
        let idle = !self.halved_then && self.best.loss <= self.best_then;
        self.halved_then = few || idle;
        if self.halved_then {
            self.step_size /= 2.0;
        }
        self.best_then = self.best.loss;
        (self.seen, self.rises) = (0, 0);
        self.checkpoints.next();
        self.halved_then
    }

    fn step(&mut self, gradient: &[f32]) {
        let clean = self.subject.clean();
        let mut next = self.image.clone();
        self.ball.ascend(&mut next, gradient, self.step_size);
        self.ball.project(&mut next, clean);
        if !self.before.is_empty() {
            let points = self.image.iter().zip(&self.before);
            for (next, (now, before)) in next.iter_mut().zip(points) {
                *next = now + NEW * (*next - now) + (1.0 - NEW) * (now - before);
            }
            self.ball.project(&mut next, clean);
        }
        self.before = std::mem::replace(&mut self.image, next);
        self.round();
        self.done += 1;
    }
}

impl Climber for Search<'_> {
    fn image(&self) -> &[f32] {
        match self.eight_bit {
            true => &self.rounded,
            false => &self.image,
        }
    }

    fn is_done(&self) -> bool {
        self.first_success && self.fooled.is_some()
    }

    fn loss(&self) -> Loss {
        self.loss.clone()
    }

    fn advance(&mut self, slope: Slope) {
        let Slope {
            reading,
            loss,
            mut gradient,
        } = slope;
        if self.subject.aim.met(&reading) {
            self.fooled = Some(self.image().to_vec());
        }
        let first = self.done == 0;
        if first || loss > self.best.loss {
            self.best = Point {
                image: self.image.clone(),
                gradient: gradient.clone(),
                loss,
            };
        }
        if first {
            self.best_then = loss;
        } else {
            self.seen += 1;
            self.rises += usize::from(loss > self.last);
            if self.seen == self.checkpoints.window && self.check() {
                self.image.clone_from(&self.best.image);
                gradient.clone_from(&self.best.gradient);
            }
        }
        self.last = loss;
        if self.done < self.steps {
            self.step(&gradient);
        }
    }
}

/// APGD on the cross-entropy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApgdCe(pub Apgd);

/// APGD on the difference of logits ratio (DLR); with a target, on the targeted one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApgdDlr(pub Apgd);

/// APGD on the targeted difference of logits ratio, with one target after another until one succeeds: the
/// classes with the largest logits on the clean picture after the label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApgdT {
    /// Norm, radius, steps and restarts of the search for each class.
    #[serde(flatten)]
    pub search: Apgd,
    /// How many classes are tried, at most; at least 1.
    pub targets: usize,
}

impl ApgdT {
    /// AutoAttack's defaults.
    pub fn new(norm: Norm) -> Self {
        ApgdT {
            search: Apgd::new(norm),
            targets: 9,
        }
    }
}

fn validate(search: &Apgd, name: &str, least: usize, classes: usize) -> Result<()> {
    above_zero("eps", search.eps)?;
    if search.restarts == 0 {
        return Err(Error::option("restarts", "must be 1 or more"));
    }
    if classes < least {
        return Err(Error::invalid(format!(
            "{name}'s loss needs {least} classes or more, and the classifier has {classes}"
        )));
    }
    Ok(())
}

impl Attack for ApgdCe {
    fn validate(&self, classes: usize, _targeted: bool) -> Result<()> {
        validate(&self.0, "apgd-ce", 2, classes)
    }

    fn ball(&self) -> Option<Ball> {
        Some(self.0.ball())
    }

    fn run(
        &self,
        victim: &mut dyn Victim,
        subjects: &[Subject<'_>],
        eight_bit: bool,
    ) -> Result<Vec<Vec<f32>>> {
        let losses = |subject: &Subject<'_>| vec![Loss::CrossEntropy(subject.aim)];
        self.0.search(victim, subjects, eight_bit, losses)
    }
}

impl Attack for ApgdDlr {
    fn validate(&self, classes: usize, targeted: bool) -> Result<()> {
        validate(&self.0, "apgd-dlr", if targeted { 4 } else { 3 }, classes)
    }

    fn ball(&self) -> Option<Ball> {
        Some(self.0.ball())
    }

    fn run(
        &self,
        victim: &mut dyn Victim,
        subjects: &[Subject<'_>],
        eight_bit: bool,
    ) -> Result<Vec<Vec<f32>>> {
        let losses = |subject: &Subject<'_>| {
            vec![match subject.aim {
                Aim::AwayFrom(label) => Loss::Dlr { label },
                Aim::Towards(target) => Loss::TargetedDlr {
                    label: subject.input.label(),
                    target,
                },
            }]
        };
        self.0.search(victim, subjects, eight_bit, losses)
    }
}

impl Attack for ApgdT {
    fn validate(&self, classes: usize, _targeted: bool) -> Result<()> {
        if self.targets == 0 {
            return Err(Error::option("targets", "must be 1 or more"));
        }
        validate(&self.search, "apgd-t", 4, classes)
    }

    fn ball(&self) -> Option<Ball> {
        Some(self.search.ball())
    }

    fn run(
        &self,
        victim: &mut dyn Victim,
        subjects: &[Subject<'_>],
        eight_bit: bool,
    ) -> Result<Vec<Vec<f32>>> {
        let losses = |subject: &Subject<'_>| {
            let label = subject.aim.class();
            let next = subject.input.top(self.targets.saturating_add(1));
            let targets = next.into_iter().map(|(class, _)| class);
            let targets = targets.filter(|&class| class != label).take(self.targets);
            targets
                .map(|target| Loss::TargetedDlr { label, target })
                .collect()
        };
        self.search.search(victim, subjects, eight_bit, losses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defense::Reading;
    use crate::picture::Picture;
    use crate::picture::rgb;
    use crate::random::RandomKey;

    #[test]
    fn checkpoints_are_the_published_ones() {
        // Croce and Hein 2020, section 3: p = 0, 0.22, then p + max(difference - 0.03, 0.06).
        let mut checkpoints = Checkpoints::new(100);
        let mut at = vec![0];
        while at[at.len() - 1] + checkpoints.window <= 100 {
            at.push(at[at.len() - 1] + checkpoints.window);
            checkpoints.next();
        }
        assert_eq!(at, [0, 22, 41, 57, 70, 80, 87, 93, 99]);
        let windows = |steps| {
            let Checkpoints {
                window,
                shorter,
                least,
            } = Checkpoints::new(steps);
            [window, shorter, least]
        };
        assert_eq!(windows(1), [1, 1, 1]);
        assert_eq!(windows(50), [11, 1, 3]);
    }

    /// By how much the step has shrunk after these losses, the first of them at the start.
    fn shrunk(steps: usize, losses: &[f64]) -> f32 {
        let picture = Picture {
            shape: rgb(1, 1),
            pixels: vec![0.5; 3],
            eight_bit: false,
        };
        let subject = Subject {
            picture: &picture,
            aim: Aim::AwayFrom(0),
            input: Reading::new(&[1.0, 0.0]),
            key: RandomKey::default(),
        };
        let options = Apgd {
            steps,
            ..Apgd::new(Norm::Linf)
        };
        let loss = Loss::CrossEntropy(subject.aim);
        let mut search = Search::new(&options, &subject, loss, 0, false);
        for &loss in losses {
            search.advance(Slope {
                reading: subject.input.clone(),
                loss,
                gradient: vec![0.0; 3],
            });
        }
        2.0 * options.eps / search.step_size
    }

    #[test]
    fn the_step_is_halved_where_it_is_of_no_use() {
        let rising: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(shrunk(100, &rising), 1.0);
        // Eight checkpoints, and nothing rises.
        assert_eq!(shrunk(100, &[1.0; 101]), 256.0);
        // All rise, but none reaches the start: that counts from the second checkpoint on, after 41
        // steps, and not again right after a halving, at 57.
        let mut below = rising.clone();
        below[0] = 1000.0;
        for (steps, factor) in [(40, 1.0), (41, 2.0), (57, 2.0), (70, 4.0)] {
            assert_eq!(shrunk(100, &below[..=steps]), factor, "{steps}");
        }
        // Sixteen rises of 22 are too few, seventeen are enough.
        for (rises, factor) in [(16, 2.0), (17, 1.0)] {
            let losses: Vec<f64> = (0..=22)
                .map(|i: i32| f64::from(if i <= rises { i } else { 2 * rises - i }))
                .collect();
            assert_eq!(shrunk(100, &losses), factor, "{rises}");
        }
    }
}
