//! The picture, its error and the error's derivative.

use rayon::prelude::*;

use crate::backend::cpu::simd::{F32x16, Kernel, LANES, Lanes, dispatch, sigmoid};

/// Pixels summed in float32 before float64 takes over.
const CHUNK: usize = 1024;

/// Sums that [`sigmoid_loss`] needs room for.
pub(super) fn partial_len(groups: usize, plane: usize) -> usize {
    groups * plane.div_ceil(CHUNK)
}

/// Replaces the network's output before the sigmoid, `x`, by the mean squared error's derivative with
/// respect to it, and moves the picture: `picture ← keep · picture + (1 − keep) · sigmoid(x)`. Gives
/// the error. Derivatives in lanes without a channel are zero.
pub(super) fn sigmoid_loss(
    x: &mut [Lanes],
    target: &[Lanes],
    picture: &mut [Lanes],
    channels: usize,
    plane: usize,
    keep: f32,
    partial: &mut [Lanes],
) -> f64 {
    let elements = (channels * plane) as f64;
    let chunks = plane.div_ceil(CHUNK);
    let count = partial_len(x.len() / plane, plane);
    partial[..count]
        .par_chunks_exact_mut(chunks)
        .zip(x.par_chunks_exact_mut(plane))
        .zip(target.par_chunks_exact(plane))
        .zip(picture.par_chunks_exact_mut(plane))
        .enumerate()
        .for_each(|(group, (((partial, x), target), picture))| {
            let first = group * LANES;
            let mask = std::array::from_fn(|lane| f32::from(first + lane < channels));
            partial
                .par_iter_mut()
                .zip(x.par_chunks_mut(CHUNK))
                .zip(target.par_chunks(CHUNK))
                .zip(picture.par_chunks_mut(CHUNK))
                .for_each(|(((partial, x), target), picture)| {
                    *partial = dispatch(SigmoidLoss {
                        x,
                        target,
                        picture,
                        mask,
                        keep,
                        factor: (2.0 / elements) as f32,
                    });
                });
        });
    let squares = partial[..count].iter().flat_map(|sum| sum.0);
    squares.map(f64::from).sum::<f64>() / elements
}

struct SigmoidLoss<'a> {
    x: &'a mut [Lanes],
    target: &'a [Lanes],
    picture: &'a mut [Lanes],
    /// 1 where the lane is a channel, else 0.
    mask: [f32; LANES],
    keep: f32,
    /// 2 / elements.
    factor: f32,
}

impl Kernel for SigmoidLoss<'_> {
    type Output = Lanes;

    #[inline(always)]
    fn run<V: F32x16>(self) -> Lanes {
        let (one, mask) = (V::splat(1.0), V::from_array(self.mask));
        let (keep, renew) = (V::splat(self.keep), V::splat(1.0 - self.keep));
        let factor = V::splat(self.factor);
        let mut squares = V::splat(0.0);
        let pictures = self.target.iter().zip(self.picture);
        for (x, (target, picture)) in self.x.iter_mut().zip(pictures) {
            let y = sigmoid(V::from_array(x.0));
            let error = y.sub(V::from_array(target.0)).mul(mask);
            squares = error.mul_add(error, squares);
            let slope = y.mul(one.sub(y));
            x.0 = error.mul(slope).mul(factor).to_array();
            let old = V::from_array(picture.0).mul(keep);
            picture.0 = y.mul_add(renew, old).to_array();
        }
        Lanes(squares.to_array())
    }
}
