//! What attacks raise: losses of one image's logits, and their derivatives.

use crate::defense::Reading;

/// What an attack wants the classifier to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Anything but this class.
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

    /// Whether the classifier says it.
    pub fn met(self, reading: &Reading) -> bool {
        match self {
            Aim::AwayFrom(class) => reading.label() != class,
            Aim::Towards(class) => reading.label() == class,
        }
    }

    /// By how much: the margin, above 0 where it is met, below 0 where it is not.
    pub fn margin(self, reading: &Reading) -> f64 {
        match self {
            Aim::AwayFrom(class) => -reading.margin(class),
            Aim::Towards(class) => reading.margin(class),
        }
    }
}

/// A loss of the logits `z`. Attacks raise it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// The cross-entropy of the class to leave, or that of the class to reach, negated.
    CrossEntropy(Aim),
    /// Carlini and Wagner 2017: the aim's margin, and not more than `confidence`.
    Margin { aim: Aim, confidence: f32 },
    /// Croce and Hein 2020, the difference of logits ratio: `(max_{i≠label} z_i − z_label) /
    /// (z_1st − z_3rd)`. Neither a shift nor a scale of the logits changes it.
    Dlr { label: usize },
    /// The same for a target: `(z_target − z_label) / (z_1st − (z_3rd + z_4th) / 2)`.
    TargetedDlr { label: usize, target: usize },
    /// `z_other − z_label`, the height over the boundary between two classes.
    Difference { label: usize, other: usize },
}

/// Added to the ratios' denominators, as AutoAttack does: equal logits must not divide by 0.
const MIN_SPREAD: f64 = 1e-12;

impl Loss {
    /// What raising it leads to.
    pub fn aim(&self) -> Aim {
        match *self {
            Loss::CrossEntropy(aim) | Loss::Margin { aim, .. } => aim,
            Loss::Dlr { label } => Aim::AwayFrom(label),
            Loss::TargetedDlr { target, .. } => Aim::Towards(target),
            Loss::Difference { other, .. } => Aim::Towards(other),
        }
    }

    /// Its value; its derivative by each logit goes to `derivative`.
    ///
    /// At equal logits, where it has a kink, the derivative is that of one side. The ratios need
    /// three classes, with a target four.
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
        }
    }
}

/// The `N` best classes, best first; of equal ones the lower first.
fn best<const N: usize>(reading: &Reading) -> [usize; N] {
    let logits = reading.logits();
    let mut found = [0; N];
    for class in 0..logits.len() {
        // How many of those found so far keep their place before it.
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
