//! Devices that fail in the middle of a run, through the program: a fail point stands in for the fault.
#![cfg(feature = "faults")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image::ImageFormat;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, fixture, results, run_json};

/// Longer than a run takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const PICTURES: u32 = 4;

fn picture(folder: &Path, i: u32) -> PathBuf {
    let picture = common::encode(&common::waves(i), ImageFormat::Png);
    common::write(folder, &format!("pictures/{i}.png"), picture)
}

/// A folder of pictures.
fn pictures(folder: &Path) -> PathBuf {
    (0..PICTURES).for_each(|i| drop(picture(folder, i)));
    folder.join("pictures")
}

/// Purifies; `faults` says which of the rounds that devices make fail.
fn purify(input: &Path, out: &Path, faults: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstitch"));
    command.arg("purify").arg(input).arg("-o").arg(out);
    command.arg("--classifier").arg(fixture("toy.onnx"));
    command.args(["--preset", "cifar", "--iterations", "60"]);
    command.args(["--probe-interval", "10", "--restarts", "2"]);
    command.args(["--save", "npy"]).args(more);
    command.env("FAILPOINTS", format!("device={faults}"));
    command
}

/// Runs a command that must end with `code`; gives stderr.
fn ends(code: i32, command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// All results without their times, with the pictures.
fn found(out: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    let result = |(image, mut record): (String, Value)| {
        record.as_object_mut().unwrap().remove("seconds");
        let pixels = std::fs::read(out.join(record["output"].as_str().unwrap())).unwrap();
        (image, (record.to_string(), pixels))
    };
    results(out).into_iter().map(result).collect()
}

#[test]
fn the_others_do_what_a_failed_device_had_begun() {
    let folder = TempDir::new().unwrap();
    let pictures = pictures(folder.path());
    let sound = folder.path().join("sound");
    ends(0, &mut purify(&pictures, &sound, "off", &[]));
    let want = found(&sound);
    assert_eq!(want.len(), PICTURES as usize);
    for rounds in [0, 3, 7] {
        let out = folder.path().join(rounds.to_string());
        let faults = format!("{rounds}*off->1*return");
        let said = ends(
            0,
            &mut purify(&pictures, &out, &faults, &["--device", "cpu,cpu"]),
        );
        assert!(said.contains("the other devices go on"), "{said}");
        assert!(found(&out) == want, "{rounds}");
    }
}

#[test]
fn a_run_whose_devices_all_failed_is_resumed() {
    let folder = TempDir::new().unwrap();
    let pictures = pictures(folder.path());
    let sound = folder.path().join("sound");
    ends(0, &mut purify(&pictures, &sound, "off", &[]));
    let out = folder.path().join("out");
    // One picture at a time, six rounds each: the device fails in the middle of the second.
    let faults = "9*off->return";
    let said = ends(
        1,
        &mut purify(&pictures, &out, faults, &["--capacity", "2"]),
    );
    let last = said.lines().last().unwrap();
    assert!(last.contains("it fails for a test"), "{said}");
    assert_eq!(run_json(&out)["state"], "interrupted");
    assert_eq!(results(&out).len(), 1);
    ends(0, &mut purify(&pictures, &out, "off", &["--resume"]));
    assert_eq!(run_json(&out)["images"]["resumed"], 1);
    assert!(found(&out) == found(&sound));
}

#[test]
fn a_stream_s_run_ends_with_its_device_and_not_with_the_next_line() {
    let folder = TempDir::new().unwrap();
    let picture = picture(folder.path(), 0);
    let out = folder.path().join("out");
    let mut command = purify(Path::new("-"), &out, "return", &[]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Kept open: no other line comes.
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{{\"file\": {:?}}}", picture.to_str().unwrap()).unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    // It may have ended by itself.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.contains("it fails for a test"), "{said}");
    drop(stdin);
}
