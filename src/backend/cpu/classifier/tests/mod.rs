//! The engine against the float64 reference, on small graphs and on real models.

mod engine;
mod operations;
mod pairs;

use crate::backend::cpu::CpuBackend;
use crate::backend::cpu::classifier::CpuClassifier;
use crate::backend::host::HostImages;
use crate::backend::reference::classifier::ReferenceClassifier;
use crate::backend::{At, ClassifierEngine, ImageOps};
use crate::classifier::{Conv, Function, Graph, Node, Op, Value, ValueId, Window};

/// Uniform numbers from −1 to 1.
pub(super) fn uniform(n: usize, seed: u32) -> Vec<f32> {
    let mut word = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..n)
        .map(|_| {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (word >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// A graph in the making.
pub(super) struct Builder {
    pub graph: Graph,
    seed: u32,
}

impl Builder {
    /// A graph of an image of `dims`.
    pub(super) fn new(dims: [usize; 3]) -> Self {
        let mut builder = Builder {
            graph: Graph {
                input: ValueId(0),
                output: ValueId(0),
                nodes: Vec::new(),
                values: Vec::new(),
                warnings: Vec::new(),
                source: Default::default(),
                external: Vec::new(),
            },
            seed: 1,
        };
        let [channels, height, width] = dims;
        builder.value(&[1, channels, height, width], None);
        builder
    }

    fn value(&mut self, dims: &[usize], data: Option<Vec<f32>>) -> ValueId {
        self.graph.add_value(Value {
            name: format!("value {}", self.graph.values.len()),
            dims: dims.to_vec(),
            data: data.map(Into::into),
        })
    }

    /// A constant.
    pub(super) fn constant(&mut self, dims: &[usize], data: Vec<f32>) -> ValueId {
        assert_eq!(data.len(), dims.iter().product::<usize>());
        self.value(dims, Some(data))
    }

    /// A constant of random numbers up to `scale`.
    pub(super) fn random(&mut self, dims: &[usize], scale: f32) -> ValueId {
        self.seed += 1;
        let numbers = uniform(dims.iter().product(), self.seed);
        let numbers = numbers.into_iter().map(|x| x * scale).collect();
        self.constant(dims, numbers)
    }

    pub(super) fn dims(&self, id: ValueId) -> Vec<usize> {
        self.graph.value(id).dims.clone()
    }

    /// A node; its output.
    pub(super) fn node(&mut self, op: Op, inputs: &[ValueId], dims: &[usize]) -> ValueId {
        let output = self.value(dims, None);
        self.graph.nodes.push(Node {
            name: format!("node {}", self.graph.nodes.len()),
            op,
            inputs: inputs.to_vec(),
            output,
        });
        output
    }

    pub(super) fn map(&mut self, function: Function, x: ValueId) -> ValueId {
        let dims = self.dims(x);
        self.node(Op::Map(function), &[x], &dims)
    }

    pub(super) fn reshape(&mut self, x: ValueId, dims: &[usize]) -> ValueId {
        self.node(Op::Reshape, &[x], dims)
    }

    /// All elements as one row.
    pub(super) fn flat(&mut self, x: ValueId) -> ValueId {
        let n = self.dims(x).iter().product();
        self.reshape(x, &[1, n])
    }

    /// A convolution with random weights, so scaled that its sums stay about 1.
    pub(super) fn conv(&mut self, conv: Conv, x: ValueId, out: usize, residual: bool) -> ValueId {
        let dims = self.dims(x);
        let Window {
            kernel,
            strides,
            dilations,
            pads,
        } = conv.window;
        let inputs = dims[1] / conv.group;
        let fan_in = (inputs * kernel[0] * kernel[1]) as f32;
        let weight = self.random(&[out, inputs, kernel[0], kernel[1]], 1.7 / fan_in.sqrt());
        let bias = self.random(&[out], 0.5);
        let sides = [pads.top + pads.bottom, pads.left + pads.right];
        let size = [0, 1].map(|a| {
            (dims[2 + a] + sides[a] - dilations[a] * (kernel[a] - 1) - 1) / strides[a] + 1
        });
        let dims = [dims[0], out, size[0], size[1]];
        let mut inputs = vec![x, weight, bias];
        if residual {
            // Computed: a plain convolution of the same.
            let plain = Conv {
                activation: None,
                ..conv.clone()
            };
            inputs.push(self.conv(plain, x, out, false));
        }
        self.node(Op::Conv(conv), &inputs, &dims)
    }

    /// A 1×1 convolution.
    pub(super) fn pointwise(&mut self, x: ValueId, out: usize) -> ValueId {
        let conv = Conv {
            window: Window {
                kernel: [1, 1],
                strides: [1, 1],
                dilations: [1, 1],
                pads: Default::default(),
            },
            group: 1,
            activation: None,
        };
        self.conv(conv, x, out, false)
    }

    /// The graph, its output the elements of `x` in a row.
    pub(super) fn finish(mut self, x: ValueId) -> Graph {
        self.graph.output = self.flat(x);
        self.graph
    }
}

/// A buffer of random images in [0, 1].
pub(super) fn images(graph: &Graph, count: usize, seed: u32) -> HostImages<f32> {
    let shape = graph.input_shape();
    let pixels: Vec<f32> = uniform(count * shape.elements(), seed)
        .into_iter()
        .map(|x| 0.5 * x + 0.5)
        .collect();
    let mut images = HostImages::zeroed(shape, count).unwrap();
    CpuBackend::FLOAT32.upload(&pixels, &mut images, 0).unwrap();
    images
}

/// Logits and gradients of the engine on every image, for a loss whose derivative by a logit is random.
pub(super) fn run(
    engine: &mut CpuClassifier,
    images: &HostImages<f32>,
    count: usize,
) -> [Vec<f32>; 3] {
    let all: Vec<_> = (0..count).map(|i| At::new(images, i)).collect();
    let logits = engine.logits(&all).unwrap();
    let mut gradients = HostImages::zeroed(engine.input_shape(), count).unwrap();
    let mut loss = |_: usize, logits: &[f32], by: &mut [f32]| {
        by.copy_from_slice(&uniform(logits.len(), 77));
    };
    let again = engine.gradient(&all, &mut loss, &mut gradients, 0).unwrap();
    let gradients = (0..count)
        .flat_map(|i| gradients.image(i).to_vec())
        .collect();
    [logits, again, gradients]
}

/// Compares the engine with the reference on one image.
///
/// Every number is a sum of at most `terms` products at each of a few layers; each rounding loses
/// 2^-24 of a partial sum, and partial sums stay within a few times the largest result. The functions
/// lose up to eight times as much.
pub(super) fn check(name: &str, graph: &Graph, terms: usize) {
    let images = images(graph, 1, 5);
    let mut engine = CpuClassifier::new(graph, 1).unwrap_or_else(|e| panic!("{name}: {e}"));
    let [logits, again, gradient] = run(&mut engine, &images, 1);
    assert_eq!(logits, again, "{name}: logits of the two passes");
    let pixels: Vec<f64> = images.image(0).iter().map(|&x| x.into()).collect();
    let (want, want_gradient) = ReferenceClassifier::new(graph)
        .gradient_f64(&pixels, |logits, by| {
            for (by, x) in by.iter_mut().zip(uniform(logits.len(), 77)) {
                *by = x.into();
            }
        })
        .unwrap();
    for (what, got, want) in [
        ("logits", logits, want),
        ("gradient", gradient, want_gradient),
    ] {
        assert_eq!(got.len(), want.len(), "{name}: {what}");
        let scale = want.iter().fold(0.1, |m: f64, x| m.max(x.abs()));
        let bound = (terms as f64 + 8.0) * 4.0 * 2f64.powi(-24) * scale;
        for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
            let error = (f64::from(got) - want).abs();
            assert!(
                error <= bound,
                "{name}: {what} {i}: {got}, not {want} (error {error:.1e}, bound {bound:.1e})"
            );
        }
    }
}

/// Runs `build` on a picture of `dims` that lies row by row, and on one that lies channel-blocked; each
/// once with the operation's gradient alone and once added to another's.
pub(super) fn both_layouts(
    name: &str,
    dims: [usize; 3],
    terms: usize,
    build: impl Fn(&mut Builder, ValueId) -> ValueId,
) {
    for blocked in [false, true] {
        for shared in [false, true] {
            let mut builder = Builder::new(dims);
            let image = builder.graph.input;
            let x = if blocked {
                builder.pointwise(image, dims[0])
            } else {
                image
            };
            let y = build(&mut builder, x);
            let graph = if shared {
                let (y, x) = (builder.flat(y), builder.flat(x));
                let n = builder.dims(x)[1] + builder.dims(y)[1];
                let both = builder.node(Op::Concat { axis: 1 }, &[y, x], &[1, n]);
                builder.finish(both)
            } else {
                builder.finish(y)
            };
            let name = format!("{name} of {dims:?}, blocked {blocked}, shared {shared}");
            check(&name, &graph, terms + dims[0]);
        }
    }
}
