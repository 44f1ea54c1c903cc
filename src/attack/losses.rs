//! The losses that attacks maximize, as functions of one image's logits, and their derivatives.

use std::sync::Arc;

use crate::defense::Reading;
use crate::error::{Error, Result};

/// What an attack wants the victim's label to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Any class but this one.
    AwayFrom(usize),
    /// This class.
    Towards(usize),
}

impl Aim {
    /// The class that it names.
    pub fn class(self) -> usize {
        match self {
            Aim::AwayFrom(class) | Aim::Towards(class) => class,
        }
    }

    /// Whether the label of `reading` meets the aim.
    pub fn met(self, reading: &Reading) -> bool {
        match self {
            Aim::AwayFrom(class) => reading.label() != class,
            Aim::Towards(class) => reading.label() == class,
        }
    }

    /// The margin by which the aim is met, in logits; below 0 where it is not met.
    pub fn margin(self, reading: &Reading) -> f64 {
        match self {
            Aim::AwayFrom(class) => -reading.margin(class),
            Aim::Towards(class) => reading.margin(class),
        }
    }
}

/// A loss as a function of the logits `z`. Attacks maximize it.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// The cross-entropy of the class to leave, or the negative cross-entropy of the class to reach.
    CrossEntropy(Aim),
    /// Carlini and Wagner 2017: the smaller of the aim's margin and `confidence`.
    Margin {
        /// Whose margin it is.
        aim: Aim,
        /// The largest value of the loss, in logits.
        confidence: f32,
    },
    /// Croce and Hein 2020, the difference of logits ratio: `(max_{i≠label} z_i − z_label) /
    /// (z_1st − z_3rd)`. Shifting or scaling all logits does not change it.
    Dlr {
        /// The class to leave.
        label: usize,
    },
    /// The difference of logits ratio with a target: `(z_target − z_label) / (z_1st − (z_3rd + z_4th) / 2)`.
    TargetedDlr {
        /// The class to leave.
        label: usize,
        /// The class to reach.
        target: usize,
    },
    /// `z_other − z_label`: above 0 on the other class's side of the boundary between the two.
    Difference {
        /// The class to leave.
        label: usize,
        /// The class to reach.
        other: usize,
    },
    /// `Σ weights[c] · z_c`, with a weight for each class: what a loss of the caller's is near given logits, with
    /// its derivatives by them as the weights.
    Linear {
        /// The weights, by class.
        weights: Arc<[f32]>,
    },
}

/// Added to the ratios' denominators, as in AutoAttack, so that equal logits do not divide by 0.
const MIN_SPREAD: f64 = 1e-12;

impl Loss {
    /// The aim that a larger loss leads to. Of a linear loss it is the class of the largest weight, by its size: to
    /// leave it if the weight is negative, as that of the true label is in cross-entropy, or else to reach it.
    pub fn aim(&self) -> Aim {
        match *self {
            Loss::CrossEntropy(aim) | Loss::Margin { aim, .. } => aim,
            Loss::Dlr { label } => Aim::AwayFrom(label),
            Loss::TargetedDlr { target, .. } => Aim::Towards(target),
            Loss::Difference { other, .. } => Aim::Towards(other),
            Loss::Linear { ref weights } => {
                let by_weight = |a: &usize, b: &usize| weights[*a].total_cmp(&weights[*b]);
                let least = (0..weights.len()).min_by(by_weight).unwrap_or(0);
                let most = (0..weights.len()).max_by(by_weight).unwrap_or(0);
                match weights.is_empty() || -weights[least] >= weights[most] {
                    true => Aim::AwayFrom(least),
                    false => Aim::Towards(most),
                }
            }
        }
    }

    /// Checks that a classifier of `classes` classes has this loss.
    ///
    /// # Errors
    /// A class that it has not, fewer classes than the loss compares, or another number of weights.
    pub fn validate(&self, classes: usize) -> Result<()> {
        let (class, other) = match *self {
            Loss::CrossEntropy(aim) | Loss::Margin { aim, .. } => (aim.class(), 0),
            Loss::Dlr { label } => (label, 2),
            Loss::TargetedDlr { label, target } => (label, target.max(3)),
            Loss::Difference { label, other } => (label, other),
            Loss::Linear { ref weights } if weights.len() != classes => {
                return Err(Error::invalid(format!(
                    "{} weights for {classes} classes",
                    weights.len()
                )));
            }
            Loss::Linear { .. } => (0, 0),
        };
        match class.max(other) < classes {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "a loss needs class {}, but the classifier has {classes} classes, from 0 on",
                class.max(other)
            ))),
        }
    }

    /// The loss; writes its derivative by each logit to `derivative`.
    ///
    /// Where equal logits make a kink, the derivative is that of one side. `Dlr` needs three classes,
    /// `TargetedDlr` four.
    pub fn evaluate(&self, reading: &Reading, derivative: &mut [f32]) -> f64 {
        derivative.fill(0.0);
        let z = |class: usize| f64::from(reading.logits()[class]);
        let mut add = |class: usize, slope: f64| derivative[class] += slope as f32;
        match *self {
            Loss::CrossEntropy(aim) => {
                let (class, sign) = match aim {
                    Aim::AwayFrom(class) => (class, 1.0),
                    Aim::Towards(class) => (class, -1.0),
                };
                for c in 0..reading.classes() {
                    let hot = if c == class { 1.0 } else { 0.0 };
                    add(c, sign * (reading.probability(c) - hot));
                }
                -sign * reading.log_probability(class)
            }
            Loss::Margin { aim, confidence } => {
                let (margin, confidence) = (aim.margin(reading), f64::from(confidence));
                if margin <= confidence
                    && let Some(rival) = reading.rival(aim.class())
                {
                    let sign = match aim {
                        Aim::AwayFrom(_) => 1.0,
                        Aim::Towards(_) => -1.0,
                    };
                    add(rival, sign);
                    add(aim.class(), -sign);
                }
                margin.min(confidence)
            }
            Loss::Dlr { label } => {
                let [first, _, third] = best(reading);
                let rival = reading.rival(label).unwrap_or(label);
                let spread = z(first) - z(third) + MIN_SPREAD;
                let ratio = (z(rival) - z(label)) / spread;
                add(rival, 1.0 / spread);
                add(label, -1.0 / spread);
                add(first, -ratio / spread);
                add(third, ratio / spread);
                ratio
            }
            Loss::TargetedDlr { label, target } => {
                let [first, _, third, fourth] = best(reading);
                let spread = z(first) - (z(third) + z(fourth)) / 2.0 + MIN_SPREAD;
                let ratio = (z(target) - z(label)) / spread;
                add(target, 1.0 / spread);
                add(label, -1.0 / spread);
                add(first, -ratio / spread);
                add(third, ratio / spread / 2.0);
                add(fourth, ratio / spread / 2.0);
                ratio
            }
            Loss::Difference { label, other } => {
                add(other, 1.0);
                add(label, -1.0);
                z(other) - z(label)
            }
            Loss::Linear { ref weights } => {
                let terms = weights.iter().enumerate().map(|(class, &weight)| {
                    add(class, f64::from(weight));
                    f64::from(weight) * z(class)
                });
                terms.sum()
            }
        }
    }
}

/// The `N` classes with the largest logits, by falling logit; of equal ones the lower class first.
fn best<const N: usize>(reading: &Reading) -> [usize; N] {
    let logits = reading.logits();
    let mut found = [0; N];
    for class in 0..logits.len() {
        // How many classes are sorted so far.
        let known = class.min(N);
        let place = found[..known]
            .iter()
            .position(|&other| logits[class] > logits[other])
            .unwrap_or(known);
        if place < N {
            found[place..].rotate_right(1);
            found[place] = class;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses() -> Vec<Loss> {
        let mut losses = vec![
            Loss::Difference { label: 4, other: 1 },
            Loss::TargetedDlr {
                label: 1,
                target: 3,
            },
            Loss::TargetedDlr {
                label: 0,
                target: 1,
            },
            Loss::Linear {
                weights: [0.5, -1.0, 0.0, 2.0, -0.25, 1.5].into(),
            },
        ];
        for class in 0..6 {
            losses.push(Loss::Dlr { label: class });
            for aim in [Aim::AwayFrom(class), Aim::Towards(class)] {
                losses.push(Loss::CrossEntropy(aim));
                for confidence in [0.0, 1.5] {
                    losses.push(Loss::Margin { aim, confidence });
                }
            }
        }
        losses
    }

    #[test]
    fn derivatives_are_those_of_the_values() {
        let logits = [0.25f32, 2.5, -1.0, 1.75, 0.875, -3.0];
        let step = 1.0 / 1024.0; // exact in float32, and far from every tie
        for loss in losses() {
            let mut derivative = [f32::NAN; 6];
            loss.evaluate(&Reading::new(&logits), &mut derivative);
            for class in 0..6 {
                let value = |change: f32| {
                    let mut moved = logits;
                    moved[class] += change;
                    loss.evaluate(&Reading::new(&moved), &mut [0.0; 6])
                };
                let slope = (value(step) - value(-step)) / (2.0 * f64::from(step));
                // Central differences are off by step²/6 times the third derivative, of order 1.
                let off = (slope - f64::from(derivative[class])).abs();
                assert!(off < 2e-6, "{loss:?}, class {class}: {off}");
            }
        }
    }

    #[test]
    fn a_linear_loss_aims_at_what_it_weighs_most() {
        let aim = |weights: [f32; 3]| {
            let weights = weights.into();
            Loss::Linear { weights }.aim()
        };
        // The derivatives of cross-entropy, of the same with a target, and of a margin.
        assert_eq!(aim([0.2, -0.9, 0.7]), Aim::AwayFrom(1));
        assert_eq!(aim([-0.2, -0.7, 0.9]), Aim::Towards(2));
        assert_eq!(aim([1.0, 0.0, -1.0]), Aim::AwayFrom(2));
    }

    #[test]
    fn losses_of_other_classifiers_are_refused() {
        let away = |class| Loss::CrossEntropy(Aim::AwayFrom(class));
        let weights = |count: usize| Loss::Linear {
            weights: vec![0.0; count].into(),
        };
        let (label, target) = (0, 1);
        for (loss, classes) in [
            (away(9), 10),
            (Loss::Dlr { label }, 3),
            (Loss::TargetedDlr { label, target }, 4),
            (weights(2), 2),
        ] {
            assert!(loss.validate(classes).is_ok(), "{loss:?}");
            assert!(loss.validate(classes - 1).is_err(), "{loss:?}");
        }
        assert!(weights(3).validate(4).is_err());
    }

    #[test]
    fn values_are_the_published_ones() {
        let reading = Reading::new(&[1.0, 4.0, 2.0, 0.5]);
        let value = |loss: Loss| loss.evaluate(&reading, &mut [0.0; 4]);
        let sum: f64 = [1.0, 4.0, 2.0, 0.5f64].map(f64::exp).iter().sum();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        near(value(Loss::CrossEntropy(Aim::AwayFrom(2))), sum.ln() - 2.0);
        near(value(Loss::CrossEntropy(Aim::Towards(2))), 2.0 - sum.ln());
        near(value(Loss::Dlr { label: 1 }), -2.0 / 3.0);
        near(value(Loss::Dlr { label: 0 }), 3.0 / 3.0);
        near(
            value(Loss::TargetedDlr {
                label: 1,
                target: 0,
            }),
            -3.0 / (4.0 - 0.75),
        );
        let margin = |aim, confidence| value(Loss::Margin { aim, confidence });
        near(margin(Aim::AwayFrom(1), 0.0), -2.0);
        near(margin(Aim::AwayFrom(0), 5.0), 3.0);
        near(margin(Aim::AwayFrom(0), 2.0), 2.0);
        near(margin(Aim::Towards(2), 0.0), -2.0);
        near(margin(Aim::Towards(1), 1.0), 1.0);
    }

    #[test]
    fn the_best_classes_come_in_order() {
        let reading = Reading::new(&[1.0, 3.0, 3.0, -2.0, 5.0]);
        assert_eq!(best::<4>(&reading), [4, 1, 2, 0]);
        assert_eq!(best::<3>(&Reading::new(&[3.0, 2.0, 1.0])), [0, 1, 2]);
        assert_eq!(best::<3>(&Reading::new(&[1.0, 2.0, 3.0])), [2, 1, 0]);
    }

    #[test]
    fn equal_logits_have_finite_derivatives() {
        let reading = Reading::new(&[1.0; 6]);
        for loss in losses() {
            let mut derivative = [0.0; 6];
            assert!(loss.evaluate(&reading, &mut derivative).is_finite());
            assert!(derivative.iter().all(|x| x.is_finite()), "{loss:?}");
        }
    }
}
