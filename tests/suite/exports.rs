//! Exports as other programs write them: in layouts, opsets and operators of every kind, against ONNX
//! Runtime.
//!
//! `tests/fixtures/exports.py` makes NAME.onnx, and NAME.safetensors with an `input` (as the model
//! takes it) and ONNX Runtime's `logits`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backstitch::backend::cpu::CpuBackend;
use backstitch::backend::reference::ReferenceClassifier;
use backstitch::backend::{At, Backend, ClassifierEngine};
use backstitch::classifier::{Graph, InputLayout, LoadOptions, Source};
use proptest::prelude::*;
use proptest::sample::Index;
use safetensors::{Dtype, SafeTensors};

/// Largest difference of logits, relative to the largest logit.
const LOGITS: f64 = 1e-4;
/// Largest difference of an engine's gradient from the reference's, relative to its largest number.
const GRADIENT: f64 = 1e-4;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/exports/{name}"))
}

fn load(name: &str, options: &LoadOptions) -> Graph {
    Graph::load(path(&format!("{name}.onnx")), options).unwrap()
}

fn refusal(name: &str) -> String {
    let path = path(&format!("{name}.onnx"));
    let error = Graph::load(path, &LoadOptions::default()).unwrap_err();
    error.to_string()
}

/// A model's input and output at some images.
struct Expected {
    /// One after another, CHW, in [0, 1].
    images: Vec<f32>,
    logits: Vec<f64>,
}

impl Expected {
    fn read(name: &str, source: &Source) -> Expected {
        let bytes = std::fs::read(path(&format!("{name}.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |name: &str| -> (Vec<usize>, Vec<f32>) {
            let tensor = tensors.tensor(name).unwrap();
            let numbers = match tensor.dtype() {
                Dtype::F32 => (tensor.data().as_chunks().0.iter())
                    .map(|&b| f32::from_le_bytes(b))
                    .collect(),
                Dtype::U8 => (tensor.data().iter())
                    .map(|&x| f32::from(x) / 255.0)
                    .collect(),
                other => panic!("{name} is of type {other:?}"),
            };
            (tensor.shape().to_vec(), numbers)
        };
        let (shape, mut images) = numbers("input");
        if source.layout == InputLayout::Nhwc {
            let (pixels, channels) = (shape[1] * shape[2], shape[3]);
            let laid = images.clone();
            for (i, to) in images.iter_mut().enumerate() {
                let (image, at) = (i / (pixels * channels), i % (pixels * channels));
                *to = laid[(image * pixels + at % pixels) * channels + at / pixels];
            }
        }
        let logits = numbers("logits").1;
        Expected {
            images,
            logits: wide(&logits),
        }
    }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| x.into()).collect()
}

/// Largest difference, relative to the largest number of `expected`.
fn difference(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(largest > 0.0);
    let pairs = got.iter().zip(expected);
    // A NaN is no small difference.
    pairs.fold(0.0, |m, (a, b)| {
        let error = (a - b).abs() / largest;
        if error <= m { m } else { error }
    })
}

/// Derivatives of a scalar by the logits.
fn direction(classes: usize) -> Vec<f64> {
    (0..classes)
        .map(|i| ((i * 31 + 7) % 17) as f64 / 8.0 - 1.0)
        .collect()
}

/// Compares a model's logits with ONNX Runtime's, and its gradients: the reference's with differences of
/// its own logits, the engines' with the reference's.
fn check(name: &str, options: &LoadOptions, tolerance: f64) -> Graph {
    let graph = load(name, options);
    let Expected { images, logits } = Expected::read(name, &graph.source);
    compare(name, &graph, &images, &logits, tolerance);
    graph
}

fn compare(name: &str, graph: &Graph, images: &[f32], logits: &[f64], tolerance: f64) {
    let elements = graph.input_shape().elements();
    let reference = ReferenceClassifier::new(graph);
    let by = direction(graph.classes());
    let (mut exact, mut gradients) = (Vec::new(), Vec::new());
    for image in images.chunks(elements) {
        let pixels = wide(image);
        let (row, gradient) = reference
            .gradient_f64(&pixels, |_, to| to.copy_from_slice(&by))
            .unwrap();
        // Along the gradient the scalar grows by its square.
        let step = 1e-6;
        let moved: Vec<f64> = pixels
            .iter()
            .zip(&gradient)
            .map(|(x, g)| x + step * g)
            .collect();
        let moved = reference.logits_f64(&moved).unwrap();
        let grown: f64 = (by.iter().zip(moved.iter().zip(&row)))
            .map(|(by, (a, b))| by * (a - b))
            .sum();
        let square: f64 = gradient.iter().map(|g| g * g).sum();
        assert!(square > 0.0, "{name}: no gradient");
        let slope = grown / step;
        assert!(
            (slope - square).abs() < 1e-2 * square,
            "{name}: {slope}, not {square}"
        );
        exact.extend(row);
        gradients.extend(gradient);
    }
    let error = difference(&exact, logits);
    assert!(
        error < tolerance,
        "{name}: logits off by {error}: {exact:?}, not {logits:?}"
    );
    run(
        &CpuBackend::FLOAT32,
        name,
        graph,
        images,
        &exact,
        &gradients,
    );
    #[cfg(feature = "emulator")]
    {
        use backstitch::backend::cuda::CudaBackend;
        use backstitch::backend::cuda::driver::emulator::{Emulator, Options};
        let emulator = Emulator::new(Options::default()).unwrap();
        let backend = CudaBackend::new(emulator.device());
        run(&backend, name, graph, images, &exact, &gradients);
    }
}

/// Compares an engine with the reference.
fn run<B: Backend>(
    backend: &B,
    name: &str,
    graph: &Graph,
    images: &[f32],
    logits: &[f64],
    gradients: &[f64],
) {
    let shape = graph.input_shape();
    let count = images.len() / shape.elements();
    let mut on_device = backend.allocate(shape, count).unwrap();
    let mut gradient = backend.allocate(shape, count).unwrap();
    backend.upload(images, &mut on_device, 0).unwrap();
    let mut engine = backend.classifier(graph, count).unwrap();
    let all: Vec<_> = (0..count).map(|i| At::new(&on_device, i)).collect();
    let got = wide(&engine.logits(&all).unwrap());
    assert!(
        difference(&got, logits) < LOGITS,
        "{name}: {got:?}, not {logits:?}"
    );
    let by = direction(graph.classes());
    let mut loss = |_: usize, _: &[f32], to: &mut [f32]| {
        (to.iter_mut().zip(&by)).for_each(|(to, &by)| *to = by as f32);
    };
    (engine.gradient(&all, &mut loss, &mut gradient, 0)).unwrap();
    let got: Vec<f32> = (0..count)
        .flat_map(|i| backend.download(At::new(&gradient, i)).unwrap())
        .collect();
    let error = difference(&wide(&got), gradients);
    assert!(error < GRADIENT, "{name}: gradient off by {error}");
}

/// Options of a height and a width.
fn sized(height: usize, width: usize) -> LoadOptions {
    LoadOptions {
        image_size: Some((height, width)),
        ..LoadOptions::default()
    }
}

fn named(output: &str) -> LoadOptions {
    LoadOptions {
        output_name: Some(output.into()),
        ..LoadOptions::default()
    }
}

#[test]
fn logits_are_onnx_runtime_s() {
    for name in [
        "nhwc_float",
        "nhwc_uint8",
        "nchw_uint8",
        "uint8_dequantized",
        "uint8_nhwc_rgb",
        "opset7",
        "opset8",
        "opset9",
        "opset10",
        "opset21",
        "opset22",
        "opset23",
        "function_local",
        "functions",
        "if_const",
        "if_shape",
        "branches",
        "gather_scatter",
        "attention",
        "vit_sdpa",
        "dq_weights_only",
        "dequantized_blocks",
        "fusedconv",
        "fusedgemm",
        "ms_gelu",
        "microsoft",
        "circular",
        "local_response",
        "resize_aligned",
        "align_corners",
        "e1",
    ] {
        let graph = check(name, &LoadOptions::default(), LOGITS);
        assert_eq!(graph.warnings, [""; 0], "{name}");
    }
}

#[test]
fn sizes_that_are_free() {
    let graph = check("dyn_hw", &sized(16, 16), LOGITS);
    assert_eq!(graph.input_shape().to_string(), "3×16×16");
    assert!(refusal("dyn_hw").contains("its height is free"));
    let mut options = sized(8, 8);
    let error = Graph::load(path("nhwc_free.onnx"), &options).unwrap_err();
    assert!(error.to_string().contains("`input_layout`"), "{error}");
    options.input_layout = Some(InputLayout::Nhwc);
    check("nhwc_free", &options, LOGITS);
}

#[test]
fn layouts() {
    let layout = |name: &str| load(name, &LoadOptions::default()).source.layout;
    assert_eq!(layout("nhwc_uint8"), InputLayout::Nhwc);
    assert_eq!(layout("nchw_uint8"), InputLayout::Nchw);
    let options = LoadOptions {
        input_layout: Some(InputLayout::Nhwc),
        ..LoadOptions::default()
    };
    let error = Graph::load(path("opset21.onnx"), &options).unwrap_err();
    assert!(error.to_string().contains("laid out as nhwc"), "{error}");
}

/// Quantized activations are not rounded, which is within a step or two; they are cut to their range.
#[test]
fn quantized_models_run_in_float() {
    let graph = check("quantized", &LoadOptions::default(), 0.02);
    assert_eq!(graph.warnings.len(), 1);
    assert!(
        graph.warnings[0].contains("quantized"),
        "{:?}",
        graph.warnings
    );
}

#[test]
fn one_of_several_outputs() {
    for (name, options, output) in [
        ("feat_logits", LoadOptions::default(), "logits"),
        ("probabilities_too", LoadOptions::default(), "out2"),
        ("two_heads", named("shape"), "shape"),
    ] {
        let graph = check(name, &options, LOGITS);
        assert_eq!(graph.source.output, output);
    }
    let probabilities = load("probabilities_too", &named("out3"));
    assert!(probabilities.output_is_softmax());
    assert_eq!(load("probabilities_too", &named("out1")).classes(), 4);
    let error = refusal("two_heads");
    assert!(
        error.contains("(\"color\", \"shape\"); choose one with `output_name`"),
        "{error}"
    );
    let error = Graph::load(path("two_heads.onnx"), &named("size")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no output \"size\" (it has: \"color\", \"shape\")"),
        "{error}"
    );
}

/// One logit, or its sigmoid, is two logits: softmax of them gives the probability.
#[test]
fn binary_classifiers() {
    for (name, probability) in [("logit1", false), ("one_sigmoid", true)] {
        let graph = load(name, &LoadOptions::default());
        assert!(graph.source.binary);
        let Expected { images, logits } = Expected::read(name, &graph.source);
        let logit = |x: f64| if probability { (x / (1.0 - x)).ln() } else { x };
        let expected: Vec<f64> = logits.iter().flat_map(|&x| [0.0, logit(x)]).collect();
        compare(name, &graph, &images, &expected, LOGITS);
    }
    let graph = load("logit1", &LoadOptions::default());
    let images = Expected::read("logit1", &graph.source).images;
    let confidences = images.chunks(graph.input_shape().elements()).map(|image| {
        let row = ReferenceClassifier::new(&graph)
            .logits_f64(&wide(image))
            .unwrap();
        1.0 / (1.0 + (row[0] - row[1]).exp())
    });
    let confidences: Vec<String> = confidences.map(|p| format!("{p:.3}")).collect();
    assert_eq!(confidences, ["0.879", "0.725", "0.655", "0.621"]);

    let error = refusal("many_sigmoids");
    assert!(error.contains("sigmoid of each of 5 classes"), "{error}");
}

/// A model and its external data, both links into a cache's folder of blobs.
#[cfg(unix)]
#[test]
fn links_into_a_cache() {
    let cache = tempfile::tempdir().unwrap();
    for folder in ["blobs", "snapshot"] {
        std::fs::create_dir(cache.path().join(folder)).unwrap();
    }
    for (blob, name) in [("1f2e", "e1.onnx"), ("a901", "e1.data")] {
        std::fs::copy(path(name), cache.path().join("blobs").join(blob)).unwrap();
        let link = if name == "e1.onnx" {
            "model.onnx"
        } else {
            name
        };
        let target = Path::new("../blobs").join(blob);
        std::os::unix::fs::symlink(target, cache.path().join("snapshot").join(link)).unwrap();
    }
    let model = cache.path().join("snapshot/model.onnx");
    let graph = Graph::load(model, &LoadOptions::default()).unwrap();
    let Expected { images, logits } = Expected::read("e1", &graph.source);
    compare("e1", &graph, &images, &logits, LOGITS);
}

/// More than one damaged file may take, on a busy machine too.
const TOO_LONG: Duration = Duration::from_secs(20);

/// Whatever happens to these exports, loading and running them ends, soon, without a panic.
#[test]
fn damage_never_panics() {
    let entries = std::fs::read_dir(path("")).unwrap();
    let mut models: Vec<PathBuf> = (entries.map(|entry| entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
        .collect();
    models.sort();
    let models: Vec<Vec<u8>> = (models.iter())
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    let config = ProptestConfig {
        cases: 2000,
        failure_persistence: None, // proptest looks for the library's source to put it beside
        ..ProptestConfig::default()
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(path("e1.data"), folder.path().join("e1.data")).unwrap();
    let file = folder.path().join("model.onnx");
    proptest!(config, |(
        which in any::<Index>(),
        flips in prop::collection::vec((any::<Index>(), 1u8..), 1..4),
        cut in prop::option::weighted(0.1, any::<Index>()),
        size in prop::option::of(Just((8, 8))),
    )| {
        let mut bytes = which.get(&models).clone();
        for (place, mask) in &flips {
            let place = place.index(bytes.len());
            bytes[place] ^= mask;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&file, bytes).unwrap();
        let options = LoadOptions { image_size: size, ..LoadOptions::default() };
        let start = Instant::now();
        match Graph::load(&file, &options) {
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{error}"),
            // What loads also runs.
            Ok(graph) if graph.values.iter().map(|v| v.elements()).sum::<usize>() < 1 << 20 => {
                let pixels = vec![0.5; graph.input_shape().elements()];
                let logits = ReferenceClassifier::new(&graph).logits_f64(&pixels).unwrap();
                prop_assert_eq!(logits.len(), graph.classes());
            }
            Ok(_) => {}
        }
        prop_assert!(start.elapsed() < TOO_LONG);
    });
}
