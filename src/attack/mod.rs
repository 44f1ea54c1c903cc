//! Attacks on a classifier, alone or behind the defense.
//!
//! Algorithms and defaults are those of torchattacks and AutoAttack; each file says where it differs.
//! An attack uses its [`Victim`] in two ways only: it asks for the logits of images, and for gradients of
//! losses. All pictures of a batch advance together, but a picture's result does not depend on the others.
//! The steps are simple arithmetic on the host. [`Classifier`] is the classifier alone as a victim,
//! [`adaptive::Defended`] the classifier behind the whole defense.

pub mod adaptive;
mod algorithm;
mod apgd;
mod ball;
mod carlini_wagner;
mod climb;
mod deepfool;
mod looks;
mod losses;
mod low_frequency;
mod method;
mod projected_gradient;
mod rounding;
mod square;
#[cfg(test)]
mod tests;
mod transferable;
mod victim;

pub use algorithm::Attack;
pub use apgd::{Apgd, ApgdCe, ApgdDlr, ApgdT};
pub use ball::{Ball, Norm};
pub use carlini_wagner::CarliniWagner;
pub use climb::Subject;
pub use deepfool::DeepFool;
pub use losses::{Aim, Loss};
pub use low_frequency::PgdLow;
pub use method::{Method, Name};
pub use projected_gradient::{Bim, Fgsm, MiFgsm, Pgd, PgdL2};
pub use rounding::round_into_ball;
pub use square::Square;
pub use transferable::{DiFgsm, PgdViews, SiNiFgsm, TiFgsm, VmiFgsm};
pub use victim::{Classifier, Slope, Victim};

use crate::defense::Reading;
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::random::RandomKey;

/// Which class an attack leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Any class but the true label (the victim's label of the clean picture where no true label is known).
    Untargeted,
    /// This class.
    Class(usize),
    /// The class with the least probability on the clean picture.
    LeastLikely,
}

/// How to attack pictures.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AttackOptions {
    /// The attack and its numbers.
    #[serde(flatten)]
    pub method: Method,
    /// The class that the attack leads to.
    pub target: Target,
    /// Seed of the attack's random numbers.
    pub seed: u64,
    /// Round the result to 8 bits.
    pub eight_bit: bool,
}

impl AttackOptions {
    /// Checks every number, for a victim of `classes` classes.
    ///
    /// # Errors
    /// A number that cannot be used, or a target that is no class of the victim.
    pub fn validate(&self, classes: usize) -> Result<()> {
        match self.target {
            Target::Class(class) if class >= classes => Err(Error::invalid(format!(
                "the target is class {class}, but the classifier has {classes}, from 0 on"
            ))),
            target => {
                let targeted = target != Target::Untargeted;
                self.method.attack().validate(classes, targeted)
            }
        }
    }
}

/// An attacked picture.
#[derive(Clone, Debug)]
pub struct Attacked {
    /// The attacked picture, CHW in `[0, 1]`.
    pub pixels: Vec<f32>,
    /// The class that the attack leads away from or, if it is targeted, to.
    pub aim: usize,
    /// What the victim says of the clean picture.
    pub input: Reading,
    /// What the victim says of `pixels`.
    pub output: Reading,
    /// Largest change of a value, for pixels in `[0, 1]`.
    pub linf: f32,
    /// Euclidean length of the change, for pixels in `[0, 1]`.
    pub l2: f32,
    /// Whether the victim's label is no longer the true one or, if the attack is targeted, is the target.
    pub success: bool,
}

/// Attacks a batch of pictures. `labels[i]` is picture `i`'s true label; where it is `None`, the victim's
/// label of the clean picture takes its place.
///
/// Random numbers are keyed by the seed and the picture's content. An image that is rounded to 8 bits is
/// still inside the attack's ball; an attack without a ball gets a change that is long enough to survive
/// the rounding. Every field of [`Attacked`] is about the rounded image.
///
/// # Errors
/// Options that cannot be used, a label that is no class of the victim, or a failing device.
pub fn attack(
    victim: &mut dyn Victim,
    options: &AttackOptions,
    pictures: &[Picture],
    labels: &[Option<usize>],
) -> Result<Vec<Attacked>> {
    options.validate(victim.classes())?;
    let clean: Vec<&[f32]> = pictures.iter().map(|picture| &picture.pixels[..]).collect();
    let inputs = victim.read(&clean)?;
    let mut subjects = Vec::with_capacity(pictures.len());
    for ((picture, input), label) in pictures.iter().zip(inputs).zip(labels) {
        subjects.push(Subject {
            picture,
            aim: aim(options.target, &input, *label)?,
            input,
            key: RandomKey {
                seed: options.seed,
                image: picture.hash(),
                tile: 0,
            },
        });
    }
    let mut found: Vec<Option<(Vec<f32>, Reading)>> = subjects.iter().map(|_| None).collect();
    let mut open: Vec<usize> = (0..subjects.len()).collect();
    for way in 0..victim.ways() {
        if open.is_empty() {
            break;
        }
        victim.follow(way);
        let tried: Vec<Subject<'_>> = open.iter().map(|&i| subjects[i].clone()).collect();
        let (images, outputs) = follow(victim, options, &tried)?;
        for ((&i, image), output) in open.iter().zip(images).zip(outputs) {
            if found[i].is_none() || subjects[i].aim.met(&output) {
                found[i] = Some((image, output));
            }
        }
        let aim_met =
            |i: &usize| matches!(&found[*i], Some((_, output)) if subjects[*i].aim.met(output));
        open.retain(|i| !aim_met(i));
    }
    let results = subjects.into_iter().zip(found.into_iter().flatten());
    Ok(results
        .map(|(subject, (pixels, output))| {
            let change = pixels.iter().zip(subject.clean()).map(|(a, b)| a - b);
            Attacked {
                linf: change.fold(0.0, |most: f32, x| most.max(x.abs())),
                l2: ball::distance(&pixels, subject.clean()) as f32,
                success: subject.aim.met(&output),
                aim: subject.aim.class(),
                input: subject.input,
                output,
                pixels,
            }
        })
        .collect())
}

/// Attacks along the victim's present way: the images, rounded if that is asked for, and what the victim says of them.
fn follow(
    victim: &mut dyn Victim,
    options: &AttackOptions,
    subjects: &[Subject<'_>],
) -> Result<(Vec<Vec<f32>>, Vec<Reading>)> {
    let attack = options.method.attack();
    let mut images = attack.run(victim, subjects, options.eight_bit)?;
    match attack.ball() {
        _ if !options.eight_bit => {}
        Some(ball) => {
            for (image, subject) in images.iter_mut().zip(subjects) {
                round_into_ball(image, subject.clean(), ball);
            }
        }
        None => rounding::round_minimal(victim, subjects, &mut images)?,
    }
    let views: Vec<&[f32]> = images.iter().map(|image| &image[..]).collect();
    let outputs = victim.read(&views)?;
    Ok((images, outputs))
}

/// The aim of an attack with this target on one picture.
fn aim(target: Target, input: &Reading, label: Option<usize>) -> Result<Aim> {
    let classes = input.classes();
    let aim = match target {
        Target::Untargeted => Aim::AwayFrom(label.unwrap_or(input.label())),
        Target::Class(class) => Aim::Towards(class),
        Target::LeastLikely => Aim::Towards(input.top(classes)[classes - 1].0),
    };
    match aim.class() < classes {
        true => Ok(aim),
        false => Err(Error::invalid(format!(
            "a picture's label is {}, but the classifier has {classes} classes, from 0 on",
            aim.class()
        ))),
    }
}
