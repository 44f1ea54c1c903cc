//! Sidecars as hubs have them, with a classifier whose logits are the pixels that it is given. The values are those
//! of transformers' processors.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use tempfile::TempDir;

use crate::common::{fixture, read_npy_f32, write};

/// What the classifier is given of each picture, `[3, 8, 8]`, and what the program says on stderr.
fn given(model: &Path, pictures: &Path) -> (Vec<Vec<f32>>, String) {
    let folder = TempDir::new().unwrap();
    let logits = folder.path().join("logits.npy");
    let Output { status, stderr, .. } = Command::cargo_bin("backstitch")
        .unwrap()
        .arg("classify")
        .arg(pictures)
        .arg("--classifier")
        .arg(model)
        .arg("--logits")
        .arg(&logits)
        .output()
        .unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{stderr}");
    let (shape, values) = read_npy_f32(&std::fs::read(logits).unwrap());
    assert_eq!(shape[1], 3 * 8 * 8);
    (
        values.chunks(shape[1]).map(<[f32]>::to_vec).collect(),
        stderr,
    )
}

fn cases() -> PathBuf {
    fixture("cases/sidecars")
}

/// Asserts what a picture of one color becomes.
fn assert_color(model: &Path, wanted: [f32; 3]) -> String {
    let (pictures, stderr) = given(model, &cases().join("one/c.png"));
    for (channel, wanted) in wanted.into_iter().enumerate() {
        for value in &pictures[0][channel * 64..][..64] {
            assert!(
                (value - wanted).abs() < 1e-4,
                "{value}, not {wanted}: {model:?}"
            );
        }
    }
    stderr
}

/// A model with a sidecar of its own.
fn with_sidecar(folder: &TempDir, json: &str) -> PathBuf {
    let model = std::fs::read(cases().join("vit_dict/model.onnx")).unwrap();
    write(folder.path(), "preprocessor_config.json", json);
    write(folder.path(), "model.onnx", model)
}

#[test]
fn processors_give_the_classifier_what_transformers_gives_it() {
    for (name, wanted) in [
        ("vit_dict", [1.0, 0.003_921_6, -1.0]),
        ("vit_fast", [1.0, 0.003_921_6, -1.0]),
        ("effnet", [2.2489, 0.2052, -1.8044]),
        ("mobilevit", [0.0, 0.501_96, 1.0]),
    ] {
        let said = assert_color(&cases().join(name).join("model.onnx"), wanted);
        assert!(!said.contains("not applied"), "{said}");
    }
}

#[test]
fn channels_are_turned_round_behind_the_normalization() {
    let folder = TempDir::new().unwrap();
    let model = with_sidecar(
        &folder,
        r#"{"do_flip_channel_order": true, "do_resize": true, "image_mean": [0.5, 0, 0], "image_std": [0.5, 1, 2],
            "size": {"height": 8, "width": 8, "shortest_edge": null}, "include_top": true}"#,
    );
    assert_color(&model, [0.0, 0.501_96, 2.0]);
}

#[test]
fn fields_that_may_change_pixels_are_named_once() {
    let folder = TempDir::new().unwrap();
    let model = with_sidecar(
        &folder,
        r#"{"do_resize": true, "size": 8, "do_pad": true, "do_sharpen": false, "size_divisor": 32, "pad_size": null,
            "processor_class": "X"}"#,
    );
    let said = assert_color(&model, [1.0, 0.501_96, 0.0]);
    assert_eq!(
        said.matches("its do_pad, size_divisor may change pixels")
            .count(),
        1,
        "{said}"
    );
}

#[test]
fn a_sidecar_above_the_folder_onnx_is_found() {
    let (pictures, _) = given(&cases().join("hub/onnx/model.onnx"), &cases().join("in"));
    let range = |values: &[f32]| {
        let (low, high) = (f32::INFINITY, f32::NEG_INFINITY);
        values
            .iter()
            .fold((low, high), |(low, high), x| (low.min(*x), high.max(*x)))
    };
    let (low, high) = range(&pictures[2]);
    assert!(
        (low + 1.0).abs() < 1e-4 && (high - 0.7725).abs() < 1e-4,
        "{low} {high}"
    );
    // A folder of another name says nothing about the one above it.
    let folder = TempDir::new().unwrap();
    let sidecar = std::fs::read(cases().join("hub/preprocessor_config.json")).unwrap();
    write(folder.path(), "preprocessor_config.json", sidecar);
    let model = std::fs::read(cases().join("hub/onnx/model.onnx")).unwrap();
    let model = write(folder.path(), "other/model.onnx", model);
    let (pictures, _) = given(&model, &cases().join("in/2.png"));
    assert_eq!(range(&pictures[0]).0, 0.0);
}
