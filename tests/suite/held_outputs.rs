//! What is written keeps its word: read back from its file, it has the recovered label with the wanted margin.

use std::path::Path;

use assert_cmd::Command;
use image::RgbImage;
use tempfile::TempDir;

use crate::common::{fixture, read_npy_f32, results};

fn backstitch(arguments: &[&str], paths: &[(&str, &Path)]) {
    let mut command = Command::cargo_bin("backstitch").unwrap();
    command.args(arguments);
    for (option, path) in paths {
        command
            .args((!option.is_empty()).then_some(option))
            .arg(path);
    }
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
}

/// A smooth 64×64 picture whose strongest channel is `label`, with a checkerboard of `noise` levels on it.
fn picture(label: usize, noise: i32) -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| {
        let wave = 30.0 * (0.2 * f64::from(x) + 0.1 * f64::from(y) * label as f64).sin();
        let sign = if (x + y).is_multiple_of(2) { 1 } else { -1 };
        image::Rgb(std::array::from_fn(|channel| {
            let base = if channel == label { 140.0 } else { 110.0 };
            ((base + wave) as i32 + noise * sign) as u8
        }))
    })
}

/// The margin of a class in the logits of a file, as it was written.
fn margin_in_file(folder: &Path, file: &Path, class: usize) -> f64 {
    let logits = folder.join("logits.npy");
    let paths = [
        ("", file),
        ("--classifier", &fixture("toy_free_size.onnx")),
        ("--logits", &logits),
    ];
    backstitch(&["classify", "--size", "64x64"], &paths);
    let (_, logits) = read_npy_f32(&std::fs::read(logits).unwrap());
    let others = logits
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != class);
    let rival = others.fold(f32::NEG_INFINITY, |most, (_, x)| most.max(*x));
    f64::from(logits[class]) - f64::from(rival)
}

#[test]
fn adversarial_pictures_have_the_recovered_label_with_its_margin_or_say_that_they_have_not() {
    let folder = TempDir::new().unwrap();
    let photos = folder.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    for (i, (label, noise)) in [(0, 0), (0, 7), (1, 5), (2, 9), (1, 30)]
        .into_iter()
        .enumerate()
    {
        let file = photos.join(format!("{i}.png"));
        picture(label, noise).save(file).unwrap();
    }
    let mut nudged = 0;
    for (preset, iterations) in [
        ("tiles", "60"),
        ("cifar", "60"),
        ("skip", "10"),
        ("wide", "3"),
    ] {
        for (save, margin) in [("png", "1"), ("npy", "1"), ("png", "2.5")] {
            let out = folder.path().join(format!("{preset}-{save}-{margin}"));
            // Thresholds at which nearly every picture counts as adversarial.
            let arguments = [
                ["purify", "--no-report"],
                ["--size", "64x64"],
                ["--preset", preset],
                ["--iterations", iterations],
                ["--probe-interval", "1"],
                ["--restarts", "2"],
                ["--save", save],
                ["--margin", margin],
                ["--clean-below", "1e-9"],
                ["--adversarial-from", "1e-8"],
            ];
            let paths = [
                ("", &*photos),
                ("--classifier", &fixture("toy_free_size.onnx")),
                ("-o", &out),
            ];
            backstitch(arguments.as_flattened(), &paths);
            let mut adversarial = 0;
            for (name, record) in results(&out) {
                if record["verdict"] != "adversarial" {
                    continue;
                }
                adversarial += 1;
                nudged += usize::from(record["nudge_steps"].is_u64());
                let label = record["recovered_label"].as_u64().unwrap() as usize;
                let file = out.join(record["output"].as_str().unwrap());
                let read = margin_in_file(folder.path(), &file, label);
                let said = record["fallback"].as_str().unwrap_or_default();
                let wanted: f64 = margin.parse().unwrap();
                match said {
                    "short" | "reconstruction" => assert!(read < wanted, "{name}: {record}"),
                    _ => assert!(read >= wanted, "{preset} {save}, {name}: {read}: {record}"),
                }
            }
            assert!(adversarial >= 3, "{preset} {save}: {adversarial}");
        }
    }
    assert!(nudged > 0);
}
