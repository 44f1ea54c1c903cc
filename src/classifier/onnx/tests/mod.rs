//! The importer against tract, and against files that are not what they should be.

mod bodies;
mod composed;
mod einsum;
mod files;
mod models;
mod operators;
mod resize;

use std::path::Path;

use tract_onnx::prelude::*;

use super::samples::{picture, samples};
use super::write::{ModelWriter, saved};
use crate::backend::cpu::CpuBackend;
use crate::backend::cpu::classifier::CpuClassifier;
use crate::backend::host::HostImages;
use crate::backend::reference::ReferenceClassifier;
use crate::backend::{At, ClassifierEngine, ImageOps};
use crate::classifier::graph::{Graph, LoadOptions};

/// What tract makes of a model's first output.
fn oracle(path: &Path, graph: &Graph, pixels: &[f64]) -> Vec<f64> {
    let dims = graph.value(graph.input).dims.clone();
    let narrow: Vec<f32> = pixels.iter().map(|&x| x as f32).collect();
    let input = Tensor::from_shape(&dims, &narrow).unwrap();
    let model = tract_onnx::onnx()
        .model_for_path(path)
        .and_then(|model| model.with_input_fact(0, f32::fact(&dims).into()))
        .and_then(|model| model.into_typed()?.into_runnable())
        .unwrap();
    let outputs = model.run(tvec!(input.into())).unwrap();
    let view = outputs[0].to_plain_array_view::<f32>().unwrap();
    view.iter().map(|&x| x.into()).collect()
}

/// Logits of a graph on the test picture.
pub(crate) fn logits(graph: &Graph) -> Vec<f64> {
    let pixels = picture(graph.input_shape().elements());
    ReferenceClassifier::new(graph).logits_f64(&pixels).unwrap()
}

/// Asserts that two rows of logits differ by less than `tolerance`, relative to the largest.
pub(crate) fn assert_close(logits: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(logits.len(), expected.len(), "{what}");
    let finite = expected.iter().filter(|x| x.is_finite());
    let largest = finite.fold(1e-3f64, |m, x| m.max(x.abs()));
    for (a, b) in logits.iter().zip(expected) {
        assert!(
            a == b || (a - b).abs() < tolerance * largest,
            "{what}: {logits:?} against {expected:?}"
        );
    }
}

/// Asserts that imported and optimized graph both give what tract does.
fn check(model: &ModelWriter, what: &str) {
    let (_folder, path) = saved(&model.bytes());
    let options = LoadOptions::default();
    let imported = super::import(&path, &options).unwrap_or_else(|error| panic!("{what}: {error}"));
    let loaded = Graph::load(&path, &options).unwrap();
    let pixels = picture(loaded.input_shape().elements());
    let mut expected = oracle(&path, &loaded, &pixels);
    if loaded.source.binary {
        expected.insert(0, 0.0);
    }
    assert_close(&logits(&imported), &expected, 1e-5, what);
    assert_close(&logits(&loaded), &expected, 1e-5, what);
}

/// Asserts that the cpu backend's logits and gradient are the reference's.
fn check_on_the_cpu(model: &ModelWriter, what: &str) {
    let graph = model
        .load()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let pixels = picture(graph.input_shape().elements());
    let narrow: Vec<f32> = pixels.iter().map(|&x| x as f32).collect();
    let by_logit = |i: usize| ((i * 31 + 7) % 17) as f32 / 8.0 - 1.0;
    let (expected, expected_gradient) = ReferenceClassifier::new(&graph)
        .gradient_f64(&pixels, |_, by| {
            (by.iter_mut().enumerate()).for_each(|(i, by)| *by = by_logit(i).into());
        })
        .unwrap();
    let mut images = HostImages::zeroed(graph.input_shape(), 1).unwrap();
    CpuBackend::FLOAT32.upload(&narrow, &mut images, 0).unwrap();
    let mut gradient = HostImages::zeroed(graph.input_shape(), 1).unwrap();
    let mut loss = |_: usize, _: &[f32], by: &mut [f32]| {
        (by.iter_mut().enumerate()).for_each(|(i, by)| *by = by_logit(i));
    };
    let logits = CpuClassifier::new(&graph, 1)
        .unwrap()
        .gradient(&[At::new(&images, 0)], &mut loss, &mut gradient, 0)
        .unwrap();
    let wide = |data: &[f32]| -> Vec<f64> { data.iter().map(|&x| x.into()).collect() };
    assert_close(&wide(&logits), &expected, 1e-4, what);
    assert_close(&wide(gradient.image(0)), &expected_gradient, 1e-4, what);
}

#[test]
fn samples_run_on_the_cpu() {
    for (name, model) in samples() {
        check_on_the_cpu(&model, name);
    }
}

#[test]
fn samples_match_tract() {
    for (name, model) in samples() {
        // tract knows neither Gelu's approximation nor the opset that has it.
        if !name.starts_with("functions") {
            check(&model, name);
        }
    }
}
