//! Adam on sixteen instances at a time, each with its own number of steps behind it.

use super::view::{lanes, vector};
use crate::backend::cpu::simd::{F32x16, Isa, Kernel, LANES, Lanes, dispatch_on};
use crate::dip::{ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON};

/// Numbers that Adam moves, and its moments.
pub(crate) struct Trained {
    pub values: Vec<Lanes>,
    pub first: Vec<Lanes>,
    pub second: Vec<Lanes>,
}

/// What Adam multiplies with at one step: each lane's bias corrections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// `learning rate / (1 − β₁^t)`.
    step: Lanes,
    /// `1 / sqrt(1 − β₂^t)`.
    second: Lanes,
}

impl Rates {
    /// For lanes whose next step is number `t`, from 1.
    pub(crate) fn new(learning_rate: f64, t: [u32; LANES]) -> Self {
        let power = |beta: f64, t: u32| beta.powi(i32::try_from(t).unwrap_or(i32::MAX));
        Rates {
            step: Lanes(t.map(|t| (learning_rate / (1.0 - power(ADAM_BETA1, t))) as f32)),
            second: Lanes(t.map(|t| (1.0 / (1.0 - power(ADAM_BETA2, t)).sqrt()) as f32)),
        }
    }
}

impl Trained {
    /// Moves values `first ..` against as many gradients.
    pub(crate) fn step(&mut self, isa: Isa, rates: &Rates, first: usize, gradients: &[Lanes]) {
        let range = first..first + gradients.len();
        let (values, first) = (
            &mut self.values[range.clone()],
            &mut self.first[range.clone()],
        );
        step(
            isa,
            rates,
            values,
            first,
            &mut self.second[range],
            gradients,
        );
    }
}

/// Moves values, and their moments, against as many gradients.
pub(crate) fn step(
    isa: Isa,
    rates: &Rates,
    values: &mut [Lanes],
    first: &mut [Lanes],
    second: &mut [Lanes],
    gradients: &[Lanes],
) {
    let kernel = AdamStep {
        rates,
        values,
        first,
        second,
        gradients,
    };
    dispatch_on(isa, kernel);
}

struct AdamStep<'a> {
    rates: &'a Rates,
    values: &'a mut [Lanes],
    first: &'a mut [Lanes],
    second: &'a mut [Lanes],
    gradients: &'a [Lanes],
}

impl Kernel for AdamStep<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let beta2 = V::splat(ADAM_BETA2 as f32);
        let renew1 = V::splat((1.0 - ADAM_BETA1) as f32);
        let renew2 = V::splat((1.0 - ADAM_BETA2) as f32);
        let epsilon = V::splat(ADAM_EPSILON as f32);
        let (step, correction) = (vector::<V>(&self.rates.step), vector(&self.rates.second));
        let moments = self.first.iter_mut().zip(self.second);
        let pairs = self.values.iter_mut().zip(self.gradients);
        for ((value, gradient), (first, second)) in pairs.zip(moments) {
            let g = vector::<V>(gradient);
            let old = vector::<V>(first);
            let m = g.sub(old).mul_add(renew1, old);
            let v = vector::<V>(second).mul_add(beta2, g.mul(g).mul(renew2));
            let denominator = v.sqrt().mul_add(correction, epsilon);
            let moved = vector::<V>(value).sub(m.mul(step).div(denominator));
            (*first, *second, *value) = (lanes(m), lanes(v), lanes(moved));
        }
    }
}
