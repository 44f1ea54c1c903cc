//! Real exports: logits against tract, an independent ONNX runtime.

use std::path::PathBuf;

use backstitch::backend::reference::ReferenceClassifier;
use backstitch::classifier::{Graph, LoadOptions};
use tract_onnx::prelude::*;

/// A model beside the repository, `None` with a message where it is absent.
fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/models")
        .join(name);
    if !path.exists() {
        println!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

/// Smooth colors with some texture, in [0, 1].
fn picture(channels: usize, height: usize, width: usize) -> Vec<f32> {
    let n = height * width;
    (0..channels * n)
        .map(|i| {
            let (c, y, x) = (i / n, i % n / width, i % width);
            let (u, v) = (y as f32 / height as f32, x as f32 / width as f32);
            0.5 + 0.3 * (6.0 * u + c as f32).sin() * (5.0 * v).cos() + 0.2 * (40.0 * u * v).sin()
        })
        .collect()
}

fn oracle(path: &PathBuf, shape: [usize; 4], pixels: &[f32]) -> TractResult<Vec<f32>> {
    let model = tract_onnx::onnx()
        .model_for_path(path)?
        .with_input_fact(0, f32::fact(shape).into())?
        .into_optimized()?
        .into_runnable()?;
    let input = Tensor::from_shape(&shape, pixels)?;
    let outputs = model.run(tvec!(input.into()))?;
    Ok(outputs[0]
        .to_plain_array_view::<f32>()?
        .iter()
        .copied()
        .collect())
}

fn compare(name: &str, classes: usize) {
    let Some(path) = shared(name) else { return };
    let graph = Graph::load(&path, &LoadOptions::default()).unwrap();
    assert!(graph.warnings.is_empty());
    assert_eq!(graph.classes(), classes);
    let shape = graph.input_shape();
    let pixels = picture(shape.channels, shape.height, shape.width);
    let expected = oracle(
        &path,
        [1, shape.channels, shape.height, shape.width],
        &pixels,
    )
    .unwrap();
    let wide: Vec<f64> = pixels.iter().map(|&x| x.into()).collect();
    let logits = ReferenceClassifier::new(&graph).logits_f64(&wide).unwrap();
    let largest = expected.iter().fold(0.0f64, |m, &x| m.max(x.abs().into()));
    let error = logits
        .iter()
        .zip(&expected)
        .fold(0.0f64, |m, (a, &b)| m.max((a - f64::from(b)).abs()));
    assert_eq!(logits.len(), expected.len());
    println!("{name}: relative error {:.2e}", error / largest);
    assert!(error < 1e-4 * largest, "{name}: {error} of {largest}");
}

#[test]
fn resnet20_matches_tract() {
    compare("cifar-resnet20.onnx", 10);
}

#[test]
fn resnet56_matches_tract() {
    compare("cifar-resnet56.onnx", 10);
}

#[test]
fn efficientnet_matches_tract() {
    compare("efficientnet-lite0.onnx", 1000);
}
