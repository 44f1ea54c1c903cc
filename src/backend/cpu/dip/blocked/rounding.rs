//! Convolutions whose factors are bfloat16, as the tensor cores of a GPU multiply them.
//!
//! A product of two bfloat16 numbers is exact in float32, and sums are float32 there as here: results differ
//! from a GPU's in the order of sums alone.

use std::mem::take;

use rayon::prelude::*;

use super::norm::activate;
use super::plan::{BlockedPlan, Conv};
use super::state::zeroed;
use crate::backend::cpu::blocked::layout::groups;
use crate::backend::cpu::blocked::{PackedWeights, Source};
use crate::backend::cpu::simd::Lanes;
use crate::error::Result;

/// Lanes that a work item rounds.
const CHUNK: usize = 4096;

/// Memory for a convolution's rounded factors; none where nothing is rounded.
#[derive(Default)]
pub(super) struct Rounded {
    pub inputs: Vec<Lanes>,
    pub gradient: Vec<Lanes>,
}

/// Groups of lanes that [`Rounded`] takes: of inputs, and of gradients.
pub(super) fn lanes(plan: &BlockedPlan) -> [usize; 2] {
    let convs = || plan.convs.iter().filter(|conv| conv.rounded);
    let input = |conv: &Conv| {
        let plane: usize = conv.shape.input.iter().product();
        conv.sources.iter().map(|&c| groups(c)).sum::<usize>() * plane
    };
    [
        convs().map(input).max().unwrap_or(0),
        convs().map(|conv| conv.output()).max().unwrap_or(0),
    ]
}

impl Rounded {
    /// # Errors
    /// There is too little memory.
    pub(super) fn new(plan: &BlockedPlan) -> Result<Rounded> {
        let [inputs, gradient] = lanes(plan);
        Ok(Rounded {
            inputs: zeroed(inputs)?,
            gradient: zeroed(gradient)?,
        })
    }
}

/// A convolution's input, activated and rounded in `memory`; a source without channels stays as it is.
pub(super) fn of_sources<'a>(
    memory: &'a mut [Lanes],
    sources: [Source<'a>; 2],
    plane: usize,
) -> [Source<'a>; 2] {
    let mut rest = memory;
    sources.map(|source| {
        if source.channels == 0 {
            return source;
        }
        let (out, after) = take(&mut rest).split_at_mut(groups(source.channels) * plane);
        rest = after;
        match source.affine {
            Some(affine) => activate(affine, source.data, plane, out),
            None => out.copy_from_slice(source.data),
        }
        round(out);
        Source::plain(out, source.channels)
    })
}

/// The gradient of a convolution's output, rounded in `memory`.
pub(super) fn of_gradient<'a>(memory: &'a mut [Lanes], gradient: &[Lanes]) -> &'a [Lanes] {
    let out = &mut memory[..gradient.len()];
    out.copy_from_slice(gradient);
    round(out);
    out
}

/// Weights, rounded.
pub(super) fn of_weights(weights: &PackedWeights) -> PackedWeights {
    let mut rounded = weights.clone();
    round(rounded.data_mut());
    rounded
}

/// Rounds to bfloat16, to nearest, halves to even.
pub(super) fn round(lanes: &mut [Lanes]) {
    lanes.par_chunks_mut(CHUNK).for_each(|lanes| {
        for value in lanes.iter_mut().flat_map(|lanes| &mut lanes.0) {
            let bits = value.to_bits();
            let up = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000;
            *value = if value.is_nan() {
                *value
            } else {
                f32::from_bits(up)
            };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::blocked::{Affine, ConvShape, Epilogue, Padding, Pads, conv_forward};
    use crate::backend::cpu::simd::LANES;

    #[test]
    fn numbers_are_rounded_as_everybody_rounds_them() {
        let bits = |i: u32| i.wrapping_mul(0x9E37_79B9);
        let mut lanes: Vec<Lanes> = (0..1000)
            .map(|i| {
                Lanes(std::array::from_fn(|lane| {
                    f32::from_bits(bits(i * 16 + lane as u32))
                }))
            })
            .collect();
        let special = [
            0.0,
            -0.0,
            1.0,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
        ];
        lanes[0].0[..8].copy_from_slice(&special);
        let before = lanes.clone();
        round(&mut lanes);
        for (before, after) in before.iter().zip(&lanes) {
            for lane in 0..LANES {
                let want = half::bf16::from_f32(before.0[lane]).to_f32();
                let got = after.0[lane];
                assert!(
                    got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
                    "{got} for {want}"
                );
            }
        }
    }

    /// Against float64 sums of the rounded factors, which are exact but for the sums: `n` terms of size 1, each
    /// sum off by half a unit of 2^-23.
    #[test]
    fn a_convolution_s_factors_are_rounded_and_nothing_else() {
        let (channels, pixels) = (8, 6);
        let number = |i: usize| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.97;
        let lanes = |first: usize, count: usize| -> Vec<Lanes> {
            let lanes = |p| {
                Lanes(std::array::from_fn(|c| match c < channels {
                    true => number(first + p * channels + c),
                    false => 0.0,
                }))
            };
            (0..count).map(lanes).collect()
        };
        let (x, scale, shift) = (lanes(3, pixels), lanes(900, 1), lanes(950, 1));
        let oihw: Vec<f32> = (0..channels * channels).map(|i| number(1000 + i)).collect();
        let shape = ConvShape {
            in_channels: channels,
            out_channels: channels,
            kernel: [1; 2],
            stride: [1; 2],
            dilation: [1; 2],
            pads: Pads::all(0),
            padding: Padding::Zero,
            input: [2, 3],
        };
        let source = Source {
            data: &x,
            channels,
            affine: Some(Affine {
                scale: &scale,
                shift: &shift,
                slope: 0.2,
            }),
        };
        let none = Source {
            channels: 0,
            ..source
        };
        let weights = PackedWeights::forward(&shape, &[channels], &oihw).unwrap();
        let mut memory = vec![Lanes::ZERO; pixels];
        let [_, rounded] = of_sources(&mut memory, [none, source], pixels);
        let mut out = vec![Lanes::ZERO; pixels];
        let weights = of_weights(&weights);
        conv_forward(
            &shape,
            1,
            &[rounded],
            &weights,
            &Epilogue::default(),
            &mut out,
        )
        .unwrap();
        let bf16 = |x: f32| f64::from(half::bf16::from_f32(x).to_f32());
        let mut moved = 0.0_f64;
        for p in 0..pixels {
            for o in 0..channels {
                let (mut want, mut exact) = (0.0, 0.0);
                for c in 0..channels {
                    let y = x[p].0[c].mul_add(scale[0].0[c], shift[0].0[c]);
                    let y = if y > 0.0 { y } else { 0.2 * y };
                    let w = oihw[o * channels + c];
                    want += bf16(w) * bf16(y);
                    exact += f64::from(w) * f64::from(y);
                }
                let got = f64::from(out[p].0[o]);
                let bound = channels as f64 * channels as f64 * 0.5_f64.powi(24) * 4.0;
                assert!((got - want).abs() < bound, "{got} for {want}");
                moved = moved.max((got - exact).abs());
            }
        }
        assert!(moved > 1e-4, "nothing was rounded: {moved}");
    }
}
