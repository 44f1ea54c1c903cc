//! The engine as a whole: chains, batches, memory, whole graphs.

use super::uniform;
use crate::backend::cuda::CudaBackend;
use crate::backend::cuda::classifier::CudaClassifier;
use crate::backend::cuda::driver::test_devices;
use crate::backend::cuda::images::DeviceImages;
use crate::backend::reference::ReferenceClassifier;
use crate::backend::{At, ClassifierEngine, ImageOps, ImageShape};
use crate::classifier::onnx::samples::samples;
use crate::classifier::{Binary, Function, Graph, Node, Op, Value, ValueId};

/// A graph in the making.
struct Builder {
    graph: Graph,
}

impl Builder {
    /// A graph of an image of `dims`.
    fn new([channels, height, width]: [usize; 3]) -> Self {
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
        };
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

    /// A constant of random numbers from `low` to `low + 1`.
    fn random(&mut self, dims: &[usize], low: f32) -> ValueId {
        let seed = self.graph.values.len() as u32;
        let numbers = uniform(dims.iter().product(), seed);
        let data = numbers.into_iter().map(|x| 0.5 * x + 0.5 + low).collect();
        self.value(dims, Some(data))
    }

    fn dims(&self, id: ValueId) -> Vec<usize> {
        self.graph.value(id).dims.clone()
    }

    /// A node; its output.
    fn node(&mut self, op: Op, inputs: &[ValueId], dims: &[usize]) -> ValueId {
        let output = self.value(dims, None);
        self.graph.nodes.push(Node {
            name: format!("node {}", self.graph.nodes.len()),
            op,
            inputs: inputs.to_vec(),
            output,
        });
        output
    }

    fn map(&mut self, function: Function, x: ValueId) -> ValueId {
        let dims = self.dims(x);
        self.node(Op::Map(function), &[x], &dims)
    }

    /// Of the shape of the larger side.
    fn binary(&mut self, op: Binary, a: ValueId, b: ValueId) -> ValueId {
        let dims = [a, b].map(|id| self.dims(id));
        let larger = usize::from(self.graph.value(a).elements() < self.graph.value(b).elements());
        self.node(Op::Binary(op), &[a, b], &dims[larger])
    }

    fn scale_shift(&mut self, x: ValueId, activation: Option<Function>) -> ValueId {
        let dims = self.dims(x);
        let (scale, shift) = (
            self.random(&dims[1..2], 0.5),
            self.random(&dims[1..2], -0.5),
        );
        self.node(Op::ScaleShift { activation }, &[x, scale, shift], &dims)
    }

    fn reshape(&mut self, x: ValueId, dims: &[usize]) -> ValueId {
        self.node(Op::Reshape, &[x], dims)
    }

    /// A graph, its output the elements of `x` in a row.
    fn finish(mut self, x: ValueId) -> Graph {
        let n = self.graph.value(x).elements();
        self.graph.output = self.reshape(x, &[1, n]);
        self.graph
    }
}

/// Random images in [0, 1].
fn pixels(graph: &Graph, count: usize) -> Vec<f32> {
    let numbers = uniform(count * graph.input_shape().elements(), 5);
    numbers.into_iter().map(|x| 0.5 * x + 0.5).collect()
}

fn images(backend: &CudaBackend, graph: &Graph, count: usize) -> DeviceImages {
    let mut images = backend.allocate(graph.input_shape(), count).unwrap();
    backend
        .upload(&pixels(graph, count), &mut images, 0)
        .unwrap();
    images
}

/// The derivative of the loss by a logit of image `image`.
fn by_logits(image: usize, classes: usize) -> Vec<f32> {
    uniform(classes, 77 + image as u32)
}

/// Logits and gradients of images of a buffer.
fn run(
    engine: &mut CudaClassifier,
    backend: &CudaBackend,
    images: &DeviceImages,
    which: std::ops::Range<usize>,
) -> [Vec<f32>; 2] {
    let all: Vec<_> = which.clone().map(|i| At::new(images, i)).collect();
    let logits = engine.logits(&all).unwrap();
    // Not from the buffer's start.
    let mut out = backend
        .allocate(engine.input_shape(), all.len() + 1)
        .unwrap();
    let mut seen = Vec::new();
    let mut loss = |i: usize, logits: &[f32], by: &mut [f32]| {
        assert!(by.iter().all(|&x| x == 0.0));
        seen.extend_from_slice(logits);
        by.copy_from_slice(&by_logits(which.start + i, logits.len()));
    };
    let again = engine.gradient(&all, &mut loss, &mut out, 1).unwrap();
    assert_eq!(logits, again);
    assert_eq!(logits, seen);
    let gradients = (1..=all.len()).flat_map(|i| backend.download(At::new(&out, i)).unwrap());
    [logits, gradients.collect()]
}

/// Root mean square of the error, relative to that of the numbers.
fn relative(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let pairs = got.iter().zip(want);
    let error: f64 = pairs.map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
    (error / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

/// Holds the engine's logits and gradients of two images against the reference's. Returns the engine.
fn check(
    name: &str,
    backend: &CudaBackend,
    graph: &Graph,
    [logits_bound, gradient_bound]: [f64; 2],
) -> CudaClassifier {
    let mut engine = CudaClassifier::new(backend, graph, 2).unwrap();
    let images = images(backend, graph, 2);
    let [logits, gradients] = run(&mut engine, backend, &images, 0..2);
    let reference = ReferenceClassifier::new(graph);
    let wide: Vec<f64> = pixels(graph, 2).into_iter().map(f64::from).collect();
    let (mut want, mut want_gradients) = (vec![], vec![]);
    for (image, pixels) in wide.chunks(graph.input_shape().elements()).enumerate() {
        let (logits, gradient) = reference
            .gradient_f64(pixels, |logits, by| {
                let narrow = by_logits(image, logits.len());
                by.iter_mut().zip(narrow).for_each(|(by, x)| *by = x.into());
            })
            .unwrap();
        want.extend(logits);
        want_gradients.extend(gradient);
    }
    let errors = [
        relative(&logits, &want),
        relative(&gradients, &want_gradients),
    ];
    println!(
        "{name}: logits {:.1e}, gradients {:.1e}",
        errors[0], errors[1]
    );
    assert!(
        errors[0] <= logits_bound,
        "{name}: logits {:.1e}",
        errors[0]
    );
    assert!(
        errors[1] <= gradient_bound,
        "{name}: gradients {:.1e}",
        errors[1]
    );
    engine
}

/// Roundings of a few dozen numbers in a row, of which each loses 2^-24.
const FEW: [f64; 2] = [32.0 * 6e-8; 2];

/// Sums of up to a few hundred products, layer after layer. In a gradient, an activation within rounding of
/// its kink takes the other side's slope.
const WHOLE: [f64; 2] = [1e-5, 1e-3];

/// Elementwise nodes of every kind, in chains and out of them: a value wanted twice, operands that
/// broadcast, constants on either side, a reshape in between.
fn elementwise_network() -> Graph {
    let mut b = Builder::new([3, 5, 4]);
    let image = b.graph.input;
    let x = b.scale_shift(image, Some(Function::HardSwish));
    let scale = b.random(&[3, 1, 1], 0.5);
    let x = b.binary(Binary::Div, x, scale);
    let x = b.map(Function::Silu, x);
    // A residual connection: x is wanted twice.
    let y = b.map(Function::Tanh, x);
    let one = b.random(&[1], 1.0);
    let y = b.binary(Binary::Sub, one, y);
    let gate = b.random(&[4], 0.5);
    let y = b.binary(Binary::Mul, y, gate);
    let x = b.binary(Binary::Add, x, y);
    let x = b.reshape(x, &[1, 3, 20]);
    let x = b.scale_shift(x, None);
    // The same value on both sides.
    let square = b.binary(Binary::Mul, x, x);
    let x = b.reshape(x, &[1, 3, 5, 4]);
    let square = b.reshape(square, &[1, 3, 5, 4]);
    let x = b.binary(Binary::Max, x, square);
    // Longer than a chain can be.
    let mut z = x;
    for i in 0..11 {
        z = match i % 3 {
            0 => b.map(Function::Softplus, z),
            1 => b.scale_shift(z, Some(Function::Elu { alpha: 0.5 })),
            _ => b.binary(Binary::Sub, z, x),
        };
    }
    b.finish(z)
}

#[test]
fn chains_and_what_they_share() {
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        let engine = check("elementwise", &backend, &elementwise_network(), FEW);
        // A chain up to each value that two nodes want or a reshape takes, and the long one in two.
        let steps = engine.plan.steps.len();
        assert_eq!(steps, 7);
    }
}

#[test]
fn operands_that_broadcast_inside_chains() {
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        let mut b = Builder::new([3, 4, 1]);
        let image = b.graph.input;
        // Smaller than the image's mate, so the image itself broadcasts, at a chain's head and inside.
        let wide = b.random(&[1, 3, 4, 6], 0.5);
        let x = b.binary(Binary::Mul, wide, image);
        let x = b.map(Function::Gelu, x);
        let gate = b.map(Function::Sigmoid, image);
        let x = b.binary(Binary::Mul, x, gate);
        let x = b.binary(Binary::Sub, image, x);
        let graph = b.finish(x);
        let engine = check("broadcast", &backend, &graph, FEW);
        assert_eq!(engine.plan.steps.len(), 2);
    }
}

#[test]
fn results_have_the_same_bits_in_any_batch() {
    let mut graphs = vec![elementwise_network()];
    for (name, model) in samples() {
        if ["squeeze and excite", "pools", "attention"].contains(&name) {
            graphs.push(model.load().unwrap());
        }
    }
    assert_eq!(graphs.len(), 4);
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        for graph in &graphs {
            let images = images(&backend, graph, 7);
            let mut engine = CudaClassifier::new(&backend, graph, 7).unwrap();
            let want = run(&mut engine, &backend, &images, 0..7);
            for capacity in [1, 2, 4] {
                let mut engine = CudaClassifier::new(&backend, graph, capacity).unwrap();
                for count in [1, 3, 7] {
                    let got = run(&mut engine, &backend, &images, 0..count);
                    for (got, want) in got.iter().zip(&want) {
                        assert!(*got == want[..got.len()], "{count} by {capacity}");
                    }
                }
            }
        }
    }
}

#[test]
fn memory_grows_with_the_first_calls_only() {
    let graph = elementwise_network();
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        let images = images(&backend, &graph, 6);
        let mut engine = CudaClassifier::new(&backend, &graph, 4).unwrap();
        let constants = engine.bytes();
        assert!(constants > 0);
        let one = [At::new(&images, 0)];
        engine.logits(&one).unwrap();
        let logits = engine.bytes();
        assert!(logits > constants);
        run(&mut engine, &backend, &images, 0..4);
        let most = engine.bytes();
        assert!(most > logits);
        for count in [6, 1, 4] {
            run(&mut engine, &backend, &images, 0..count);
            assert_eq!(engine.bytes(), most);
        }
    }
}

#[cfg(feature = "emulator")]
#[test]
fn a_batch_that_does_not_fit_is_halved() {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    let graph = elementwise_network();
    let with_memory = |memory: u64| {
        let options = Options {
            memory,
            ..Options::default()
        };
        CudaBackend::new(Emulator::new(options).unwrap().device())
    };
    let plenty = with_memory(u64::MAX);
    let there = images(&plenty, &graph, 5);
    let mut one = CudaClassifier::new(&plenty, &graph, 1).unwrap();
    let want = run(&mut one, &plenty, &there, 0..5);
    let arena = one.arena.as_ref().unwrap().len() * size_of::<f32>();
    let constants = one.bytes() - arena;
    let image = graph.input_shape().elements() * size_of::<f32>();

    // Room for the gradients of two images at once, not of three, and for the logits of more.
    let backend = with_memory((constants + 2 * arena + arena / 2 + 10 * image) as u64);
    let there = images(&backend, &graph, 5);
    let mut out = backend.allocate(graph.input_shape(), 5).unwrap();
    let mut engine = CudaClassifier::new(&backend, &graph, 64).unwrap();
    let all: Vec<_> = (0..5).map(|i| At::new(&there, i)).collect();
    assert_eq!(engine.logits(&all).unwrap(), want[0]);
    assert!((3..64).contains(&engine.batch), "{} images", engine.batch);
    let mut loss = |i: usize, logits: &[f32], by: &mut [f32]| {
        by.copy_from_slice(&by_logits(i, logits.len()));
    };
    assert_eq!(
        engine.gradient(&all, &mut loss, &mut out, 0).unwrap(),
        want[0]
    );
    assert_eq!(engine.batch, 2);
    let gradients = (0..5).flat_map(|i| backend.download(At::new(&out, i)).unwrap());
    assert_eq!(gradients.collect::<Vec<f32>>(), want[1]);

    let backend = with_memory((constants + arena / 4 + image) as u64);
    let there = images(&backend, &graph, 1);
    let mut engine = CudaClassifier::new(&backend, &graph, 8).unwrap();
    let error = engine
        .logits(&[At::new(&there, 0)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("activations") && error.contains("an image"),
        "{error}"
    );
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let graph = elementwise_network();
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        let mut engine = CudaClassifier::new(&backend, &graph, 4).unwrap();
        let shape = graph.input_shape();
        let other = backend
            .allocate(ImageShape { width: 7, ..shape }, 1)
            .unwrap();
        let error = engine
            .logits(&[At::new(&other, 0)])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("3×5×7") && error.contains("3×5×4"),
            "{error}"
        );
        let images = images(&backend, &graph, 2);
        assert!(engine.logits(&[At::new(&images, 2)]).is_err());
        let mut out = backend.allocate(shape, 2).unwrap();
        let all = [At::new(&images, 0), At::new(&images, 1)];
        let mut loss = |_: usize, _: &[f32], _: &mut [f32]| {};
        assert!(engine.gradient(&all, &mut loss, &mut out, 1).is_err());
        assert!(engine.gradient(&all, &mut loss, &mut out, 0).is_ok());
        assert!(engine.logits(&[]).unwrap().is_empty());
    }
}

/// Logits that do not depend on the image have no gradient; a constant is one of each image.
#[test]
fn an_output_without_the_image_has_no_gradient() {
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        let mut b = Builder::new([1, 2, 3]);
        let image = b.graph.input;
        b.map(Function::Relu, image);
        let constant = b.random(&[1, 4], 0.0);
        b.graph.output = constant;
        let graph = b.graph;
        let mut engine = CudaClassifier::new(&backend, &graph, 2).unwrap();
        let images = images(&backend, &graph, 3);
        let [logits, gradients] = run(&mut engine, &backend, &images, 0..3);
        assert_eq!(logits, graph.constant(constant).unwrap().repeat(3));
        assert_eq!(gradients, [0.0; 18]);
    }
}

/// All operations, before the passes and after them.
#[test]
fn sample_graphs() {
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        for (name, model) in samples() {
            check(name, &backend, &model.import().unwrap(), WHOLE);
            check(
                &format!("{name}, fused"),
                &backend,
                &model.load().unwrap(),
                WHOLE,
            );
        }
    }
}

/// On a real model: the reference's logits and gradients. In one order: the operations' own tests look for
/// races.
#[cfg(feature = "emulator")]
#[test]
fn a_real_model_agrees_with_the_reference() {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    use crate::classifier::LoadOptions;
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../shared/models/cifar-resnet20.onnx"
    );
    if !std::path::Path::new(path).exists() {
        println!("skipped: no {path}");
        return;
    }
    let graph = Graph::load(path, &LoadOptions::default()).unwrap();
    let emulator = Emulator::new(Options::default()).unwrap();
    let backend = CudaBackend::new(emulator.device());
    check("cifar-resnet20", &backend, &graph, WHOLE);
}
