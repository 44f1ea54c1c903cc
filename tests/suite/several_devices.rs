//! Runs on several devices, through the program: the processor stands in for all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::ImageFormat;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, fixture, results, run_json};

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

/// A folder of five pictures and one that cannot be read.
fn pictures(folder: &Path) -> PathBuf {
    let pictures = folder.join("pictures");
    for i in 0..5u32 {
        let picture = common::encode(&common::waves(i), ImageFormat::Png);
        common::write(&pictures, &format!("{i}.png"), picture);
    }
    common::write(&pictures, "torn.png", common::truncated_png());
    pictures
}

fn command(pictures: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstitch"));
    command.arg("purify").arg(pictures).arg("-o").arg(out);
    command.arg("--classifier").arg(fixture("toy.onnx"));
    command.args(OPTIONS).args(more);
    command
}

fn purify(pictures: &Path, out: &Path, more: &[&str]) -> Output {
    command(pictures, out, more).output().unwrap()
}

/// Purifies [`pictures`], all but one of which must come out; gives stderr.
fn purify_all(pictures: &Path, out: &Path, more: &[&str]) -> String {
    let output = purify(pictures, out, more);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("1 of 6 pictures failed"), "{said}");
    said
}

/// All results without their times, with the pictures.
fn found(out: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    let result = |(image, mut record): (String, Value)| {
        record.as_object_mut().unwrap().remove("seconds");
        let picture = record["output"].as_str().map(|output| out.join(output));
        let picture = picture.map_or(vec![], |path| std::fs::read(path).unwrap());
        (image, (record.to_string(), picture))
    };
    results(out).into_iter().map(result).collect()
}

#[test]
fn results_do_not_depend_on_the_number_of_devices() {
    let folder = TempDir::new().unwrap();
    let pictures = pictures(folder.path());
    for early in [&[][..], &["--stop-early", "--settled-probes", "2"]] {
        let run = |name: &str, more: &[&str]| {
            let out = folder.path().join(format!("{name}{}", early.len()));
            purify_all(&pictures, &out, &[early, more].concat());
            let run = run_json(&out);
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
    command.arg("--classifier").arg(fixture("toy.onnx"));
    let output = command.args(["--device", "cpu,cpu"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("classify runs on one device, not on 2"),
        "{said}"
    );
}

/// The one line of a run that is refused.
fn refusal(pictures: &Path, out: &Path, more: &[&str]) -> String {
    let output = purify(pictures, out, more);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

/// Instances of each device, from `run.json`.
fn capacities(out: &Path) -> Vec<u64> {
    let run = run_json(out);
    let plans = run["plan"].as_array().unwrap().iter();
    plans
        .map(|plan| plan["capacity"].as_u64().unwrap())
        .collect()
}

#[test]
fn capacity_follows_the_memory_and_results_do_not() {
    let folder = TempDir::new().unwrap();
    let pictures = pictures(folder.path());
    let out = folder.path().join("too small");
    let said = refusal(&pictures, &out, &["--device", "cpu", "--memory", "1M"]);
    assert!(said.contains("and a device may take 1 MB"), "{said}");
    let (_, needed) = said.split_once("one picture needs ").unwrap();
    let (needed, _) = needed.split_once(" MB (").unwrap();
    let needed: u64 = needed.parse().unwrap();
    let run = |name: &str, device: &str, memory: Option<u64>| {
        let out = folder.path().join(name);
        let memory = memory.map(|megabytes| format!("--memory={megabytes}M"));
        let memory: Vec<&str> = memory.iter().map(String::as_str).collect();
        purify_all(
            &pictures,
            &out,
            &[&["--device", device], &memory[..]].concat(),
        );
        (found(&out), capacities(&out))
    };
    let (want, free) = run("free", "cpu", None);
    // What is said to be needed is enough, and more is used.
    let (least, one) = run("least", "cpu", Some(needed));
    let (more, some) = run("more", "cpu", Some(4 * needed));
    assert!(
        one[0] < some[0] && some[0] < free[0],
        "{one:?} {some:?} {free:?}"
    );
    // Two devices share it: each has what one alone has of half.
    let (shared, two) = run("two", "cpu,cpu", Some(8 * needed));
    assert_eq!(two, [some[0]; 2]);
    assert!(least == want && more == want && shared == want);
    let half = needed - needed / 4;
    let memory = format!("--memory={}M", 2 * half);
    let said = refusal(&pictures, &out, &["--device", "cpu,cpu", &memory]);
    let allows = format!("and a device may take {half} MB");
    assert!(said.contains(&allows), "{said}");
}
