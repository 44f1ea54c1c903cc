//! Milliseconds an image of a classifier on the cpu: logits at batch 1 and 16, and the gradient.
//!
//! The model is what `BACKSTITCH_MODEL` names, or `../shared/models/efficientnet-lite0.onnx`.

use std::path::PathBuf;
use std::time::Duration;

use backstitch::backend::cpu::CpuBackend;
use backstitch::backend::cpu::classifier::CpuClassifier;
use backstitch::backend::host::HostImages;
use backstitch::backend::{At, ClassifierEngine, ImageOps};
use backstitch::classifier::{Graph, LoadOptions};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// The model to run, if there is one.
fn model() -> Option<PathBuf> {
    let path = match std::env::var_os("BACKSTITCH_MODEL") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../shared/models/efficientnet-lite0.onnx"
        )),
    };
    path.exists().then_some(path)
}

fn classifier(criterion: &mut Criterion) {
    let Some(path) = model() else {
        eprintln!("no model: set BACKSTITCH_MODEL to an ONNX classifier");
        return;
    };
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let graph = Graph::load(&path, &LoadOptions::default()).expect("the model loads");
    let shape = graph.input_shape();
    let mut group = criterion.benchmark_group(format!("classifier/{name}"));
    for batch in [1, 16] {
        let mut engine = CpuClassifier::new(&graph, batch).expect("the model runs");
        let mut images = HostImages::zeroed(shape, batch).expect("memory");
        let pixels: Vec<f32> = (0..batch * shape.elements())
            .map(|i| (i * 7919 % 256) as f32 / 255.0)
            .collect();
        CpuBackend::FLOAT32
            .upload(&pixels, &mut images, 0)
            .expect("whole images");
        let all: Vec<_> = (0..batch).map(|i| At::new(&images, i)).collect();
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("logits, batch {batch}"), |bencher| {
            bencher.iter(|| engine.logits(&all).expect("runs"));
        });
        let mut gradients = HostImages::zeroed(shape, batch).expect("memory");
        group.bench_function(format!("gradient, batch {batch}"), |bencher| {
            bencher.iter(|| {
                let mut loss = |_: usize, _: &[f32], by: &mut [f32]| by[0] = 1.0;
                engine.gradient(&all, &mut loss, &mut gradients, 0)
            });
        });
        eprintln!(
            "batch {batch}: {:.1} MB of weights and activations",
            engine.bytes() as f64 / 1e6
        );
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = classifier
}
criterion_main!(benches);
