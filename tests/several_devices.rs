//! Runs on several devices, through the program: the processor stands in for all of them.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Small, and the same for all runs.
const OPTIONS: [&str; 10] = [
    "--preset",
    "cifar",
    "--iterations",
    "60",
    "--probe-interval",
    "10",
    "--restarts",
    "2",
    "--save",
    "npy",
];

fn classifier() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/toy.onnx")
}

/// A folder of pictures, one of which cannot be read.
fn pictures(folder: &Path) -> PathBuf {
    let pictures = folder.join("pictures");
    for i in 0..5u32 {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| {
            let noise = 8 * ((x + y) % 2) as u8;
            let wave = ((x * 3 + y * 2 + 5 * i) % 32) as u8;
            image::Rgb([160 + wave + noise, 80 + wave + noise, 90 + noise])
        });
        std::fs::create_dir_all(&pictures).unwrap();
        picture.save(pictures.join(format!("{i}.png"))).unwrap();
    }
    common::write(&pictures, "torn.png", common::truncated_png());
    pictures
}

fn purify(pictures: &Path, out: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstitch"));
    command.arg("purify").arg(pictures).arg("-o").arg(out);
    command.arg("--classifier").arg(classifier());
    command.args(OPTIONS).args(more).output().unwrap()
}

/// All results without their times, with the pictures.
fn found(out: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    let lines = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
    let result = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("seconds");
        let picture = record["output"].as_str().map(|output| out.join(output));
        let picture = picture.map_or(vec![], |path| std::fs::read(path).unwrap());
        let image = record["image"].as_str().unwrap().to_owned();
        (image, (record.to_string(), picture))
    };
    lines.lines().map(result).collect()
}

fn described(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap()
}

#[test]
fn results_do_not_depend_on_the_number_of_devices() {
    let folder = TempDir::new().unwrap();
    let pictures = pictures(folder.path());
    for early in [&[][..], &["--stop-early", "--settled-probes", "2"]] {
        let run = |name: &str, more: &[&str]| {
            let out = folder.path().join(format!("{name}{}", early.len()));
            let output = purify(&pictures, &out, &[early, more].concat());
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("1 of 6 pictures failed"), "{said}");
            let run = described(&out);
            let busy = run["engine_busy"].as_f64().unwrap();
            assert!(0.0 < busy && busy <= 1.0, "{busy}");
            assert!(run["seconds_by_phase"]["dip"].as_f64().unwrap() > 0.0);
            (found(&out), run)
        };
        let (want, one) = run("one", &["--device", "cpu"]);
        assert_eq!(want.len(), 6);
        assert_eq!(one["plan"].as_array().unwrap().len(), 1);
        for (name, devices, capacity) in [("two", "cpu,cpu", "2"), ("four", "cpu,cpu,cpu,cpu", "3")]
        {
            let (got, several) = run(name, &["--device", devices, "--capacity", capacity]);
            assert!(got == want, "{name}");
            assert_eq!(
                several["plan"].as_array().unwrap().len(),
                devices.split(',').count()
            );
        }
    }
}

#[test]
fn commands_for_one_device_refuse_several() {
    let folder = TempDir::new().unwrap();
    let pictures = pictures(folder.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstitch"));
    command.arg("classify").arg(pictures);
    command.arg("--classifier").arg(classifier());
    let output = command.args(["--device", "cpu,cpu"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("classify runs on one device, not on 2"),
        "{said}"
    );
}
