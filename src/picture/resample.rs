//! Resizing that equals Pillow's, bit by bit for 8-bit pictures. Published accuracies of classifiers were measured
//! with Pillow, and small differences can change the label of an adversarial picture.
//!
//! Pillow convolves first along rows, then along columns, with the filter widened to the scale when it
//! shrinks (antialiasing). For 8-bit pictures the weights are fixed-point numbers with 22 fraction
//! bits and the pass in between is rounded to 8 bits. Libraries that are faster use 16-bit weights, and
//! differ from Pillow by one level in a quarter of all samples.

use rayon::prelude::*;

use crate::backend::ImageShape;

/// The filter that a picture is convolved with, by Pillow's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// The mean of the pixels that an output pixel covers.
    Box,
    /// A triangle: linear interpolation.
    Bilinear,
    /// A sinc under a Hamming window, as wide as the triangle.
    Hamming,
    /// Keys' cubic with a = −1/2.
    Bicubic,
    /// Lanczos with three lobes.
    Lanczos,
}

impl Filter {
    /// Half the filter's width, in pixels of the larger picture.
    fn support(self) -> f64 {
        match self {
            Filter::Nearest => 0.0,
            Filter::Box => 0.5,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| match x * std::f64::consts::PI {
            0.0 => 1.0,
            y => y.sin() / y,
        };
        let distance = x.abs();
        match self {
            Filter::Nearest => 1.0,
            Filter::Box if x > -0.5 && x <= 0.5 => 1.0,
            Filter::Bilinear if distance < 1.0 => 1.0 - distance,
            Filter::Hamming if distance < 1.0 => {
                sinc(distance) * (0.54 + 0.46 * (distance * std::f64::consts::PI).cos())
            }
            Filter::Bicubic if distance < 1.0 => (1.5 * distance - 2.5) * distance * distance + 1.0,
            Filter::Bicubic if distance < 2.0 => {
                ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
            }
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

/// For each output pixel of an axis, the first input pixel and the weights from that pixel on.
struct Taps {
    starts: Vec<usize>,
    /// All weights; those of output pixel `i` are `weights[i·width ..][.. counts[i]]`.
    weights: Vec<f64>,
    counts: Vec<usize>,
    width: usize,
}

impl Taps {
    fn new(from: usize, to: usize, filter: Filter) -> Taps {
        let scale = from as f64 / to as f64;
        let widening = scale.max(1.0);
        let support = filter.support() * widening;
        let width = support.ceil() as usize * 2 + 1;
        let mut taps = Taps {
            starts: Vec::with_capacity(to),
            weights: vec![0.0; width * to],
            counts: Vec::with_capacity(to),
            width,
        };
        // Pillow finds the nearest sample by adding the scale repeatedly, which accumulates rounding errors.
        let mut nearest = 0.5 * scale;
        for (i, weights) in taps.weights.chunks_exact_mut(width).enumerate() {
            if filter == Filter::Nearest {
                weights[0] = 1.0;
                taps.starts.push((nearest as usize).min(from - 1));
                taps.counts.push(1);
                nearest += scale;
                continue;
            }
            let center = (i as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let weights = &mut weights[..end - start];
            for (x, weight) in weights.iter_mut().enumerate() {
                *weight = filter.weight(((x + start) as f64 - center + 0.5) / widening);
            }
            let sum: f64 = weights.iter().sum();
            if sum != 0.0 {
                weights.iter_mut().for_each(|weight| *weight /= sum);
            }
            taps.starts.push(start);
            taps.counts.push(end - start);
        }
        taps
    }

    /// First input pixel and weights of output pixel `i`.
    fn at(&self, i: usize) -> (usize, &[f64]) {
        (
            self.starts[i],
            &self.weights[i * self.width..][..self.counts[i]],
        )
    }
}

/// A type of sample and its arithmetic.
trait Sample: Copy + Default + Send + Sync {
    type Weight: Copy + Send + Sync;
    type Sum: Copy;
    fn weight(weight: f64) -> Self::Weight;
    fn zero() -> Self::Sum;
    fn add(sum: Self::Sum, sample: Self, weight: Self::Weight) -> Self::Sum;
    fn round(sum: Self::Sum) -> Self;
}

/// Fraction bits of a weight, so that a sum of 8-bit samples fits 32 bits, with a sign bit and one more bit for
/// filters that overshoot.
const FRACTION: u32 = 32 - 8 - 2;

impl Sample for u8 {
    type Weight = i32;
    type Sum = i32;
    fn weight(weight: f64) -> i32 {
        let scaled = weight * f64::from(1 << FRACTION);
        (scaled + 0.5f64.copysign(scaled)) as i32
    }
    fn zero() -> i32 {
        1 << (FRACTION - 1)
    }
    fn add(sum: i32, sample: u8, weight: i32) -> i32 {
        sum.wrapping_add(i32::from(sample).wrapping_mul(weight))
    }
    fn round(sum: i32) -> u8 {
        (sum >> FRACTION).clamp(0, 255) as u8
    }
}

impl Sample for f32 {
    type Weight = f64;
    type Sum = f64;
    fn weight(weight: f64) -> f64 {
        weight
    }
    fn zero() -> f64 {
        0.0
    }
    fn add(sum: f64, sample: f32, weight: f64) -> f64 {
        sum + f64::from(sample) * weight
    }
    fn round(sum: f64) -> f32 {
        sum as f32
    }
}

/// Convolves along rows, on interleaved samples of `channels` each.
fn horizontal<S: Sample>(
    from: &[S],
    width: usize,
    to: usize,
    channels: usize,
    filter: Filter,
) -> Vec<S> {
    if width == to {
        return from.to_vec();
    }
    let taps = Taps::new(width, to, filter);
    let rows = from.len() / (width * channels);
    let mut out = vec![S::default(); rows * to * channels];
    let weights: Vec<S::Weight> = taps
        .weights
        .iter()
        .map(|&weight| S::weight(weight))
        .collect();
    let jobs = out
        .par_chunks_exact_mut(to * channels)
        .zip(from.par_chunks_exact(width * channels));
    jobs.for_each(|(out, row)| {
        for (i, out) in out.chunks_exact_mut(channels).enumerate() {
            let (start, count) = (taps.starts[i], taps.counts[i]);
            let weights = &weights[i * taps.width..][..count];
            for (channel, out) in out.iter_mut().enumerate() {
                let samples = row[start * channels + channel..].iter().step_by(channels);
                let sum = samples
                    .zip(weights)
                    .fold(S::zero(), |sum, (&sample, &weight)| {
                        S::add(sum, sample, weight)
                    });
                *out = S::round(sum);
            }
        }
    });
    out
}

/// Convolves along columns of rows of `stride` samples.
fn vertical<S: Sample>(
    from: &[S],
    stride: usize,
    height: usize,
    to: usize,
    filter: Filter,
) -> Vec<S> {
    if height == to {
        return from.to_vec();
    }
    let taps = Taps::new(height, to, filter);
    let mut out = vec![S::default(); to * stride];
    out.par_chunks_exact_mut(stride)
        .enumerate()
        .for_each(|(i, out)| {
            let (start, weights) = taps.at(i);
            let mut sums = vec![S::zero(); stride];
            for (row, &weight) in from[start * stride..].chunks_exact(stride).zip(weights) {
                let weight = S::weight(weight);
                for (sum, &sample) in sums.iter_mut().zip(row) {
                    *sum = S::add(*sum, sample, weight);
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = S::round(sum);
            }
        });
    out
}

/// Resizes an interleaved 8-bit RGB picture, bit by bit as Pillow does.
pub fn resample_u8(pixels: &[u8], from: ImageShape, to: ImageShape, filter: Filter) -> Vec<u8> {
    let narrow = horizontal(pixels, from.width, to.width, 3, filter);
    vertical(&narrow, to.width * 3, from.height, to.height, filter)
}

/// Resizes a CHW float picture with the weights of [`resample_u8`], and clips the result to `[0, 1]`.
pub fn resample_f32(pixels: &[f32], from: ImageShape, to: ImageShape, filter: Filter) -> Vec<f32> {
    let mut out = Vec::with_capacity(to.elements());
    for plane in pixels.chunks_exact(from.height * from.width) {
        let narrow = horizontal(plane, from.width, to.width, 1, filter);
        let small = vertical(&narrow, to.width, from.height, to.height, filter);
        out.extend(small.into_iter().map(|x| x.clamp(0.0, 1.0)));
    }
    out
}

/// A picture that other languages can make too: Knuth's multiplicative hash of the sample's index.
#[cfg(test)]
pub(crate) fn test_picture(height: usize, width: usize) -> Vec<u8> {
    let samples = (0..(height * width * 3) as u64).map(|i| (i * 2_654_435_761) as u32 >> 24);
    samples.map(|sample| sample as u8).collect()
}

/// FNV-1a, for comparing pictures with numbers from elsewhere.
#[cfg(test)]
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{planes_of, rgb};

    /// Height, width, new height, new width, filter, and the hash of what Pillow 13.0 gives.
    const PILLOW: [(usize, usize, usize, usize, Filter, u64); 30] = [
        (37, 53, 16, 16, Filter::Nearest, 0xf4a3c77ae0a209f8),
        (37, 53, 16, 16, Filter::Box, 0x760535a6a66ea979),
        (37, 53, 16, 16, Filter::Bilinear, 0x457498d2deef91a4),
        (37, 53, 16, 16, Filter::Hamming, 0x8252f7898062c7f3),
        (37, 53, 16, 16, Filter::Bicubic, 0x4d81ffdcfb1d12f3),
        (37, 53, 16, 16, Filter::Lanczos, 0x9a81e392a826b253),
        (9, 11, 23, 30, Filter::Nearest, 0xc6962a760c06e464),
        (9, 11, 23, 30, Filter::Box, 0xc6962a760c06e464),
        (9, 11, 23, 30, Filter::Bilinear, 0x6b4b9bb59cccb64a),
        (9, 11, 23, 30, Filter::Hamming, 0x76b5d8b29308e004),
        (9, 11, 23, 30, Filter::Bicubic, 0x06ac493f429d4f96),
        (9, 11, 23, 30, Filter::Lanczos, 0x6b7660fb1ed634c8),
        (64, 48, 20, 48, Filter::Nearest, 0xfeb902030dc6f5cc),
        (64, 48, 20, 48, Filter::Box, 0xa8215e637c14b8a5),
        (64, 48, 20, 48, Filter::Bilinear, 0x90b78d29c93aa04b),
        (64, 48, 20, 48, Filter::Hamming, 0xb17e1f97f544976a),
        (64, 48, 20, 48, Filter::Bicubic, 0xe1f9c05999baa87c),
        (64, 48, 20, 48, Filter::Lanczos, 0xfd92bee2de5c4a46),
        (5, 7, 5, 3, Filter::Nearest, 0xb3244440b70f298e),
        (5, 7, 5, 3, Filter::Box, 0xfbac7a1fc594168c),
        (5, 7, 5, 3, Filter::Bilinear, 0x381951d1f2889d8f),
        (5, 7, 5, 3, Filter::Hamming, 0x890b16a22a91960c),
        (5, 7, 5, 3, Filter::Bicubic, 0x9dd42817e003fecd),
        (5, 7, 5, 3, Filter::Lanczos, 0xcdf34b9cb1db8180),
        (120, 90, 32, 24, Filter::Nearest, 0x807fe3b51f04fa77),
        (120, 90, 32, 24, Filter::Box, 0x231c16504fc3dc21),
        (120, 90, 32, 24, Filter::Bilinear, 0x14e500abfc4be06f),
        (120, 90, 32, 24, Filter::Hamming, 0x033b73dcfd0e338b),
        (120, 90, 32, 24, Filter::Bicubic, 0xebaabcfdd277fce7),
        (120, 90, 32, 24, Filter::Lanczos, 0x13f396b40d3d95d6),
    ];

    #[test]
    fn bytes_are_those_of_pillow() {
        for (h, w, to_h, to_w, filter, hash) in PILLOW {
            let out = resample_u8(&test_picture(h, w), rgb(h, w), rgb(to_h, to_w), filter);
            assert_eq!(fnv(&out), hash, "{h}x{w} to {to_h}x{to_w}, {filter:?}");
        }
    }

    #[test]
    fn floats_are_within_rounding_of_bytes() {
        for (h, w, to_h, to_w, filter, _) in PILLOW {
            if matches!(filter, Filter::Bicubic | Filter::Lanczos) {
                continue; // What overshoots is clipped between the passes of bytes, not of floats.
            }
            let (from, to) = (rgb(h, w), rgb(to_h, to_w));
            let bytes = test_picture(h, w);
            let small = planes_of(&resample_u8(&bytes, from, to, filter));
            let float = resample_f32(&planes_of(&bytes), from, to, filter);
            for (a, b) in small.iter().zip(&float) {
                // Half a level for the pass in between, and half for the last.
                assert!((a - b).abs() < 1.01 / 255.0, "{filter:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        let flat = vec![0.3; 3 * 50 * 40];
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            for (h, w) in [(7, 9), (90, 80), (1, 1)] {
                let out = resample_f32(&flat, rgb(50, 40), rgb(h, w), filter);
                assert!(
                    out.iter().all(|x| (x - 0.3).abs() < 1e-6),
                    "{filter:?} {h}x{w}"
                );
            }
        }
    }
}
