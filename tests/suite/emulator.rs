//! The cuda backend through the command line, on the emulator: it decides as the cpu backend does.
#![cfg(feature = "emulator")]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// A smooth 64×64 picture whose strongest channel is `label`, with a checkerboard of `noise` levels on
/// it.
fn picture(label: usize, noise: i32) -> image::RgbImage {
    image::RgbImage::from_fn(64, 64, |x, y| {
        let wave = 20.0 * (0.2 * f64::from(x) + 0.15 * f64::from(y) + label as f64).sin();
        let sign = if (x + y).is_multiple_of(2) { 1 } else { -1 };
        image::Rgb(std::array::from_fn(|channel| {
            let base = if channel == label { 170.0 } else { 90.0 };
            ((base + wave) as i32 + noise * sign) as u8
        }))
    })
}

/// The results of a run on a device, in the order of the pictures' names.
fn purify(folder: &Path, device: &str) -> Vec<Value> {
    let out = folder.join(device);
    let output = Command::cargo_bin("backstitch")
        .unwrap()
        .arg("purify")
        .arg(folder.join("photos"))
        .arg("--classifier")
        .arg(fixture("toy_free_size.onnx"))
        .args(["--size", "64x64", "--restarts", "2", "--iterations", "120"])
        .args(["--probe-interval", "20", "--device", device])
        // This classifier sees colors and texture, alike in every view: the support alone decides.
        .args(["--clean-below", "0.1", "--adversarial-from", "0.13", "-o"])
        .arg(&out)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{device}: {stderr}");
    let lines = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
    let mut results: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    results.sort_by_key(|result| result["image"].to_string());
    results
}

#[test]
fn verdicts_crossings_and_labels_are_those_of_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    std::fs::create_dir_all(&photos).unwrap();
    picture(0, 0).save(photos.join("clean.png")).unwrap();
    picture(1, 24).save(photos.join("noisy.png")).unwrap();
    let [cpu, emulator] = ["cpu", "emulator"].map(|device| purify(folder.path(), device));
    assert_eq!(cpu.len(), 2);
    assert_eq!(emulator.len(), 2);
    for (cpu, emulator) in cpu.iter().zip(&emulator) {
        for key in [
            "image",
            "verdict",
            "input_label",
            "recovered_label",
            "output_label",
            "iterations",
            "fallback",
        ] {
            assert_eq!(cpu[key], emulator[key], "{key} of {cpu} and {emulator}");
        }
        let crossings = |result: &Value| -> Vec<Value> {
            let restarts = result["restarts"].as_array().unwrap();
            restarts.iter().map(|r| r["crossing"].clone()).collect()
        };
        assert_eq!(crossings(cpu), crossings(emulator));
        let [a, b] = [cpu, emulator].map(|result| result["score"].as_f64().unwrap());
        assert!((a - b).abs() < 0.01, "scores {a} and {b}");
    }
    // Otherwise little would be compared.
    assert_eq!(cpu[0]["verdict"], "clean");
    assert_eq!(cpu[1]["verdict"], "adversarial");
}

#[test]
fn a_profile_names_kernels_and_phases() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    std::fs::create_dir_all(&photos).unwrap();
    picture(2, 0).save(photos.join("clean.png")).unwrap();
    let trace = folder.path().join("trace.json");
    let output = Command::cargo_bin("backstitch")
        .unwrap()
        .arg("purify")
        .arg(&photos)
        .arg("--classifier")
        .arg(fixture("toy_free_size.onnx"))
        .args(["--size", "64x64", "--restarts", "2", "--iterations", "4"])
        .args(["--probe-interval", "1", "--device", "emulator", "-o"])
        .arg(folder.path().join("out"))
        .arg("--profile")
        .arg(&trace)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let events: Vec<Value> = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
    for name in [
        "resident_step",
        "classifier_matmul_small",
        "image_untile",
        "probe",
        "DIP step",
    ] {
        assert!(events.iter().any(|event| event["name"] == name), "{name}");
        assert!(stderr.contains(name), "{name} in {stderr}");
    }
}
