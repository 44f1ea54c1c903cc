//! The picture, its error and the error's derivative, sixteen instances at a time.

use super::view::{View, lanes, vector};
use crate::backend::cpu::simd::{F32x16, Isa, Kernel, Lanes, dispatch_on, sigmoid};

/// Where a picture goes: `picture ← keep · picture + (1 − keep) · output`, `[channel][y][x][lane]`.
pub(super) struct Picture<'a> {
    pub pixels: &'a mut [Lanes],
    pub keep: Lanes,
}

/// Overwrites the network's output `x`, before the sigmoid, with the mean squared error's derivative
/// by it; `sums` gets the derivative's sum over each channel. Gives the error.
pub(super) fn sigmoid_loss(
    isa: Isa,
    memory: &mut [Lanes],
    x: &View,
    target: &[Lanes],
    picture: Option<Picture<'_>>,
    sums: &mut [Lanes],
) -> Lanes {
    let elements = x.channels * x.pixels();
    assert!(x.end() <= memory.len() && target.len() == elements && sums.len() == x.channels);
    assert!(picture.as_ref().is_none_or(|p| p.pixels.len() == elements));
    let kernel = SigmoidLoss {
        memory,
        x,
        target,
        picture,
        sums,
    };
    dispatch_on(isa, kernel)
}

struct SigmoidLoss<'a> {
    memory: &'a mut [Lanes],
    x: &'a View,
    target: &'a [Lanes],
    picture: Option<Picture<'a>>,
    sums: &'a mut [Lanes],
}

impl Kernel for SigmoidLoss<'_> {
    type Output = Lanes;

    #[inline(always)]
    fn run<V: F32x16>(mut self) -> Lanes {
        let one = V::splat(1.0);
        let keep = match &self.picture {
            Some(picture) => vector(&picture.keep),
            None => V::splat(0.0),
        };
        let renew = one.sub(keep);
        let per_element = 1.0 / self.target.len() as f32;
        let slope = V::splat(2.0 * per_element);
        let mut error = V::splat(0.0);
        for channel in 0..self.x.channels {
            let mut total = V::splat(0.0);
            for y in 0..self.x.height {
                let at = self.x.index(channel, y, 0);
                let place = (channel * self.x.height + y) * self.x.width;
                let row = &mut self.memory[at..][..self.x.width];
                let target = &self.target[place..][..self.x.width];
                let (mut squares, mut sum) = (V::splat(0.0), V::splat(0.0));
                for (i, (x, target)) in row.iter_mut().zip(target).enumerate() {
                    let output = sigmoid(vector::<V>(x));
                    let difference = output.sub(vector(target));
                    squares = difference.mul_add(difference, squares);
                    let dx = difference.mul(slope).mul(output.mul(one.sub(output)));
                    sum = sum.add(dx);
                    if let Some(picture) = &mut self.picture {
                        let pixel = &mut picture.pixels[place + i];
                        *pixel = lanes(vector::<V>(pixel).mul_add(keep, output.mul(renew)));
                    }
                    *x = lanes(dx);
                }
                error = error.add(squares);
                total = total.add(sum);
            }
            self.sums[channel] = lanes(total);
        }
        lanes(error.mul(V::splat(per_element)))
    }
}
