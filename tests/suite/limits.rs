//! Absurd numbers on the command line: each is one clear line, at once, and never a crash.

use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Runs `purify` on a picture of 32×32 with more arguments; gives the exit code and stderr.
fn purify(more: &[&str]) -> (Option<i32>, String) {
    let folder = TempDir::new().unwrap();
    let picture = folder.path().join("x.png");
    image::RgbImage::from_fn(32, 32, |x, y| {
        image::Rgb([(8 * x) as u8, (8 * y) as u8, 90])
    })
    .save(&picture)
    .unwrap();
    let output = Command::cargo_bin("backstitch")
        .unwrap()
        .args(["purify", "--preset", "cifar", "--classifier"])
        .arg(fixture("toy.onnx"))
        .arg(&picture)
        .arg("-o")
        .arg(folder.path().join("out"))
        .args(more)
        .timeout(Duration::from_secs(120))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), stderr)
}

/// The one line that a refusal says.
fn refusal(more: &[&str]) -> String {
    let (code, said) = purify(more);
    assert_eq!(code, Some(1), "{more:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{more:?}: {said}");
    said
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    let most = usize::MAX.to_string();
    for (more, wanted) in [
        (["--restarts", &most], "--restarts must be 1 to 65536"),
        (["--restarts", "100000"], "--restarts must be 1 to 65536"),
        (["--tile", &most], "at most 65536 pixels a side"),
        (["--tile", "4294967296"], "at most 65536 pixels a side"),
        (["--channels", &most], "1 to 4096 channels"),
        (["--input-depth", &most], "1 to 4096 channels"),
        (["--skip", &most], "at most 4096 channels"),
        (["--segment-points", "1000000"], "--segment-points"),
        (["--segment-points", &most], "--segment-points"),
        (["--fan", "1000000"], "--fan"),
        (["--fan", &most], "--fan"),
        (
            ["--probe-interval", "4294967295"],
            "--probe-interval must be",
        ),
        (["--capacity", "0"], "--capacity"),
    ] {
        let said = refusal(&more);
        assert!(said.contains(wanted), "{more:?}: {said}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn more_memory_than_there_is_is_refused_with_what_to_lower() {
    for (more, wanted) in [
        (
            &["--iterations", "4294967295"][..],
            "lower --restarts, --iterations",
        ),
        (
            &["--restarts", "65536", "--iterations", "600000"],
            "lower --restarts, --iterations",
        ),
        (
            &["--channels", "4096,4096,4096,4096,4096", "--tile", "4096"],
            "lower --capacity, --tile, --channels",
        ),
        (
            &["--input-depth", "4096", "--tile", "32768"],
            "lower --capacity, --tile, --channels",
        ),
        (
            &[
                "--segment-points",
                "65536",
                "--segments",
                "65536",
                "--iterations",
                "60000",
                "--probe-interval",
                "1",
                "--restarts",
                "4000",
            ],
            "lower --segment-points",
        ),
    ] {
        let said = refusal(more);
        assert!(said.contains(wanted), "{more:?}: {said}");
        assert!(said.contains("one picture needs"), "{more:?}: {said}");
    }
}

#[test]
fn large_numbers_that_cost_nothing_are_taken() {
    let most = usize::MAX.to_string();
    for more in [
        ["--capacity", &most],
        ["--segments", &most],
        ["--cell", &most],
        ["--seed", &most],
    ] {
        let quick = [
            "--iterations",
            "20",
            "--restarts",
            "2",
            "--stitch",
            "mosaic",
        ];
        let (code, said) = purify(&[&quick, &more[..]].concat());
        assert_eq!(code, Some(0), "{more:?}: {said}");
    }
}

#[test]
fn logits_that_are_not_numbers_fail_the_picture() {
    let (code, said) = purify(&["--std", "1e-38,1e-38,1e-38", "--iterations", "20"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("x.png: the classifier's logits"), "{said}");
    assert!(said.contains("1 of 1 pictures failed"), "{said}");
}

#[test]
fn a_file_is_not_put_in_the_place_of_something_else() {
    let folder = TempDir::new().unwrap();
    let picture = folder.path().join("x.png");
    image::RgbImage::new(32, 32).save(&picture).unwrap();
    let mut classify = Command::cargo_bin("backstitch").unwrap();
    classify.args(["classify", "--classifier"]);
    classify.arg(fixture("toy.onnx"));
    classify.arg(&picture).arg("--logits").arg(folder.path());
    let output = classify.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is not a regular file"), "{said}");
    assert_eq!(output.stdout, b"", "it is said before anything is computed");
}
