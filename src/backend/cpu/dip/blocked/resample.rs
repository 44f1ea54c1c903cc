//! Upsampling by 2, and its adjoint.

use rayon::prelude::*;

use crate::backend::cpu::blocked::Affine;
use crate::backend::cpu::simd::{F32x16, Kernel, Lanes, dispatch};
use crate::dip::Upsample;

/// The two input coordinates that output coordinate `i` blends, on an axis of `n` inputs.
#[inline(always)]
fn blend(mode: Upsample, i: usize, n: usize) -> [(usize, f32); 2] {
    match (mode, i.is_multiple_of(2)) {
        (Upsample::Nearest, _) => [(i / 2, 1.0), (i / 2, 0.0)],
        (Upsample::Bilinear, true) => [((i / 2).saturating_sub(1), 0.25), (i / 2, 0.75)],
        (Upsample::Bilinear, false) => [(i / 2, 0.75), ((i / 2 + 1).min(n - 1), 0.25)],
    }
}

/// The output coordinates that input coordinate `i` reaches: edges count twice, as [`blend`] clamps.
#[inline(always)]
fn reach(mode: Upsample, i: usize, n: usize) -> [(usize, f32); 4] {
    let [outer, inner] = match mode {
        Upsample::Nearest => [0.0, 1.0],
        Upsample::Bilinear => [0.25, 0.75],
    };
    [
        ((2 * i).saturating_sub(1), outer),
        (2 * i, inner),
        (2 * i + 1, inner),
        ((2 * i + 2).min(2 * n - 1), outer),
    ]
}

/// Writes twice as many rows and columns of `LeakyReLU(scale · x + shift)`; `size` is the input's.
pub(super) fn upsample(
    mode: Upsample,
    affine: Affine,
    x: &[Lanes],
    [height, width]: [usize; 2],
    out: &mut [Lanes],
) {
    out.par_chunks_exact_mut(2 * width)
        .enumerate()
        .for_each(|(row, out)| {
            let (group, y) = (row / (2 * height), row % (2 * height));
            let plane = &x[group * height * width..][..height * width];
            let rows = blend(mode, y, height).map(|(i, w)| (&plane[i * width..][..width], w));
            dispatch(Up {
                mode,
                scale: &affine.scale[group],
                shift: &affine.shift[group],
                slope: affine.slope,
                rows,
                out,
            });
        });
}

/// Writes the gradient of [`upsample`]'s activated input; `size` is the input's.
pub(super) fn upsample_backward(
    mode: Upsample,
    gradient: &[Lanes],
    [height, width]: [usize; 2],
    out: &mut [Lanes],
) {
    out.par_chunks_exact_mut(width)
        .enumerate()
        .for_each(|(row, out)| {
            let (group, y) = (row / height, row % height);
            let plane = &gradient[group * 4 * height * width..][..4 * height * width];
            let rows =
                reach(mode, y, height).map(|(i, w)| (&plane[i * 2 * width..][..2 * width], w));
            dispatch(Down { mode, rows, out });
        });
}

struct Up<'a> {
    mode: Upsample,
    scale: &'a Lanes,
    shift: &'a Lanes,
    slope: f32,
    rows: [(&'a [Lanes], f32); 2],
    out: &'a mut [Lanes],
}

impl Kernel for Up<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let (scale, shift) = (V::from_array(self.scale.0), V::from_array(self.shift.0));
        let slope = V::splat(self.slope);
        let [(a, wa), (b, wb)] = self.rows;
        let (wa, wb) = (V::splat(wa), V::splat(wb));
        let n = a.len();
        let mut last = V::splat(0.0);
        // Column `x` of the blended rows becomes known one step before output `2x − 1` needs it.
        for x in 0..=n {
            let mut next = last;
            if x < n {
                let a = V::from_array(a[x].0).mul_add(scale, shift);
                let b = V::from_array(b[x].0).mul_add(scale, shift);
                let a = a.select_positive(a, a.mul(slope));
                let b = b.select_positive(b, b.mul(slope));
                next = a.mul_add(wa, b.mul(wb));
            }
            if x == 0 {
                last = next;
            }
            // Outputs `2x − 1` and `2x` lie between columns `x − 1` and `x`, clamped at the edges.
            let (near, far) = match self.mode {
                Upsample::Nearest => (last, next),
                Upsample::Bilinear => {
                    let (quarter, most) = (V::splat(0.25), V::splat(0.75));
                    (
                        last.mul_add(most, next.mul(quarter)),
                        last.mul_add(quarter, next.mul(most)),
                    )
                }
            };
            if x > 0 {
                self.out[2 * x - 1].0 = near.to_array();
            }
            if x < n {
                self.out[2 * x].0 = far.to_array();
            }
            last = next;
        }
    }
}

struct Down<'a> {
    mode: Upsample,
    rows: [(&'a [Lanes], f32); 4],
    out: &'a mut [Lanes],
}

impl Kernel for Down<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let n = self.out.len();
        for x in 0..n {
            let mut sum = V::splat(0.0);
            for (column, across) in reach(self.mode, x, n) {
                let mut blended = V::splat(0.0);
                for (row, down) in self.rows {
                    blended = V::from_array(row[column].0).mul_add(V::splat(down), blended);
                }
                sum = blended.mul_add(V::splat(across), sum);
            }
            self.out[x].0 = sum.to_array();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `⟨upsample(x), y⟩ = ⟨x, adjoint(y)⟩`, and the weights of every output sum to 1.
    #[test]
    fn backward_is_the_adjoint() {
        for mode in [Upsample::Nearest, Upsample::Bilinear] {
            for size in [[1, 1], [1, 5], [3, 2], [4, 6]] {
                let n = size[0] * size[1];
                let lanes = |n: usize, seed: usize| -> Vec<Lanes> {
                    (0..n)
                        .map(|i| {
                            Lanes(std::array::from_fn(|l| {
                                ((i * 16 + l + seed) % 13) as f32 - 6.0
                            }))
                        })
                        .collect()
                };
                let (x, y) = (lanes(2 * n, 1), lanes(8 * n, 5));
                let (one, zero) = ([Lanes([1.0; 16]); 2], [Lanes::ZERO; 2]);
                let affine = Affine {
                    scale: &one,
                    shift: &zero,
                    slope: 1.0,
                };
                let mut up = vec![Lanes::ZERO; 8 * n];
                upsample(mode, affine, &x, size, &mut up);
                let mut down = vec![Lanes::ZERO; 2 * n];
                upsample_backward(mode, &y, size, &mut down);
                let dot = |a: &[Lanes], b: &[Lanes]| -> f64 {
                    let a = a.iter().flat_map(|l| l.0);
                    a.zip(b.iter().flat_map(|l| l.0))
                        .map(|(a, b)| f64::from(a) * f64::from(b))
                        .sum()
                };
                // Small integers times sixteenths: every sum is exact.
                assert_eq!(dot(&up, &y), dot(&x, &down), "{mode:?} {size:?}");
                upsample(mode, affine, &[one[0]; 48][..2 * n], size, &mut up);
                assert!(up.iter().all(|l| l.0 == [1.0; 16]));
            }
        }
    }
}
