//! Resizing as Pillow does it, bit by bit for 8-bit pictures: classifiers' accuracy was measured with
//! it, and an adversarial picture is not one to be approximate about.
//!
//! Pillow convolves first along rows, then along columns, with the filter widened to the scale when it
//! shrinks (antialiasing). For 8-bit pictures the weights are fixed-point numbers with 22 fraction
//! bits and the pass in between is rounded to 8 bits.

use rayon::prelude::*;

use crate::backend::ImageShape;

/// What is convolved with, under Pillow's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    Nearest,
    Box,
    Bilinear,
    Hamming,
    /// Keys' cubic with a = −1/2.
    Bicubic,
    /// Lanczos with three lobes.
    Lanczos,
}

impl Filter {
    /// Half the width, in pixels of the larger grid.
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

/// For each output position of an axis, the first input position and the weights from there on.
struct Taps {
    starts: Vec<usize>,
    /// All weights; those of position `i` are `weights[i·width ..][.. counts[i]]`.
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
        for (i, weights) in taps.weights.chunks_exact_mut(width).enumerate() {
            let center = (i as f64 + 0.5) * scale;
            if filter == Filter::Nearest {
                weights[0] = 1.0;
                taps.starts.push((center as usize).min(from - 1));
                taps.counts.push(1);
                continue;
            }
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

    /// First input position and weights of output position `i`.
    fn at(&self, i: usize) -> (usize, &[f64]) {
        (
            self.starts[i],
            &self.weights[i * self.width..][..self.counts[i]],
        )
    }
}

/// A kind of sample and its arithmetic.
trait Sample: Copy + Default + Send + Sync {
    type Weight: Copy + Send + Sync;
    type Sum: Copy;
    fn weight(weight: f64) -> Self::Weight;
    fn zero() -> Self::Sum;
    fn add(sum: Self::Sum, sample: Self, weight: Self::Weight) -> Self::Sum;
    fn round(sum: Self::Sum) -> Self;
}

/// Fraction bits of a weight: a sum of 8-bit samples fits 32 bits, with a sign and a bit to spare for
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

/// Resizes an interleaved 8-bit RGB picture, to the last bit as Pillow does.
pub fn resample_u8(pixels: &[u8], from: ImageShape, to: ImageShape, filter: Filter) -> Vec<u8> {
    let narrow = horizontal(pixels, from.width, to.width, 3, filter);
    vertical(&narrow, to.width * 3, from.height, to.height, filter)
}

/// Resizes a CHW float picture with the same weights, and clips what the filter overshoots to
/// `[0, 1]`.
pub fn resample_f32(pixels: &[f32], from: ImageShape, to: ImageShape, filter: Filter) -> Vec<f32> {
    let mut out = Vec::with_capacity(to.elements());
    for plane in pixels.chunks_exact(from.height * from.width) {
        let narrow = horizontal(plane, from.width, to.width, 1, filter);
        let small = vertical(&narrow, to.width, from.height, to.height, filter);
        out.extend(small.into_iter().map(|x| x.clamp(0.0, 1.0)));
    }
    out
}
