//! The operations of a DIP network and their derivatives, in float64 and one by one: the oracle for
//! every other backend's operations.

use crate::backend::TileGrid;
use crate::dip::{
    ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, BN_EPSILON, LEAKY_SLOPE, Padding, Upsample,
};

/// A feature map of one instance, CHW.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub data: Vec<f64>,
}

impl Tensor {
    /// All zero.
    pub(crate) fn zeros(channels: usize, height: usize, width: usize) -> Self {
        Tensor {
            channels,
            height,
            width,
            data: vec![0.0; channels * height * width],
        }
    }

    /// Zeros of the same shape.
    pub(crate) fn like(other: &Tensor) -> Self {
        Tensor::zeros(other.channels, other.height, other.width)
    }

    /// Where element `(channel, y, x)` lies.
    pub(crate) fn at(&self, channel: usize, y: usize, x: usize) -> usize {
        (channel * self.height + y) * self.width + x
    }

    /// Pixels of a channel.
    pub(crate) fn plane(&self) -> usize {
        self.height * self.width
    }

    /// The pixels of one channel.
    pub(crate) fn channel(&self, channel: usize) -> &[f64] {
        &self.data[channel * self.plane()..][..self.plane()]
    }
}

/// A convolution of kernel `kernel × kernel` (odd) and padding `kernel / 2`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: Padding,
}

impl Conv {
    /// Calls `f(weight index, x index, y index)` for every multiplication of the convolution.
    fn each(&self, x: &Tensor, y: &Tensor, mut f: impl FnMut(usize, usize, usize)) {
        let k = self.kernel;
        for o in 0..self.outputs {
            for i in 0..x.channels {
                for ky in 0..k {
                    for kx in 0..k {
                        let weight = ((o * x.channels + i) * k + ky) * k + kx;
                        for oy in 0..y.height {
                            let Some(iy) = self.source(oy, ky, x.height) else {
                                continue;
                            };
                            for ox in 0..y.width {
                                if let Some(ix) = self.source(ox, kx, x.width) {
                                    f(weight, x.at(i, iy, ix), y.at(o, oy, ox));
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// The input coordinate that tap `tap` of output coordinate `at` reads on an axis of `n`; `None` in
    /// the zero padding.
    fn source(&self, at: usize, tap: usize, n: usize) -> Option<usize> {
        let shifted = (at * self.stride + tap) as isize - (self.kernel / 2) as isize;
        match self.padding {
            _ if (0..n as isize).contains(&shifted) => Some(shifted as usize),
            Padding::Zero => None,
            Padding::Reflect => Some(TileGrid::reflect(shifted.unsigned_abs(), n)),
        }
    }

    /// `y[o] = bias[o] + Σ weight[o,i,ky,kx] · x[i]`, weights `[outputs, inputs, kernel, kernel]`.
    pub(crate) fn forward(&self, x: &Tensor, weight: &[f64], bias: &[f64]) -> Tensor {
        let mut y = Tensor::zeros(
            self.outputs,
            x.height.div_ceil(self.stride),
            x.width.div_ceil(self.stride),
        );
        let plane = y.plane();
        for (y, bias) in y.data.chunks_exact_mut(plane).zip(bias) {
            y.fill(*bias);
        }
        let mut sums = std::mem::take(&mut y.data);
        self.each(x, &y, |w, i, o| sums[o] += weight[w] * x.data[i]);
        y.data = sums;
        y
    }

    /// Derivatives by `x`, weight and bias, given the one by `y`.
    pub(crate) fn backward(
        &self,
        x: &Tensor,
        weight: &[f64],
        dy: &Tensor,
    ) -> (Tensor, Vec<f64>, Vec<f64>) {
        let mut dx = Tensor::like(x);
        let mut dweight = vec![0.0; weight.len()];
        self.each(x, dy, |w, i, o| {
            dx.data[i] += weight[w] * dy.data[o];
            dweight[w] += x.data[i] * dy.data[o];
        });
        let dbias = (0..self.outputs)
            .map(|o| dy.channel(o).iter().sum())
            .collect();
        (dx, dweight, dbias)
    }
}

/// A channel's mean and `1/sqrt(variance + ε)` over its pixels, variance without Bessel's correction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statistics {
    pub mean: f64,
    pub scale: f64,
}

/// The statistics of every channel.
pub(crate) fn statistics(x: &Tensor) -> Vec<Statistics> {
    let n = x.plane() as f64;
    (0..x.channels)
        .map(|c| {
            let pixels = x.channel(c);
            let mean = pixels.iter().sum::<f64>() / n;
            let variance = pixels.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            Statistics {
                mean,
                scale: 1.0 / (variance + BN_EPSILON).sqrt(),
            }
        })
        .collect()
}

/// `weight · (x − mean) · scale + bias`, channel by channel.
pub(crate) fn norm_forward(
    x: &Tensor,
    statistics: &[Statistics],
    weight: &[f64],
    bias: &[f64],
) -> Tensor {
    let mut y = x.clone();
    for (c, y) in y.data.chunks_exact_mut(x.plane()).enumerate() {
        let s = statistics[c];
        for v in y {
            *v = (*v - s.mean) * s.scale * weight[c] + bias[c];
        }
    }
    y
}

/// Derivatives by `x` (through the statistics too), weight and bias (Ioffe and Szegedy 2015).
pub(crate) fn norm_backward(
    x: &Tensor,
    statistics: &[Statistics],
    weight: &[f64],
    dy: &Tensor,
) -> (Tensor, Vec<f64>, Vec<f64>) {
    let n = x.plane() as f64;
    let mut dx = Tensor::like(x);
    let (mut dweight, mut dbias) = (vec![], vec![]);
    for (c, dx) in dx.data.chunks_exact_mut(x.plane()).enumerate() {
        let s = statistics[c];
        let normal = |v: f64| (v - s.mean) * s.scale;
        let pairs = || x.channel(c).iter().zip(dy.channel(c));
        let sum: f64 = dy.channel(c).iter().sum();
        let product: f64 = pairs().map(|(&x, dy)| dy * normal(x)).sum();
        for (dx, (&x, dy)) in dx.iter_mut().zip(pairs()) {
            *dx = weight[c] * s.scale * (dy - sum / n - normal(x) * product / n);
        }
        dweight.push(product);
        dbias.push(sum);
    }
    (dx, dweight, dbias)
}

/// LeakyReLU.
pub(crate) fn leaky_forward(x: &Tensor) -> Tensor {
    let mut y = x.clone();
    for v in &mut y.data {
        *v *= if *v > 0.0 { 1.0 } else { LEAKY_SLOPE };
    }
    y
}

/// Derivative by LeakyReLU's input `x`; at 0 the slope's, as PyTorch's.
pub(crate) fn leaky_backward(x: &Tensor, dy: &Tensor) -> Tensor {
    let mut dx = dy.clone();
    for (d, &x) in dx.data.iter_mut().zip(&x.data) {
        *d *= if x > 0.0 { 1.0 } else { LEAKY_SLOPE };
    }
    dx
}

/// The two source coordinates of an upsampled coordinate on an axis of `n`, and their weights.
fn upsample_taps(mode: Upsample, at: usize, n: usize) -> [(usize, f64); 2] {
    let near = at / 2;
    let far = if at.is_multiple_of(2) {
        near.saturating_sub(1)
    } else {
        (near + 1).min(n - 1)
    };
    match mode {
        Upsample::Nearest => [(near, 1.0), (near, 0.0)],
        Upsample::Bilinear => [(near, 0.75), (far, 0.25)],
    }
}

/// Calls `f(x index, y index, weight)` for every pair of source and upsampled pixel.
fn upsample_each(mode: Upsample, x: &Tensor, y: &Tensor, mut f: impl FnMut(usize, usize, f64)) {
    for c in 0..x.channels {
        for oy in 0..y.height {
            for ox in 0..y.width {
                for (iy, a) in upsample_taps(mode, oy, x.height) {
                    for (ix, b) in upsample_taps(mode, ox, x.width) {
                        f(x.at(c, iy, ix), y.at(c, oy, ox), a * b);
                    }
                }
            }
        }
    }
}

/// Twice as large on both axes.
pub(crate) fn upsample_forward(x: &Tensor, mode: Upsample) -> Tensor {
    let mut y = Tensor::zeros(x.channels, 2 * x.height, 2 * x.width);
    let mut sums = std::mem::take(&mut y.data);
    upsample_each(mode, x, &y, |i, o, weight| sums[o] += weight * x.data[i]);
    y.data = sums;
    y
}

/// Derivative by the upsampled picture's source.
pub(crate) fn upsample_backward(dy: &Tensor, mode: Upsample) -> Tensor {
    let mut dx = Tensor::zeros(dy.channels, dy.height / 2, dy.width / 2);
    let mut sums = std::mem::take(&mut dx.data);
    upsample_each(mode, &dx, dy, |i, o, weight| sums[i] += weight * dy.data[o]);
    dx.data = sums;
    dx
}

/// The channels of `a`, then those of `b`.
pub(crate) fn concat(a: &Tensor, b: &Tensor) -> Tensor {
    Tensor {
        channels: a.channels + b.channels,
        data: [&a.data[..], &b.data].concat(),
        ..*b
    }
}

/// The first `channels` channels, and the rest: [`concat`]'s derivative.
pub(crate) fn split(x: &Tensor, channels: usize) -> (Tensor, Tensor) {
    let (a, b) = x.data.split_at(channels * x.plane());
    let part = |channels, data: &[f64]| Tensor {
        channels,
        data: data.to_vec(),
        ..*x
    };
    (part(channels, a), part(x.channels - channels, b))
}

/// The picture `sigmoid(x)`, its mean squared error from `target`, and the error's derivative by `x`.
pub(crate) fn sigmoid_loss(x: &Tensor, target: &[f64]) -> (Tensor, f64, Tensor) {
    let (mut picture, mut dx) = (x.clone(), Tensor::like(x));
    let n = x.data.len() as f64;
    let mut sum = 0.0;
    for (i, &target) in target.iter().enumerate() {
        let g = 1.0 / (1.0 + (-x.data[i]).exp());
        sum += (g - target).powi(2);
        picture.data[i] = g;
        dx.data[i] = 2.0 / n * (g - target) * g * (1.0 - g);
    }
    (picture, sum / n, dx)
}

/// Adam (Kingma and Ba 2015) as PyTorch computes it, without weight decay.
#[derive(Clone, Debug)]
pub(crate) struct Adam {
    first: Vec<f64>,
    second: Vec<f64>,
    steps: i32,
}

impl Adam {
    /// Zero moments for `n` parameters.
    pub(crate) fn new(n: usize) -> Self {
        Adam {
            first: vec![0.0; n],
            second: vec![0.0; n],
            steps: 0,
        }
    }

    /// One step: moves `values` against `gradient`.
    pub(crate) fn step(&mut self, learning_rate: f64, values: &mut [f64], gradient: &[f64]) {
        self.steps += 1;
        let correction1 = 1.0 - ADAM_BETA1.powi(self.steps);
        let correction2 = 1.0 - ADAM_BETA2.powi(self.steps);
        for (i, value) in values.iter_mut().enumerate() {
            let g = gradient[i];
            self.first[i] += (1.0 - ADAM_BETA1) * (g - self.first[i]);
            self.second[i] = ADAM_BETA2 * self.second[i] + (1.0 - ADAM_BETA2) * g * g;
            let denominator = (self.second[i] / correction2).sqrt() + ADAM_EPSILON;
            *value -= learning_rate / correction1 * self.first[i] / denominator;
        }
    }
}
