//! [`Function`]s and their derivatives on sixteen lanes.

use crate::backend::cpu::simd::{F32x16, exp, sigmoid};
use crate::classifier::Function;

/// `a` where `x ≥ 0`, else `b`.
#[inline(always)]
fn select_not_negative<V: F32x16>(x: V, a: V, b: V) -> V {
    V::splat(0.0).sub(x).select_positive(b, a)
}

#[inline(always)]
fn abs<V: F32x16>(x: V) -> V {
    x.max(V::splat(0.0).sub(x))
}

/// `x` with the sign of `sign`.
#[inline(always)]
fn with_sign<V: F32x16>(x: V, sign: V) -> V {
    select_not_negative(sign, x, V::splat(0.0).sub(x))
}

/// `Σ coefficients[n]·xⁿ`, highest power first.
#[inline(always)]
fn polynomial<V: F32x16>(coefficients: &[f32], x: V) -> V {
    let mut sum = V::splat(0.0);
    for &c in coefficients {
        sum = sum.mul_add(x, V::splat(c));
    }
    sum
}

/// `eˣ − 1`, relative error under 1e-6.
#[inline(always)]
fn exp_m1<V: F32x16>(x: V) -> V {
    // Taylor's series near 0, where the difference would cancel: 0.35^8 / 9! is below 1e-9.
    let near = polynomial(
        &[
            1.0 / 40_320.0,
            1.0 / 5_040.0,
            1.0 / 720.0,
            1.0 / 120.0,
            1.0 / 24.0,
            1.0 / 6.0,
            0.5,
            1.0,
        ],
        x,
    )
    .mul(x);
    let far = exp(x).sub(V::splat(1.0));
    abs(x).sub(V::splat(0.35)).select_positive(far, near)
}

#[inline(always)]
fn tanh<V: F32x16>(x: V) -> V {
    // tanh x = E / (E + 2) with E = e^2x − 1.
    let e = exp_m1(x.add(x).min(V::splat(80.0)));
    e.div(e.add(V::splat(2.0)))
}

/// The error function, absolute error under 2e-7 and relative error under 1e-6 near 0.
#[inline(always)]
fn erf<V: F32x16>(x: V) -> V {
    let a = abs(x).min(V::splat(4.0));
    // Taylor's series up to 1, where the next term, 2/√π / (11!·23), is below 2e-9.
    let near = polynomial(
        &[
            1.0 / 76_204_800.0,
            -1.0 / 6_894_720.0,
            1.0 / 685_440.0,
            -1.0 / 75_600.0,
            1.0 / 9_360.0,
            -1.0 / 1_320.0,
            1.0 / 216.0,
            -1.0 / 42.0,
            0.1,
            -1.0 / 3.0,
            1.0,
        ],
        a.mul(a),
    )
    .mul(a)
    .mul(V::splat(std::f32::consts::FRAC_2_SQRT_PI));
    // ln erfc on [1, 4], fitted at Chebyshev's nodes about 2.5; erf(4) is 1 in float32.
    let log = polynomial(
        &[
            -1.330_939e-5,
            8.465_77e-5,
            -4.201_445_6e-4,
            2.154_946_3e-3,
            -1.085_851_7e-2,
            -0.943_889,
            -5.352_680_7,
            -7.806_815_6,
        ],
        a.sub(V::splat(2.5)),
    );
    let far = V::splat(1.0).sub(exp(log));
    with_sign(a.sub(V::splat(1.0)).select_positive(far, near), x)
}

/// `Φ(x)`, the normal distribution function, absolute error under 1e-7.
#[inline(always)]
fn normal_cdf<V: F32x16>(x: V) -> V {
    // ln Φ(−a) on [0, 8]: a fit for the least absolute error of Φ (Lawson's algorithm). Φ(−8) is below
    // 1e-15.
    let a = abs(x).min(V::splat(8.0));
    let log = polynomial(
        &[
            -9.253_165e-9,
            3.326_810_8e-7,
            -4.978_119e-6,
            3.913_834e-5,
            -1.517_625_5e-4,
            -7.537_97e-5,
            4.893_821_7e-3,
            -3.639_472e-2,
            -0.318_294_9,
            -0.797_885_95,
            -std::f32::consts::LN_2,
        ],
        a,
    );
    let beyond = exp(log);
    x.select_positive(V::splat(1.0).sub(beyond), beyond)
}

/// What the tanh of [`Function::GeluTanh`] is taken of.
#[inline(always)]
fn gelu_tanh_inner<V: F32x16>(x: V) -> V {
    let cube = x.mul(x).mul(x);
    cube.mul_add(V::splat(0.044_715), x)
        .mul(V::splat(SQRT_2_PI))
}

/// `√(2/π)`.
const SQRT_2_PI: f32 = 0.797_884_6;

/// `tanh(ln(1 + eˣ))`, from `(e² + 2e) / (e² + 2e + 2)` with `e = eˣ`.
#[inline(always)]
fn tanh_softplus<V: F32x16>(x: V) -> V {
    let e = exp(x.min(V::splat(20.0)));
    let s = e.mul(e.add(V::splat(2.0)));
    s.div(s.add(V::splat(2.0)))
}

/// The definition, lane by lane: for functions too rare for an approximation of their own.
#[inline(always)]
fn each<V: F32x16>(x: V, f: impl Fn(f64) -> f64) -> V {
    let mut lanes = x.to_array();
    for lane in &mut lanes {
        *lane = f(f64::from(*lane)) as f32;
    }
    V::from_array(lanes)
}

/// The function at `x`.
#[inline(always)]
pub(crate) fn value<V: F32x16>(function: Function, x: V) -> V {
    let (zero, one) = (V::splat(0.0), V::splat(1.0));
    match function {
        Function::Relu => x.max(zero),
        Function::LeakyRelu { alpha } => x.select_positive(x, x.mul(V::splat(alpha))),
        Function::Clip { low, high } => x.max(V::splat(low)).min(V::splat(high)),
        Function::Sigmoid => sigmoid(x),
        Function::HardSigmoid { alpha, beta } => x
            .mul_add(V::splat(alpha), V::splat(beta))
            .max(zero)
            .min(one),
        Function::HardSwish => x.mul(
            x.mul_add(V::splat(1.0 / 6.0), V::splat(0.5))
                .max(zero)
                .min(one),
        ),
        Function::Silu => x.mul(sigmoid(x)),
        Function::Gelu => x.mul(normal_cdf(x)),
        Function::GeluTanh => x.mul(V::splat(0.5)).mul(one.add(tanh(gelu_tanh_inner(x)))),
        Function::Tanh => tanh(x),
        Function::Elu { alpha } => x.select_positive(x, exp_m1(x).mul(V::splat(alpha))),
        Function::Selu { alpha, gamma } => x
            .select_positive(x, exp_m1(x).mul(V::splat(alpha)))
            .mul(V::splat(gamma)),
        Function::Mish => x.mul(tanh_softplus(x)),
        Function::Erf => erf(x),
        Function::Exp => exp(x),
        Function::Sqrt => x.sqrt(),
        Function::Reciprocal => one.div(x),
        Function::Neg => zero.sub(x),
        Function::Abs => abs(x),
        Function::Log | Function::Softplus => each(x, |x| function.value(x)),
    }
}

/// `g` where `low < x < high`, else 0.
#[inline(always)]
fn between<V: F32x16>(x: V, low: f32, high: f32, g: V) -> V {
    let inside = x.sub(V::splat(low)).min(V::splat(high).sub(x));
    inside.select_positive(g, V::splat(0.0))
}

/// The derivative by the argument, from the function's value `y`, times `g`; for functions that
/// [`Function::derivative_from_value`] admits.
#[inline(always)]
pub(crate) fn gradient_from_value<V: F32x16>(function: Function, y: V, g: V) -> V {
    let (zero, one) = (V::splat(0.0), V::splat(1.0));
    match function {
        Function::Relu => y.select_positive(g, zero),
        Function::LeakyRelu { alpha } => y.select_positive(g, g.mul(V::splat(alpha))),
        Function::Clip { low, high } => between(y, low, high, g),
        Function::Sigmoid => y.mul(one.sub(y)).mul(g),
        Function::Tanh => one.sub(y.mul(y)).mul(g),
        Function::Exp => y.mul(g),
        Function::Elu { alpha } => y.select_positive(g, g.mul(y.add(V::splat(alpha)))),
        _ => unreachable!("the derivative of {function:?} does not follow from its value"),
    }
}

/// The derivative at the argument `x`, times `g`.
#[inline(always)]
pub(crate) fn gradient<V: F32x16>(function: Function, x: V, g: V) -> V {
    let (zero, half, one) = (V::splat(0.0), V::splat(0.5), V::splat(1.0));
    match function {
        Function::Relu => x.select_positive(g, zero),
        Function::LeakyRelu { alpha } => x.select_positive(g, g.mul(V::splat(alpha))),
        Function::Clip { low, high } => between(x, low, high, g),
        Function::Sigmoid | Function::Tanh | Function::Exp => {
            gradient_from_value(function, value(function, x), g)
        }
        Function::HardSigmoid { alpha, beta } => {
            let y = x.mul_add(V::splat(alpha), V::splat(beta));
            between(y, 0.0, 1.0, g.mul(V::splat(alpha)))
        }
        Function::HardSwish => {
            let slope = x.mul_add(V::splat(1.0 / 3.0), half);
            let inside = between(x, -3.0, 3.0, slope);
            select_not_negative(x.sub(V::splat(3.0)), one, inside).mul(g)
        }
        Function::Silu => {
            let s = sigmoid(x);
            s.mul(x.mul(one.sub(s)).add(one)).mul(g)
        }
        Function::Gelu => {
            let density = exp(x.mul(x).mul(V::splat(-0.5)))
                .mul(half)
                .mul(V::splat(SQRT_2_PI));
            x.mul_add(density, normal_cdf(x)).mul(g)
        }
        Function::GeluTanh => {
            let t = tanh(gelu_tanh_inner(x));
            let slope = x
                .mul(x)
                .mul_add(V::splat(3.0 * 0.044_715), one)
                .mul(V::splat(SQRT_2_PI));
            let bend = x.mul(one.sub(t.mul(t))).mul(slope);
            half.mul(one.add(t).add(bend)).mul(g)
        }
        Function::Elu { alpha } => x.select_positive(g, g.mul(V::splat(alpha)).mul(exp(x))),
        Function::Selu { alpha, gamma } => {
            let g = g.mul(V::splat(gamma));
            x.select_positive(g, g.mul(V::splat(alpha)).mul(exp(x)))
        }
        Function::Softplus => sigmoid(x).mul(g),
        Function::Mish => {
            let t = tanh_softplus(x);
            x.mul(one.sub(t.mul(t))).mul_add(sigmoid(x), t).mul(g)
        }
        Function::Erf => exp(zero.sub(x.mul(x)))
            .mul(V::splat(std::f32::consts::FRAC_2_SQRT_PI))
            .mul(g),
        Function::Log => g.div(x),
        Function::Sqrt => half.div(x.sqrt()).mul(g),
        Function::Reciprocal => zero.sub(g.div(x.mul(x))),
        Function::Neg => zero.sub(g),
        Function::Abs => x.select_positive(g, zero.sub(x).select_positive(zero.sub(g), zero)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{Kernel, LANES, dispatch};

    /// A function and its derivative, from its argument and, where it may be, from its value.
    struct Both(Function, [f32; LANES]);

    impl Kernel for Both {
        type Output = [[f32; LANES]; 3];
        #[inline(always)]
        fn run<V: F32x16>(self) -> Self::Output {
            let (x, one) = (V::from_array(self.1), V::splat(1.0));
            let y = value(self.0, x);
            let slope = gradient(self.0, x, one);
            let from_value = if self.0.derivative_from_value() {
                gradient_from_value(self.0, y, one)
            } else {
                slope
            };
            [y.to_array(), slope.to_array(), from_value.to_array()]
        }
    }

    #[test]
    fn functions_match_their_definition() {
        for function in Function::EACH {
            for step in -64..64 {
                // Off the kinks, from −16 to 16.
                let x: [f32; LANES] =
                    std::array::from_fn(|i| (step as f32 + (i as f32 + 0.3) / 16.0) / 4.0);
                let [y, slope, from_value] = dispatch(Both(function, x));
                for i in 0..LANES {
                    let at = f64::from(x[i]);
                    if at < 0.0 && matches!(function, Function::Log | Function::Sqrt) {
                        continue;
                    }
                    // A few roundings: of the argument and the value, and in a slope of
                    // differences of numbers about 1, multiplied by the argument.
                    let check = |what: &str, got: f32, want: f64, scale: f64| {
                        assert!(
                            (f64::from(got) - want).abs() <= 5e-7 * scale,
                            "{function:?} {what} at {at}: {got}, not {want}"
                        );
                    };
                    let (value, slope_here) = (function.value(at), function.derivative(at));
                    let scale = (1.0 + at.abs()) * slope_here.abs().max(1.0);
                    check("value", y[i], value, at.abs() + value.abs());
                    check("slope", slope[i], slope_here, scale);
                    check("slope from value", from_value[i], slope_here, scale);
                }
            }
        }
    }
}
