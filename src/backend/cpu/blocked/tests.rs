//! The kernels against plain float64 loops, on random shapes.

use std::cell::Cell;

use super::*;
use crate::backend::TileGrid;
use crate::backend::cpu::simd::{Isa, Lanes};
use crate::random::{Purpose, RandomKey};

thread_local! {
    /// The instruction set that this thread's calls use instead of the best.
    pub static CHOSEN: Cell<Option<Isa>> = const { Cell::new(None) };
}

/// Runs a test on every instruction set that this processor has.
fn on_every_isa(test: impl Fn(&str)) {
    for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
        CHOSEN.set(Some(isa));
        test(isa.name());
    }
    CHOSEN.set(None);
}

/// Random numbers of one test case.
struct Draw {
    key: RandomKey,
    drawn: u32,
}

impl Draw {
    fn new(case: u64) -> Draw {
        Draw {
            key: RandomKey {
                seed: case,
                ..RandomKey::default()
            },
            drawn: 0,
        }
    }

    /// Uniform in `[-1, 1)`.
    fn numbers(&mut self, count: usize) -> Vec<f32> {
        self.drawn += 1;
        let mut numbers = vec![0.0; count];
        self.key.uniform(Purpose::Input, self.drawn, count, |i, u| {
            numbers[i] = 2.0 * u - 1.0;
        });
        numbers
    }

    /// One of `choices`.
    fn pick(&mut self, choices: &[usize]) -> usize {
        self.drawn += 1;
        self.key.words(Purpose::Input, self.drawn, 0)[0] as usize % choices.len()
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        let indices: Vec<usize> = (0..choices.len()).collect();
        choices[self.pick(&indices)]
    }
}

/// A tensor in both layouts.
struct Tensor {
    pixels: Vec<f32>,
    blocked: Vec<Lanes>,
}

fn blocked(pixels: &[f32], images: usize, channels: usize, plane: usize) -> Vec<Lanes> {
    let size = layout::groups(channels) * plane;
    let mut out = vec![Lanes::ZERO; images * size];
    for image in 0..images {
        let pixels = &pixels[image * channels * plane..][..channels * plane];
        layout::block(pixels, plane, &mut out[image * size..][..size]);
    }
    out
}

fn plain(blocked: &[Lanes], images: usize, channels: usize, plane: usize) -> Vec<f32> {
    let size = layout::groups(channels) * plane;
    let mut out = vec![0.0; images * channels * plane];
    for image in 0..images {
        let pixels = &mut out[image * channels * plane..][..channels * plane];
        layout::unblock(&blocked[image * size..][..size], plane, pixels);
    }
    out
}

fn tensor(draw: &mut Draw, images: usize, channels: usize, size: [usize; 2]) -> Tensor {
    let plane = size[0] * size[1];
    let pixels = draw.numbers(images * channels * plane);
    Tensor {
        blocked: blocked(&pixels, images, channels, plane),
        pixels,
    }
}

/// Every product of a convolution: `f(image, out channel, out pixel, in channel, in pixel, tap)`.
fn each_product(
    shape: &ConvShape,
    images: usize,
    depthwise: bool,
    mut f: impl FnMut(usize, usize, usize, usize, usize, usize),
) {
    let [height, width] = shape.output();
    let place = |i: usize, before: usize, n: usize| {
        let i = i as isize - before as isize;
        if i >= 0 && i < n as isize {
            return Some(i as usize);
        }
        match shape.padding {
            Padding::Zero => None,
            Padding::Reflect => Some(TileGrid::reflect(i.unsigned_abs(), n)),
        }
    };
    for image in 0..images {
        for o in 0..shape.out_channels {
            for p in 0..height * width {
                for tap in 0..shape.taps() {
                    let (ky, kx) = (tap / shape.kernel[1], tap % shape.kernel[1]);
                    let y = p / width * shape.stride[0] + ky * shape.dilation[0];
                    let x = p % width * shape.stride[1] + kx * shape.dilation[1];
                    let y = place(y, shape.pads.top, shape.input[0]);
                    let x = place(x, shape.pads.left, shape.input[1]);
                    let (Some(y), Some(x)) = (y, x) else { continue };
                    let channels = if depthwise {
                        o..o + 1
                    } else {
                        0..shape.in_channels
                    };
                    for i in channels {
                        f(image, o, p, i, y * shape.input[1] + x, tap);
                    }
                }
            }
        }
    }
}

/// A random shape; small, but with every kind of edge.
fn random_shape(draw: &mut Draw, in_channels: usize, out_channels: usize) -> ConvShape {
    loop {
        let kernel = [draw.of(&[1, 1, 2, 3, 3, 5]), draw.of(&[1, 1, 2, 3, 3, 5])];
        let square = draw.of(&[true, true, false]);
        let shape = ConvShape {
            in_channels,
            out_channels,
            kernel: if square { [kernel[0]; 2] } else { kernel },
            stride: [draw.of(&[1, 1, 2, 3]), draw.of(&[1, 1, 2, 3])],
            dilation: [draw.of(&[1, 1, 2]), draw.of(&[1, 1, 2])],
            pads: Pads {
                top: draw.of(&[0, 0, 1, 2]),
                left: draw.of(&[0, 0, 1, 2]),
                bottom: draw.of(&[0, 0, 1, 3]),
                right: draw.of(&[0, 0, 1, 3]),
            },
            padding: draw.of(&[Padding::Zero, Padding::Reflect]),
            input: [draw.of(&[1, 2, 5, 9, 16]), draw.of(&[1, 3, 8, 15, 31, 60])],
        };
        if shape.check().is_ok() {
            return shape;
        }
    }
}

/// Values of at most `scale` summed from `terms` products: each rounding adds half a unit in the last
/// place of the partial sum, which a random walk keeps below this.
fn assert_close(got: &[f32], want: &[f64], terms: usize, scale: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let terms = (terms + 4) as f64;
    let tolerance = scale * terms * terms.sqrt() * f64::from(f32::EPSILON);
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!(
            (f64::from(got) - want).abs() <= tolerance,
            "{what}, element {i}: {got} instead of {want}, tolerance {tolerance:e}"
        );
    }
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Clip { low, high } => x.clamp(low.into(), high.into()),
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                x * f64::from(slope)
            }
        }
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Function(function) => function.value(x),
    }
}

const ACTIVATIONS: [Activation; 6] = [
    Activation::Function(crate::classifier::Function::HardSwish),
    Activation::None,
    Activation::Relu,
    Activation::Clip {
        low: -0.5,
        high: 0.75,
    },
    Activation::LeakyRelu { slope: 0.2 },
    Activation::Sigmoid,
];

/// Scale, shift and slope.
type OwnedAffine = (Vec<Lanes>, Vec<Lanes>, f32);

/// The input of a test case: several tensors, some with an affine map and LeakyReLU.
struct Input {
    channels: Vec<usize>,
    tensors: Vec<Tensor>,
    affine: Vec<Option<OwnedAffine>>,
    /// What the convolution sees: all channels, image by image.
    seen: Vec<f64>,
}

impl Input {
    fn new(draw: &mut Draw, images: usize, channels: &[usize], size: [usize; 2]) -> Input {
        let plane = size[0] * size[1];
        let total: usize = channels.iter().sum();
        let mut input = Input {
            channels: channels.to_vec(),
            tensors: vec![],
            affine: vec![],
            seen: vec![0.0; images * total * plane],
        };
        let mut first = 0;
        for &count in channels {
            let tensor = tensor(draw, images, count, size);
            let affine = draw.of(&[false, true]).then(|| {
                let (scale, shift) = (draw.numbers(count), draw.numbers(count));
                (scale, shift, draw.of(&[0.2_f32, 1.0]))
            });
            for (i, &x) in tensor.pixels.iter().enumerate() {
                let (image, c, p) = (i / plane / count, i / plane % count, i % plane);
                let mut x = f64::from(x);
                if let Some((scale, shift, slope)) = &affine {
                    x = x * f64::from(scale[c]) + f64::from(shift[c]);
                    if x <= 0.0 {
                        x *= f64::from(*slope);
                    }
                }
                input.seen[(image * total + first + c) * plane + p] = x;
            }
            first += count;
            input.tensors.push(tensor);
            input.affine.push(affine.map(|(scale, shift, slope)| {
                (
                    layout::block_channels(&scale),
                    layout::block_channels(&shift),
                    slope,
                )
            }));
        }
        input
    }

    fn sources(&self) -> Vec<Source<'_>> {
        (0..self.tensors.len())
            .map(|i| Source {
                data: &self.tensors[i].blocked,
                channels: self.channels[i],
                affine: self.affine[i].as_ref().map(|(scale, shift, slope)| Affine {
                    scale,
                    shift,
                    slope: *slope,
                }),
            })
            .collect()
    }
}

fn case(case: u64) -> (Draw, ConvShape, usize, Vec<usize>) {
    let mut draw = Draw::new(case);
    let channels: &[usize] = draw.of(&[
        &[1][..],
        &[3],
        &[4, 20],
        &[16],
        &[17],
        &[5, 1, 16],
        &[40],
        &[32],
    ]);
    let out_channels = draw.of(&[1, 3, 16, 19, 33, 48]);
    let shape = random_shape(&mut draw, channels.iter().sum(), out_channels);
    let images = draw.of(&[1, 2]);
    (draw, shape, images, channels.to_vec())
}

const CASES: u64 = 100;

#[test]
fn forward_matches_plain_loops() {
    on_every_isa(forward_case_by_case);
}

fn forward_case_by_case(isa: &str) {
    for seed in 0..CASES {
        let (mut draw, shape, images, channels) = case(seed);
        let input = Input::new(&mut draw, images, &channels, shape.input);
        let size = shape.output();
        let (plane_in, plane) = (shape.input[0] * shape.input[1], size[0] * size[1]);
        let weights = draw.numbers(shape.out_channels * shape.in_channels * shape.taps());
        let bias = draw
            .of(&[false, true])
            .then(|| draw.numbers(shape.out_channels));
        let residual = draw
            .of(&[false, true])
            .then(|| tensor(&mut draw, images, shape.out_channels, size));
        let activation = draw.of(&ACTIVATIONS);

        let mut want = vec![0.0; images * shape.out_channels * plane];
        each_product(&shape, images, false, |n, o, p, i, q, tap| {
            let w = weights[(o * shape.in_channels + i) * shape.taps() + tap];
            want[(n * shape.out_channels + o) * plane + p] +=
                f64::from(w) * input.seen[(n * shape.in_channels + i) * plane_in + q];
        });
        for (i, y) in want.iter_mut().enumerate() {
            if let Some(bias) = &bias {
                *y += f64::from(bias[i / plane % shape.out_channels]);
            }
            if let Some(residual) = &residual {
                *y += f64::from(residual.pixels[i]);
            }
            *y = activate(activation, *y);
        }

        let packed = PackedWeights::forward(&shape, &channels, &weights).unwrap();
        assert_eq!(packed.to_oihw(), weights);
        let bias = bias.map(|bias| layout::block_channels(&bias));
        let epilogue = Epilogue {
            bias: bias.as_deref(),
            residual: residual.as_ref().map(|r| &r.blocked[..]),
            activation,
        };
        let mut output = vec![Lanes::ZERO; images * layout::groups(shape.out_channels) * plane];
        let sources = input.sources();
        conv_forward(&shape, images, &sources, &packed, &epilogue, &mut output).unwrap();
        let got = plain(&output, images, shape.out_channels, plane);
        let terms = shape.in_channels * shape.taps();
        assert_close(
            &got,
            &want,
            terms,
            2.0,
            &format!("{isa}, case {seed}: {shape:?}"),
        );
    }
}

#[test]
fn backward_data_matches_plain_loops() {
    on_every_isa(backward_data_case_by_case);
}

fn backward_data_case_by_case(isa: &str) {
    for seed in 0..CASES {
        let (mut draw, shape, images, channels) = case(seed);
        let size = shape.output();
        let (plane_in, plane) = (shape.input[0] * shape.input[1], size[0] * size[1]);
        let weights = draw.numbers(shape.out_channels * shape.in_channels * shape.taps());
        let gradient = tensor(&mut draw, images, shape.out_channels, size);
        let mut want = vec![0.0; images * shape.in_channels * plane_in];
        each_product(&shape, images, false, |n, o, p, i, q, tap| {
            let w = weights[(o * shape.in_channels + i) * shape.taps() + tap];
            want[(n * shape.in_channels + i) * plane_in + q] +=
                f64::from(w) * f64::from(gradient.pixels[(n * shape.out_channels + o) * plane + p]);
        });

        let packed = PackedWeights::backward(&shape, &channels, &weights).unwrap();
        let forward = PackedWeights::forward(&shape, &channels, &weights).unwrap();
        let mut transpose = forward.zeroed_transpose();
        forward.transpose_into(&mut transpose);
        assert_eq!(packed, transpose);

        let add = draw.of(&[false, true]);
        let first: Vec<Tensor> = channels
            .iter()
            .map(|&c| tensor(&mut draw, images, c, shape.input))
            .collect();
        let mut buffers: Vec<Vec<Lanes>> = first.iter().map(|t| t.blocked.clone()).collect();
        let mut destinations: Vec<Destination> = buffers
            .iter_mut()
            .zip(&channels)
            .map(|(buffer, &c)| {
                if add {
                    Destination::adding(buffer, c)
                } else {
                    Destination::new(buffer, c)
                }
            })
            .collect();
        conv_backward_data(
            &shape,
            images,
            &gradient.blocked,
            &packed,
            &mut destinations,
        )
        .unwrap();
        let mut start = 0;
        for ((buffer, &c), first) in buffers.iter().zip(&channels).zip(&first) {
            let got = plain(buffer, images, c, plane_in);
            let want: Vec<f64> = (0..got.len())
                .map(|i| {
                    let (n, rest) = (i / (c * plane_in), i % (c * plane_in));
                    let before = if add { f64::from(first.pixels[i]) } else { 0.0 };
                    want[(n * shape.in_channels + start) * plane_in + rest] + before
                })
                .collect();
            // Reflection may bring a tap to a pixel nine times.
            let terms = 9 * shape.out_channels * shape.taps();
            assert_close(
                &got,
                &want,
                terms,
                1.0,
                &format!("{isa}, case {seed}: {shape:?}"),
            );
            start += c;
        }
    }
}

#[test]
fn backward_weights_matches_plain_loops() {
    on_every_isa(backward_weights_case_by_case);
}

fn backward_weights_case_by_case(isa: &str) {
    let mut workspace = Vec::new();
    for seed in 0..CASES {
        let (mut draw, shape, images, channels) = case(seed);
        let input = Input::new(&mut draw, images, &channels, shape.input);
        let size = shape.output();
        let (plane_in, plane) = (shape.input[0] * shape.input[1], size[0] * size[1]);
        let gradient = tensor(&mut draw, images, shape.out_channels, size);
        let mut want = vec![0.0; shape.out_channels * shape.in_channels * shape.taps()];
        each_product(&shape, images, false, |n, o, p, i, q, tap| {
            want[(o * shape.in_channels + i) * shape.taps() + tap] +=
                f64::from(gradient.pixels[(n * shape.out_channels + o) * plane + p])
                    * input.seen[(n * shape.in_channels + i) * plane_in + q];
        });
        let mut want_bias = vec![0.0; shape.out_channels];
        for (i, &g) in gradient.pixels.iter().enumerate() {
            want_bias[i / plane % shape.out_channels] += f64::from(g);
        }
        let mut weights = PackedWeights::zeroed_forward(&shape, &channels).unwrap();
        // What was there before must not matter.
        weights.fill(|_, _, _| 1.0);
        let mut bias = vec![Lanes([1.0; 16]); layout::groups(shape.out_channels)];
        let sources = input.sources();
        conv_backward_weights(
            &shape,
            images,
            &sources,
            &gradient.blocked,
            &mut weights,
            &mut bias,
            &mut workspace,
        )
        .unwrap();
        let what = format!("{isa}, case {seed}: {shape:?}");
        assert_close(&weights.to_oihw(), &want, images * plane, 2.0, &what);
        let bias = plain(&bias, 1, shape.out_channels, 1);
        assert_close(&bias, &want_bias, images * plane, 1.0, &what);
    }
}

#[test]
fn depthwise_matches_plain_loops() {
    on_every_isa(depthwise_case_by_case);
}

fn depthwise_case_by_case(isa: &str) {
    for seed in 0..CASES {
        let mut draw = Draw::new(1000 + seed);
        let channels = draw.of(&[1, 3, 16, 33]);
        let shape = random_shape(&mut draw, channels, channels);
        let images = draw.of(&[1, 2]);
        let input = Input::new(&mut draw, images, &[channels], shape.input);
        let size = shape.output();
        let (plane_in, plane) = (shape.input[0] * shape.input[1], size[0] * size[1]);
        let weights = draw.numbers(channels * shape.taps());
        let bias = draw.numbers(channels);
        let residual = tensor(&mut draw, images, channels, size);
        let activation = draw.of(&ACTIVATIONS);
        let mut want: Vec<f64> = residual
            .pixels
            .iter()
            .enumerate()
            .map(|(i, &r)| f64::from(r) + f64::from(bias[i / plane % channels]))
            .collect();
        let first = tensor(&mut draw, images, channels, shape.input);
        let mut want_gradient: Vec<f64> = first.pixels.iter().map(|&x| x.into()).collect();
        each_product(&shape, images, true, |n, o, p, _, q, tap| {
            let w = f64::from(weights[o * shape.taps() + tap]);
            let (at, from) = (
                (n * channels + o) * plane + p,
                (n * channels + o) * plane_in + q,
            );
            want[at] += w * input.seen[from];
            want_gradient[from] += w * f64::from(residual.pixels[at]);
        });
        for y in &mut want {
            *y = activate(activation, *y);
        }
        let what = format!("{isa}, case {seed}: {shape:?}");
        let packed = DepthwiseWeights::new(&shape, &weights).unwrap();
        let bias = layout::block_channels(&bias);
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: Some(&residual.blocked),
            activation,
        };
        let mut output = vec![Lanes::ZERO; residual.blocked.len()];
        let source = input.sources()[0];
        depthwise_forward(&shape, images, source, &packed, &epilogue, &mut output).unwrap();
        let got = plain(&output, images, channels, plane);
        assert_close(&got, &want, shape.taps(), 2.0, &what);
        let mut buffer = first.blocked.clone();
        depthwise_backward_data(
            &shape,
            images,
            &residual.blocked,
            &packed,
            Destination::adding(&mut buffer, channels),
        )
        .unwrap();
        let got = plain(&buffer, images, channels, plane_in);
        assert_close(&got, &want_gradient, 9 * shape.taps(), 1.0, &what);
    }
}

/// Sizes that are cut into many work items: the same bits on one thread and on five, alone and in a
/// batch.
#[test]
fn results_depend_on_neither_threads_nor_batch() {
    let shape = ConvShape {
        padding: Padding::Reflect,
        ..ConvShape::same(36, 48, 3, [70, 300])
    };
    let plane = 70 * 300;
    let mut draw = Draw::new(7);
    let input = tensor(&mut draw, 2, 36, shape.input);
    let gradient = tensor(&mut draw, 2, 48, shape.input);
    let oihw = draw.numbers(48 * 36 * 9);
    let weights = PackedWeights::forward(&shape, &[36], &oihw).unwrap();
    let backward = PackedWeights::backward(&shape, &[36], &oihw).unwrap();
    let run = |threads: usize, images: std::ops::Range<usize>| {
        let count = images.len();
        let part = |t: &Tensor, channels| {
            let size = layout::groups(channels) * plane;
            t.blocked[images.start * size..images.end * size].to_vec()
        };
        let (input, gradient) = (part(&input, 36), part(&gradient, 48));
        let sources = [Source::plain(&input, 36)];
        let mut output = vec![Lanes::ZERO; gradient.len()];
        let mut data = vec![Lanes::ZERO; input.len()];
        let mut sums = PackedWeights::zeroed_forward(&shape, &[36]).unwrap();
        let mut bias = vec![Lanes::ZERO; 3];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let epilogue = Epilogue::default();
            conv_forward(&shape, count, &sources, &weights, &epilogue, &mut output).unwrap();
            let mut to = [Destination::new(&mut data, 36)];
            conv_backward_data(&shape, count, &gradient, &backward, &mut to).unwrap();
            let mut workspace = Vec::new();
            conv_backward_weights(
                &shape,
                count,
                &sources,
                &gradient,
                &mut sums,
                &mut bias,
                &mut workspace,
            )
            .unwrap();
        });
        (output, data, sums, bias)
    };
    let both = run(1, 0..2);
    assert!(both == run(5, 0..2));
    let alone = run(5, 1..2);
    assert!(both.0[3 * plane..] == alone.0 && both.1[3 * plane..] == alone.1);
}

#[test]
fn impossible_shapes_and_buffers_are_refused() {
    let good = ConvShape::same(3, 8, 3, [4, 4]);
    assert!(good.check().is_ok());
    let broken = [
        ConvShape {
            in_channels: 0,
            ..good
        },
        ConvShape {
            stride: [0, 1],
            ..good
        },
        ConvShape {
            kernel: [7, 1],
            ..good
        },
        ConvShape {
            dilation: [1, usize::MAX],
            ..good
        },
        ConvShape {
            padding: Padding::Reflect,
            pads: Pads::all(4),
            ..good
        },
        ConvShape {
            input: [4, (1 << 20) + 1],
            ..good
        },
    ];
    for shape in broken {
        assert!(shape.check().is_err(), "{shape:?}");
    }
    let weights = PackedWeights::forward(&good, &[3], &[0.0; 216]).unwrap();
    assert!(PackedWeights::forward(&good, &[2, 2], &[0.0; 216]).is_err());
    assert!(PackedWeights::forward(&good, &[3], &[0.0; 215]).is_err());
    let (input, mut output) = (vec![Lanes::ZERO; 16], vec![Lanes::ZERO; 15]);
    let sources = [Source::plain(&input, 3)];
    let epilogue = Epilogue::default();
    assert!(conv_forward(&good, 1, &sources, &weights, &epilogue, &mut output).is_err());
    let backward = weights.zeroed_transpose();
    output.push(Lanes::ZERO);
    assert!(conv_forward(&good, 1, &sources, &backward, &epilogue, &mut output).is_err());
    assert!(conv_forward(&good, 1, &sources, &weights, &epilogue, &mut output).is_ok());
}
