//! White-box attacks on the classifier: what the defence is measured against.
//!
//! Names, defaults and meaning are torchattacks'. Gradients come from the device; the steps
//! themselves are simple arithmetic on the host.

mod gradient_sign;
mod l2;
mod rounding;

pub use rounding::round_into_ball;

use crate::backend::{At, Backend, ClassifierEngine};
use crate::defense::Reading;
use crate::error::{Error, Result};
use crate::io::Picture;

/// An attack's name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Goodfellow et al. 2015: one step along the gradient's sign.
    Fgsm,
    /// Kurakin et al. 2017: FGSM iterated from the image itself.
    Bim,
    /// Madry et al. 2018: BIM from a random start.
    Pgd,
    /// PGD in the Euclidean ball.
    #[value(name = "pgd-l2")]
    #[serde(rename = "pgd-l2")]
    PgdL2,
}

/// The norm that bounds a perturbation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Norm {
    Linf,
    L2,
}

impl Method {
    /// The norm of its ball.
    pub fn norm(self) -> Norm {
        match self {
            Method::PgdL2 => Norm::L2,
            _ => Norm::Linf,
        }
    }
}

/// Which class an attack aims at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Any class but the image's own.
    Untargeted,
    /// This class.
    Class(usize),
    /// The class that the classifier finds least likely on the clean image.
    LeastLikely,
}

/// An attack with its numbers.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AttackOptions {
    pub method: Method,
    /// Radius of the ball, pixels in `[0, 1]`.
    pub eps: f32,
    /// Step size, pixels in `[0, 1]`.
    pub alpha: f32,
    pub steps: usize,
    pub random_start: bool,
    pub target: Target,
    pub seed: u64,
    /// Round the result to 8 bits, inside the ball.
    pub eight_bit: bool,
}

impl AttackOptions {
    /// torchattacks' defaults.
    pub fn new(method: Method) -> Self {
        let (eps, alpha, steps) = match method {
            Method::Fgsm => (8.0 / 255.0, 8.0 / 255.0, 1),
            Method::Bim | Method::Pgd => (8.0 / 255.0, 2.0 / 255.0, 10),
            Method::PgdL2 => (1.0, 0.2, 10),
        };
        AttackOptions {
            method,
            eps,
            alpha,
            steps,
            random_start: matches!(method, Method::Pgd | Method::PgdL2),
            target: Target::Untargeted,
            seed: 0,
            eight_bit: true,
        }
    }

    /// Checks every number, for a classifier of `classes` classes.
    pub fn validate(&self, classes: usize) -> Result<()> {
        let usable = |x: f32| x.is_finite() && x >= 0.0;
        if !usable(self.eps) || !usable(self.alpha) {
            return Err(Error::invalid(format!(
                "an attack's radius and step must be 0 or above, not {} and {}",
                self.eps, self.alpha
            )));
        }
        match self.target {
            Target::Class(class) if class >= classes => Err(Error::invalid(format!(
                "the target is class {class}, but the classifier has {classes}, from 0 on"
            ))),
            _ => Ok(()),
        }
    }
}

/// An attacked picture.
#[derive(Clone, Debug)]
pub struct Attacked {
    /// CHW in `[0, 1]`.
    pub pixels: Vec<f32>,
    /// The class the attack drove away from, or towards where it was targeted.
    pub aim: usize,
    pub input: Reading,
    pub output: Reading,
    /// Largest change of a pixel.
    pub linf: f32,
    /// Euclidean length of the change.
    pub l2: f32,
    /// Whether the classifier now errs: another label than the true one, or the target's.
    pub success: bool,
}

/// Where an iterate stands.
struct Iterate<'a> {
    /// The clean image.
    clean: &'a [f32],
    /// The image now.
    image: &'a mut [f32],
    /// Ascent direction of the attack's objective.
    gradient: &'a [f32],
}

/// Attacks a batch of pictures; `labels[i]` is the true label, else the classifier's own is used.
///
/// Random starts are keyed by the seed and the picture's content.
pub fn attack<B: Backend>(
    backend: &B,
    classifier: &mut B::Classifier,
    options: &AttackOptions,
    pictures: &[Picture],
    labels: &[Option<usize>],
) -> Result<Vec<Attacked>> {
    options.validate(classifier.classes())?;
    let shape = classifier.input_shape();
    let mut device = backend.allocate(shape, pictures.len())?;
    let mut gradients = backend.allocate(shape, pictures.len())?;
    let mut images: Vec<Vec<f32>> = pictures.iter().map(|p| p.pixels.clone()).collect();
    let inputs = read(backend, classifier, &images, &mut device)?;
    let aims = aims(options, &inputs, labels, classifier.classes())?;
    if options.random_start {
        for (image, picture) in images.iter_mut().zip(pictures) {
            match options.method.norm() {
                Norm::Linf => gradient_sign::start(options, picture, image),
                Norm::L2 => l2::start(options, picture, image),
            }
        }
    }
    // An untargeted attack climbs the cross-entropy of the label, a targeted one descends the target's.
    let direction = match options.target {
        Target::Untargeted => 1.0,
        Target::Class(_) | Target::LeastLikely => -1.0,
    };
    for _ in 0..options.steps {
        upload(backend, &images, &mut device)?;
        let at = all::<B>(&device, pictures.len());
        let mut loss = |i: usize, logits: &[f32], gradient: &mut [f32]| {
            cross_entropy_gradient(logits, aims[i], direction, gradient);
        };
        classifier.gradient(&at, &mut loss, &mut gradients, 0)?;
        for (i, (image, picture)) in images.iter_mut().zip(pictures).enumerate() {
            let gradient = backend.download(At::new(&gradients, i))?;
            let iterate = Iterate {
                clean: &picture.pixels,
                image,
                gradient: &gradient,
            };
            match options.method.norm() {
                Norm::Linf => gradient_sign::step(options, iterate),
                Norm::L2 => l2::step(options, iterate),
            }
        }
    }
    if options.eight_bit {
        for (image, picture) in images.iter_mut().zip(pictures) {
            round_into_ball(image, &picture.pixels, options.method.norm(), options.eps);
        }
    }
    let outputs = read(backend, classifier, &images, &mut device)?;
    let results = images
        .into_iter()
        .zip(inputs.into_iter().zip(outputs))
        .enumerate();
    Ok(results
        .map(|(i, (pixels, (input, output)))| {
            let change = || pixels.iter().zip(&pictures[i].pixels).map(|(a, b)| a - b);
            let hit = output.label() == aims[i];
            Attacked {
                linf: change().fold(0.0, |most: f32, x| most.max(x.abs())),
                l2: l2::norm(change()) as f32,
                success: if options.target == Target::Untargeted {
                    !hit
                } else {
                    hit
                },
                aim: aims[i],
                input,
                output,
                pixels,
            }
        })
        .collect())
}

/// The class in each picture's objective.
fn aims(
    options: &AttackOptions,
    inputs: &[Reading],
    labels: &[Option<usize>],
    classes: usize,
) -> Result<Vec<usize>> {
    let aim = |(input, label): (&Reading, &Option<usize>)| match options.target {
        Target::Untargeted => label.unwrap_or(input.label()),
        Target::Class(class) => class,
        Target::LeastLikely => input.top(classes)[classes - 1].0,
    };
    let aims: Vec<usize> = inputs.iter().zip(labels).map(aim).collect();
    match aims.iter().find(|&&aim| aim >= classes) {
        Some(label) => Err(Error::invalid(format!(
            "a picture's label is {label}, but the classifier has {classes} classes, from 0 on"
        ))),
        None => Ok(aims),
    }
}

/// `direction · (softmax − onehot)`: the cross-entropy's derivative by each logit.
fn cross_entropy_gradient(logits: &[f32], class: usize, direction: f32, gradient: &mut [f32]) {
    let reading = Reading::new(logits);
    for (c, out) in gradient.iter_mut().enumerate() {
        let hot = if c == class { 1.0 } else { 0.0 };
        *out = direction * (reading.probability(c) - hot) as f32;
    }
}

fn upload<B: Backend>(backend: &B, images: &[Vec<f32>], device: &mut B::Images) -> Result<()> {
    for (i, image) in images.iter().enumerate() {
        backend.upload(image, device, i)?;
    }
    Ok(())
}

fn read<B: Backend>(
    backend: &B,
    classifier: &mut B::Classifier,
    images: &[Vec<f32>],
    device: &mut B::Images,
) -> Result<Vec<Reading>> {
    upload(backend, images, device)?;
    let logits = classifier.logits(&all::<B>(device, images.len()))?;
    Ok(logits
        .chunks_exact(classifier.classes())
        .map(Reading::new)
        .collect())
}

fn all<B: Backend>(device: &B::Images, count: usize) -> Vec<At<'_, B::Images>> {
    (0..count).map(|i| At::new(device, i)).collect()
}
