//! Elementwise functions of one number, in float64: the definition that every backend's own
//! arithmetic must match.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// An elementwise function of one number; an activation where it follows a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `max(x, 0)`.
    Relu,
    /// `x` above 0, `alpha·x` below.
    LeakyRelu {
        /// Slope below 0.
        alpha: f32,
    },
    /// To `[low, high]`; either may be infinite.
    Clip {
        /// The least value; `-∞` for no lower bound.
        low: f32,
        /// The largest value; `∞` for no upper bound.
        high: f32,
    },
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `clip(alpha·x + beta, 0, 1)`.
    HardSigmoid {
        /// Slope before the clip.
        alpha: f32,
        /// Value at `x` = 0, before the clip.
        beta: f32,
    },
    /// `x·clip(x/6 + 1/2, 0, 1)`.
    HardSwish,
    /// `x·sigmoid(x)`, also called swish.
    Silu,
    /// `x·Φ(x)` with the normal distribution function Φ.
    Gelu,
    /// Gelu's approximation by tanh.
    GeluTanh,
    /// `tanh(x)`.
    Tanh,
    /// `x` above 0, `alpha·(eˣ − 1)` below.
    Elu {
        /// The negative of the limit at `-∞`.
        alpha: f32,
    },
    /// `gamma` times Elu.
    Selu {
        /// Elu's `alpha`.
        alpha: f32,
        /// The factor.
        gamma: f32,
    },
    /// `ln(1 + eˣ)`.
    Softplus,
    /// `x·tanh(softplus(x))`.
    Mish,
    /// The error function, `2/√π · ∫₀ˣ exp(−t²) dt`.
    Erf,
    /// `eˣ`.
    Exp,
    /// The natural logarithm.
    Log,
    /// The square root.
    Sqrt,
    /// `1/x`.
    Reciprocal,
    /// `−x`.
    Neg,
    /// `|x|`.
    Abs,
}

/// What [`Function::GeluTanh`] takes the tanh of, and its derivative.
fn gelu_tanh_inner(x: f64) -> (f64, f64) {
    let scale = (2.0 / PI).sqrt();
    (
        scale * (x + 0.044715 * x * x * x),
        scale * (1.0 + 3.0 * 0.044715 * x * x),
    )
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The error function to about 1e-15: Kummer's series, whose terms are all of one sign.
pub(crate) fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

impl Function {
    /// Every function, with numbers that differ in kind, for tests.
    #[cfg(test)]
    pub(crate) const EACH: [Function; 23] = [
        Function::Relu,
        Function::LeakyRelu { alpha: 0.1 },
        Function::LeakyRelu { alpha: -0.5 },
        Function::Clip {
            low: -0.5,
            high: 1.5,
        },
        Function::Clip {
            low: f32::NEG_INFINITY,
            high: 2.0,
        },
        Function::Sigmoid,
        Function::HardSigmoid {
            alpha: 0.2,
            beta: 0.5,
        },
        Function::HardSwish,
        Function::Silu,
        Function::Gelu,
        Function::GeluTanh,
        Function::Tanh,
        Function::Elu { alpha: 0.7 },
        Function::Selu {
            alpha: 1.6,
            gamma: 1.05,
        },
        Function::Softplus,
        Function::Mish,
        Function::Erf,
        Function::Exp,
        Function::Log,
        Function::Sqrt,
        Function::Reciprocal,
        Function::Neg,
        Function::Abs,
    ];

    /// The function at `x`.
    pub fn value(self, x: f64) -> f64 {
        match self {
            Function::Relu => x.max(0.0),
            Function::LeakyRelu { alpha } if x < 0.0 => f64::from(alpha) * x,
            Function::LeakyRelu { .. } => x,
            Function::Clip { low, high } => x.max(low.into()).min(high.into()),
            Function::Sigmoid => sigmoid(x),
            Function::HardSigmoid { alpha, beta } => {
                (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
            }
            Function::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Function::Silu => x * sigmoid(x),
            Function::Gelu => x * 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)),
            Function::GeluTanh => x * 0.5 * (1.0 + gelu_tanh_inner(x).0.tanh()),
            Function::Tanh => x.tanh(),
            Function::Elu { alpha } if x < 0.0 => f64::from(alpha) * x.exp_m1(),
            Function::Elu { .. } => x,
            Function::Selu { alpha, gamma } => f64::from(gamma) * Function::Elu { alpha }.value(x),
            Function::Softplus => softplus(x),
            Function::Mish => x * softplus(x).tanh(),
            Function::Erf => erf(x),
            Function::Exp => x.exp(),
            Function::Log => x.ln(),
            Function::Sqrt => x.sqrt(),
            Function::Reciprocal => x.recip(),
            Function::Neg => -x,
            Function::Abs => x.abs(),
        }
    }

    /// The derivative at `x`; at a kink that of one side (0 at the ends of a clip, as in PyTorch
    /// for `Relu`).
    pub fn derivative(self, x: f64) -> f64 {
        let inside = |inside: bool| if inside { 1.0 } else { 0.0 };
        match self {
            Function::Relu => inside(x > 0.0),
            Function::LeakyRelu { alpha } if x <= 0.0 => alpha.into(),
            Function::LeakyRelu { .. } => 1.0,
            Function::Clip { low, high } => inside(x > low.into() && x < high.into()),
            Function::Sigmoid => sigmoid(x) * sigmoid(-x),
            Function::HardSigmoid { alpha, beta } => {
                let y = f64::from(alpha) * x + f64::from(beta);
                f64::from(alpha) * inside(y > 0.0 && y < 1.0)
            }
            Function::HardSwish if x <= -3.0 => 0.0,
            Function::HardSwish if x >= 3.0 => 1.0,
            Function::HardSwish => x / 3.0 + 0.5,
            Function::Silu => sigmoid(x) * (1.0 + x * sigmoid(-x)),
            Function::Gelu => {
                0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
            }
            Function::GeluTanh => {
                let (inner, slope) = gelu_tanh_inner(x);
                let t = inner.tanh();
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope
            }
            Function::Tanh => 1.0 - x.tanh().powi(2),
            Function::Elu { alpha } if x <= 0.0 => f64::from(alpha) * x.exp(),
            Function::Elu { .. } => 1.0,
            Function::Selu { alpha, gamma } => {
                f64::from(gamma) * Function::Elu { alpha }.derivative(x)
            }
            Function::Softplus => sigmoid(x),
            Function::Mish => {
                let t = softplus(x).tanh();
                t + x * (1.0 - t * t) * sigmoid(x)
            }
            Function::Erf => 2.0 / PI.sqrt() * (-x * x).exp(),
            Function::Exp => x.exp(),
            Function::Log => x.recip(),
            Function::Sqrt => 0.5 / x.sqrt(),
            Function::Reciprocal => -(x * x).recip(),
            Function::Neg => -1.0,
            Function::Abs if x == 0.0 => 0.0,
            Function::Abs => x.signum(),
        }
    }

    /// Whether the derivative follows from the function's value, so that its argument need not be kept.
    pub fn derivative_from_value(self) -> bool {
        match self {
            Function::Relu
            | Function::Clip { .. }
            | Function::Sigmoid
            | Function::Tanh
            | Function::Exp => true,
            Function::LeakyRelu { alpha } | Function::Elu { alpha } => alpha > 0.0,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_match_finite_differences() {
        for function in Function::EACH {
            for x in [-4.1, -1.3, -0.2, 0.3, 0.9, 2.2, 5.7] {
                if x < 0.0 && matches!(function, Function::Log | Function::Sqrt) {
                    continue;
                }
                let h = 1e-5;
                let difference = (function.value(x + h) - function.value(x - h)) / (2.0 * h);
                let derivative = function.derivative(x);
                assert!(
                    (difference - derivative).abs() < 1e-8 * (1.0 + derivative.abs()),
                    "{function:?} at {x}: {derivative} against {difference}"
                );
            }
        }
    }

    #[test]
    fn values_match_published_ones() {
        // Abramowitz and Stegun, table 7.1.
        assert!((erf(0.5) - 0.520_499_877_813_046_5).abs() < 1e-15);
        assert!((erf(-2.0) + 0.995_322_265_018_952_7).abs() < 1e-15);
        assert_eq!(erf(7.0), 1.0);
        assert!((Function::Gelu.value(1.0) - 0.841_344_746_068_542_9).abs() < 1e-14);
        assert_eq!(Function::Relu.value(-2.0), 0.0);
        assert_eq!(Function::HardSwish.value(3.5), 3.5);
        assert!((Function::Softplus.value(-800.0)).abs() < 1e-300);
        assert_eq!(Function::Softplus.value(800.0), 800.0);
    }
}
