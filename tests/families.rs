//! Exports of every family of classifiers that people use, against ONNX Runtime and PyTorch.
//!
//! `benches/peers/export_families.py` makes them, with random weights: NAME.onnx, and NAME.safetensors
//! with what it should give (that script says what is in it). The tiny ones are in
//! `tests/fixtures/families`; those of a folder that the environment variable `BACKSTITCH_FAMILIES`
//! names, for instance the standard members of the families, are compared too.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backstitch::backend::cpu::CpuBackend;
use backstitch::backend::cpu::classifier::CpuClassifier;
use backstitch::backend::host::HostImages;
use backstitch::backend::reference::ReferenceClassifier;
use backstitch::backend::{At, Backend, ClassifierEngine};
use backstitch::classifier::{Graph, LoadOptions};
use backstitch::error::Result;
use proptest::prelude::*;
use proptest::sample::Index;
use safetensors::{Dtype, SafeTensors};

/// Each has at least one export.
const FAMILIES: [&str; 29] = [
    "AlexNet",
    "ByobNet",
    "ConvNeXt",
    "DeiT",
    "DenseNet",
    "EfficientNet",
    "EfficientNet v2",
    "EfficientNet-Lite",
    "GoogLeNet",
    "Inception v3",
    "MNASNet",
    "MambaOut",
    "MaxViT",
    "MobileNet v2",
    "MobileNet v3",
    "NFNet",
    "RegNet",
    "RepVGG",
    "ResNeXt",
    "ResNet",
    "ShuffleNet v2",
    "SqueezeNet",
    "Swin",
    "Swin v2",
    "VGG",
    "ViT",
    "Wide ResNet",
    "Xception",
    "pre-activation ResNet",
];

/// Largest difference of logits, relative to the largest logit.
const LOGITS: f64 = 1e-4;
/// Largest difference of gradients, relative to the largest number of the gradient.
const GRADIENT: f64 = 1e-3;

/// A model and what it should give.
struct Export {
    name: String,
    onnx: PathBuf,
    /// What it is: `family`, `opset`, `exporter`, `batch`, `weights` and `precision`.
    about: HashMap<String, String>,
    /// One after another, CHW, in [0, 1].
    images: Vec<f32>,
    count: usize,
    /// By image, the derivative by each logit of the scalar that `gradient` is of.
    direction: Vec<f64>,
    /// ONNX Runtime's.
    logits: Vec<f64>,
    /// PyTorch's, in float64.
    exact: Vec<f64>,
    gradient: Vec<f64>,
    /// How far PyTorch's own gradient in float32 is from that.
    float32_gradient: f64,
}

impl Export {
    /// Reads what belongs to `path`, a `.safetensors` file.
    fn read(path: &Path) -> Export {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |name: &str| -> Vec<f64> {
            let tensor = tensors.tensor(name).unwrap();
            let data = tensor.data();
            match tensor.dtype() {
                Dtype::F32 => (data.as_chunks().0.iter())
                    .map(|&b| f32::from_le_bytes(b).into())
                    .collect(),
                Dtype::F64 => (data.as_chunks().0.iter())
                    .map(|&b| f64::from_le_bytes(b))
                    .collect(),
                other => panic!("{name} is of type {other:?}"),
            }
        };
        let images = tensors.tensor("images").unwrap();
        assert_eq!(images.dtype(), Dtype::U8);
        Export {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            onnx: path.with_extension("onnx"),
            float32_gradient: header.metadata().as_ref().unwrap()["float32_gradient"]
                .parse()
                .unwrap(),
            about: header.metadata().clone().unwrap(),
            images: (images.data().iter())
                .map(|&x| f32::from(x) / 255.0)
                .collect(),
            count: images.shape()[0],
            direction: numbers("direction"),
            logits: numbers("logits"),
            exact: numbers("exact"),
            gradient: numbers("gradient"),
        }
    }

    /// All of a folder, in the order of their names.
    fn all(folder: &Path) -> Vec<Export> {
        let entries = std::fs::read_dir(folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        paths.sort();
        paths.iter().map(|path| Export::read(path)).collect()
    }

    fn graph(&self) -> Result<Graph> {
        let graph = Graph::load(&self.onnx, &LoadOptions::default())?;
        assert_eq!(graph.warnings, [""; 0]);
        assert_eq!(
            graph.input_shape().elements() * self.count,
            self.images.len()
        );
        Ok(graph)
    }

    /// How far our gradient may be from PyTorch's in float64.
    fn gradient_tolerance(&self) -> f64 {
        // In a large network of ReLUs, some may have an input so close to 0 that rounding decides on
        // which side it is: then no gradient in float32 is near the one in float64.
        GRADIENT.max(4.0 * self.float32_gradient)
    }

    /// How far ONNX Runtime's logits may be from ours.
    fn logits_tolerance(&self) -> f64 {
        if self.about["precision"] != "float16 graph" {
            return LOGITS;
        }
        // ONNX Runtime rounds what each of the n nodes gives to float16, by up to 2⁻¹¹ of it, where
        // we keep float32. Independent errors add up to √n times one of them, and 4 such deviations
        // are not met by chance.
        let imported = backstitch::classifier::onnx::import(&self.onnx, &LoadOptions::default());
        4.0 * (imported.unwrap().nodes.len() as f64).sqrt() / 2048.0
    }

    /// Logits and gradients of all images, from a backend's engine.
    fn run<B: Backend>(&self, backend: &B, graph: &Graph) -> (Vec<f64>, Vec<f64>) {
        let shape = graph.input_shape();
        let mut images = backend.allocate(shape, self.count).unwrap();
        let mut gradients = backend.allocate(shape, self.count).unwrap();
        backend.upload(&self.images, &mut images, 0).unwrap();
        let mut engine = backend.classifier(graph, self.count).unwrap();
        let all: Vec<_> = (0..self.count).map(|i| At::new(&images, i)).collect();
        let logits = engine.logits(&all).unwrap();
        let direction = |i: usize, _: &[f32], gradient: &mut [f32]| {
            let from = &self.direction[i * gradient.len()..];
            (gradient.iter_mut().zip(from)).for_each(|(to, &from)| *to = from as f32);
        };
        (engine.gradient(&all, &mut { direction }, &mut gradients, 0)).unwrap();
        let gradients =
            (0..self.count).flat_map(|i| backend.download(At::new(&gradients, i)).unwrap());
        (wide(&logits), wide(&gradients.collect::<Vec<f32>>()))
    }

    /// The same from the float64 reference.
    fn run_reference(&self, graph: &Graph) -> (Vec<f64>, Vec<f64>) {
        let engine = ReferenceClassifier::new(graph);
        let (mut logits, mut gradients) = (Vec::new(), Vec::new());
        let images = self.images.chunks(graph.input_shape().elements());
        for (image, direction) in images.zip(self.direction.chunks(graph.classes())) {
            let (row, gradient) = engine
                .gradient_f64(&wide(image), |_, gradient| {
                    gradient.copy_from_slice(direction)
                })
                .unwrap();
            logits.extend(row);
            gradients.extend(gradient);
        }
        (logits, gradients)
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

/// Compares engines with what the exports should give, and prints how far they are.
///
/// Logits are compared with ONNX Runtime's and with PyTorch's in float64, so that the table shows
/// whose rounding a difference is; "peer" is how far the peers' own float32 is from PyTorch's float64.
fn compare<B: Backend>(backend: &B, exports: &[Export], with_reference: bool) {
    println!(
        "relative errors:       exporter    opset  precision         logits    exact     peer \
         gradient     peer  reference's"
    );
    let mut beyond = Vec::new();
    for export in exports {
        let graph = match export.graph() {
            Ok(graph) => graph,
            Err(error) => {
                beyond.push(error.to_string());
                continue;
            }
        };
        let (logits, gradient) = export.run(backend, &graph);
        let gradient_tolerance = export.gradient_tolerance();
        let mut errors = vec![
            (
                difference(&logits, &export.logits),
                export.logits_tolerance(),
            ),
            (difference(&logits, &export.exact), LOGITS),
            (difference(&export.logits, &export.exact), f64::INFINITY),
            (difference(&gradient, &export.gradient), gradient_tolerance),
            (export.float32_gradient, f64::INFINITY),
        ];
        if with_reference {
            let (logits, gradient) = export.run_reference(&graph);
            errors.push((difference(&logits, &export.exact), LOGITS));
            errors.push((difference(&gradient, &export.gradient), gradient_tolerance));
        }
        let shown: Vec<String> = errors.iter().map(|(e, _)| format!("{e:8.1e}")).collect();
        let row = format!(
            "{:22} {:11} {:>5}  {:15} {}",
            export.name,
            export.about["exporter"],
            export.about["opset"],
            export.about["precision"],
            shown.join(" ")
        );
        println!("{row}");
        // A NaN is beyond too.
        if !errors.iter().all(|(error, tolerance)| error < tolerance) {
            beyond.push(row);
        }
    }
    assert!(beyond.is_empty(), "beyond:\n{}", beyond.join("\n"));
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families")
}

#[test]
fn tiny_exports_agree() {
    let exports = Export::all(&fixtures());
    compare(&CpuBackend::FLOAT32, &exports, true);
    for export in &exports {
        assert_eq!(export.gradient_tolerance(), GRADIENT, "{}", export.name);
    }

    let having = |key: &str| -> BTreeSet<&str> {
        exports.iter().map(|export| &*export.about[key]).collect()
    };
    assert_eq!(having("family"), BTreeSet::from(FAMILIES));
    assert_eq!(
        having("exporter"),
        BTreeSet::from(["dynamo", "torchscript"])
    );
    assert_eq!(having("batch"), BTreeSet::from(["free", "one"]));
    assert_eq!(having("weights"), BTreeSet::from(["external", "inline"]));
    assert_eq!(
        having("precision"),
        BTreeSet::from(["float16 graph", "float16 weights", "float32"])
    );
    let opsets: Vec<String> = (11..=20).map(|opset| opset.to_string()).collect();
    assert!(having("opset").into_iter().eq(&opsets));
}

#[cfg(feature = "emulator")]
#[test]
fn tiny_exports_agree_on_the_emulator() {
    use backstitch::backend::cuda::CudaBackend;
    use backstitch::backend::cuda::driver::emulator::{Emulator, Options};
    let emulator = Emulator::new(Options::default()).unwrap();
    let backend = CudaBackend::new(emulator.device());
    compare(&backend, &Export::all(&fixtures()), false);
}

#[test]
fn other_exports_agree() {
    let Some(folder) = std::env::var_os("BACKSTITCH_FAMILIES") else {
        println!("skipped: BACKSTITCH_FAMILIES names no folder of export_families.py");
        return;
    };
    let exports = Export::all(Path::new(&folder));
    assert!(!exports.is_empty(), "{folder:?} holds no exports");
    compare(&CpuBackend::FLOAT32, &exports, false);
}

/// More than one damaged file may take, on a busy machine too.
const TOO_LONG: Duration = Duration::from_secs(20);
/// Elements of constants that any file may ask for, and that it may for each of its bytes.
const CONSTANTS: (usize, usize) = (1 << 23, 16);
/// Elements computed for one image: the importer's bound, and what the test has time to run.
const COMPUTED: (usize, usize) = (1 << 30, 1 << 22);

/// Loads `bytes` as `name` (and as its external data from `split` on), and, where they still are a
/// model, runs it.
fn load_and_run(name: &str, bytes: &[u8], split: usize, pixels: &[f32]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{name}.onnx"));
    let (model, data) = bytes.split_at(split.min(bytes.len()));
    std::fs::write(&path, model).unwrap();
    if !data.is_empty() {
        std::fs::write(folder.path().join(format!("{name}.onnx.data")), data).unwrap();
    }
    let start = Instant::now();
    match Graph::load(&path, &LoadOptions::default()) {
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        Ok(graph) => {
            let elements = |constant: bool| -> usize {
                let values = graph.values.iter();
                let values = values.filter(|value| value.data.is_some() == constant);
                values.map(|value| value.elements()).sum()
            };
            assert!(elements(true) <= CONSTANTS.0 + CONSTANTS.1 * bytes.len());
            assert!(elements(false) <= COMPUTED.0);
            if elements(false) <= COMPUTED.1 {
                let mut image = HostImages::zeroed(graph.input_shape(), 1).unwrap();
                let mut pixels = pixels.iter().cycle();
                image.image_mut(0).fill_with(|| *pixels.next().unwrap());
                let mut engine = CpuClassifier::new(&graph, 1).unwrap();
                let logits = engine.logits(&[At::new(&image, 0)]).unwrap();
                assert_eq!(logits.len(), graph.classes());
            }
        }
    }
    assert!(start.elapsed() < TOO_LONG, "{:?}", start.elapsed());
}

/// Whatever happens to real exports, loading and running them ends, soon, without a panic, in
/// bounds.
#[test]
fn damage_never_panics() {
    let exports: Vec<(Export, Vec<u8>, usize)> = (Export::all(&fixtures()).into_iter())
        .map(|export| {
            let mut bytes = std::fs::read(&export.onnx).unwrap();
            let split = bytes.len();
            let data = PathBuf::from(format!("{}.data", export.onnx.display()));
            bytes.extend(std::fs::read(data).unwrap_or_default());
            (export, bytes, split)
        })
        .collect();
    for (export, bytes, split) in &exports {
        load_and_run(&export.name, bytes, *split, &export.images);
    }
    let config = ProptestConfig {
        cases: 1000,
        failure_persistence: None, // proptest looks for the library's source to put it beside
        ..ProptestConfig::default()
    };
    proptest!(config, |(
        which in any::<Index>(),
        flips in prop::collection::vec((any::<Index>(), 1u8..), 1..4),
        cut in prop::option::weighted(0.1, any::<Index>()),
    )| {
        let (export, bytes, split) = which.get(&exports);
        let mut bytes = bytes.clone();
        for (place, mask) in &flips {
            let place = place.index(bytes.len());
            bytes[place] ^= mask;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        load_and_run(&export.name, &bytes, *split, &export.images);
    });
}
